"""Hostile records: what others wrote neither crashes a reader, nor keeps it busy, nor fills memory, nor gets out raw.

Two engines run over what is in readers.py and ledger.py. Each input is made from the trial's seed.

- Hypothesis makes documents that are nearly sound.
- Inputs that are large or deep in one way each run in processes whose memory and time are bounded.

Then come a registry full of such records, under every reading command (registry.py), and project files of an attacker
(project.py). The last are records that name objects of a cluster, and its answers (cluster.py), and keys of outputs
that choose a file (results.py).
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from mopsjobs.studies.field_values import MAX_TASKS
from reliability.hostile import cluster, project, registry, results
from reliability.hostile.child import BYTES_A_TASK, MANY_MEMORY
from reliability.hostile.ledger import ALL_READERS
from reliability.hostile.readers import Reader
from reliability.hostile.values import ODD, spoilt_in_each_place
from reliability.trial import Figure, PromiseBroken, Trial

EXAMPLES = 5_000
"""Inputs that Hypothesis makes for each reader, in the whole trial."""


def run(trial: Trial) -> Iterator[Figure]:
    """Yield all of it."""
    for reader in ALL_READERS:
        yield generated(reader, trial)
        if reader.document is not None:
            yield in_each_place(reader, trial)
        if next(reader.large(), None) is not None:
            yield large(reader, trial)
    yield bombs(trial)
    yield many_tasks(trial)
    yield from registry.run(trial)
    yield from project.run(trial)
    yield from cluster.run(trial)
    yield from results.run(trial)


def generated(reader: Reader, trial: Trial) -> Figure:
    """Let Hypothesis make inputs for a reader."""
    counts: Counter[bool] = Counter()

    @seed(trial.seed)
    @settings(
        max_examples=trial.times(EXAMPLES, 20),
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(reader.inputs)
    def one(value: bytes) -> None:
        counts[reader.check(value)] += 1

    try:
        one()
    except Exception as error:
        notes = "; ".join(getattr(error, "__notes__", []))
        raise PromiseBroken(f"{reader.name}: {type(error).__name__}: {error} ({notes})") from error
    return Figure(f"{reader.name}: by Hypothesis", f"{counts.total():,} inputs, {counts[True]:,} taken")


def in_each_place(reader: Reader, trial: Trial) -> Figure:
    """Put odd values into each place of a sound document, one at a time."""
    chosen = ODD[:: max(1, len(ODD) // trial.times(len(ODD), 4))]
    taken: Counter[bool] = Counter()
    for value, spoilt in spoilt_in_each_place(reader.document, chosen):
        try:
            taken[reader.check(spoilt)] += 1
        except Exception as error:
            where = f"{reader.name}: {value[:20]} in {spoilt[:300]!r}"
            raise PromiseBroken(f"{where}: {type(error).__name__}: {str(error)[:200]}") from error
    return Figure(f"{reader.name}: in each place", f"{taken.total():,} inputs, {taken[True]:,} taken")


def large(reader: Reader, trial: Trial) -> Figure:
    """Read what is large in one way each, in a process with bounds."""
    return Figure(f"{reader.name}: large", f"{_child(trial, 'large', reader.name).count(chr(10)):,} inputs")


def bombs(trial: Trial) -> Figure:
    """Read what unpacks to 10 GB."""
    told = _child(trial, "bombs")
    return Figure(
        "bombs of 10 GB", f"{told.count(chr(10)):,} read within 256 MiB of memory, and at most 1 MiB unpacked"
    )


def many_tasks(trial: Trial) -> Figure:
    """Read a manifest of a hundred bytes that names as many tasks as a job may have; fewer in a part of the trial."""
    tasks = trial.times(MAX_TASKS) if trial.scale < 1 else MAX_TASKS
    told = _child(trial, "many", str(tasks))
    allowed = (MANY_MEMORY + BYTES_A_TASK * tasks) // 2**20
    return Figure("a manifest with many tasks", f"{tasks:,} read {told.count(chr(10))} times within {allowed} MiB")


def _child(trial: Trial, *words: str) -> str:
    """Return what the process said that was started with these words, on stderr too."""
    root: Path = trial.directory / "tmp"
    root.mkdir(exist_ok=True)
    ran = subprocess.run(
        [sys.executable, "-m", "reliability.hostile.child", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(path or "." for path in sys.path), "TMPDIR": str(root)},
        check=False,
    )
    told = ran.stdout.decode("utf-8", "replace")
    if ran.returncode != 0:
        raise PromiseBroken(f"{' '.join(words)}: ended with {ran.returncode}: {told[-2000:]}")
    return told
