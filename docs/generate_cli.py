"""Write docs/cli.md from the parser, so that the two cannot drift apart (tests/test_docs.py compares them).

From the parser's actions, not from `--help`: argparse lays out help differently from one Python to the next.

    python docs/generate_cli.py
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from mops_jobs import build_parser  # noqa: E402 - found by the line above

HEAD = """# Command line

Written by `python docs/generate_cli.py` from the parser. Do not edit.
"""


def render() -> str:
    """The whole page."""
    parser = build_parser()
    commands = next(one for one in parser._actions if isinstance(one, argparse._SubParsersAction))  # noqa: SLF001
    lines = [HEAD, "Flags that every command takes:", "", *_table(_common(parser))]
    shared = {option for action in _common(parser) for option in action.option_strings} - {"-q"}
    for name, command in commands.choices.items():
        lines += ["", f"## {name}", "", str(command.description), "", f"    {_usage(name, command)}", ""]
        lines += _table([one for one in command._actions if not shared & set(one.option_strings)])  # noqa: SLF001
    lines += ["", "## Exit codes", "", *(f"    {line}".rstrip() for line in str(parser.epilog).splitlines()[1:])]
    return "\n".join(lines) + "\n"


def _common(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [one for one in parser._actions if one.option_strings and one.option_strings[-1] != "--version"]  # noqa: SLF001


def _usage(name: str, command: argparse.ArgumentParser) -> str:
    words = [_operand(one) for one in command._actions if not one.option_strings]  # noqa: SLF001
    return " ".join(["mops-jobs", name, *words, "[flags]"])


def _operand(action: argparse.Action) -> str:
    word = str(action.metavar or "|".join(map(str, action.choices or ())) or action.dest)
    return {"+": f"{word}…", "?": f"[{word}]"}.get(str(action.nargs), word)


def _table(actions: list[argparse.Action]) -> Iterator[str]:
    yield "| argument | meaning |"
    yield "|---|---|"
    for action in actions:
        value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
        words = ", ".join(f"`{option}{value}`" for option in action.option_strings) or f"`{_operand(action)}`"
        yield f"| {words.replace('|', chr(92) + '|')} | {str(action.help).replace('|', chr(92) + '|')} |"


if __name__ == "__main__":
    (HERE / "cli.md").write_text(render(), encoding="utf-8")
