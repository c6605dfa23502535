"""The process behind `DaskProcess`: a `DaskPool` whose tasks come, and whose results go, as JSON lines."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator

from mopsjobs.engines.child_process import Channel, serving
from mopsjobs.runner.model_errors import ModelError
from mopsjobs.runner.pools.dask import DaskPool
from mopsjobs.runner.pools.local import TaskResult
from mopsjobs.studies.study import Task


def main() -> None:
    """Work through the tasks that the other side names, until there are no more or it has left."""
    channel = Channel()
    with serving(channel):
        setup = channel.hear()
        pool = DaskPool(
            setup["scheduler"],
            base64.b64decode(setup["bundle"]),
            setup["entrypoint"],
            python=setup["python"],
            task_timeout=setup["task_timeout"],
            on_log=lambda task, line: channel.say({"log": [task, line]}),
        )
        try:
            with contextlib.closing(pool.run(_tasks(channel), wake_seconds=setup["wake_seconds"])) as running:
                for finished in running:
                    if finished is not None:
                        channel.say({"finished": _told(finished)})
                    elif channel.is_over():
                        return
        except ModelError as error:
            told = {"message": error.message, "hint": error.hint, "error": error.told.get("error")}
            channel.say({"model": told})
            return
        channel.say({"end": True})


def _tasks(channel: Channel) -> Iterator[tuple[int, Task]]:
    while True:
        channel.say({"next": True})
        told = channel.hear()["task"]
        if told is None:
            return
        yield told["position"], Task(told["number"], "", told["seed"], told["params"])


def _told(finished: TaskResult) -> list[object]:
    outputs = finished.outputs
    texts = None if outputs is None else {name: base64.b64encode(value).decode() for name, value in outputs.items()}
    return [finished.position, texts, None if finished.error is None else dict(finished.error)]
