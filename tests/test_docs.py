"""The documents say what the program does."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

import pytest

from mopsjobs import errors
from mopsjobs.commands import COMMANDS
from support_cli import Cli

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


def test_the_example_of_studies_runs_and_has_the_tasks_that_the_page_tells(cli: Cli, tmp_path: Path) -> None:
    """The files that docs/studies.md shows make up a study of 10 tasks, which succeed, each with its output."""
    page = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    files = dict(re.findall(r"^`([a-z.]+)`:\n\n```[a-z]+\n(.*?)^```", page, re.DOTALL | re.MULTILINE))
    assert files.keys() == {"study.yaml", "model.py"}
    os.chdir(tmp_path)
    for name, text in files.items():
        Path(name).write_text(text, encoding="utf-8")
    told = cli.ok(
        "submit", "study.yaml", "--auto", "--wait", "--job-id", "job", "--json", XDG_STATE_HOME=str(tmp_path / "state")
    ).json
    assert (told["tasks_total"], told["status"]) == (10, "succeeded")
    assert len(cli.ok("results", "job").lines) == 10
