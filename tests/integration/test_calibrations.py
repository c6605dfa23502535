"""Calibrations whose answer is known: the SEIR model by three samplers, and a CalibrationSpec with its target."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mopsjobs as mj
from mopsjobs.engines.local import runner_pid
from mopsjobs.errors import JobBusyError
from mopsjobs.ledger.scalars import may_have_scalars
from mopsjobs.studies.journal import ToldRound, told_key
from mopsjobs.studies.manifest import load_manifest
from mopsjobs.studies.study import param_id
from mopsjobs.submission import calibrating
from mopsjobs.submission.calibrating import continue_calibration
from mopsjobs.submission.growing import continue_growing
from support.docs import ROOT, files_shown
from support.runs import kill, tree

pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

PLANTED = {"r0": 1.8, "incubating": 4.0, "infectious": 5.0}
TOLERANCE = {"r0": 0.1, "incubating": 0.8, "infectious": 0.8}


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a program with a home of its own."""
    return {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "choice",
    [
        pytest.param({"sampler": "optuna"}, id="TPE"),
        pytest.param({"sampler": "optuna", "options": {"sampler": "CmaEsSampler"}}, id="CMA-ES"),
        pytest.param({"sampler": "samplers:DifferentialEvolution", "options": {"popsize": 4}}, id="evolution"),
    ],
)
def test_each_sampler_finds_the_planted_parameters(tmp_path: Path, env: dict[str, str], choice: dict[str, Any]) -> None:
    """The mean of the best sets is within the tolerance. A value is random, so the single best set is in part luck."""
    examples = ROOT / "examples"
    code = {
        path.name: path.read_text()
        for path in (examples / "seir" / "seir.py", examples / "calibration" / "samplers.py")
    }
    fit = json.loads(files_shown("docs/guides/calibration.md")["fit.json"])
    with mj.connect(env=env) as reg:
        found = reg.calibrate({**fit, **choice}, code=tree(tmp_path / "code", code), workers=2, python=sys.executable)
    top = found.top(8)
    means = {name: sum(one[name] for one in top) / len(top) for name in PLANTED}
    assert all(abs(means[name] - PLANTED[name]) <= TOLERANCE[name] for name in PLANTED), means
    assert len(found.evaluations()) == 240


CALABARIA = {
    "modelops_calabaria/core/alignment.py": """
class JoinAlignment:
    def __init__(self, on_cols, mode="exact"):
        self.on_cols = on_cols
    def align(self, observed, simulated):
        return [one.join(observed, on=self.on_cols, suffix="__obs") for one in simulated]
""",
    "modelops_calabaria/core/evaluation.py": """
import types

class ReplicateMeanMSE:
    def __init__(self, col):
        self.col = col
    def evaluate(self, aligned):
        means = sum(one[self.col] for one in aligned) / len(aligned)
        loss = float(((means - aligned[0][self.col + "__obs"]) ** 2).mean())
        return types.SimpleNamespace(name="mse", loss=loss, weight=1.0, weighted_loss=loss)

def replicate_mean_mse(col):
    return ReplicateMeanMSE(col)
""",
    "modelops_calabaria/core/target.py": """
class Target:
    def __init__(self, model_output, data, alignment, evaluation, weight=1.0):
        self.model_output, self.data, self.weight = model_output, data, weight
        self.alignment, self.evaluation = alignment, evaluation
    def evaluate(self, replicated_sim_outputs):
        tables = [one[self.model_output] for one in replicated_sim_outputs]
        return self.evaluation.evaluate(self.alignment.align(observed=self.data, simulated=tables))
""",
    "targets/incidence.py": """
import polars
from modelops_calabaria.core.alignment import JoinAlignment
from modelops_calabaria.core.evaluation import replicate_mean_mse
from modelops_calabaria.core.target import Target

def signal():
    observed = polars.read_csv("data/observed.csv")
    return Target("incidence", observed, JoinAlignment("day", mode="exact"), replicate_mean_mse("infected"))
""",
    "data/observed.csv": "day,infected\n0,3.0\n1,2.5\n",
    "wire.py": """
import io, polars

def wire(entrypoint, params, seed):
    table = io.BytesIO()
    infected = params["beta"] * params["dur_inf"] + seed % 10 / 100
    polars.DataFrame({"day": [0, 1, 2], "infected": [infected, infected / 2, 0.0]}).write_ipc(table)
    return {"incidence": table.getvalue(), "metadata": b"{}"}
""",
}
"""A project with a target as calabaria has them: a function returns a `Target`. Its `evaluate` takes the tables of the
replicates, aligns them with the observed ones, and gives an object with a `loss`."""

MODELOPS_EVALUATION = """
import io, json, sys, polars
from targets.incidence import signal
from wire import wire

params, seeds = json.loads(sys.argv[1])
tables = [{"incidence": polars.read_ipc(io.BytesIO(wire("", params, seed)["incidence"]))} for seed in seeds]
print(signal().evaluate(tables).loss)
"""

CALIBRATION_SPEC: dict[str, Any] = {
    "model": "models.sir",
    "scenario": "baseline",
    "algorithm": "optuna",
    "target_data": {"observed_file": "data/observed.csv", "target_entrypoints": ["targets.incidence:signal"]},
    "max_iterations": 1_000_000,
    "convergence_criteria": {},
    "algorithm_config": {
        "max_trials": 12,
        "batch_size": 4,
        "n_replicates": 3,
        "parameter_specs": {"beta": {"lower": 0.01, "upper": 0.8}, "dur_inf": {"lower": 3.0, "upper": 10.0}},
        "sampler": {"type": "tpe", "n_startup_trials": 4},
        "simulation_entrypoint": "models.sir:StarsimSIR",
    },
    "outputs": None,
    "metadata": {"model_class": "models.sir:StarsimSIR", "n_parameters": 2, "created_by": "cb calibration optuna"},
}
"""The document that `cb calibration optuna` writes for two parameters."""


def test_a_calibration_spec_runs_with_its_target(tmp_path: Path, env: dict[str, str]) -> None:
    """The value of the best set is what its target gives without mops-jobs, for simulations with the same seeds."""
    pytest.importorskip("polars")
    directory = tree(tmp_path / "code", CALABARIA)
    with mj.connect(env=env) as reg:
        found = reg.calibrate(CALIBRATION_SPEC, code=directory, workers=2, python=sys.executable)
        best = found.best
        assert best is not None
        study = load_manifest(reg.app.store, found.job.id).study
        seeds = {task.seed for task in study.tasks() if task.param_id == param_id(best["params"])}
    answer = json.dumps([best["params"], sorted(seeds)])
    command = [sys.executable, "-c", MODELOPS_EVALUATION, answer]
    loss = float(subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True).stdout)
    assert (len(seeds), found.rounds, best["values"]) == (3, 3, [pytest.approx(loss)])


MODEL = "def simulate(params, seed):\n    return {'loss': params['x'] ** 2}\n"


def test_a_lost_runner_is_started_again(tmp_path: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The coordinator sees that it has ended, and the calibration goes on in the same job."""
    monkeypatch.setattr(calibrating, "LOOK_SECONDS", 0.2)
    spec = {"model": "model:simulate", "parameters": {"x": {"uniform": [-1, 1]}}, "objective": "loss", "rounds": 3}

    def strike(fit: mj.Calibration[mj.Job]) -> None:
        pid = runner_pid(fit.job.id, env)
        if fit.rounds == 1 and pid is not None:
            kill(pid)

    directory = tree(tmp_path / "code", {"model.py": MODEL})
    with mj.connect(env=env) as reg:
        done = reg.calibrate(spec, code=directory, workers=1, job_id="fit", on_round=strike, python=sys.executable)
        assert (done.rounds, done.job.status()["status"], len(reg.jobs())) == (3, "succeeded", 1)


LARGE = """
def simulate(params, seed):
    return {"result.json": {"loss": params["x"] ** 2}, "large.bin": bytes(10**6), "rows.csv": "a,b\\n1,2\\n"}
"""


def test_a_client_reads_only_the_outputs_that_it_wants(tmp_path: Path, env: dict[str, str]) -> None:
    """A scalar is in JSON or CSV, so the coordinator of an objective of scalars reads no other output."""
    spec = {"model": "model:simulate", "parameters": {"x": {"uniform": [-1, 1]}}, "objective": "loss", "rounds": 1}
    directory = tree(tmp_path / "code", {"model.py": LARGE})
    with mj.connect(env=env) as reg:
        done = reg.calibrate(spec, code=directory, workers=1, job_id="fit", python=sys.executable)
        session = reg.app.session()
        for reads, names in ((may_have_scalars, ["result.json", "rows.csv"]), (lambda _name: True, None)):
            ends = list(continue_growing(session, "fit", reads).ended(0.0))
            assert {tuple(sorted(one.outputs or ())) for one in ends} == {
                tuple(names or ["large.bin", "result.json", "rows.csv"])
            }
        job = continue_growing(session, "fit")
        job.leave_out(range(7))  # a client that goes on has told these
        assert [one.number for one in job.ended(0.0)] == [7]
    assert (done.best is not None, len(ends)) == (True, 8)


def test_two_clients_of_a_calibration_cannot_tell_different_things(tmp_path: Path, env: dict[str, str]) -> None:
    """What one has told stays; a client that would tell something else says that there is another one."""
    spec = {"model": "model:simulate", "parameters": {"x": {"uniform": [-1, 1]}}, "objective": "loss", "rounds": 3}
    told: list[int] = []

    class StopError(Exception):
        pass

    def stop(fit: mj.Calibration) -> None:
        told.append(fit.rounds)
        raise StopError

    directory = tree(tmp_path / "code", {"model.py": MODEL})
    with mj.connect(env=env) as reg:
        with pytest.raises(StopError):
            reg.calibrate(spec, code=directory, workers=1, job_id="fit", on_round=stop, python=sys.executable)
        assert told == [1]
        store, session = reg.app.store, reg.app.session()
        with continue_calibration("fit", session) as begun:
            store.create_if_absent(told_key("fit", 2), ToldRound(()).to_json())
            with pytest.raises(JobBusyError, match="has told other values"):
                begun.coordinator.run()
        store.delete(told_key("fit", 2))
        done = reg.calibrate(reg.job("fit"), on_round=lambda fit: told.append(fit.rounds))
    assert (told, done.best is not None) == ([1, 2, 3], True)
