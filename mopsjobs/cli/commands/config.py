"""`config show`: which settings are in force, and where each came from."""

from __future__ import annotations

import argparse

from mopsjobs.app.app import App
from mopsjobs.cli.flags import add_command
from mopsjobs.console.result import Document, Result, Table

TYPE_CHECKING = False

if TYPE_CHECKING:
    from mopsjobs.cli.commands import Commands


def add_parser(name: str, commands: Commands, parents: list[argparse.ArgumentParser]) -> None:
    """Declare `config`."""
    parser = add_command(
        commands,
        name,
        parents,
        help="show the settings in force",
        description="Show each setting and where it came from: flag, environment, project file, user file or default.",
    )
    parser.add_argument("action", metavar="show", choices=["show"], help="show: the settings in force")
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def run(args: argparse.Namespace, app: App) -> Result:
    """Show the settings."""
    settings = app.settings.by_name()
    if args.json:
        return Result(Document({name: {"value": one.value, "origin": one.origin} for name, one in settings.items()}))
    return Result(
        Table(("SETTING", "VALUE", "FROM"), [(name, one.value, one.origin) for name, one in settings.items()])
    )
