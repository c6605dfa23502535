"""Runs jobs of trivial and of short tasks, and compares them with the last version that kept no ledger."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

from bench.machine import ROOT, Setup, interpreter
from bench.measure import Case, in_turn, progress
from bench.report import Line, at_most

BEFORE = "a37ef9c"
"""The commit before the ledger."""

MAX_OVERHEAD = 1.05

MODEL = """
import time

def simulate(params, seed):
    end = time.perf_counter() + params["seconds"]
    while time.perf_counter() < end:
        pass
    return {"y": params["x"] * 2 + seed % 7}
"""


def run(setup: Setup) -> list[Line]:
    """Measure `submit --wait`, with all its processes."""
    progress(f"running jobs with and without a ledger (the code of {BEFORE})")
    before = setup.directory / "before"
    _check_out(before)
    lines = []
    for tasks, milliseconds in ((10_000, 0), (600, 10)):
        ours, theirs = (_case(setup, code, tasks, milliseconds) for code in (ROOT, before))
        in_turn([ours, theirs], setup.runs, setup.directory)
        ratio, cpu_ratio = ours.ratios_to(theirs)
        what = f"submit --wait, {tasks:,} tasks of {milliseconds} ms"
        goal = at_most(MAX_OVERHEAD, cpu_ratio, " x")
        lines.append(Line(what, f"{ours.seconds:.2f} s", "before the ledger", ratio, cpu_ratio, None, goal))
    return lines


def _check_out(directory: Path) -> None:
    """Extract the version before the ledger."""
    archive = subprocess.run(["git", "archive", BEFORE], cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if archive.returncode:
        raise RuntimeError(f"the clone has no commit {BEFORE}: git fetch --unshallow")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(directory, filter="data")


def _case(setup: Setup, code: Path, tasks: int, milliseconds: int) -> Case:
    place, model = setup.directory / "recording", setup.directory / "model"

    def prepare() -> None:
        for directory in (place, model):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
        (model / "model.py").write_text(MODEL)
        sets = [{"params": {"x": x, "seconds": milliseconds / 1000}} for x in range(100)]
        study = {"model": "model:simulate", "parameter_sets": sets, "n_replicates": tasks // 100}
        (model / "study.json").write_text(json.dumps(study))

    _, env = setup.module("mopsjobs")
    words = ["submit", "study.json", "--auto", "--wait", "--workers", "2", "--registry", f"sqlite://{place}/r.db"]
    env = {**env, "XDG_STATE_HOME": str(place), "XDG_CACHE_HOME": str(place)}
    return Case([interpreter(), str(code / "mops_jobs.py"), *words], env, prepare=prepare, cwd=model)
