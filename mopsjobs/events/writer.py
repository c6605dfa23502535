"""Write events: what happens to a job and what it says, as chunks beside the records (format.py).

Events follow the record: a writer of a record writes its event afterwards, as far as the store allows. No job waits for
events, or fails because of them.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

from mopsjobs.errors import StoreError, UsageError
from mopsjobs.events.format import DROPPED, LABELS, LOG, NOTE, STATE, chunk_key, event_line, is_kind, is_source
from mopsjobs.registry.job_id import check_job_id
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.notes import label_history, note_history
from mopsjobs.registry.transitions import is_annotation
from mopsjobs.store.base import VersionedStore
from mopsjobs.utils.background import BackgroundWriter
from mopsjobs.utils.times import json_time, utc_now

log = logging.getLogger(__name__)

MAX_WAITING = 10_000
"""Events that are kept while the store does not answer."""

MAX_WAITING_BYTES = 16 * 1024 * 1024
"""Of events that wait for the store, besides the limit of their number."""

FLUSH_SECONDS = 2.0

FLUSH_BYTES = 64 * 1024
"""Waiting bytes that are written at once. A chunk has this many and a last event."""

CLOSE_SECONDS = 5.0


def _new_id() -> str:
    return secrets.token_hex(8)


class EventLog:
    """The events of one job from one writer, buffered, and written by a thread of their own.

    `emit` never waits for the store and never fails because of it. While the store does not answer, events wait in
    memory. If there are too many, the oldest `log` events are dropped first, and a `dropped` event in their place has
    their number.
    """

    def __init__(
        self,
        store: VersionedStore,
        job_id: str,
        *,
        source: str | None = None,
        now: Callable[[], datetime] = utc_now,
        flush_seconds: float | None = None,
    ) -> None:
        """Start the thread.

        Args:
            store: where the chunks go.
            job_id: the job of the events.
            source: a word for the writer. A random text is appended, so that no two writers share a name.
            now: the time, in UTC.
            flush_seconds: how long an event waits for others in its chunk; also the first pause after a failure. Each
                further pause is twice as long. None: `FLUSH_SECONDS`.

        Raises:
            UsageError: if the source cannot be part of a key, or the job id is invalid.
        """
        self.source = _new_id() if source is None else f"{source}.{_new_id()}"
        if not is_source(self.source):
            raise UsageError(f"invalid source of events {source!r}: expected at most 60 letters, digits and . _ -.")
        self._store = store
        self._job_id = check_job_id(job_id)
        self._now = now
        self._flush_seconds = FLUSH_SECONDS if flush_seconds is None else flush_seconds
        self._logs: deque[tuple[int, str]] = deque()
        """The `log` events that wait, each with its `seq`."""
        self._others: deque[tuple[int, str]] = deque()
        self._bytes = 0
        self._seq = self._number = self._dropped = self._dropped_seq = 0
        self._due_at = 0.0
        """When a chunk is written, however small, by the monotonic clock."""
        self._writer = BackgroundWriter(
            f"events of {job_id}",
            self._take_chunk,
            self._write,
            "Events wait until the store answers.",
            first_pause=self._flush_seconds,
        )
        self._writer.start()

    def emit(self, kind: str, **fields: object) -> None:
        """Add an event. `at`, `job_id`, `kind`, `source` and `seq` are set here; fields with these names are ignored.

        After `close`, and for an invalid kind, it only writes a line to the log of this program.
        """
        if not is_kind(kind):
            log.warning("invalid kind of event %r: the event is ignored.", kind)
            return
        with self._writer.changed:
            if self._writer.is_closing:
                log.debug("An event came after close: %s", kind)
                return
            line = event_line(self._head(kind, self._seq), fields)
            (self._logs if kind == LOG else self._others).append((self._seq, line))
            self._seq += 1
            self._bytes += len(line) + 1
            while self._count() > MAX_WAITING or self._bytes > MAX_WAITING_BYTES:
                self._dropped_seq, dropped = (self._logs or self._others).popleft()
                self._bytes -= len(dropped) + 1
                self._dropped += 1
            is_first = self._count() == 1
            if is_first:
                self._due_at = time.monotonic() + self._flush_seconds
            # The thread is notified of the first event, and of enough bytes for a chunk. Between, it wakes by itself.
            if is_first or self._bytes >= FLUSH_BYTES:
                self._writer.changed.notify()

    def close(
        self,
        seconds: float | None = None,
        longest: float | None = None,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Write what waits. Closing twice is harmless.

        Args:
            seconds: how long to write, at most; None: `CLOSE_SECONDS`.
            longest: the same while the store takes events, only slowly; None: no longer.
            is_stopping: see `BackgroundWriter.close`.

        Returns:
            True if everything is written.
        """
        return self._writer.close(CLOSE_SECONDS if seconds is None else seconds, longest, is_stopping)

    def _count(self) -> int:
        return len(self._logs) + len(self._others)

    def _head(self, kind: str, seq: int) -> dict[str, object]:
        return {"at": json_time(self._now()), "job_id": self._job_id, "kind": kind, "source": self.source, "seq": seq}

    def _take_chunk(self) -> tuple[tuple[int, bytes] | None, float | None]:
        """Return number and content of the next chunk if it is time to write it; see `BackgroundWriter`."""
        if not self._count():
            return None, None
        rest = self._due_at - time.monotonic()
        if rest > 0 and self._bytes < FLUSH_BYTES and not self._writer.is_closing:
            return None, rest
        lines = []
        size = 0
        if self._dropped:
            # It has the number of the last dropped event, and comes before all that were kept.
            lines.append(event_line(self._head(DROPPED, self._dropped_seq), {"count": self._dropped}))
            self._dropped = 0
        while self._count() and (size < FLUSH_BYTES or not lines):
            first = min(filter(None, (self._logs, self._others)), key=lambda queue: queue[0])
            lines.append(first.popleft()[1])
            size += len(lines[-1]) + 1
        self._bytes -= size
        self._due_at = time.monotonic() + self._flush_seconds
        self._number += 1
        return (self._number - 1, _content(lines)), None

    def _write(self, chunk: tuple[int, bytes]) -> None:
        """Write one chunk. Each attempt sends the same bytes: an earlier one may have lost its reply alone."""
        number, content = chunk
        self._store.create_if_absent(chunk_key(self._now(), self._job_id, self.source, number), content)


def _content(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode("ascii")


def record_event(
    store: VersionedStore, job_id: str, kind: str, *, now: Callable[[], datetime] = utc_now, **fields: object
) -> bool:
    """Write one event at once, in a chunk of its own: for programs that end before a buffer would help.

    Returns:
        False if the store did not take it, or may not have.
    """
    return _record_events(store, job_id, [(kind, fields)], now)


def _record_events(
    store: VersionedStore, job_id: str, events: Sequence[tuple[str, Mapping[str, object]]], now: Callable[[], datetime]
) -> bool:
    """Write events at once, in one chunk. See `record_event`."""
    source, moment = _new_id(), now()
    head = {"at": json_time(moment), "job_id": check_job_id(job_id)}
    lines = [
        event_line({**head, "kind": kind, "source": source, "seq": seq}, fields)
        for seq, (kind, fields) in enumerate(events)
    ]
    try:
        store.create_if_absent(chunk_key(moment, job_id, source, 0), _content(lines))
    except StoreError as error:
        log.info("%s The event was not written.", error)
        return False
    return True


def state_fields(state: JobState) -> Mapping[str, str | int | None]:
    """Return the fields of a `state` event of a record."""
    names = ("tasks_total", "tasks_completed", "tasks_failed", "revision")
    return {"status": str(state.status), **{name: getattr(state, name) for name in names}}


def record_write(store: VersionedStore, record: bytes, *, now: Callable[[], datetime] = utc_now) -> bool:
    """Write the events of a record that was just written: its state, a new note, changed labels.

    A write that only annotated an ended job leaves no `state` event.

    Returns:
        False if the store did not take the events, or may not have.
    """
    state = JobState.from_json(record)
    events: list[tuple[str, Mapping[str, object]]] = []
    if not is_annotation(state):
        events.append((STATE, state_fields(state)))
    for kind, name, history in (
        (NOTE, "text", note_history(state.metadata)),
        (LABELS, "labels", label_history(state.metadata)),
    ):
        if history and history[-1]["id"] == state.write_id:
            events.append((kind, {name: history[-1][name], "by": history[-1]["by"]}))
    return not events or _record_events(store, state.job_id, events, now)
