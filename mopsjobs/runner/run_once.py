"""Run some tasks once on this machine, and return what they left. Neither a record nor a store is touched."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import NamedTuple

from mopsjobs.bundles.extraction import extract
from mopsjobs.engines.model_env import JOB_VARIABLES, model_environment, python_here
from mopsjobs.engines.model_process import write_worker
from mopsjobs.ledger.attempt import Usage
from mopsjobs.ledger.retry_policy import RetryPolicy
from mopsjobs.runner.checkpoints import EVERY_VARIABLE, EXIT_CODE, EXIT_VARIABLE, Checkpoints, Origin
from mopsjobs.runner.pools.base import OnLog, TaskLimits, TaskResult
from mopsjobs.runner.pools.local import WorkerPool
from mopsjobs.runner.shard import DEFAULT_CHECKPOINT_SECONDS
from mopsjobs.studies.study import Study, Task
from mopsjobs.submission.submit import PreparedJob
from mopsjobs.utils.cores import thread_limits, usable_cores
from mopsjobs.utils.scratch import scratch_directory

ONE_TRY = TaskLimits(policy=RetryPolicy(retries=0))
"""Also a task whose worker dies is not tried again."""


class Place(NamedTuple):
    """The code of a model, and the interpreter that runs it."""

    archive: bytes
    """The bundle."""
    study: Study
    python: str
    job_id: str
    """The job that the model is told."""
    env: Mapping[str, str]
    """The environment of this process."""
    limits: TaskLimits = ONE_TRY


class RunResult(NamedTuple):
    """The outputs of a task, or its error."""

    outputs: Mapping[str, bytes] | None
    """Those that its study keeps; None if it failed."""
    error: Mapping[str, str] | None
    """`type` and `message`, of an error in the model also `traceback`; None if it did not fail."""
    seconds: float = 0.0
    """How long its attempts took, added up."""
    cpu_seconds: float | None = None
    """Their processor time; None if it was not measured."""


def place_of(prepared: PreparedJob, archive: bytes, env: Mapping[str, str], policy: RetryPolicy) -> Place:
    """Return the place in which tasks of a job run on this machine before it is submitted.

    Args:
        prepared: the job.
        archive: its code.
        env: the environment of this process.
        policy: which attempts are followed by another one.
    """
    launch = prepared.launch
    python = launch.python or sys.executable
    if prepared.request.engine != "local":
        python = python_here(launch.python, env)
    limits = TaskLimits(launch.task_timeout, launch.task_memory, policy)
    return Place(archive, prepared.request.study, python, launch.job_id, env, limits)


def spread_tasks(study: Study, count: int, among: bytearray | None = None) -> list[Task]:
    """Return tasks of a study at equal distances, each in the middle of its part.

    Args:
        study: the study.
        count: how many, at most.
        among: has a 1 for each task that may be taken; None for all.
    """
    numbers = range(study.tasks_total) if among is None else [*compress(range(study.tasks_total), among)]
    count = min(count, len(numbers))
    chosen = (numbers[(2 * place + 1) * len(numbers) // (2 * count)] for place in range(count))
    return [*study.some_tasks(chosen)]


def run_once(place: Place, tasks: Sequence[Task], on_log: OnLog, *, workers: int = 1) -> dict[int, RunResult]:
    """Run tasks in new worker processes, in this order. Return what they left, by their numbers.

    Args:
        place: the code, and what runs it.
        tasks: the tasks.
        on_log: called with the number of a task, or None, and a line of the model.
        workers: worker processes.

    Raises:
        BundleError: if the bundle has content that is forbidden.
        ModelError: if the model cannot be loaded.
    """
    found: dict[int, RunResult] = {}
    used: dict[int, list[Usage]] = {}
    with scratch_directory() as directory:
        pool, checkpoints = open_pool_once(place, Path(directory), on_log, workers=workers)
        with contextlib.closing(pool.run(iter(enumerate(tasks)))) as results:
            for result in results:
                checkpoints.look((task.task, task.started_at) for task in pool.at_work())
                if result is None:
                    continue
                number = result.task.number
                used.setdefault(number, []).append(result.usage)
                if result.is_final:
                    cpu = [one.cpu_seconds for one in used[number] if one.cpu_seconds is not None]
                    seconds = sum(one.seconds or 0.0 for one in used[number])
                    total = sum(cpu) if cpu else None
                    found[number] = RunResult(kept_outputs(place.study, result), result.error, seconds, total)
    return found


def kept_outputs(study: Study, result: TaskResult) -> dict[str, bytes] | None:
    """Return the outputs of a task that its study keeps; None if it failed."""
    if result.error is not None:
        return None
    return {name: value for name, value in (result.outputs or {}).items() if study.keeps_output(name)}


def open_pool_once(
    place: Place, directory: Path, on_log: OnLog, *, workers: int = 1, every: float | None = None
) -> tuple[WorkerPool, Checkpoints]:
    """Return a pool of new worker processes, and the checkpoints of its tasks, which stay in the directory.

    Args:
        place: the code, and what runs it.
        directory: for all that the tasks have. A pool before may have used it.
        on_log: called with the number of a task, or None, and a line of the model.
        workers: worker processes.
        every: seconds between two checkpoints of a task; None: the default.

    Raises:
        BundleError: if the bundle has content that is forbidden.
    """
    root, spool = directory / "code", directory / "spool"
    if not root.exists():
        root.mkdir()
        extract(place.archive, str(root), sync=False)
    shutil.rmtree(spool, ignore_errors=True)
    spool.mkdir()
    checkpoints = Checkpoints(
        [Origin(place.job_id, "", directory / "checkpoints", None)], None, lambda: None, lambda line: on_log(None, line)
    )
    command = [place.python, "-u", str(write_worker(spool))]
    paths = {"root": str(root), "spool": str(spool), "checkpoints": str(checkpoints.root)}
    env = {**model_environment(place.env), **dict(zip(JOB_VARIABLES, (place.job_id, "0"), strict=True))}
    env |= thread_limits(env, usable_cores() // workers)
    env |= {EVERY_VARIABLE: f"{every or DEFAULT_CHECKPOINT_SECONDS:g}", EXIT_VARIABLE: str(EXIT_CODE)}
    setup = {**paths, **place.study.setup}
    pool = WorkerPool(
        command, setup, workers, limits=place.limits, on_log=on_log, env=env, checkpoints=checkpoints
    )  # fmt: skip
    return pool, checkpoints
