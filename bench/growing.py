"""What a sync costs where the registry is ten times as large, and thirty times: time and memory.

The registries lie in a stand-in for Azure (static.py), which answers a page as fast however many jobs there are.
"""

from __future__ import annotations

from bench import static
from bench.machine import Setup
from bench.measure import Case, in_turn, progress
from bench.report import Goal, Line, at_most
from bench.sync_cases import Registry

LARGE, LARGEST = 10, 30
"""Times `setup.jobs`."""

UNCHANGED_RATIO = 1.3
"""A sync of the large registry with nothing changed, as a multiple of one of the small registry."""

CHANGED_RATIO = 1.5
"""A sync with 10 jobs changed, as a multiple of one with nothing changed."""

RECORD_RATIO = 2.0
"""A record of a first mirror of the largest registry, as a multiple of one of the small registry's."""

PEAK_MB = 120
PEAK_GROWTH = 1.05
"""What counts as flat."""


def run(setup: Setup) -> list[Line]:
    """Measure syncs of registries that only have old jobs, by the clock of the reader."""
    progress(f"making a listing of {setup.jobs * LARGEST:,} jobs")
    with static.running(setup.directory, setup.jobs * LARGEST) as server:
        small, large, largest = (
            Registry(setup, server, f"first-{jobs}", jobs, f"first-{jobs}")
            for jobs in (setup.jobs, setup.jobs * LARGE, setup.jobs * LARGEST)
        )
        cases = {
            "small": small.delta_sync(),
            "large": large.delta_sync(),
            "changed": large.delta_sync(changed=10),
        }
        progress(f"syncs of up to {large.jobs:,} jobs, {setup.runs} rounds of {len(cases)} processes")
        in_turn(cases.values(), setup.runs, setup.directory)
        full = {registry.jobs: registry.full_sync() for registry in (small, large, largest)}
        progress(f"full syncs of up to {largest.jobs:,} jobs, once each")
        for case in full.values():
            case.slow = True
        in_turn(full.values(), 1, setup.directory)
    few, many, most = full.values()
    return [
        _line(f"sync, nothing changed among {large.jobs:,}", cases["large"], f"the same, {small.jobs:,}",
              cases["small"], UNCHANGED_RATIO),
        _line(f"sync, 10 changed among {large.jobs:,}", cases["changed"], "nothing changed", cases["large"],
              CHANGED_RATIO),
        _line(f"full sync, {large.jobs:,}", many, f"the same, {small.jobs:,}", few, None),
        _line(f"full sync, {largest.jobs:,}", most, f"the same, {small.jobs:,}", few, None),
        _per_record(largest.jobs, most, small.jobs, few),
        _peak(large.jobs, many, small.jobs, few, at_most(PEAK_MB, _megabytes(many), " MB")),
        _peak(largest.jobs, most, large.jobs, many, at_most(PEAK_GROWTH, most.peak_mib / many.peak_mib, " x")),
    ]  # fmt: skip


def _line(what: str, case: Case, against: str, other: Case, limit: float | None) -> Line:
    ratio, cpu_ratio = case.ratios_to(other)
    compared = f"{against}, {other.seconds:.2f} s"
    return Line(what, f"{case.seconds:.2f} s", compared, ratio, cpu_ratio, at_most(limit, ratio, " x"))


def _per_record(jobs: int, case: Case, other_jobs: int, other: Case) -> Line:
    """Compare the times of a record of two first mirrors, each with its share of the start of a process."""
    compared = f"the same, {other_jobs:,}, {other.seconds / other_jobs * 1e6:.0f} µs"
    ratio, cpu_ratio = (found * other_jobs / jobs for found in case.ratios_to(other))
    measured = f"{case.seconds / jobs * 1e6:.0f} µs"
    goal = at_most(RECORD_RATIO, ratio, " x")
    return Line(f"full sync, {jobs:,}: time per record", measured, compared, ratio, cpu_ratio, goal)


def _peak(jobs: int, case: Case, other_jobs: int, other: Case, goal: Goal | None) -> Line:
    compared = f"the same, {other_jobs:,}, {_megabytes(other):.0f} MB"
    ratio = case.peak_mib / other.peak_mib
    return Line(f"full sync, {jobs:,}: peak memory", f"{_megabytes(case):.0f} MB", compared, ratio, None, goal)


def _megabytes(case: Case) -> float:
    return case.peak_mib * 2**20 / 1e6
