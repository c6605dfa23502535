"""Names and addresses of this machine."""

from __future__ import annotations

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
"""The usual names of this machine, as in a URL. Every address in 127.0.0.0/8 is one too."""


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a host: no network sees what is sent there in clear."""
    if host.lower() in (*LOOPBACK_NAMES, "::1"):
        return True
    first, *rest = host.split(".")
    return (
        first == "127" and len(rest) == 3 and all(len(part) <= 3 and part.isascii() and part.isdigit() for part in rest)
    )
