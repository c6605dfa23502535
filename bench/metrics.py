"""Scrapes, summaries and charts of a cache of a hundred times as many jobs, against those of a small one."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import statistics
import time
from pathlib import Path

from bench import serving
from bench.listing import FLOOR, REGISTRY, TIMES_AS_MANY, filled_caches
from bench.machine import Setup, interpreter
from bench.measure import Case, in_turn, progress
from bench.report import Line, at_most

SCRAPE_SECONDS = 1.0
"""The goal for a whole `mops-jobs metrics`, whatever the cache holds."""


LARGE_RATIO = 2.0
"""The time over the large cache, as a multiple of that over the small one."""


def run(setup: Setup) -> list[Line]:
    """Measure `metrics`, `summary` and the page of charts over both caches."""
    small, large = filled_caches(setup)
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
        few, many = cases.values()
        if what == "metrics":  # `summary` reads the jobs
            lines.append(_growth(what, counts, many.ratios_to(few)))
    return [*lines, *_charts(setup, counts)]


def _growth(what: str, counts: dict[int, Path], ratios: tuple[float, float]) -> Line:
    few, many = counts
    goal = at_most(LARGE_RATIO, ratios[0], " x")
    return Line(f"{what}, {many:,} against {few:,} cached", "", "the same", *ratios, goal)


def _charts(setup: Setup, counts: dict[int, Path]) -> list[Line]:
    """Measure the page of charts of a server that runs already, over the same 30 days in both caches."""
    progress(f"the page of charts, {setup.runs} rounds")
    with contextlib.ExitStack() as stack:
        servers = {count: stack.enter_context(serving.serving(setup, str(cache))) for count, cache in counts.items()}
        lines = {count: stack.enter_context(contextlib.closing(one.connect())) for count, one in servers.items()}
        seconds: dict[int, list[float]] = {count: [] for count in counts}
        cpu_seconds: dict[int, list[float]] = {count: [] for count in counts}
        for number in range(setup.runs + 1):  # the first round warms up
            for count, server in servers.items():
                before, begun = server.cpu_seconds, time.perf_counter()
                serving.get(lines[count], f"/charts?{serving.unseen_query(number)}")
                if number:
                    seconds[count].append(time.perf_counter() - begun)
                    cpu_seconds[count].append(server.cpu_seconds - before)
    few, many = counts
    ratios = [statistics.median(found[many]) / statistics.median(found[few]) for found in (seconds, cpu_seconds)]
    return [
        *(
            Line(f"charts, {count:,} cached", f"{statistics.median(times) * 1000:.0f} ms", "", None)
            for count, times in seconds.items()
        ),
        _growth("charts", counts, (ratios[0], ratios[1])),
    ]


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
