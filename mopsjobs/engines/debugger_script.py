"""The script that runs one task in Python's debugger, in the model's own interpreter, at a terminal.

Like engines/worker.py, which it imports by its path, it may be started by a Python as old as 3.8. It is given a file:

    {"worker": PATH, "answer": PATH, "root": DIR, "entrypoint": "MODEL/SCENARIO", "spool": DIR, "outputs": [...],
     "task": {"task": N, "params": {...}, "param_id": ID, "seed": N, "attempt": N}}

It writes `outputs` or `error`, as a worker answers them, to the file `answer`. If the user leaves the debugger, it
writes nothing.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pdb  # noqa: T100 - what it is for
import sys
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

WORKER = "mops_jobs_worker"


def main(path: str) -> int:
    """Run the task of a request."""
    with open(path, encoding="utf-8") as file:
        request = json.load(file)
    worker, task = _import_worker(request["worker"]), request["task"]
    os.environ["MOPS_JOBS_TASK"], os.environ["MOPS_JOBS_SEED"] = str(task["task"]), str(task["seed"])
    os.environ["MOPS_JOBS_PARAM_ID"] = task["param_id"]
    worker.at_work.update(pid=os.getpid(), task=task)
    try:
        call, _ = worker._load_model(request)  # noqa: SLF001 - its other half
        # Not at the lines of the worker that call the model.
        debugger = pdb.Pdb(skip=[WORKER])
        outputs = debugger.runcall(call, task["params"], task["seed"])
        if outputs is None:  # the user has left the debugger
            return 0
        answer = {"outputs": worker._encode_outputs(outputs, request["spool"], task)}  # noqa: SLF001
    except BaseException as error:  # noqa: BLE001 - a model may call sys.exit
        traceback.print_exc()
        pdb.post_mortem(error.__traceback__)
        answer = {"error": worker._error_fields(error, request["root"])}  # noqa: SLF001
    with open(request["answer"], "w", encoding="utf-8") as file:
        json.dump(answer, file)
    return 0


def _import_worker(path: str) -> Any:
    spec: Any = importlib.util.spec_from_file_location(WORKER, path)
    module = sys.modules[WORKER] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
