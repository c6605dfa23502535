"""What a task learns of itself, and what it logs; in the process of a worker, in one that it starts, and elsewhere."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mopsjobs.api.current import WORKER, CurrentTask, current, log
from mopsjobs.errors import UsageError
from support.docs import ROOT
from support.runs import all_of, code, pool_of

MODEL = """
import json, multiprocessing, os, subprocess, sys
import mopsjobs as mj

AT_IMPORT = mj.current()

CHILD = "import json, mopsjobs as mj; print(json.dumps(mj.current())); mj.log(x=1)"

def forked(_):
    try:
        mj.log(x=1)
    except mj.UsageError as error:
        return [mj.current(), str(error)]

def simulate(params, seed):
    mj.log(steps=1, name="first")
    params["x"] += 10
    task = mj.current()
    if "die" in params and task.attempt == 1:
        os.kill(os.getpid(), 9)
    if params.get("fail"):
        raise ValueError("as asked")
    if params.get("own"):
        return {"logged.json": b"{}"}
    found = {"task": task._asdict(), "at_import": AT_IMPORT}
    if params.get("children"):
        child = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True)
        found["spawned"] = [json.loads(child.stdout), child.stderr]
        with multiprocessing.get_context("fork").Pool(1) as pool:
            found["forked"] = pool.map(forked, [0])[0]
    if not params.get("silent"):
        mj.log(steps=2, ok=True)
    return found
"""


class Number:
    """A number as numpy has it."""

    def __init__(self, value: object) -> None:
        self.value = value

    def tolist(self) -> object:
        return self.value


def _run(directory: Path, *sets: dict[str, Any]) -> list[Any]:
    """Run tasks in one worker, and return their outputs as JSON, or their errors."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MOPS_JOBS_JOB_ID": "job-1"}
    finished = all_of(pool_of(code(directory, MODEL), 1, env=env), list(sets))
    return [
        one.error["message"] if one.error else {name: json.loads(value) for name, value in (one.outputs or {}).items()}
        for one in finished
    ]


def test_a_task_learns_which_it_is(tmp_path: Path) -> None:
    """Also at its second attempt. The parameters are a copy; before a task runs, there is none."""
    first, second = _run(tmp_path / "model", {"x": 1}, {"x": 2, "die": True})
    task = first["result.json"]["task"]
    assert (task["job_id"], task["task"], task["attempt"], task["params"]) == ("job-1", 0, 1, {"x": 11})
    assert (len(task["param_id"]), type(task["seed"])) == (64, int)
    assert task["directory"].startswith(str(tmp_path / "model-spool"))
    assert first["result.json"]["at_import"] is None
    task = second["result.json"]["task"]
    assert (task["task"], task["attempt"], task["params"]) == (1, 2, {"x": 12, "die": True})


def test_what_a_task_logs_is_an_output_of_its_own(tmp_path: Path) -> None:
    """The last value of a name counts. Each task begins anew. A failed task has no outputs, and so no scalars."""
    logged, silent, failed, own = _run(
        tmp_path / "model", {"x": 1}, {"x": 1, "silent": True}, {"x": 1, "fail": True}, {"x": 1, "own": True}
    )
    assert logged["logged.json"] == {"steps": 2, "name": "first", "ok": True}
    assert silent["logged.json"] == {"steps": 1, "name": "first"}
    assert failed == "as asked"
    assert own == "invalid output logged.json: expected another name, since the task logs scalars there"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_process_that_a_task_starts_knows_less(tmp_path: Path) -> None:
    """It learns what the environment has. It cannot log, since nothing of it would come back."""
    (outputs,) = _run(tmp_path / "model", {"x": 1, "children": True})
    result = outputs["result.json"]
    task = [result["task"][name] for name in CurrentTask._fields]
    for kind in ("spawned", "forked"):
        found, error = result[kind]
        assert found == [*task[:4], None, None, task[6]]
        assert "Scalars cannot be logged in a process that the task has started" in error


def test_outside_of_a_task_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scalars are checked and dropped there, so that a function can be tried out."""
    monkeypatch.delenv("MOPS_JOBS_TASK", raising=False)
    assert current() is None
    log(peak=1, day=Number(2.5), name="x", ok=False, loss=float("nan"))
    assert CurrentTask._fields == ("job_id", "task", "param_id", "seed", "params", "attempt", "directory")


@pytest.mark.parametrize("value", [None, [1], Number([1])])
def test_what_is_no_scalar_is_refused(value: object) -> None:
    """The error names it, and the task fails with it."""
    with pytest.raises(UsageError, match=r"invalid peak .*: expected a number, a text or a truth value"):
        log(peak=value)


def test_a_study_may_refuse_to_log_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, so that the error has the line of the model."""
    monkeypatch.setitem(sys.modules, WORKER, SimpleNamespace(at_work={"allow_nan": False}))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="key 'loss' is nan, and the study says allow_nan: false"):
        log(loss=Number(float("nan")))
