"""Start the servers of Node.js that `./build.sh servers` installs, for the tests, `bench` and `reliability` alike."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.machine import ROOT
from bench.servers import ServerProcess, free_port


class NodeServer(ServerProcess):
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
        port = free_port()
        require = ["--require", str(preload)] if preload else []
        words = (word.format(port=port) for word in arguments)
        path = package_directory(package) / script
        command = ["node", *require, str(path), *words]
        super().__init__(package, command, directory, port=port, program=path, env=env)


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


def make_dynalite(directory: Path) -> NodeServer:
    """Return a dynalite, a server of DynamoDB's API, that is not started yet. It keeps everything in memory."""
    arguments = ("--host", "127.0.0.1", "--port", "{port}", "--createTableMs", "0")
    return NodeServer("dynalite", "cli.js", directory, arguments)
