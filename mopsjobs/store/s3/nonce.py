"""Give values that are written again different ETags, by blanks behind them.

S3's ETag is the MD5 of what is stored, and a conditional write compares nothing else. So the ETag of a value comes back
with its bytes. A writer that has seen the first of A, B and A could replace the second A.

So a random nonce goes behind the value: a line feed, and a blank or a tab for each of its bits. JSON allows them there.
Other programs that read a record see plain JSON. See docs/decisions/0083-s3.md.
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

    A JSON object gets a nonce, and a value that replaces another. Outputs, bundles and chunks are created once and
    never replaced. They are stored as they are, so that other programs can read all their formats.

    Args:
        value: the value.
        replaces: whether it replaces another.
    """
    is_object = value.startswith(b"{") and value.endswith(b"}")
    # A value that ends like a nonce gets one, too: else its end would be taken for one.
    return value + _draw() if replaces or is_object or _has_nonce(value) else value


def remove_nonce(stored: bytes) -> bytes:
    """Return the value in what is stored. A value of another program has no nonce."""
    return stored[:-LENGTH] if _has_nonce(stored) else stored


def _has_nonce(stored: bytes) -> bool:
    return bool(_NONCE.fullmatch(stored, max(0, len(stored) - LENGTH)))


def _draw() -> bytes:
    bits = f"{secrets.randbits(BITS):0{BITS}b}"
    return b"\n" + bits.translate({ord("0"): " ", ord("1"): "\t"}).encode()
