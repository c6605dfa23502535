"""Jobs in a chain of make and of Snakemake: examples/snakemake."""

from __future__ import annotations

import csv
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from support.cli import Cli, command, environment
from support.docs import ROOT
from support.runs import PATIENCE

EXAMPLE = ROOT / "examples" / "snakemake"

# A runner outlives the command that launched it.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


class Chain:
    """A copy of the example, with `mops-jobs` on the PATH."""

    def __init__(self, cli: Cli, directory: Path) -> None:
        self.path = directory / "chain"
        shutil.copytree(EXAMPLE, self.path, ignore=shutil.ignore_patterns("*.csv", "refined.json", ".snakemake"))
        program = directory / "bin" / "mops-jobs"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {shlex.join(command())} "$@"\n')
        program.chmod(0o755)
        self._env = {**environment(cli), "PATH": f"{program.parent}:{os.environ['PATH']}"}

    def run(self, *words: str) -> tuple[int, str]:
        """Run a program in the directory, and return its exit code and what it printed."""
        ran = subprocess.run(
            words, cwd=self.path, env=self._env, capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        return ran.returncode, ran.stdout + ran.stderr

    def table(self, name: str) -> list[dict[str, str]]:
        with (self.path / name).open(newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def chain(cli: Cli, tmp_path: Path) -> Chain:
    return Chain(cli, tmp_path)


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


@needs_make
def test_make_runs_two_jobs_in_a_chain_and_each_once(cli: Cli, chain: Chain) -> None:
    """The second study is made of the table of the first. Lost tables are written again, from the same jobs."""
    code, said = chain.run("make")
    assert code == 0, said
    assert (len(chain.table("scan.csv")), len(chain.table("refined.csv"))) == (12, 10)
    jobs = cli.ids()
    assert [job_id.partition("-")[0] for job_id in sorted(jobs)] == ["refined", "scan"]
    assert "up to date" in chain.run("make")[1]
    for name in ("scan.csv", "refined.csv"):
        (chain.path / name).unlink()
    assert chain.run("make")[0] == 0
    assert cli.ids() == jobs


def test_the_rule_of_snakemake_finds_its_job_again(cli: Cli, chain: Chain) -> None:
    """The shell commands of the rule, as Snakemake runs them. A second run waits for the job of the first."""
    (shell,) = re.findall(r'shell:\n +"""\n(.*?)"""', (EXAMPLE / "Snakefile").read_text(), re.DOTALL)
    line = shell.format(input=["scan.json"], params=SimpleNamespace(job="scan-1"), output="scan.csv")
    for _ in range(2):
        code, said = chain.run("bash", "-euo", "pipefail", "-c", line)
        assert code == 0, said
        assert len(chain.table("scan.csv")) == 12
        (chain.path / "scan.csv").unlink()
    assert cli.ids() == ["scan-1"]
