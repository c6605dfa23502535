"""The pool of workers whose tasks are reductions: what they ask for, and what the time to read it counts for."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mopsjobs.engines.model_process import WORKER
from mopsjobs.runner.pools.base import TaskLimits, TaskResult
from mopsjobs.runner.pools.local import WorkerPool, WorkerProcess
from mopsjobs.studies.study import Task
from support.runs import code, final

REDUCING = """
import os, time

def wait_for(path):
    end = time.monotonic() + 600
    while not os.path.exists(path) and time.monotonic() < end:
        time.sleep(0.005)

def reduce(params, tasks):
    if params["reads"]:
        wait_for(params["begun"])
        return {"tasks": [task.number for task in tasks]}
    open(params["begun"], "x").close()
    wait_for(params["gate"])
    return {"tasks": []}
"""


def _pool_of(tmp_path: Path, size: int, feed: object, clock: object, timeout: float | None = None) -> WorkerPool:
    setup = {"root": str(code(tmp_path / "code", REDUCING)), "spool": str(tmp_path), "reduce": "model:reduce"}
    command = [sys.executable, "-u", str(WORKER.with_name("reduce_script.py"))]
    return WorkerPool(command, setup, size, limits=TaskLimits(timeout), feed=feed, clock=clock)  # type: ignore[arg-type]


def test_reading_outputs_does_not_count_towards_the_timeout_of_any_task(tmp_path: Path) -> None:
    """The pool reads for one worker while the other one is at work. Each read takes longer than the timeout."""
    now = [0.0]
    gate, begun = tmp_path / "gate", tmp_path / "begun"
    answers = [{"tasks": [{"task": 7, "params": {}, "param_id": "p", "seed": 1, "outputs": {}}]}, {"tasks": []}]

    def feed(_reduction: Task, *, is_first: bool) -> bytes:
        assert is_first is (len(answers) == 2)
        now[0] += 10
        return json.dumps(answers.pop(0)).encode() + b"\n"

    pool = _pool_of(tmp_path, 2, feed, lambda: now[0], timeout=5)
    files = {"gate": str(gate), "begun": str(begun)}
    tasks = [
        Task(number, "p", 1, {"params": {"reads": reads, **files}, "tasks": 1, "missing": 0})
        for number, reads in enumerate((False, True))
    ]
    ended: list[TaskResult] = []
    for one in final(pool.run(enumerate(tasks), wake_seconds=0.05)):
        ended.append(one)
        gate.touch()
    assert now == [20.0]
    assert [one.error for one in ended] == [None, None]
    assert [one.position for one in ended] == [1, 0]
    assert ended[0].outputs is not None
    assert json.loads(ended[0].outputs["result.json"]) == {"tasks": [7]}


def test_a_worker_without_a_task_gets_no_outputs(tmp_path: Path) -> None:
    """It may ask late, by a thread that its function has left."""
    pool = _pool_of(tmp_path, 1, lambda *_: b"{}\n", lambda: 0.0)
    worker = WorkerProcess([sys.executable, "-c", "input()"], {}, {}, lambda _task, _line: None)
    pool._workers.append(worker)
    try:
        worker.answers += b'{"more": true}\n'
        assert list(pool._handle_answers(worker)) == []
        assert not worker.outgoing
    finally:
        pool.close()
