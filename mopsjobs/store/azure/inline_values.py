"""Repeat the value of a small blob in its metadata, so that a listing carries it.

Metadata are written with the blob in one request. The two differ only if another program rewrites the content and keeps
the metadata. So a value from metadata counts only if it has the length and the MD5 that Azure lists for the content.
See docs/decisions/0003-values-in-metadata.md.
"""

from __future__ import annotations

import base64
import hashlib
import zlib

NAME = "mopsvalue"
"""The metadata name under which the value goes. Lower case: some proxies change the case of headers."""

MAX_CHARACTERS = 7000
"""Azure allows 8 KiB of metadata per blob. The rest is for other programs. A job's record takes about 400."""

MAX_VALUE_BYTES = 128 * 2**10
"""Longer values are not compressed at all. JSON that fits after compression is far shorter."""


def md5(value: bytes) -> str:
    """Return the Content-MD5 of a blob, in base64. It detects damage, not an attack."""
    return base64.b64encode(hashlib.md5(value, usedforsecurity=False).digest()).decode("ascii")


def pack(value: bytes) -> dict[str, str]:
    """Return the metadata that repeat the value; empty if it does not fit."""
    if len(value) > MAX_VALUE_BYTES:
        return {}
    packed = base64.b64encode(zlib.compress(value)).decode("ascii")
    return {NAME: packed} if len(packed) <= MAX_CHARACTERS else {}


def unpack(packed: str, size: int, content_md5: str) -> bytes | None:
    """Return the value in metadata; None if it is not that of the blob with this size and MD5 (in base64)."""
    if size > MAX_VALUE_BYTES:
        return None
    try:
        # Bounded: a few kilobytes of metadata may decompress to many megabytes.
        value = zlib.decompressobj().decompress(base64.b64decode(packed, validate=True), size + 1)
    except (ValueError, zlib.error):
        return None
    return value if len(value) == size and md5(value) == content_md5 else None
