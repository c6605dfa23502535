"""The commands, one module each: `HELP`, `DESCRIPTION`, `EXAMPLES`, `add_arguments(parser)` and `run(args, app)`.

A command returns a `Result`; it neither prints nor exits. A run imports only the module of its command: a listing must
not pay for what a sync imports.
"""

from __future__ import annotations

import argparse
import importlib

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Protocol

    from mopsjobs.app.app import App
    from mopsjobs.console.result import Result

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - argparse has no public name for it

    class CommandModule(Protocol):
        """The interface of a module of this package."""

        HELP: str
        """One line for the list of commands. Begins with a verb."""
        DESCRIPTION: str
        """The text above the arguments. Begins with a verb."""
        EXAMPLES: tuple[str, ...]
        """Two or three command lines."""

        def add_arguments(self, parser: argparse.ArgumentParser) -> None:
            """Declare the arguments."""

        def run(self, args: argparse.Namespace, app: App) -> Result:
            """Run the command."""


COMMANDS = {
    "list": "listing",
    "status": "status",
    "tasks": "tasks",
    "failures": "failures",
    "wait": "wait",
    "watch": "watch",
    "summary": "summary",
    "query": "query",
    "export": "export",
    "events": "events",
    "logs": "logs",
    "sync": "sync",
    "prune": "prune",
    "register": "register",
    "update": "update",
    "progress": "progress",
    "note": "note",
    "label": "label",
    "cancel": "cancel",
    "submit": "submit",
    "resume": "resume",
    "validate": "validate",
    "results": "results",
    "provenance": "provenance",
    "diff": "diff",
    "replay": "replay",
    "reconcile": "reconcile",
    "run": "run",
    "serve": "serve",
    "metrics": "metrics",
    "doctor": "doctor",
    "version": "version",
    "config": "config",
    "schema": "schema",
    "completion": "completion",
    "help": "help",
}
"""Each command and its module, in the order of the help."""


def load(name: str) -> CommandModule:
    """Import the module of a command."""
    return importlib.import_module(f"mopsjobs.cli.commands.{COMMANDS[name]}")
