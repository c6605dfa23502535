"""Looking at a cached registry, against an interpreter that starts and imports what any such command needs.

Once over `setup.jobs` cached jobs, and once over a hundred times as many. No filter here finds any of the additional,
old jobs. So the answers are the same, and the times should be.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from bench import registry_data
from bench.machine import FILE, ROOT, Setup, interpreter
from bench.measure import Case, in_turn, progress
from bench.report import Line, at_most
from mopsjobs.store import open_store
from mopsjobs.store.bulk import create_all_if_absent

REGISTRY = "https://bench.blob.core.windows.net/job-registry"
"""Nothing is ever sent there: the cache is made without it."""

FLOOR = "import sqlite3, json, argparse"

API = "import mopsjobs as mj\nfor name in mj.__all__: getattr(mj, name)"
"""A program that uses every name of the Python API."""

API_GOAL = 100.0
"""Milliseconds of processor time for it, above an interpreter that does nothing."""

RUNS_FACTOR = 5
"""These runs take milliseconds, so there are more of them."""

TIMES_AS_MANY = 100
"""How many times as many jobs the large cache has."""

GOALS = {"list --hours 48 --json": (2.2, 1.25), "list --hours 48": (3.5, 1.8)}
"""Times the floor: the goal, and the one after."""

EMBEDDED_RATIO = 1.5
"""Times the floor, where the registry is a file of this machine that has not changed since the last look."""

LARGE_GOAL = 1.3
"""The time over the large cache, as a multiple of that over the small one."""

SQL = "SELECT * FROM jobs WHERE is_active OR changed_ts >= unixepoch() - 48 * 3600 ORDER BY changed_ts DESC"
"""The same queries, typed into `sqlite3`."""


def run(setup: Setup) -> list[Line]:
    """Measure the reading commands, and the built file's size and first run."""
    small, large = filled_caches(setup)
    with contextlib.closing(sqlite3.connect(small)) as connection:
        job_id = connection.execute("SELECT max(job_id) FROM jobs").fetchone()[0]
        recent = len(connection.execute(SQL).fetchall())
    floor = Case([interpreter(), "-c", FLOOR], setup.env)
    api = Case([interpreter(), "-c", API], {**setup.env, "PYTHONPATH": str(ROOT)})
    others = {"python -c pass": Case([interpreter(), "-c", "pass"], setup.env), **_others(setup, small)}
    ours = _commands(setup, small, job_id, recent)
    same = _commands(setup, large, job_id, recent)
    ours["--version"] = Case(*setup.command("--version"))
    embedded = _embedded(setup)
    runs = setup.runs * RUNS_FACTOR
    measured = [floor, api, *others.values(), *ours.values(), *same.values(), embedded]
    progress(f"reading commands, {runs} rounds of {len(measured)} processes")
    in_turn(measured, runs, setup.directory)

    lines = [Line(f'python -c "{FLOOR}"', _ms(floor), "the floor", 1.0, 1.0)]
    lines += [Line(what, _ms(case), "the floor", *case.ratios_to(floor)) for what, case in others.items()]
    own_ms = 1000 * (api.cpu_seconds - others["python -c pass"].cpu_seconds)
    goal = at_most(API_GOAL, own_ms, " ms")
    name = "import mopsjobs, and all its names: processor time without the interpreter's"
    lines.append(Line(name, f"{own_ms:.1f} ms", "", None, None, goal))
    for what, case in ours.items():
        ratio, cpu_ratio = case.ratios_to(floor)
        goals = [at_most(limit, ratio, " x") for limit in GOALS.get(what, ())]
        lines.append(Line(f"{what}, {setup.jobs:,} cached", _ms(case), "the floor", ratio, cpu_ratio, *goals))
    for what, case in same.items():
        ratio, cpu_ratio = case.ratios_to(ours[what])
        goal = at_most(LARGE_GOAL, ratio, " x")
        name = f"{what}, {setup.jobs * TIMES_AS_MANY:,} cached"
        lines.append(Line(name, _ms(case), f"the same, {setup.jobs:,}", ratio, cpu_ratio, None, goal))
    ratio, cpu_ratio = embedded.ratios_to(floor)
    what = f"list --hours 48 --json, embedded registry of {setup.jobs:,}, unchanged"
    goal = at_most(EMBEDDED_RATIO, ratio, " x")
    lines.append(Line(what, _ms(embedded), "the floor", ratio, cpu_ratio, None, goal))
    return lines + (_built_file(setup) if FILE.is_file() else [])


def filled_caches(setup: Setup) -> tuple[Path, Path]:
    """Return a cache of `setup.jobs` jobs, and one of a hundred times as many, unless this run has them already."""
    small, large = setup.directory / "listing.db", setup.directory / "large.db"
    if not large.exists():
        progress(f"filling caches with {setup.jobs:,} and {setup.jobs * TIMES_AS_MANY:,} jobs")
        jobs, now = setup.jobs, datetime.now(UTC)
        registry_data.fill_cache(small, REGISTRY, registry_data.states(jobs, now))
        registry_data.fill_cache(large, REGISTRY, registry_data.with_past(jobs, jobs * TIMES_AS_MANY, now))
    return small, large


def _embedded(setup: Setup) -> Case:
    """Return a look at an embedded registry, which the warm-up has mirrored."""
    place = setup.directory / "embedded.db"
    store = open_store(f"sqlite://{place}", {})
    made = registry_data.states(setup.jobs, datetime.now(UTC))
    create_all_if_absent(store, [(f"jobs/{state.job_id}/state.json", state.to_json()) for state in made])
    cache = str(setup.directory / "embedded-cache.db")
    words = ("list", "--hours", "48", "--json", "--registry", f"sqlite://{place}", "--cache", cache)

    def check(output: str) -> None:
        if not json.loads(output)["jobs"]:
            raise RuntimeError("list --json tells of no job of the embedded registry.")

    return Case(*setup.command(*words), check=check)


def _commands(setup: Setup, cache: Path, job_id: str, recent: int) -> dict[str, Case]:
    """Return the reading commands over one cache."""

    def check_json(output: str) -> None:
        document = json.loads(output)
        if abs(document["total"] - recent) > 2 + recent // 50 or not document["jobs"]:  # the window moves meanwhile
            raise RuntimeError(f"list --json tells of {document['total']} jobs instead of {recent}.")

    def check_status(output: str) -> None:
        if job_id not in output:
            raise RuntimeError(f"status does not name {job_id}:\n{output}")

    def case(*words: str, check: Callable[[str], None] = lambda output: None) -> Case:
        return Case(*setup.command(*words, "--registry", REGISTRY, "--cache", str(cache)), check=check)

    return {
        "list --hours 48 --json": case("list", "--hours", "48", "--json", check=check_json),
        "list --hours 48 --json --limit 0": case("list", "--hours", "48", "--json", "--limit", "0", check=check_json),
        "list --hours 48": case("list", "--hours", "48"),
        "list --status running": case("list", "--status", "running"),
        "list --json --name 'job-a*'": case("list", "--json", "--name", "job-a*"),
        "list --json --label exp=7": case("list", "--json", "--label", "exp=7"),
        "status JOB": case("status", job_id, check=check_status),
    }


def _others(setup: Setup, cache: Path) -> dict[str, Case]:
    """Return commands that do a part: a file of shiv that does nothing, and the `sqlite3` program over the cache."""
    nothing = setup.directory / "nothing"
    nothing.mkdir()
    (nothing / "nothing.py").write_text("def main(): pass\n", encoding="utf-8")
    file = setup.directory / "empty.pyz"
    pack = [sys.executable, "-m", "shiv", "--entry-point", "nothing:main", "--site-packages", str(nothing)]
    subprocess.run([*pack, "--output-file", str(file)], check=True)
    cases = {"an empty file of shiv": Case([interpreter(), str(file)], setup.env)}
    if program := shutil.which("sqlite3"):
        cases["sqlite3 -json, the same rows"] = Case([program, "-readonly", "-json", str(cache), SQL], setup.env)
    return cases


def _built_file(setup: Setup) -> list[Line]:
    """Return the first run of the file, which unpacks it; and its size."""
    root = setup.directory / "unpacked"
    command, env = setup.command("--version")
    first = Case(command, {**env, "MOPS_JOBS_UNPACK": str(root)}, lambda: shutil.rmtree(root, ignore_errors=True))
    progress(f"first run of the file, {setup.runs} rounds")
    in_turn([first], setup.runs, setup.directory)
    size = FILE.stat().st_size / 1e6
    goals = (at_most(1.5, first.seconds, " s"), at_most(10, size, " MB"))
    return [
        Line("first run of the file", f"{first.seconds:.2f} s", "", None, None, None, goals[0]),
        Line("size of the file", f"{size:.1f} MB", "", None, None, None, goals[1]),
    ]


def _ms(case: Case) -> str:
    return f"{case.seconds * 1000:.1f} ms"
