"""The example, from submission to its verified end; and a bundle whose model lives in an interpreter of its own."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from support.cli import Cli, command, environment
from support.docs import ROOT
from support.runs import PATIENCE

EXAMPLE = ROOT / "examples" / "seir"
CHECKPOINTS = ROOT / "examples" / "seir-checkpoints"
BY_AGE = ROOT / "examples" / "seir-by-age"
MODEL_PYTHON = ROOT / "build" / "model" / "bin" / "python"
"""What `./build.sh test` makes of that example's requirements.txt."""


def _digest(cli: Cli, job_id: str, tmp_path: Path) -> str:
    """Return what all outputs of a job are, by name and bytes, without the table that names the job."""
    into = tmp_path / f"outputs-{job_id}"
    cli.ok("results", job_id, "--download", str(into))
    (into / "tasks.csv").unlink()
    digest = hashlib.sha256()
    for path in sorted(path for path in into.rglob("*") if path.is_file()):
        digest.update(path.relative_to(into).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def test_the_example_runs_200_simulations_reproducibly(cli: Cli, tmp_path: Path) -> None:
    """They end verified, and a second job gives the same outputs."""
    env = environment(cli)
    for job_id in ("seir-1", "seir-2"):
        words = command("submit", "study.json", "--auto", "--job-id", job_id, "--workers", "2")
        subprocess.run(words, cwd=EXAMPLE, env=env, check=True, capture_output=True, timeout=PATIENCE)
        waited = subprocess.run(command("wait", job_id), env=env, capture_output=True, text=True, timeout=PATIENCE)
        assert waited.returncode == 0, waited.stderr
        assert f"{job_id}: succeeded, 200/200 tasks" in waited.stderr
        state = cli.ok("status", job_id, "--json").json
        assert (state["status"], state["tasks_total"], state["tasks_verified"]) == ("succeeded", 200, 200)
        assert cli.ok("validate", job_id).out == f"{job_id}: 200 of 200 tasks verified; succeeded\n"
        assert len(cli.ok("results", job_id).lines) == 200
    assert _digest(cli, "seir-1", tmp_path) == _digest(cli, "seir-2", tmp_path)


def test_the_example_is_an_epidemic(monkeypatch: pytest.MonkeyPatch) -> None:
    """The population stays the same, the same seed gives the same, and a higher r0 infects more."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    import seir

    params = {"population": 20000, "initial": 10, "incubating": 3.0, "infectious": 5.0}
    weak, strong = (seir.simulate({**params, "r0": r0}, 1) for r0 in (1.2, 3.0))
    assert seir.simulate({**params, "r0": 1.2}, 1) == weak
    assert 0 < weak["attack_rate"] < strong["attack_rate"] < 1
    assert len(strong["infectious"]) == seir.DAYS
    assert all(0 <= count <= 20000 for count in strong["infectious"])


def test_the_example_with_checkpoints_may_be_interrupted(cli: Cli) -> None:
    """It leaves the same outputs when it is killed, or told to stop, at its checkpoints."""
    env = {**environment(cli), "PYTHONPATH": str(ROOT)}
    words = command("submit", "study.json", "--auto", "--job-id", "job", "--workers", "2", "--wait")
    subprocess.run(words, cwd=CHECKPOINTS, env=env, check=True, capture_output=True, timeout=PATIENCE)
    words = command("replay", "job", "3", "--interrupt", "3", "--json")
    replayed = subprocess.run(words, env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert replayed.returncode == 0, replayed.stderr
    document = json.loads(replayed.stdout)
    assert (document["equal"], document["interruption"]["equal"]) == (True, True)
    assert document["interruption"]["at"]


def test_a_wire_function_on_numpy_pandas_and_pyarrow_runs(cli: Cli, tmp_path: Path) -> None:
    """The bundle is one of ModelOps, unchanged.

    It runs in the interpreter that `--python` names, with the packages there, as `provenance` tells.
    """
    env = environment(cli)
    words = ("submit", "study.yaml", "--auto", "--job-id", "by-age", "--workers", "2", "--python", str(MODEL_PYTHON))
    subprocess.run(command(*words), cwd=BY_AGE, env=env, check=True, capture_output=True, timeout=PATIENCE)
    waited = subprocess.run(command("wait", "by-age"), env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert waited.returncode == 0, waited.stderr
    listing = (
        "import importlib.metadata as m, json;"
        " print(json.dumps({one.name.lower(): one.version for one in m.distributions()}))"
    )
    there = subprocess.run([MODEL_PYTHON, "-c", listing], capture_output=True, text=True, check=True).stdout
    (environment_there,) = cli.ok("provenance", "by-age", "--json").json["environments"]
    assert environment_there["packages"] == json.loads(there)
    into = tmp_path / "outputs"
    cli.ok("results", "by-age", "--download", str(into))
    outputs = sorted(into.rglob("*.parquet"))
    assert len(outputs) == 3 * 3 + 1  # three parameter sets have replicates, the fourth has a seed
    reread = "import pandas, sys\nfor path in sys.argv[1:]: print(int(pandas.read_parquet(path)['infected'].sum()))"
    totals = subprocess.run([MODEL_PYTHON, "-c", reread, *outputs], capture_output=True, text=True, check=True).stdout
    for path, total in zip(outputs, totals.split(), strict=True):
        attacked = json.loads((path.parent / "summary.json").read_text())["attacked"]
        assert int(total) == sum(attacked.values()) > 0
