"""The frame of every command's arguments, and the flags that several commands share."""

from __future__ import annotations

import argparse
import os

from mopsjobs.app.freshness import FreshnessPolicy
from mopsjobs.cli.commands import load
from mopsjobs.errors import OptionError, UsageError
from mopsjobs.utils.times import parse_duration

TYPE_CHECKING = False

if TYPE_CHECKING:
    from mopsjobs.cli.commands import Commands


MIN_INTERVAL = 0.1
"""Seconds. A registry may bill each request."""

JOB_HELP = "id of the job, a prefix that fits one job only, or @latest"

FULL_ID_HELP = "full id of the job"


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Format help for the width of the terminal.

    argparse makes a formatter for each argument. Without a width, each one would import shutil.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_terminal_width() - 2)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        # Examples keep their lines; a paragraph is filled.
        if "\n" in text:
            return super()._fill_text(text, width, indent)
        return argparse.HelpFormatter._fill_text(self, text, width, indent)  # noqa: SLF001


def flag_of(field: str) -> str:
    """Return the flag that sets a field of a request."""
    return "--" + field.replace("_", "-")


def with_flags(error: OptionError) -> UsageError:
    """Return the error with flags in place of the fields."""
    message = error.message
    for field in error.fields:
        message = message.replace(field, flag_of(field), 1)
    return UsageError(message, hint=error.hint)


def _terminal_width() -> int:
    columns = os.environ.get("COLUMNS", "")
    if columns.isdigit() and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size().columns or 80
    except OSError:
        return 80


def add_command(commands: Commands, name: str, parents: list[argparse.ArgumentParser]) -> None:
    """Declare a command: what its module says, in the frame that all commands have."""
    module = load(name)
    parser = commands.add_parser(
        name,
        parents=parents,
        help=module.HELP,
        description=module.DESCRIPTION,
        epilog="\n  ".join(("examples:", *module.EXAMPLES)) + "\n",
        allow_abbrev=False,
        formatter_class=HelpFormatter,
    )
    module.add_arguments(parser)


def add_freshness_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags that say how fresh a view has to be. They exclude each other."""
    group = parser.add_argument_group("freshness").add_mutually_exclusive_group()
    group.add_argument("--refresh", action="store_true", help="sync first")
    group.add_argument("--max-age", metavar="DURATION", help="sync first if the last sync is older than this, like 5m")
    group.add_argument("--offline", action="store_true", help="never use the network")


def freshness_policy(args: argparse.Namespace) -> FreshnessPolicy:
    """Return what those flags say.

    Raises:
        UsageError: if `--max-age` is not a duration.
    """
    max_age = None if args.max_age is None else parse_duration(args.max_age)
    return FreshnessPolicy(refresh=args.refresh, max_age=max_age, offline=args.offline)


def parse_interval(text: str) -> float:
    """Return the seconds between two polls that `--interval` asks for.

    Raises:
        UsageError: if the text is not a duration, or is too short.
    """
    seconds = parse_duration(text)
    if seconds < MIN_INTERVAL:
        raise UsageError(f"invalid --interval '{text}': expected {MIN_INTERVAL:g}s or more.")
    return seconds
