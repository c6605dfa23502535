"""Take the results of attempts: count tasks, write the ledger, report failures, and send outputs to the store.

An outage must neither stop a simulation nor lose a finished one. The outbox is a small SQLite store in the job's own
directory; its outputs are delivered when the store answers again. Both stores are written by `create_if_absent`: an
output that exists already is the same output, and stays.

Of a store across a network, the outbox is the journal: small outputs go there first, many tasks in a transaction, and
those tasks count. Later they go into a pack, and leave the outbox when it is in the store. See
docs/decisions/0113-packs.md.
"""

from __future__ import annotations

import dataclasses
import functools
import heapq
import itertools
import json
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from mopsjobs.errors import VALUE_ERRORS, StoreError, StoreUnavailableError
from mopsjobs.events.format import RUNNER, TASK_FAILED
from mopsjobs.events.writer import EventLog
from mopsjobs.ledger.attempt import Attempt, AttemptError, Outcome, attempt_error
from mopsjobs.ledger.scalars import scalars_for_chunk
from mopsjobs.ledger.writer import Ledger, Ticket, begun_attempt
from mopsjobs.registry.keys import LOGGED_NAME, NAMES_NAME
from mopsjobs.runner.checkpoints import Checkpoints
from mopsjobs.runner.pools.base import Pool, TaskResult
from mopsjobs.runner.reporter import Counts
from mopsjobs.store.base import Entry, Versioned, VersionedStore
from mopsjobs.store.bulk import TransactionalStore, create_all_if_absent
from mopsjobs.studies.field_values import is_output_name
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.outputs import output_key
from mopsjobs.studies.packs import PACK_BYTES, Split, split_outputs
from mopsjobs.studies.study import Task, Varying, find_varying, task_name
from mopsjobs.utils.background import MAX_PAUSE, BackgroundWriter
from mopsjobs.utils.times import human_duration

MAX_WAITING_TASKS = 64
"""Finished tasks held in memory; with more, the runner waits for the threads. An outage does not fill the queue."""

MAX_TRANSACTION_BYTES = 2**20
"""Outputs of several tasks share a transaction of an embedded store up to this size; it keeps other writers waiting."""

THREADS = 4
"""Tasks that are sent at once to a store in a network. A local one has one writer at a time anyway."""

PACK_SECONDS = 5.0
"""How long an output waits for others in its pack, at most."""

PACK_SHARE = 0.01
"""The same as a share of the time of the run, if that is longer: so a run of hours writes fewer packs."""

MAX_PACK_SECONDS = 60.0
"""The same, however long the run is."""

SOON_SECONDS = 0.25
"""How long the last tasks of a chunk of the ledger may take into the outbox, before they are packed."""

FIRST_PAUSE = 1.0
"""Seconds before the second attempt at a store that does not answer."""


KEPT_HERE = "Outputs are kept here until it answers."


class _Request(NamedTuple):
    plain: list[tuple[str, bytes]]
    """Outputs that stay objects of their own."""
    packed: list[tuple[str, bytes]]
    """Outputs that go into a pack."""
    on_done: Callable[[], None]
    on_refused: Callable[[StoreError], None]
    before: Callable[[], None]
    on_stored: Callable[[], None]


@dataclasses.dataclass
class OutputSender:
    """Writes outputs to the store, or to the outbox while the store does not answer.

    Args:
        _store: where outputs belong.
        _outbox: where they are kept during an outage, and before they are packed.
        _pack: moves small outputs from the outbox into packs in the store; None: there are no packs.
        clock: a monotonic clock in seconds.
    """

    _store: VersionedStore
    _outbox: VersionedStore
    _pack: Callable[[], object] | None = None
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._has_transactions = self._pack is not None or isinstance(self._store, TransactionalStore)
        self._waiting: deque[_Request] = deque()
        self._failure: Exception | None = None
        """Why nothing more can be stored: the first error that was neither an outage nor about one output."""
        self._writer = BackgroundWriter(
            "outputs",
            self._take_requests,
            self._write,
            KEPT_HERE,
            first_pause=FIRST_PAUSE,
            keep=self._keep,
            threads=1 if getattr(self._store, "is_local", False) else THREADS,
            clock=self.clock,
        )
        self._started = self.clock()
        self._journal = threading.Lock()
        """Held for a transaction of the outbox: SQLite would have the threads wait longer for each other."""
        self._journal_fails_until = -math.inf
        self._unpacked: list[Callable[[], None]] = []
        """`on_stored` of the tasks whose small outputs are in the outbox."""
        self._unpacked_bytes, self._first_at, self._soon_at = 0, 0.0, math.inf
        self._packer: BackgroundWriter[list[Callable[[], None]]] | None = None
        self.has_kept = False
        """Whether outputs went into the outbox since the store was away, or an earlier run has left some."""
        if self._pack is not None:
            self._packer = BackgroundWriter(
                "packs", self._take_unpacked, self._write_packs, KEPT_HERE, first_pause=FIRST_PAUSE, clock=self.clock
            )
            self._packer.start()
        self._writer.start()

    def put(
        self,
        outputs: list[tuple[str, bytes]],
        on_done: Callable[[], None],
        on_refused: Callable[[StoreError], None],
        before: Callable[[], None] = lambda: None,
        on_stored: Callable[[], None] = lambda: None,
    ) -> None:
        """Queue the outputs of a task, which are written in their order. A thread calls the callbacks.

        Args:
            outputs: keys and contents.
            on_done: called when the last output is on disk.
            on_refused: called with the reason if an output can never be stored, for example because of its size.
            before: called before the first output is written.
            on_stored: called after `on_done`, when all outputs are in the store, or the store was tried and is away.

        Raises:
            StoreError: if the store refuses all outputs. Those that were queued are kept in the outbox.
            Exception: if a thread failed for another reason.
        """
        self._raise_failure()
        split = Split(outputs, []) if self._pack is None else split_outputs(outputs)
        changed = self._writer.changed
        with changed:
            changed.wait_for(lambda: len(self._waiting) < MAX_WAITING_TASKS)
            self._waiting.append(_Request(*split, on_done, on_refused, before, on_stored))
            changed.notify()

    def pack_soon(self) -> None:
        """Pack what is in the outbox in a moment: a chunk of the ledger waits for it."""
        if self._packer is not None:
            with self._packer.changed:
                self._soon_at = self.clock() + SOON_SECONDS
                self._packer.changed.notify()

    def finish(self) -> None:
        """Wait until all queued outputs are in the store or in the outbox. Finishing twice is harmless.

        Raises:
            StoreError, Exception: if `put` would raise them.
        """
        self._writer.close(0.0)  # nothing is given up: what the store does not take goes into the outbox
        self._writer.join()
        if self._packer is not None:
            self._packer.close(0.0)  # what the store does not take now stays in the outbox
            self._packer.join()
            for on_stored in self._unpacked:
                on_stored()
            self._unpacked = []
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _take_requests(self) -> tuple[list[_Request] | None, float | None]:
        """Return a request with those behind it that share its transaction; see `BackgroundWriter`."""
        if not self._waiting:
            return None, None
        requests: list[_Request] = []
        size = 0
        while self._waiting and (not requests or (self._has_transactions and size < MAX_TRANSACTION_BYTES)):
            if requests and self._pack is not None and self._waiting[0].plain:
                break  # a request of its own
            requests.append(self._waiting.popleft())
            size += sum(len(value) for _, value in requests[-1].plain + requests[-1].packed)
            if self._pack is not None and requests[-1].plain:
                break
        self._writer.changed.notify()
        return requests, None

    def _write(self, requests: Sequence[_Request]) -> None:
        """Write outputs to the store, unless it refuses all. `put` and `finish` raise that in the runner's own thread.

        Raises:
            StoreUnavailableError: if the store does not answer.
        """
        if self._failure is None:
            try:
                self._send(self._store, requests)
            except StoreUnavailableError:
                raise
            except StoreError as error:
                self._failure = error
            except Exception as error:  # noqa: BLE001 - a thread that ends would leave the runner waiting for ever
                self._failure = error
                return
            else:
                return
        self._keep(requests)

    def _keep(self, requests: Sequence[_Request]) -> None:
        """Write outputs to the outbox."""
        self.has_kept = True
        try:
            self._send(self._outbox, requests)
        except Exception as error:  # noqa: BLE001 - as in `_write`: a full disk, for example
            self._failure = self._failure or error

    def _send(self, store: VersionedStore, requests: Sequence[_Request]) -> None:
        for request in requests:
            request.before()
        packed = [output for request in requests for output in request.packed]
        plain = [output for request in requests for output in request.plain]
        is_journal = self._pack is not None and store is self._store
        try:
            if plain or not is_journal:
                create_all_if_absent(store, plain if is_journal else plain + packed)
            is_packed = is_journal and bool(packed) and self._write_journal(packed)
            if is_journal and not is_packed:
                create_all_if_absent(store, packed)
        except VALUE_ERRORS as error:
            if len(requests) == 1:
                requests[0].on_refused(error)
                return
            for request in requests:  # to learn whose output it was
                self._writer.attempt([request])
        else:
            for request in requests:
                request.on_done()
            if not is_packed:
                for request in requests:
                    request.on_stored()
            elif self._packer is not None:
                with self._packer.changed:
                    if not self._unpacked:
                        self._first_at = self.clock()
                    self._unpacked += [request.on_stored for request in requests]
                    self._unpacked_bytes += sum(len(value) for _, value in packed)
                    self._packer.changed.notify()

    def _write_journal(self, outputs: Sequence[tuple[str, bytes]]) -> bool:
        """Write outputs to the outbox, to be packed. Return False if the disk is full: they go to the store alone."""
        if self.clock() < self._journal_fails_until:
            return False
        try:
            with self._journal:
                create_all_if_absent(self._outbox, outputs)
        except StoreError:  # it may have waited for the disk for long
            self._journal_fails_until = self.clock() + MAX_PAUSE
            return False
        return True

    def _take_unpacked(self) -> tuple[list[Callable[[], None]] | None, float | None]:
        """Return the tasks that are to be packed, if it is time; see `BackgroundWriter`."""
        assert self._packer is not None  # noqa: S101 - it calls this
        if not self._unpacked:
            return None, None
        now = self.clock()
        wait = min(max(PACK_SECONDS, PACK_SHARE * (now - self._started)), MAX_PACK_SECONDS)
        rest = min(self._first_at + wait, self._soon_at) - now
        if rest > 0 and self._unpacked_bytes < PACK_BYTES and not self._packer.is_closing:
            return None, rest
        taken, self._unpacked, self._unpacked_bytes, self._soon_at = self._unpacked, [], 0, math.inf
        return taken, None

    def _write_packs(self, tasks: list[Callable[[], None]]) -> None:
        """Pack what is in the outbox: the outputs of these tasks, and of later ones.

        Raises:
            StoreUnavailableError: if the store does not answer.
        """
        assert self._pack is not None  # noqa: S101 - else nothing waits for it
        try:
            self._pack()
        except StoreUnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - as in `_write`
            self._failure = self._failure or error
        finally:
            while tasks:  # once: also if the outbox keeps them for long
                tasks.pop(0)()


@dataclasses.dataclass
class StoreWithOutbox:
    """The union of a store and the outbox, to read: `get` and `scan` of the store contract.

    It tells which tasks are complete. Never decide by it what to remove.
    """

    _store: VersionedStore
    _outbox: VersionedStore

    def get(self, key: str) -> Versioned | None:
        """Return the value in the outbox, else in the store."""
        return self._outbox.get(key) or self._store.get(key)

    def scan(self, prefix: str = "") -> Iterator[Entry]:
        """Yield the entries of both in the order of their keys, each key once."""
        merged = heapq.merge(self._store.scan(prefix), self._outbox.scan(prefix), key=lambda entry: entry.key)
        for _, of_key in itertools.groupby(merged, key=lambda entry: entry.key):
            yield next(of_key)


OnEnded = Callable[[int, "Mapping[str, bytes] | None", "Mapping[str, str] | None"], object]

NOTE_SECONDS = 0.2
"""How often attempts that run are noted."""


@dataclasses.dataclass
class ResultHandler:
    """Takes the results of one run over a shard.

    Args:
        _manifest: that of the job.
        _counts: to which ended tasks are added.
        _sender: sends the outputs.
        _ledger: takes the attempts.
        _events: take the failures.
        _on_log: called with the first failure.
    """

    _manifest: Manifest
    _counts: Counts
    _sender: OutputSender
    _ledger: Ledger
    _events: EventLog
    _on_log: Callable[[str], None]
    first_error: str | None = None
    checkpoints: Checkpoints | None = None
    """Those of the tasks. They are removed when the outputs are stored."""

    def __post_init__(self) -> None:
        duplicates_of = Counter(self._manifest.duplicate_tasks().values())
        self.count_of: Callable[[int], int] = lambda position: 1 + duplicates_of[position]
        """Returns how many tasks end with that at a position."""
        self.varying: Callable[[], Varying] = functools.cache(lambda: find_varying(self._manifest.study))
        """Returns what differs between the tasks."""
        self.on_ended: OnEnded | None = None
        """Called with the number of each task that has ended, and its outputs or its error, once these are on disk."""
        self.on_stored: Callable[[Task, Mapping[str, bytes]], object] = lambda _task, _outputs: None
        """Called with each task that has succeeded and what it left, when that is in the store, or it was tried."""
        self.sending: set[int] = set()
        """The numbers of the tasks whose outputs are on their way to the store."""
        self._noted_at = time.monotonic()
        self._resumed: dict[int, int] = {}
        """The numbers of the checkpoints that tasks went on from last, by the numbers of the tasks."""

    def note_begun(self, pool: Pool, until: float | None = None) -> None:
        """Note in the ledger which attempts run now, a few times per second at most.

        Args:
            pool: runs them.
            until: for the last time, when tasks were to stop, in seconds since the epoch. Others have not begun.
        """
        now = time.monotonic()
        if now - self._noted_at < NOTE_SECONDS and until is None:
            return
        self._noted_at = now
        at_work = [one for one in pool.at_work() if until is None or (one.started_at or 0.0) <= until]
        self._ledger.begin(
            begun_attempt(one.task.number, one.attempt, one.started_at, one.host, one.resumed)
            for one in at_work
            if one.started_at is not None
        )
        for task, resumed in ((one.task, one.resumed) for one in at_work if one.resumed is not None):
            if self._resumed.get(task.number) != resumed.number:  # `tasks` shows it when the attempt has ended
                self._resumed[task.number] = resumed.number
                text = f"{self._name(task)} goes on at {resumed.at}, after {human_duration(resumed.seconds)} of work"
                self._events.emit(RUNNER, text=text)

    def take(self, result: TaskResult) -> bool:
        """Take the result of an attempt. Return whether it failed, also by the outputs that it left.

        Raises:
            StoreError: if the store takes no outputs.
        """
        task, error, outcome = result.task, result.error, result.outcome
        if outcome is Outcome.PREEMPTED:
            self._ledger.add(_attempt(result, outcome, None), is_settled=True)
            return False
        if error is None and (problem := self._problem_of(result.outputs or {})) is not None:
            error, outcome = problem, Outcome.FAILED
        if error is not None:
            reason = _reason(error)
            self._ledger.add(_attempt(result, outcome, reason), is_settled=True)
            if result.is_final:
                self._counts.add(failed=self.count_of(result.position))
                self.report_failure(self._name(task), error, key=reason.key, task=task.number, seed=task.seed)
                if self.on_ended is not None:
                    self.on_ended(task.number, None, error)
            else:
                text = f"{self._name(task)}: {error['message']}; it is tried again"
                self._events.emit(RUNNER, text=text)
            return True
        self._send(result)
        return False

    def report_failure(self, name: str, error: Mapping[str, str], *, key: str | None = None, **fields: int) -> None:
        """Report that a task has failed.

        Args:
            name: the name of the task.
            error: `type`, `message` and maybe more.
            key: the signature of the error; None: made of the error.
            fields: more fields of the event.
        """
        self._note_first(f"{name}: {error['type']}: {error['message']}")
        self._events.emit(TASK_FAILED, **fields, error_key=key or _reason(error).key, error=dict(error))

    def note_error(self, task: Task, text: str) -> None:
        """Note the error of a task that another shard has run. That has reported it."""
        self._note_first(f"{self._name(task)}: {text}")

    def _note_first(self, text: str) -> None:
        if self.first_error is None:
            self.first_error = text
            self._on_log(text)

    def _problem_of(self, outputs: Mapping[str, bytes]) -> dict[str, str] | None:
        """Return what is wrong with the names of the outputs; None if they are those that the study names."""
        bad = [name for name in outputs if not is_output_name(name)]
        if bad:
            return {"type": "BadOutput", "message": f"{bad[0]!r} cannot be the name of an output"}
        lacking = set(self._manifest.study.outputs or ()) - outputs.keys()
        if lacking:
            return {"type": "MissingOutput", "message": f"it left no output {', '.join(sorted(lacking))}"}
        return None

    def _send(self, result: TaskResult) -> None:
        count, task = self.count_of(result.position), result.task
        study = self._manifest.study
        # What was logged comes first: without it, a task whose run is killed in between may look complete.
        outputs = sorted((result.outputs or {}).items(), key=lambda output: (output[0] != LOGGED_NAME, output[0]))
        if study.outputs is not None:
            outputs = [(name, value) for name, value in outputs if study.keeps_output(name)]
        size = sum(len(value) for _, value in outputs)
        if study.outputs is None and len(outputs) != 1:
            # The names come first: a task whose run is killed in between does not look complete.
            outputs.insert(0, (NAMES_NAME, json.dumps([name for name, _ in outputs]).encode()))
        # Before the outputs: so each task that is complete is in the ledger.
        attempt = _attempt(result, result.outcome, None, output_bytes=size)
        ticket = self._ledger.add(attempt, scalars_for_chunk(dict(outputs)), is_settled=False)

        def on_refused(reason: StoreError) -> None:
            self.sending.discard(task.number)
            self._counts.add(failed=count)
            error = error_fields(reason)
            self._ledger.refuse(ticket, _reason(error))
            self.report_failure(self._name(task), error, task=task.number, seed=task.seed)
            if self.on_ended is not None:
                self.on_ended(task.number, None, error)

        def on_done() -> None:
            self._counts.add(completed=count)
            if self.on_ended is not None:
                self.on_ended(task.number, dict(outputs), None)

        self.sending.add(task.number)
        self._sender.put(
            [(output_key(self._manifest.job_id, task, name), value) for name, value in outputs],
            on_done,
            on_refused,
            before=functools.partial(self._ledger.write, ticket),
            on_stored=lambda: self._end(ticket, result),
        )

    def _end(self, ticket: Ticket, result: TaskResult) -> None:
        task = result.task
        self._ledger.settle(ticket)
        if self.checkpoints is not None:
            self.checkpoints.remove(task)
        self.sending.discard(task.number)
        self.on_stored(task, result.outputs or {})

    def _name(self, task: Task) -> str:
        return task_name(task, self.varying())


def error_fields(error: StoreError) -> dict[str, str]:
    """Return the fields of an error of the store, as the model's errors have them."""
    return {"type": type(error).__name__, "message": str(error)}


def _reason(error: Mapping[str, str]) -> AttemptError:
    return attempt_error(error["type"], error.get("at"), error["message"])


def _attempt(
    result: TaskResult, outcome: Outcome, error: AttemptError | None, *, output_bytes: int | None = None
) -> Attempt:
    return Attempt(
        result.task.number, result.attempt, outcome, result.started_at, *result.usage, error, output_bytes,
        result.resumed,
    )  # fmt: skip
