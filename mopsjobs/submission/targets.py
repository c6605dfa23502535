"""Targets of ModelOps: functions that compare the outputs of a parameter set with observed data.

mops-jobs does not evaluate them, so a study with targets is refused. For every other study, ModelOps evaluates the
targets in the registry of the bundle. A warning names those.
"""

from __future__ import annotations

from pathlib import Path

from mopsjobs.bundles.packing import MODELOPS_REGISTRY, PackedBundle
from mopsjobs.errors import RecordError, UsageError, shorten
from mopsjobs.studies.study import Study
from mopsjobs.submission.session import Session

MAX_REGISTRY_BYTES = 2**20

MAX_NAMES = 200
"""Characters of names in a message."""


def check_targets(study: Study) -> None:
    """Refuse a study with targets.

    Raises:
        UsageError: if it has any.
    """
    if study.targets:
        raise UsageError(
            f"invalid study: mops-jobs does not evaluate targets: {shorten(', '.join(study.targets), MAX_NAMES)}.",
            hint="Remove targets from the study. After the job, evaluate them on mops-jobs results JOB --download DIR.",
        )


def warn_about_targets(directory: Path, packed: PackedBundle, session: Session) -> None:
    """Warn about targets in the registry of packed code. A registry that cannot be read is left to the model."""
    if MODELOPS_REGISTRY not in packed.names:
        return
    from mopsjobs.utils.yaml_strict import read_yaml

    try:
        with open(directory / MODELOPS_REGISTRY, "rb") as file:
            document = read_yaml(file.read(MAX_REGISTRY_BYTES))
    except (OSError, RecordError):
        return
    targets = document.get("targets") if isinstance(document, dict) else None
    if isinstance(targets, dict) and targets:
        names = shorten(", ".join(map(str, targets)), MAX_NAMES)
        session.warn(f"mops-jobs does not evaluate the targets in {MODELOPS_REGISTRY}: {names}.")
