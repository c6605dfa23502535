"""The same study from Python by mops-jobs, by submitit and by dask: how long it takes, and what they find.

Each program submits a grid with replicates, waits, writes a table of all tasks, and prints what failed. Some tasks
raise an error, and two kill their process.
"""

from __future__ import annotations

import csv
import os
import shutil
import time
from pathlib import Path

from bench import tools
from bench.machine import ROOT, Setup, environment_packages, interpreter
from bench.measure import Case, in_turn, progress
from bench.report import Line

PROGRAMS = Path(__file__).resolve().parent
OURS, PEERS = "mops-jobs", ("submitit", "dask")
TASKS, FAILED = 50, 10


def run(setup: Setup) -> list[Line]:
    """Run each program once."""
    env = {**setup.env, "PYTHONPATH": os.pathsep.join([str(ROOT), environment_packages(), tools.packages()])}
    programs = {name: _program(name, env, setup.directory / "python-api" / name) for name in (OURS, *PEERS)}
    progress(f"the same study by {', '.join(programs)}")
    in_turn(programs.values(), 1, setup.directory)
    lines = []
    for name in PEERS:
        seconds, theirs_seconds = programs[OURS].seconds, programs[name].seconds
        blamed = check_table(setup.directory / "python-api" / name / "table.csv", may_blame=True)
        against = f"{name}, {theirs_seconds:.1f} s, {blamed} called failed"
        what = f"the same study, {TASKS} tasks, {FAILED} fail"
        lines.append(Line(what, f"{seconds:.1f} s", against, seconds / theirs_seconds))
    return lines


def check_table(path: Path, *, may_blame: bool) -> int:
    """Check the table of a program, and return how many tasks it calls failed.

    Args:
        path: the table.
        may_blame: whether it may also blame tasks that ran beside one that died, as dask does.

    Raises:
        RuntimeError: if a task, an error or a death is missing.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    failed = [row for row in rows if row["status"] != "succeeded"]
    raised = sum("beta is 0.9" in row["error"] for row in failed)
    is_right = len(failed) >= FAILED if may_blame else len(failed) == FAILED
    if (len(rows), raised) != (TASKS, FAILED - 2) or not is_right or not all(row["error"] for row in failed):
        raise RuntimeError(f"{path}: {len(rows)} tasks, {len(failed)} failed, {raised} with the error of the model")
    return len(failed)


def _path(name: str) -> Path:
    return PROGRAMS / f"with_{name.replace('-', '')}.py"


def _program(name: str, env: dict[str, str], directory: Path) -> Case:
    """Return a program in a directory of its own, which runs once."""
    shutil.copytree(PROGRAMS, directory, ignore=shutil.ignore_patterns("__*"))

    def check(_: str) -> None:
        check_table(directory / "table.csv", may_blame=name == "dask")
        _wait_for_runners(env)

    return Case([interpreter(), _path(name).name], env, check=check, cwd=directory, slow=True)


def _wait_for_runners(env: dict[str, str]) -> None:
    """Wait for runners of jobs that have ended, which still write into the directory of this run."""
    from mopsjobs.engines.local import runner_pid

    jobs = Path(env["HOME"], ".local", "state", "mops-jobs", "jobs")
    while jobs.is_dir() and any(runner_pid(job.name, env) for job in jobs.iterdir()):
        time.sleep(0.05)
