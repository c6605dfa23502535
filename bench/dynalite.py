"""A private dynalite, a server of DynamoDB's API: on a free port of this machine, everything in memory."""

from __future__ import annotations

from pathlib import Path

from bench.node import NodeServer

ARGUMENTS = ("--host", "127.0.0.1", "--port", "{port}", "--createTableMs", "0")


def make_server(directory: Path) -> NodeServer:
    """Return a server that is not started yet. What it prints goes to a file in `directory`."""
    return NodeServer("dynalite", "cli.js", directory, ARGUMENTS)
