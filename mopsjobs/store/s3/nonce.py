"""Give a value that replaces another an ETag of its own, by blanks behind it.

S3's ETag is the MD5 of what is stored, and a conditional write compares nothing else. So the ETag of a value comes back
with its bytes. A writer that has seen the first of A, B and A could replace the second A.

So a random nonce goes behind each value that replaces another: a line feed, and a blank or a tab for each of its bits.
JSON allows them there. Other programs that read a record see plain JSON. See docs/decisions/0083-s3.md.
"""

from __future__ import annotations

import re
import secrets

BITS = 64

LENGTH = 1 + BITS
"""Bytes of a nonce."""

_NONCE = re.compile(rb"\n[ \t]{%d}" % BITS)


def add_nonce(value: bytes, *, replaces: bool) -> bytes:
    """Return what is stored for a value.

    A value that is created is stored as it is. Outputs, bundles and chunks are never replaced, so other programs can
    read all their formats.

    Args:
        value: the value.
        replaces: whether it replaces another.
    """
    # A value that ends like a nonce gets one, too: else its end would be taken for one.
    return value + _draw() if replaces or _has_nonce(value) else value


def remove_nonce(stored: bytes) -> bytes:
    """Return the value in what is stored. A value of another program has no nonce."""
    return stored[:-LENGTH] if _has_nonce(stored) else stored


def _has_nonce(stored: bytes) -> bool:
    return bool(_NONCE.fullmatch(stored, max(0, len(stored) - LENGTH)))


def _draw() -> bytes:
    bits = f"{secrets.randbits(BITS):0{BITS}b}"
    return b"\n" + bits.translate({ord("0"): " ", ord("1"): "\t"}).encode()
