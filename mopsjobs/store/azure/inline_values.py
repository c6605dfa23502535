"""The value of a small blob, once more in its metadata, so that a listing brings it.

Metadata are written with the blob in one request, hence the two never differ, unless another program rewrites the
content and keeps the metadata. So what is read is believed only if it has the length and the MD5 that Azure tells of
the content.
"""

from __future__ import annotations

import base64
import hashlib
import zlib

NAME = "mopsvalue"
"""The metadata name under which the value goes. Lower case: some proxies change the case of headers."""


MAX_CHARACTERS = 7000
"""Azure allows 8 KiB of metadata in all; the rest is left to other programs. A job's record takes about 400."""


MAX_VALUE_BYTES = 128 * 2**10
"""Values above this are not even tried. JSON that packs into the room above is far shorter."""


def md5(value: bytes) -> bytes:
    """What Azure keeps as a blob's Content-MD5. It finds damage; nobody trusts it against malice."""
    return hashlib.md5(value, usedforsecurity=False).digest()


def pack(value: bytes) -> dict[str, str]:
    """The metadata that repeat the value; empty if it does not fit."""
    if len(value) > MAX_VALUE_BYTES:
        return {}
    packed = base64.b64encode(zlib.compress(value)).decode("ascii")
    return {NAME: packed} if len(packed) <= MAX_CHARACTERS else {}


def unpack(packed: str, size: int, content_md5: str) -> bytes | None:
    """The value that metadata repeat, or None if it is not that of the blob with this size and MD5 (in base64)."""
    if size > MAX_VALUE_BYTES:
        return None
    try:
        # Bounded: a few kilobytes of metadata can be made to unpack into many megabytes.
        value = zlib.decompressobj().decompress(base64.b64decode(packed, validate=True), size + 1)
    except (ValueError, zlib.error):
        return None
    return value if len(value) == size and base64.b64encode(md5(value)).decode("ascii") == content_md5 else None
