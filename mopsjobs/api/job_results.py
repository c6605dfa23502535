"""The table of results of a job, for `Job.results`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from mopsjobs.api.arguments import require
from mopsjobs.api.table import Table

if TYPE_CHECKING:
    from mopsjobs.app.run.app import App
    from mopsjobs.app.tasks.results_table import ResultsTable
    from mopsjobs.utils.table_files import Column, Row

T = TypeVar("T")


def job_results(
    job_id: str,
    app: App,
    warn: Callable[[Iterable[str]], None],
    *,
    mean: bool,
    quantiles: Sequence[float],
    offline: bool,
) -> Table:
    """Return the table of results of a job and its ancestors; see `Job.results`. Warnings go to `warn`."""
    from mopsjobs.app.run.freshness import FreshnessPolicy
    from mopsjobs.app.tasks.replicates import ReplicateTable, Statistics, check_quantiles
    from mopsjobs.app.tasks.results_table import find_results, read_results_table
    from mopsjobs.cache.queries.tasks import TaskQuery

    given: Any = quantiles
    is_list = isinstance(given, Iterable) and not isinstance(given, str)
    is_valid = is_list and all(isinstance(number, (int, float)) for number in given)
    require(is_valid, "quantiles", quantiles, "numbers between 0 and 1, like [0.1, 0.9]")
    statistics = Statistics(mean, check_quantiles(tuple(quantiles))) if mean or quantiles else None
    policy = FreshnessPolicy(offline=offline)
    families = find_results([job_id], app, policy)
    warn(warning for family in families for job in family for warning in job.warnings)

    def read(view: Callable[[Sequence[Column], Iterable[Row]], T]) -> T:
        def view_results(results: ResultsTable) -> tuple[T, list[str]]:
            table = results if statistics is None else ReplicateTable(results, statistics)
            return view(table.columns, table.rows()), results.problems()

        found, problems = read_results_table(families, app, view_results, policy)
        warn(problems)
        return found

    newest = families[0][0]
    age = newest.read(TaskQuery(), lambda tasks: newest.describe_age(tasks.ledger)) if offline else "live"
    return Table(f"results of {job_id}", read, age=age)
