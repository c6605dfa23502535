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


GROUPS = {
    "see jobs": ("view", ("list", "status", "wait", "watch", "summary")),
    "look inside": ("view", ("tasks", "failures", "logs", "events", "results", "provenance", "diff", "query")),
    "submit and steer": (
        "run",
        ("submit", "calibrate", "resume", "cancel", "validate", "replay", "note", "label", "run"),
    ),
    "report from scripts": ("report", ("register", "update", "progress", "reconcile")),
    "share": ("report", ("serve", "metrics")),
    "take care": ("care", ("sync", "prune", "doctor", "config", "version", "schema", "completion", "help")),
}
"""The commands as the help shows them, by what a user looks for. Each group has the folder of its modules."""

COMMANDS = {name: folder for folder, names in GROUPS.values() for name in names}
"""Each command and the folder of its module, which has its name."""


def load(name: str) -> CommandModule:
    """Import the module of a command."""
    return importlib.import_module(f"mopsjobs.cli.commands.{COMMANDS[name]}.{name}")
