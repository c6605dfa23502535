"""The pool of workers, with real processes: every task comes to exactly one end, whatever its worker does."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.engines.model_errors import ModelError
from mopsjobs.engines.model_process import WORKER
from mopsjobs.ledger.attempt import Outcome
from mopsjobs.runner.pools import local as pool_module
from mopsjobs.runner.pools.base import TaskLimits, TaskResult
from mopsjobs.runner.pools.local import WorkerPool
from mopsjobs.studies.study import Task
from mopsjobs.utils import measurement
from support.runs import MIB, all_of, callers, calls, code, ends, final, is_alive, pool_of, sets_of, study, until


def _x(one: TaskResult) -> int:
    assert one.outputs is not None, one.error
    return int(json.loads(one.outputs["result.json"])["x"])


@pytest.fixture(autouse=True)
def _quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look more often whether workers live."""
    monkeypatch.setattr(pool_module, "LIVENESS_SECONDS", 0.05)


class StuckClock:
    """A clock that stands, but while a task hangs: then a second passes whenever it is read."""

    def __init__(self, hangs: Callable[[], bool]) -> None:
        self._hangs = hangs
        self._seconds = 0.0

    def __call__(self) -> float:
        self._seconds += self._hangs()
        return self._seconds


def _kinds(finished: list[TaskResult]) -> list[str | None]:
    return [None if one.error is None else one.error["type"] for one in finished]


# --- all tasks, all workers -----------------------------------------------------------------------------------------


def test_every_task_ends_once_with_its_own_outputs(model: Path) -> None:
    sets = sets_of(50)
    finished = all_of(pool_of(model, 3), sets)
    assert [_x(one) for one in finished] == list(range(50))
    assert [one.task for one in finished] == list(study(sets).tasks())


def test_no_tasks_start_no_process(tmp_path: Path) -> None:
    pool = WorkerPool([str(tmp_path / "nothing")], {}, 2)
    assert list(pool.run(iter(()))) == []


def test_an_end_keeps_what_workers_have_that_are_not_ready(tmp_path: Path) -> None:
    """They may have begun it before their word is read. Each worker ends the task that it has; none begins another."""
    pool = pool_of(code(tmp_path / "code"), 2)
    running = pool.run(enumerate(study(sets_of(9)).tasks()), wake_seconds=0.05)
    assert next(running) is None  # both are started, and nothing that they say was read
    pool.keep_only()
    finished = list(final(running))
    assert {_x(one) for one in finished} == {0, 1}
    assert _kinds(finished) == [None, None]


def test_a_slow_task_does_not_keep_the_others(model: Path, tmp_path: Path) -> None:
    """All but the slow one, and the one that its worker has next, end while it still works."""
    gate = tmp_path / "gate"
    done: list[int] = []
    for one in ends(pool_of(model), [{"x": 0, "gate": str(gate)}, *sets_of(40)[1:]]):
        done.append(_x(one))
        if len(done) == 38:
            assert 0 not in done
            gate.touch()
    assert sorted(done) == list(range(40))


def test_parameters_and_outputs_larger_than_any_pipe_do_not_deadlock(tmp_path: Path) -> None:
    source = "def simulate(params, seed):\n    return {'out': params['text'].encode() * 2}\n"
    directory = code(tmp_path / "code", source)
    sets = [{"x": number, "text": str(number) * 400_000} for number in range(8)]
    finished = all_of(pool_of(directory), sets)
    for number, one in enumerate(finished):
        assert one.outputs == {"out": str(number).encode() * 800_000}
    assert not os.listdir(tmp_path / "code-spool")


def test_a_worker_killed_costs_its_task_a_try_and_a_second_one_its_end(model: Path, tmp_path: Path) -> None:
    """All other tasks succeed.

    With one worker, the tasks that it was handed ahead of time lose it, and are not blamed.
    """
    noted = tmp_path / "calls"
    sets = sets_of(7, calls=str(noted))
    sets[2]["always_die"] = True
    sets[5]["die"] = str(tmp_path / "died")
    finished = all_of(pool_of(model, 1), sets)
    assert _kinds(finished) == [None, None, "WorkerDied", None, None, None, None]
    assert finished[2].error == {"type": "WorkerDied", "message": "its worker died (SIGKILL)"}
    assert calls(noted) == {number: 2 if number in (2, 5) else 1 for number in range(7)}


# --- workers that die -----------------------------------------------------------------------------------------------


def test_what_a_killed_task_left_in_its_directory_is_removed(tmp_path: Path) -> None:
    source = (
        "import os\n"
        "def simulate(params, seed):\n"
        "    open(os.environ['MOPS_JOBS_TASK_DIR'] + '/trace.csv', 'x').close()\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    finished = all_of(pool_of(code(tmp_path / "code", source), 1), sets_of(1))
    assert _kinds(finished) == ["WorkerDied"]
    assert list(tmp_path.rglob("trace.csv")) == list(tmp_path.rglob("worker-*")) == []


def test_a_worker_whose_child_outlives_it_is_still_known_to_be_dead(model: Path, tmp_path: Path) -> None:
    """A forked child holds the pipes open: the end of the answers never comes."""
    child, killed = tmp_path / "child", tmp_path / "killed"
    sets = [{"x": 0, "fork": str(child), "killed": str(killed)}, {"x": 1}]
    assert [_x(one) for one in all_of(pool_of(model, 1), sets)] == [0, 1]


def _all_ended(children: Path) -> bool:
    return not [pid for pid in children.read_text().split() if is_alive(int(pid))]


# --- what a model starts --------------------------------------------------------------------------------------------


def test_what_a_model_has_started_ends_with_its_worker_that_dies(model: Path, tmp_path: Path) -> None:
    child, gate = tmp_path / "child", tmp_path / "gate"
    sets = [{"x": 0, "fork": str(child), "killed": str(tmp_path / "killed")}, {"x": 1, "gate": str(gate)}]
    with contextlib.closing(pool_of(model, 1).run(enumerate(study(sets).tasks()), wake_seconds=0.05)) as running:
        until(lambda: (one := next(running)) is not None and one.position == 0 and one.is_final, "the first task")
        (first, *_) = child.read_text().split()  # that of the worker that died; its successor is at work
        until(lambda: not is_alive(int(first)), "the child to end")


def test_what_a_model_has_started_ends_with_a_task_that_takes_too_long(tmp_path: Path) -> None:
    source = (
        "import os, time\n"
        "def simulate(params, seed):\n"
        "    if os.fork() == 0:\n"
        "        open(params['child'] + '.new', 'w').write(str(os.getpid()))\n"
        "        os.rename(params['child'] + '.new', params['child'])\n"
        "    time.sleep(600)\n"
    )
    child = tmp_path / "child"
    pool = pool_of(code(tmp_path / "code", source), 1, timeout=2, clock=StuckClock(child.exists))
    finished = all_of(pool, [{"child": str(child)}])
    assert _kinds(finished) == ["Timeout"]
    until(lambda: _all_ended(child), "the child to end")


# --- tasks that fail, and tasks that take too long ------------------------------------------------------------------


def test_an_exception_ends_its_task_and_the_worker_goes_on(model: Path, tmp_path: Path) -> None:
    noted = tmp_path / "calls"
    sets = sets_of(5, calls=str(noted))
    sets[1]["fail"] = True
    finished = all_of(pool_of(model, 1), sets)
    assert _kinds(finished) == [None, "ValueError", None, None, None]
    assert finished[1].error is not None
    assert finished[1].error["message"] == "as asked"
    assert "model.py" in finished[1].error["traceback"]
    assert len(set(callers(noted))) == 1


def test_a_task_that_takes_too_long_is_stopped_and_those_behind_it_run(model: Path, tmp_path: Path) -> None:
    noted = tmp_path / "calls"
    sets = sets_of(5, calls=str(noted))
    sets[1]["gate"] = str(tmp_path / "never")

    def hangs() -> bool:
        return len(calls(noted)) > 1 and is_alive(callers(noted)[1])

    finished = all_of(pool_of(model, 1, timeout=1.5, clock=StuckClock(hangs)), sets)
    assert _kinds(finished) == [None, "Timeout", None, None, None]
    assert finished[1].error == {"type": "Timeout", "message": "it took longer than 1.5 s"}
    assert calls(noted) == dict.fromkeys(range(5), 1)
    assert not is_alive(callers(noted)[1])


def test_queueing_and_loading_do_not_count_towards_the_timeout(tmp_path: Path) -> None:
    """Each takes less than the timeout; the loading, and two of them together, take longer.

    The model says how much time passes. A task begins when the answer of the one before it has been taken.
    """
    passed, gate = tmp_path / "passed", tmp_path / "gate"
    source = (
        "import os, time\n"
        f"def take(seconds):\n    with open({str(passed)!r}, 'a') as f: f.write(f'{{seconds}}\\n')\n"
        "take(2)\n"
        "def simulate(params, seed):\n"
        f"    while not os.path.exists({str(gate)!r} + str(params['x'])): time.sleep(0.005)\n"
        "    take(0.8)\n"
        "    return 1\n"
    )

    def clock() -> float:
        return sum(map(float, passed.read_text().split("\n")[:-1])) if passed.exists() else 0.0

    finished = []
    Path(f"{gate}0").touch()
    pool = pool_of(code(tmp_path / "code", source), 1, timeout=1.5, clock=clock)
    for one in ends(pool, sets_of(3)):
        finished.append(one)
        Path(f"{gate}{one.position + 1}").touch()
    assert _kinds(finished) == [None] * 3
    assert clock() == pytest.approx(4.4)


# --- what the model prints ------------------------------------------------------------------------------------------


def test_the_lines_of_a_task_come_before_its_end(tmp_path: Path) -> None:
    """Also those that the model had not let go of when it raised: its traceback stands behind them."""
    source = "def simulate(params, seed):\n    print('before', params['x'])\n    raise ValueError(params['x'])\n"
    told: list[str] = []
    pool = pool_of(code(tmp_path / "code", source), 2, on_log=lambda _task, line: told.append(line))
    for one in ends(pool, sets_of(20)):
        assert one.error is not None
        told.append(f"ended {one.error['message']}")
    assert all(told.index(f"before {number}") < told.index(f"ended {number}") for number in range(20))


def test_the_last_words_of_a_worker_that_dies_are_told(tmp_path: Path) -> None:
    source = "import os\ndef simulate(params, seed):\n    os.write(2, b'without an end \\xff')\n    os.abort()\n"
    logged: list[tuple[int | None, str]] = []
    directory = code(tmp_path / "code", source)
    (one,) = all_of(pool_of(directory, 1, on_log=lambda task, line: logged.append((task, line))), [{"x": 0}])
    assert one.error is not None
    assert "SIGABRT" in one.error["message"]
    assert logged == [(0, "without an end \ufffd")] * 2


# --- the end --------------------------------------------------------------------------------------------------------


def test_closing_in_the_middle_leaves_no_process(model: Path, tmp_path: Path) -> None:
    noted = tmp_path / "calls"
    sets = sets_of(8, calls=str(noted), gate=str(tmp_path / "never"))
    running = pool_of(model, 3).run(enumerate(study(sets).tasks()))
    next(running)
    until(lambda: noted.exists() and len(callers(noted)) == 3, "three workers at work")
    running.close()
    assert not [pid for pid in callers(noted) if is_alive(pid)]
    assert len(callers(noted)) == 3


def test_a_model_deaf_to_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "GRACE_SECONDS", 0.2)
    source = (
        "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "def simulate(params, seed):\n    open(params['pid'], 'w').write(str(os.getpid()) + ' ')\n    time.sleep(600)\n"
    )
    directory, pid = code(tmp_path / "code", source), tmp_path / "pid"
    running = pool_of(directory, 1).run(enumerate(study([{"x": 0, "pid": str(pid)}]).tasks()))
    next(running)
    number = int(until(lambda: pid.exists() and pid.read_text().endswith(" ") and pid.read_text(), "the task"))
    running.close()
    assert not is_alive(number)


# --- models and interpreters that cannot be loaded -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "told", "hint"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'", "--python"),
        ("import sys; sys.exit('no licence')", "SystemExit: no licence", "line 1 of model.py"),
        ("def other(): pass", "AttributeError: there is no 'simulate' in {code}/model.py", None),
        ("def simulate(", "SyntaxError: ", "line 1 of model.py"),
    ],
)
def test_a_model_that_cannot_be_loaded_says_why(tmp_path: Path, source: str, told: str, hint: str | None) -> None:
    pool = pool_of(code(tmp_path / "code", source))
    with pytest.raises(ModelError) as caught:
        all_of(pool, sets_of(4))
    assert str(caught.value).startswith(f"The model cannot be loaded: {told.format(code=tmp_path / 'code')}")
    assert (caught.value.hint is None) if hint is None else (hint in (caught.value.hint or ""))


def test_a_model_that_kills_its_interpreter_on_loading_is_given_up(tmp_path: Path) -> None:
    directory = code(tmp_path / "code", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(ModelError, match=r"ends before it is ready \(SIGKILL\)"):
        all_of(pool_of(directory), sets_of(50))


@pytest.mark.parametrize("kind", ["missing", "directory", "no program", "not executable"])
def test_an_interpreter_that_does_not_start_is_named(model: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "python"
    if kind == "directory":
        path.mkdir()
    elif kind != "missing":
        path.write_text("no program\n")
        path.chmod(0o755 if kind == "no program" else 0o644)
    pool = WorkerPool([str(path), str(WORKER)], {"root": str(model), "entrypoint": "m:f/b", "spool": "."}, 2)
    with pytest.raises(ModelError) as caught:
        all_of(pool, sets_of(4))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("says", ["hello", "[1]", "7"])
def test_a_program_that_is_no_python_is_told_by_what_it_says(model: Path, says: str) -> None:
    """It may well answer, and end with 0."""
    setup = {"root": str(model), "entrypoint": "model:simulate/b", "spool": "."}
    with pytest.raises(ModelError, match="is not a Python interpreter; it says: ") as caught:
        all_of(WorkerPool(["/bin/echo", says], setup, 2), sets_of(4))
    assert repr(says) in str(caught.value)


# --- tasks that are reductions ---------------------------------------------------------------------------------------

REDUCING = """
import os, time

def wait_for(path):
    end = time.monotonic() + 600
    while not os.path.exists(path) and time.monotonic() < end:
        time.sleep(0.005)

def reduce(params, tasks):
    if params["reads"]:
        wait_for(params["begun"])
        return {"tasks": [task.number for task in tasks]}
    open(params["begun"], "x").close()
    wait_for(params["gate"])
    return {"tasks": []}
"""


def _pool_of(tmp_path: Path, size: int, feed: object, clock: object, timeout: float | None = None) -> WorkerPool:
    setup = {"root": str(code(tmp_path / "code", REDUCING)), "spool": str(tmp_path), "reduce": "model:reduce"}
    command = [sys.executable, "-u", str(WORKER.with_name("reduce_script.py"))]
    return WorkerPool(command, setup, size, limits=TaskLimits(timeout), feed=feed, clock=clock)  # type: ignore[arg-type]


def test_reading_outputs_does_not_count_towards_the_timeout_of_any_task(tmp_path: Path) -> None:
    """The pool reads for one worker while the other one is at work. Each read takes longer than the timeout."""
    now = [0.0]
    gate, begun = tmp_path / "gate", tmp_path / "begun"
    answers = [{"tasks": [{"task": 7, "params": {}, "param_id": "p", "seed": 1, "outputs": {}}]}, {"tasks": []}]

    def feed(_reduction: Task, *, is_first: bool) -> bytes:
        assert is_first is (len(answers) == 2)
        now[0] += 10
        return json.dumps(answers.pop(0)).encode() + b"\n"

    pool = _pool_of(tmp_path, 2, feed, lambda: now[0], timeout=5)
    files = {"gate": str(gate), "begun": str(begun)}
    tasks = [
        Task(number, "p", 1, {"params": {"reads": reads, **files}, "tasks": 1, "missing": 0})
        for number, reads in enumerate((False, True))
    ]
    ended: list[TaskResult] = []
    for one in final(pool.run(enumerate(tasks), wake_seconds=0.05)):
        ended.append(one)
        gate.touch()
    assert now == [20.0]
    assert [one.error for one in ended] == [None, None]
    assert [one.position for one in ended] == [1, 0]
    assert ended[0].outputs is not None
    assert json.loads(ended[0].outputs["result.json"]) == {"tasks": [7]}


# --- what an attempt used --------------------------------------------------------------------------------------------

USER = """
START = {start}  # of the model, which is no part of a task
import time
while time.process_time() < START: pass
import json, os, signal, subprocess, sys, time

BURN = "import time\\nwhile time.process_time() < {0}: pass"

def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass

def simulate(params, seed):
    burn(params.get("burn", 0))
    time.sleep(params.get("sleep", 0))
    block = bytearray(params.get("bytes", 0))
    for place in range(0, len(block), 4096):
        block[place] = 1
    del block
    if "child" in params:
        subprocess.run([sys.executable, "-S", "-c", BURN.format(params["child"])], check=True)
    if params.get("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    if params.get("memory"):
        raise MemoryError("none is left")
    if "hangs" in params:
        open(params["hangs"], "w").close()
        time.sleep(600)
    return {name: value for name, value in os.environ.items() if name.startswith("MOPS_JOBS_")}
"""


@pytest.fixture(scope="module")
def slack() -> float:
    """Return the seconds of a processor that a task may use besides what it burns: on a slow one, a Python takes more.

    The start of the model takes more than that, and so does what a task burns here.
    """
    before = os.times()
    subprocess.run([sys.executable, "-S", "-c", ""], check=True)
    after = os.times()
    return max(0.25, 6 * (after.children_user + after.children_system - before.children_user - before.children_system))


@pytest.fixture
def user(tmp_path: Path, slack: float) -> Path:
    """Return a model that uses what its parameters say."""
    return code(tmp_path / "user", USER.replace("{start}", str(1.2 * slack)))


def _cpu(one: TaskResult) -> float:
    assert one.usage.user_seconds is not None
    assert one.usage.system_seconds is not None
    return one.usage.user_seconds + one.usage.system_seconds


def test_what_a_task_uses_is_measured(user: Path, slack: float) -> None:
    """Processor, time and memory are those of the task and of programs that it waits for, also after a larger task."""
    burn = 2 * slack
    sets = [{"burn": burn}, {"sleep": 0.5}, {"bytes": 200 * MIB}, {"burn": slack, "child": burn}, {}]
    before = time.time()
    burnt, slept, touched, program, nothing = finished = all_of(pool_of(user, 1), sets)
    assert burn <= _cpu(burnt) <= burn + slack
    assert burn + slack <= _cpu(program) <= burn + 2 * slack
    assert _cpu(slept) < slack
    assert _cpu(nothing) < slack
    assert min(burnt.usage.seconds or 0, slept.usage.seconds or 0) >= 0.5
    base = nothing.usage.max_rss_bytes or 0
    assert 0 < base < 100 * MIB
    assert 0.9 * 200 * MIB <= (touched.usage.max_rss_bytes or 0) - base <= 1.1 * 200 * MIB
    for one in finished:
        assert (one.outcome, one.attempt, one.is_final) == (Outcome.SUCCEEDED, 1, True)
        assert (one.usage.host, one.usage.python) == (platform.node(), platform.python_version())
        assert before <= (one.started_at or 0) <= time.time()


def test_an_attempt_that_took_too_long_is_measured(user: Path, tmp_path: Path, slack: float) -> None:
    hangs = tmp_path / "hangs"
    sets = [{"burn": 2 * slack, "bytes": 100 * MIB, "hangs": str(hangs)}]
    (late,) = all_of(pool_of(user, 1, timeout=5, clock=StuckClock(hangs.exists)), sets)
    assert late.outcome == Outcome.TIMEOUT
    assert 2 * slack <= _cpu(late) <= 3 * slack
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


def test_a_task_finds_itself_in_its_environment(user: Path) -> None:
    pool = pool_of(user, 1, env={**os.environ, "MOPS_JOBS_JOB_ID": "job", "MOPS_JOBS_SHARD": "3"})
    sets = sets_of(2)
    for one, task in zip(all_of(pool, sets), study(sets).tasks(), strict=True):
        assert one.outputs is not None
        found = json.loads(one.outputs["result.json"])
        told = {"JOB_ID": "job", "SHARD": "3", "TASK": task.number, "PARAM_ID": task.param_id, "SEED": task.seed}
        assert found.items() >= {f"MOPS_JOBS_{name}": str(value) for name, value in told.items()}.items()


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


FLAKY = """
import os, signal, time

def simulate(params, seed):
    with open(params["calls"], "a") as file:
        file.write("%s %s\\n" % (params["x"], os.getpid()))
    with open(params["calls"]) as file:
        calls = sum(line.startswith("%s " % params["x"]) for line in file)
    if calls <= params.get("times", 0):
        if params["how"] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if params["how"] == "hang":
            time.sleep(600)
        raise {"ConnectionError": ConnectionError, "ValueError": ValueError, "MemoryError": MemoryError}[params["how"]]
    return calls
"""


@pytest.fixture
def flaky(tmp_path: Path) -> Path:
    """Return a model that fails as often as its parameters say, and how."""
    return code(tmp_path / "flaky", FLAKY)


def _attempts(results: Iterator[TaskResult]) -> list[tuple[int, str, bool]]:
    return [(one.attempt, str(one.outcome), one.is_final) for one in results]


@pytest.mark.parametrize(
    ("how", "options", "expected"),
    [
        ("die", {}, [(1, "died", False), (2, "died", True)]),
        ("die", {"retries": 0}, [(1, "died", True)]),
        ("die", {"retries": 3}, [(1, "died", False), (2, "died", False), (3, "succeeded", True)]),
        ("die", {"retry_on": "timeout"}, [(1, "died", True)]),
        ("ValueError", {"retries": 9}, [(1, "failed", True)]),
        ("ValueError", {"retries": 9, "retry_on": "died,oom,timeout,error:TypeError"}, [(1, "failed", True)]),
        ("MemoryError", {}, [(1, "oom", True)]),
        (
            "MemoryError",
            {"retries": 2, "retry_on": "oom"},
            [(1, "oom", False), (2, "oom", False), (3, "succeeded", True)],
        ),
    ],
)
def test_a_task_is_tried_again_only_after_the_causes_asked_for(
    flaky: Path, tmp_path: Path, how: str, options: dict[str, Any], expected: list[tuple[int, str, bool]]
) -> None:
    """By default twice if its worker dies, and never after an error whose type is not named."""
    noted = tmp_path / "calls"
    sets = sets_of(1, calls=str(noted), how=how, times=2)
    assert _attempts(ends(pool_of(flaky, 1, **options), sets)) == expected
    assert calls(noted) == {0: len(expected)}


def test_a_task_that_took_too_long_is_tried_again_if_asked_for(flaky: Path, tmp_path: Path) -> None:
    noted = tmp_path / "calls"
    passed = [0.0]

    def clock() -> float:
        passed[0] += calls(noted) == {0: 1}
        return passed[0]

    pool = pool_of(flaky, 1, timeout=5, retry_on="timeout", clock=clock)
    results = ends(pool, sets_of(1, calls=str(noted), how="hang", times=1))
    assert _attempts(results) == [(1, "timeout", False), (2, "succeeded", True)]


def test_an_error_is_tried_again_after_a_pause_in_which_others_run(flaky: Path, tmp_path: Path) -> None:
    """Of one second, then two. Only the clock of the pool ends a pause."""
    noted = tmp_path / "calls"
    now = [0.0]
    sets = sets_of(4, calls=str(noted), how="ConnectionError", times=0)
    sets[0]["times"] = 2
    pool = pool_of(flaky, 1, retries=2, retry_on="error:ConnectionError", clock=lambda: now[0])
    with contextlib.closing(pool.run(enumerate(study(sets).tasks()), wake_seconds=0.01)) as running:
        assert [(one.position, one.attempt) for one in _next_results(running, 4)] == [(0, 1), (1, 1), (2, 1), (3, 1)]
        for attempt, pause in ((2, 1.0), (3, 2.0)):
            now[0] += pause - 0.01
            assert not [one for one in _some(running, 10) if one is not None]
            now[0] += 0.02
            (result,) = _next_results(running, 1)
            assert (result.position, result.attempt) == (0, attempt)
        assert result.error is None
        assert next(running, None) is None


def _some(running: Iterator[TaskResult | None], count: int) -> list[TaskResult | None]:
    return [next(running) for _ in range(count)]


def _next_results(running: Iterator[TaskResult | None], count: int) -> list[TaskResult]:
    found: list[TaskResult] = []

    def step() -> bool:
        one = next(running)
        found.extend([] if one is None else [one])
        return len(found) == count

    until(step, "a result")
    return found
