"""Run a task of a job once more, from a Python program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mopsjobs.api.job import Job


def replay_task(self: Job, task: int, *, python: str | None = None) -> dict[str, Any]:  # noqa: D417 - a method of Job
    """Run a task of the job once more, here, and compare its outputs: the document of `replay --json`.

    `equal` is true if all outputs are the stored ones, byte for byte. It is None if there is nothing to compare.

    Args:
        task: the number of the task in the study.
        python: the model's interpreter; None for that of the launch from this machine, else the active environment's.

    Raises:
        NoManifestError: if mops-jobs did not submit the job.
        UsageError: if the job has no such task, or the interpreter does not exist.
        StoreError: if the registry cannot be read.
    """
    from mopsjobs.app.origins.replay import ReplayRequest, replay

    return replay(ReplayRequest(self.id, task, python), self.registry.app).to_json()
