"""The script that runs a study's reduce function in the model's own interpreter.

Like engines/worker.py, which lies beside it, it may be started by a Python as old as 3.8.

It is a worker whose tasks are reductions. Their `params` are the arguments of one, and the first line names the
function:

    <- {"root": DIR, "spool": DIR, "reduce": "MODULE:FUNCTION"}
    <- {"task": N, "params": {"params": {...} | null, "tasks": N, "missing": N}, "param_id": ID, "seed": N, ...}

While the function iterates over tasks, the worker asks for their outputs, a few tasks at a time. No task is the end:

    -> {"more": true}                  true: from the beginning
    <- {"tasks": [{"task": N, "params": {...}, "param_id": ID, "seed": N, "outputs": {NAME: BASE64}}, ...]}
       or {"problem": TEXT}
"""

from __future__ import annotations

import base64
import functools
import importlib
import importlib.util
import json
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, BinaryIO, TextIO

WORKER = "mops_jobs_worker"

OF_TASK = ("MOPS_JOBS_TASK", "MOPS_JOBS_SEED", "MOPS_JOBS_PARAM_ID")
"""Variables that a worker sets for a task."""


class TaskOutputs:
    """A task with its outputs, as a reduce function gets it."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.number: int = task["task"]
        self.params: dict[str, Any] = task["params"]
        self.param_id: str = task["param_id"]
        self.seed: int = task["seed"]
        self.outputs = {name: base64.b64decode(text) for name, text in task["outputs"].items()}

    def json(self, name: str = "result.json") -> Any:
        """Return an output that is JSON, with NaN and infinities."""
        return sys.modules[WORKER].real_numbers(json.loads(self.outputs[name]))


class Tasks:
    """The tasks of a reduction that have outputs. Each loop over them reads the outputs once more, in the same order.

    The length is their number.
    """

    def __init__(self, count: int, missing: int, ask: Callable[..., dict[str, Any]]) -> None:
        self.missing = missing
        """How many tasks have no outputs."""
        self._count = count
        self._ask = ask
        self._loops = 0
        self._is_closed = False

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[TaskOutputs]:
        if self._is_closed:  # the runner reads for the next call
            raise RuntimeError("the function to which the tasks were given has returned")
        self._loops += 1
        loop, is_first = self._loops, True
        while True:
            answer = self._ask(is_first=is_first)
            if "problem" in answer:
                raise OSError(answer["problem"])
            if not answer["tasks"]:
                return
            is_first = False
            for task in answer["tasks"]:
                yield TaskOutputs(task)
                if loop != self._loops:  # the runner reads for one loop at a time
                    raise RuntimeError("another loop over the tasks has begun, or the function has returned")

    def close(self) -> None:
        """End a loop that goes on after the function has returned, and refuse another one."""
        self._loops += 1
        self._is_closed = True


def load(worker: Any, setup: dict[str, Any], tasks: TextIO, answers: BinaryIO) -> tuple[Any, dict[str, Any]]:
    """Return the reduce function as `call(arguments, tasks) -> outputs`; see `_load_model` of the worker."""
    os.chdir(setup["root"])
    sys.path.insert(0, setup["root"])
    module, _, name = setup["reduce"].partition(":")
    function = worker._get_function(importlib.import_module(module), name, ("params", "tasks"))  # noqa: SLF001 - its other half

    def ask(*, is_first: bool) -> dict[str, Any]:
        worker._write_answer(answers, {"more": is_first})  # noqa: SLF001
        line = tasks.readline()
        if not line:
            raise EOFError("the runner has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def call(arguments: dict[str, Any], _tasks: int) -> dict[str, bytes]:
        worker.at_work.pop("task", None)  # `mopsjobs.current` knows of no task either
        for variable in OF_TASK:
            os.environ.pop(variable, None)
        some = Tasks(arguments["tasks"], arguments["missing"], ask)
        try:
            result = function(arguments["params"], some)
        finally:
            some.close()
        outputs: dict[str, bytes] = {} if result is None else worker._to_outputs(result, None)  # noqa: SLF001
        return outputs

    return call, {}


def main() -> int:
    """Run reductions until the input ends."""
    spec: Any = importlib.util.spec_from_file_location(WORKER, os.path.join(os.path.dirname(__file__), "worker.py"))
    worker = sys.modules[WORKER] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    code: int = worker.main(functools.partial(load, worker))
    return code


if __name__ == "__main__":
    raise SystemExit(main())
