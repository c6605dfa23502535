"""Looking at a cached registry, against an interpreter that starts and imports what any such command needs."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable

from bench import registry_data
from bench.machine import Setup, interpreter
from bench.measure import Case, in_turn, progress
from bench.report import Line, at_most

REGISTRY = "https://bench.blob.core.windows.net/job-registry"
"""Nothing is ever sent there: the cache is made without it."""

FLOOR = "import sqlite3, json, argparse"
RUNS_FACTOR = 5
"""These runs take milliseconds, so there are more of them."""

GOALS = {"list --hours 48 --json": (4.0, 2.2), "list --hours 48": (None, 3.5)}
"""Times the floor: the goal, and the one after."""


def run(setup: Setup) -> list[Line]:
    """Measure the reading commands over `setup.jobs` cached jobs."""
    progress(f"filling a cache with {setup.jobs:,} jobs")
    cache = setup.directory / "listing.db"
    registry_data.fill_cache(cache, REGISTRY, setup.jobs)
    with contextlib.closing(sqlite3.connect(cache)) as connection:
        job_id, cached = connection.execute("SELECT max(job_id), count(*) FROM jobs").fetchone()
        recent = connection.execute(
            "SELECT count(*) FROM jobs WHERE is_active OR changed_ts >= unixepoch() - 48 * 3600"
        ).fetchone()[0]
    if cached != setup.jobs:
        raise RuntimeError(f"The cache has {cached} jobs instead of {setup.jobs}.")
    prefix = job_id[:-1]  # of ten random digits; nine are as good as unique

    def check_json(output: str) -> None:
        document = json.loads(output)
        if abs(document["total"] - recent) > 2 + recent // 50 or not document["jobs"]:  # the window moves meanwhile
            raise RuntimeError(f"list --json tells of {document['total']} jobs instead of {recent}.")

    floor = Case([interpreter(), "-c", FLOOR], setup.env)
    bare = Case([interpreter(), "-c", "pass"], setup.env)
    cases = {
        "list --hours 48 --json": _case(setup, "list", "--hours", "48", "--json", check=check_json),
        "list --hours 48 --json --limit 0": _case(
            setup, "list", "--hours", "48", "--json", "--limit", "0", check=check_json
        ),
        "list --hours 48": _case(setup, "list", "--hours", "48"),
        "list --status running": _case(setup, "list", "--status", "running"),
        "list --json --name 'job-a*'": _case(setup, "list", "--json", "--name", "job-a*"),
        "list --json --label exp=7": _case(setup, "list", "--json", "--label", "exp=7"),
        "status PREFIX": _case(setup, "status", prefix, check=_must_name(job_id)),
        "--version": _case(setup, "--version"),
    }
    progress(f"reading commands, {setup.runs * RUNS_FACTOR} rounds of {len(cases) + 2} processes")
    in_turn([floor, bare, *cases.values()], setup.runs * RUNS_FACTOR, setup.directory)
    lines = [
        Line(f'python -c "{FLOOR}"', _ms(floor), "the floor", 1.0, 1.0),
        Line("python -c pass", _ms(bare), "the floor", *bare.ratios_to(floor)),
    ]
    for what, case in cases.items():
        ratio, cpu_ratio = case.ratios_to(floor)
        goals = [at_most(limit, ratio, " x") for limit in GOALS.get(what, ())]
        lines.append(Line(f"{what}, {setup.jobs:,} cached", _ms(case), "the floor", ratio, cpu_ratio, *goals))
    return lines


def _case(setup: Setup, *words: str, check: Callable[[str], None] = lambda output: None) -> Case:
    command, env = setup.command(*words, "--registry", REGISTRY, "--cache", str(setup.directory / "listing.db"))
    return Case(command, env, check=check)


def _must_name(job_id: str) -> Callable[[str], None]:
    def check(output: str) -> None:
        if job_id not in output:
            raise RuntimeError(f"status does not name {job_id}:\n{output}")

    return check


def _ms(case: Case) -> str:
    return f"{case.seconds * 1000:.1f} ms"
