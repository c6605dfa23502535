"""Read ETags: the versions of a store whose server answers by HTTP."""

from __future__ import annotations

import re

_ETAG = re.compile(r"[!#-)+-~]+")  # the characters of an ETag, without `*`, which would match every version


def is_etag(version: str) -> bool:
    """Return whether a version may be sent as the condition of a write: another one never matches."""
    return bool(_ETAG.fullmatch(version))


def bare_etag(etag: object) -> str:
    """Return an ETag without the quotes that replies have, and some listings not; empty if it is none."""
    value = etag.strip('"') if isinstance(etag, str) else ""
    return value if is_etag(value) else ""
