"""Scrapes and summaries of a cache of a hundred times as many jobs, against those of a small one."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from pathlib import Path

from bench import registry_data
from bench.listing import FLOOR, REGISTRY, TIMES_AS_MANY
from bench.machine import Setup, interpreter
from bench.measure import Case, in_turn, progress
from bench.report import Line, at_most

SCRAPE_SECONDS = 1.0
"""The goal for a whole `mops-jobs metrics`, whatever the cache holds."""


def run(setup: Setup) -> list[Line]:
    """Measure `metrics` and `summary` over both caches."""
    small, large = setup.directory / "metrics.db", setup.directory / "metrics-large.db"
    progress(f"filling caches with {setup.jobs:,} and {setup.jobs * TIMES_AS_MANY:,} jobs")
    registry_data.fill_cache(small, REGISTRY, setup.jobs)
    shutil.copyfile(small, large)
    registry_data.add_past(large, REGISTRY, setup.jobs * TIMES_AS_MANY)
    floor = Case([interpreter(), "-c", FLOOR], setup.env)
    counts = {setup.jobs: small, setup.jobs * TIMES_AS_MANY: large}
    scrapes = {count: _scrape(setup, cache, count) for count, cache in counts.items()}
    summaries = {count: _summary(setup, cache, count) for count, cache in counts.items()}
    progress(f"metrics and summary, {setup.runs} rounds")
    in_turn([floor, *scrapes.values(), *summaries.values()], setup.runs, setup.directory)
    lines = []
    for what, cases in (("metrics", scrapes), ("summary --json", summaries)):
        for count, case in cases.items():
            goal = at_most(SCRAPE_SECONDS, case.seconds, " s") if what == "metrics" else None
            name = f"{what}, {count:,} cached"
            lines.append(Line(name, f"{case.seconds * 1000:.0f} ms", "the floor", *case.ratios_to(floor), goal))
    return lines


def _scrape(setup: Setup, cache: Path, count: int) -> Case:
    with contextlib.closing(sqlite3.connect(cache)) as connection:
        running = connection.execute("SELECT count(*) FROM jobs WHERE status = 'running'").fetchone()[0]

    def check(output: str) -> None:
        lines = [line for line in output.splitlines() if line.startswith("mops_jobs{")]
        if sum(float(line.rpartition(" ")[2]) for line in lines) != count:
            raise RuntimeError(f"metrics do not tell of {count} jobs.")
        told = sum(float(line.rpartition(" ")[2]) for line in lines if 'status="running"' in line)
        if told != running:
            raise RuntimeError(f"metrics tell of {told} running jobs instead of {running}.")

    return Case(*setup.command("metrics", "--registry", REGISTRY, "--cache", str(cache)), check=check)


def _summary(setup: Setup, cache: Path, count: int) -> Case:
    def check(output: str) -> None:
        if json.loads(output)["total"] != count:
            raise RuntimeError(f"summary does not tell of {count} jobs.")

    words = ("summary", "--json", "--registry", REGISTRY, "--cache", str(cache))
    return Case(*setup.command(*words), check=check)
