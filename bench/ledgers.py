"""Looks at the tasks and the failures of a large job, over a cache that has its ledger."""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path

from bench import job_data
from bench.listing import FLOOR, REGISTRY, RUNS_FACTOR
from bench.machine import Setup, interpreter
from bench.measure import Case, in_turn, progress
from bench.report import Line, at_most

REPLICATES = 100
"""Of each parameter set: there are as many sets as other benchmarks have jobs."""

JOB = "ledger-1"

MAX_RATIO = 5.0
"""Of `tasks` and `failures` to the floor of the interpreter."""

CONDITION = 'beta > 0.95 and mode == "x"'
"""That of the failed sets. With fewer sets than `SURE_SETS`, they may have others, too."""

SURE_SETS = 10_000


def run(setup: Setup) -> list[Line]:
    """Measure `tasks` and `failures`, and the first `failures`, which compares the parameters."""
    cache, total = setup.directory / "ledgers.db", REPLICATES * setup.jobs
    progress(f"filling a cache with the ledger of {total:,} tasks")
    _fill(cache, setup.jobs)
    check = _check if setup.jobs >= SURE_SETS else json.loads
    place = ("--registry", REGISTRY, "--cache", str(cache))
    floor = Case([interpreter(), "-c", FLOOR], setup.env)
    first = Case(
        *setup.command("failures", JOB, "--json", *place), prepare=lambda: _forget(cache), check=check, slow=True
    )
    kept = Case(*setup.command("failures", JOB, "--json", *place), check=check)
    text = Case(*setup.command("failures", JOB, *place))
    tasks = Case(*setup.command("tasks", JOB, *place))
    failed = Case(*setup.command("tasks", JOB, "--json", "--status", "failed", *place))
    slowest = Case(*setup.command("tasks", JOB, "--sort", "-seconds", "--limit", "10", *place))
    in_turn([first], 1, setup.directory)
    in_turn([floor, kept, text, tasks, failed, slowest], setup.runs * RUNS_FACTOR, setup.directory)
    lines = [
        Line(
            f"failures --json, {total:,} tasks, first look",
            f"{first.seconds:.1f} s",
            "the floor",
            *first.ratios_to(floor),
        )
    ]
    ours = {
        "failures --json": kept,
        "failures": text,
        "tasks": tasks,
        "tasks --json --status failed": failed,
        "tasks --sort -seconds --limit 10": slowest,
    }
    for name, case in ours.items():
        ratio, cpu_ratio = case.ratios_to(floor)
        goal = at_most(MAX_RATIO, cpu_ratio, " x")
        what = f"{name}, {total:,} tasks cached"
        lines.append(Line(what, f"{case.seconds * 1000:.0f} ms", "the floor", ratio, cpu_ratio, None, goal))
    return lines


def _check(output: str) -> None:
    found = [one["condition"] for group in json.loads(output)["groups"] for one in group["separates"]]
    if found != [CONDITION]:
        raise RuntimeError(f"failures found {found} instead of {CONDITION}.")


def _forget(cache: Path) -> None:
    """Remove what an earlier look has kept."""
    from mopsjobs.cache.database import open_to_write

    with contextlib.closing(open_to_write(str(cache), REGISTRY)) as connection:
        connection.execute("DELETE FROM failure_summary")


def _fill(cache: Path, count: int) -> None:
    """Make a cache that has the ledger of an ended job of `count` parameter sets, without the registry.

    Some tasks fail for a reason in the parameters, and some by chance.
    """
    from mopsjobs.cache.database import open_to_write
    from mopsjobs.cache.sync.ledger import sync_ledger
    from mopsjobs.cache.sync.mirror import sync
    from mopsjobs.ledger.attempt import AttemptError
    from mopsjobs.registry.job_registry import JobRegistry
    from mopsjobs.store.memory import InMemoryVersionedStore

    draw = random.Random(1)
    sets = [
        {"beta": draw.random(), "mode": draw.choice("xyz"), **{f"p{n}": draw.gauss(0, 1) for n in range(8)}}
        for _ in range(count)
    ]

    def error_of(task: int) -> AttemptError | None:
        params = sets[task // REPLICATES]
        if params["beta"] > 0.95 and params["mode"] == "x":
            return AttemptError("1a2b3c4d5e6f", "ValueError", "model:21", f"task {task} is out of bounds")
        if draw.random() < 0.002:
            return AttemptError("2b3c4d5e6f1a", "ConnectionError", "net:3", f"host {task} is away")
        return None

    store = InMemoryVersionedStore()
    job_data.fill(store, JOB, ({"params": params} for params in sets), REPLICATES, error_of=error_of)
    sync(JobRegistry(store), str(cache), REGISTRY)
    with contextlib.closing(open_to_write(str(cache), REGISTRY)) as connection:
        sync_ledger(store, connection, JOB)
