"""The keys of scalars, and the short names by which a user may call them.

A key is the name of an output, and the way to the scalar as in a JSON Pointer (RFC 6901): `result.json/fit/error`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache


def path_of(key: str) -> tuple[str, list[str]]:
    """Split a key into the name of the output and the names on the way to the scalar."""
    name, _, path = key.partition("/")
    return name, [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")] if path else []


@lru_cache(maxsize=10_000)
def is_called(key: str, name: str) -> bool:
    """Return whether a short name fits a key: the last names on the way, with the output before them or not."""
    output, path = path_of(key)
    whole = ".".join([output, *path])
    return name in (key, whole.replace(".json.", ".", 1)) or f".{whole}".endswith(f".{name}")


def scalar_called(scalars: Mapping[str, object], name: str) -> object | None:
    """Return the value of the scalar with this key, or of the only one whose short name it is; None without one."""
    keys = [name] if name in scalars else [key for key in scalars if is_called(key, name)]
    return scalars[keys[0]] if len(keys) == 1 else None
