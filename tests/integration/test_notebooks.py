"""Jobs in notebooks with kernels of their own, functions of scripts and notebooks as models."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import mopsjobs as mj
from mopsjobs.bundles.bundle import load_bundle
from mopsjobs.bundles.extraction import list_files, read_files
from mopsjobs.engines.local import runner_pid
from support.docs import ROOT
from support.runs import PATIENCE, code, tree, until
from support.servers import Place

SUBMIT = """
import mopsjobs as mj
reg = mj.connect()
study = mj.Study("model:simulate", [{{"x": 1}}, {{"x": 2, "fail": True}}, {{"x": 3, "gate": {gate!r}}}],
                 replicates=2, outputs=["result.json"])
job = reg.submit(study, code={code!r}, job_id="nb-1", workers=1, python={python!r}, labels={{"exp": 7}})
job
"""

REATTACH = """
import json
import mopsjobs as mj
reg = mj.connect()
job = reg.job("nb-1")
job.watch(interval=0.1)
"""

TABLES = """
offline = {offline}
job = mj.Job(reg, "nb-1")
json.dump({{
    "results": job.results(**offline).rows, "tasks": job.tasks(**offline).rows,
    "failures": job.failures(**offline)["groups"], "jobs": reg.jobs(**offline).rows,
    "means": job.results(**offline).sets().rows, "frame": job.results(**offline).to_pandas().to_csv(),
}}, sys.stdout)
"""

OFFLINE = """
import json, sys
import mopsjobs as mj
reg = mj.connect(cache={cache!r})
mj.Job(reg, "nb-1")
"""


@pytest.fixture
def kernel_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name a kernel that runs the Python of the tests. All files of Jupyter lie below the directory of the test."""
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python of the tests",
        "language": "python",
    }
    path = tmp_path / "jupyter" / "kernels" / "of-the-tests" / "kernel.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(spec))
    for name in ("JUPYTER_PATH", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    return "of-the-tests"


def _notebook(kernel_name: str, env: dict[str, str], *cells: str, ends: bool = True) -> list[list[dict[str, Any]]]:
    """Run a notebook in a kernel of its own, and return the outputs of each cell.

    Without `ends`, the kernel is killed after the last cell.
    """
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])  # type: ignore[no-untyped-call]
    client = NotebookClient(notebook, kernel_name=kernel_name, timeout=int(PATIENCE))
    with client.setup_kernel(env={**env, "PYTHONPATH": str(ROOT)}):
        for number, cell in enumerate(notebook.cells):
            client.execute_cell(cell, number)
        if not ends:
            process: Any = client.km.provisioner.process  # type: ignore[union-attr]
            process.send_signal(signal.SIGKILL)
            process.wait(PATIENCE)
    return [cell.outputs for cell in notebook.cells]


def _html(outputs: list[dict[str, Any]]) -> str:
    (shown,) = (output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {}))
    return str(shown)


def test_a_job_outlives_its_kernel_and_its_registry(place: Place, kernel_name: str, tmp_path: Path) -> None:
    """A second kernel finds it by its id. A third reads a copied cache after the registry is gone: the same tables."""
    env = place.env
    gate = tmp_path / "gate"
    submit = SUBMIT.format(gate=str(gate), code=str(code(tmp_path / "code")), python=sys.executable)
    (shown,) = _notebook(kernel_name, env, submit, ends=False)
    assert "<b>nb-1</b>" in _html(shown)
    assert runner_pid("nb-1", env) is not None

    gate.touch()
    watched, told = _notebook(kernel_name, env, REATTACH, "import sys\n" + TABLES.format(offline={}))
    assert '<progress value="0.667" max="1"></progress> 4/6 tasks, 66 %, 2 failed' in _html(watched)
    assert "Failed: 2 ValueError" in _html(watched)
    until(lambda: runner_pid("nb-1", env) is None, "the runner to end")

    shutil.copy(tmp_path / "cache.db", tmp_path / "copy.db")
    place.remove_registry()
    offline = OFFLINE.format(cache=str(tmp_path / "copy.db"))
    shown, again = _notebook(kernel_name, env, offline, TABLES.format(offline={"offline": True}))
    assert "<b>nb-1</b> partial" in _html(shown)
    tables, same = (json.loads(_stream(outputs, "stdout")) for outputs in (told, again))
    assert [row.get("x") for row in tables["results"]] == [1, 1, 2, 2, 3, 3]
    assert same == tables


def _stream(outputs: list[dict[str, Any]], name: str) -> str:
    return "".join(output["text"] for output in outputs if output.get("name") == name)


SCRIPT = """
import json, sys
from dataclasses import dataclass
import mopsjobs as mj
from helpers import scale

BETA = 0.5

@dataclass
class State:
    x: float

def half(state: State) -> float:
    return state.x * BETA

def simulate(params, seed):
    mj.log(steps=len(params), x=-1)
    return {"y": half(State(scale(params["x"])))}

if __name__ == "__main__":
    cell, where = mj.cell(simulate), sys.argv[1] if len(sys.argv) > 1 else None
    with mj.connect() as reg:
        job = reg.submit(mj.Study(cell, mj.grid(x=[1, 2]), outputs=["result.json"]), where, job_id="script-1")
        assert job.wait(interval=0.1).status == "succeeded", job.logs()
    print(cell.source, end="")
"""

CELLS = """
import numpy as np
import mopsjobs as mj
reg = mj.connect()
# ---
class Model:
    def run(self, x):
        return -x
# ---
def simulate(params, seed):
    with open(__file__) as file:
        assert "def simulate" in file.read()
    return {"y": float(np.sqrt(Model().run(params["x"])))}
# ---
class Model:
    factor = 4
    def run(self, x):
        return self.factor * x
# ---
study = mj.Study(mj.cell(simulate), mj.grid(x=[1, 4]), outputs=["result.json"])
job = reg.submit(study, job_id="notebook-1", workers=1)
job.wait(interval=0.1).status
# ---
[row["y"] for row in job.results()]
# ---
def asks(params, seed):
    %time pass
    return reg
# ---
mj.cell(asks)
"""


@pytest.fixture(name="env")
def _env(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a script or a kernel, with an embedded registry."""
    return {
        "HOME": str(tmp_path),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "MOPS_JOBS_REGISTRY": f"sqlite://{tmp_path}/registry.db",
    }


def test_a_script_submits_its_own_function(tmp_path: Path, env: dict[str, str]) -> None:
    """With the directory that has its helpers. The bundle has the file that `Cell.source` shows, and no script runs.

    Logged scalars are results, also without the chunks of the runner. One with the name of a parameter has a prefix.
    """
    files = {"script.py": SCRIPT, "helpers.py": "def scale(x):\n    return 10 * x\n"}
    ran = _script(tree(tmp_path / "code", files), env, ".")
    assert ran.returncode == 0, ran.stderr
    with mj.connect(env=env) as reg:
        job = reg.job("script-1")
        until(lambda: runner_pid(job.id, env) is None, "its runner to end")
        rows = job.results().rows
        assert [(row["x"], row["y"], row["steps"], row["logged.x"]) for row in rows] == [(1, 5, 1, -1), (2, 10, 1, -1)]
        provenance = job.provenance()
        packed = load_bundle(reg.app.store, provenance["bundle"])
        assert [file.name for file in list_files(packed)] == ["cell_simulate.py", "helpers.py", "script.py"]
        assert read_files(packed, ["cell_simulate.py"], 10_000) == {"cell_simulate.py": ran.stdout.encode()}
        store = reg.app.store
        for key in [key for key in store.list_keys("ledger/") if key.endswith(".scalars.gz")]:
            store.delete(key)
    with mj.connect(env={**env, "MOPS_JOBS_CACHE": f"{tmp_path}/new.db"}) as reg:
        assert reg.job("script-1").results().rows == rows


def test_a_module_that_is_not_packed_is_named(tmp_path: Path, env: dict[str, str]) -> None:
    """So is a file of the same name, and a wire function, which would be called in place of the cell."""
    files = {"script.py": SCRIPT, "helpers.py": "def scale(x):\n    return 10 * x\n"}
    ran = _script(tree(tmp_path / "code", files), env)
    assert "The model cannot be loaded: ModuleNotFoundError: No module named 'helpers'" in ran.stderr
    for name, problem in (
        ("cell_simulate.py", "has a file 'cell_simulate.py'"),
        ("wire.py", "has wire.py, whose function"),
    ):
        ran = _script(tree(tmp_path / name, {**files, name: ""}), env, ".")
        assert problem in ran.stderr


def _script(directory: Path, env: dict[str, str], *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "script.py", *argv], cwd=directory, env=env, capture_output=True, text=True, timeout=PATIENCE
    )


def test_a_notebook_submits_a_function_of_its_cells(kernel_name: str, env: dict[str, str]) -> None:
    """A class is that of the cell that ran last. What cannot be packed is named: here the shell and the registry."""
    cells = [nbformat.v4.new_code_cell(text) for text in CELLS.split("# ---\n")]  # type: ignore[no-untyped-call]
    notebook: Any = nbformat.v4.new_notebook(cells=cells)  # type: ignore[no-untyped-call]
    NotebookClient(notebook, kernel_name=kernel_name, timeout=int(PATIENCE), allow_errors=True).execute(env=env)
    until(lambda: runner_pid("notebook-1", env) is None, "its runner to end")
    outputs = [output for cell in cells for output in cell.outputs]
    assert [output.get("data", {}).get("text/plain") or output["evalue"] for output in outputs] == [
        "'succeeded'",
        "[2.0, 4.0]",
        "asks cannot be packed: it uses get_ipython (of type method), reg (of type Registry).",
    ]
