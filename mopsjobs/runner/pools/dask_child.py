"""The child process of `DaskProcess`: a `DaskPool` that gets tasks and sends results as JSON lines."""

from __future__ import annotations

import base64
import contextlib
import os

from mopsjobs.engines.child_process import ParentStreams, run_as_child
from mopsjobs.engines.model_env import JOB_VARIABLES
from mopsjobs.engines.model_errors import ModelError
from mopsjobs.ledger.retry_policy import RetryPolicy
from mopsjobs.runner.pools.base import NextTasks, TaskLimits, TaskResult
from mopsjobs.runner.pools.dask import DaskPool
from mopsjobs.studies.study import Task


def main() -> None:
    """Run the tasks that the parent sends, until there are no more or it has closed the streams."""
    parent = ParentStreams()
    with run_as_child(parent):
        setup = parent.receive()
        pool = DaskPool(
            setup["scheduler"],
            base64.b64decode(setup["bundle"]),
            setup["entrypoint"],
            outputs=setup["outputs"],
            python=setup["python"],
            limits=TaskLimits(
                setup["timeout"], setup["memory"], RetryPolicy(setup["retries"], frozenset(setup["causes"]))
            ),
            task_env={name: os.environ[name] for name in JOB_VARIABLES if name in os.environ},
            on_log=lambda task, line: parent.send({"log": [task, line]}),
        )
        pool.on_environment = lambda answer: parent.send({"environment": answer})
        try:
            with contextlib.closing(pool.run(_tasks(parent), wake_seconds=setup["wake_seconds"])) as results:
                for result in results:
                    if result is not None:
                        parent.send({"finished": _to_message(result)})
                    elif parent.is_over():
                        return
        except ModelError as error:
            fields = {"message": error.message, "hint": error.hint, "error": error.event_fields.get("error")}
            parent.send({"model": fields})
            return
        parent.send({"end": True})


def _tasks(parent: ParentStreams) -> NextTasks:
    """Yield the tasks of the parent, and None if it has none now. It is asked again while tasks are at work."""
    while True:
        parent.send({"next": True})
        task = parent.receive()["task"]
        yield task and (task["position"], Task(task["number"], task["param_id"], task["seed"], task["params"]))


def _to_message(result: TaskResult) -> list[object]:
    outputs = result.outputs
    texts = None if outputs is None else {name: base64.b64encode(value).decode() for name, value in outputs.items()}
    return [result.position, texts, None if result.error is None else dict(result.error), *result[4:]]
