"""The parser of the command line: all commands, their flags and help, and suggestions for mistyped words."""

from __future__ import annotations

import argparse
import os
import re
import sys

from mopsjobs.cli.commands import COMMANDS, GROUPS, load
from mopsjobs.errors import UsageError
from mopsjobs.utils.text import did_you_mean, invalid_choice
from mopsjobs.version import __version__

TYPE_CHECKING = False  # typing itself costs 3 ms, on the one path that must be instant

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import NoReturn

    from mopsjobs.cli.commands import Commands

DESCRIPTION = "See, submit and steer batch simulation jobs, without kubectl."

EXIT_CODES = """exit codes:
  0 done, also an empty list   1 unexpected   2 usage
  3 no such job, or several   4 sign-in or permission
  5 registry unreachable, try again   6 refused
  7 partly done   8 not finished yet   9 outputs differ
  130 interrupted, or answered with no
the job's end, from wait, logs -f, status --exit-status:
  100 failed   103 cancelled   104 partial
"""

EXAMPLES = (
    "mops-jobs submit study.json --auto",
    "mops-jobs list --hours 48 --status running",
    "mops-jobs help submit",
)

# Everything here is English. Without this, argparse would look for a translation of each of its own words.
argparse._ = lambda text: text  # type: ignore[attr-defined]

COMMON_FLAGS = (
    (("--registry",), "URL", "URL of the registry (default: MOPS_JOBS_REGISTRY, else as configured)"),
    (("-e", "--env"), "ENV", "use the Azure storage of this environment of ModelOps"),
    (("--cache",), "PATH", "path of the local cache (default: MOPS_JOBS_CACHE, else one per registry)"),
    (("--color",), "WHEN", "color the output: auto, always or never (default: auto; NO_COLOR turns it off)"),
)

IDS_ONLY = ("list", "tasks")
"""Commands in which -q has a meaning that is fixed: print only ids, or numbers of tasks."""


class CommandLineParser(argparse.ArgumentParser):
    """Parse as argparse does, but raise errors, and suggest the nearest word for a mistyped one."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: object = None) -> argparse.Namespace:  # type: ignore[override]
        """Parse the words.

        Raises:
            UsageError: if they do not fit.
        """
        self._words = list(sys.argv[1:] if args is None else args)
        self._refuse_hours_by_h()
        parsed, unknown = self.parse_known_args(self._words)
        if not unknown:
            return parsed
        flags = [word.partition("=")[0] for word in unknown if word.startswith("-")]
        if not flags:
            raise UsageError(f"unexpected argument{'s' if len(unknown) > 1 else ''}: {' '.join(unknown)}")
        known = set(self._option_string_actions)
        if commands := self._commands():
            if flags[0] in known:
                raise UsageError(f"unknown flag '{flags[0]}' of {parsed.command}: expected in front of the command.")
            known |= set(commands[parsed.command]._option_string_actions)  # noqa: SLF001 - as below
        raise UsageError(f"unknown flag '{flags[0]}'.{did_you_mean(flags[0], sorted(known - {flags[0]}))}")

    def _commands(self) -> Mapping[str, argparse.ArgumentParser]:
        """Return the parsers of the commands, if this is not one of them."""
        every = self._actions
        return next((one.choices for one in every if isinstance(one, argparse._SubParsersAction)), {})  # noqa: SLF001 - argparse has no public name for it

    def _refuse_hours_by_h(self) -> None:
        """Refuse `-h 48`, which means `--hours 48` in ModelOps: argparse would print the help and succeed."""
        commands = self._commands()
        command = next((commands[word] for word in self._words if word in commands), None)
        if command is not None and "--hours" in command._option_string_actions:  # noqa: SLF001 - as above
            for match in re.finditer(r"^-h[\n=]?(\d+)$", "\n".join(self._words), re.MULTILINE):
                self.error(f"invalid -h {match[1]}: -h prints the help. Did you mean '--hours {match[1]}'?")

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is None or value in action.choices:
            return
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - as above
            place = self._words.index(str(value))
            before = self._words[place - 1] if place else ""
            is_flag = before.startswith("--") and before != "--" and "=" not in before
            if is_flag and before not in self._option_string_actions:
                self.error(f"unknown flag '{before}' in front of the command")
            raise argparse.ArgumentError(None, f"unknown command '{value}'.{did_you_mean(str(value), action.choices)}")
        raise argparse.ArgumentError(None, invalid_choice(action.dest, value, action.choices))

    def error(self, message: str) -> NoReturn:
        """Refuse the words.

        Raises:
            UsageError: if it is called.
        """
        raise UsageError(message if message.endswith((".", "?")) else f"{message}.")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Format help for the width of the terminal.

    argparse makes a formatter for each argument. Without a width, each one would import shutil.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_terminal_width() - 2)

    def _format_action(self, action: argparse.Action) -> str:
        if not isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - argparse has no public name for it
            return super()._format_action(action)
        format_one = super()._format_action
        lines = {command.dest: format_one(command) for command in self._iter_indented_subactions(action)}
        groups = {title: "".join(lines.get(name, "") for name in names) for title, (_, names) in GROUPS.items()}
        return "\n".join(f"  {title}:\n{text}" for title, text in groups.items())

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        # Examples keep their lines; a paragraph is filled.
        if "\n" in text:
            return super()._fill_text(text, width, indent)
        return argparse.HelpFormatter._fill_text(self, text, width, indent)  # noqa: SLF001


def build_parser(names: Iterable[str] = tuple(COMMANDS)) -> argparse.ArgumentParser:
    """Build the parser of the command line.

    Args:
        names: the commands to declare. All of them by default; a run declares only those it may need, since each costs
            an import.
    """
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS, allow_abbrev=False)
    group = common.add_argument_group("common")
    for flags, metavar, text in COMMON_FLAGS:
        group.add_argument(*flags, metavar=metavar, help=text)
    group.add_argument("-v", "--verbose", action="count", help="print more; show where an unexpected error occurred")

    quiet = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS, parents=[common])
    # Not on the parser itself: argparse would import shutil, to find the width of the terminal.
    quiet.add_argument_group("common").add_argument(
        "-q", "--quiet", action="store_true", help="print only results, warnings and errors"
    )

    parser = CommandLineParser(
        prog="mops-jobs",
        description=DESCRIPTION,
        epilog=f"{EXIT_CODES}\n{_examples_text(EXAMPLES)}",
        parents=[quiet],
        allow_abbrev=False,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mops-jobs {__version__}")
    commands: Commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", title="commands", prog="mops-jobs", parser_class=CommandLineParser
    )
    for name in names:
        _add_command(commands, name, [common if name in IDS_ONLY else quiet])
    return parser


def _add_command(commands: Commands, name: str, parents: list[argparse.ArgumentParser]) -> None:
    """Declare a command: what its module says, in the frame that all commands have."""
    module = load(name)
    parser = commands.add_parser(
        name,
        parents=parents,
        help=module.HELP,
        description=module.DESCRIPTION,
        epilog=_examples_text(module.EXAMPLES),
        allow_abbrev=False,
        formatter_class=HelpFormatter,
    )
    module.add_arguments(parser)
    parser.usage = f"%(prog)s {describe_usage(parser._actions)}"  # noqa: SLF001 - as above


def describe_usage(arguments: Iterable[argparse.Action]) -> str:
    """Return the arguments of a command in a line. The help lists its flags, which would fill a terminal here."""
    return " ".join([*(operand(action) for action in arguments if not action.option_strings), "[flags]"])


def operand(action: argparse.Action) -> str:
    """Return a positional argument as usage lines show it."""
    word = str(action.metavar or "|".join(map(str, action.choices or ())) or action.dest)
    return {"+": f"{word}…", "*": f"[{word}…]", "?": f"[{word}]"}.get(str(action.nargs), word)


def _examples_text(examples: Iterable[str]) -> str:
    return "\n  ".join(("examples:", *examples)) + "\n"


def _terminal_width() -> int:
    columns = os.environ.get("COLUMNS", "")
    if columns.isdigit() and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size().columns or 80
    except OSError:
        return 80
