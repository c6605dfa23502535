"""A program at a terminal: a real pseudo-terminal, typed at and read from."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import select
import struct
import subprocess
import termios
from collections.abc import Iterator, Mapping

from support.runs import PATIENCE


class TerminalStream(io.StringIO):
    """A stream in memory that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


class Terminal:
    """Our end of the terminal that a program is at."""

    def __init__(self, process: subprocess.Popen[bytes], end: int) -> None:
        self.process = process
        self._end = end
        self.told = ""
        """All that the terminal has shown since the last `type`."""

    def type(self, text: str) -> None:
        """Press these keys."""
        self.told = ""
        os.write(self._end, text.encode())

    def until(self, text: str, times: int = 1) -> str:
        """Wait until the terminal has shown this so often. Returns all that it has shown."""
        while self.told.count(text) < times:
            assert self._read(), f"ended before it showed {text!r}: {self.told!r}"
        return self.told

    def rest(self) -> str:
        """Return all that it shows until the program ends."""
        while self._read():
            pass
        assert self.process.wait(PATIENCE) is not None
        return self.told

    def _read(self) -> bool:
        assert select.select([self._end], [], [], PATIENCE)[0], f"silent after {self.told!r}"
        try:
            chunk = os.read(self._end, 65536)
        except OSError:  # the other end is closed
            return False
        self.told += chunk.decode(errors="replace")
        return bool(chunk)


@contextlib.contextmanager
def terminal(argv: list[str], env: Mapping[str, str], *, columns: int = 80, lines: int = 24) -> Iterator[Terminal]:
    """Run a program at a terminal of this size, for the time of the block."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    try:
        # Shells want the terminal to be their session's own.
        with subprocess.Popen(
            argv, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - one call, and no other thread
        ) as process:  # fmt: skip
            os.close(theirs)
            try:
                yield Terminal(process, ours)
            finally:
                process.kill()
    finally:
        os.close(ours)
