"""Read what the reduce function of a job has left, from a Python program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mopsjobs.api.study import as_plain
from mopsjobs.api.table import Table

if TYPE_CHECKING:
    from mopsjobs.api.job import Job
    from mopsjobs.app.tasks.reduced_table import ReducedTable


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
    from mopsjobs.app.tasks.reduced_outputs import read_reduced

    return read_reduced(self.id, None if params is None else as_plain(params), self.registry.app)


def table_of_reductions(self: Job) -> Table:
    """Return the table of what the reduce function left: a row per parameter set, and one of the whole job.

    The row of the whole job has no `param_id`. `job_id` is the job that made a reduction. A warning counts sets that
    are not reduced. `results --reduced --table` writes the same table.

    Raises:
        NoOutputsError: if no reduction is complete yet, or the study names no such function.
        NoManifestError: if mops-jobs did not submit the job.
        StoreError: if the registry cannot be read.
    """
    from mopsjobs.app.tasks.reduced_table import read_reduced_table

    app = self.registry.app

    def view(table: ReducedTable) -> Table:
        rows = list(table.rows())
        for problem in table.problems():
            app.out.warn(problem)
        return Table.of(f"reductions of {self.id}", [column.name for column in table.columns], rows)

    return read_reduced_table([self.id], app, view)
