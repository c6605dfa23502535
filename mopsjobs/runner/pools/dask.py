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
import tarfile
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
from mopsjobs.ledger.attempt import NO_USAGE, Outcome, Resumed, Usage
from mopsjobs.ledger.retry_policy import MAX_RETRIES, OUT_OF_MEMORY, RetryPolicy
from mopsjobs.runner.checkpoints import (
    EVERY_VARIABLE,
    EXIT_VARIABLE,
    LAST,
    NEW,
    Checkpoints,
    directory_name,
)
from mopsjobs.runner.checkpoints import STOP as STOP_FILE
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
from mopsjobs.studies.checkpoints import PIECE_BYTES, is_name
from mopsjobs.studies.study import Task
from mopsjobs.utils import file_watch, measurement
from mopsjobs.utils.files import make_directory, private_opener

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
        checkpoints: those of the tasks; None: they have none. The child has the files there, and no access to a store.
    """

    scheduler: str
    bundle: bytes
    setup: Mapping[str, object]
    env: Mapping[str, str]
    python: str | None = None
    limits: TaskLimits = NO_LIMITS
    on_log: OnLog = lambda _task, _line: None
    on_environment: Callable[[object], None] = lambda _answer: None
    checkpoints: Checkpoints | None = None
    workers: int | None = None  # they come and go, and only the scheduler knows them
    is_ready: bool = False
    is_waiting: bool = False  # a cluster has its own line

    def __post_init__(self) -> None:
        self._sent: dict[int, Task] = {}
        self._kept: set[int] | None = None
        """The tasks that may go on to their next checkpoint, if the others were ended."""
        self._child: Child | None = None
        self._told = ToldFiles()
        self.files: SeenFiles = self._told

    def run(self, tasks: NextTasks, *, wake_seconds: float = 0.5) -> Generator[TaskResult | None, None, None]:
        """Run the tasks; see `Pool.run`."""
        check_installed()
        setup = {name: getattr(self, name) for name in ("scheduler", "setup", "python")}
        timeout, memory, (retries, causes), attempt_timeout = self.limits
        limits: dict[str, object] = {"timeout": timeout, "memory": memory, "retries": retries, "causes": sorted(causes)}
        limits |= {"attempt_timeout": attempt_timeout, "checkpoints": self.checkpoints and str(self.checkpoints.root)}
        limits["has_checkpoints"] = self.checkpoints is not None and self.checkpoints.has_any
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
                        child.send({"begun": self._begin(sent[position], attempt)})
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
            self._told.add(*message["files"])
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

    def _begin(self, task: Task, attempt: object) -> Resumed | None:
        return None if self.checkpoints is None else self.checkpoints.begin(task, may_have=attempt != 1)

    def _take_checkpoint(self, position: int, path: str, at: str, started_at: object) -> None:
        """Take a checkpoint that the child has written beside those of its task."""
        task, checkpoints = self._sent[position], self.checkpoints
        if checkpoints is None or not is_name(at):
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
        return [TaskAtWork(position, task, 1, None, None) for position, task in self._sent.items()]

    def keep_only(self, tasks: Collection[int]) -> None:
        """End all attempts but some, and begin no more; see `Pool.keep_only`."""
        self._kept = set(tasks)
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


T = TypeVar("T")

FUTURES_PER_THREAD = 3
"""Futures per thread of the cluster: one runs, and with the others Dask sees a group that it may spread freely."""

SPREAD_PER_THREAD = 2
"""Dask spreads a group of tasks freely if it has more of them per thread; see `Scheduler.is_rootish` of distributed."""

THREADS_SECONDS = 1.0
"""How often the number of threads of the cluster is read."""

IDLE_SECONDS = 0.05
"""How often the runner is asked for a task while none is at work: the client of a growing job may wait."""

FETCH_SECONDS = 60.0
"""How long to wait for the last checkpoint of an attempt that has ended."""

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

RUN = f"{_LOADED}.run(code, job_id, task, memory, attempt)"
END = f"{_LOADED}.end(job_id, keys)"
TELL = f"{_LOADED}.tell(job_id, key)"
READ = f"{_LOADED}.read(path, offset, size)"
PUT = f"{_LOADED}.put(job_id, key, data, is_last=is_last)"
DESCRIBE = f"{_LOADED}.describe(code)"
STOP = f"{_LOADED}.stop(job_id)"  # also on a worker that has no task yet: one on its way to it must not begin


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
        self._root = None if setup["checkpoints"] is None else Path(setup["checkpoints"])
        """Where the runner has the checkpoints of tasks."""
        self._has_checkpoints: bool = setup["has_checkpoints"]
        self._description: concurrent.futures.Future[Any] | None = None
        """That of the interpreter, until it was passed on."""
        self._events: queue.SimpleQueue[Mapping[str, Any]] = queue.SimpleQueue()
        """What attempts tell of their checkpoints."""
        self._uses: dict[str, str] = {}
        """The Dask workers of attempts that use checkpoints, by the keys of the attempts."""
        self._saved: dict[str, Mapping[str, Any]] = {}
        """What attempts told of their last checkpoints."""
        self._fetched: dict[str, int] = {}
        """The numbers of those that are here."""
        self._fetching: dict[str, tuple[Mapping[str, Any], Path, concurrent.futures.Future[bool]]] = {}
        """Those that are fetched now, where to, and their calls."""
        self._asked_to_stop: set[str] = set()
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
                if self._root is not None:
                    client.subscribe_topic(f"mops-jobs-{self._id}", lambda event: self._events.put(event[1]))
            self._description = _call_in_thread(description.result)
            yield from self._read_threads(client, wake_seconds)
            if self._has_checkpoints:
                yield from self._await_description(wake_seconds)
            first_workers = self._first_workers()
            while True:
                yield from self._read_threads(client, wake_seconds)
                self._hand_out(client, code, first_workers)
                self._pass_on_description(0.0 if self._sent else CLOSE_SECONDS)
                if not self._sent and (self._runner.kept is not None or self._queue.is_over):
                    return
                most = wake_seconds if self._sent else IDLE_SECONDS
                pause = min(self._queue.seconds_to_next() or most, most)
                yield None
                yield from self._take_results(client, pause)
                yield from self._exchange(client, wake_seconds)
        finally:
            self._close(client)

    def _await_description(self, wake_seconds: float) -> Generator[None, None, None]:
        """Wait for the description of the interpreter: checkpoints are bound to it."""
        while self._description is not None:
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
        while self._runner.kept is None and len(self._sent) < max(1, FUTURES_PER_THREAD * sum(self._threads.values())):
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
        if self._root is not None:
            found = self._runner.ask({"begin": [assignment.position, attempt]}, "begun")
            assignment = assignment._replace(resumed=None if found is None else Resumed(*found))
        seconds = self._limits.seconds_of(assignment.resumed)
        limit = {
            "key": key,
            "timeout": seconds if seconds < math.inf else None,
            "resumes": assignment.resumed is not None,
        }
        with self._translate_errors(client):
            names = {"code": code, "job_id": self._id, "task": task_message(task, attempt), "memory": memory}
            names["attempt"] = limit
            future = client.submit(eval, RUN, names, key=key, pure=False, **placement)
        self._sent[key] = _SentTask(assignment, memory, future)
        future.add_done_callback(lambda done: self._ended.put(done.key))

    def _take_results(self, client: Client, wake_seconds: float) -> Generator[TaskResult | None, None, None]:
        keys = []
        with contextlib.suppress(queue.Empty):
            keys.append(self._ended.get(timeout=wake_seconds))
            while True:
                keys.append(self._ended.get_nowait())
        keys = [key for key in keys if key in self._sent]  # the others were ended
        if not keys:
            return
        futures = [self._sent[key].future for key in keys]
        with self._translate_errors(client):
            answers = yield from _wait_for(_call_in_thread(_gather, client, futures), wake_seconds)
        for key, answer in zip(keys, answers, strict=True):
            sent = self._sent[key]
            if not isinstance(answer, Exception) and (saved := answer.get("saved")) and "outputs" not in answer:
                self._saved[key] = saved
                yield from self._fetch_last(client, key, wake_seconds)
            has_saved = self._forget(key)
            sent.future.release()
            if isinstance(answer, Exception):
                is_oom = yield from self._was_memory(client, answer, wake_seconds)
                yield _failed_result(sent.assignment, answer, is_oom=is_oom)
            else:
                yield self._to_result(sent, answer, has_saved=has_saved)

    def _to_result(self, sent: _SentTask, answer: Mapping[str, Any], *, has_saved: bool) -> TaskResult:
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
            end = (Outcome.PREEMPTED, None) if has_saved else NOTHING_SAVED
        elif "late" in answer:
            end = self._limits.lateness(assignment.resumed)
        elif "excessive" in answer:
            end = memory_excess_of(sent.memory or 0)
        elif "died" in answer:
            end = death_of(describe_exit(answer["exit_code"]), is_oom=answer["is_oom"])
        usage = Usage(*answer["usage"]) if "usage" in answer else NO_USAGE
        return self._queue.result(assignment, answer.get("outputs"), end, answer.get("started_at"), usage)

    # --- checkpoints -----------------------------------------------------------------------------------------

    def _forget(self, key: str) -> bool:
        """Forget an attempt. Return whether a checkpoint of it is here."""
        self._sent.pop(key)
        self._uses.pop(key, None)
        self._saved.pop(key, None)
        self._fetching.pop(key, None)
        self._asked_to_stop.discard(key)
        return self._fetched.pop(key, 0) > 0

    def _directory(self, key: str) -> Path:
        """Return the directory of the checkpoints of a task, as the runner has it."""
        task = self._sent[key].assignment.task
        assert self._root is not None  # noqa: S101 - else no task has any
        return self._root / directory_name((task.param_id, task.seed))

    def _take_events(self) -> tuple[dict[str, str], list[str]]:
        """Note what attempts have told. Return the Dask workers of those that wait, and those that Dask began again."""
        wanted, lost = {}, []
        with contextlib.suppress(queue.Empty):
            while True:
                event = self._events.get_nowait()
                key = event["key"]
                if key not in self._sent:
                    continue
                if self._uses.get(key, event["worker"]) != event["worker"]:  # Dask has begun it again
                    if self._fetched.get(key):
                        lost.append(key)
                        continue
                    self._saved.pop(key, None)
                self._uses[key] = event["worker"]
                if "want" in event:
                    wanted[key] = event["worker"]
                elif "number" in event:
                    self._saved[key] = event
                else:
                    with contextlib.suppress(OSError):
                        make_directory(self._directory(key))  # by it, the runner knows that the task can save
        return wanted, lost

    def _exchange(self, client: Client, wake_seconds: float) -> Generator[TaskResult | None, None, None]:
        """Send checkpoints that attempts wait for, fetch new ones, tell attempts to stop, and replace lost ones."""
        wanted, lost = self._take_events()
        for key, worker in wanted.items():
            _call_in_thread(self._push, client, key, worker, self._directory(key) / LAST)
        for key in [key for key, (_, _, fetch) in self._fetching.items() if fetch.done()]:
            self._end_fetch(key)
        if self._description is None:  # checkpoints are bound to it
            for key in self._saved:
                self._begin_fetch(client, key)
        for key, worker in self._uses.items():
            if key not in self._asked_to_stop and (self._directory(key) / STOP_FILE).exists():
                self._asked_to_stop.add(key)
                _call_in_thread(self._on_worker, client, worker, TELL, key=key)
        lost += [key for key in self._fetched if self._uses.get(key) not in self._threads]
        lost = list(dict.fromkeys(lost))
        if self._runner.kept is not None:
            ended = [key for key, sent in self._sent.items() if sent.assignment.position not in self._runner.kept]
            ended += [key for key in lost if key not in ended]
            self._end(client, ended)
        elif lost:
            # Dask begins them again on another worker, at their start.
            sent = [(self._sent[key].assignment, self._saved[key]) for key in lost]
            self._end(client, lost)
            for assignment, saved in sent:
                following = assignment._replace(attempt=assignment.attempt + 1, preemptions=assignment.preemptions + 1)
                self._queue.put_back(following)
                outcome, error = death_of("its Dask worker is gone", is_oom=False)
                yield TaskResult(
                    *assignment[:2], None, error, outcome, assignment.attempt, saved["started_at"], is_final=False,
                    resumed=assignment.resumed,
                )  # fmt: skip

    def _end(self, client: Client, keys: Sequence[str]) -> None:
        """End attempts, wherever they are."""
        for key in keys:
            self._sent[key].future.release()
            self._forget(key)
        if keys:
            _call_in_thread(self._on_worker, client, None, END, keys=list(keys))

    def _on_worker(self, client: Client, worker: str | None, text: str, **names: object) -> Any:
        """Return what an expression gives on a Dask worker, or on all; None if it is gone, or if it fails.

        It may wait long for a worker that is about to end. So it runs in a thread of its own.
        """
        code = {name: self._code[name] for name in ("name", "source")}
        workers = None if worker is None else [worker]
        try:
            answers = client.run(
                eval, text, {"code": code, "job_id": self._id, **names}, workers=workers, on_error="ignore"
            )
        except (Exception, asyncio.CancelledError):  # noqa: BLE001 - the scheduler is gone, which others tell
            return None
        return (answers or {}).get(worker)

    def _fetch(self, client: Client, saved: Mapping[str, Any], target: Path) -> bool:
        """Fetch a checkpoint of an attempt in pieces. Return whether it is there, in a directory of its own."""
        path = target.with_suffix(".tar")
        try:
            make_directory(target)
            with open(path, "wb", opener=private_opener) as file:
                while file.tell() < saved["size"]:
                    where = {"path": saved["path"], "offset": file.tell(), "size": PIECE_BYTES}
                    piece = self._on_worker(client, saved["worker"], READ, **where)
                    if not piece:  # there is a later one, or the worker is gone
                        return False
                    file.write(piece)
            with tarfile.open(path, encoding="utf-8") as tar:
                tar.extractall(target, filter="data")
        except (OSError, tarfile.TarError):
            return False
        finally:
            path.unlink(missing_ok=True)
        return True

    def _begin_fetch(self, client: Client, key: str) -> None:
        """Begin to fetch the last checkpoint of an attempt, unless it is here or another one of it is fetched."""
        saved = self._saved.get(key)
        if saved is not None and key not in self._fetching and self._fetched.get(key, 0) < saved["number"]:
            target = self._directory(key) / f"fetched-{saved['number']}"
            self._fetching[key] = saved, target, _call_in_thread(self._fetch, client, saved, target)

    def _end_fetch(self, key: str) -> None:
        """Tell the runner of a checkpoint, if it was fetched."""
        saved, target, fetch = self._fetching.pop(key)
        at = str(saved["at"])
        if fetch.result() and is_name(at):
            self._fetched[key] = saved["number"]
            position = self._sent[key].assignment.position
            self._send_message({"saved": [position, str(target / at), at, saved["started_at"]]})

    def _fetch_last(self, client: Client, key: str, wake_seconds: float) -> Generator[None, None, None]:
        """Fetch the last checkpoint of an attempt that has ended, and wait for it a while."""
        until = time.monotonic() + FETCH_SECONDS
        yield from self._await_description(wake_seconds)
        for _ in range(2):  # an earlier one may be under way
            self._begin_fetch(client, key)
            while key in self._fetching and time.monotonic() < until:
                if concurrent.futures.wait([self._fetching[key][2]], wake_seconds).done:
                    self._end_fetch(key)
                yield None

    def _push(self, client: Client, key: str, worker: str, last: Path) -> None:
        """Send the checkpoint that an attempt goes on from, in pieces. If that fails, it asks again."""
        path = last.with_suffix(f".{secrets.token_hex(4)}.tar")
        with contextlib.suppress(OSError):
            with tarfile.open(path, "w", encoding="utf-8") as tar:
                for entry in last.iterdir():
                    tar.add(entry, entry.name)
            size = path.stat().st_size
            self._on_worker(client, worker, PUT, key=key, data=b"", is_last=False)
            with open(path, "rb") as file:
                while piece := file.read(PIECE_BYTES):
                    self._on_worker(client, worker, PUT, key=key, data=piece, is_last=file.tell() == size)
        with contextlib.suppress(OSError):
            path.unlink()

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
