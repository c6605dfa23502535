"""The program of mops-jobs that `python -m bench --only python` compares with those of others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.python_api import PROGRAMS, check_table, code_lines
from mopsjobs.engines.local import runner_pid
from support.docs import ROOT
from support.runs import until

PRINTED = """\
8 ValueError beta is 0.9 ['beta > 0.8']
2 WorkerDied its worker died (SIGKILL) []
"""

SOURCE = '''
"""A docstring.

Of three lines."""
import os  # a line of code

# a comment
def function():
    "Another one."
    return """a
    text of two lines"""
'''


@pytest.mark.slow
def test_the_program_finds_what_failed(tmp_path: Path) -> None:
    """Its table has all tasks with their errors; its output names the parameters of those that raised an error."""
    work = shutil.copytree(PROGRAMS, tmp_path / "work", ignore=shutil.ignore_patterns("__*"))
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "with_mopsjobs.py"]
    ran = subprocess.run(words, cwd=work, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert (ran.returncode, ran.stdout) == (0, PRINTED), ran.stderr
    check_table(work / "table.csv", may_blame=False)
    jobs = tmp_path / ".local" / "state" / "mops-jobs" / "jobs"
    until(lambda: not any(runner_pid(job.name, env) for job in jobs.iterdir()), "the runner to end")


def test_lines_of_code_are_those_with_code(tmp_path: Path) -> None:
    """Comments, docstrings and blank lines do not count; each line of a text does."""
    (tmp_path / "program.py").write_text(SOURCE)
    assert code_lines(tmp_path / "program.py") == 4
