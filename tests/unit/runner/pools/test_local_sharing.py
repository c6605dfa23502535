"""Pools that share cores: workers come and go, and each job gets its turn."""

from __future__ import annotations

import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.runner.pools import local
from mopsjobs.runner.pools.base import TaskResult
from mopsjobs.runner.pools.local import WorkerPool
from mopsjobs.runner.pools.shared_cores import SharedCores
from mopsjobs.runner.pools.task_queue import Assignment
from support.runs import PATIENCE, all_of, callers, calls, code, is_alive, pool_of, sets_of, study, until

Running = Generator[TaskResult | None, None, None]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return the directory of a model that does what its parameters say."""
    return code(tmp_path / "code")


def _cores(tmp_path: Path, limit: int = 2) -> SharedCores:
    """Return the cores of a machine, for a pool that looks each time whether another one waits."""
    moments = iter(range(10**6))
    return SharedCores(tmp_path / "cores", limit, clock=lambda: float(next(moments)))


def _begin(pool: WorkerPool, sets: list[dict[str, Any]]) -> Running:
    running = pool.run(enumerate(study(sets).tasks()), wake_seconds=0.02)
    assert next(running) is None
    return running


def _step(*all_running: Running, until_ended: Running) -> None:
    """Let pools go on in turn until one of them has ended."""
    end = object()
    for _ in range(2000):
        for running in all_running:
            if next(running, end) is end and running is until_ended:
                return
    raise AssertionError("the pool takes too long")


def test_a_job_with_several_workers_gives_one_up_for_a_job_without(model: Path, tmp_path: Path) -> None:
    """The second job ends while the first one still has tasks, and then the first has both cores again."""
    gate, noted = tmp_path / "gate", tmp_path / "noted"
    first, second = (pool_of(model, cores=_cores(tmp_path)) for _ in range(2))
    long = _begin(first, [*sets_of(6, calls=str(noted)), *sets_of(4, gate=str(gate), calls=str(noted))])
    short = _begin(second, sets_of(3))
    assert (first.is_waiting, second.is_waiting) == (False, True)
    _step(long, short, until_ended=short)
    assert not second.is_waiting
    assert sum(calls(noted).values()) < 10
    until(lambda: next(long) is None and first.workers == 2, "the first job to have two workers again")
    gate.touch()
    assert len([one for one in long if one is not None]) > 0
    assert sum(calls(noted).values()) == 10


def test_a_worker_without_a_task_gives_its_core_back(model: Path, tmp_path: Path) -> None:
    """While the last task of its job still runs: the other job begins."""
    gate, noted = tmp_path / "gate", tmp_path / "noted"
    first, second = (pool_of(model, cores=_cores(tmp_path)) for _ in range(2))
    sets = sets_of(2, calls=str(noted))
    sets[1]["gate"] = str(gate)
    ending = _begin(first, sets)
    until(lambda: next(ending) is not None, "the task without a gate")
    until(lambda: next(ending) is None and first.workers == 1, "its worker to leave")
    until(lambda: len([pid for pid in callers(noted) if is_alive(pid)]) == 1, "the other task to begin")
    assert len(all_of(second, sets_of(5))) == 5
    gate.touch()
    assert [one.position for one in ending if one is not None] == [1]


def test_a_task_whose_worker_died_gets_another_core(model: Path, tmp_path: Path) -> None:
    """The core of the dead worker was given back, and is free for the next one."""
    died = tmp_path / "died"
    pool = pool_of(model, cores=_cores(tmp_path, limit=1))
    finished = all_of(pool, sets_of(3, die=str(died)))
    assert [one.error for one in finished] == [None] * 3
    assert [one.attempt for one in finished] == [2, 1, 1]
    taken = _cores(tmp_path, limit=1).take(is_first=True)
    assert taken is not None


def test_a_worker_that_does_not_end_gives_its_core_back(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread of the model may go on after the last task, or for ever. Other jobs wait for it a moment only."""
    gate = tmp_path / "gate"
    pool, other, sets = pool_of(model, cores=_cores(tmp_path)), _cores(tmp_path), sets_of(2)
    sets[1]["gate"] = str(gate)
    running = _begin(pool, sets)
    until(lambda: next(running) is not None, "the task without a gate")
    (leaving,) = [worker for worker in pool._workers if not worker.tasks]
    leaving.signal(signal.SIGSTOP)
    assert next(running) is None
    assert other.take(is_first=True) is None
    monkeypatch.setattr(local, "GRACE_SECONDS", 0.0)
    until(lambda: next(running) is None and leaving not in pool._workers, "the end of the worker")
    assert other.take(is_first=True) is not None
    gate.touch()
    assert [one.position for one in running if one is not None] == [1]


def test_a_task_that_died_waits_though_another_worker_still_leaves(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that leaves takes no task, and may take long to end. Another job stands in line for the core."""
    monkeypatch.setattr(local, "GRACE_SECONDS", PATIENCE)
    gate, other = tmp_path / "gate", _cores(tmp_path)
    pool, sets = pool_of(model, cores=_cores(tmp_path)), sets_of(2)
    sets[1] |= {"gate": str(gate), "die": str(tmp_path / "died")}
    running = _begin(pool, sets)
    until(lambda: next(running) is not None, "the task without a gate")
    (leaving,) = [worker for worker in pool._workers if not worker.tasks]
    leaving.signal(signal.SIGSTOP)
    assert other.take(is_first=True) is None
    gate.touch()
    died = until(lambda: next(running), "the death of the other worker")
    assert (died.attempt, died.is_final) == (1, False)
    assert next(running) is None
    assert pool.is_waiting
    assert other.take(is_first=True) is not None
    leaving.signal(signal.SIGCONT)
    assert [(one.attempt, one.error) for one in running if one is not None] == [(2, None)]


def test_a_task_that_needs_a_new_worker_keeps_the_core_of_the_old_one(model: Path, tmp_path: Path) -> None:
    """Also while another job stands in line, which gets it at the end."""
    noted = tmp_path / "noted"
    sets = sets_of(4, calls=str(noted))
    pool, other = pool_of(model, 1, memory=2**40, cores=_cores(tmp_path, limit=1)), _cores(tmp_path, limit=1)
    running = _begin(pool, sets[:3])
    assert other.take(is_first=True) is None
    pool._queue.put_back(Assignment(3, list(study(sets).tasks())[3], is_alone=True))
    assert len([one for one in running if one is not None]) == 4
    first, *rest = callers(noted)
    assert rest == [rest[0]] * 3 != [first] * 3
    assert other.take(is_first=True) is not None


def test_a_pool_that_is_closed_while_it_waits_leaves_the_line(model: Path, tmp_path: Path) -> None:
    """It has started no process, and holds up no other job."""
    busy = _cores(tmp_path, limit=1)
    assert busy.take(is_first=True) is not None
    waiting = _begin(pool_of(model, cores=_cores(tmp_path, limit=1)), sets_of(1))
    assert len(list((tmp_path / "cores" / "waiting").iterdir())) == 1
    waiting.close()
    assert list((tmp_path / "cores" / "waiting").iterdir()) == []
