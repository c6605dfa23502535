"""Cores that runners share: never more than there are, first come first served, and those of the dead are free."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.runner.pools import shared_cores
from mopsjobs.runner.pools.base import TaskResult
from mopsjobs.runner.pools.local import IDLE_SECONDS, WorkerPool
from mopsjobs.runner.pools.shared_cores import SharedCores, release
from support.existing import existing
from support.runs import all_of, callers, calls, is_alive, pool_of, sets_of, study, until


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a directory for cores, which does not exist yet."""
    return tmp_path / "cores"


class Holder:
    """A process that takes a core as soon as it gets one, and keeps it until it is killed."""

    def __init__(self, place: Path, limit: int = 1) -> None:
        begin, self._begin = os.pipe()
        self._said, say = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(begin)
            os.close(say)
            return
        try:
            os.close(self._begin)
            cores = SharedCores(place, limit)
            while cores.take(is_first=True) is None:
                os.write(say, b"w")  # it waits
                os.read(begin, 1)  # until the test says that it may look again
            os.write(say, b"h")
            os.read(begin, 1)
        finally:
            os._exit(0)

    def look(self) -> str:
        """Return what it says next: `w`, it waits; `h`, it has a core."""
        return os.read(self._said, 1).decode()

    def look_again(self) -> str:
        """Let it look again, and return what it says."""
        os.write(self._begin, b"x")
        return self.look()

    def kill(self) -> None:
        """Kill it by a signal that it cannot see."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._begin)
        os.close(self._said)


@pytest.fixture
def holders(place: Path) -> Iterator[list[Holder]]:
    """Yield a list of processes, which are killed at the end."""
    alive: list[Holder] = []
    yield alive
    for holder in alive:
        holder.kill()


def test_no_more_cores_are_taken_than_there_are(place: Path) -> None:
    """Each is taken once, and can be taken again when it was given back."""
    first, second, third = (SharedCores(place, 2) for _ in range(3))
    one, two = first.take(is_first=True), second.take(is_first=True)
    assert one is not None
    assert two is not None
    assert third.take(is_first=True) is None
    assert (first.is_waiting, third.is_waiting) == (False, True)
    release(one)
    three = existing(third.take(is_first=True))
    assert not third.is_waiting
    for core in (two, three):
        release(core)


def test_fifty_killed_holders_leave_their_core_to_the_next(place: Path, holders: list[Holder]) -> None:
    """None waits for ever: the kernel frees the core of a process with it, and the next in line takes it."""
    holders.append(Holder(place))
    assert holders[0].look() == "h"
    for _ in range(50):
        holders.append(Holder(place))
        assert holders[1].look() == "w"
        holders.pop(0).kill()
        assert holders[0].look_again() == "h"
    assert list((place / shared_cores.TICKETS).iterdir()) == []


def test_the_first_in_line_is_the_next_to_get_a_core(place: Path, holders: list[Holder]) -> None:
    """Even if another one looks earlier. The ticket of a process that was killed while it waited is removed."""
    busy = SharedCores(place, 1)
    core = existing(busy.take(is_first=True))
    for _ in range(3):
        holders.append(Holder(place))
        assert holders[-1].look() == "w"
    release(core)
    assert [holders[2].look_again(), holders[1].look_again()] == ["w", "w"]
    holders.pop(0).kill()
    assert [holders[1].look_again(), holders[0].look_again()] == ["w", "h"]


def test_a_runner_with_a_core_takes_no_other_while_one_waits(place: Path) -> None:
    """So the one in line gets it. A runner with several cores sees that one is wanted, at most every half second."""
    now = [10.0]
    rich, poor = SharedCores(place, 2, clock=lambda: now[0]), SharedCores(place, 2)
    cores = [rich.take(is_first=True), rich.take(is_first=False)]
    assert None not in cores
    assert not rich.are_wanted()
    assert poor.take(is_first=True) is None
    assert not rich.are_wanted()
    now[0] += 1
    assert rich.are_wanted()
    release(cores.pop())  # type: ignore[arg-type]
    assert rich.take(is_first=False) is None
    taken = existing(poor.take(is_first=True))
    now[0] += 1
    assert not rich.are_wanted()
    for core in (*cores, taken):
        release(core)  # type: ignore[arg-type]


def test_a_runner_without_a_task_sees_that_another_one_wants_more(place: Path) -> None:
    """Each wish once. One from before its first look does not count, nor does its own."""
    now = [10.0]
    first, second = (SharedCores(place, 2, clock=lambda: now[0]) for _ in range(2))
    cores = [first.take(is_first=True), second.take(is_first=True)]
    seen = []
    for wish in (first.take, second.take, lambda **_: None, second.take):
        now[0] += 1
        assert wish(is_first=False) is None
        seen.append(first.are_wanted(is_idle=True))
        assert not first.are_wanted(is_idle=True)
    assert seen == [False, True, False, True]
    now[0] += 1
    second.take(is_first=False)
    assert not first.are_wanted()
    for core in cores:
        release(core)  # type: ignore[arg-type]


def test_a_file_of_a_core_is_for_its_owner_alone(place: Path) -> None:
    """Others can neither read it nor hold it."""
    core = existing(SharedCores(place, 1).take(is_first=True))
    assert {path.stat().st_mode & 0o077 for path in (place, *place.rglob("*"))} == {0}
    release(core)


# --- pools that share cores ------------------------------------------------------------------------------------------

Running = Generator[TaskResult | None, None, None]


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


def test_a_pool_that_waits_for_its_client_gives_all_cores_up(model: Path, tmp_path: Path) -> None:
    """After some seconds, to a job that has one and wants more. It holds none then, and stands in line with a task."""
    now, ended = [0.0], []
    waker, wakes = os.pipe()
    asked = deque(enumerate(study(sets_of(3)).tasks()))
    due = deque([asked.popleft(), asked.popleft()])
    pool = pool_of(model, cores=_cores(tmp_path, 3), waker=waker, clock=lambda: now[0])
    running = pool.run(iter(lambda: due.popleft() if due else None, "never"), wake_seconds=0.02)

    def step() -> int:
        ended.extend(one.position for one in [next(running)] if one is not None)
        return len(ended)

    other = _cores(tmp_path, 3)
    taken = [other.take(is_first=True)]

    def has_taken_all() -> bool:
        step()
        taken.extend(core for core in [other.take(is_first=False)] if core is not None)
        return len(taken) == 3

    until(lambda: step() == 2, "the tasks to end")
    assert [has_taken_all() for _ in range(3)] == [False] * 3
    assert pool.workers == 2
    now[0] = IDLE_SECONDS
    until(has_taken_all, "the pool to give its cores up")
    assert pool.workers == 0
    due.append(asked.popleft())
    step()
    assert pool.is_waiting
    for core in taken:
        release(core)  # type: ignore[arg-type]
    until(lambda: step() == 3, "the last task to end")
    running.close()
    os.close(waker)
    os.close(wakes)


def test_a_pool_that_is_closed_while_it_waits_leaves_the_line(model: Path, tmp_path: Path) -> None:
    """It has started no process, and holds up no other job."""
    busy = _cores(tmp_path, limit=1)
    assert busy.take(is_first=True) is not None
    waiting = _begin(pool_of(model, cores=_cores(tmp_path, limit=1)), sets_of(1))
    assert len(list((tmp_path / "cores" / "waiting").iterdir())) == 1
    waiting.close()
    assert list((tmp_path / "cores" / "waiting").iterdir()) == []
