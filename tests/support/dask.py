"""A real Dask cluster on this machine, which cannot import mops-jobs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from distributed import Client

from support.runs import PATIENCE, end_of, until


class Cluster:
    """A scheduler and its workers, of one thread each, as processes of this machine."""

    def __init__(self, directory: Path, workers: int, **env: str) -> None:
        quiet = {"DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False"}  # it looks a hundred times a second
        patient = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": f"{PATIENCE:g}s"}
        self._env = {"PATH": os.environ["PATH"], "HOME": str(directory), **quiet, **patient, **env}
        self.directory = directory
        self._processes: list[subprocess.Popen[bytes]] = []
        told = directory / "scheduler.json"
        where = ["--host", "127.0.0.1", "--no-dashboard"]
        self._start("dask_scheduler", *where, "--port", "0", "--no-show", "--scheduler-file", str(told))
        until(lambda: told.exists() and told.stat().st_size, "the scheduler", self.end)
        self.url = str(json.loads(told.read_text())["address"])
        for _ in range(workers):
            self.add_worker()

    def add_worker(self, *options: str) -> None:
        where = ["--host", "127.0.0.1", "--no-dashboard", "--local-directory", str(self.directory)]
        options = options or ("--no-nanny",)
        self._start("dask_worker", self.url, *where, "--nthreads", "1", "--death-timeout", f"{PATIENCE:g}", *options)

    def kill(self, number: int) -> None:
        """Kill the scheduler (0) or a worker (from 1)."""
        self._processes[number].kill()
        self._processes[number].wait()

    def halt_scheduler(self) -> None:
        """Let the scheduler be there, and do nothing."""
        self._processes[0].send_signal(signal.SIGSTOP)

    def wait(self, client: Client, workers: int) -> None:
        """Wait for this many workers, as long as all processes live."""
        until(lambda: len(client.nthreads()) == workers, f"{workers} workers", self.end)

    def end(self) -> str | None:
        """Return how one of the processes has ended, and what they said; None if none has."""
        ends = [text for process in self._processes if (text := end_of(process)) is not None]
        return f"{ends}: {(self.directory / 'cluster.log').read_text()}" if ends else None

    def close(self) -> None:
        print((self.directory / "cluster.log").read_text()[-2000:])  # shown if the test fails
        for process in self._processes:
            process.kill()
            process.wait()

    def _start(self, module: str, *argv: str) -> None:
        with (self.directory / "cluster.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", f"distributed.cli.{module}", *argv],
                    cwd=self.directory,
                    env=self._env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            )
