"""A container's listing: its pages as XML, how much a page asks for, and the order of its keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote, urlencode
from xml.etree.ElementTree import ParseError, XMLPullParser

from mopsjobs.store.azure.inline_values import NAME

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


FIRST_PAGE_KEYS = 1000
"""Keys that a listing asks for first: soon there, even from a slow server, and enough for most registries."""


PAGE_KEYS = 2000
"""Keys of the following pages, while the reader waits for them."""


MAX_PAGE_KEYS = 5000
"""The most that Azure gives at once: where pages wait for the reader, since few large ones are less work for both."""


MAX_PAGE_BYTES = 8 * 2**20
"""What a page may be long, as far as the one before it can tell: other programs' metadata may take 8 KiB a key."""


PAGE_SECONDS = 1.0
"""What a page may take, as far as the one before it can tell. An account counts as unreachable after three seconds
without a byte, and a server that is busy, or far behind, needs as many for 2,000 keys with their metadata."""


_PIECE = 2**16
"""Bytes that are parsed at once. What is parsed takes five times the memory of its text until it was looked at."""


class ListingError(Exception):
    """A reply that is no listing."""


class Blob(NamedTuple):
    """What a listing tells of a blob."""

    key: str
    etag: str
    size: int
    md5: str | None
    """Of its content, in base64."""
    packed: str | None
    """The value that its metadata repeat, packed."""
    is_folder: bool
    """A folder of an account with a hierarchical namespace, which looks like an empty blob. See `_is_folder`."""


class Page(NamedTuple):
    """What one request of a listing brought."""

    blobs: list[Blob]
    following: str
    """Fetches the next page; empty after the last."""
    bytes: int = 0
    """How long the reply was."""


def query(prefix: str, marker: str, size: int, *, metadata: bool) -> str:
    """The query of a request for a page.

    Args:
        prefix: of the keys.
        marker: `following` of the page before; empty for the first.
        size: how many keys, at the most.
        metadata: whether to ask for these too.
    """
    wanted = {"restype": "container", "comp": "list", "prefix": prefix, "marker": marker, "maxresults": str(size)}
    if metadata:
        wanted["include"] = "metadata"
    # Quoted in the way that the signature of a request is reckoned from.
    return urlencode({name: value for name, value in wanted.items() if value}, quote_via=quote, safe="")


def parse(body: bytes) -> Page:
    """A page from its XML.

    Raises:
        ListingError: it is none.
    """
    parser: XMLPullParser[Any] = XMLPullParser(("end",))
    blobs: list[Blob] = []
    root: Element | None = None
    try:
        for start in range(0, len(body), _PIECE):
            parser.feed(body[start : start + _PIECE])
            element: Element
            for _, element in parser.read_events():  # type: ignore[misc,assignment] # an event of another kind is shorter
                if element.tag == "Blob" and len(element):  # metadata may be called so too; they have no parts
                    blobs.append(_blob(element))
                    element.clear()
                root = element  # what ends last
        parser.close()
    except ParseError as error:
        raise ListingError(str(error)) from None
    if root is None or root.tag != "EnumerationResults" or len(root.findall("Blobs/Blob")) != len(blobs):
        raise ListingError("not the parts of a listing")
    return Page(blobs, root.findtext("NextMarker") or "", len(body))


def next_size(size: int, seconds: float, *, is_awaited: bool, page_bytes: int = 0) -> int:
    """How many keys to ask for, after a page of `size` keys took so many seconds.

    Args:
        size: of the page before.
        seconds: that it took to come.
        page_bytes: that it had.
        is_awaited: whether the reader has nothing to do until the page is there.
    """
    wanted = PAGE_KEYS if is_awaited else min(2 * max(size, PAGE_KEYS), MAX_PAGE_KEYS)
    fitting = wanted if seconds <= 0 else int(size * PAGE_SECONDS / seconds)
    small_enough = wanted if page_bytes <= 0 else size * MAX_PAGE_BYTES // page_bytes
    return max(FIRST_PAGE_KEYS, min(wanted, fitting, small_enough))


def unordered_prefix(key: str) -> str | None:
    """Return what precedes the first character above U+FFFF in a key; None where there is none. See `store.ordering`.

    A server may order keys by UTF-16 units. This differs from the order of code points in one point: characters above
    U+FFFF come before U+E000 to U+FFFF in the one, after them in the other.
    """
    high = None if key.isascii() else next((c for c in key if c > "\uffff"), None)
    return None if high is None else key.partition(high)[0]


def _blob(element: Element) -> Blob:
    # Child by child: a path such as "Properties/Etag" is walked in Python, and takes ten times as long.
    name, properties, metadata = element.find("Name"), element.find("Properties"), element.find("Metadata")
    size = "" if properties is None else properties.findtext("Content-Length") or ""
    if name is None or not name.text or properties is None or not size.isdecimal():
        raise ListingError("a blob without name or length")
    return Blob(
        # Azure encodes names that XML cannot hold, and says so.
        unquote(name.text) if name.get("Encoded") == "true" else name.text,
        properties.findtext("Etag") or "",
        int(size),
        properties.findtext("Content-MD5"),
        None if metadata is None else metadata.findtext(NAME),
        metadata is not None and int(size) == 0 and _is_folder(name.text, metadata),
    )


def _is_folder(name: str, metadata: Element) -> bool:
    """Return whether an empty blob stands for a folder.

    Its metadata alone do not tell: any writer may set them, and would hide a record from each listing. A folder that
    is named like a record is listed, as `get` finds it too, and reported as an unreadable record.
    """
    return metadata.findtext("hdi_isfolder") == "true" and not name.endswith(".json")
