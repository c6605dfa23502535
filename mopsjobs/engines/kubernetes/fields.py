"""Compare two forms of an object of Kubernetes: what the second lacks or changes of the first."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

EMPTY: tuple[object, ...] = (None, "", [], {})
"""Values that an API server may leave out of its reply."""


class Difference(NamedTuple):
    """A field in which an object differs from the expected one."""

    path: str
    """Such as `spec.containers[runner].args`."""
    is_missing: bool
    """Whether the object lacks the field; else it has another value."""


def differences(expected: object, found: object, path: str = "") -> Iterator[Difference]:
    """Yield where an object lacks or changes what is expected. Further fields and items do not count."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for name, value in expected.items():
            inner = f"{path}.{name}" if path else str(name)
            if name in found:
                yield from differences(value, found[name], inner)
            elif value not in EMPTY:
                yield Difference(inner, is_missing=True)
    elif _are_objects(expected) and _are_objects(found):
        for number, item in enumerate(expected):  # type: ignore[arg-type, var-annotated]
            yield from _differences_of_item(item, found, number, path)  # type: ignore[arg-type]
    elif expected != found and not (".resources." in path and _is_same_quantity(expected, found)):
        yield Difference(path, is_missing=False)


def _differences_of_item(
    item: Mapping[str, object], found: Sequence[Mapping[str, object]], number: int, path: str
) -> Iterator[Difference]:
    """Yield how the item of a list differs from that of its name; without a name, from the one that is most alike."""
    name = item.get("name")
    if name is not None:
        same = [other for other in found if other.get("name") == name]
    else:
        same = sorted(found, key=lambda other: len(list(differences(item, other))))
    inner = f"{path}[{number if name is None else name}]"
    if same:
        yield from differences(item, same[0], inner)
    else:
        yield Difference(inner, is_missing=True)


def _is_same_quantity(expected: object, found: object) -> bool:
    """Return whether two quantities are equal: an API server writes `0.5` as `500m`, and `1024Mi` as `1Gi`."""
    from lightkube.utils.quantity import parse_quantity  # here: it takes long to import

    with contextlib.suppress(ValueError):
        return parse_quantity(str(expected)) == parse_quantity(str(found))
    return False


def _are_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, Mapping) for item in value)
