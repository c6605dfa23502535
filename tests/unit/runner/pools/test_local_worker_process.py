"""What the pool of this machine says of an attempt: how it ended, and what it used, for models of known use."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mopsjobs.ledger.attempt import Outcome
from mopsjobs.runner.pools.base import TaskResult
from mopsjobs.runner.pools.process import RSS_UNIT
from mopsjobs.utils import measurement
from support.runs import all_of, code, ends, pool_of, sets_of, study, until

MIB = 1024 * 1024

SLACK = 0.25
"""Seconds of a processor that a task may use besides what it burns. The start of the model takes more."""

USER = """
START = 0.3  # of the model, which is no part of a task
import time
while time.process_time() < START: pass
import json, os, signal, subprocess, sys, time

BURN = "import time\\nwhile time.process_time() < {0}: pass"

def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass

def simulate(params, seed):
    if "after" in params:
        while not os.path.exists(params["after"]):
            time.sleep(0.005)
        os.remove(params["after"])
    burn(params.get("burn", 0))
    time.sleep(params.get("sleep", 0))
    block = bytearray(params.get("bytes", 0))
    for place in range(0, len(block), 4096):
        block[place] = 1
    del block
    if "child" in params:
        subprocess.run([sys.executable, "-S", "-c", BURN.format(params["child"])], check=True)
    if "fork" in params:
        pid = os.fork()
        if not pid:
            burn(params["fork"])
            os._exit(0)
        os.waitpid(pid, 0)
    if params.get("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    if params.get("memory"):
        raise MemoryError("none is left")
    if "gate" in params:
        open(params["gate"], "w").close()
        time.sleep(600)
    return {name: value for name, value in os.environ.items() if name.startswith("MOPS_JOBS_")}
"""


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """Return a model that uses what its parameters say."""
    return code(tmp_path / "user", USER)


def _cpu(one: TaskResult) -> float:
    assert one.usage.user_seconds is not None
    assert one.usage.system_seconds is not None
    return one.usage.user_seconds + one.usage.system_seconds


def test_what_a_task_uses_is_measured(user: Path) -> None:
    """Processor, time and memory are those of the task alone, also after a task that used more."""
    sets = [{"x": 0, "burn": 1}, {"x": 1, "sleep": 1}, {"x": 2, "bytes": 200 * MIB}, {"x": 3}]
    before = time.time()
    burnt, slept, touched, nothing = all_of(pool_of(user, 1), sets)
    assert 1 <= _cpu(burnt) <= 1 + SLACK
    assert (burnt.usage.seconds or 0) >= 1
    assert _cpu(slept) < SLACK
    assert (slept.usage.seconds or 0) >= 1
    base = nothing.usage.max_rss_bytes or 0
    assert 0 < base < 100 * MIB
    assert 0.9 * 200 * MIB <= (touched.usage.max_rss_bytes or 0) - base <= 1.1 * 200 * MIB
    for one in (burnt, slept, touched, nothing):
        assert (one.outcome, one.attempt, one.is_final) == (Outcome.SUCCEEDED, 1, True)
        assert (one.usage.host, one.usage.python) == (platform.node(), platform.python_version())
        assert before <= (one.started_at or 0) <= time.time()


def test_processes_that_a_task_waits_for_count_for_it(user: Path) -> None:
    """Programs and forks, besides what the task burns itself, and also for their start and end."""
    sets = [{"x": 0, "burn": 0.5, "child": 1}, {"x": 1, "burn": 0.5, "fork": 1}, {"x": 2}]
    program, fork, nothing = all_of(pool_of(user, 1), sets)
    assert 1.5 <= _cpu(program) <= 1.5 + SLACK
    assert 1.5 <= _cpu(fork) <= 1.5 + SLACK
    assert _cpu(nothing) < SLACK


def test_an_attempt_at_which_the_worker_died_is_measured_by_its_end(user: Path, tmp_path: Path) -> None:
    """Without what the start and the tasks before it used.

    The peak is that of the process, if no task before it had it. A process begins with the peak of the one that
    starts it, here that of these tests.
    """
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT + 200 * MIB
    begun, seen = tmp_path / "begun", set()
    dying = {"x": 1, "after": str(begun), "burn": 1, "die": True}
    pool = pool_of(user, 1)

    def let_begin() -> None:
        """Hold each attempt back until its time counts: a worker is ahead of a pool that waits for a processor."""
        for one in pool.at_work():
            if one.position == 1 and one.attempt not in seen:
                seen.add(one.attempt)
                begun.touch()

    _, *deaths = ends(pool, [{"x": 0, "burn": 1}, dying, {"x": 2, "bytes": size, "die": True}], let_begin)
    assert [(one.position, one.outcome, one.attempt, one.is_final) for one in deaths] == [
        (1, Outcome.DIED, 1, False),
        (1, Outcome.DIED, 2, True),
        (2, Outcome.DIED, 1, False),
        (2, Outcome.DIED, 2, True),
    ]
    for one in deaths[:2]:
        assert 1 <= _cpu(one) <= 1 + SLACK  # with that of the task before, it would be 2
        assert (one.usage.seconds or 0) >= 1
        assert (one.usage.host, one.usage.python) == (platform.node(), platform.python_version())
    for one in deaths[2:]:
        assert size <= (one.usage.max_rss_bytes or 0) <= size + 100 * MIB


def test_an_attempt_that_took_too_long_is_measured(user: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    passed = [0.0]

    def clock() -> float:
        passed[0] += gate.exists()
        return passed[0]

    sets = [{"x": 0, "burn": 2, "bytes": 100 * MIB, "gate": str(gate)}]
    (late,) = all_of(pool_of(user, 1, timeout=5, clock=clock), sets)
    assert late.outcome == Outcome.TIMEOUT
    assert 2 <= _cpu(late) <= 2 + SLACK
    assert 100 * MIB <= (late.usage.max_rss_bytes or 0) <= 200 * MIB


def test_no_memory_left_is_an_outcome_of_its_own(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A MemoryError, or a kill while the kernel counts one; a kill without that is a death."""
    counted = [0]
    monkeypatch.setattr(measurement, "count_oom_kills", lambda: counted[0])
    pool = pool_of(user, 1)
    counted[0] = 1
    results = list(ends(pool, [{"x": 0, "memory": True}, {"x": 1, "die": True}]))
    assert [str(one.outcome) for one in results] == ["oom", "oom", "died"]
    assert [one.error and one.error["type"] for one in results] == ["MemoryError", "OutOfMemory", "WorkerDied"]


def test_an_error_names_the_line_of_the_model(tmp_path: Path) -> None:
    """The innermost line of its own code, although a library raised it."""
    source = "import json\n\ndef inner():\n    json.loads('{')\n\ndef simulate(params, seed):\n    inner()\n"
    (one,) = all_of(pool_of(code(tmp_path / "code", source), 1), [{"x": 0}])
    assert one.error is not None
    assert (one.error["type"], one.error["at"]) == ("JSONDecodeError", "model.py:4")


def test_a_task_finds_itself_in_its_environment(user: Path) -> None:
    pool = pool_of(user, 1, env={**os.environ, "MOPS_JOBS_JOB_ID": "job", "MOPS_JOBS_SHARD": "3"})
    sets = sets_of(2)
    for one, task in zip(all_of(pool, sets), study(sets).tasks(), strict=True):
        assert one.outputs is not None
        found = json.loads(one.outputs["result.json"])
        assert {name: text for name, text in found.items() if name.removeprefix("MOPS_JOBS_") in _NAMES} == {
            "MOPS_JOBS_JOB_ID": "job",
            "MOPS_JOBS_SHARD": "3",
            "MOPS_JOBS_TASK": str(task.number),
            "MOPS_JOBS_PARAM_ID": task.param_id,
            "MOPS_JOBS_SEED": str(task.seed),
        }


_NAMES = {"JOB_ID", "SHARD", "TASK", "PARAM_ID", "SEED"}


def test_the_attempts_at_work_are_those_that_have_begun(model: Path, tmp_path: Path) -> None:
    """Not those that a worker has been handed ahead of time, and none before the model is loaded."""
    gate, noted = tmp_path / "gate", tmp_path / "calls"
    pool = pool_of(model, 2)
    sets = sets_of(8, gate=str(gate), calls=str(noted))
    running = pool.run(enumerate(study(sets).tasks()), wake_seconds=0.05)
    with contextlib.closing(running):
        next(running)
        assert pool.at_work() == []
        _step_until(running, lambda: len(pool.at_work()) == 2)
        first, second = pool.at_work()
        assert (first.position, first.attempt, second.position) == (0, 1, 1)
        assert first.started_at is not None
        assert first.host == platform.node()
        gate.touch()
        _step_until(running, lambda: not pool.at_work())


def _step_until(running: object, condition: Callable[[], bool]) -> None:
    until(lambda: next(running, None) is None and condition(), "the pool")  # type: ignore[call-overload]
