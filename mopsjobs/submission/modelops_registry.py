"""What a bundle of ModelOps says in its registry, `.modelops-bundle/registry.yaml`, checked before a launch.

Targets compare the outputs of a parameter set with observed data. mops-jobs does not evaluate them. So a study with
targets is refused, unless its caller wants the simulations alone. For every other study, ModelOps evaluates the targets
in the registry: a warning names those.

ModelOps' wire function finds a model by the registry. If it finds none, every task fails. So a warning names what it
would not find.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mopsjobs.bundles.packing import MODELOPS_REGISTRY, PackedBundle
from mopsjobs.errors import RecordError, UsageError, command_line, shorten
from mopsjobs.studies.study import Study
from mopsjobs.submission.session import Session

MAX_REGISTRY_BYTES = 2**20

MAX_NAMES = 200
"""Characters of names in a message."""


def check_targets(study: Study, session: Session, *, without_targets: bool) -> None:
    """Refuse a study with targets; with `without_targets`, warn that they are not evaluated.

    Raises:
        UsageError: if it has targets, and `without_targets` is False.
    """
    if not study.targets:
        return
    if not without_targets:
        raise UsageError(
            f"invalid study: mops-jobs does not evaluate targets: {_join(study.targets)}.",
            hint="To run the simulations alone, add --without-targets. After the job, evaluate the targets on"
            f" {command_line('results', 'JOB', '--download DIR')}.",
        )
    session.warn(f"The targets of the study are not evaluated: {_join(study.targets)}.")


def warn_about_registry(study: Study, directory: Path, packed: PackedBundle, session: Session) -> None:
    """Warn about targets, missing models and missing files of the registry in packed code, if there is one."""
    if MODELOPS_REGISTRY not in packed.names:
        return
    document = _read(directory / MODELOPS_REGISTRY, session)
    models, targets = _entries(document, "models"), _entries(document, "targets")
    entrypoints = [str(entry.get("entrypoint")) for entry in models.values()]
    if not any(entrypoint == study.model or entrypoint.startswith(f"{study.model}:") for entrypoint in entrypoints):
        known = f"; it has {_join(entrypoints)}" if entrypoints else ""
        session.warn(f"{MODELOPS_REGISTRY} has no model {shorten(study.model, 100)!r}{known}.")
    files = {path for entry in (*models.values(), *targets.values()) for path in _files(entry)}
    if missing := sorted(files - packed.names):
        session.warn(
            f"{MODELOPS_REGISTRY} names files that are not packed: {_join(missing)}."
            " If a rule of .gitignore leaves them out, add them to .modelopsignore with ! in front."
        )
    if targets and not study.targets:  # which take precedence in ModelOps
        session.warn(f"mops-jobs does not evaluate the targets in {MODELOPS_REGISTRY}: {_join(targets)}.")


def _read(path: Path, session: Session) -> object:
    from mopsjobs.utils.yaml_strict import read_yaml

    try:
        with path.open("rb") as file:
            return read_yaml(file.read(MAX_REGISTRY_BYTES))
    except (OSError, RecordError) as error:
        session.warn(f"{MODELOPS_REGISTRY} is not checked, since it cannot be read: {shorten(str(error), MAX_NAMES)}")
        return None


def _entries(document: object, name: str) -> dict[str, Mapping[str, Any]]:
    found = document.get(name) if isinstance(document, dict) else None
    return {key: entry for key, entry in found.items() if isinstance(entry, dict)} if isinstance(found, dict) else {}


def _files(entry: Mapping[str, Any]) -> Iterator[str]:
    """Yield the files that a model or a target needs."""
    for name in ("data", "code"):
        if isinstance(entry.get(name), list):
            yield from (str(path) for path in entry[name])
    if isinstance(entry.get("path"), str):
        yield entry["path"]


def _join(names: Iterable[str]) -> str:
    return shorten(", ".join(names), MAX_NAMES)
