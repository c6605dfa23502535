"""SQL over the series of a large job, whose outputs have 12 numbers for each of 365 days."""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
from pathlib import Path

from bench import job_data
from bench.machine import Setup, environment_packages
from bench.measure import Case, in_turn, progress
from bench.report import Line, at_most
from mopsjobs.store.sqlite.store import SQLiteVersionedStore

JOB = "series-1"

REPLICATES, DAYS, SERIES = 100, 365, 12
TASKS_PER_JOB = 10
"""Times the jobs of other benchmarks."""

AGGREGATE = "SELECT beta, avg(value) AS mean, count(*) AS n FROM series('s3') GROUP BY beta"
"""One aggregate by parameter set."""

MAX_SECONDS = 10.0
MAX_SHARE = 5.0
"""Per cent of the bytes of the outputs."""

MAX_MIB = 1_500.0


def run(setup: Setup) -> list[Line]:
    """Measure the first query, which reads the outputs, a later one, and one over scalars alone."""
    lines, total = [], TASKS_PER_JOB * setup.jobs
    for form in ("json", "csv"):
        path = setup.directory / f"series-{form}.db"
        progress(f"filling a registry with {total:,} tasks and their outputs as {form}")
        fill(path, form, total)
        with contextlib.closing(sqlite3.connect(path)) as store:
            (size,) = store.execute("SELECT sum(length(value)) FROM objects WHERE key GLOB 'results/*'").fetchone()
        cache = setup.directory / f"series-{form}-cache.db"
        argv, env = setup.command(
            "results", JOB, "--sql", AGGREGATE, "--json", "--timeout", "10m",
            "--registry", f"sqlite://{path}", "--cache", str(cache),
        )  # fmt: skip
        env["PYTHONPATH"] = environment_packages()  # has DuckDB
        shares: list[float] = []

        def check(output: str, shares: list[float] = shares, size: int = size) -> None:
            found = json.loads(output)
            if {row["n"] for row in found["rows"]} != {REPLICATES * DAYS}:
                raise RuntimeError("the query lacks values")
            shares.append(100 * found["bytes_read"] / size)

        first, later = (Case(argv, env, check=check, slow=True) for _ in range(2))
        for one in (first, later):
            in_turn([one], 1, setup.directory)
        for name, one, share, goals in (("first", first, shares[0], False), ("later", later, shares[1], True)):
            what = f"results --sql, a series of {total:,} tasks x {DAYS} days, {form}, {name} query"
            lines += [
                Line(what, f"{one.seconds:.1f} s", "", None, None,
                     at_most(MAX_SECONDS, one.seconds, " s") if goals else None),
                Line(f"{what}: bytes read, of the outputs", f"{share:.1f} %", "", None, None,
                     at_most(MAX_SHARE, share, " %") if goals else None),
                Line(f"{what}: peak memory", f"{one.peak_mib:.0f} MiB", "", None, None,
                     at_most(MAX_MIB, one.peak_mib, " MiB")),
            ]  # fmt: skip
        path.unlink()
    return lines


def fill(path: Path, form: str, total: int) -> None:
    """Make a registry with an ended job, its scalars and its outputs."""
    draw = random.Random(1)
    sets = ({"beta": number / 1000, "gamma": draw.random()} for number in range(total // REPLICATES))
    with contextlib.closing(SQLiteVersionedStore(path)) as store:
        job_data.fill(
            store, JOB, sets, REPLICATES,
            scalars=lambda: {"result.json/peak": draw.random()},
            output=lambda: output(draw, form), output_name=f"result.{form}",
        )  # fmt: skip


def output(draw: random.Random, form: str) -> bytes:
    """Return an output: people of a population of 100,000 on each day."""
    series = [[int(number) for number in _walk(draw)] for _ in range(SERIES)]
    if form == "json":
        return json.dumps({f"s{number}": one for number, one in enumerate(series)}).encode()
    head = ",".join(["day", *(f"s{number}" for number in range(SERIES))])
    rows = (",".join(map(str, (day, *row))) for day, row in enumerate(zip(*series, strict=True)))
    return "\n".join([head, *rows, ""]).encode()


def _walk(draw: random.Random) -> list[float]:
    """Return a curve that rises and falls, with noise of its own."""
    level, values = draw.uniform(100, 1000), []
    peak = draw.randrange(100, 250)
    noise = draw.randbytes(DAYS)
    for day in range(DAYS):
        level *= (1.025 if day < peak else 0.975) * (0.98 + noise[day] / 6400)
        values.append(level)
    return values
