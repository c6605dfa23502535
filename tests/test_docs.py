"""The documents say what the program does."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from mopsjobs import errors
from mopsjobs.commands import COMMANDS

ROOT = Path(__file__).resolve().parent.parent


def test_cli_page_is_what_the_parser_says() -> None:
    """docs/cli.md is the page that docs/generate_cli.py makes of the parser."""
    spec = importlib.util.spec_from_file_location("generate_cli", ROOT / "docs" / "generate_cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == module.render()


@pytest.mark.parametrize("name", COMMANDS)
def test_readme_has_each_command(name: str) -> None:
    """The README's table of commands names every command."""
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Commands")[2].partition("## ")[0]
    assert f"`{name}" in table


def test_readme_has_each_exit_code() -> None:
    """The README's table of exit codes names every exit code, and no other."""
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Exit codes")[2].partition("## ")[0]
    told = {
        int(code)
        for line in table.splitlines()
        if line.startswith("| ")
        for code in line.split("|")[1].split(",")
        if code.strip().isdigit()
    }
    assert told == {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
