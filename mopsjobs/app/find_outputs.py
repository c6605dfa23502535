"""Find the job whose outputs a command reads. A job may have outputs alone, without a record."""

from __future__ import annotations

from typing import NamedTuple

from mopsjobs.app.app import App
from mopsjobs.app.find_job import find_state
from mopsjobs.errors import JobNotFoundError
from mopsjobs.registry.job_state import JobState
from mopsjobs.studies.outputs import results_prefix


class JobWithOutputs(NamedTuple):
    """A job whose outputs are read."""

    job_id: str
    state: JobState | None
    """Its record; None if it has outputs alone."""

    def describe_absence(self) -> str:
        """Return the sentence for a job without outputs."""
        if self.state is not None and self.state.is_terminal:
            return f"Job {self.job_id} has ended ({self.state.status}) and has no outputs."
        return f"Job {self.job_id} has no outputs yet."


def find_job_with_outputs(name: str, app: App) -> JobWithOutputs:
    """Return a job: as `find_state` finds it, else of the name itself if there are outputs of that id.

    Raises:
        JobNotFoundError: if there is neither a record nor an output of the job.
        AmbiguousJobError: if several ids begin with the name, and are not all of one family.
        StoreError: if the registry cannot be read.
    """
    try:
        state = find_state(name, app)
    except JobNotFoundError:
        if name.startswith("@") or next(iter(app.store.list_keys(results_prefix(name))), None) is None:
            raise
        return JobWithOutputs(name, None)
    return JobWithOutputs(state.job_id, state)
