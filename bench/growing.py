"""What a sync costs where the registry is ten times as large, and thirty times: time and memory.

The registries lie in a stand-in for Azure (static.py), which answers a page as fast however many jobs there are.
"""

from __future__ import annotations

from bench import static
from bench.machine import Setup
from bench.measure import Case, in_turn, progress
from bench.report import Goal, Line, at_most
from bench.syncing import Registry, compared

LARGE, LARGEST = 10, 30
"""Times `setup.jobs`."""

UNCHANGED_RATIO = 1.3
"""A sync of the large registry with nothing changed, as a multiple of one of the small registry."""

CHANGED_RATIO = 1.5
"""A sync with 10 jobs changed, as a multiple of one with nothing changed."""

RECORD_RATIO = 1.2
"""A record of a first mirror of the largest registry, as a multiple of one of the small registry's."""

PEAK_MB = 120
PEAK_GROWTH = 1.05
"""What counts as flat."""


def run(setup: Setup) -> list[Line]:
    """Measure syncs of registries that only have old jobs, by the clock of the reader."""
    counts = [setup.jobs, setup.jobs * LARGE, setup.jobs * LARGEST]
    progress(f"making a listing of {counts[-1]:,} jobs")
    with static.running(counts[-1]) as server:
        small, large, largest = (Registry(setup, server, f"first-{jobs}", jobs, f"first-{jobs}") for jobs in counts)
        unchanged, unchanged_large, changed = small.delta_sync(), large.delta_sync(), large.delta_sync(changed=10)
        progress(f"syncs of up to {large.jobs:,} jobs, {setup.runs} rounds of 3 processes")
        in_turn([unchanged, unchanged_large, changed], setup.runs, setup.directory)
        few, many, most = full = [registry.full_sync() for registry in (small, large, largest)]
        progress(f"full syncs of up to {largest.jobs:,} jobs, once each")
        for case in full:
            case.slow = True
        in_turn(full, 1, setup.directory)
    same = f"the same, {small.jobs:,}"
    ratio, cpu_ratio = (found / LARGEST for found in most.ratios_to(few))
    return [
        compared(f"sync, nothing changed among {large.jobs:,}", unchanged_large, same, unchanged, UNCHANGED_RATIO),
        compared(f"sync, 10 changed among {large.jobs:,}", changed, "nothing changed", unchanged_large, CHANGED_RATIO),
        compared(f"full sync, {large.jobs:,}", many, same, few),
        compared(f"full sync, {largest.jobs:,}", most, same, few),
        Line(f"full sync, {largest.jobs:,}: time per record", f"{most.seconds / largest.jobs * 1e6:.0f} µs",
             f"{same}, {few.seconds / small.jobs * 1e6:.0f} µs", ratio, cpu_ratio, at_most(RECORD_RATIO, ratio, " x")),
        _peak(large.jobs, many, same, few, at_most(PEAK_MB, _megabytes(many), " MB")),
        _peak(largest.jobs, most, f"the same, {large.jobs:,}", many,
              at_most(PEAK_GROWTH, most.peak_mib / many.peak_mib, " x")),
    ]  # fmt: skip


def _peak(jobs: int, case: Case, against: str, other: Case, goal: Goal | None) -> Line:
    what, told = f"full sync, {jobs:,}: peak memory", f"{against}, {_megabytes(other):.0f} MB"
    return Line(what, f"{_megabytes(case):.0f} MB", told, case.peak_mib / other.peak_mib, None, goal)


def _megabytes(case: Case) -> float:
    return case.peak_mib * 2**20 / 1e6
