"""Start the servers of Node.js that `./build.sh servers` installs, for the tests, `bench` and `reliability` alike."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.machine import ROOT

START_SECONDS = 60


class NodeServer:
    """A server on a free port of this machine. What it holds is gone when it stops.

    Args:
        package: its package.
        script: the file in it that is run.
        directory: where it runs, and where `PACKAGE.out` keeps what it prints.
        arguments: its arguments; `{port}` in one stands for the port that it listens on.
        env: variables besides those of this process.
        preload: JavaScript that it runs first.
    """

    def __init__(
        self,
        package: str,
        script: str,
        directory: Path,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        preload: Path | None = None,
    ) -> None:
        self._package = package
        self._directory = directory
        self._env = env or {}
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()
        require = ["--require", str(preload)] if preload else []
        words = (word.format(port=self.port) for word in arguments)
        self._script = package_directory(package) / script
        self._command = ["node", *require, str(self._script), *words]

    def start(self) -> None:
        """Start it, on the same port as before, and return when it accepts connections.

        Raises:
            RuntimeError: if it is not installed, or does not start.
        """
        if not self._script.is_file():
            raise RuntimeError(f"There is no {self._package}: run ./build.sh servers, which installs it into build/.")
        log = self._directory / f"{self._package}.out"
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
            raise RuntimeError(f"{self._package} did not start: {log.read_text(errors='replace')[-2000:]}")

    def stop(self) -> None:
        """Kill it: it has nothing to save."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def running(server: NodeServer) -> Iterator[int]:
    """Run a server during the block, which gets its port."""
    try:
        server.start()
        yield server.port
    finally:
        server.stop()


def version(package: str) -> str:
    """Return a server's version, or `none`."""
    try:
        return str(json.loads((package_directory(package) / "package.json").read_text(encoding="utf-8"))["version"])
    except OSError:
        return "none"


def package_directory(package: str) -> Path:
    """Return where a server's package is, or would be."""
    installed = package.removesuffix("-older")
    modules = os.environ.get(f"MOPS_TEST_{installed.upper()}") or ROOT / "build" / installed / "node_modules"
    return Path(modules) / package


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _accepts_connections(process: subprocess.Popen[bytes], port: int) -> bool:
    for _ in range(START_SECONDS * 10):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
            return False
    return False
