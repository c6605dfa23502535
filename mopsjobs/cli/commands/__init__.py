"""The commands, one module a family. Each module has `add_parser(name, commands, parents)` and `run(args, app)`.

A command returns a `Result`; it neither prints nor exits. Modules are imported by name, only the one that a run needs:
a listing must not pay for what a sync imports.
"""

from __future__ import annotations

import argparse
import importlib

TYPE_CHECKING = False  # typing itself costs 3 ms, on the one path that must be instant

if TYPE_CHECKING:
    from typing import Protocol

    from mopsjobs.app.app import App
    from mopsjobs.console.result import Result

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - argparse has no public name for it

    class CommandModule(Protocol):
        """What a module of this package offers."""

        def add_parser(self, name: str, commands: Commands, parents: list[argparse.ArgumentParser]) -> None:
            """Declare the command's arguments."""

        def run(self, args: argparse.Namespace, app: App) -> Result:
            """Do what was asked."""


COMMANDS = {
    "list": "listing",
    "status": "status",
    "wait": "wait",
    "watch": "watch",
    "summary": "summary",
    "query": "query",
    "export": "export",
    "events": "events",
    "logs": "logs",
    "sync": "sync",
    "prune": "prune",
    "register": "report",
    "update": "report",
    "progress": "report",
    "cancel": "cancel",
    "submit": "submit",
    "resume": "resume",
    "validate": "validate",
    "results": "results",
    "reconcile": "reconcile",
    "run": "run",
    "serve": "serve",
    "metrics": "metrics",
    "doctor": "doctor",
    "version": "version",
    "config": "config",
    "schema": "schema",
    "completion": "completion",
}
"""Each command and the module it lives in, in the order of the help."""


def load(name: str) -> CommandModule:
    """The module of a command."""
    return importlib.import_module(f"mopsjobs.cli.commands.{COMMANDS[name]}")
