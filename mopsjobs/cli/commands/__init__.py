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

    from mopsjobs.app.run.app import App
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


GROUPS: dict[str, dict[str, str]] = {
    "see jobs": {
        "list": "view.listing",
        "status": "view.status",
        "wait": "view.wait",
        "watch": "view.watch",
        "summary": "view.summary",
    },
    "look inside": {
        "tasks": "view.tasks",
        "failures": "view.failures",
        "logs": "view.logs",
        "events": "view.events",
        "results": "view.results",
        "provenance": "view.provenance",
        "diff": "view.diff",
        "query": "view.query",
    },
    "submit and steer": {
        "submit": "run.submit",
        "calibrate": "run.calibrate",
        "resume": "run.resume",
        "cancel": "run.cancel",
        "validate": "run.validate",
        "replay": "run.replay",
        "note": "run.note",
        "label": "run.label",
        "run": "run.run",
    },
    "report from scripts": {
        "register": "report.register",
        "update": "report.update",
        "progress": "report.progress",
        "reconcile": "report.reconcile",
    },
    "share": {
        "serve": "report.serve",
        "metrics": "report.metrics",
    },
    "take care": {
        "sync": "care.sync",
        "prune": "care.prune",
        "doctor": "care.doctor",
        "config": "care.config",
        "version": "care.version",
        "schema": "care.schema",
        "completion": "care.completion",
        "help": "care.help",
    },
}
"""Each command and its module, as the help shows them: by what a user looks for."""

COMMANDS = {name: module for group in GROUPS.values() for name, module in group.items()}


def load(name: str) -> CommandModule:
    """Import the module of a command."""
    return importlib.import_module(f"mopsjobs.cli.commands.{COMMANDS[name]}")
