"""Completion by a real Tab: each shell at a terminal, with the script as the documentation has it installed."""

from __future__ import annotations

import os
import shlex
import shutil
from typing import TYPE_CHECKING

import pytest

from support.cli import Cli, add, command, environment
from support.terminal import terminal

if TYPE_CHECKING:
    from pathlib import Path

    from mopsjobs.registry.job_registry import JobRegistry

SHELLS = {
    "bash": (["--norc", "--noprofile", "-i"], "source {path}"),
    "zsh": (["-f", "-i"], "fpath=({directory} $fpath); autoload -Uz compinit; compinit -u -d {directory}/dump"),
    "tcsh": (["-f", "-i"], "source {path}"),
    "fish": (["--no-config", "--interactive"], "source {path}"),
}
"""How each is started without anybody's own settings, and what is typed to have the script."""

TABS = {
    "mops-jobs summ": "ary",
    "mops-jobs status nig": "ht-1",
    "mops-jobs list --owner lov": "elace",
    "mops-jobs list --status succ": "eeded",
}
"""What is typed before the key, and what it adds."""

SECOND = {"mops-jobs wait day ev": "ening"}
"""What tcsh does not get: shtab gives it rules for places, and none for arguments that repeat."""

KILL_LINE = "\x15"


@pytest.mark.parametrize("shell", SHELLS)
def test_tab_completes(cli: Cli, jobs: JobRegistry, tmp_path: Path, shell: str) -> None:
    """Commands, and from the cache as it lies ids of jobs and owners; statuses that there are."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"There is no {shell}.")
    for name, owner in (("night-1", "lovelace"), ("day", "hopper"), ("evening", "hopper")):
        add(jobs, name, owner=owner)
    cli.ok("list", "-q")
    script = tmp_path / "_mops-jobs"
    script.write_text(cli.ok("completion", shell).out)
    ours = tmp_path / "bin" / "mops-jobs"
    ours.parent.mkdir()
    ours.write_text(f'#!/bin/sh\nexec {shlex.join(command())} "$@"\n')
    ours.chmod(0o755)
    words, setup = SHELLS[shell]
    env = environment(cli, PATH=f"{ours.parent}:{os.environ['PATH']}", TERM="vt100", LANG="C.UTF-8")
    with terminal([program, *words], env) as at:
        at.type(setup.format(path=script, directory=tmp_path) + "; echo rea''dy\n")
        at.until("ready")
        for typed, added in (TABS if shell == "tcsh" else TABS | SECOND).items():
            at.type(f"{typed}\t")
            at.until(added)
            at.type(KILL_LINE)
