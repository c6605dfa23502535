"""The tables of results of a large job, from the chunks of scalars that its runners left."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

from bench import job_data
from bench.machine import Setup
from bench.measure import Case, in_turn, progress
from bench.report import Line, at_most
from mopsjobs.store.sqlite.store import SQLiteVersionedStore

JOB = "results-1"

TASKS_PER_JOB = 100
"""Times the jobs of other benchmarks."""

MAX_MIB = 200.0
"""Of peak memory, as the kernel counts it."""

MAX_BYTES = 150.0
"""Of the store, for ten random numbers per task."""

MAX_LEDGER_BYTES = 15.0
"""Of the ledger in the store, per task."""

REPLICATES = 10


def run(setup: Setup) -> list[Line]:
    """Measure the first look, which mirrors the ledger too, a later one, and the best parameter sets, twice."""
    path, total = setup.directory / "result-tables.db", TASKS_PER_JOB * setup.jobs
    progress(f"filling a registry with {total:,} tasks and their scalars")
    sizes = _fill(path, total)
    cache, table = setup.directory / "result-tables-cache.db", setup.directory / "table.csv"
    place = ("--registry", f"sqlite://{path}", "--cache", str(cache))

    def case(*words: str) -> Case:
        return Case(*setup.command(*words, *place), slow=True)

    rows, best = ("results", JOB, "--table", str(table)), ("results", JOB, "--best", "out0")
    query = ("query", "SELECT mode, avg(out0) FROM results GROUP BY mode", "--job", JOB)
    cases = {
        "results --table, first look": case(*rows),
        "results --table, again": case(*rows),
        "results --best, first look": case(*best),
        "results --best, again": case(*best),
        "query over results": case(*query),
    }
    for one in cases.values():
        in_turn([one], 1, setup.directory)
    return [
        Line(
            f"{what}, {total:,} tasks: peak memory",
            f"{one.peak_mib:.0f} MiB, {one.seconds:.1f} s", "", None, None, at_most(MAX_MIB, one.peak_mib, " MiB"),
        )
        for what, one in cases.items()
    ] + [
        Line(f"{what} of {total:,} tasks in the store", f"{size:.0f} bytes per task", "", None, None,
             at_most(limit, size, " bytes"))
        for what, size, limit in (
            ("scalars", sizes.scalars, MAX_BYTES), ("the ledger", sizes.ledger, MAX_LEDGER_BYTES)
        )
    ]  # fmt: skip


def _fill(path: Path, total: int) -> job_data.Sizes:
    """Make a registry with an ended job whose outputs are gone."""
    draw = random.Random(1)
    sets = (
        {"beta": draw.random(), "gamma": draw.random(), "mode": draw.choice("xyz")} for _ in range(total // REPLICATES)
    )
    with contextlib.closing(SQLiteVersionedStore(path)) as store:
        return job_data.fill(
            store, JOB, sets, REPLICATES, scalars=lambda: {f"result.json/out{n}": draw.random() for n in range(10)}
        )
