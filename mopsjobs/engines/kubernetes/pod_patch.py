"""Patch the pods of a job as its user asks: a strategic merge patch on the pod template, as `kubectl patch` has it.

A patch can mount volumes and run containers. So it comes from a file that the user names for this launch, never from a
record or a study. What mops-jobs sets in a pod it keeps, except a few settings that clusters differ in. See
docs/decisions/0087-kubernetes-as-clusters-have-it.md.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mopsjobs.engines.base import PATCH
from mopsjobs.errors import OptionError, RecordError
from mopsjobs.utils.yaml_strict import read_yaml

MAX_PATCH_BYTES = 65536

MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "resourceClaims": "name",
    "schedulingGates": "name",
}
"""The lists of a pod template that are merged item by item, with the field that names an item. Other lists are
replaced. These are the merge keys of the API of Kubernetes."""

PARTS = {"metadata": ("labels", "annotations"), "spec": None}
"""The parts of a pod template that a patch may have, and the fields of a part; None: those of the API."""

CHANGEABLE = ("securityContext", "terminationGracePeriodSeconds", "automountServiceAccountToken")
"""What mops-jobs sets in a pod or in its container, and a patch may change."""


def read_pod_patch(path: str) -> str:
    """Read the file of a patch, YAML or JSON, and return it as JSON.

    Raises:
        OptionError: if the file cannot be read, or does not have the form of a patch.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_PATCH_BYTES + 1)
    except OSError as error:
        raise _error(f"a file that can be read, not '{path}' ({error.strerror})") from None
    if len(content) > MAX_PATCH_BYTES:
        raise _error(f"at most {MAX_PATCH_BYTES:,} bytes in '{path}'")
    try:
        patch = read_yaml(content)
    except RecordError as error:
        raise _error(f"YAML or JSON in '{path}', which is {error.reason}") from None
    if not isinstance(patch, dict) or not patch or not patch.keys() <= PARTS.keys():
        raise _error(f"metadata, spec or both of a pod in '{path}'")
    try:
        return json.dumps(patch, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError):
        raise _error(f"values of JSON in '{path}', no dates and no infinite numbers") from None


def patch_template(template: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pod template with a patch.

    Raises:
        OptionError: if the patch has a field that pods do not have, or changes what mops-jobs sets.
    """
    for part, names in PARTS.items():
        value = patch.get(part, {})
        if not isinstance(value, Mapping) or (names is not None and not value.keys() <= set(names)):
            raise _error(f"{' and '.join(names or ['fields of a pod'])} in {part}")
    patched: dict[str, Any] = _merge(template, patch, "")
    for difference in differences(_without_changeable(template), patched):
        raise OptionError(
            f"invalid {PATCH}: expected no change of {difference.path}, which mops-jobs sets.",
            PATCH,
            hint="Use the flags of submit for what they set, or leave it out of the patch.",
        )
    for path in _unknown_fields(patched):
        raise _error(f"fields of a pod, not {path}")
    return patched


def _merge(old: object, new: object, path: str) -> Any:
    """Return a value with a patch: objects and named lists are merged, null removes, all else is replaced."""
    name = path.rpartition(".")[2]
    if isinstance(new, Mapping):
        merged = dict(old) if isinstance(old, Mapping) else {}
        for key, value in new.items():
            inner = f"{path}.{key}" if path else str(key)
            if str(key).startswith("$"):
                raise _error(f"no directive such as {inner}; null removes a field")
            if value is None:
                merged.pop(key, None)
            else:
                merged[key] = _merge(merged.get(key), value, inner)
        return merged
    if isinstance(new, list) and name in MERGE_KEYS:
        return _merge_items(old if isinstance(old, list) else [], new, path, MERGE_KEYS[name])
    if isinstance(new, list):
        return [_merge(None, item, path) if isinstance(item, Mapping) else item for item in new]
    return copy.deepcopy(new)


def _merge_items(old: list[Any], new: list[Any], path: str, key: str) -> list[Any]:
    merged = list(old)
    for item in new:
        if not isinstance(item, Mapping) or key not in item:
            raise _error(f"the field {key} in each item of {path}")
        places = [place for place, other in enumerate(merged) if other[key] == item[key]]
        if places:
            merged[places[0]] = _merge(merged[places[0]], item, path)
        else:
            merged.append(_merge(None, item, path))
    return merged


def _without_changeable(template: Mapping[str, Any]) -> dict[str, Any]:
    """Return what mops-jobs sets in a template, and a patch may not change."""
    rest = copy.deepcopy(dict(template))
    for part in (rest["spec"], *rest["spec"]["containers"]):
        for name in CHANGEABLE:
            part.pop(name, None)
    return rest


def _unknown_fields(template: Mapping[str, Any]) -> Iterator[str]:
    """Yield the fields that pods do not have: the library that talks to clusters does not know them."""
    from lightkube.models.core_v1 import PodTemplateSpec

    try:
        known = PodTemplateSpec.from_dict(dict(template), lazy=False).to_dict()  # type: ignore[no-untyped-call]
    except (TypeError, ValueError, AttributeError, LookupError):  # such as a text in place of a list
        raise _error("the fields of a pod, each with a value of its type") from None
    yield from (path for path, is_missing in differences(template, known) if is_missing)


def _error(expected: str) -> OptionError:
    return OptionError(f"invalid {PATCH}: expected {expected}.", PATCH)


# --- two forms of an object ------------------------------------------------------------------------------------------

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
