"""Scrapes, summaries and charts of a cache of a hundred times as many jobs, against those of a small one."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from pathlib import Path

from bench import serving
from bench.listing import FLOOR, REGISTRY, TIMES_AS_MANY, filled_caches
from bench.machine import Setup, interpreter
from bench.measure import Case, Sample, in_turn, progress
from bench.report import Line, at_most

SCRAPE_SECONDS = 1.0
"""The goal for a whole `mops-jobs metrics`, whatever the cache holds."""

LARGE_RATIO = 2.0
"""The time over the large cache, as a multiple of that over the small one."""


def run(setup: Setup) -> list[Line]:
    """Measure `metrics`, `summary` and the page of charts over both caches."""
    small, large = filled_caches(setup)
    caches = {setup.jobs: small, setup.jobs * TIMES_AS_MANY: large}
    floor = Case([interpreter(), "-c", FLOOR], setup.env)
    pairs = {
        what: [_command(setup, what, cache, count) for count, cache in caches.items()]
        for what in ("metrics", "summary --json")
    }
    progress(f"metrics and summary, {setup.runs} rounds")
    in_turn([floor, *itertools.chain(*pairs.values())], setup.runs, setup.directory)
    pairs["charts"] = _charts(setup, small, large)
    lines = []
    for what, (few, many) in pairs.items():
        for count, case in zip(caches, (few, many), strict=True):
            ratios = case.ratios_to(floor) if case.argv else (None, None)
            goal = at_most(SCRAPE_SECONDS, case.seconds, " s") if what == "metrics" else None
            against = "the floor" if case.argv else ""
            lines.append(Line(f"{what}, {count:,} cached", f"{case.seconds * 1000:.0f} ms", against, *ratios, goal))
        ratio, cpu_ratio = many.ratios_to(few)
        name = f"{what}, {setup.jobs * TIMES_AS_MANY:,} against {setup.jobs:,} cached"
        lines.append(Line(name, "", "the same", ratio, cpu_ratio, at_most(LARGE_RATIO, ratio, " x")))
    return lines


def _command(setup: Setup, what: str, cache: Path, count: int) -> Case:
    def check(output: str) -> None:
        scraped = (line for line in output.splitlines() if line.startswith("mops_jobs{"))
        is_summary = what.startswith("summary")
        total = json.loads(output)["total"] if is_summary else sum(float(line.split()[-1]) for line in scraped)
        if total != count:
            raise RuntimeError(f"{what} tells of {total} jobs instead of {count}.")

    return Case(*setup.command(*what.split(), "--registry", REGISTRY, "--cache", str(cache)), check=check)


def _charts(setup: Setup, *caches: Path) -> list[Case]:
    """Measure the page of charts of servers that run already, over the same 30 days in both caches."""
    progress(f"the page of charts, {setup.runs} rounds")
    cases = [Case([], {}) for _ in caches]
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(serving.serving(setup, str(cache))) for cache in caches]
        connections = [stack.enter_context(contextlib.closing(server.connect())) for server in servers]
        for number in range(setup.runs + 1):  # the first round warms up
            for case, server, connection in zip(cases, servers, connections, strict=True):
                before, begun = server.cpu_seconds, time.perf_counter()
                serving.get(connection, f"/charts?{serving.unseen_query(number)}")
                seconds = time.perf_counter() - begun
                if number:  # processor time comes in ticks of the system
                    case.samples.append(Sample(seconds, server.cpu_seconds - before or 0.01, 0.0))
    return cases
