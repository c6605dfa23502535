"""Many trivial tasks by the local engine, against the standard library's pool of processes over the same function."""

from __future__ import annotations

import json
import shutil
import textwrap
from pathlib import Path

from bench.machine import Setup, interpreter
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

MODEL = """
    def simulate(params, seed):
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
    ]  # fmt: skip


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
