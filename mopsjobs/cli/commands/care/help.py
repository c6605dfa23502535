"""`help`: the help of the program or of one command."""

from __future__ import annotations

import argparse

from mopsjobs.app.run.app import App
from mopsjobs.cli.commands import COMMANDS
from mopsjobs.cli.parser import build_parser
from mopsjobs.console.result import Result

HELP = "show the help of a command"

DESCRIPTION = "Show the help of a command, as `mops-jobs COMMAND --help` does. Without one, list the commands."

EXAMPLES = ("mops-jobs help", "mops-jobs help submit")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    help_text = "name of a command (default: all commands)"
    parser.add_argument("topic", metavar="COMMAND", nargs="?", choices=[*COMMANDS], help=help_text)


def run(args: argparse.Namespace, app: App) -> Result:
    """Print the help and exit."""
    build_parser().parse_args([*([] if args.topic is None else [args.topic]), "--help"])
    return Result()
