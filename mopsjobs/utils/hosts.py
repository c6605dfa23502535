"""Names and addresses of this machine."""

from __future__ import annotations

import re

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
"""The usual names of this machine, as in a URL. Every address in 127.0.0.0/8 is one too."""

_LOOPBACK = re.compile(r"localhost|127(?:\.[0-9]{1,3}){3}|\[::1\]|::1", re.IGNORECASE)


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a host: no network sees what is sent there in clear."""
    return _LOOPBACK.fullmatch(host) is not None
