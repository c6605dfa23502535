"""The keys of scalars, and the short names by which a user may call them.

A key is the name of an output, and the way to the scalar as in a JSON Pointer (RFC 6901): `result.json/fit/error`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from mopsjobs.utils.text import did_you_mean

MAX_NAMES = 20


def path_of(key: str) -> tuple[str, list[str]]:
    """Split a key into the name of the output and the names on the way to the scalar."""
    name, _, path = key.partition("/")
    return name, [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")] if path else []


def short_name(key: str) -> str:
    """Return the names on the way to a scalar, without its output unless there are none."""
    name, path = path_of(key)
    return ".".join(path) or name


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


def the_numbers(names: Sequence[str]) -> str:
    """Return a sentence about the scalars that results have."""
    return f"The numbers are: {', '.join([*names[:MAX_NAMES], *['…'] * (len(names) > MAX_NAMES)])}."


def no_result_has(name: str, names: Sequence[str]) -> str:
    """Return the end of a sentence about a scalar that no result has: what they have, and what may be meant."""
    return f"no result has it. {the_numbers(names)}{did_you_mean(name, names)}"


def lacking_targets(targets: Iterable[str], names: Mapping[str, str]) -> list[str]:
    """Return a sentence for each scalar that `n_replicates.until` names, and that no result has.

    Args:
        targets: the scalars that it names.
        names: the keys of the scalars that are numbers, and what they are called; empty before there are results.
    """
    return [
        f"n_replicates.until names '{one}', but {no_result_has(one, [*names.values()])}"
        for one in dict.fromkeys(targets)
        if names and not any(is_called(key, one) for key in names)
    ]
