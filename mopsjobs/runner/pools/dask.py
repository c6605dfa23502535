"""Run tasks as futures of a Dask scheduler, and leave nothing behind on the cluster.

The futures run dask_task.py, which is sent as text. One future holds that text and the bundle, and the tasks depend on
it. So Dask brings it to each worker that gets a task, restores it when a worker dies, and drops it with its client.
See docs/decisions/0013-dask-by-source-text.md.
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
import time
import warnings
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mopsjobs.engines.dask import Child, Parent, check_installed, connect, resume_hint, run_as_child
from mopsjobs.engines.model_env import JOB_VARIABLES
from mopsjobs.engines.model_errors import ModelError, describe_exit, load_error, startup_error
from mopsjobs.engines.model_process import SOURCE as INTERPRETER_SOURCE
from mopsjobs.engines.model_process import WORKER_SOURCE
from mopsjobs.errors import EngineError, EngineUnavailableError
from mopsjobs.ledger.attempt import NO_USAGE, Outcome, Resumed, Usage
from mopsjobs.ledger.environment import DESCRIPTION_SECONDS
from mopsjobs.ledger.retry_policy import MAX_RETRIES, OUT_OF_MEMORY, RetryPolicy
from mopsjobs.runner.checkpoints import EVERY_VARIABLE, EXIT_VARIABLE, NEW, Checkpoints, directory_name
from mopsjobs.runner.pools import process
from mopsjobs.runner.pools.base import (
    GRACE_SECONDS,
    NO_LIMITS,
    NOTHING_SAVED,
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
    memory_excess_of,
    outcome_of,
    task_message,
)
from mopsjobs.runner.pools.dask_checkpoints import LOADED, DaskCheckpoints, call_in_thread, wait_for
from mopsjobs.studies.checkpoints import is_name
from mopsjobs.studies.study import Task
from mopsjobs.utils import file_watch, measurement
from mopsjobs.utils.files import make_directory

if TYPE_CHECKING:
    from distributed import Client, Future

CHILD = "mopsjobs.runner.pools.dask"
"""The module of the child process."""


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
        checkpoints: those of the tasks. The child has the files there, and no access to a store.
    """

    scheduler: str
    bundle: bytes
    setup: Mapping[str, object]
    env: Mapping[str, str]
    checkpoints: Checkpoints
    python: str | None = None
    limits: TaskLimits = NO_LIMITS
    on_log: OnLog = lambda _task, _line: None
    on_environment: Callable[[object], None] = lambda _answer: None
    workers: int | None = None  # they come and go, and only the scheduler knows them
    is_ready: bool = False
    is_waiting: bool = False  # a cluster has its own line

    def __post_init__(self) -> None:
        self._sent: dict[int, Task] = {}
        self._resumed: dict[int, Resumed | None] = {}
        """What the last attempts at tasks that were sent go on from."""
        self._kept: set[int] | None = None
        """The tasks that may go on to their next checkpoint, if the others were ended."""
        self._child: Child | None = None
        self.files = SeenFiles(frozenset())  # a worker tells before the result of a task comes

    def run(self, tasks: NextTasks, *, wake_seconds: float = 0.5) -> Generator[TaskResult | None, None, None]:
        """Run the tasks; see `Pool.run`."""
        check_installed()
        setup = {name: getattr(self, name) for name in ("scheduler", "setup", "python")}
        timeout, memory, (retries, causes), attempt_timeout = self.limits
        limits: dict[str, object] = {"timeout": timeout, "memory": memory, "retries": retries, "causes": sorted(causes)}
        limits |= {"attempt_timeout": attempt_timeout, "checkpoints": str(self.checkpoints.root)}
        limits["has_checkpoints"] = self.checkpoints.has_any
        bundle = base64.b64encode(self.bundle).decode()
        child = self._child = Child(
            CHILD, {**setup, **limits, "bundle": bundle, "wake_seconds": wake_seconds}, self.env
        )
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
                    child.send({"task": self._next_task(tasks)})
                    continue
                try:
                    if "begin" in message:
                        position, attempt = message["begin"]
                        resumed = self.checkpoints.prepare(sent[position], may_have=attempt != 1)
                        self._resumed[position] = resumed or None
                        child.send({"begun": resumed})
                        continue
                    if "ended" in message:
                        child.send({"has_come_on": self.checkpoints.has_come_on(sent[message["ended"]])})
                        continue
                    result = self._read_message(message, sent)
                except (LookupError, TypeError, ValueError, AttributeError):
                    raise EngineError("The process that talks to Dask sent an invalid message about a task.") from None
                if result is not None:
                    yield result
        finally:
            child.close()

    def _next_task(self, tasks: NextTasks) -> list[object] | bool:
        """Return the next task as it is sent, True if there is none now, and False if there is none left."""
        try:
            following = next(tasks) if self._kept is None else None
        except StopIteration:
            return False
        if following is None:
            return self._kept is None
        self._sent[following[0]] = following[1]
        return [following[0], *following[1]]

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
            self.files.add(*message["files"])
            return None
        if "environment" in message:
            self.on_environment(message["environment"])
            return None
        if "saved" in message:
            self._take_checkpoint(*message["saved"])
            return None
        position, outputs, error, outcome, attempt, started_at, usage, is_final, resumed = message["finished"]
        self.is_ready = True
        task = sent.pop(position) if is_final else sent[position]
        self._resumed.pop(position, None)
        if (outputs is None) == (error is None) and outcome != Outcome.PREEMPTED:
            raise ValueError(position)
        if outputs is not None:
            outputs = {str(name): base64.b64decode(text, validate=True) for name, text in outputs.items()}
        if error is not None:
            error = {str(name): str(text) for name, text in error.items()}
        *numbers, host, python = usage
        measured = Usage(*map(_number, numbers), *(text and str(text) for text in (host, python)))
        at = _number(started_at)
        begun = None if resumed is None else Resumed(int(resumed[0]), str(resumed[1]), _number(resumed[2]))
        return TaskResult(
            position, task, outputs, error, Outcome(outcome), int(attempt), at, measured, bool(is_final), begun
        )

    def _take_checkpoint(self, position: int, path: str, at: str, started_at: object) -> None:
        """Take a checkpoint that the child has written beside those of its task."""
        task, checkpoints = self._sent[position], self.checkpoints
        if not is_name(at):
            raise ValueError(at)
        root = checkpoints.root / directory_name((task.param_id, task.seed))
        if Path(path).parent.parent != root:
            raise ValueError(path)
        with contextlib.suppress(OSError):  # the disk is full: the one before stays the last
            make_directory(root / NEW)
            os.rename(path, root / NEW / at)
            Path(path).parent.rmdir()
        checkpoints.end(task, _number(started_at))

    def at_work(self) -> Sequence[TaskAtWork]:
        """Return the attempts that were sent; see `Pool.at_work`."""
        sent = self._sent.items()
        return [TaskAtWork(position, task, 1, None, None, self._resumed.get(position)) for position, task in sent]

    def keep_only(self, tasks: Collection[int] | None = None) -> None:
        """End all attempts but some, and begin no more; see `Pool.keep_only`."""
        self._kept = {task.number for task in self._sent.values()} if tasks is None else set(tasks)
        if self._child is not None:
            with contextlib.suppress(EngineUnavailableError):  # `run` tells
                self._child.send({"keep": [place for place, task in self._sent.items() if task.number in self._kept]})


def _number(value: object) -> Any:
    """Return a number that is finite and not negative, or None.

    Raises:
        ValueError: if it is something else.
    """
    if value is not None and not (type(value) in (int, float) and 0 <= value < math.inf):  # type: ignore[operator]
        raise ValueError(str(value)[:20])
    return value


FUTURES_PER_THREAD = 2
"""Futures per thread of the cluster: one runs, and the other begins when it ends."""

MAX_LOSSES = 3
"""Workers that are lost with a task, one after the other, at most: as many as Dask allows by default."""

THREADS_SECONDS = 1.0
"""How often the number of threads of the cluster is read."""

IDLE_SECONDS = 0.05
"""How often the runner is asked for a task while none is at work: the client of a growing job may wait."""

SCHEDULER_SECONDS = 60.0
"""How long a scheduler may take to answer: a busy one answers late, and a run has time."""

CLOSE_SECONDS = 1.0
"""How long the client may take to close."""

_SOURCE = Path(__file__).with_name("dask_task.py")

RUN = f"{LOADED}.run(code, job_id, task, memory, attempt)"
DESCRIBE = f"{LOADED}.describe(code)"
STOP = f"{LOADED}.stop(job_id)"  # also on a worker that has no task yet: one on its way to it must not begin

RESTARTED_FOR_MEMORY = "worker-restart-memory"
"""The topic of the events by which nannies tell that they ended a Dask worker for its memory."""


class _Runner:
    """The runner, as the child process sees it."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent
        self.send = parent.send
        self.kept: list[int] | None = None
        """The positions of the tasks that may go on, once the runner is to stop; None before."""

    def ask(self, question: Mapping[str, object], answer: str) -> Any:
        """Send a question, and return its answer."""
        self.send(question)
        while answer not in (message := self._parent.receive()):
            self.kept = message["keep"]
        return message[answer]

    def listen(self) -> None:
        """Take what the runner says by itself.

        Raises:
            EOFError: if it has closed the pipe.
        """
        while self._parent.is_over():
            self.kept = self._parent.receive()["keep"]


class _SentTask(NamedTuple):
    assignment: Assignment
    memory: int | None
    future: Future[Any]


class DaskPool:
    """Runs the tasks of one model on the workers of a Dask cluster."""

    def __init__(self, setup: Mapping[str, Any], runner: _Runner) -> None:
        """Prepare a pool; nothing is sent to the cluster before `run`.

        Args:
            setup: the first message of `DaskProcess`.
            runner: the process that sent it.
        """
        source = _SOURCE.read_text("utf-8")
        self._scheduler: str = setup["scheduler"]
        self._runner = runner
        self._send_message = runner.send
        self._code = {
            "name": "mops_jobs_dask_task_" + hashlib.sha256(source.encode()).hexdigest()[:16],
            "source": source,
            "worker": WORKER_SOURCE.decode(),
            "process": Path(process.__file__).read_text("utf-8"),
            "measurement": Path(measurement.__file__).read_text("utf-8"),
            "file_watch": Path(file_watch.__file__).read_text("utf-8"),
            "describe": INTERPRETER_SOURCE,
            "env": {
                name: os.environ[name] for name in (*JOB_VARIABLES, EVERY_VARIABLE, EXIT_VARIABLE) if name in os.environ
            },
            "bundle": base64.b64decode(setup["bundle"]),
            **{name: setup[name] for name in ("setup", "python")},
            "starts": STARTS,
        }
        self._id = secrets.token_hex(8)
        """Names this run of the job on the cluster, where tasks of an earlier run may still be."""
        self._memory = setup["memory"]
        self._policy = RetryPolicy(setup["retries"], frozenset(setup["causes"]))
        self._limits = TaskLimits(setup["timeout"], self._memory, self._policy, setup["attempt_timeout"])
        self._ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        """The keys of attempts that have ended, and empty texts if there is something to exchange."""
        root = Path(setup["checkpoints"])
        self._checkpoints = DaskCheckpoints(self._id, self._code, root, runner.send, lambda: self._ended.put(""))
        self._has_checkpoints: bool = setup["has_checkpoints"]
        self._description: concurrent.futures.Future[Any] | None = None
        """That of the interpreter, until it was passed on."""
        self._queue = TaskQueue(iter(()), self._policy, 0)
        self._files: object = None
        """What was last told of files."""
        self._sent: dict[str, _SentTask] = {}
        self._saving: dict[str, Mapping[str, Any]] = {}
        """Answers of attempts whose last checkpoints are on their way."""
        self._threads = 0
        """The threads of the cluster."""
        self._threads_read_at = -THREADS_SECONDS
        self._lost_due = 0.0

    def run(self, tasks: NextTasks, *, wake_seconds: float = 0.5) -> Generator[TaskResult | None, None, None]:
        """Run the tasks; see `Pool.run`."""
        self._queue = TaskQueue(tasks, self._policy, MAX_RETRIES)
        client = connect(self._scheduler, SCHEDULER_SECONDS)
        try:
            key = f"mops-jobs-code-{self._id}"
            with self._translate_errors(client), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a large bundle: it is sent once
                code: Future[dict[str, Any]] = client.submit(dict, self._code, key=key, pure=False)
                description: Future[Any] = client.submit(eval, DESCRIBE, {"code": code}, pure=False)
                self._checkpoints.subscribe(client)
            self._description = call_in_thread(description.result)
            # its worker counts as busy meanwhile: Dask could give two tasks to another one, and none to it
            seconds = math.inf if self._has_checkpoints else DESCRIPTION_SECONDS
            yield from self._await_description(wake_seconds, seconds)
            while True:
                yield from self._read_threads(client, wake_seconds)
                self._hand_out(client, code)
                self._pass_on_description(0.0)
                if not self._sent and (self._runner.kept is not None or self._queue.is_over):
                    yield from self._await_description(wake_seconds, DESCRIPTION_SECONDS)
                    return
                most = wake_seconds if self._sent else IDLE_SECONDS
                pause = min(self._queue.seconds_to_next() or most, most)
                yield None
                yield from self._take_results(client, pause)
                self._checkpoints.exchange(client)
                yield from self._end_lost(client, wake_seconds)
                if self._runner.kept is not None:
                    kept = self._runner.kept
                    self._end(client, [key for key, sent in self._sent.items() if sent.assignment.position not in kept])
        finally:
            self._close(client)

    def _await_description(self, wake_seconds: float, seconds: float) -> Generator[None, None, None]:
        """Wait for the description of the interpreter until the runner is to stop: checkpoints are bound to it."""
        until = time.monotonic() + seconds
        while self._description is not None and self._runner.kept is None and time.monotonic() < until:
            yield None
            self._pass_on_description(wake_seconds)

    def _pass_on_description(self, seconds: float) -> None:
        """Pass on the description of the interpreter, if it comes in time."""
        answer = self._description
        if answer is not None and concurrent.futures.wait([answer], seconds).done:
            self._description = None
            with contextlib.suppress(Exception, asyncio.CancelledError):  # the run goes on without it
                self._send_message({"environment": answer.result()})

    def _read_threads(self, client: Client, wake_seconds: float) -> Generator[None, None, None]:
        """Read now and then how many threads the cluster has: workers come and go."""
        if time.monotonic() - self._threads_read_at < THREADS_SECONDS:
            return
        with self._translate_errors(client):
            threads = yield from wait_for(call_in_thread(client.nthreads), wake_seconds)
        self._threads, self._threads_read_at = sum(threads.values()), time.monotonic()

    def _hand_out(self, client: Client, code: Future[dict[str, Any]]) -> None:
        while self._runner.kept is None and len(self._sent) < max(1, FUTURES_PER_THREAD * self._threads):
            following = self._queue.next_prepared(self._prepare)
            if following is None:
                return
            self._send(client, code, following)

    def _prepare(self, assignment: Assignment) -> Assignment | None:
        """Let the runner bring the checkpoint of a task into place; None if that takes longer."""
        resumed = self._runner.ask({"begin": [assignment.position, assignment.attempt]}, "begun")
        if resumed is False:
            return None
        return assignment._replace(resumed=None if resumed is None else Resumed(*resumed), is_prepared=True)

    def _send(self, client: Client, code: Future[dict[str, Any]], assignment: Assignment) -> None:
        _, task, attempt, doublings, *_ = assignment
        memory = None if self._memory is None else self._memory << doublings
        key = f"mops-jobs-{self._id}-{task.number}-{attempt}"
        self._checkpoints.begin(key, assignment.position, task)
        seconds = self._limits.seconds_of(assignment.resumed)
        limit = {
            "key": key,
            "timeout": seconds if seconds < math.inf else None,
            "resumes": assignment.resumed is not None,
        }
        with self._translate_errors(client):
            names = {"code": code, "job_id": self._id, "task": task_message(task, attempt), "memory": memory}
            names["attempt"] = limit
            # Dask gives such a task to the least busy worker, else to one that has the code
            future = client.submit(eval, RUN, names, key=key, pure=False, _data_producer=True)
        self._sent[key] = _SentTask(assignment, memory, future)
        future.add_done_callback(lambda done: self._ended.put(done.key))

    def _take_results(self, client: Client, wake_seconds: float) -> Generator[TaskResult | None, None, None]:
        keys = []
        with contextlib.suppress(queue.Empty):
            keys.append(self._ended.get(timeout=wake_seconds))
            while True:
                keys.append(self._ended.get_nowait())
        keys = [key for key in keys if key in self._sent]  # the others were ended
        futures = [self._sent[key].future for key in keys]
        answers: dict[str, Any] = {}
        if keys:
            with self._translate_errors(client):
                found = yield from wait_for(call_in_thread(_gather, client, futures), wake_seconds)
            answers = dict(zip(keys, found, strict=True))
        for key, answer in answers.items():
            if isinstance(answer, Exception):
                yield from self._take_error(client, key, answer, wake_seconds)
            elif answer.get("saved") and "outputs" not in answer:
                self._saving[key] = answer
                self._checkpoints.fetch_last(key, answer["saved"])
            else:
                yield self._to_result(self._forget(key), answer)
        for key in [key for key in self._saving if self._checkpoints.has_last(key)]:
            answer = self._saving.pop(key)
            if "preempted" in answer and not self._checkpoints.has_all(key):
                yield from self._lose(client, key, wake_seconds)  # with its worker
            else:
                yield self._to_result(self._forget(key), answer)

    def _take_error(
        self, client: Client, key: str, error: Exception, wake_seconds: float
    ) -> Generator[TaskResult | None, None, None]:
        """Yield the result of an attempt that got no answer: its Dask workers have died, or could not run it."""
        from distributed import KilledWorker

        if not isinstance(error, KilledWorker):
            fields = {"type": type(error).__name__, "message": str(error)}
            assignment = self._forget(key).assignment
            yield TaskResult(*assignment[:2], None, fields, Outcome.FAILED, assignment.attempt)
        else:  # after `distributed.scheduler.allowed-failures` attempts, of bound ones maybe after one
            worker, is_bound = error.last_worker.address, self._checkpoints.worker(key) is not None
            yield from self._lose(client, key, wake_seconds, worker, may_go_on=is_bound)

    def _end_lost(self, client: Client, wake_seconds: float) -> Generator[TaskResult | None, None, None]:
        """Begin attempts again whose Dask workers are gone."""
        if time.monotonic() < self._lost_due:
            return
        self._lost_due = time.monotonic() + THREADS_SECONDS
        with self._translate_errors(client):
            lost = yield from self._checkpoints.find_lost(client, wake_seconds)
        for key in lost:
            if self._runner.kept is None:
                yield from self._lose(client, key, wake_seconds)
            else:
                self._end(client, [key])

    def _lose(
        self, client: Client, key: str, wake_seconds: float, worker: str | None = None, *, may_go_on: bool = True
    ) -> Generator[TaskResult | None, None, None]:
        """Yield the result of an attempt that was lost with its Dask worker. It counts as no retry."""
        assignment, started_at = self._sent[key].assignment, self._checkpoints.started_at(key)
        has_come_on = self._runner.ask({"ended": assignment.position}, "has_come_on")
        losses = 0 if has_come_on else assignment.losses + 1
        may_go_on = may_go_on and losses <= MAX_LOSSES
        if may_go_on:
            outcome, error = death_of("its Dask worker is gone", is_oom=False)
        elif (yield from self._was_memory(client, worker or self._checkpoints.worker(key), wake_seconds)):
            message = "Dask ended the workers that had it for their memory, as often as the scheduler allows"
            outcome, error = Outcome.OOM, {"type": OUT_OF_MEMORY, "message": message}
        else:
            message = "the Dask workers that had it died, as often as the scheduler allows"
            outcome, error = Outcome.DIED, {"type": "WorkerDied", "message": message}
        self._end(client, [key])
        if may_go_on:
            self._queue.try_again(assignment._replace(losses=losses), Outcome.PREEMPTED, None)
        yield TaskResult(
            *assignment[:2], None, error, outcome, assignment.attempt, started_at, is_final=not may_go_on,
            resumed=assignment.resumed,
        )  # fmt: skip

    def _forget(self, key: str) -> _SentTask:
        """Forget an attempt."""
        self._checkpoints.forget(key)
        sent = self._sent.pop(key)
        sent.future.release()
        return sent

    def _end(self, client: Client, keys: Sequence[str]) -> None:
        """End attempts, wherever they are."""
        for key in keys:
            self._forget(key)
        if keys:
            self._checkpoints.end(client, keys)

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
        if "preempted" in answer:
            may_go_on = self._runner.kept is not None or self._runner.ask({"ended": assignment.position}, "has_come_on")
            end = (Outcome.PREEMPTED, None) if may_go_on else NOTHING_SAVED
        elif "late" in answer:
            end = self._limits.lateness(assignment.resumed)
        elif "excessive" in answer:
            end = memory_excess_of(sent.memory or 0)
        elif "died" in answer:
            end = death_of(describe_exit(answer["exit_code"]), is_oom=answer["is_oom"])
        usage = Usage(*answer["usage"]) if "usage" in answer else NO_USAGE
        return self._queue.result(assignment, answer.get("outputs"), end, answer.get("started_at"), usage)

    def _was_memory(
        self, client: Client, worker: str | None, wake_seconds: float
    ) -> Generator[TaskResult | None, None, bool]:
        """Return whether a Dask worker was ended by its nanny for its memory."""
        with self._translate_errors(client):
            events = yield from wait_for(call_in_thread(client.get_events, RESTARTED_FOR_MEMORY), wake_seconds)
        return any(event.get("worker") == worker for _, event in events)

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
                call_in_thread(client.run, eval, STOP, names, on_error="ignore").result(GRACE_SECONDS)
        with contextlib.suppress(Exception):
            call_in_thread(client.close, CLOSE_SECONDS).result(2 * CLOSE_SECONDS)


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


def main() -> None:
    """Run the tasks that the parent sends, until there are no more or it has closed the pipe."""
    parent = Parent()
    with run_as_child(parent):
        setup = parent.receive()
        runner = _Runner(parent)
        pool = DaskPool(setup, runner)
        try:
            with contextlib.closing(pool.run(_tasks(runner), wake_seconds=setup["wake_seconds"])) as results:
                for result in results:
                    if result is not None:
                        parent.send({"finished": _to_message(result)})
                    else:
                        runner.listen()
        except ModelError as error:
            fields = {"message": error.message, "hint": error.hint, "error": error.event_fields.get("error")}
            parent.send({"model": fields})
            return
        parent.send({"end": True})


def _tasks(runner: _Runner) -> NextTasks:
    """Yield the tasks of the runner, and None if it has none now. It is then asked again."""
    while task := runner.ask({"next": True}, "task"):
        yield None if task is True else (task[0], Task(*task[1:]))


def _to_message(result: TaskResult) -> list[object]:
    outputs = result.outputs
    texts = None if outputs is None else {name: base64.b64encode(value).decode() for name, value in outputs.items()}
    return [result.position, texts, None if result.error is None else dict(result.error), *result[4:10]]
