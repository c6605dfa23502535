"""The pool of workers, with real processes: every task comes to exactly one end, whatever its worker does."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.runner.pools import local as pool_module
from mopsjobs.runner.pools.base import TaskResult
from mopsjobs.runner.pools.local import WorkerPool
from support.runs import all_of, callers, calls, code, ends, final, is_alive, kill, pool_of, sets_of, study, until


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


def test_all_workers_work_at_once(model: Path, tmp_path: Path) -> None:
    """Three tasks of which each waits until three are being worked on, by three processes."""
    gate, noted = tmp_path / "gate", tmp_path / "calls"
    running = pool_of(model, 3).run(enumerate(study(sets_of(3, calls=str(noted), gate=str(gate))).tasks()))
    with contextlib.closing(running):
        next(running)
        until(lambda: noted.exists() and len(callers(noted)) == 3, "three workers at work")
        gate.touch()
        assert len([one for one in running if one is not None]) == 3
    assert len(set(callers(noted))) == 3


def test_no_more_workers_than_tasks(model: Path, tmp_path: Path) -> None:
    noted = tmp_path / "calls"
    pool = pool_of(model, 8)
    running = pool.run(enumerate(study(sets_of(2, calls=str(noted))).tasks()))
    with contextlib.closing(running):
        next(running)
        assert len(pool._workers) == 2


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


def test_two_thousand_trivial_tasks(model: Path) -> None:
    finished = all_of(pool_of(model), sets_of(2000))
    assert [_x(one) for one in finished] == list(range(2000))


def test_parameters_and_outputs_larger_than_any_pipe_do_not_deadlock(tmp_path: Path) -> None:
    source = "def simulate(params, seed):\n    return {'out': params['text'].encode() * 2}\n"
    directory = code(tmp_path / "code", source)
    sets = [{"x": number, "text": str(number) * 400_000} for number in range(8)]
    finished = all_of(pool_of(directory), sets)
    for number, one in enumerate(finished):
        assert one.outputs == {"out": str(number).encode() * 800_000}
    assert not os.listdir(tmp_path / "code-spool")


# --- workers that die -----------------------------------------------------------------------------------------------


def test_a_worker_killed_costs_its_task_one_more_try_and_nothing_else(model: Path, tmp_path: Path) -> None:
    noted = tmp_path / "calls"
    sets = sets_of(20, calls=str(noted))
    sets[7]["die"] = str(tmp_path / "died")
    finished = all_of(pool_of(model), sets)
    assert [_x(one) for one in finished] == list(range(20))
    assert calls(noted) == {number: 2 if number == 7 else 1 for number in range(20)}


def test_a_worker_killed_from_outside_is_replaced(model: Path, tmp_path: Path) -> None:
    gate, noted = tmp_path / "gate", tmp_path / "calls"
    sets = sets_of(6, calls=str(noted), gate=str(gate))
    running = pool_of(model, 1).run(enumerate(study(sets).tasks()))
    with contextlib.closing(running):
        next(running)
        until(noted.exists, "the first call")
        kill(callers(noted)[0])
        gate.touch()
        assert sorted(map(_x, final(running))) == list(range(6))
    assert calls(noted) == {0: 2, 1: 1, 2: 1, 3: 1, 4: 1, 5: 1}


def test_a_task_that_kills_two_workers_is_the_only_error(model: Path, tmp_path: Path) -> None:
    """The tasks behind it succeed.

    With one worker, the tasks that it was handed ahead of time lose it twice, and are not blamed.
    """
    noted = tmp_path / "calls"
    sets = sets_of(6, calls=str(noted))
    sets[2]["always_die"] = True
    finished = all_of(pool_of(model, 1), sets)
    assert _kinds(finished) == [None, None, "WorkerDied", None, None, None]
    assert finished[2].error == {"type": "WorkerDied", "message": "its worker died (SIGKILL)"}
    assert calls(noted) == {0: 1, 1: 1, 2: 2, 3: 1, 4: 1, 5: 1}


def test_several_deadly_tasks_in_a_row_end_none_of_the_others(model: Path) -> None:
    sets = [{"x": number, "always_die": number % 3 != 0} for number in range(9)]
    kinds = _kinds(all_of(pool_of(model), sets))
    assert kinds == [None if number % 3 == 0 else "WorkerDied" for number in range(9)]


def test_a_worker_whose_child_outlives_it_is_still_known_to_be_dead(model: Path, tmp_path: Path) -> None:
    """A forked child holds the pipes open: the end of the answers never comes."""
    child, killed = tmp_path / "child", tmp_path / "killed"
    sets = [{"x": 0, "fork": str(child), "killed": str(killed)}, {"x": 1}]
    assert [_x(one) for one in all_of(pool_of(model, 1), sets)] == [0, 1]


# --- what a model starts --------------------------------------------------------------------------------------------


def _all_ended(children: Path) -> bool:
    return not [pid for pid in children.read_text().split() if is_alive(int(pid))]


def test_what_a_model_has_started_ends_with_its_worker_that_dies(model: Path, tmp_path: Path) -> None:
    child, gate = tmp_path / "child", tmp_path / "gate"
    sets = [{"x": 0, "fork": str(child), "killed": str(tmp_path / "killed")}, {"x": 1, "gate": str(gate)}]
    with contextlib.closing(pool_of(model, 1).run(enumerate(study(sets).tasks()), wake_seconds=0.05)) as running:
        for one in running:
            if one is not None and one.position == 0 and one.is_final:
                break
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


def test_what_a_model_has_started_ends_with_the_tasks(tmp_path: Path) -> None:
    source = (
        "import subprocess\n"
        "def simulate(params, seed):\n"
        "    open(params['child'], 'a').write(str(subprocess.Popen(['sleep', '600']).pid) + '\\n')\n"
    )
    child = tmp_path / "child"
    all_of(pool_of(code(tmp_path / "code", source), 2), sets_of(4, child=str(child)))
    assert len(child.read_text().split()) == 4
    until(lambda: _all_ended(child), "the children to end")


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


def test_what_a_task_prints_is_told_with_its_number(model: Path) -> None:
    logged: list[tuple[int | None, str]] = []
    sets = [{"x": number, "say": f"line {number}\n\nmore"} for number in range(5)]
    all_of(pool_of(model, 1, on_log=lambda task, line: logged.append((task, line))), sets)
    assert [line for _, line in logged] == [line for n in range(5) for line in (f"line {n}", "more")]
    numbers: Any = [task for task, line in logged if line.startswith("line")]
    assert numbers == list(range(5))


def test_lines_of_a_task_that_still_works_carry_its_number(model: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    logged: list[tuple[int | None, str]] = []

    def on_log(task: int | None, line: str) -> None:
        logged.append((task, line))
        gate.touch()

    all_of(pool_of(model, 1, on_log=on_log), [{"x": 0, "say": "hello", "gate": str(gate)}])
    assert logged == [(0, "hello")]


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


def test_deaf_workers_are_waited_for_all_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "GRACE_SECONDS", 0.3)
    source = (
        "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "def simulate(params, seed):\n"
        "    open(params['pids'], 'a').write(str(os.getpid()) + '\\n')\n"
        "    time.sleep(600)\n"
    )
    pids = tmp_path / "pids"
    waited: list[float] = []
    pool = pool_of(code(tmp_path / "code", source), 3)
    running = pool.run(enumerate(study(sets_of(3, pids=str(pids))).tasks()))
    next(running)
    until(lambda: pids.exists() and len(pids.read_text().splitlines()) == 3, "three workers at work")

    def waits(wait: Any) -> Any:
        return lambda timeout=None: (waited.append(timeout or 0.0), wait(timeout))[1]

    for worker in pool._workers:
        monkeypatch.setattr(worker.process, "wait", waits(worker.process.wait))
    running.close()
    assert sum(waited) <= 0.3
    assert not [pid for pid in pids.read_text().split() if is_alive(int(pid))]


def test_workers_end_with_their_tasks(model: Path, tmp_path: Path) -> None:
    noted = tmp_path / "calls"
    all_of(pool_of(model), sets_of(6, calls=str(noted)))
    assert not [pid for pid in callers(noted) if is_alive(pid)]
