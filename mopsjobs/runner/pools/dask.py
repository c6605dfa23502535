"""Tasks as futures on a Dask scheduler: some ahead of the workers, results as they come, nothing left behind.

To the runner this is a `WorkerPool`. What runs there is dask_task.py, sent as text: a future of its own holds that and
the code, so that Dask brings it to each worker once, makes it again when a worker that had it dies, and forgets it with
its client. Tasks name it as what they need.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import hashlib
import queue
import secrets
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from mopsjobs.engines.dask_client import connect
from mopsjobs.errors import EngineUnavailableError
from mopsjobs.runner.model_errors import ended, not_loaded, not_ready
from mopsjobs.runner.pools.local import ATTEMPTS, GRACE_SECONDS, MAX_LOG_CHARACTERS, OnLog, TaskResult
from mopsjobs.studies.study import Task

if TYPE_CHECKING:
    from distributed import Client, Future


T = TypeVar("T")


AHEAD = 3
"""Futures a thread of the cluster has at once: one at work, and enough that Dask sees a group it may spread freely."""


LOOK_SECONDS = 1.0
"""How often the cluster is asked for its threads."""


_SOURCE = Path(__file__).with_name("dask_task.py")


_WORKER = Path(__file__).with_name("worker.py")


# `eval` and texts: nothing of ours has to be importable over there, nor understood by the scheduler. Two threads may
# both compile the module; `setdefault` lets one of them win.
_LOADED = """(lambda sys, types: sys.modules.get(code["name"]) or [
    module := types.ModuleType(code["name"]),
    exec(compile(code["source"], "dask_task.py", "exec"), module.__dict__),
    sys.modules.setdefault(code["name"], module),
][-1])(__import__("sys"), __import__("types"))"""


RUN = f"{_LOADED}.run(code, job_id, task)"


STOP = f"{_LOADED}.stop(job_id)"  # loaded for that, where need be: a task that is on its way there is not to begin


class _Sent(NamedTuple):
    position: int
    task: Task
    future: Future[Any]


class DaskPool:
    """The workers of a Dask cluster, for one model."""

    def __init__(
        self,
        scheduler: str,
        bundle: bytes,
        entrypoint: str,
        *,
        python: str | None = None,
        task_timeout: float | None = None,
        on_log: OnLog | None = None,
    ) -> None:
        """Prepare a pool; nothing is sent before `run`.

        Args:
            scheduler: its address.
            bundle: the code, a tar.gz that has been unpacked by our rules.
            entrypoint: what in it to run.
            python: the model's interpreter, a path on the workers; None: that of each worker.
            task_timeout: seconds that a task may take; None: no limit.
            on_log: called with the task's number and each line that the model printed, when the task has ended.
        """
        source = _SOURCE.read_text("utf-8")
        self._scheduler = scheduler
        self._on_log = on_log or (lambda _task, _line: None)
        self._code = {
            "name": "mops_jobs_dask_task_" + hashlib.sha256(source.encode()).hexdigest()[:16],
            "source": source,
            "worker": _WORKER.read_text("utf-8"),
            "bundle": bundle,
            "entrypoint": entrypoint,
            "python": python,
            "timeout": task_timeout,
            "attempts": ATTEMPTS,
        }
        self._id = secrets.token_hex(8)
        """Of this run of the job, on the cluster: an earlier one's tasks may not have ended there."""
        self._timeout = task_timeout
        self._sent: dict[str, _Sent] = {}
        self._ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._threads = 0
        self._looked_at = -LOOK_SECONDS

    def run(
        self, tasks: Iterator[tuple[int, Task]], *, wake_seconds: float = 0.5
    ) -> Generator[TaskResult | None, None, None]:
        """Work through the tasks; see `WorkerPool.run`.

        Raises:
            ModelError: the model cannot be loaded.
            EngineUnavailableError: the scheduler does not answer any more. What was not yielded is to be run again.
            EngineError: it cannot be used.
        """
        client = connect(self._scheduler)
        try:
            key = f"mops-jobs-code-{self._id}"
            with self._lost(client), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a bundle may be large: it goes there once
                code: Future[dict[str, Any]] = client.submit(dict, self._code, key=key, pure=False)
            while True:
                yield from self._look(client, wake_seconds)
                self._hand_out(client, code, tasks)
                if not self._sent:
                    return
                yield None
                yield from self._take(client, wake_seconds)
        finally:
            self._close(client)

    def _look(self, client: Client, wake_seconds: float) -> Generator[None, None, None]:
        """Ask now and then how many threads the cluster has: workers come and go."""
        now = time.monotonic()
        if now - self._looked_at >= LOOK_SECONDS:
            with self._lost(client):
                threads = yield from _patiently(_begun(client.nthreads), wake_seconds)
            self._threads = sum(threads.values())
            self._looked_at = time.monotonic()

    def _hand_out(self, client: Client, code: Future[dict[str, Any]], tasks: Iterator[tuple[int, Task]]) -> None:
        while len(self._sent) < max(1, AHEAD * self._threads):
            following = next(tasks, None)
            if following is None:
                return
            self._send(client, code, *following)

    def _send(self, client: Client, code: Future[dict[str, Any]], position: int, task: Task) -> None:
        line = {"task": task.number, "params": dict(task.params), "seed": task.seed}
        key = f"mops-jobs-{self._id}-{task.number}"
        with self._lost(client):
            future = client.submit(eval, RUN, {"code": code, "job_id": self._id, "task": line}, key=key, pure=False)
        self._sent[key] = _Sent(position, task, future)
        future.add_done_callback(lambda one: self._ended.put(one.key))

    def _take(self, client: Client, wake_seconds: float) -> Generator[TaskResult | None, None, None]:
        keys = []
        with contextlib.suppress(queue.Empty):
            keys.append(self._ended.get(timeout=wake_seconds))
            while True:
                keys.append(self._ended.get_nowait())
        if not keys:
            return
        futures = [self._sent[key].future for key in keys]
        with self._lost(client):
            answers = yield from _patiently(_begun(_gathered, client, futures), wake_seconds)
        for key, answer in zip(keys, answers, strict=True):
            sent = self._sent.pop(key)
            sent.future.release()
            yield _failed(sent, answer) if isinstance(answer, Exception) else self._told(sent, answer)

    def _told(self, sent: _Sent, answer: Mapping[str, Any]) -> TaskResult:
        """What came of a task.

        Raises:
            ModelError: the model cannot be loaded.
        """
        for line in answer["lines"]:
            self._on_log(sent.task.number, line[:MAX_LOG_CHARACTERS])
        if "broken" in answer:
            raise not_loaded(answer["broken"])
        if "unready" in answer:
            raise not_ready(answer["unready"])
        error = answer.get("error")
        if "died" in answer:
            error = {"type": "WorkerDied", "message": f"its worker died {ATTEMPTS} times ({ended(answer['died'])})"}
        elif "late" in answer:
            error = {"type": "Timeout", "message": f"it took longer than {self._timeout:g} s"}
        return TaskResult(sent.position, sent.task, answer.get("outputs"), error)

    @contextlib.contextmanager
    def _lost(self, client: Client) -> Iterator[None]:
        """Turn what the library says of a scheduler that is gone into one kind of error."""
        gone = EngineUnavailableError(
            f"The Dask scheduler {self._scheduler} is gone, or has dropped the tasks of this run.",
            hint="Running the job again goes on where it was: mops-jobs resume.",
        )
        if client.status != "running":
            raise gone
        try:
            yield
        except (OSError, asyncio.CancelledError, concurrent.futures.CancelledError, RuntimeError, ValueError):
            # Its futures are cancelled when the connection ends, a moment before the client says so.
            raise gone from None
        if client.status != "running":
            raise gone

    def _close(self, client: Client) -> None:
        """Take everything back from the cluster: the futures, and the processes that work on them."""
        for sent in self._sent.values():
            sent.future.release()
        with contextlib.suppress(Exception):  # whatever a cluster says that is going away: nobody needs it any more
            if client.status == "running":
                code = {name: self._code[name] for name in ("name", "source")}
                told = {"code": code, "job_id": self._id}
                _begun(client.run, eval, STOP, told, on_error="ignore").result(GRACE_SECONDS)
        with contextlib.suppress(Exception):
            _begun(client.close, LOOK_SECONDS).result(2 * LOOK_SECONDS)


def _begun(call: Callable[..., T], *args: object, **more: object) -> concurrent.futures.Future[T]:
    """A call in a thread of its own: the library waits without end for a scheduler that is there and says nothing."""
    begun: concurrent.futures.Future[T] = concurrent.futures.Future()

    def work() -> None:
        try:
            begun.set_result(call(*args, **more))
        except BaseException as error:  # noqa: BLE001 - for whoever waits
            begun.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return begun


def _patiently(begun: concurrent.futures.Future[T], wake_seconds: float) -> Generator[None, None, T]:
    """Wait for it, yielding now and then."""
    while not concurrent.futures.wait([begun], wake_seconds).done:
        yield None
    return begun.result()


def _gathered(client: Client, futures: list[Future[Any]]) -> list[Any]:
    """What became of these: for each its result or its exception."""
    with contextlib.suppress(Exception):  # of one of them: it is found below
        if all(future.status == "finished" for future in futures):
            return list(client.gather(futures))
    return [_result(future) for future in futures]


def _result(future: Future[Any]) -> Any:
    try:
        return future.result()
    except (asyncio.CancelledError, concurrent.futures.CancelledError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever a task raises
        return error


def _failed(sent: _Sent, error: Exception) -> TaskResult:
    """A task that no model has answered for: its Dask workers have died, or could not run it."""
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):
        # Dask counts, as its `distributed.scheduler.allowed-failures` says.
        told = {"type": "WorkerDied", "message": "the Dask workers that had it died, as often as the scheduler allows"}
    else:
        told = {"type": type(error).__name__, "message": str(error)}
    return TaskResult(sent.position, sent.task, None, told)
