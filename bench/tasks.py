"""Many trivial tasks by the local engine, against the standard library's pool of processes over the same function."""

from __future__ import annotations

import json
import shutil
import subprocess
import textwrap
from pathlib import Path

from bench.machine import ROOT, Setup, interpreter
from bench.measure import Case, in_turn, must_print, progress
from bench.report import Line, at_most
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store

TASKS = 10_000
MANY_TASKS = 40_000
"""To see what grows with the tasks, and what does not."""

PARAMETER_SETS = 100

MAX_RATIO = 10.0
MAX_RECORD_BYTES = 4096
MAX_GROWTH = 1.25
"""Of peak memory, from `TASKS` to `MANY_TASKS`: what an allocator gives back late is not growth, a factor of 4 is."""

BEFORE_LEDGER = "a37ef9c"
"""The last commit without a ledger."""

LEDGER_RATIO = 1.05
"""Processor time with a ledger, as a multiple of that without."""

MODEL = """
    import os, time

    def simulate(params, seed):
        end = time.perf_counter() + float(os.environ.get("TASK_SECONDS", "0"))
        while time.perf_counter() < end:
            pass
        return params["x"] * 2 + seed % 7
"""

POOL = """
    import os, sys
    from concurrent.futures import ProcessPoolExecutor
    from model import simulate

    def call(x):
        return simulate({"x": x}, x)

    if __name__ == "__main__":
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            print(sum(1 for _ in pool.map(call, range(int(sys.argv[1])), chunksize=1)))
"""


def run(setup: Setup) -> list[Line]:
    """Time the two, and look at what the job left: its record, and the memory it took."""
    code = setup.directory / "tasks-model"
    code.mkdir()
    (code / "model.py").write_text(textwrap.dedent(MODEL))
    pool = setup.directory / "pool.py"
    pool.write_text(textwrap.dedent(POOL))
    env = {**setup.env, "PYTHONPATH": str(code)}
    theirs = Case([interpreter(), str(pool), str(TASKS)], env, check=must_print(str(TASKS)))
    ours = _submission(setup, code, TASKS)
    many = _submission(setup, code, MANY_TASKS, slow=True)
    progress(f"{TASKS:,} and {MANY_TASKS:,} trivial tasks, {setup.runs} rounds")
    in_turn([theirs, ours, many], setup.runs, setup.directory)
    ratio, cpu_ratio = ours.ratios_to(theirs)
    growth = many.peak_mib / ours.peak_mib
    size = _record_bytes(setup)
    what = f"submit --wait, {TASKS:,} trivial tasks"
    return [
        Line(
            what, f"{ours.seconds:.2f} s", f"ProcessPoolExecutor.map, {theirs.seconds:.2f} s",
            ratio, cpu_ratio, at_most(MAX_RATIO, ratio, " x"),
        ),
        Line(
            f"{what}: the record", f"{size:,} bytes", "", None, None, at_most(MAX_RECORD_BYTES, size, " bytes"),
        ),
        Line(
            f"submit --wait, {MANY_TASKS:,} trivial tasks: peak memory", f"{many.peak_mib:.0f} MiB",
            f"{TASKS:,} tasks, {ours.peak_mib:.0f} MiB", growth, None, at_most(MAX_GROWTH, growth, " x"),
        ),
        *_against_before(setup, code),
    ]  # fmt: skip


def _against_before(setup: Setup, code: Path) -> list[Line]:
    """Compare jobs of trivial and of short tasks with the last version that kept no ledger."""
    before = setup.directory / "before"
    before.mkdir()
    archive = subprocess.run(["git", "archive", BEFORE_LEDGER], cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if archive.returncode:
        raise RuntimeError(f"the clone has no commit {BEFORE_LEDGER}: git fetch --unshallow")
    subprocess.run(["tar", "-x"], input=archive.stdout, cwd=before, check=True)
    lines = []
    for tasks, milliseconds in ((TASKS, 0), (600, 10)):
        progress(f"{tasks:,} tasks of {milliseconds} ms, with and without a ledger, {setup.runs} rounds")
        pair = [_submission(setup, code, tasks) for _ in range(2)]
        for case, checkout in zip(pair, (ROOT, before), strict=True):
            case.argv, case.env = setup.module("mops_jobs", *case.argv[2:])
            path = case.env["PYTHONPATH"].replace(str(ROOT), str(checkout), 1)
            case.env |= {"PYTHONPATH": path, "TASK_SECONDS": str(milliseconds / 1000)}
        in_turn(pair, setup.runs, setup.directory)
        ratio, cpu_ratio = pair[0].ratios_to(pair[1])
        what = f"submit --wait, {tasks:,} tasks of {milliseconds} ms"
        goal = at_most(LEDGER_RATIO, cpu_ratio, " x")
        lines.append(Line(what, f"{pair[0].seconds:.2f} s", "before the ledger", ratio, cpu_ratio, None, goal))
    return lines


def write_study(directory: Path, tasks: int, *, parameter_sets: int) -> Path:
    """Write a study of that many tasks of the model, and return its file."""
    study = directory / f"study-{tasks}.json"
    document = {
        "model": "model:simulate",
        "parameter_sets": [{"x": number} for number in range(parameter_sets)],
        "n_replicates": tasks // parameter_sets,
        "outputs": ["result.json"],
    }
    study.write_text(json.dumps(document))
    return study


def _submission(setup: Setup, code: Path, tasks: int, *, slow: bool = False) -> Case:
    # As many parameter sets in both: those are the study, and it is in memory. What is asked is what tasks cost.
    study = write_study(setup.directory, tasks, parameter_sets=PARAMETER_SETS)
    registry = setup.directory / f"tasks-{tasks}.db"
    place = ("--registry", f"sqlite://{registry}", "--cache", f"{registry}-cache")
    argv, env = setup.command("submit", str(study), "--auto", "--job-id", "job", "--wait", "--json", *place)

    def prepare() -> None:
        for path in registry.parent.glob(f"{registry.name}*"):
            path.unlink()
        shutil.rmtree(JobDir.for_job("job", env).path, ignore_errors=True)

    def check(output: str) -> None:
        told = json.loads(output)
        if (told["status"], told["tasks_total"]) != ("succeeded", tasks):
            raise RuntimeError(f"not {tasks} tasks that succeeded: {output}")

    return Case(argv, env, prepare=prepare, check=check, slow=slow, cwd=code)


def _record_bytes(setup: Setup) -> int:
    store = open_store(f"sqlite://{setup.directory / f'tasks-{MANY_TASKS}.db'}", {})
    try:
        found = store.get(JobRegistry(store).key_of("job"))
    finally:
        store.close()
    if found is None:
        raise RuntimeError("The job has left no record.")
    return len(found.value)
