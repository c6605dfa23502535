"""Write docs/reference/cli.md from the parser; a test compares the two.

It reads the parser's actions, not `--help`, whose layout differs between versions of Python.

    python docs/tools/generate_cli.py
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(DOCS.parent))

from mops_jobs import build_parser  # noqa: E402 - found by the line above
from mopsjobs.cli.parser import describe_usage, operand  # noqa: E402 - as above

HEAD = """# Command line

Written by `python docs/tools/generate_cli.py` from the parser. Do not edit.
"""


def render() -> str:
    """Return the whole page."""
    parser = build_parser()
    lines = [HEAD, "Flags that every command takes:", "", *_table(common_flags(parser))]
    for name, command, arguments in own_arguments(parser):
        usage = f"    mops-jobs {name} {describe_usage(arguments)}"
        lines += ["", f"## {name}", "", str(command.description), "", usage, ""]
        lines += [*_table(arguments), "", "Examples:", ""]
        lines += [f"    {line.strip()}" for line in str(command.epilog).splitlines()[1:]]
    lines += ["", "## Exit codes", "", *(f"    {line}".rstrip() for line in exit_codes(parser).splitlines())]
    return "\n".join(lines) + "\n"


def own_arguments(
    parser: argparse.ArgumentParser,
) -> Iterator[tuple[str, argparse.ArgumentParser, list[argparse.Action]]]:
    """Yield each command: its name, its parser, and the arguments that are not common to all."""
    commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))  # noqa: SLF001
    shared = {option for action in common_flags(parser) for option in action.option_strings} - {"-q"}
    for name, command in commands.choices.items():
        arguments = [action for action in command._actions if not shared & set(action.option_strings)]  # noqa: SLF001
        yield name, command, [action for action in arguments if action.help != argparse.SUPPRESS]


def exit_codes(parser: argparse.ArgumentParser) -> str:
    """Return the lines about exit codes, which stand before the examples."""
    return str(parser.epilog).removeprefix("exit codes:\n").partition("\nexamples:")[0]


def common_flags(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return the flags that every command takes."""
    return [action for action in parser._actions if action.option_strings and action.option_strings[-1] != "--version"]  # noqa: SLF001


def value_of(action: argparse.Action) -> str:
    """Return what follows a flag: nothing, a word, or several."""
    word = "" if action.nargs == 0 else action.metavar or action.dest.upper()
    return word if isinstance(word, str) else " ".join(word)


def meaning(action: argparse.Action) -> str:
    """Return the help of an argument, as --help prints its percent signs."""
    return str(action.help).replace("%%", "%")


def _table(actions: list[argparse.Action]) -> Iterator[str]:
    yield "| argument | meaning |"
    yield "|---|---|"
    for action in actions:
        value = f" {value_of(action)}".rstrip()
        words = ", ".join(f"`{option}{value}`" for option in action.option_strings) or f"`{operand(action)}`"
        yield f"| {words.replace('|', chr(92) + '|')} | {meaning(action).replace('|', chr(92) + '|')} |"


if __name__ == "__main__":
    (DOCS / "reference" / "cli.md").write_text(render(), encoding="utf-8")
