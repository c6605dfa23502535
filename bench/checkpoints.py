"""What checkpoints cost: a task that saves one, and tasks of a model that saves none."""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path

from bench.machine import Setup
from bench.measure import progress
from bench.report import Line, at_most
from mopsjobs.api.checkpoint import Checkpoint
from mopsjobs.engines.model_process import write_worker
from mopsjobs.runner.checkpoints import Checkpoints, Origin
from mopsjobs.runner.pools.local import WorkerPool
from mopsjobs.studies.study_parser import parse_study

SIZE = 10 * 2**20
"""Bytes of a checkpoint."""

EVERY = 600.0
"""Seconds between two of them."""

MAX_SHARE = 1.0
"""Percent of the time of a task that its checkpoints may take."""

TASKS = 1_000

MAX_RATIO = 1.1
"""Of the time of tasks without checkpoints: the noise of a busy machine."""

SAVES_PER_ROUND = 4


def run(setup: Setup) -> list[Line]:
    """Time saves, and tasks that have the directory and do not use it beside tasks that have none."""
    code = setup.directory / "checkpoints-model"
    code.mkdir()
    (code / "model.py").write_text("def simulate(params, seed):\n    return params['x']\n")
    progress(f"saves of {SIZE // 2**20} MiB, and {TASKS:,} trivial tasks, {setup.runs} rounds")
    saves = [_save(setup.directory / f"saves-{number}") for number in range(setup.runs * SAVES_PER_ROUND)]
    with_them, without = [], []
    for number in range(setup.runs):
        with_them.append(_tasks(code, setup.directory / f"with-{number}", has_checkpoints=True))
        without.append(_tasks(code, setup.directory / f"without-{number}", has_checkpoints=False))
    saved = statistics.median(saves)
    share = 100 * saved / EVERY
    ratio = statistics.median(one / other for one, other in zip(with_them, without, strict=True))
    return [
        Line(
            f"save of {SIZE // 2**20} MiB, of a task that saves each {EVERY / 60:.0f} min",
            f"{1e3 * saved:.0f} ms, {share:.3f} %", f"{EVERY:.0f} s of work", None, None,
            at_most(MAX_SHARE, share, " %"),
        ),
        Line(
            f"{TASKS:,} trivial tasks that may save, and do not: processor time",
            f"{statistics.median(with_them):.2f} s",
            f"the same without checkpoints, {statistics.median(without):.2f} s", ratio, None,
            at_most(MAX_RATIO, ratio, " x"),
        ),
    ]  # fmt: skip


def _save(directory: Path) -> float:
    """Return how long a save blocks the model, whose state is in memory."""
    ck, state = Checkpoint(directory, EVERY), os.urandom(SIZE)
    began = time.perf_counter()
    ck.save(state, at=1)
    return time.perf_counter() - began


def _tasks(code: Path, directory: Path, *, has_checkpoints: bool) -> float:
    """Return the processor time of a pool and its worker for trivial tasks. A busy machine changes it little."""
    study = parse_study(
        {
            "model": "model:simulate",
            "parameter_sets": [{"x": number} for number in range(TASKS)],
            "outputs": ["result.json"],
        }
    )
    spool = directory / "spool"
    spool.mkdir(parents=True)
    checkpoints = None
    setup = {"root": str(code), "spool": str(spool), **study.setup}
    if has_checkpoints:
        checkpoints = Checkpoints([Origin("job", "", directory / "checkpoints", None)], None, lambda: None)
        setup["checkpoints"] = str(checkpoints.root)
    pool = WorkerPool([sys.executable, "-u", str(write_worker(spool))], setup, 1, checkpoints=checkpoints)
    began = sum(os.times()[:4])
    for result in pool.run(iter(enumerate(study.tasks()))):
        if checkpoints is not None and result is None:
            checkpoints.look((task.task, task.started_at) for task in pool.at_work())
    return sum(os.times()[:4]) - began
