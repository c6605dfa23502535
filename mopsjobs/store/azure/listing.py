"""List a container: the XML of a page, the values in metadata, the size of the next page, and the order of the keys.

A listing carries no values, but it carries metadata. So each write repeats a small value there, in the same request.
The two differ only if another program rewrites the content and keeps the metadata. So a value from metadata counts only
if it has the length and the MD5 that Azure lists for the content. See docs/decisions/0003-values-in-metadata.md.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote, urlencode
from xml.etree.ElementTree import ParseError, XMLPullParser

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from xml.etree.ElementTree import Element

    from mopsjobs.store.base import Entry


NAME = "mopsvalue"
"""The metadata name under which the value goes. Lower case: some proxies change the case of headers."""

MAX_CHARACTERS = 7000
"""Azure allows 8 KiB of metadata per blob. The rest is for other programs. A job's record takes about 400."""

MAX_INLINE_BYTES = 128 * 2**10
"""Longer values are not compressed at all. JSON that fits after compression is far shorter."""


def md5(value: bytes) -> str:
    """Return the Content-MD5 of a blob, in base64. It detects damage, not an attack."""
    return base64.b64encode(hashlib.md5(value, usedforsecurity=False).digest()).decode("ascii")


def pack(value: bytes) -> dict[str, str]:
    """Return the metadata that repeat the value; empty if it does not fit."""
    if len(value) > MAX_INLINE_BYTES:
        return {}
    packed = base64.b64encode(zlib.compress(value)).decode("ascii")
    return {NAME: packed} if len(packed) <= MAX_CHARACTERS else {}


def unpack(packed: str, size: int, content_md5: str) -> bytes | None:
    """Return the value in metadata; None if it is not that of the blob with this size and MD5 (in base64)."""
    if size > MAX_INLINE_BYTES:
        return None
    try:
        # Bounded: a few kilobytes of metadata may decompress to many megabytes.
        value = zlib.decompressobj().decompress(base64.b64decode(packed, validate=True), size + 1)
    except (ValueError, zlib.error):
        return None
    return value if len(value) == size and md5(value) == content_md5 else None


FIRST_PAGE_KEYS = 1000
"""Keys of the first page: few enough for a slow server, and enough for most registries."""

PROBE_KEYS = 10
"""Keys of the first page of a sync, while the speed of the line is unknown. A line of 24 kbit/s carries them in 2 s.

A fast page of them is followed by `FIRST_PAGE_KEYS`: more would leave the reader without work until they come.
"""

MIN_PAGE_KEYS = 100
"""Keys of a page on a thin line: each request costs as much as one key."""

MAX_PAGE_KEYS = 5000
"""Azure's own limit. Fewer pages are less work for both sides."""

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


class Place(NamedTuple):
    """The place where a page of a listing begins."""

    prefix: str
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


def next_size(size: int, seconds: float, page_bytes: int = 0) -> int:
    """Return the number of keys to request next, by the keys, the time and the length of the page before."""
    preferred = min(2 * size, MAX_PAGE_KEYS) if size >= FIRST_PAGE_KEYS else FIRST_PAGE_KEYS
    fast_enough = preferred if seconds <= SHORT_SECONDS else int(size * PAGE_SECONDS / seconds)
    short_enough = preferred if page_bytes <= 0 else size * MAX_PAGE_BYTES // page_bytes
    return max(MIN_PAGE_KEYS, min(preferred, fast_enough, short_enough))


def unordered_prefix(key: str) -> str | None:
    """Return what precedes the first character above U+FFFF in a key; None where there is none.

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


def in_code_point_order(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Yield the entries in the order of code points, while they stream.

    Those that share an `unordered_prefix` may be out of order, and are held back until another key comes.
    """
    held: list[Entry] = []
    prefix = ""
    for entry in entries:
        if held and not entry.key.startswith(prefix):
            yield from sorted(held)
            held = []
        if not held:
            opened = unordered_prefix(entry.key)
            if opened is None:
                yield entry
                continue
            prefix = opened
        held.append(entry)
    yield from sorted(held)


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
