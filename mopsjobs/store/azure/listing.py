"""List a container: the XML of a page, the size of the next one, and the order of the keys."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote, urlencode
from xml.etree.ElementTree import ParseError, XMLPullParser

from mopsjobs.store.azure.inline_values import NAME

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


FIRST_PAGE_KEYS = 1000
"""Keys of the first page: few enough for a slow server, and enough for most registries."""

PROBE_KEYS = 10
"""Keys of the first page of a sync, while the speed of the line is unknown. A line of 24 kbit/s carries them in 2 s.

A fast page of them is followed by `FIRST_PAGE_KEYS`: more would leave the reader without work until they come.
"""

MIN_PAGE_KEYS = 100
"""Keys of a page on a thin line: each request costs as much as one key."""

PAGE_KEYS = 2000
"""Keys of the next pages with records, while the reader waits for them: it has work from the first ones on."""

MAX_PAGE_KEYS = 5000
"""Azure's own limit. Used for names, and while pages wait for the reader: fewer pages are less work for both sides."""

MAX_PAGE_BYTES = 8 * 2**20
"""Target for the length of a page, estimated from the one before: metadata may take 8 KiB per key."""

PAGE_SECONDS = 1.0
"""Target for the time of a page, estimated from the one before. A store counts as unreachable after three seconds
without a byte, and a busy server needs as long for 2,000 keys with their metadata."""

SHORT_SECONDS = 0.25
"""A page that took less says nothing about larger ones: its time is that of any request."""

SMALLER = 4
"""A page for which no byte came in time is requested again with a fourth of its keys."""

_PIECE = 2**16
"""Bytes that are parsed at once. Parsed XML takes five times the memory of its text until it is processed."""


class ListingError(Exception):
    """A reply is not a listing."""


class Blob(NamedTuple):
    """One blob of a listing."""

    key: str
    etag: str
    size: int
    md5: str | None
    """MD5 of its content, in base64."""
    packed: str | None
    """The value in its metadata, packed."""
    is_folder: bool
    """A folder of an account with a hierarchical namespace, which looks like an empty blob. See `_is_folder`."""


class Page(NamedTuple):
    """The reply to one request of a listing."""

    blobs: list[Blob]
    following: str
    """The marker of the next page; empty after the last."""
    bytes: int = 0
    """Length of the reply."""


class Place(NamedTuple):
    """The place where a page of a listing begins."""

    prefix: str
    """The beginning of all keys."""
    marker: str = ""
    """`following` of the page before; empty for the first."""
    start: str = ""
    """The first key that the listing may have, in the server's order; empty for all."""


def query(place: Place, size: int, *, metadata: bool) -> str:
    """Return the query of a request for a page.

    Args:
        place: where it begins.
        size: largest number of keys.
        metadata: whether to list metadata as well.
    """
    fields = {"restype": "container", "comp": "list", "prefix": place.prefix, "marker": place.marker}
    fields |= {"startFrom": place.start, "maxresults": str(size)}
    if metadata:
        fields["include"] = "metadata"
    # Quoted in the way that the signature of a request expects.
    return urlencode({name: value for name, value in fields.items() if value}, quote_via=quote, safe="")


def parse(body: bytes) -> Page:
    """Parse the XML of a page.

    Raises:
        ListingError: if the body is not a listing.
    """
    parser: XMLPullParser[Any] = XMLPullParser(("end",))
    blobs: list[Blob] = []
    root: Element | None = None
    try:
        for start in range(0, len(body), _PIECE):
            parser.feed(body[start : start + _PIECE])
            element: Element
            for _, element in parser.read_events():  # type: ignore[misc,assignment] # an event of another kind is shorter
                if element.tag == "Blob" and len(element):  # metadata may have this name, too, but no parts
                    blobs.append(_blob(element))
                    element.clear()
                root = element  # the element that ends last
        parser.close()
    except ParseError as error:
        raise ListingError(str(error)) from None
    if root is None or root.tag != "EnumerationResults" or len(root.findall("Blobs/Blob")) != len(blobs):
        raise ListingError("not the parts of a listing")
    return Page(blobs, root.findtext("NextMarker") or "", len(body))


def next_size(size: int, seconds: float, *, is_awaited: bool, metadata: bool = True, page_bytes: int = 0) -> int:
    """Return the number of keys to request next.

    Args:
        size: keys of the page before.
        seconds: time that it took.
        is_awaited: whether the reader waits for the next page.
        metadata: whether it has metadata. Names alone take the reader little time, so their pages grow at once.
        page_bytes: its length.
    """
    awaited = PAGE_KEYS if size >= FIRST_PAGE_KEYS else FIRST_PAGE_KEYS
    if not metadata:
        awaited = max(awaited, min(2 * size, MAX_PAGE_KEYS))
    preferred = awaited if is_awaited else min(2 * max(size, PAGE_KEYS), MAX_PAGE_KEYS)
    fast_enough = preferred if seconds <= SHORT_SECONDS else int(size * PAGE_SECONDS / seconds)
    short_enough = preferred if page_bytes <= 0 else size * MAX_PAGE_BYTES // page_bytes
    return max(MIN_PAGE_KEYS, min(preferred, fast_enough, short_enough))


def unordered_prefix(key: str) -> str | None:
    """Return what precedes the first character above U+FFFF in a key; None where there is none. See `store.ordering`.

    A server may order keys by UTF-16 units. In that order, characters above U+FFFF come before U+E000 to
    U+FFFF. In the order of code points, they come after them.
    """
    high = None if key.isascii() else next((c for c in key if c > "\uffff"), None)
    return None if high is None else key.partition(high)[0]


def ordered_head(key: str) -> str:
    """Return the beginning of a key for which a server's order is that of code points; see `unordered_prefix`.

    All keys that follow `key` in the order of code points follow this beginning in either order, or are it.
    """
    return key if key.isascii() else "".join(itertools.takewhile(lambda character: character < "\ud800", key))


def _blob(element: Element) -> Blob:
    # Child by child: a path such as "Properties/Etag" is walked in Python, and takes ten times as long.
    name, properties, metadata = element.find("Name"), element.find("Properties"), element.find("Metadata")
    size = "" if properties is None else properties.findtext("Content-Length") or ""
    if name is None or not name.text or properties is None or not size.isdecimal():
        raise ListingError("a blob without name or length")
    return Blob(
        # Azure encodes names that XML cannot hold, and marks them.
        unquote(name.text) if name.get("Encoded") == "true" else name.text,
        properties.findtext("Etag") or "",
        int(size),
        properties.findtext("Content-MD5"),
        None if metadata is None else metadata.findtext(NAME),
        metadata is not None and int(size) == 0 and _is_folder(name.text, metadata),
    )


def _is_folder(name: str, metadata: Element) -> bool:
    """Return whether an empty blob stands for a folder.

    Its metadata alone are not enough: any writer may set them, and would hide a record from each listing. A folder with
    the name of a record is listed, as `get` finds it, too. It is reported as an unreadable record.
    """
    return metadata.findtext("hdi_isfolder") == "true" and not name.endswith(".json")
