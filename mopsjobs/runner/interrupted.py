"""Run a task that is interrupted at its own checkpoints, and find out whether it goes on as if nothing had happened."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mopsjobs.ledger.attempt import Outcome
from mopsjobs.runner.checkpoints import directory_name
from mopsjobs.runner.pools.base import OnLog
from mopsjobs.runner.run_once import Place, RunResult, kept_outputs, open_pool_once, run_once
from mopsjobs.studies.study import Task
from mopsjobs.utils.files import make_directory
from mopsjobs.utils.scratch import scratch_directory

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
