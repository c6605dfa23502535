"""Share the cores of this machine between the jobs of a user: each worker holds the lock of a core.

One file per core lies in a directory of the user. A worker inherits the lock on it. So the system frees a core when its
worker has ended, also if the runner was killed before. A runner without a worker stands in line: it has a locked ticket
there, whose name is the time. No runner takes a core while another one with an earlier ticket is alive, and a runner
with several workers gives one up. One that has a core and finds no further one touches a file: a runner that has
nothing to do then gives all up. See docs/decisions/0075-cores-shared-by-submits.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mopsjobs.utils.files import FILE_FLAGS, make_directory

TICKETS = "waiting"
"""The directory of the tickets, beside the files of the cores."""

WISH = "wanted"
"""The file that a runner touches which has a core and finds no further one. Its time tells a new wish from an old."""

LOOK_SECONDS = 0.5
"""How often a runner looks whether another one waits, and how often it touches the file of wishes."""

FLAGS = os.O_RDWR | os.O_CREAT | FILE_FLAGS


@dataclasses.dataclass
class SharedCores:
    """The cores of this machine, as one runner takes them. Nothing is created before `take`.

    Args:
        _directory: where the files of the cores are, the same for all runners that share them.
        limit: how many cores there are.
        clock: a monotonic clock in seconds.
    """

    _directory: Path
    limit: int
    clock: Callable[[], float] = time.monotonic
    _ticket: tuple[Path, int] | None = None
    """The ticket of this runner, and its file."""
    _looked_at: float = -LOOK_SECONDS
    _wished_at: float = -LOOK_SECONDS
    _known_wish: int | None = None
    """The last wish that was seen, or was this runner's own; None before the first look."""

    @property
    def is_waiting(self) -> bool:
        """Return whether this runner stands in line."""
        return self._ticket is not None

    def take(self, *, is_first: bool) -> int | None:
        """Take a core, and return its locked file, to be passed to a worker; None if this runner has to wait.

        Args:
            is_first: whether the runner has no core yet. Then it stands in line until it has one.

        Raises:
            OSError: if the files cannot be made, or the file system has no locks.
        """
        make_directory(self._directory / TICKETS)
        if is_first and self._ticket is None:
            self._ticket = self._make_ticket()
        mine = self._ticket and self._ticket[0].name
        if any(mine is None or name < mine for name in self._others_in_line()):
            return None
        for number in range(self.limit):
            file = os.open(self._directory / f"core-{number}.lock", FLAGS, 0o600)
            if _try_lock(file):
                self.leave_line()
                return file
            os.close(file)
        if not is_first and self.clock() - self._wished_at >= LOOK_SECONDS:
            self._wished_at = self.clock()
            (self._directory / WISH).touch(0o600)
            self._known_wish = self._last_wish()
        return None

    def are_wanted(self, *, is_idle: bool = False) -> bool:
        """Return whether another runner stands in line. It looks at most every half second, and else returns False.

        Args:
            is_idle: whether a runner counts, too, that has a core and has looked in vain for a further one.
        """
        now = self.clock()
        if now - self._looked_at < LOOK_SECONDS:
            return False
        self._looked_at = now
        known, self._known_wish = self._known_wish, self._last_wish()
        is_wished = known is not None and known != self._known_wish
        return (is_idle and is_wished) or next(self._others_in_line(), None) is not None

    def _last_wish(self) -> int:
        try:
            return (self._directory / WISH).stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def leave_line(self) -> None:
        """Remove the ticket of this runner, if it has one."""
        if self._ticket is not None:
            path, file = self._ticket
            self._ticket = None
            path.unlink(missing_ok=True)
            os.close(file)

    def _make_ticket(self) -> tuple[Path, int]:
        while True:
            # Of this machine since its start: all processes have the same.
            path = self._directory / TICKETS / f"{time.clock_gettime_ns(time.CLOCK_MONOTONIC):020d}-{os.getpid()}"
            file = os.open(path, FLAGS, 0o600)
            # Another runner may have taken the file for that of a dead one, before it was locked.
            if _try_lock(file) and path.exists():
                return path, file
            os.close(file)

    def _others_in_line(self) -> Iterator[str]:
        """Yield the tickets of other runners that are alive. Those of dead ones are removed."""
        mine = None if self._ticket is None else self._ticket[0]
        with contextlib.suppress(FileNotFoundError):
            for path in sorted((self._directory / TICKETS).iterdir()):
                if path != mine and not _remove_dead(path):
                    yield path.name


def release(core: int) -> None:
    """Give back a core whose worker has ended, also if a process that the worker started holds its file."""
    import fcntl

    fcntl.flock(core, fcntl.LOCK_UN)
    os.close(core)


def _try_lock(file: int) -> bool:
    import fcntl  # here: Windows has none, and no runner

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_dead(ticket: Path) -> bool:
    """Remove a ticket if its runner is dead. Return whether it was."""
    try:
        file = os.open(ticket, os.O_RDWR | FILE_FLAGS)
    except FileNotFoundError:
        return True
    try:
        is_dead = _try_lock(file)
        if is_dead:
            ticket.unlink(missing_ok=True)
        return is_dead
    finally:
        os.close(file)
