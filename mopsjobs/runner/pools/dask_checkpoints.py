"""The checkpoints of tasks on Dask workers, as the process that talks to Dask sees them.

Dask begins the tasks of a lost worker again, at their start. So an attempt that uses checkpoints is bound. A
restriction to a worker that does not exist keeps the scheduler from giving it to another one. The runner begins the
next attempt, from the last checkpoint that came here. Nothing is fetched before an attempt is bound.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import queue
import secrets
import shutil
import tarfile
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mopsjobs.runner.checkpoints import LAST, STOP, directory_name
from mopsjobs.studies.checkpoints import PIECE_BYTES, is_name
from mopsjobs.studies.study import Task
from mopsjobs.utils.files import make_directory, private_opener

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")

NO_WORKER = "tcp://0.0.0.0:1"
"""A bound attempt may begin there alone."""

LOST = "no-worker"
"""The state of a bound attempt whose worker is gone, as the scheduler names it."""

FETCH_SECONDS = 60.0
"""How long to wait for the next piece of the last checkpoint of an attempt that has ended."""

# `eval` of a text: neither workers nor scheduler need to import mops-jobs. Two threads may both compile the module;
# `setdefault` makes both use the first one.
LOADED = """(lambda sys, types: sys.modules.get(code["name"]) or [
    module := types.ModuleType(code["name"]),
    exec(compile(code["source"], "dask_task.py", "exec"), module.__dict__),
    sys.modules.setdefault(code["name"], module),
][-1])(__import__("sys"), __import__("types"))"""

END = f"{LOADED}.end(job_id, keys)"
TELL = f"{LOADED}.tell(job_id, key)"
READ = f"{LOADED}.read(job_id, key, path, offset, size)"
PUT = f"{LOADED}.put(job_id, key, data, is_last=is_last)"


@dataclasses.dataclass
class _Attempt:
    """An attempt that was sent."""

    position: int
    directory: Path
    """That of the task, as the runner has it."""
    worker: str | None = None
    """The Dask worker of an attempt that uses checkpoints."""
    started_at: float | None = None
    binding: concurrent.futures.Future[None] | None = None
    saved: Mapping[str, Any] | None = None
    """What it told of its last checkpoint."""
    told: int = 0
    """The number of that."""
    fetched: int = 0
    """The number of the last one that is here."""
    fetching: tuple[Mapping[str, Any], Path, concurrent.futures.Future[bool]] | None = None
    """The one that is fetched now, where to, and its call."""
    pushing: concurrent.futures.Future[None] | None = None
    is_told: bool = False
    """Whether it was told to stop."""
    gives_up_at: float | None = None
    """When not to wait any more for its last one, by the monotonic clock; None while it runs."""

    @property
    def is_bound(self) -> bool:
        return self.binding is not None and self.binding.done() and self.binding.exception() is None


class DaskCheckpoints:
    """The checkpoints of the attempts of one run."""

    def __init__(
        self,
        job_id: str,
        code: Mapping[str, Any],
        root: Path,
        send: Callable[[dict[str, Any]], None],
        wake: Callable[[], None],
    ) -> None:
        """Prepare to take checkpoints.

        Args:
            job_id: names the run on the cluster.
            code: name and source of dask_task.py.
            root: where the runner has the checkpoints of tasks.
            send: sends a message to the runner.
            wake: makes the caller of `exchange` call it soon; any thread may call it. A checkpoint is safe sooner.
        """
        self._job_id, self._root, self._send, self._wake = job_id, root, send, wake
        self._code = {name: code[name] for name in ("name", "source")}
        self._attempts: dict[str, _Attempt] = {}
        self._is_described = False
        """Whether the runner was told of the interpreter. Before, nothing is fetched."""
        self._events: queue.SimpleQueue[Mapping[str, Any]] = queue.SimpleQueue()

    def subscribe(self, client: Client) -> None:
        """Listen to what attempts tell."""

        def take(event: Sequence[Any]) -> None:
            self._events.put(event[1])
            self._wake()

        client.subscribe_topic(f"mops-jobs-{self._job_id}", take)

    def begin(self, key: str, position: int, task: Task) -> None:
        """Note an attempt that is sent."""
        self._attempts[key] = _Attempt(position, self._root / directory_name((task.param_id, task.seed)))

    def forget(self, key: str) -> None:
        """Forget an attempt."""
        self._attempts.pop(key, None)

    def started_at(self, key: str) -> float | None:
        """Return when an attempt began that uses checkpoints; None for another one."""
        return self._attempts[key].started_at

    def worker(self, key: str) -> str | None:
        """Return the Dask worker of an attempt that uses checkpoints; None for another one."""
        return self._attempts[key].worker

    def has_all(self, key: str) -> bool:
        """Return whether the last one of an attempt is here that it told of."""
        attempt = self._attempts[key]
        return attempt.told <= attempt.fetched

    def exchange(self, client: Client) -> None:
        """Bind attempts, send checkpoints that they wait for, fetch new ones, and tell attempts to stop."""
        self._take_events(client)
        for key, attempt in self._attempts.items():
            if attempt.worker is None:
                continue
            if attempt.binding is None or (attempt.binding.done() and not attempt.is_bound):
                attempt.binding = call_in_thread(self._bind, client, key)
                attempt.binding.add_done_callback(self._wake_after)
            if attempt.fetching is not None and attempt.fetching[-1].done():
                self._end_fetch(attempt)
            has_ended = attempt.gives_up_at is not None
            is_ready = self._is_described and (attempt.is_bound or has_ended)
            if is_ready and attempt.fetching is None and self._is_new(attempt):
                self._begin_fetch(client, key, attempt)
            if not attempt.is_told and (attempt.directory / STOP).exists():
                attempt.is_told = True
                call_in_thread(self.on_worker, client, attempt.worker, TELL, key=key)

    def _take_events(self, client: Client) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                event = self._events.get_nowait()
                key = event["key"]
                if "about" in event and not self._is_described:  # checkpoints are bound to it
                    self._is_described = True
                    self._send({"environment": event["about"]})
                attempt = self._attempts.get(key)
                if attempt is None:
                    continue
                if attempt.worker != event["worker"]:  # the first event, or Dask has begun it again before it was bound
                    attempt.worker, attempt.saved, attempt.pushing = event["worker"], None, None
                    with contextlib.suppress(OSError):
                        make_directory(attempt.directory)  # by it, the runner knows that the task can save
                attempt.started_at = event["started_at"]
                if "number" in event:
                    attempt.saved, attempt.told = event, event["number"]
                elif "want" in event and (attempt.pushing is None or attempt.pushing.done()):
                    attempt.pushing = call_in_thread(self._push, client, key, attempt.worker, attempt.directory / LAST)

    def _bind(self, client: Client, key: str) -> None:
        scheduler: Any = client.scheduler
        client.sync(scheduler.set_restrictions, worker={key: [NO_WORKER]})

    def find_lost(self, client: Client, wake_seconds: float) -> Generator[None, None, list[str]]:
        """Return the bound attempts whose Dask workers are gone."""
        keys = [key for key, attempt in self._attempts.items() if attempt.is_bound]
        if not keys:
            return []
        scheduler: Any = client.scheduler
        call: concurrent.futures.Future[Any] = call_in_thread(client.sync, scheduler.get_task_status, keys=keys)
        states: Mapping[str, str | None] = yield from wait_for(call, wake_seconds)
        return [key for key in keys if states[key] == LOST]

    def end(self, client: Client, keys: Iterable[str]) -> None:
        """End attempts, wherever they are."""
        call_in_thread(self.on_worker, client, None, END, keys=list(keys))

    # --- the last checkpoint of an attempt that has ended ----------------------------------------------------

    def fetch_last(self, key: str, saved: Mapping[str, Any]) -> None:
        """Fetch what an attempt told of its last checkpoint when it ended."""
        attempt = self._attempts[key]
        attempt.worker, attempt.started_at = saved["worker"], saved["started_at"]
        attempt.saved, attempt.told = saved, saved["number"]
        attempt.gives_up_at = time.monotonic() + FETCH_SECONDS
        with contextlib.suppress(OSError):
            make_directory(attempt.directory)

    def has_last(self, key: str) -> bool:
        """Return whether the last checkpoint of an attempt that has ended is here, or is not waited for any more."""
        attempt = self._attempts[key]
        is_late = attempt.gives_up_at is not None and time.monotonic() > attempt.gives_up_at
        return is_late or (attempt.fetching is None and not self._is_new(attempt))

    # --- files -----------------------------------------------------------------------------------------------

    @staticmethod
    def _is_new(attempt: _Attempt) -> bool:
        return attempt.saved is not None and attempt.fetched < attempt.saved["number"]

    def _begin_fetch(self, client: Client, key: str, attempt: _Attempt) -> None:
        saved = attempt.saved
        assert saved is not None  # noqa: S101 - it is new
        target = attempt.directory / f"fetched-{secrets.token_hex(4)}"
        attempt.fetching = saved, target, call_in_thread(self._fetch, client, key, saved, target)
        attempt.fetching[-1].add_done_callback(self._wake_after)

    def _wake_after(self, call: concurrent.futures.Future[Any]) -> None:
        if call.exception() is None and call.result() is not False:  # else it is tried again, not so soon
            self._wake()

    def _end_fetch(self, attempt: _Attempt) -> None:
        """Tell the runner of a checkpoint, if it was fetched. What an attempt has left that ended is tried once."""
        assert attempt.fetching is not None  # noqa: S101 - its caller has looked
        (saved, target, fetch), attempt.fetching = attempt.fetching, None
        at = str(saved["at"])
        if fetch.result() and is_name(at):
            attempt.fetched = saved["number"]
            self._send({"saved": [attempt.position, str(target / at), at, saved["started_at"]]})
        elif attempt.gives_up_at is not None and saved is attempt.saved:
            attempt.saved = None

    def _fetch(self, client: Client, key: str, saved: Mapping[str, Any], target: Path) -> bool:
        """Fetch a checkpoint of an attempt in pieces. Return whether it is there, in a directory of its own."""
        path = target.with_suffix(".tar")
        try:
            make_directory(target)
            with open(path, "wb", opener=private_opener) as file:
                while file.tell() < saved["size"]:
                    where = {"path": saved["path"], "offset": file.tell(), "size": PIECE_BYTES}
                    piece = self.on_worker(client, saved["worker"], READ, key=key, **where)
                    if not piece:  # there is a later one, or the worker is gone
                        return False
                    file.write(piece)
                    attempt = self._attempts.get(key)
                    if attempt is not None and attempt.gives_up_at is not None:
                        attempt.gives_up_at = time.monotonic() + FETCH_SECONDS
            with tarfile.open(path, encoding="utf-8") as tar:
                tar.extractall(target, filter="data")
        except (OSError, tarfile.TarError):
            return False
        finally:
            path.unlink(missing_ok=True)
            if key not in self._attempts:  # it has ended meanwhile, and its directory may have been removed
                shutil.rmtree(target, ignore_errors=True)
                with contextlib.suppress(OSError):
                    target.parent.rmdir()
        return True

    def _push(self, client: Client, key: str, worker: str, last: Path) -> None:
        """Send the checkpoint that an attempt goes on from, in pieces. If that fails, it asks again."""
        path = last.with_suffix(f".{secrets.token_hex(4)}.tar")
        with contextlib.suppress(OSError):
            with tarfile.open(path, "w", encoding="utf-8") as tar:
                for entry in last.iterdir():
                    tar.add(entry, entry.name)
            size = path.stat().st_size
            self.on_worker(client, worker, PUT, key=key, data=b"", is_last=False)
            with open(path, "rb") as file:
                while piece := file.read(PIECE_BYTES):
                    self.on_worker(client, worker, PUT, key=key, data=piece, is_last=file.tell() == size)
        with contextlib.suppress(OSError):
            path.unlink()

    def on_worker(self, client: Client, worker: str | None, text: str, **names: object) -> Any:
        """Return what an expression gives on a Dask worker, or on all; None if it is gone, or if it fails.

        It may wait long for a worker that is about to end. So it runs in a thread of its own.
        """
        workers = None if worker is None else [worker]
        try:
            answers = client.run(
                eval, text, {"code": self._code, "job_id": self._job_id, **names}, workers=workers, on_error="ignore"
            )
        except (Exception, asyncio.CancelledError):  # noqa: BLE001 - the scheduler is gone, which others tell
            return None
        return (answers or {}).get(worker)


def call_in_thread(call: Callable[..., T], *args: object, **named: object) -> concurrent.futures.Future[T]:
    """Make a call in a thread: the library waits for ever for a scheduler that is silent."""
    pending: concurrent.futures.Future[T] = concurrent.futures.Future()

    def work() -> None:
        try:
            pending.set_result(call(*args, **named))
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            pending.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return pending


def wait_for(pending: concurrent.futures.Future[T], wake_seconds: float) -> Generator[None, None, T]:
    """Wait for a call, and yield None every `wake_seconds`."""
    while not concurrent.futures.wait([pending], wake_seconds).done:
        yield None
    return pending.result()
