"""`completion`: the scripts of the shells, and a real Tab in each shell at a terminal."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from mopsjobs.registry.job_registry import JobRegistry
from support.cli import Cli, Remote, add, command, environment
from support.terminal import terminal

SHELLS = {
    "bash": (["--norc", "--noprofile", "-i"], "source {path}"),
    "zsh": (["-f", "-i"], "fpath=({directory} $fpath); autoload -Uz compinit; compinit -u -d {directory}/dump"),
    "tcsh": (["-f", "-i"], "source {path}"),
    "fish": (["--no-config", "--interactive"], "source {path}"),
}
"""The command that starts each shell without a user's settings, and the words that print its script."""

TABS = {
    "mops-jobs summ": "ary",
    "mops-jobs status nig": "ht-1",
    "mops-jobs status @": "latest",
    "mops-jobs list --owner lov": "elace",
    "mops-jobs list --status succ": "eeded",
    "mops-jobs events --kind task": "_failed",
}
"""What is typed before the key, and what it adds."""

SECOND = {"mops-jobs wait day ev": "ening", "mops-jobs wait @": "latest"}
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


def _completed(cli: Cli, *words: str) -> list[str]:
    """Return what bash offers for the last of these words."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("There is no bash.")
    program = " ".join(shlex.quote(word) for word in command())
    line = f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; _shtab_mops_jobs"
    script = f"""{cli.ok("completion", "bash").out}
        mops-jobs() {{ {program} "$@"; }}
        command() {{ [ "$1" = mops-jobs ] && "$@"; }}
        {line}; printf '%s\\n' "${{COMPREPLY[@]}}" """
    ran = subprocess.run([bash, "--norc"], input=script, capture_output=True, text=True, env=environment(cli))
    assert (ran.returncode, ran.stderr) == (0, "")
    return sorted(ran.stdout.split())


def test_bash_completes_from_the_cache(cli: Cli, remote: Remote, tmp_path: Path) -> None:
    """Ids and owners are those of the cache as it lies, statuses those there are; nothing is sent to the registry."""
    for name, owner in (("night-1", "ada"), ("night-2", "alan"), ("day", f"$(touch {tmp_path}/ran)")):
        add(remote.jobs, name, owner=owner)
    cli.ok("sync")
    remote.store.down = True
    assert _completed(cli, "mops-jobs", "status", "ni") == ["night-1", "night-2"]
    assert _completed(cli, "mops-jobs", "wait", "day", "n") == ["night-1", "night-2"]
    assert _completed(cli, "mops-jobs", "logs", "") == ["@latest", "day", "night-1", "night-2"]
    assert _completed(cli, "mops-jobs", "list", "--owner", "a") == ["ada", "alan"]
    assert _completed(cli, "mops-jobs", "list", "--status", "su") == ["submitting", "succeeded"]
    assert _completed(cli, "mops-jobs", "list", "--owner", "") == ["ada", "alan"], (
        "what a shell would expand is left out"
    )
    assert not (tmp_path / "ran").exists()


def test_wait_is_completed_with_jobs_that_have_not_ended(cli: Cli, remote: Remote) -> None:
    """And with `@latest`, as every argument that takes it. A full id is never completed so."""
    for name, status in (("night-1", "succeeded"), ("night-2", "running"), ("night-3", "failed")):
        add(remote.jobs, name, status)
    cli.ok("sync")
    assert _completed(cli, "mops-jobs", "wait", "ni") == ["night-2"]
    assert _completed(cli, "mops-jobs", "wait", "") == ["@latest", "night-2"]
    assert _completed(cli, "mops-jobs", "wait", "@") == ["@latest"]
    assert _completed(cli, "mops-jobs", "results", "@la") == ["@latest"]
    assert _completed(cli, "mops-jobs", "resume", "@") == []
    assert _completed(cli, "mops-jobs", "resume", "ni") == ["night-1", "night-2", "night-3"]


def test_without_a_cache_there_are_no_words_and_no_message(cli: Cli, remote: Remote) -> None:
    """A user who presses Tab reads no errors."""
    ran = cli.ok("completion", "--words", "jobs", "x")
    assert (ran.out, ran.err) == ("", "")
    assert cli("completion").code == 2
    assert cli("completion", "--words", "tasks", "").code == 2
