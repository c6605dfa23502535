"""Read what the reduce function of a job has left, from a Python program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mopsjobs.api.study import as_plain

if TYPE_CHECKING:
    from mopsjobs.api.job import Job


def reduced_outputs(  # noqa: D417 - a method of Job
    self: Job, params: Mapping[str, Any] | None = None
) -> dict[str, bytes]:
    """Return the outputs of the study's reduce function, by their names.

    Those of a resumed job are of all its tasks. `result.json` is what the function returned, if that is JSON.

    Args:
        params: the parameters of a set; None for the outputs of the whole job.

    Raises:
        NoOutputsError: if the function has left none yet, or the study names no such function.
        NoManifestError: if mops-jobs did not submit the job.
        StoreError: if the registry cannot be read.
    """
    from mopsjobs.app.reduced_outputs import read_reduced

    return read_reduced(self.id, None if params is None else as_plain(params), self.registry.app)
