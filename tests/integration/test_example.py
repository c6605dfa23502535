"""The example, from submission to its verified end; and a bundle whose model lives in an interpreter of its own."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from support.cli import Cli, command, environment
from support.docs import ROOT
from support.runs import PATIENCE, place, study, work

EXAMPLE = ROOT / "examples" / "seir"
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


def test_a_wire_function_runs_in_the_interpreter_that_has_its_packages(tmp_path: Path) -> None:
    """That interpreter has a module that this one lacks, and none of this one's."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True, timeout=PATIENCE)
    python = venv / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(subprocess.run([python, "-c", where], check=True, capture_output=True, text=True).stdout.strip())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "only_in_the_model.py").write_text("ANSWER = 42\n")
    (packages / "model.pth").write_text(f"{elsewhere}\n")

    bundle = tmp_path / "bundle"
    (bundle / ".modelops").mkdir(parents=True)
    (bundle / ".modelops" / "manifest.json").write_text(json.dumps({"wire": "src/wire.py:wire"}))
    (bundle / "src").mkdir()
    (bundle / "src" / "wire.py").write_text(
        "import sys\nimport only_in_the_model\n"
        "def wire(entrypoint, params, seed):\n"
        "    try:\n        import mopsjobs\n"
        "    except ImportError:\n        ours = 'without'\n"
        "    else:\n        ours = 'with'\n"
        "    told = f'{entrypoint} {params} {seed} {only_in_the_model.ANSWER} {ours} {sys.prefix}'\n"
        "    return {'told.txt': told.encode(), 'other.bin': b'\\x00'}\n"
    )
    store = SQLiteVersionedStore(tmp_path / "registry.db")
    registry = JobRegistry(store)
    studied = study(
        [{"params": {"x": 1}, "seed": 5}, {"params": {"x": 2}, "seed": 6}],
        model="models.sir:Model", scenario="closed", outputs=["told.txt"],
    )  # fmt: skip
    place(store, "job", studied, bundle)
    assert work(store, registry, tmp_path / "job", python=str(python))[0] == ("succeeded", 2, 0, True, None)
    told = sorted(entry.value.decode() for entry in store.scan("results/job/") if entry.value)
    assert told == [f"models.sir:Model/closed {{'x': {n}}} {n + 4} 42 without {venv}" for n in (1, 2)]
    store.close()


def test_an_interpreter_without_the_packages_says_what_is_missing(cli: Cli, tmp_path: Path) -> None:
    """Before anything is launched: `--python` may name the one that has them."""
    shutil.copytree(EXAMPLE, tmp_path / "seir", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "seir" / "seir.py").write_text("import only_in_the_model\n")
    env = environment(cli)
    words = command("submit", "study.json", "--auto", "--job-id", "job", "--workers", "1")
    ran = subprocess.run(words, cwd=tmp_path / "seir", env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert ran.returncode == 2
    assert ran.stderr.splitlines()[-2:] == [
        "error: The model cannot be loaded: ModuleNotFoundError: No module named 'only_in_the_model'",
        "hint: Name the interpreter that has the model's packages: --python PATH.",
    ]
