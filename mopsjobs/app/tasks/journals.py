"""The journal of a calibration in the cache, and what views make of it: its best sets, and what they have in common.

The record has the counts of a journal and its best set. A view that shows single evaluations has the journal read.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from mopsjobs.app.jobs.current_jobs import find_current_job
from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import FreshnessPolicy
from mopsjobs.app.tasks.explain import Explained, SetValues, explain_extremes
from mopsjobs.cache.sync_state import transaction
from mopsjobs.errors import RecordError, StoreUnavailableError, UsageError, command_line
from mopsjobs.registry.calibration_counts import params_text
from mopsjobs.studies.journal import Evaluation, Journal, counts_of, decode_journal, encode_journal, read_journal
from mopsjobs.studies.manifest import load_manifest
from mopsjobs.utils.intervals import mean_text
from mopsjobs.utils.table_files import Column, Row, kind_of
from mopsjobs.utils.times import json_time

SCHEMA_VERSION = 1
"""Of the document of `results --best` without a result."""

OBJECTIVE = "objective"
"""What the value of a set is called, if the objective is not a single scalar."""


def stored_journal(connection: sqlite3.Connection, job_id: str) -> Journal | None:
    """Return the journal of a job as the cache has it; None if it was never read, or by an earlier version."""
    row = connection.execute("SELECT document FROM journal WHERE job_id = ?", (job_id,)).fetchone()
    try:
        return None if row is None else decode_journal(row[0])
    except RecordError:
        return None


def mirror_journal(job_id: str, app: App) -> Journal | None:
    """Read the journal of a job into the cache, and return it; None if the job is not a calibration.

    Raises:
        NoManifestError, RecordError, StoreError: see `read_journal`.
        CacheError: if the cache cannot be written.
    """
    journal = read_journal(app.store, load_manifest(app.store, job_id))
    if journal is not None:
        values = (job_id, encode_journal(journal))

        def write(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                connection.execute("INSERT OR REPLACE INTO journal (job_id, document) VALUES (?, ?)", values)

        app.cache.write(write)
    return journal


def value_name(journal: Journal) -> str:
    """Return what the value of a set is called: the first scalar, or `objective`."""
    return (*journal.calibration.objective.scalars, OBJECTIVE)[0]


class FoundCalibration(NamedTuple):
    """A calibration as a command has found it."""

    job_id: str
    journal: Journal
    warnings: list[str]
    age: str

    def document(self, found: Sequence[Ranked], app: App) -> dict[str, object]:
        """Return the document of `results --best --json`."""
        return {
            "schema_version": SCHEMA_VERSION,
            "generated_at": json_time(app.now()),
            "data": self.age,
            "registry": app.settings.registry_id,
            "job_id": self.job_id,
            "objective": value_name(self.journal),
            "calibration": counts_of(self.journal),
            "sets": [one.to_json() for one in found],
        }


def find_calibration(name: str, app: App, *, offline: bool) -> FoundCalibration:
    """Find a calibration with its journal, which is read unless `offline` forbids that.

    Raises:
        JobNotFoundError: if the job does not exist.
        UsageError: if it is not a calibration.
        StoreUnavailableError: if its journal is neither in the registry nor in the cache.
    """
    found = find_current_job(name, app, FreshnessPolicy(offline=offline))
    job_id, journal, warnings = str(found.job["job_id"]), None, [*found.warnings]
    if found.job["calibration"] is None:
        raise UsageError(f"Job {job_id} is not a calibration: name a RESULT.")
    problem = None
    if not offline:
        try:
            journal = mirror_journal(job_id, app)
        except StoreUnavailableError as error:
            problem = error
    age = "read now" if journal is not None else "of the cache"
    if journal is None:
        journal = app.cache.read_cached(lambda connection: stored_journal(connection, job_id), offline=offline)
        if journal is None:
            raise problem or StoreUnavailableError(
                f"The journal of {job_id} is not in the cache.", hint=f"Run: {command_line('results --best', job_id)}"
            )
        warnings += [] if problem is None else [f"{problem} Showing what the cache has."]
    return FoundCalibration(job_id, journal, warnings, age)


class Ranked(NamedTuple):
    """An evaluation among the best ones."""

    rank: int
    found: Evaluation
    may_be_best: bool
    """Whether its interval overlaps that of the first."""

    def row(self, journal: Journal) -> list[object]:
        """Return it as a row: place, round, value with its half-width, replicates, parameters."""
        told = self.found.told
        value = mean_text(told.value, told.half_width) + (" *" if self.may_be_best else "")
        value += ", not precise" if told.precise is False else ""
        return [
            self.rank,
            self.found.round,
            value,
            told.n,
            params_text(journal.calibration.asked_of(self.found.params)),
        ]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        told = self.found.told
        return {
            "rank": self.rank,
            "job_id": self.found.job_id,
            "round": self.found.round,
            "params": dict(self.found.params),
            "value": told.value,
            "values": list(told.values or ()),
            "half_width": told.half_width,
            "replicates": told.n,
            "precise": told.precise,
            "may_be_best": self.may_be_best,
        }


def best_sets(journal: Journal, limit: int) -> Iterator[Ranked]:
    """Yield the sets with the smallest values, this many; 0 for all."""
    top = journal.top(limit or sum(len(one.sets) for one in journal.rounds))
    bound = None
    for rank, one in enumerate(top, 1):
        value, half_width = one.told.value or 0.0, one.told.half_width or 0.0
        bound = value + half_width if bound is None else bound
        yield Ranked(rank, one, rank > 1 and value - half_width <= bound and one.told.half_width is not None)


def best_columns(journal: Journal, found: Sequence[Ranked]) -> tuple[list[Column], list[Row]]:
    """Return the columns and the rows of sets for a file."""
    names = [*journal.calibration.parameters]
    precise = [] if journal.calibration.study.precision is None else ["precise"]
    heads = ["rank", "job_id", "round", *names, value_name(journal), "half_width", "replicates", *precise]
    rows: list[Row] = []
    for rank, one, _ in found:
        params = [one.params[name] for name in names]
        told = [one.told.value, one.told.half_width, one.told.n, *(one.told.precise for _ in precise)]
        rows.append((rank, one.job_id, one.round, *params, *told))
    kinds = [frozenset(kind_of(row[place]) for row in rows if row[place] is not None) for place in range(len(heads))]
    return [Column(*column) for column in zip(heads, kinds, strict=True)], rows


def explain_journal(job_id: str, journal: Journal, age: str) -> Explained:
    """Return what separates the sets with the smallest values from the others. A repeated set counts with its mean."""
    sets: dict[str, SetValues] = {}
    failed = 0
    for one in journal.evaluations():
        params = journal.calibration.asked_of(one.params)
        if one.told.value is None:
            failed += 1
            continue
        sets.setdefault(json.dumps(params, sort_keys=True), SetValues(params, [])).values.append(one.told.value)
    found = explain_extremes(list(sets.values()), highest=False, is_adaptive=True)
    left_out = dict.fromkeys(("failed", "missing", "waiting", "not_finite"), 0)
    found = found._replace(too_few=failed)
    return Explained([job_id], value_name(journal), False, found, left_out, age, True)
