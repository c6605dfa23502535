"""The end of a worker whose runner is dead, while its model computes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from mopsjobs.engines.model_process import WORKER
from support.runs import code, is_alive, until

SPINNER = """
import os, subprocess

def simulate(params, seed):
    child = subprocess.Popen(["sleep", "600"])
    with open(params["noted"] + ".part", "w") as file:
        file.write(str(child.pid))
    os.rename(params["noted"] + ".part", params["noted"])
    while True:
        pass
"""


def test_a_worker_ends_with_the_reader_of_its_answers(tmp_path: Path) -> None:
    """While its model computes, with what that has started, and although its input goes on."""
    noted, root = tmp_path / "noted", code(tmp_path / "code", SPINNER)
    setup = {"root": str(root), "entrypoint": "model:simulate/baseline", "spool": str(tmp_path)}
    task = {"task": 0, "params": {"noted": str(noted)}, "param_id": "p", "seed": 0}
    worker = subprocess.Popen(
        [sys.executable, "-u", str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    with worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write("".join(json.dumps(line) + "\n" for line in (setup, task)).encode())
        worker.stdin.flush()
        try:
            until(noted.exists, "the task to be at work")
            worker.stdout.close()
            until(lambda: worker.poll() is not None, "the worker to end")
        finally:
            worker.kill()
    until(lambda: not is_alive(int(noted.read_text())), "what the model has started to be gone")
