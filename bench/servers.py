"""A server as a process of its own on a free port of this machine, for the tests, `bench` and `reliability` alike."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

START_SECONDS = 300

PORTS = range(15_000, 30_000)
"""Ports that servers get. Linux by itself gives none of them away: not to a connection, and not to another server that
takes any port. So none is taken in the seconds until a server listens at it."""


class ServerProcess:
    """A server. What it holds is gone when it stops.

    Args:
        name: its name. `NAME.out` in the directory keeps what it prints.
        command: what starts it.
        directory: where it runs.
        port: where it accepts connections once it is ready.
        env: variables besides those of this process.
        program: the file without which it cannot start, which `./build.sh servers` or the lock file installs.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        directory: Path,
        *,
        port: int,
        program: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.port = port
        self._name = name
        self._command = command
        self._directory = directory
        self._program = program
        self._env = env or {}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, on the same port as before, and return when it accepts connections.

        Raises:
            RuntimeError: if it is not installed, or does not start.
        """
        if not self._program.is_file():
            raise RuntimeError(f"There is no {self._name}: run ./build.sh servers, which installs it into build/.")
        log = self._directory / f"{self._name}.out"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._directory,
                env={**os.environ, **self._env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        if not _accepts_connections(self._process, self.port):
            self.stop()
            raise RuntimeError(f"{self._name} did not start: {log.read_text(errors='replace')[-2000:]}")

    def stop(self) -> None:
        """Kill it: it has nothing to save."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def running(server: ServerProcess) -> Iterator[int]:
    """Run a server during the block, which gets its port."""
    try:
        server.start()
        yield server.port
    finally:
        server.stop()


def free_port() -> int:
    """Return a port of this machine at which no server listens."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Return different ports of this machine at which no server listens.

    Raises:
        RuntimeError: if there are not as many.
    """
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        for port in random.SystemRandom().sample(PORTS, len(PORTS)):
            if len(found) == count:
                return found
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
                found.append(port)
    raise RuntimeError(f"There are no {count} free ports from {PORTS.start} to {PORTS.stop - 1}.")


def _accepts_connections(process: subprocess.Popen[bytes], port: int) -> bool:
    for _ in range(START_SECONDS * 10):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
            return False
    return False
