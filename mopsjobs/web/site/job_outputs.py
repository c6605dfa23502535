"""Keep the outputs of tasks that pages have shown last, with their previews. The syncer reads them (`job_reads`)."""

from __future__ import annotations

from typing import NamedTuple

from mopsjobs.app.run.app import App
from mopsjobs.app.tasks.results_table import SUCCEEDED, ResultsState, find_cached_results, results_state
from mopsjobs.app.tasks.task_outputs import TaskOutput, read_task_output
from mopsjobs.web.site.memo import LastUsed
from mopsjobs.web.site.previews import Preview, preview

MAX_OUTPUTS = 16
"""Outputs that are kept, of at most 1 MiB each. The first output of a task counts twice."""


class KeptOutput(NamedTuple):
    """An output of a task, of one moment."""

    made_at: float
    """Seconds since 1970."""
    state: ResultsState
    output: TaskOutput
    preview: Preview | None
    """None without a value."""

    def is_current(self, state: ResultsState) -> bool:
        """Return whether the output is what it was. That of a task that succeeded does not change."""
        is_final = self.output.value is not None and self.output.task.row.outcome == SUCCEEDED
        return is_final or self.state == state


class JobOutputs:
    """The outputs that are kept."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._last_used: LastUsed[KeptOutput] = LastUsed(MAX_OUTPUTS)

    def get(self, job_id: str, number: str, name: str) -> KeptOutput | None:
        """Return an output, if it is kept. Its arguments are those of `read`."""
        return self._last_used.get((job_id, number, name))

    def read(self, job_id: str, number: str, name: str) -> None:
        """Read an output, and keep it.

        Args:
            job_id: the full id of a job that the cache has.
            number: the task.
            name: the name of the output; empty for the first one.

        Raises:
            MopsJobsError: if the outputs of the task cannot be listed.
        """
        now = self._app.now().timestamp()
        lineage = find_cached_results(job_id, self._app)
        state = self._app.cache.read_cached(lambda cache: results_state(cache, job_id, now=now)) or ()
        found = read_task_output(lineage, int(number), name or None, self._app)
        shown = None if found.value is None else preview(str(found.name), found.value)
        for one in {name, found.name or name}:  # a link to the file has its name
            self._last_used.put((job_id, number, one), KeptOutput(now, state, found, shown))
