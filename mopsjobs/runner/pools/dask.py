"""Run tasks as futures of a Dask scheduler, and leave nothing behind on the cluster.

The futures run dask_task.py, which is sent as text. One future holds that text and the bundle, and the tasks depend on
it. So Dask brings it to each worker once, restores it when a worker dies, and drops it with its client. See
docs/decisions/0013-dask-by-source-text.md.
"""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import math
import os
import queue
import secrets
import threading
import time
import warnings
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from mopsjobs.engines.dask import Child, Parent, check_installed, connect, resume_hint, run_as_child
from mopsjobs.engines.model_env import JOB_VARIABLES
from mopsjobs.engines.model_errors import ModelError, describe_exit, load_error, startup_error
from mopsjobs.engines.model_process import SOURCE as INTERPRETER_SOURCE
from mopsjobs.engines.model_process import WORKER_SOURCE
from mopsjobs.errors import EngineError, EngineUnavailableError
from mopsjobs.ledger.attempt import NO_USAGE, Outcome, Usage
from mopsjobs.ledger.retry_policy import MAX_RETRIES, OUT_OF_MEMORY, RetryPolicy
from mopsjobs.runner.pools import process
from mopsjobs.runner.pools.base import (
    GRACE_SECONDS,
    NO_LIMITS,
    STARTS,
    Assignment,
    NextTasks,
    OnLog,
    SeenFiles,
    TaskAtWork,
    TaskLimits,
    TaskQueue,
    TaskResult,
    death_of,
    lateness_of,
    memory_excess_of,
    outcome_of,
    task_message,
)
from mopsjobs.studies.study import Task
from mopsjobs.utils import file_watch, measurement

if TYPE_CHECKING:
    from distributed import Client, Future

CHILD = "mopsjobs.runner.pools.dask"
"""The module of the child process."""


class ToldFiles:
    """Files of the bundle that Dask workers told of; see `SeenFiles`."""

    def __init__(self) -> None:
        """Begin with none: a worker tells before the result of a task comes."""
        self._opened: frozenset[str] | None = frozenset()
        self._written: str | None = None

    def add(self, opened: Sequence[object] | None, written: object) -> None:
        """Add what a worker told."""
        known = None if self._opened is None or opened is None else self._opened.union(map(str, opened))
        self._opened = known if known is None or len(known) <= file_watch.MAX_FILES else None
        if self._written is None and written is not None:
            self._written = str(written)

    def opened(self) -> frozenset[str] | None:
        """Return the files that were opened; None if a worker does not know them."""
        return self._opened

    def written(self) -> str | None:
        """Return the first file that was written."""
        return self._written

    def close(self) -> None:
        """Do nothing: the workers close what they have."""


@dataclasses.dataclass(eq=False)
class DaskProcess:
    """Runs a `DaskPool` in a child process without the secrets of the runner; see `engines.dask`.

    Args:
        scheduler: the address of the scheduler.
        bundle: the code, a tar.gz that the runner has checked by unpacking it.
        setup: what each worker is told of the study; see `Study.setup`.
        env: the environment of the runner, and the variables of the job and the shard for the model.
        python: the model's interpreter, a path on the workers; None: that of each worker.
        limits: limits of each attempt.
        on_log: called with the task's number and each line that the model printed, when the task has ended.
        on_environment: called with what the interpreter says on a worker; see engines/interpreter_script.py.
    """

    scheduler: str
    bundle: bytes
    setup: Mapping[str, object]
    env: Mapping[str, str]
    python: str | None = None
    limits: TaskLimits = NO_LIMITS
    on_log: OnLog = lambda _task, _line: None
    on_environment: Callable[[object], None] = lambda _answer: None
    workers: int | None = None  # they come and go, and only the scheduler knows them
    is_ready: bool = False
    is_waiting: bool = False  # a cluster has its own line

    def __post_init__(self) -> None:
        self._sent: dict[int, Task] = {}
        self._told = ToldFiles()
        self.files: SeenFiles = self._told

    def run(self, tasks: NextTasks, *, wake_seconds: float = 0.5) -> Generator[TaskResult | None, None, None]:
        """Run the tasks; see `Pool.run`."""
        check_installed()
        setup = {name: getattr(self, name) for name in ("scheduler", "setup", "python")}
        timeout, memory, (retries, causes), _ = self.limits
        limits = {"timeout": timeout, "memory": memory, "retries": retries, "causes": sorted(causes)}
        bundle = base64.b64encode(self.bundle).decode()
        child = Child(CHILD, {**setup, **limits, "bundle": bundle, "wake_seconds": wake_seconds}, self.env)
        sent = self._sent = {}
        yielded_at = time.monotonic()
        try:
            while True:
                message = child.receive(wake_seconds)
                if message is None or time.monotonic() - yielded_at > wake_seconds:
                    yield None
                    yielded_at = time.monotonic()
                if message is None:
                    continue
                if "end" in message:
                    return
                if "next" in message:
                    following = next(tasks, None)
                    child.send({"task": following and [following[0], *following[1]]})
                    if following is not None:
                        sent[following[0]] = following[1]
                    continue
                try:
                    result = self._read_message(message, sent)
                except (LookupError, TypeError, ValueError, AttributeError):
                    raise EngineError("The process that talks to Dask sent an invalid message about a task.") from None
                if result is not None:
                    yield result
        finally:
            child.close()

    def _read_message(self, message: Mapping[str, Any], sent: dict[int, Task]) -> TaskResult | None:
        """Return the result in a message about a task, or pass on its log line.

        The message is read strictly: the child process may run code that the scheduler sends.

        Raises:
            ModelError: if the model cannot be loaded.
            LookupError, TypeError, ValueError, AttributeError: if the message is invalid.
        """
        if "model" in message:
            model = message["model"]
            error = model["error"]
            texts = None if error is None else {str(name): str(text) for name, text in error.items()}
            raise ModelError(str(model["message"]), hint=model["hint"] and str(model["hint"]), error=texts)
        if "log" in message:
            number, line = message["log"]
            if number not in {task.number for task in sent.values()}:
                raise ValueError(number)
            self.on_log(number, str(line))
            return None
        if "files" in message:
            self._told.add(*message["files"])
            return None
        if "environment" in message:
            self.on_environment(message["environment"])
            return None
        position, outputs, error, outcome, attempt, started_at, usage, is_final = message["finished"]
        self.is_ready = True
        task = sent.pop(position) if is_final else sent[position]
        if (outputs is None) == (error is None):
            raise ValueError(position)
        if outputs is not None:
            outputs = {str(name): base64.b64decode(text, validate=True) for name, text in outputs.items()}
        if error is not None:
            error = {str(name): str(text) for name, text in error.items()}
        *numbers, host, python = usage
        measured = Usage(*map(_number, numbers), *(text and str(text) for text in (host, python)))
        at = _number(started_at)
        return TaskResult(position, task, outputs, error, Outcome(outcome), int(attempt), at, measured, bool(is_final))

    def at_work(self) -> Sequence[TaskAtWork]:
        """Return the attempts that were sent; see `Pool.at_work`."""
        return [TaskAtWork(position, task, 1, None, None) for position, task in self._sent.items()]

    def keep_only(self, tasks: Collection[int]) -> None:
        """Do nothing: the directories of checkpoints are not on this machine."""


def _number(value: object) -> Any:
    """Return a number that is finite and not negative, or None.

    Raises:
        ValueError: if it is something else.
    """
    if value is not None and not (type(value) in (int, float) and 0 <= value < math.inf):  # type: ignore[operator]
        raise ValueError(str(value)[:20])
    return value


T = TypeVar("T")

FUTURES_PER_THREAD = 3
"""Futures per thread of the cluster: one runs, and with the others Dask sees a group that it may spread freely."""

SPREAD_PER_THREAD = 2
"""Dask spreads a group of tasks freely if it has more of them per thread; see `Scheduler.is_rootish` of distributed."""

THREADS_SECONDS = 1.0
"""How often the number of threads of the cluster is read."""

CLOSE_SECONDS = 1.0
"""How long the client may take to close."""

_SOURCE = Path(__file__).with_name("dask_task.py")

# `eval` of a text: neither workers nor scheduler need to import mops-jobs. Two threads may both compile the module;
# `setdefault` makes both use the first one.
_LOADED = """(lambda sys, types: sys.modules.get(code["name"]) or [
    module := types.ModuleType(code["name"]),
    exec(compile(code["source"], "dask_task.py", "exec"), module.__dict__),
    sys.modules.setdefault(code["name"], module),
][-1])(__import__("sys"), __import__("types"))"""

RUN = f"{_LOADED}.run(code, job_id, task, memory)"
DESCRIBE = f"{_LOADED}.describe(code)"
STOP = f"{_LOADED}.stop(job_id)"  # also on a worker that has no task yet: one on its way to it must not begin


RESTARTED_FOR_MEMORY = "worker-restart-memory"
"""The topic of the events by which nannies tell that they ended a Dask worker for its memory."""


class _SentTask(NamedTuple):
    assignment: Assignment
    memory: int | None
    future: Future[Any]


class DaskPool:
    """Runs the tasks of one model on the workers of a Dask cluster."""

    def __init__(self, setup: Mapping[str, Any], send: Callable[[Mapping[str, object]], None]) -> None:
        """Prepare a pool; nothing is sent to the cluster before `run`.

        Args:
            setup: the first message of `DaskProcess`.
            send: sends a message to it.
        """
        source = _SOURCE.read_text("utf-8")
        self._scheduler: str = setup["scheduler"]
        self._send_message = send
        self._code = {
            "name": "mops_jobs_dask_task_" + hashlib.sha256(source.encode()).hexdigest()[:16],
            "source": source,
            "worker": WORKER_SOURCE.decode(),
            "process": Path(process.__file__).read_text("utf-8"),
            "measurement": Path(measurement.__file__).read_text("utf-8"),
            "file_watch": Path(file_watch.__file__).read_text("utf-8"),
            "describe": INTERPRETER_SOURCE,
            "env": {name: os.environ[name] for name in JOB_VARIABLES if name in os.environ},
            "bundle": base64.b64decode(setup["bundle"]),
            **{name: setup[name] for name in ("setup", "python", "timeout")},
            "starts": STARTS,
        }
        self._id = secrets.token_hex(8)
        """Names this run of the job on the cluster, where tasks of an earlier run may still be."""
        self._timeout, self._memory = setup["timeout"], setup["memory"]
        self._policy = RetryPolicy(setup["retries"], frozenset(setup["causes"]))
        self._queue = TaskQueue(iter(()), self._policy, 0)
        self._files: object = None
        """What was last told of files."""
        self._sent: dict[str, _SentTask] = {}
        self._ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._threads: Mapping[str, int] = {}
        self._threads_read_at = -THREADS_SECONDS

    def run(self, tasks: NextTasks, *, wake_seconds: float = 0.5) -> Generator[TaskResult | None, None, None]:
        """Run the tasks; see `Pool.run`."""
        self._queue = TaskQueue(tasks, self._policy, MAX_RETRIES)
        client = connect(self._scheduler)
        try:
            key = f"mops-jobs-code-{self._id}"
            with self._translate_errors(client), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a large bundle: it is sent once
                code: Future[dict[str, Any]] = client.submit(dict, self._code, key=key, pure=False)
                description: Future[Any] = client.submit(eval, DESCRIBE, {"code": code}, pure=False)
            answer: concurrent.futures.Future[Any] | None = _call_in_thread(description.result)
            yield from self._read_threads(client, wake_seconds)
            first_workers = self._first_workers()
            while True:
                yield from self._read_threads(client, wake_seconds)
                self._hand_out(client, code, first_workers)
                answer = self._pass_on_description(answer)
                if not self._sent and self._queue.seconds_to_next() is None:
                    return
                pause = min(self._queue.seconds_to_next() or wake_seconds, wake_seconds)
                yield None
                yield from self._take_results(client, pause)
        finally:
            self._close(client)

    def _pass_on_description(
        self, answer: concurrent.futures.Future[Any] | None
    ) -> concurrent.futures.Future[Any] | None:
        """Pass on the description of the interpreter, if it has come; return what is still awaited.

        After the last task it is awaited for a moment.
        """
        seconds = 0.0 if self._sent else CLOSE_SECONDS
        if answer is None or not concurrent.futures.wait([answer], seconds).done:
            return answer
        with contextlib.suppress(Exception, asyncio.CancelledError):  # the run goes on without it
            self._send_message({"environment": answer.result()})
        return None

    def _read_threads(self, client: Client, wake_seconds: float) -> Generator[None, None, None]:
        """Read now and then how many threads the cluster has: workers come and go."""
        now = time.monotonic()
        if now - self._threads_read_at >= THREADS_SECONDS:
            with self._translate_errors(client):
                threads = yield from _wait_for(_call_in_thread(client.nthreads), wake_seconds)
            self._threads = threads
            self._threads_read_at = time.monotonic()

    def _first_workers(self) -> Iterator[str]:
        """Return the workers for the first tasks, which name them: they are too few for Dask to spread them.

        It would give all of them to the worker that has the code. The others may steal there, but not while the
        scheduler takes that worker for idle. It may do so for as long as the first task runs.
        """
        rounds = range(max(self._threads.values(), default=0))
        slots = [worker for number in rounds for worker, threads in self._threads.items() if number < threads]
        return iter(SPREAD_PER_THREAD * slots)

    def _hand_out(self, client: Client, code: Future[dict[str, Any]], first_workers: Iterator[str]) -> None:
        while len(self._sent) < max(1, FUTURES_PER_THREAD * sum(self._threads.values())):
            following = self._queue.next()
            if following is None:
                return
            worker = next(first_workers, None)
            placement: dict[str, Any] = {} if worker is None else {"workers": [worker], "allow_other_workers": True}
            self._send(client, code, following, **placement)

    def _send(self, client: Client, code: Future[dict[str, Any]], assignment: Assignment, **placement: object) -> None:
        _, task, attempt, doublings, *_ = assignment
        memory = None if self._memory is None else self._memory << doublings
        key = f"mops-jobs-{self._id}-{task.number}-{attempt}"
        with self._translate_errors(client):
            names = {"code": code, "job_id": self._id, "task": task_message(task, attempt), "memory": memory}
            future = client.submit(eval, RUN, names, key=key, pure=False, **placement)
        self._sent[key] = _SentTask(assignment, memory, future)
        future.add_done_callback(lambda done: self._ended.put(done.key))

    def _take_results(self, client: Client, wake_seconds: float) -> Generator[TaskResult | None, None, None]:
        keys = []
        with contextlib.suppress(queue.Empty):
            keys.append(self._ended.get(timeout=wake_seconds))
            while True:
                keys.append(self._ended.get_nowait())
        if not keys:
            return
        futures = [self._sent[key].future for key in keys]
        with self._translate_errors(client):
            answers = yield from _wait_for(_call_in_thread(_gather, client, futures), wake_seconds)
        for key, answer in zip(keys, answers, strict=True):
            sent = self._sent.pop(key)
            sent.future.release()
            if isinstance(answer, Exception):
                is_oom = yield from self._was_memory(client, answer, wake_seconds)
                yield _failed_result(sent.assignment, answer, is_oom=is_oom)
            else:
                yield self._to_result(sent, answer)

    def _to_result(self, sent: _SentTask, answer: Mapping[str, Any]) -> TaskResult:
        """Return the result of an attempt from the answer of `dask_task.run`. The task is put back to be tried again.

        Raises:
            ModelError: if the model cannot be loaded.
        """
        assignment = sent.assignment
        for line in answer["lines"]:
            self._send_message({"log": [assignment.task.number, line]})
        if "files" in answer and answer["files"] != self._files:
            self._files = answer["files"]
            self._send_message({"files": self._files})
        if "broken" in answer:
            raise load_error(answer["broken"])
        if "unready" in answer:
            raise startup_error(answer["unready"])
        error = answer.get("error")
        end = outcome_of(error), error
        if "late" in answer:
            end = lateness_of(self._timeout)
        elif "excessive" in answer:
            end = memory_excess_of(sent.memory or 0)
        elif "died" in answer:
            end = death_of(describe_exit(answer["exit_code"]), is_oom=answer["is_oom"])
        usage = Usage(*answer["usage"]) if "usage" in answer else NO_USAGE
        return self._queue.result(assignment, answer.get("outputs"), end, answer.get("started_at"), usage)

    def _was_memory(
        self, client: Client, error: Exception, wake_seconds: float
    ) -> Generator[TaskResult | None, None, bool]:
        """Return whether the last Dask worker of a task was ended by its nanny for its memory."""
        from distributed import KilledWorker

        if not isinstance(error, KilledWorker):
            return False
        with self._translate_errors(client):
            events = yield from _wait_for(_call_in_thread(client.get_events, RESTARTED_FOR_MEMORY), wake_seconds)
        return any(event.get("worker") == error.last_worker.address for _, event in events)

    @contextlib.contextmanager
    def _translate_errors(self, client: Client) -> Iterator[None]:
        """Raise one kind of error if the scheduler is gone."""
        gone = EngineUnavailableError(
            f"The Dask scheduler {self._scheduler} is gone, or has dropped the tasks of this run.",
            hint=resume_hint(),
        )
        if client.status != "running":
            raise gone
        try:
            yield
        except (OSError, asyncio.CancelledError, concurrent.futures.CancelledError, RuntimeError, ValueError):
            # The library cancels the futures a moment before the client's status tells that the connection is lost.
            raise gone from None
        if client.status != "running":
            raise gone

    def _close(self, client: Client) -> None:
        """Release all futures on the cluster, and end the processes of this run there."""
        for sent in self._sent.values():
            sent.future.release()
        with contextlib.suppress(Exception):  # errors of a cluster that goes away do not matter here
            if client.status == "running":
                code = {name: self._code[name] for name in ("name", "source")}
                names = {"code": code, "job_id": self._id}
                _call_in_thread(client.run, eval, STOP, names, on_error="ignore").result(GRACE_SECONDS)
        with contextlib.suppress(Exception):
            _call_in_thread(client.close, CLOSE_SECONDS).result(2 * CLOSE_SECONDS)


def _call_in_thread(call: Callable[..., T], *args: object, **named: object) -> concurrent.futures.Future[T]:
    """Make a call in a thread: the library waits for ever for a scheduler that is silent."""
    pending: concurrent.futures.Future[T] = concurrent.futures.Future()

    def work() -> None:
        try:
            pending.set_result(call(*args, **named))
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            pending.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return pending


def _wait_for(pending: concurrent.futures.Future[T], wake_seconds: float) -> Generator[None, None, T]:
    """Wait for a call, and yield None every `wake_seconds`."""
    while not concurrent.futures.wait([pending], wake_seconds).done:
        yield None
    return pending.result()


def _gather(client: Client, futures: list[Future[Any]]) -> list[Any]:
    """Return the result or the exception of each future."""
    with contextlib.suppress(Exception):  # one of the futures failed: see below
        if all(future.status == "finished" for future in futures):
            return list(client.gather(futures))
    return [_result(future) for future in futures]


def _result(future: Future[Any]) -> Any:
    try:
        return future.result()
    except (asyncio.CancelledError, concurrent.futures.CancelledError):
        raise
    except Exception as error:  # noqa: BLE001 - a task may raise any exception
        return error


def _failed_result(assignment: Assignment, error: Exception, *, is_oom: bool) -> TaskResult:
    """Return the result of a task that got no answer: its Dask workers have died, or could not run it."""
    from distributed import KilledWorker

    fields, outcome = {"type": type(error).__name__, "message": str(error)}, Outcome.FAILED
    if is_oom:
        message = "Dask ended the workers that had it for their memory, as often as the scheduler allows"
        fields, outcome = {"type": OUT_OF_MEMORY, "message": message}, Outcome.OOM
    elif isinstance(error, KilledWorker):
        # After `distributed.scheduler.allowed-failures` attempts.
        message = "the Dask workers that had it died, as often as the scheduler allows"
        fields, outcome = {"type": "WorkerDied", "message": message}, Outcome.DIED
    return TaskResult(*assignment[:2], None, fields, outcome, assignment.attempt)


def main() -> None:
    """Run the tasks that the parent sends, until there are no more or it has closed the pipe."""
    parent = Parent()
    with run_as_child(parent):
        setup = parent.receive()
        pool = DaskPool(setup, parent.send)
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


def _tasks(parent: Parent) -> NextTasks:
    """Yield the tasks of the parent, and None if it has none now. It is asked again while tasks are at work."""
    while True:
        parent.send({"next": True})
        task = parent.receive()["task"]
        yield task and (task[0], Task(*task[1:]))


def _to_message(result: TaskResult) -> list[object]:
    outputs = result.outputs
    texts = None if outputs is None else {name: base64.b64encode(value).decode() for name, value in outputs.items()}
    return [result.position, texts, None if result.error is None else dict(result.error), *result[4:9]]
