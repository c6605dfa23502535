"""Servers of Node.js that `./build.sh` installs: each on a free port of this machine, gone afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.machine import ROOT

START_SECONDS = 60


@contextlib.contextmanager
def running(
    name: str, script: str, directory: Path, words: Sequence[str], *, preload: Path | None = None
) -> Iterator[int]:
    """The port of a server while the block runs. What it prints goes to a file in `directory`.

    Args:
        name: the package.
        script: the file in it that is run.
        directory: where it runs.
        words: its arguments; `{port}` in one stands for the port that it is to listen on.
        preload: JavaScript that it runs first.

    Raises:
        RuntimeError: it is not installed, or does not start.
    """
    path = package(name) / script
    if not path.is_file():
        raise RuntimeError(f"There is no {name}: run ./build.sh servers, which installs it into build/{name}.")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = int(server.getsockname()[1])
    log = directory / f"{name}.out"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [
                "node",
                *(["--require", str(preload)] if preload else []),
                str(path),
                *(word.format(port=port) for word in words),
            ],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            if not _answers(process, port):
                raise RuntimeError(f"{name} did not start: {log.read_text(errors='replace')[-2000:]}")
            yield port
        finally:
            process.kill()  # it has nothing to save


def version(name: str) -> str:
    """A server's version."""
    try:
        return str(json.loads((package(name) / "package.json").read_text(encoding="utf-8"))["version"])
    except OSError:
        return "none"


def package(name: str) -> Path:
    """Where a server's package lies, or would."""
    return Path(os.environ.get(f"MOPS_TEST_{name.upper()}") or ROOT / "build" / name / "node_modules") / name


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    for _ in range(START_SECONDS * 10):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
            return False
    return False
