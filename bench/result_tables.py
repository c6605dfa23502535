"""The tables of results of a large job, from the chunks of scalars that its runners left."""

from __future__ import annotations

import contextlib
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.ledgers import CHUNK
from bench.machine import Setup
from bench.measure import Case, in_turn, progress
from bench.report import Line, at_most

JOB = "results-1"

TASKS_PER_JOB = 100
"""Times the jobs of other benchmarks."""

MAX_MIB = 200.0
"""Of peak memory, as the kernel counts it."""

MAX_BYTES = 150.0
"""Of the store, for ten random numbers per task."""


def run(setup: Setup) -> list[Line]:
    """Measure the first look, which mirrors the ledger too, a later one, and the best parameter sets, twice."""
    path, total = setup.directory / "result-tables.db", TASKS_PER_JOB * setup.jobs
    progress(f"filling a registry with {total:,} tasks and their scalars")
    size = _fill(path, total)
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
        Line(f"scalars of {total:,} tasks in the store", f"{size:.0f} bytes per task", "", None, None,
             at_most(MAX_BYTES, size, " bytes"))
    ]  # fmt: skip


def _fill(path: Path, total: int) -> float:
    """Make a registry with an ended job whose outputs are gone. Return the bytes of scalars per task."""
    from mopsjobs.ledger.attempt import Attempt, Outcome
    from mopsjobs.ledger.format import chunk_key, encode_attempts
    from mopsjobs.ledger.scalars import encode_scalars
    from mopsjobs.registry.job_registry import JobRegistry
    from mopsjobs.store.sqlite.store import SQLiteVersionedStore
    from mopsjobs.studies.manifest import Manifest, manifest_key
    from mopsjobs.studies.study_parser import parse_study

    draw = random.Random(1)
    replicates = 10
    sets = [
        {"beta": draw.random(), "gamma": draw.random(), "mode": draw.choice("xyz")} for _ in range(total // replicates)
    ]
    began = datetime.now(UTC) - timedelta(hours=3)
    size = 0
    with contextlib.closing(SQLiteVersionedStore(path)) as store:
        registry = JobRegistry(store, now=lambda: began)
        document = {"model": "m:f", "parameter_sets": sets, "outputs": ["result.json"], "n_replicates": replicates}
        manifest = Manifest(job_id=JOB, study=parse_study(document), bundle="sha256:" + "0" * 64)
        store.create_if_absent(manifest_key(JOB), manifest.to_json())
        registry.register_job(JOB, **manifest.record_fields())
        for first in range(0, total, CHUNK):
            numbers = range(first, min(first + CHUNK, total))
            attempts = [
                Attempt(
                    task, 1, Outcome.SUCCEEDED, began.timestamp() + task / 100, 2.5, 2.0, 0.1, 2**25, "node-1",
                    "3.12.4", None, 100,
                )
                for task in numbers
            ]  # fmt: skip
            scalars = ((task, {f"result.json/out{n}": draw.random() for n in range(10)}) for task in numbers)
            chunk = encode_scalars(JOB, 0, scalars)
            assert chunk is not None
            size += len(chunk)
            store.create_if_absent(chunk_key(JOB, 0, "ab", first // CHUNK, "scalars"), chunk)
            store.create_if_absent(chunk_key(JOB, 0, "ab", first // CHUNK), encode_attempts(JOB, 0, attempts))
        registry.update_status(JOB, "succeeded")
    return size / total
