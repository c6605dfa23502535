"""`config show`: show the settings in force, and the origin of each."""

from __future__ import annotations

import argparse

from mopsjobs.app.run.app import App
from mopsjobs.console.result import Document, Result, Table

HELP = "show the settings in force"

DESCRIPTION = "Show each setting and its origin: flag, environment, project file, user file or default."

EXAMPLES = (
    "mops-jobs config show",
    "mops-jobs config show --json | jq -r .registry.value",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("action", metavar="show", choices=["show"], help="show the settings in force")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace, app: App) -> Result:
    """Show the settings."""
    settings = app.settings.by_name()
    if args.json:
        return Result(Document({name: {"value": one.value, "origin": one.origin} for name, one in settings.items()}))
    rows = [(name, one.value, one.origin) for name, one in settings.items()]
    return Result(Table(("SETTING", "VALUE", "FROM"), rows, never_cut=("SETTING", "VALUE", "FROM")))
