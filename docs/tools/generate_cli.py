"""Write docs/reference/cli.md from the parser, so that the two agree (a test compares them).

From the parser's actions, not from `--help`: argparse lays out help differently from one Python to the next.

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

HEAD = """# Command line

Written by `python docs/tools/generate_cli.py` from the parser. Do not edit.
"""


def render() -> str:
    """Return the whole page."""
    parser = build_parser()
    lines = [HEAD, "Flags that every command takes:", "", *_table(common_flags(parser))]
    for name, command, arguments in own_arguments(parser):
        lines += ["", f"## {name}", "", str(command.description), "", f"    {_usage(name, arguments)}", ""]
        lines += _table(arguments)
    lines += ["", "## Exit codes", "", *(f"    {line}".rstrip() for line in str(parser.epilog).splitlines()[1:])]
    return "\n".join(lines) + "\n"


def own_arguments(
    parser: argparse.ArgumentParser,
) -> Iterator[tuple[str, argparse.ArgumentParser, list[argparse.Action]]]:
    """Yield each command: its name, its parser, and the arguments that are not common to all."""
    commands = next(one for one in parser._actions if isinstance(one, argparse._SubParsersAction))  # noqa: SLF001
    shared = {option for action in common_flags(parser) for option in action.option_strings} - {"-q"}
    for name, command in commands.choices.items():
        arguments = [one for one in command._actions if not shared & set(one.option_strings)]  # noqa: SLF001
        yield name, command, [one for one in arguments if one.help != argparse.SUPPRESS]


def common_flags(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return the flags that every command takes."""
    return [one for one in parser._actions if one.option_strings and one.option_strings[-1] != "--version"]  # noqa: SLF001


def _usage(name: str, arguments: list[argparse.Action]) -> str:
    words = [operand(one) for one in arguments if not one.option_strings]
    return " ".join(["mops-jobs", name, *words, "[flags]"])


def operand(action: argparse.Action) -> str:
    """Return a positional argument as usage lines show it."""
    word = str(action.metavar or "|".join(map(str, action.choices or ())) or action.dest)
    return {"+": f"{word}…", "?": f"[{word}]"}.get(str(action.nargs), word)


def _table(actions: list[argparse.Action]) -> Iterator[str]:
    yield "| argument | meaning |"
    yield "|---|---|"
    for action in actions:
        value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
        words = ", ".join(f"`{option}{value}`" for option in action.option_strings) or f"`{operand(action)}`"
        yield f"| {words.replace('|', chr(92) + '|')} | {str(action.help).replace('|', chr(92) + '|')} |"


if __name__ == "__main__":
    (DOCS / "reference" / "cli.md").write_text(render(), encoding="utf-8")
