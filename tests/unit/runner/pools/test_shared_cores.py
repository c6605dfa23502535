"""Cores that runners share: never more than there are, first come first served, and those of the dead are free."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from mopsjobs.runner.pools import shared_cores
from mopsjobs.runner.pools.shared_cores import SharedCores, release


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
    three = third.take(is_first=True)
    assert three is not None
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
    core = busy.take(is_first=True)
    assert core is not None
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
    taken = poor.take(is_first=True)
    assert taken is not None
    now[0] += 1
    assert not rich.are_wanted()
    for core in (*cores, taken):
        release(core)  # type: ignore[arg-type]


def test_a_runner_that_gives_up_leaves_the_line(place: Path) -> None:
    """A stopped job holds up none."""
    busy, gives_up, last = (SharedCores(place, 1) for _ in range(3))
    core = busy.take(is_first=True)
    assert core is not None
    assert gives_up.take(is_first=True) is None
    assert last.take(is_first=True) is None
    release(core)
    assert last.take(is_first=True) is None
    gives_up.leave_line()
    core = last.take(is_first=True)
    assert core is not None
    release(core)


def test_a_file_of_a_core_is_for_its_owner_alone(place: Path) -> None:
    """Others can neither read it nor hold it."""
    core = SharedCores(place, 1).take(is_first=True)
    assert core is not None
    assert {path.stat().st_mode & 0o077 for path in (place, *place.rglob("*"))} == {0}
    release(core)
