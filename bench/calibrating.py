"""A calibration beside Optuna in one process: the same sampler, the same rounds, a model that takes a second."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from bench.machine import ROOT, Setup
from bench.measure import progress
from bench.report import Line, at_most

WORKERS, ROUNDS = 2, 40

MODEL_SECONDS = 1.0

MAX_RATIO = 1.05
"""Of the time of Optuna in one process."""

MODEL = """
import time

def simulate(params, seed):
    time.sleep({seconds})
    return {{"loss": (params["x"] - 1) ** 2 + params["y"]}}
"""

SPEC = {
    "model": "model:simulate",
    "outputs": ["result.json"],
    "parameters": {"x": {"uniform": [-3, 3]}, "y": {"uniform": [0, 1]}},
    "objective": "loss",
    "rounds": ROUNDS,
    "sets_per_round": WORKERS,
    "sampler": "optuna",
}


def run(setup: Setup) -> list[Line]:
    """Time a calibration as a process, from its start to its end, and from its first round to its last."""
    code = setup.directory / "calibrate-model"
    code.mkdir()
    (code / "model.py").write_text(MODEL.format(seconds=MODEL_SECONDS))
    (code / "spec.json").write_text(json.dumps(SPEC))
    evaluations = WORKERS * ROUNDS
    progress(f"{evaluations} evaluations of a model of {MODEL_SECONDS:g} s by {WORKERS} workers, twice")
    own, own_rounds = _calibrate(code, setup)
    script = [sys.executable, "-m", "bench.calibrating", str(code)]
    ran = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=True)
    other, other_rounds = json.loads(ran.stdout)
    per_round = 1e3 * own_rounds / (ROUNDS - 1)
    ratio = own_rounds / other_rounds
    return [
        Line(
            f"calibrate, {evaluations} evaluations of {MODEL_SECONDS:g} s by {WORKERS} workers, whole process",
            f"{own:.2f} s", f"Optuna in one process, {other:.2f} s", own / other, None, None,
        ),
        Line(
            "the same from the end of the first round to that of the last, per round",
            f"{per_round:.0f} ms", f"{1e3 * other_rounds / (ROUNDS - 1):.0f} ms", ratio, None,
            at_most(MAX_RATIO, ratio, " x"),
        ),
    ]  # fmt: skip


def _calibrate(code: os.PathLike[str], setup: Setup) -> tuple[float, float]:
    """Return how long a calibration takes, and how long from its first round to its last."""
    url = f"sqlite://{setup.directory}/calibrate.db"
    env = {"PATH": os.environ["PATH"], "HOME": str(setup.directory), "MOPS_JOBS_REGISTRY": url}
    flags = ["--auto", "--python", sys.executable, "--workers", str(WORKERS)]
    command = [sys.executable, str(ROOT / "mops_jobs.py"), "calibrate", "spec.json", *flags]
    began = time.perf_counter()
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=code, env=env, text=True, **streams) as process:
        assert process.stderr is not None
        times = [time.perf_counter() for line in process.stderr if line.startswith("Round ")]
    return time.perf_counter() - began, times[-1] - times[0]


def _optuna(code: str) -> tuple[float, float]:
    """Return the same of Optuna with a pool of processes, round by round."""
    began = time.perf_counter()
    import optuna

    sys.path.insert(0, code)
    from model import simulate  # type: ignore[import-not-found]

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=1))
    bounds = {name: optuna.distributions.FloatDistribution(*one["uniform"]) for name, one in SPEC["parameters"].items()}
    times = []
    with ProcessPoolExecutor(WORKERS) as pool:
        for _ in range(ROUNDS):
            trials = [study.ask(bounds) for _ in range(WORKERS)]
            ends = [pool.submit(simulate, trial.params, 0) for trial in trials]
            for trial, end in zip(trials, ends, strict=True):
                study.tell(trial, end.result()["loss"])
            times.append(time.perf_counter())
    return time.perf_counter() - began, times[-1] - times[0]


if __name__ == "__main__":
    print(json.dumps(_optuna(sys.argv[1])))
