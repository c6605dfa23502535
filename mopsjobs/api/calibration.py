"""A calibration as a Python program gets it: its job, its best sets, and all evaluations as a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from mopsjobs.api.table import Table
from mopsjobs.app.following.calibrate import Calibrated, evaluation_json
from mopsjobs.registry.calibration_counts import round_word
from mopsjobs.studies.journal import counts_of
from mopsjobs.utils.text import pluralize

J = TypeVar("J")


class Calibration(Generic[J]):
    """A calibration, as its journal was when it was read. Nothing of it is read again."""

    def __init__(self, job: J, done: Calibrated, draw: Callable[[int], list[dict[str, Any]]]) -> None:
        """Take a calibration; see `Registry.calibrate`."""
        self.job = job
        """The handle on its job."""
        self._job_id, self._journal, self._draw = done.job_id, done.journal, draw
        self.rounds: int = done.journal.rounds_done
        """The rounds that were told to the sampler, those of the calibrations that it extends included."""

    @property
    def best(self) -> dict[str, Any] | None:
        """Return the evaluation with the smallest value, as `calibrate --json` has it; None without any value."""
        best = self._journal.best
        return None if best is None else evaluation_json(best)

    def top(self, count: int) -> list[dict[str, Any]]:
        """Return the parameter sets with the smallest values, this many, the best one first."""
        return [dict(one.params) for one in self._journal.top(count)]

    def draws(self, count: int) -> list[dict[str, Any]]:
        """Return parameter sets that the sampler draws from the posterior distribution, this many.

        The sampler is begun anew, and told all evaluations.

        Raises:
            UsageError: if the sampler has no method `posterior(n)`.
            MopsJobsError: if it fails, or if the registry cannot be read.
        """
        return self._draw(count)

    def front(self) -> list[dict[str, Any]]:
        """Return the evaluations that no other one beats in each of several objectives."""
        return [evaluation_json(one) for one in self._journal.front()]

    def evaluations(self) -> Table:
        """Return all evaluations, in their order: round, parameters, `value` of each objective, and how sure it is."""
        objective = self._journal.calibration.objective
        columns = [f"value.{name}" for name in objective.scalars] if len(objective.scalars) > 1 else ["value"]
        names = list(self._journal.calibration.parameters)
        rows = [
            [one.round, *(one.params[name] for name in names), *(one.told.values or [None] * len(columns)),
             one.told.half_width, one.told.n, one.told.error]
            for one in self._journal.evaluations()
        ]  # fmt: skip
        return Table.of(
            f"evaluations of {self._job_id}", ["round", *names, *columns, "half_width", "replicates", "error"], rows
        )

    def __repr__(self) -> str:
        return f"<Calibration {self._job_id}: {pluralize(self.rounds, round_word(counts_of(self._journal)))}>"
