"""The checkpoints of the tasks of one run: found where models leave them, kept on this disk, and sent to the store.

A task that uses them has a directory on this machine. `last/` has what it goes on from, `new/` is where its model moves
new ones, and `stop` appears when it is to save and end. The runner writes a header, and then moves the checkpoint
beside it, to `.kept/<number>/content`. Before the move there is none. The next runner finds what a killed one has left.

A local store gets none, since this disk has them. See docs/decisions/0123-checkpoints.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import filecmp
import logging
import os
import secrets
import shutil
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from mopsjobs.engines.job_dir import JobDir
from mopsjobs.errors import RecordError, StoreError, StoreUnavailableError, shorten
from mopsjobs.ledger.attempt import Resumed
from mopsjobs.store.base import VersionedStore
from mopsjobs.studies.checkpoints import (
    KEPT,
    Saved,
    is_name,
    list_numbers,
    load_checkpoint,
    parse_saved,
    read_saved,
    remove_checkpoints,
    store_checkpoint,
)
from mopsjobs.studies.study import Task
from mopsjobs.utils.background import BackgroundWriter
from mopsjobs.utils.files import make_directory, replace_file
from mopsjobs.utils.text import pluralize

log = logging.getLogger(__name__)

EXIT_CODE = 85
"""Of a program that has saved and asks to be started again: that of HTCondor's `checkpoint_exit_code`."""

EXIT_VARIABLE, EVERY_VARIABLE = "MOPS_JOBS_CHECKPOINT_EXIT", "MOPS_JOBS_CHECKPOINT_EVERY"
"""Variables of a model: the exit code, and the seconds between two checkpoints."""

LOOK_SECONDS = 0.5
"""How often new checkpoints are looked for."""

BEGIN_SECONDS = 0.2
"""How long the results of other tasks wait for what a task begins with. After that, others begin before it."""

MAX_BEGINNING = 4
"""Tasks whose checkpoints are brought into place at once: more would share the network."""

MAX_TOLD = 50
"""Lines about checkpoints in one run: all tasks may have some of other code."""

FIRST_PAUSE = 2.0
"""Seconds before the second attempt at a store that does not answer."""

FETCH_PAUSE = 5.0
"""Seconds between two attempts at a checkpoint, if the store does not answer."""

KEPT_HERE, LAST, NEW, STOP = ".kept", "last", "new", "stop"

HEADER, CONTENT = "header.json", "content"

TaskKey = tuple[str, int]
"""Parameter set and seed."""


def directory_name(task: TaskKey) -> str:
    """Return the name of the directory of a task. engines/worker.py makes it in the same way."""
    return f"{task[0][:16]}-{task[1]}"


class Origin(NamedTuple):
    """A job whose tasks may have left checkpoints on this machine: the one that runs, or an ancestor of it."""

    job_id: str
    bundle: str
    """The digest of its code; empty if it is not known."""
    root: Path
    """The directory for its checkpoints. It is made by the first task that uses one."""
    packages: str | None
    """The digest of the interpreter and the packages of its last run here; None if they are not known."""


def origin_of(job_id: str, bundle: str, directory: JobDir) -> Origin:
    """Return a job of a family.

    Args:
        job_id: the job.
        bundle: the digest of its code.
        directory: that of the job on this machine.
    """
    packages = None
    with contextlib.suppress(OSError, UnicodeDecodeError):
        packages = directory.packages.read_text("ascii")[:64]
    return Origin(job_id, bundle, directory.checkpoints, packages)


class _Place(NamedTuple):
    """A checkpoint that a task can go on from, and where it is."""

    number: int
    root: Path | None
    """The directory of the checkpoints of its job, on this disk; None: it is in the store."""
    job_id: str


@dataclasses.dataclass
class _State:
    """The checkpoints of a task, as this run knows them."""

    number: int = 0
    """The highest that any of them has."""
    seconds: float = 0.0
    """How long the task had worked at the last one."""
    resumed: Resumed | None = None
    """What the attempt goes on from that began last."""
    has_new: bool = False
    """Whether that attempt has left one."""
    is_known: bool = False
    """Whether what earlier runs left was looked at."""


@dataclasses.dataclass(eq=False)
class Checkpoints:
    """The checkpoints of one run of a shard. One thread calls it; `remove` any.

    Args:
        _origins: the job, its parent, and so on; more than once if several of its shards have run here.
        _store: where they go; None: they stay on this disk.
        _packages: returns the digest of the interpreter and its packages in this run; it may wait a moment.
        _on_log: called with one line about each checkpoint that is not used, or that is of other code.
        _allows_old: whether tasks may go on from checkpoints of other code.
        _clock: a monotonic clock in seconds.
        patiently: calls a function, again while the store does not answer.
    """

    _origins: Sequence[Origin]
    _store: VersionedStore | None
    _packages: Callable[[], str | None]
    _on_log: Callable[[str], None] = lambda _line: None
    _allows_old: bool = False
    _clock: Callable[[], float] = time.monotonic
    patiently: Callable[[Callable[[], object]], object] = lambda find: find()

    def __post_init__(self) -> None:
        self._job_id, self._bundle, self.root, _ = self._origins[0]
        self._root = str(self.root)
        self._look_at = 0.0
        self._states: dict[str, _State] = {}
        self._stored: Mapping[str, Sequence[_Place]] = {}
        """Those that the store had when it was looked at last, by the directories of their tasks."""
        self._ended: deque[TaskKey] = deque()
        """Tasks whose checkpoints are to be removed."""
        self._lock = threading.Lock()
        """Held while directories of checkpoints are moved or removed."""
        self._waiting: dict[TaskKey, bool] = {}
        """Tasks of which the last checkpoint is to be sent; if True, all are to be removed."""
        self._writer: BackgroundWriter[tuple[TaskKey, bool]] = BackgroundWriter(
            f"checkpoints of {self._job_id}",
            self._take_waiting,
            self._write,
            "Checkpoints are kept here until it answers.",
            first_pause=FIRST_PAUSE,
        )
        self._told: set[str] = set()
        self._beginning: dict[TaskKey, threading.Thread] = {}
        """Attempts whose directories are prepared."""
        self._closes = threading.Event()
        self._sending: Path | None = None
        """The directory of the checkpoint that is being sent: it is not removed for a later one."""
        self._find()
        if self._store is not None:
            self._writer.start()

    def _find(self) -> None:
        """Find the tasks that have checkpoints of earlier runs."""
        for origin in self._origins:
            with contextlib.suppress(OSError):
                self._states |= {name: _State() for name in os.listdir(origin.root)}
        try:
            self.patiently(self.find_stored)
        except StoreError as error:
            self._on_log(f"Which checkpoints the store has is not known, so none of them is used: {error}")

    def find_stored(self, *, is_used: bool = False) -> None:
        """Find those in the store, once more before tasks begin here that another shard has begun. Any thread may.

        Args:
            is_used: only if a task here has used checkpoints. Models without them then cost no request.

        Raises:
            StoreError: if they cannot be listed.
        """
        if self._store is None or (is_used and not self._states):
            return
        stored: dict[str, list[_Place]] = {}
        for job_id in dict.fromkeys(origin.job_id for origin in self._origins):
            for param_id, seed, number in list_numbers(self._store, job_id):
                name = directory_name((param_id, seed))
                self._states.setdefault(name, _State())
                stored.setdefault(name, []).append(_Place(number, None, job_id))
        self._stored = stored

    @property
    def has_any(self) -> bool:
        """Return whether any task has had a checkpoint, in this run or an earlier one."""
        return bool(self._states)

    # --- an attempt ------------------------------------------------------------------------------------------

    def prepare(self, task: Task, *, may_have: bool) -> Resumed | Literal[False] | None:
        """Prepare the directory of a task for its next attempt. Return what it goes on from.

        False: it takes longer, or others are prepared now, so call it again. None: it begins at the start.

        Args:
            task: the task.
            may_have: whether an earlier attempt of this run may have left a directory. Else nothing looks for it.
        """
        if not (self._states or may_have):
            return None  # as of most models
        key = task.param_id, task.seed
        thread = self._beginning.get(key)
        if thread is None:
            name = directory_name(key)
            if name not in self._states and not (may_have and (self.root / name).is_dir()):
                return None
            if sum(begun.is_alive() for begun in self._beginning.values()) >= MAX_BEGINNING:
                return False
            state = self._states.setdefault(name, _State())
            thread = threading.Thread(target=self._begin, args=(key, name, state), name="checkpoint", daemon=True)
            self._beginning[key] = thread
            thread.start()
            thread.join(BEGIN_SECONDS)
        if thread.is_alive():
            return False
        del self._beginning[key]
        return self._states[directory_name(key)].resumed

    def _begin(self, key: TaskKey, name: str, state: _State) -> None:
        path = self.root / name
        state.resumed, state.has_new = None, False
        try:
            if not state.is_known:
                state.is_known = True
                for origin in self._origins:  # what a killed run has left
                    self._take(origin.root / name, origin, state, None)
            make_directory(path)
            for entry in os.listdir(path):
                if entry != KEPT_HERE:
                    _remove(path / entry)
            for place in self._places(key, name, state):
                if (saved := self._fetch_in_time(place, key, path)) is not None:
                    (path / LAST).mkdir(0o700)
                    _copy(path / KEPT_HERE / _number(saved.number) / CONTENT, path / LAST / saved.at)
                    state.resumed = Resumed(saved.number, saved.at, saved.seconds)
                    state.seconds = saved.seconds
                    break
            (path / NEW).mkdir(0o700)
        except OSError as error:
            state.resumed = None
            _remove(path / LAST)
            self._on_log(f"The checkpoint of a task cannot be used: {error}")
        state.has_new = False

    def _places(self, key: TaskKey, name: str, state: _State) -> list[_Place]:
        """Return where checkpoints of a task are, the best first: the newest, and of equal ones that on this disk."""
        places = [
            _Place(number, origin.root, origin.job_id)
            for origin in self._origins
            for number in _numbers(origin.root / name)
        ]
        places += self._stored.get(name, ())
        state.number = max([state.number, *(place.number for place in places)])
        return sorted(places, key=lambda place: (-place.number, place.root is None))

    def _fetch_in_time(self, place: _Place, key: TaskKey, path: Path) -> Saved | None:
        """Return what `_fetch` does. It waits for the end of an outage: that is shorter than what the task has done."""
        while not self._closes.is_set():
            try:
                return self._fetch(place, key, path)
            except StoreUnavailableError as error:
                self._tell_once(f"Tasks wait for their checkpoints: {error}")
                self._closes.wait(FETCH_PAUSE)
        return None

    def _fetch(self, place: _Place, key: TaskKey, path: Path) -> Saved | None:
        """Return a checkpoint that is now in the directory of its task; None if it cannot be used.

        Raises:
            StoreUnavailableError: if the store does not answer.
        """
        target = path / KEPT_HERE / _number(place.number)
        name = f"checkpoint {place.number} of parameter set {key[0][:12]}, seed {key[1]}"
        source = None if place.root is None else place.root / path.name / KEPT_HERE / target.name
        try:
            saved = self._read_header(place, key, source)
            if saved is None:
                return None
            if not saved.is_of(self._bundle, self._packages()):
                if not self._allows_old:
                    self._tell_once(f"Not used: {name} is of other code or packages. --allow-old-checkpoints uses it.")
                    return None
                self._tell_once(f"Used: {name}, of other code or packages.")
            if source is not None and _size_of(source / CONTENT) != saved.size:  # a power cut
                raise RecordError("it is incomplete")
            if place.root == self.root:
                return saved
            part = target.with_suffix(".part")
            _remove(part)
            make_directory(part)
            if source is None:
                assert self._store is not None  # noqa: S101
                load_checkpoint(self._store, place.job_id, *key, saved, part / CONTENT)
                os.rename(part / CONTENT / saved.at, part / "whole")
                os.rmdir(part / CONTENT)
                os.rename(part / "whole", part / CONTENT)
                if _size_of(part / CONTENT) != saved.size:
                    raise RecordError("it is incomplete")
            else:
                _copy(source / CONTENT, part / CONTENT)
            replace_file(str(part / HEADER), saved.encode())
            _remove(target)
            os.rename(part, target)
        except StoreUnavailableError:
            raise
        except (RecordError, StoreError, OSError) as error:
            self._tell_once(f"Not used: {name}: {error}")
            return None
        return saved

    def _read_header(self, place: _Place, key: TaskKey, source: Path | None) -> Saved | None:
        if source is None:
            assert self._store is not None  # noqa: S101 - it was listed there
            saved = read_saved(self._store, place.job_id, *key, place.number)
        else:
            saved = parse_saved((source / HEADER).read_bytes())
        if saved is not None and saved.number != place.number:
            raise RecordError("its header is that of another one")
        return saved

    def look(self, at_work: Iterable[tuple[Task, float | None]]) -> None:
        """Take the new checkpoints of tasks that run, a few times per second at most.

        Args:
            at_work: the tasks, and when their attempts began, in seconds since the epoch.
        """
        if self._clock() < self._look_at:
            return
        self._look_at = self._clock() + LOOK_SECONDS
        self._remove_ended()
        for task, started_at in at_work:
            self.end(task, started_at)

    def end(self, task: Task, started_at: float | None) -> bool:
        """Take the new checkpoint of an attempt, if there is one. Return whether the attempt has left any."""
        name = directory_name((task.param_id, task.seed))
        try:
            if os.path.lexists(self.root / name / NEW):
                here = self._origins[0]._replace(packages=self._packages())
                state = self._states.setdefault(name, _State(is_known=True))
                if self._take(self.root / name, here, state, started_at):
                    self._wait_for((task.param_id, task.seed), is_removal=False)
        except OSError as error:  # the disk is full, for example
            self._tell_once(f"A checkpoint is not kept: {error.strerror}.")
        return name in self._states and self._states[name].has_new

    def has_come_on(self, task: Task) -> bool:
        """Return whether the last attempt has left a checkpoint with other content than the one that it began from.

        A program that saves what it began from, and asks to be started again, would do so for ever.
        """
        name = directory_name((task.param_id, task.seed))
        state = self._states.get(name)
        if state is None or state.resumed is None or not state.has_new:
            return state is not None and state.has_new
        path = self.root / name
        began_from = path / KEPT_HERE / _number(state.resumed.number) / CONTENT
        if not began_from.exists():  # it has left two since
            began_from = path / LAST / state.resumed.at
        return not _is_equal(path / KEPT_HERE / _number(state.number) / CONTENT, began_from)

    def _take(self, path: Path, origin: Origin, state: _State, started_at: float | None) -> bool:
        """Move the last checkpoint that a task has left to those that are kept. Return whether there was one."""
        made_ns, at, size = self._find_new(path / NEW)
        if not at:
            return False
        numbers = _numbers(path)
        # One that a killed run has left follows on those here: another machine may have gone on meanwhile.
        number = 1 + (max(numbers, default=0) if started_at is None else max([state.number, *numbers]))
        if started_at is not None:
            before = 0.0 if state.resumed is None else state.resumed.seconds
            state.seconds = max(state.seconds, before + made_ns / 1e9 - started_at)
        elif numbers:
            with contextlib.suppress(OSError, RecordError):
                state.seconds = parse_saved((path / KEPT_HERE / _number(numbers[-1]) / HEADER).read_bytes()).seconds
        run = secrets.token_hex(8)
        saved = Saved(number, at, origin.bundle, origin.packages, round(state.seconds, 3), size, run)
        state.number = max(state.number, number)
        with self._lock:
            target = path / KEPT_HERE / _number(saved.number)
            make_directory(target)
            replace_file(str(target / HEADER), saved.encode())
            try:
                os.rename(path / NEW / at, target / CONTENT)
            except FileNotFoundError:  # the model replaces it: the next look finds that one
                _remove(target)
                return False
            for number in _numbers(path)[:-KEPT]:
                if (older := path / KEPT_HERE / _number(number)) != self._sending:
                    _remove(older)
        state.has_new = True
        return True

    def _find_new(self, path: Path) -> tuple[int, str, int]:
        """Return when the last one was made that a task has left, its name and its size; remove the others.

        The name is empty if there is none.
        """
        found = []
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(path) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # the model has replaced it
                    made_ns = entry.stat(follow_symlinks=False).st_ctime_ns  # by the last tick of the clock
                    if not entry.name.startswith("."):
                        found.append((made_ns, len(entry.name), entry.name))
        found.sort()
        last = 0, "", 0
        for made_ns, _, name in reversed(found):
            if last[1]:
                _discard(path / name)  # before anything is written: the disk may be full
                continue
            try:
                if not is_name(name):
                    raise RecordError("invalid name")
                last = made_ns, name, _size_of(path / name)
            except FileNotFoundError:
                continue
            except RecordError as error:
                self._tell_once(f"Not kept: checkpoint {shorten(repr(name), 60)}: {error}.")
                _discard(path / name)
        return last

    def _tell_once(self, text: str) -> None:
        with self._lock:
            is_new = text not in self._told and len(self._told) < MAX_TOLD
            self._told.add(text)
        if is_new:
            self._on_log(text)

    # --- the end of tasks ------------------------------------------------------------------------------------

    def tell_to_stop(self, tasks: Iterable[Task]) -> list[Task]:
        """Tell tasks to save and end. Return those that use checkpoints: the others are not told."""
        told = []
        for task in tasks:
            with contextlib.suppress(OSError):  # it has no directory
                os.close(os.open(self.root / directory_name((task.param_id, task.seed)) / STOP, os.O_CREAT, 0o600))
                told.append(task)
        return told

    def last(self, task: Task) -> Saved | None:
        """Return the last checkpoint of a task that this disk has."""
        path = self.root / directory_name((task.param_id, task.seed))
        numbers = _numbers(path)
        return parse_saved((path / KEPT_HERE / _number(numbers[-1]) / HEADER).read_bytes()) if numbers else None

    def remove(self, task: Task) -> None:
        """Remove all checkpoints of a task, whose outputs are stored. If no task has any so far, the next look does."""
        self._ended.append((task.param_id, task.seed))
        if self._states:
            self._remove_ended()

    def _remove_ended(self) -> None:
        """Remove the checkpoints of tasks that have ended. Most models make no directory, and cost one look here."""
        ended: list[TaskKey] = []
        with contextlib.suppress(IndexError):  # there is no more
            while True:
                ended.append(self._ended.popleft())
        if not ended or not os.path.isdir(self._root):
            return
        for key in ended:
            name = directory_name(key)
            if os.path.isdir(f"{self._root}/{name}"):
                with self._lock:
                    for origin in self._origins:
                        shutil.rmtree(origin.root / name, ignore_errors=True)
                self._wait_for(key, is_removal=True)

    def close(
        self, seconds: float, longest: float | None = None, is_stopping: Callable[[], bool] = lambda: False
    ) -> None:
        """Send what waits, and tell what the store has not taken. Closing twice is harmless.

        Args:
            seconds: how long to send, at most.
            longest: the same while the store takes it, only slowly; None: no longer.
            is_stopping: see `BackgroundWriter.close`.
        """
        self._closes.set()
        self._remove_ended()
        if self._store is not None and self._writer.is_closing is False:
            self._writer.close(seconds, longest, is_stopping)
            with self._writer.changed:
                unsent = [*self._waiting.values(), *(one[1] for one in [self._writer.current] if one)].count(False)
            if unsent:
                self._on_log(
                    f"The store has not taken the checkpoints of {pluralize(unsent, 'task')}; they are here alone."
                )
        for origin in self._origins:
            with contextlib.suppress(OSError):  # it is not empty
                origin.root.rmdir()

    # --- the store -------------------------------------------------------------------------------------------

    def _wait_for(self, key: TaskKey, *, is_removal: bool) -> None:
        if self._store is not None:
            with self._writer.changed:
                self._waiting[key] = is_removal
                self._writer.changed.notify()

    def _take_waiting(self) -> tuple[tuple[TaskKey, bool] | None, float | None]:
        if not self._waiting:
            return None, None
        key = next(iter(self._waiting))
        return (key, self._waiting.pop(key)), None

    def _write(self, item: tuple[TaskKey, bool]) -> None:
        """Send the last checkpoint of a task, or remove all.

        Raises:
            StoreUnavailableError: if the store does not answer.
        """
        assert self._store is not None  # noqa: S101 - else nothing waits
        key, is_removal = item
        try:
            if is_removal:
                for job_id in {self._job_id, *(place.job_id for place in self._stored.get(directory_name(key), ()))}:
                    remove_checkpoints(self._store, job_id, *key)
            else:
                self._send_last(self._store, key)
        except StoreUnavailableError:
            raise
        except StoreError as error:
            log.warning("A checkpoint is on this machine alone: %s", error)

    def _send_last(self, store: VersionedStore, key: TaskKey) -> None:
        path = self.root / directory_name(key)
        with self._lock:
            numbers = _numbers(path)
            self._sending = path / KEPT_HERE / _number(numbers[-1]) if numbers else None
        if self._sending is None:
            return
        try:
            saved = parse_saved((self._sending / HEADER).read_bytes())
            store_checkpoint(store, self._job_id, *key, saved, self._sending / CONTENT)
        except (OSError, RecordError):  # the task has ended, and they were removed
            return
        finally:
            self._sending = None
        remove_checkpoints(store, self._job_id, *key, before=saved.number - KEPT + 1)


def _number(number: int) -> str:
    return f"{number:06d}"


def _numbers(path: Path) -> list[int]:
    """Return the numbers of the whole checkpoints in the directory of a task, in their order."""
    try:
        names = os.listdir(path / KEPT_HERE)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(name) for name in names if name.isdigit() and (path / KEPT_HERE / name / CONTENT).exists())


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy2(source, target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _discard(path: Path) -> None:
    """Remove what a task has left in `new/`: by a move, so that a runner that is killed leaves no half of it there."""
    away = path.parent.with_name("away")
    _remove(away)
    with contextlib.suppress(FileNotFoundError):  # the model has done so
        os.rename(path, away)
    _remove(away)


def _is_equal(left: Path, right: Path) -> bool:
    """Return whether two checkpoints have the same files with the same bytes."""
    if not left.is_dir() or not right.is_dir():
        return left.is_file() and right.is_file() and filecmp.cmp(left, right, shallow=False)
    names = os.listdir(left)
    return set(names) == set(os.listdir(right)) and all(_is_equal(left / name, right / name) for name in names)


def _size_of(path: Path) -> int:
    """Return the bytes of the files.

    Raises:
        RecordError: if there is something else. Of links, only those to files inside are copied with it.
    """
    size, left = 0, [str(path)]
    while left:
        name = left.pop()
        mode = os.lstat(name).st_mode
        if stat.S_ISDIR(mode):
            left += (os.path.join(name, entry) for entry in os.listdir(name))
            continue
        if stat.S_ISLNK(mode) and not os.path.isabs(os.readlink(name)) and os.path.isfile(name):
            is_inside = Path(os.path.realpath(name)).is_relative_to(os.path.realpath(path.parent) + f"/{path.name}/")
        else:
            is_inside = stat.S_ISREG(mode)
        if not is_inside:
            raise RecordError("expected files, directories and relative links to files in it")
        size += os.stat(name).st_size
    return size
