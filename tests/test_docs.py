"""The documents say what the program does."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from mopsjobs import errors
from mopsjobs.commands import COMMANDS
from support_cli import Cli, command, environment

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(("generator", "page"), [("generate_cli", "cli.md"), ("generate_man", "mops-jobs.1")])
def test_pages_are_what_the_parser_says(generator: str, page: str) -> None:
    """docs/cli.md and the man page are what their generators make of the parser."""
    spec = importlib.util.spec_from_file_location(generator, ROOT / "docs" / f"{generator}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / page).read_text(encoding="utf-8") == module.render()


@pytest.mark.parametrize("words", [("groff", "-man", "-ww", "-Tutf8"), ("mandoc", "-T", "utf8", "-W", "error")])
def test_the_man_page_is_sound(words: tuple[str, ...]) -> None:
    """Neither formatter has anything to say against it, and its text has every command."""
    if shutil.which(words[0]) is None:
        pytest.skip(f"There is no {words[0]}.")
    ran = subprocess.run([*words, str(ROOT / "docs" / "mops-jobs.1")], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    text = re.sub("\x1b\\[[0-9;]*m|.\x08", "", ran.stdout)
    assert all(re.search(rf"^   {name}\b", text, re.MULTILINE) for name in COMMANDS), text


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


@pytest.mark.skipif(shutil.which("jq") is None, reason="the recipe is for people who have jq")
def test_the_recipe_for_events_skips_none_though_its_handler_fails(cli: Cli, tmp_path: Path) -> None:
    """The script of docs/json-output.md: what failed comes again, what was worked through does not."""
    page = (ROOT / "docs" / "json-output.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"^```bash\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    head = f'mops-jobs() {{ {shlex.join(command())} "$@"; }}\n'
    head += 'handle() { [ "$(jq -r .job_id <<< "$1")" != "$BAD" ] && echo "$1" >> handled; }\n'

    def run(bad: str) -> int:
        return subprocess.run(
            ["bash", "-c", head + recipe], cwd=tmp_path, env={**environment(cli), "BAD": bad}, check=False, timeout=60
        ).returncode

    def register(job_id: str) -> None:  # by the clock that the script's own commands go by
        subprocess.run(command("register", job_id), env=environment(cli), check=True, timeout=60, capture_output=True)

    for job_id in ("a", "b", "c"):
        register(job_id)
    assert run("b") == 1
    assert run("") == 0
    register("d")
    assert run("") == 0
    handled = [json.loads(line)["job_id"] for line in (tmp_path / "handled").read_text().splitlines()]
    assert handled == ["a", "b", "c", "d"]
