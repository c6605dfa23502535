"""The notebook of examples/calibration, in a kernel of the Python that runs the tests."""

from __future__ import annotations

import io
import json
import os
import sys
from typing import TYPE_CHECKING

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient

import mopsjobs as mj
from mopsjobs.engines.local import runner_pid
from support.docs import ROOT
from support.runs import until

if TYPE_CHECKING:
    from pathlib import Path

NOTEBOOK = ROOT / "examples" / "calibration" / "calibrate.ipynb"
KERNEL = {
    "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
    "display_name": "Python 3",
    "language": "python",
}
CELL_SECONDS = 300
"""The limit of one cell: only a cell that hangs takes as long."""


@pytest.mark.slow
def test_the_calibration_finds_the_planted_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs as it stands, over an embedded registry. Each error is within the tolerance that the notebook states."""
    spec = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps(KERNEL))
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    env = {
        "HOME": str(tmp_path),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "MOPS_JOBS_REGISTRY": f"sqlite://{tmp_path}/registry.db",
    }
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=CELL_SECONDS, resources={"metadata": {"path": str(NOTEBOOK.parent)}})
    client.execute(env=env)
    with mj.connect(env=env) as reg:
        jobs = reg.jobs().rows
        until(lambda: not any(runner_pid(job["job_id"], env) for job in jobs), "the runners to end")
        assert (len(jobs) > 1, {job["status"] for job in jobs}) == (True, {"succeeded"})
    (output,) = notebook.cells[-1].outputs
    result = pd.read_csv(io.StringIO(output["data"]["text/plain"]), sep=r"\s+")
    assert list(result.index) == ["r0", "incubating", "infectious"]
    assert ((result["found"] - result["planted"]).abs() <= result["tolerance"]).all(), result


def test_the_notebook_is_kept_without_outputs() -> None:
    """A change to the notebook is a change to its text or its code."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [(cell.outputs, cell.execution_count) for cell in cells] == [([], None)] * len(cells)
