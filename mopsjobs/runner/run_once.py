"""Run some tasks once on this machine, and return what they left. Neither a record nor a store is touched."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

from mopsjobs.bundles.extraction import extract
from mopsjobs.engines.model_env import JOB_VARIABLES, model_environment, python_here
from mopsjobs.engines.model_process import write_worker
from mopsjobs.ledger.attempt import Outcome, Usage
from mopsjobs.ledger.retry_policy import RetryPolicy
from mopsjobs.runner.checkpoints import EVERY_VARIABLE, EXIT_CODE, EXIT_VARIABLE, Checkpoints, Origin, directory_name
from mopsjobs.runner.pools.base import OnLog, TaskLimits, TaskResult
from mopsjobs.runner.pools.local import WorkerPool
from mopsjobs.runner.shard import DEFAULT_CHECKPOINT_SECONDS
from mopsjobs.studies.study import Study, Task
from mopsjobs.submission.submit import PreparedJob
from mopsjobs.utils.cores import thread_limits, usable_cores
from mopsjobs.utils.files import make_directory
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


# --- a task that is interrupted at its own checkpoints: does it go on as if nothing had happened? ---------------------

LOOK_SECONDS = 0.01
"""How often new checkpoints are looked for."""

OBEYS_SECONDS = 5.0
"""After that time, a task is killed that was told to stop and has saved: its program does not look for `stop`."""


class Interruption(NamedTuple):
    """A task that was run undisturbed, and interrupted."""

    wanted: int
    """How often it was to be interrupted."""
    at: list[str]
    """The checkpoints from which it went on, by the names that the model gave them."""
    error: dict[str, str] | None
    """`type` and `message`, if the interrupted run failed."""
    different: dict[str, str]
    """How outputs differ from the undisturbed ones, by their names: the end of a sentence."""
    cause: str | None
    """Why they do, as far as further runs tell; None: they are equal, or there is nothing to compare."""

    @property
    def is_equal(self) -> bool:
        """Return whether the interrupted run left what the undisturbed one did."""
        return bool(self.at) and self.error is None and not self.different

    def to_json(self) -> dict[str, object]:
        """Return it as scripts get it."""
        return {"equal": self.is_equal, **self._asdict()}


def interrupt(place: Place, task: Task, count: int, undisturbed: RunResult, on_log: OnLog) -> Interruption:
    """Run a task again, in new processes, and interrupt it after some of its checkpoints.

    Args:
        place: the code, and what runs it.
        task: the task.
        count: how often.
        undisturbed: what it left without that.
        on_log: called with lines of the model.

    Raises:
        ModelError: if the model cannot be loaded.
    """
    runs = _Runs(place, task, undisturbed.seconds / (4 * count), on_log)
    with scratch_directory() as directory:
        root, first = Path(directory, "run"), Path(directory, "first")
        root.mkdir()
        chance = random.Random(task.seed)  # noqa: S311 - the same interruptions each time
        # The first one is at the first checkpoint, so that there is one however fast the task is.
        moments = [0.0, *sorted(chance.uniform(0, undisturbed.seconds) for _ in range(count - 1))]
        at: list[str] = []
        found = runs.attempt(root, moments[0], is_first=True)
        while not isinstance(found, RunResult):
            at.append(found)
            if len(at) == 1:
                shutil.copytree(root, first)
            moment = moments[len(at)] if len(at) < count else None
            found = runs.attempt(root, moment, kills=chance.random() < 0.5)
        error = None if found.error is None else {name: found.error[name] for name in ("type", "message")}
        different = {} if error is not None else _differences(undisturbed.outputs or {}, found.outputs or {})
        cause = runs.find_cause(undisturbed, first, at[0]) if at and different else None
    return Interruption(count, at, error, different, cause)


class _Runs(NamedTuple):
    place: Place
    task: Task
    every: float
    """Seconds between two checkpoints."""
    on_log: OnLog

    def attempt(
        self, root: Path, moment: float | None, *, is_first: bool = False, kills: bool = False
    ) -> RunResult | str:
        """Run the task from its last checkpoint. Return its result; if it was interrupted, the name of its checkpoint.

        Args:
            root: the directory of its attempts.
            moment: seconds of work after which to interrupt it, once it has saved; None: not at all.
            is_first: whether it has no checkpoint yet. It is told to stop before it begins.
            kills: whether to kill it. Otherwise it is told to stop, as before the end of a node.
        """
        task, told_at, started_at = self.task, None, None
        pool, checkpoints = open_pool_once(self.place, root, self.on_log, every=self.every)
        if is_first:
            make_directory(checkpoints.root / directory_name((task.param_id, task.seed)))
            checkpoints.tell_to_stop([task])
            told_at = time.monotonic()
        with contextlib.closing(pool.run(iter([(0, task)]), wake_seconds=LOOK_SECONDS)) as results:
            for result in results:
                if result is not None and result.outcome == Outcome.PREEMPTED:
                    if told_at is not None:
                        break
                elif result is not None:
                    return RunResult(kept_outputs(self.place.study, result), result.error)
                for attempt in pool.at_work():
                    started_at = attempt.started_at or time.time()
                    before = 0.0 if attempt.resumed is None else attempt.resumed.seconds
                    has_saved = checkpoints.end(task, started_at)
                    if moment is None or time.time() - started_at + before < moment:
                        continue
                    if kills and has_saved:
                        break
                    if told_at is None and not kills:
                        checkpoints.tell_to_stop([task])
                        told_at = time.monotonic()
                    if has_saved and told_at is not None and time.monotonic() - told_at > OBEYS_SECONDS:
                        break
                else:
                    continue
                break
        checkpoints.end(task, started_at)
        saved = checkpoints.last(task)
        return "its start" if saved is None else saved.at

    def find_cause(self, undisturbed: RunResult, first: Path, at: str) -> str:
        """Return why outputs differ, by further runs: an undisturbed one, and two from the same checkpoint."""
        again = run_once(self.place, [self.task], self.on_log)[self.task.number]
        if again.outputs != undisturbed.outputs:
            return "Two undisturbed runs differ, too. The model is not deterministic, so this says nothing of its save."
        copies = [shutil.copytree(first, first.with_name(f"again-{number}")) for number in range(2)]
        found = [self.attempt(copy, None) for copy in copies]
        one, other = (run.outputs if isinstance(run, RunResult) else None for run in found)
        if one != other:
            return (
                f"Two runs from the checkpoint {at} differ. After load, the model draws or reads something that is"
                " neither in its state nor made from its seed."
            )
        if one == undisturbed.outputs:
            return f"A run from the checkpoint {at} alone is equal. What differs comes into the state later."
        return (
            f"Each run from the checkpoint {at} differs in the same way. The state lacks something that the steps"
            " change, for example that of a random generator, or load does not put it back."
        )


def _differences(expected: Mapping[str, bytes], made: Mapping[str, bytes]) -> dict[str, str]:
    """Return how outputs differ, by their names."""
    names = sorted(name for name in expected.keys() | made.keys() if expected.get(name) != made.get(name))
    return {name: _difference(expected.get(name), made.get(name)) for name in names}


def _difference(expected: bytes | None, made: bytes | None) -> str:
    if expected is None or made is None:
        return "is only there if interrupted" if expected is None else "is not there if interrupted"
    with contextlib.suppress(ValueError):
        one, other = json.loads(expected), json.loads(made)
        if one != other:
            return f"differs {_place(one, other, '')}"
    lines = zip(expected.splitlines(), made.splitlines(), strict=False)
    number = next((number for number, (one, other) in enumerate(lines, 1) if one != other), None)
    return "differs in its length" if number is None else f"differs from line {number} on"


def _place(one: Any, other: Any, key: str) -> str:
    """Return the first place in which two values of JSON differ."""
    where = f"at key {key}" if key else "as a whole"
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        name = next(name for name in one if one[name] != other[name])
        return _place(one[name], other[name], f"{key}.{name}" if key else name)
    if isinstance(one, list) and isinstance(other, list):
        pairs = enumerate(zip(one, other, strict=False))
        index = next((index for index, (left, right) in pairs if left != right), min(len(one), len(other)))
        return f"{where} from index {index} on"
    return where
