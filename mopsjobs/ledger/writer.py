"""Write the ledger of a shard: attempts into the journal at once, and chunks into the store, by a thread of its own.

No job waits for the ledger, or fails because of it. See docs/decisions/0044-the-ledger.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import math
import os
import re
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mopsjobs.errors import VALUE_ERRORS, StoreUnavailableError
from mopsjobs.ledger.attempt import Attempt, AttemptError, Outcome, Resumed
from mopsjobs.ledger.format import MAX_CHUNK_ATTEMPTS, FilesOpened, chunk_key, encode_attempts
from mopsjobs.ledger.scalars import Scalars, encode_scalars
from mopsjobs.registry.job_id import check_job_id
from mopsjobs.store.base import VersionedStore
from mopsjobs.utils.background import BackgroundWriter
from mopsjobs.utils.files import make_directory, private_opener

MAX_FILE_BYTES = 64 * 1024 * 1024
"""Of a file that is read."""

_NAME = re.compile(r"(?P<run>[0-9a-f]{1,32})-(?P<number>\d{6,12})\.jsonl", re.ASCII)

_encode = json.JSONEncoder(separators=(",", ":")).encode


class Entry(NamedTuple):
    """An attempt in the journal, with the scalars of its outputs."""

    attempt: Attempt
    scalars: Scalars | None = None
    """None if its outputs were not searched for scalars, or have too many for a chunk."""

    @property
    def identity(self) -> tuple[int, int]:
        """Return the number of its task and of the try: what identifies an attempt of a run."""
        return self.attempt.task, self.attempt.attempt


class JournalFile:
    """The file of one chunk. It is created with its first line.

    The journal of a shard has a file for the attempts of each chunk, `<run>-<number>.jsonl`. A line is a JSON list of
    attempts that were written together, each a list in the order of the fields of `Attempt`. A later attempt replaces
    an equal one before it. An attempt that begins is written as `lost`, and stays lost if no end follows. A task's
    end is written before its outputs are sent.

    A killed runner leaves its files. The next run of the shard reads them and sends their chunks under their own keys.
    The system keeps lines that were written, unless it crashes itself: nothing is synced to disk, since that takes as
    long as many tasks.
    """

    def __init__(self, path: Path) -> None:
        """Name the file. Nothing is written yet."""
        self.path = path
        self._file: int | None = None

    def append(self, entries: Iterable[Entry], *, begins_line: bool = False) -> None:
        """Write these attempts at once, as one line.

        Args:
            entries: the attempts.
            begins_line: whether the last line of the file may be incomplete.

        Raises:
            OSError: if the disk is full, or the directory cannot be written. The last line may then be incomplete.
        """
        text = _encode([[*attempt, scalars] for attempt, scalars in entries])
        line = b"\n" * begins_line + text.encode("ascii") + b"\n"
        if self._file is None:
            make_directory(self.path.parent)
            self._file = private_opener(str(self.path), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        if os.write(self._file, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Close the file; `append` opens it again. Closing twice is harmless."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def remove(self) -> None:
        """Remove the file, if it exists and can be removed."""
        with contextlib.suppress(OSError):
            self.close()
            self.path.unlink(missing_ok=True)


def journal_path(directory: Path, run: str, number: int) -> Path:
    """Return the file of a chunk."""
    return directory / f"{run}-{number:06d}.jsonl"


def _find_files(directory: Path, own_run: str) -> Mapping[str, list[tuple[int, Path]]]:
    """Return number and path of the files that each killed run left. Those of the run that calls are left out."""
    files: defaultdict[str, list[tuple[int, Path]]] = defaultdict(list)
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            if (match := _NAME.fullmatch(path.name)) is not None and match["run"] != own_run:
                files[match["run"]].append((int(match["number"]), path))
    return files


def _settle_left(paths: Iterable[Path], is_complete: Callable[[int], bool]) -> None:
    """Note in the files that killed runs left which outputs did not get into the store: those attempts are `lost`.

    Once other attempts at the tasks have begun, outputs in the store may be of those.

    Raises:
        OSError: if a file cannot be written.
    """
    for path in paths:
        lost = [
            Entry(entry.attempt._replace(outcome=Outcome.LOST, output_bytes=None))
            for entry in _read_file(path).values()
            if entry.attempt.outcome is Outcome.SUCCEEDED and not is_complete(entry.attempt.task)
        ]
        if lost:
            file = JournalFile(path)
            file.append(lost, begins_line=True)
            file.close()


def _read_left(files: Mapping[str, list[tuple[int, Path]]], judge: Callable[[Attempt], Attempt]) -> Iterator[_Chunk]:
    """Yield the chunks that killed runs left. Lines that cannot be read are left out.

    An attempt whose end was not seen is `lost`.
    """
    for run in sorted(files):
        # The last file comes first: an attempt that began in one file and ended in a later one is in both.
        later: set[tuple[int, int]] = set()
        for number, path in sorted(files[run], reverse=True):
            entries = _read_file(path)
            own = {
                identity: entry._replace(attempt=judge(entry.attempt))
                for identity, entry in entries.items()
                if identity not in later
            }
            yield _Chunk(run, number, JournalFile(path), own)
            later |= entries.keys()


def _read_file(path: Path) -> dict[tuple[int, int], Entry]:
    entries: dict[tuple[int, int], Entry] = {}
    try:
        with open(path, "rb") as file:
            lines = file.read(MAX_FILE_BYTES).split(b"\n")
    except OSError as error:
        log.info("%s cannot be read: %s", path, error)
        return {}
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            for fields in json.loads(line):
                entry = _parse(fields)
                entries.pop(entry.identity, None)  # so that the order is that of the ends
                entries[entry.identity] = entry
    return entries


def _parse(fields: list[Any]) -> Entry:
    """Return the entry of a list.

    Raises:
        ValueError, TypeError: if it is not one.
    """
    *values, error, output_bytes, resumed, scalars = fields
    task, attempt, outcome, *measured = values
    if not (type(task) is int and type(attempt) is int and task >= 0 and attempt >= 1):
        raise ValueError("invalid attempt")
    reason = None if error is None else AttemptError(*error)
    whence = None if resumed is None else Resumed(*resumed)
    found = Attempt._make([task, attempt, Outcome(outcome), *measured, reason, output_bytes, whence])
    return Entry(found, scalars if isinstance(scalars, dict) else None)


log = logging.getLogger(__name__)

CHUNK_SECONDS = 5.0
"""How long an attempt waits for others in its chunk, at least."""

CHUNK_SHARE = 0.01
"""The same as a share of the time of the run: a run of a day writes some hundred chunks, not 17,000."""

FIRST_PAUSE = 2.0
MAX_PAUSE = 30.0
"""Seconds between two attempts to write a chunk; growing, with jitter."""

CLOSE_SECONDS = 3.0


@dataclasses.dataclass(eq=False)
class _Chunk:
    """The attempts of one chunk, of this run or of a killed one."""

    run: str
    number: int
    file: JournalFile
    entries: dict[tuple[int, int], Entry] = dataclasses.field(default_factory=dict)
    unwritten: list[Entry] = dataclasses.field(default_factory=list)
    """Those that are not in the file yet."""
    sent: int = 0
    """Attempts whose outputs were on their way when they were added."""
    settled: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    """Those of them whose outputs have arrived. Threads append without a lock."""
    is_cut: bool = False
    first_at: float = 0.0
    """When its first attempt ended, by the clock of the ledger."""

    @property
    def is_settled(self) -> bool:
        """Return True if no output of its attempts is on its way."""
        return len(self.settled) == self.sent


class Ticket(NamedTuple):
    """An attempt whose outputs are on their way."""

    chunk: _Chunk
    identity: tuple[int, int]


def begun_attempt(
    task: int, attempt: int, started_at: float, host: str | None, resumed: Resumed | None = None
) -> Attempt:
    """Return an attempt that runs now. It is lost, if its end is not seen."""
    return Attempt(task, attempt, Outcome.LOST, started_at, None, None, None, None, host, None, None, None, resumed)


@dataclasses.dataclass(eq=False)
class Ledger:
    """The ledger of one run of a shard. Thread-safe, except for `close`.

    Args:
        _store: where the chunks go.
        _outbox: where they are kept at the end of the run, if the store does not answer. They are delivered with the
            outputs in it.
        _job_id: the job.
        _shard: the number of the shard.
        _directory: where the journal is, for this shard alone.
        clock: a monotonic clock in seconds.
        new_run: draws the id of this run.
        on_cut: called when a chunk takes no more attempts, with the lock. The chunk waits for the outputs of these.
    """

    _store: VersionedStore
    _outbox: VersionedStore
    _job_id: str
    _shard: int
    _directory: Path
    clock: Callable[[], float] = time.monotonic
    new_run: Callable[[], str] = lambda: secrets.token_hex(8)
    on_cut: Callable[[], object] = lambda: None

    def __post_init__(self) -> None:
        check_job_id(self._job_id)
        self._started = self.clock()
        self.run_id = self.new_run()
        """Tells this run of the shard from others."""
        self.files_opened: Callable[[], FilesOpened] = lambda: None
        """Returns the files of the bundle that the tasks of this run have opened so far."""
        self.most_seconds = math.inf
        """How long an attempt waits for others in its chunk, at most."""
        self._number = 0
        self._chunk: _Chunk | None = None
        """The chunk that takes attempts now."""
        self._waiting: list[_Chunk] = []
        """Chunks that take no more attempts."""
        self._open: dict[tuple[int, int], tuple[Entry, float]] = {}
        """Attempts that run now, and since when, by the clock."""
        self._left: Iterator[_Chunk] = iter(())
        self._journal_fails = False
        self._writer: BackgroundWriter[_Chunk] = BackgroundWriter(
            f"ledger of {self._job_id}",
            self._take_chunk,
            self._send,
            "The ledger waits until the store answers.",
            first_pause=FIRST_PAUSE,
            max_pause=MAX_PAUSE,
        )
        self._changed = self._writer.changed
        self._writer.start()

    def send_left(
        self, is_complete: Callable[[int], bool], judge: Callable[[Attempt], Attempt] = lambda attempt: attempt
    ) -> None:
        """Send the chunks that killed runs of the shard left.

        It is called before the first attempt begins. If the store does not answer then, it is called before `close`.

        Args:
            is_complete: returns whether the outputs of a task, by its number, are in the store or in the outbox.
            judge: returns an attempt with what is known besides of its end.
        """
        with self._changed:
            files = _find_files(self._directory, self.run_id)
            try:
                _settle_left((path for of_run in files.values() for _, path in of_run), is_complete)
            except OSError as error:
                self._note_failure(error)
                return
            self._left = _read_left(files, judge)
            self._changed.notify()

    def begin(self, attempts: Iterable[Attempt]) -> None:
        """Note which attempts run now, so that a killed runner leaves a trace of them; see `begun_attempt`.

        It writes a line per new attempt. The caller does that a few times per second, so that trivial tasks do not pay
        for it.
        """
        now = self.clock()
        with self._changed:
            new = [entry for entry in map(Entry, attempts) if entry.identity not in self._open]
            if new:
                self._open.update((entry.identity, (entry, now)) for entry in new)
                self._write(self._current(), new)

    def add(self, attempt: Attempt, scalars: Scalars | None = None, *, is_settled: bool) -> Ticket:
        """Add an attempt that has ended.

        Args:
            attempt: the attempt.
            scalars: those of its outputs; None if they go into no chunk.
            is_settled: False if its outputs are still to be sent. `write` then comes before that, and `settle` or
                `refuse` tells the end of it.
        """
        entry = Entry(attempt, scalars)
        identity = entry.identity
        with self._changed:
            chunk = self._current()
            chunk.unwritten.append(entry)
            if is_settled:
                self._write(chunk)
            self._open.pop(identity, None)
            if not chunk.entries:
                chunk.first_at = self.clock()
                self._changed.notify()
            chunk.entries[identity] = entry
            chunk.sent += not is_settled
            if len(chunk.entries) >= MAX_CHUNK_ATTEMPTS:
                self._cut()
        return Ticket(chunk, identity)

    def write(self, ticket: Ticket) -> None:
        """Write an attempt into the journal, with all that wait for that.

        Threads call it that send outputs. While they are busy, attempts gather, and one write is enough for them.
        """
        if ticket.chunk.unwritten:  # it stays so until all are written
            with self._changed:
                self._write(ticket.chunk)

    def settle(self, ticket: Ticket) -> None:
        """Note that the outputs of an attempt are in the store or in the outbox."""
        chunk = ticket.chunk
        # Without the lock, for which a thread that sends outputs would often wait.
        chunk.settled.append(ticket.identity)
        if chunk.is_cut and chunk.is_settled:
            with self._changed:
                self._changed.notify()

    def refuse(self, ticket: Ticket, error: AttemptError) -> None:
        """Note that an output of an attempt can never be stored, so that the attempt has failed."""
        with self._changed:
            attempt = ticket.chunk.entries[ticket.identity].attempt
            entry = Entry(attempt._replace(outcome=Outcome.FAILED, error=error, output_bytes=None))
            ticket.chunk.entries[ticket.identity] = entry
            self._write(ticket.chunk, [entry])
        self.settle(ticket)

    def send_soon(self) -> None:
        """Send the attempts that have ended as soon as their outputs have arrived: no other follows for now."""
        with self._changed:
            if self._chunk is not None and self._chunk.entries:
                self._cut()

    def close(self, seconds: float | None = None) -> None:
        """Write what waits for a time, and put the rest into the outbox. Closing twice is harmless.

        Attempts that still run are `cancelled`. Chunks of which outputs are still on their way stay in the journal, for
        the next run.

        Args:
            seconds: how long to write, at most; None: `CLOSE_SECONDS`.
        """
        seconds = CLOSE_SECONDS if seconds is None else seconds
        now = self.clock()
        for entry, begun_at in list(self._open.values()):
            self.add(entry.attempt._replace(outcome=Outcome.CANCELLED, seconds=now - begun_at), is_settled=True)
        with self._changed:
            if self._writer.is_closing:
                return
            self._cut()
        self._writer.close(seconds)
        self._keep_rest()

    # --- with the lock held ----------------------------------------------------------------------------------

    def _current(self) -> _Chunk:
        """Return the chunk that takes attempts now."""
        if self._chunk is None:
            path = journal_path(self._directory, self.run_id, self._number)
            self._chunk = _Chunk(self.run_id, self._number, JournalFile(path))
            self._number += 1
        return self._chunk

    def _write(self, chunk: _Chunk, entries: Sequence[Entry] = ()) -> None:
        """Write what waits, and then these attempts, into the file of a chunk."""
        lines = [*chunk.unwritten, *entries]
        if lines and not self._journal_fails:
            try:
                chunk.file.append(lines)
            except OSError as error:
                self._note_failure(error)
        chunk.unwritten = []

    def _note_failure(self, error: OSError) -> None:
        self._journal_fails = True
        log.warning("The ledger is kept in memory only, since its journal cannot be written: %s", error)

    def _cut(self) -> None:
        """Let the current chunk take no more attempts. Those that run go into the next one."""
        chunk, self._chunk = self._chunk, None
        if chunk is None:
            return
        if self._open:
            self._write(self._current(), [entry for entry, _ in self._open.values()])
        self._write(chunk)
        chunk.file.close()
        chunk.is_cut = True
        self.on_cut()
        self._waiting.append(chunk)
        self._changed.notify()

    # --- the thread ------------------------------------------------------------------------------------------

    def _take_chunk(self) -> tuple[_Chunk | None, float | None]:
        """Return the next chunk that can be sent, if it is time; see `BackgroundWriter`."""
        while (ready := next(self._left, None) or self._take_settled()) is None:
            if self._writer.is_closing or self._chunk is None or not self._chunk.entries:
                return None, None
            pause = min(max(CHUNK_SECONDS, CHUNK_SHARE * (self.clock() - self._started)), self.most_seconds)
            rest = self._chunk.first_at + pause - self.clock()
            if rest > 0:
                return None, rest
            self._cut()
        return ready, None

    def _take_settled(self) -> _Chunk | None:
        for chunk in self._waiting:
            if chunk.is_settled:
                self._waiting.remove(chunk)
                return chunk
        return None

    def _send(self, chunk: _Chunk) -> None:
        """Write a chunk."""
        try:
            for key, value in self._encode(chunk):
                self._store.create_if_absent(key, value)
        except VALUE_ERRORS as error:
            log.warning("A chunk of the ledger is lost: %s", error)
        chunk.file.remove()

    def _encode(self, chunk: _Chunk) -> list[tuple[str, bytes]]:
        """Return keys and values of a chunk. The attempts are last, so that a reader who finds them finds all."""
        entries, values = chunk.entries.values(), list[tuple[str, bytes]]()
        if not entries:
            return values
        key = (self._job_id, self._shard, chunk.run, chunk.number)
        try:
            found = ((entry.attempt.task, entry.scalars) for entry in entries if entry.scalars is not None)
            scalars = encode_scalars(self._job_id, self._shard, found)
            if scalars is not None:
                values.append((chunk_key(*key, "scalars"), scalars))
            attempts = [entry.attempt for entry in entries]
            files = self.files_opened() if chunk.run == self.run_id else None
            values.append((chunk_key(*key), encode_attempts(self._job_id, self._shard, attempts, files)))
        except Exception as error:  # noqa: BLE001 - as in `_send`; a file of another program, for example
            log.warning("A chunk of the ledger is lost: %s cannot be used: %s", chunk.file.path, error)
        return values

    # --- the end ---------------------------------------------------------------------------------------------

    def _keep_rest(self) -> None:
        """Put what the store did not take into the outbox."""
        with self._changed:
            rest = [] if self._writer.current is None else [self._writer.current]
            while (settled := self._take_settled()) is not None:
                rest.append(settled)
            left, self._left = self._left, iter(())
            if not isinstance(self._writer.failure, StoreUnavailableError | None):
                log.warning("The store does not take the ledger. Its journal is kept in %s.", self._directory)
                return
            for chunk in (*rest, *left):
                with contextlib.suppress(Exception):  # the files stay, for another run
                    for key, value in self._encode(chunk):
                        self._outbox.create_if_absent(key, value)
                    chunk.file.remove()
