"""What `list --json` imports, by module: where the time of a listing grows unnoticed."""

from __future__ import annotations

import re
import subprocess

from bench import registry_data
from bench.listing import FLOOR, REGISTRY, RUNS_FACTOR
from bench.machine import Setup, interpreter
from bench.measure import progress
from bench.report import Line

JOBS = 1_000
SHOWN = 12
"""Modules that are told while it runs, the slowest first."""
_TOLD = re.compile(r"import time: +(?P<self>\d+) \| +\d+ \| +(?P<module>\S+)")


def run(setup: Setup) -> list[Line]:
    """Measure each import of a listing from the file, beside those of the floor."""
    cache = setup.directory / "importing.db"
    registry_data.fill_cache(cache, REGISTRY, JOBS)
    rounds = setup.runs * RUNS_FACTOR
    progress(f"imports of a listing, {rounds} rounds")
    words, env = setup.command("list", "--json", "--registry", REGISTRY, "--cache", str(cache))
    _imports(words, env)  # the first run unpacks the file
    floor: list[dict[str, float]] = []
    ours: list[dict[str, float]] = []
    for _ in range(rounds):
        floor.append(_imports([interpreter(), "-X", "importtime", "-c", FLOOR], env))
        ours.append(_imports([words[0], "-X", "importtime", *words[1:]], env))
    before, after = _fastest(floor), _fastest(ours)
    own = {name: after[name] for name in after.keys() - before.keys()}
    for name in sorted(own, key=lambda name: -own[name])[:SHOWN]:
        progress(f"{_ms(own[name])} {name}")
    what = "imports of list --json"
    return [
        Line(f"{what}: what the floor imports too", _ms(sum(before.values())), f"{len(before)} modules", None),
        Line(f"{what}: besides", _ms(sum(own.values())), f"{len(own)} modules", None),
    ]


def _imports(command: list[str], env: dict[str, str]) -> dict[str, float]:
    """Return the milliseconds that a process spent in each module, without what that imports itself."""
    ended = subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    return {found["module"]: int(found["self"]) / 1000 for found in _TOLD.finditer(ended.stderr)}


def _fastest(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Return the least time of each module: what else a machine does can only add to it."""
    times: dict[str, float] = {}
    for one in rounds:
        for name, milliseconds in one.items():
            times[name] = min(milliseconds, times.get(name, milliseconds))
    return times


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.1f} ms"
