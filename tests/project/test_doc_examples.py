"""The examples of README and guides run as they stand there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.cli import command
from support.docs import DOCUMENTS, ROOT, Example, examples, files_shown, python_examples, read

if TYPE_CHECKING:
    from pathlib import Path

    from support.servers import Azurite

SHOWN = [name for name in DOCUMENTS if name == "README.md" or name.startswith("docs/guides/")]
HERE = [name for name in SHOWN if any(marker is None for marker, _ in examples(name))]
_SEPARATOR = "@@ line {} @@"


def _run(document: str, commands: list[Example], folder: Path, **env: str) -> None:
    """Run commands in one shell, in order, in a home and a directory of their own; compare the output that is shown.

    Three dots stand for any text, a run of blanks for any other.
    """
    (folder / "bin").mkdir()
    program = folder / "bin" / "mops-jobs"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(command())} "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    work = folder / "work"
    shutil.copytree(ROOT / "examples", work / "examples")
    for name, text in files_shown(document).items():
        (work / name).write_text(text, encoding="utf-8")
    script = "set -eu -o pipefail\n"
    for example in commands:
        script += f"echo {shlex.quote(_SEPARATOR.format(example.line))}\n{example.command}\n"
    ran = subprocess.run(
        ["bash", "-c", script],
        cwd=work,
        env={"HOME": str(folder), "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}", **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, f"{document}, the last of:\n{ran.stdout}\n{ran.stderr}"
    printed = re.split(r"^@@ line \d+ @@\n", ran.stdout, flags=re.MULTILINE)[1:]
    for example, out in zip(commands, printed, strict=True):
        if example.output:
            expected = re.escape(" ".join(example.output.split())).replace("…", ".*")
            assert re.fullmatch(expected, " ".join(out.split())), f"{document}:{example.line}: {out}"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("jq") is None, reason="some examples use jq")
@pytest.mark.parametrize("document", HERE)
def test_examples_run_as_they_stand(document: str, tmp_path: Path) -> None:
    """The console examples of a document run in order, and print what it shows."""
    _run(document, [one for marker, block in examples(document) if marker is None for one in block], tmp_path)


def test_examples_for_azure_run(azurite: Azurite, tmp_path: Path) -> None:
    """The examples for an Azurite run against one, in a container of their own."""
    (block,) = [block for marker, block in examples("docs/guides/azure.md") if marker == "run with: azurite"]
    there = azurite.connection_string
    commands = [one._replace(command=one.command.replace("UseDevelopmentStorage=true", there)) for one in block]
    _run("docs/guides/azure.md", commands, tmp_path, MOPS_JOBS_REGISTRY=f"azure://{azurite.new_container()}")


PYTHON_API = "docs/reference/python.md"
PRINTED = {"update_status": "failed 5 ['pending', 'submitting', 'scheduled', 'running', 'failed']\n"}
"""What an example prints, by a word in it."""


@pytest.mark.slow
def test_examples_of_the_python_api_run(tmp_path: Path) -> None:
    """The Python examples run in order, as scripts, in one home. Their directory has the files that the page shows."""
    script = tmp_path / "scripts" / "example.py"
    script.parent.mkdir()
    work = tmp_path / "work"
    work.mkdir()
    files = files_shown(PYTHON_API)
    for name, text in files.items():
        (work / name).write_text(text, encoding="utf-8")
    programs = python_examples(PYTHON_API)
    assert len(programs) >= 3
    for program in programs:
        script.write_text(program, encoding="utf-8")
        ran = subprocess.run(
            [sys.executable, "-W", "ignore::ResourceWarning", str(script)],
            cwd=work,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert (ran.returncode, ran.stderr) == (0, ""), program
        for word, printed in PRINTED.items():
            assert word not in program or ran.stdout == printed


@pytest.mark.parametrize("document", SHOWN)
def test_markers_are_understood(document: str) -> None:
    """Each console block is found, and each marker stands above one."""
    text = read(document)
    assert text.count("```console") == len(list(examples(document)))
    marked = [marker for marker, _ in examples(document) if marker is not None]
    assert text.count("<!--") == len(marked)
    assert all(re.fullmatch("not run: .+|run with: azurite", marker) for marker in marked)
