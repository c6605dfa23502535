"""A job in notebooks, each with a kernel of its own: submitted, left by a killed kernel, found again, read offline."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient

from mopsjobs.engines.local import runner_pid
from support.docs import ROOT
from support.runs import PATIENCE, code, until

if TYPE_CHECKING:
    from pathlib import Path

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
    "means": job.results(mean=True, **offline).rows, "frame": job.results(**offline).to_pandas().to_csv(),
}}, sys.stdout)
"""

OFFLINE = """
import json, sys
import mopsjobs as mj
reg = mj.connect(cache={cache!r})
mj.Job(reg, "nb-1")
"""

WAIT = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
job.wait()
"""

IN_A_THREAD = "import asyncio; await asyncio.to_thread(mj.connect().job('nb-1').watch)"

WATCH = "logging.disable(); job.watch('2m', interval=0.1)"


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


@pytest.mark.parametrize("place", ["embedded"], indirect=True)
def test_an_interrupt_leaves_the_job_and_says_so(place: Place, kernel_name: str, tmp_path: Path) -> None:
    """Of a view as of a wait. The view is redrawn in place, and says in the end that it is old."""
    gate = tmp_path / "gate"
    manager, client = start_new_kernel(kernel_name=kernel_name, env={**place.env, "PYTHONPATH": str(ROOT)})

    def run(source: str, stop: str | None = None) -> list[tuple[str, dict[str, Any]]]:
        """Run a cell, and interrupt it once it has sent a message of the type `stop`. Return its messages."""
        messages: list[tuple[str, dict[str, Any]]] = []

        def take(message: dict[str, Any]) -> None:
            messages.append((message["msg_type"], message["content"]))
            if message["msg_type"] == stop:
                manager.interrupt_kernel()

        client.execute_interactive(source, output_hook=take, timeout=PATIENCE)
        return messages

    try:
        run(SUBMIT.format(gate=str(gate), code=str(code(tmp_path / "code")), python=sys.executable))
        for cell, stop in ((WAIT, "stream"), (WATCH, "display_data")):
            messages = run(cell, stop)
            (error,) = (content for kind, content in messages if kind == "error")
            assert error["ename"] == "KeyboardInterrupt"
            assert "Job nb-1 goes on; only the wait was interrupted." in "".join(error["traceback"])
        drawn = [content for kind, content in messages if kind in ("display_data", "update_display_data")]
        assert len({content["transient"]["display_id"] for content in drawn}) == 1
        assert "Data: live; shown at " in drawn[0]["data"]["text/html"]
        assert ", no longer redrawn; the job goes on; shown at " in drawn[-1]["data"]["text/html"]
        gate.touch()
        ended = [content["data"]["text/plain"] for kind, content in run(WATCH) if kind == "execute_result"]
        assert ended == ["<nb-1: partial, 4/6 tasks; live>"]
        drawn = [content for kind, content in run(IN_A_THREAD) if kind == "display_data"]
        assert [content["data"]["text/plain"] for content in drawn] == ["nb-1: partial, 4/6 tasks; live"]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
