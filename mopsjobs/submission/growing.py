"""The client of a growing job: it asks for parameter sets in rounds, and takes their tasks as they end.

What is asked for is stored before anything else knows of it. A task is told when its attempt is in the ledger, which is
written after its outputs. So a client that was killed, and any other one, can go on by the store alone.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import TypeVar

from mopsjobs.engines.base import last_launch
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.errors import (
    JobBusyError,
    JobCancelledError,
    JobEndError,
    JobFailedError,
    JobPartialError,
    RecordError,
    StoreError,
    StoreUnavailableError,
    TerminalStateError,
    TooManyRetriesError,
    UsageError,
    command_line,
)
from mopsjobs.ledger.attempt import Attempt, Outcome
from mopsjobs.ledger.format import ChunkKey, list_chunks, parse_attempts
from mopsjobs.ledger.retry_policy import RetryPolicy, recorded_policy
from mopsjobs.store.base import Entry
from mopsjobs.store.fetcher import FailedRead, ParallelFetcher
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.outputs import find_complete_tasks, output_key, results_prefix
from mopsjobs.studies.rounds import (
    END,
    EndedTask,
    GrowingTasks,
    Stopped,
    as_sets,
    check_total,
    encode_round,
    parse_round,
    round_key,
    with_replicates,
)
from mopsjobs.submission.channel import ChannelClient, ToldTask
from mopsjobs.submission.session import Session
from mopsjobs.submission.submit import SubmitRequest, submit
from mopsjobs.utils.backoff import NO_JITTER, Backoff
from mopsjobs.utils.text import pluralize
from mopsjobs.utils.times import human_duration

T = TypeVar("T")

FIRST_PAUSE = 0.02
"""Seconds between two looks into the store after some news; each pause without news is longer."""

MAX_PAUSE = 1.0

PAUSE_FACTOR = 1.3

RECORD_SECONDS = 3.0
"""How often the record is read, and the outputs listed, while no task ends: the job may have ended otherwise."""

END_SECONDS = 1.0
"""How old may be what is known of the record when a round is stored. A job that has ended gets none."""

OUTAGE_SECONDS = 3600.0
"""How long to wait for a registry that does not answer."""

FEW_TASKS = 16
"""Tasks whose outputs are found by a listing each. For more, one listing of the whole job is faster."""

_END_ERRORS: Mapping[str, type[JobEndError]] = {
    "failed": JobFailedError, "cancelled": JobCancelledError, "partial": JobPartialError
}  # fmt: skip


class GrowingJob:
    """A growing job, as one client uses it. `add` and `end` may be called beside a running `ended`.

    Args:
        session: the registry and the clocks.
        manifest: the manifest of the job, with all its rounds so far.
        policy: which attempts are followed by another one.
        reads: returns whether the client wants an output of this name. Others are not read.
    """

    def __init__(
        self,
        session: Session,
        manifest: Manifest,
        policy: RetryPolicy,
        reads: Callable[[str], bool] = lambda _name: True,
    ) -> None:
        self.job_id, self._reads = manifest.job_id, reads
        self._session, self._manifest, self._policy = session, manifest, policy
        self._storing, self._lock = threading.Lock(), threading.Lock()
        """The first is held while a round is stored, the second for what follows."""
        self._tasks = GrowingTasks(manifest.study)
        self._rounds = manifest.rounds
        self._open: defaultdict[int, list[int]] = defaultdict(list)
        """The numbers of the tasks that were not yielded, by the first with the same parameters and seed."""
        self._ends: dict[int, EndedTask] = {}
        """The ends of these first ones: of those that were yielded without their outputs, which the store has."""
        self._again: list[int] = []
        """Those without outputs that were asked for again."""
        self._news: list[int] = []
        """Those of them that `ended` has to look at."""
        self._early: list[ToldTask] = []
        """Tasks of a round that is just being stored, which the runner was faster to run."""
        self._chunks: set[ChunkKey] = set()
        """The keys of the chunks that were read."""
        self._is_first = True
        self._record_at = session.monotonic()
        """When the record was read last: the caller has."""
        self._channel = ChannelClient(JobDir.for_job(self.job_id, session.env).channel)
        self._woken, self._wakes = Pipe(duplex=False)
        """Readable when there is news that no store tells."""
        self._open_tasks(range(self.tasks_total))

    @property
    def is_calibration(self) -> bool:
        """Return whether a sampler asks for its sets."""
        return self._manifest.calibration is not None

    @property
    def rounds(self) -> int:
        """Return how many rounds are known."""
        return self._rounds

    @property
    def tasks_total(self) -> int:
        """Return how many tasks were asked for so far."""
        return len(self._tasks.tasks)

    def count_tasks(self, sets: Sequence[Mapping[str, object]], replicates: int | None = None) -> list[int]:
        """Return how many tasks each of these sets has, if `add` gets them.

        Raises:
            UsageError: if `add` would refuse them.
        """
        study = self._tasks.study
        return [sum(map(study.replicates, with_replicates(study, [one], replicates))) for one in as_sets(sets)]

    def add(self, sets: Sequence[Mapping[str, object]], replicates: int | None = None) -> range:
        """Ask for further parameter sets: they are stored as one round.

        While the registry does not answer, this waits for it.

        Args:
            sets: the sets, as a study has them: parameters, or `{"params": {…}, "seed": 7}`.
            replicates: the tasks of each set without a seed; None: those that the study names.

        Returns:
            The numbers of their tasks, in the order of the sets.

        Raises:
            UsageError: if a set is invalid, or if the job would have too many tasks.
            TerminalStateError: if the job takes no further sets.
            JobEndError: if the job was cancelled, or has ended otherwise before its client ended it.
            JobBusyError: if another client has asked for other sets meanwhile.
            StoreError: if the round cannot be stored.
        """
        with self._storing:
            parsed = with_replicates(self._tasks.study, as_sets(sets), replicates)
            if not parsed:
                return range(self.tasks_total, self.tasks_total)
            try:
                check_total(self._tasks.study, self.tasks_total, parsed)
            except RecordError as error:
                raise UsageError(f"invalid parameter sets: {error.reason}.") from None
            if self._session.monotonic() - self._record_at >= END_SECONDS and self._persist(self._ended_without_mark):
                self._raise_end("it takes no further parameter sets")
            self._store_round(encode_round(parsed))
            with self._lock:
                self._rounds += 1
                numbers = self._tasks.grow(parsed)
                self._open_tasks(numbers)
            self._channel.poke()
            self._wakes.send_bytes(b"")
            return numbers

    def end(self, stopped: Stopped | None = None) -> None:
        """Ask for nothing more. The job ends when all its tasks have ended. Repetition does no harm.

        Args:
            stopped: why it ends early, so that it has not succeeded.

        Raises:
            JobBusyError: if another client has asked for further sets meanwhile.
            StoreError: if the end mark cannot be stored.
        """
        with self._storing:
            self._store_round(END if stopped is None else stopped.to_mark())
            self._channel.poke()

    def leave_out(self, numbers: Iterable[int]) -> None:
        """Yield no end of these tasks, which have succeeded. Outputs are only read of those that are asked for again.

        It is called before the first look.
        """
        for number in numbers:
            first = self._tasks.first_of[number]
            waiting = self._open.get(first, [])
            if number in waiting:
                waiting.remove(number)
            if not waiting:
                self._open.pop(first, None)
                task = self._tasks.tasks[first]
                self._ends[first] = EndedTask(first, task.params, task.seed, None, None)

    def keep(self, key: str, value: bytes) -> bytes:
        """Store a value of the client beside the rounds, unless the key has one. Return the stored one.

        While the registry does not answer, this waits for it.

        Raises:
            StoreError: if it cannot be stored.
        """
        store = self._session.store
        if self._persist(lambda: store.create_if_absent(key, value)) is not None:
            return value
        found = self._persist(lambda: store.get(key))
        return value if found is None else found.value

    def ended(self, timeout: float | None) -> Iterator[EndedTask]:
        """Yield the tasks as they end, each once, also those that ended before, until none is left or the time is up.

        While the registry does not answer, this waits for it.

        Args:
            timeout: stop after this many seconds; None for no limit.

        Raises:
            JobEndError: if the job has ended, and tasks have not.
            StoreError: if the registry cannot be read.
        """
        monotonic = self._session.monotonic
        began = heard_at = monotonic()
        looked_at = -math.inf if self._is_first else began
        pauses = Backoff(FIRST_PAUSE, MAX_PAUSE, factor=PAUSE_FACTOR, jitter=NO_JITTER)
        while True:
            is_new, is_over = self._channel.connect(), False
            has_news = self._read_channel()
            is_due = monotonic() - looked_at >= RECORD_SECONDS
            try:
                has_news |= self._read_again()
                if is_new or is_due or self._channel.connection is None:
                    has_news |= self._read_ledger()
                if is_due and not has_news and self._open:
                    is_over = self._has_ended()
                    has_news = self._list_outputs()
                    has_news |= is_over and self._read_ledger()
                    self._is_first = False
                looked_at = monotonic() if is_due or has_news else looked_at
                heard_at = monotonic()
            except (StoreUnavailableError, TooManyRetriesError):
                if monotonic() - heard_at > OUTAGE_SECONDS:
                    raise
            yield from self._take_news()
            if not self._open:
                return
            if is_over:
                self._raise_end(f"{pluralize(self._count_open(), 'task')} of it did not run")
            if has_news or self._was_woken():
                pauses.reset()
            pause = pauses.next_delay()
            if timeout is not None:
                pause = min(pause, began + timeout - monotonic())
                if pause <= 0:
                    return
            wait([self._woken, *filter(None, [self._channel.connection])], pause)

    # --- rounds ----------------------------------------------------------------------------------------------

    def _store_round(self, value: bytes) -> None:
        number = self._rounds + 1
        key, store = round_key(self.job_id, number), self._session.store
        if self._persist(lambda: store.create_if_absent(key, value)) is not None:
            return
        found = self._persist(lambda: store.get(key))
        if found is not None and found.value == value:  # the reply was lost, or the end mark was there
            return
        if found is not None and parse_round(found.value, key) is None:
            status = self._status()
            raise TerminalStateError(
                f"Job {self.job_id} takes no further parameter sets: its client has ended it, or it had none for"
                f" {human_duration(self._manifest.grows or 0)}.",
                job_id=self.job_id,
                from_status=status,
                to_status="running",
            )
        raise JobBusyError(
            f"Another client continues {self.job_id}: it has asked for other parameter sets since.",
            job_id=self.job_id,
        )

    def _open_tasks(self, numbers: range) -> None:
        for number in numbers:
            first = self._tasks.first_of[number]
            self._open[first].append(number)
            if first in self._ends:
                end = self._ends[first]
                (self._again if end.outputs is None and end.error is None else self._news).append(first)

    def _persist(self, action: Callable[[], T]) -> T:
        """Call an action again and again while the registry does not answer."""
        backoff, waited = Backoff(1.0, 30.0, jitter=NO_JITTER), 0.0
        while True:
            try:
                return action()
            except (StoreUnavailableError, TooManyRetriesError):
                pause = backoff.next_delay()
                if not waited:
                    limit = human_duration(OUTAGE_SECONDS)
                    self._session.warn(f"The registry does not answer; waiting up to {limit}.")
                if waited + pause > OUTAGE_SECONDS:
                    raise
            self._session.sleep(pause)
            waited += pause

    def _status(self) -> str:
        state = self._session.registry.get_job(self.job_id)
        return "unknown" if state is None else str(state.status)

    # --- ends ------------------------------------------------------------------------------------------------

    def _take_news(self) -> Iterator[EndedTask]:
        with self._lock:
            news, self._news = self._news, []
            taken = [(self._ends[first], self._open.pop(first, [])) for first in news]
            for first in news:
                self._ends[first] = self._ends[first]._replace(outputs=None)
        yield from (end._replace(number=number) for end, numbers in taken for number in numbers)

    def _read_again(self) -> bool:
        """Take the outputs of tasks that were asked for again. Return whether there were any."""
        with self._lock:
            again = self._again[:]
        outputs = self._read_outputs(again) if again else {}
        with self._lock:
            self._again = [first for first in self._again if first not in outputs]
            for first, values in outputs.items():
                self._ends[first] = self._ends[first]._replace(outputs=values)
            self._news += outputs
        return bool(outputs)

    def _note(self, number: int, outputs: dict[str, bytes] | None, error: Mapping[str, object] | None) -> None:
        with self._lock:
            task = self._tasks.tasks[number]
            if number not in self._ends:
                self._ends[number] = EndedTask(number, task.params, task.seed, outputs, error)
                self._news.append(number)

    def _was_woken(self) -> bool:
        """Return whether something was asked for since the last call."""
        was_woken = False
        while self._woken.poll(0.0):
            was_woken = True
            self._woken.recv_bytes()
        return was_woken

    def _read_channel(self) -> bool:
        """Take the tasks that the runner has told. Return whether there were any."""
        told = [*self._early, *self._channel.read()]
        is_storing, total = self._storing.locked(), self.tasks_total
        self._early = [one for one in told if one.number >= total] if is_storing else []
        told = [one for one in told if one.number < total]
        large = [
            one.number for one in told if one.outputs is None and one.error is None and one.number not in self._ends
        ]
        read = self._read_outputs(large)
        for one in told:
            if one.error is not None:
                self._note(one.number, None, one.error)
            elif (outputs := one.outputs or read.get(one.number)) is not None:
                self._note(one.number, self._kept(outputs), None)
        return bool(told)

    def _kept(self, outputs: Mapping[str, bytes]) -> dict[str, bytes]:
        return {name: value for name, value in outputs.items() if self._wants(name)}

    def _wants(self, name: str) -> bool:
        return self._tasks.study.keeps_output(name) and self._reads(name)

    def _read_ledger(self) -> bool:
        """Take the tasks of the chunks of the ledger that were not read. Return whether there were any."""
        store, total = self._session.store, self.tasks_total
        new = [chunk for chunk in list_chunks(store, self.job_id) if chunk not in self._chunks]
        final: dict[int, Attempt] = {}
        ahead: set[ChunkKey] = set()
        with ParallelFetcher.for_store(store) as fetcher:
            for chunk, found in zip(new, fetcher.fetch([chunk.key for chunk in new]), strict=True):
                if found is None or isinstance(found, FailedRead):
                    continue
                try:
                    attempts = parse_attempts(found.value, chunk)
                except RecordError:
                    continue  # views of the job name the chunk
                if any(attempt.task >= total for attempt in attempts):
                    ahead.add(chunk)  # of a round whose reply `add` waits for, or of another client
                for attempt in attempts:
                    if attempt.task < total and self._policy.is_final(attempt) and attempt.task not in self._ends:
                        before = final.get(attempt.task)
                        if before is None or attempt.outcome is Outcome.SUCCEEDED:
                            final[attempt.task] = attempt
        succeeded = [number for number, one in final.items() if one.outcome is Outcome.SUCCEEDED]
        outputs = self._read_outputs(succeeded)
        for number, attempt in final.items():
            if number in outputs:
                self._note(number, outputs[number], None)
            elif attempt.outcome is not Outcome.SUCCEEDED:
                self._note(number, None, _error_of(attempt))
        self._chunks.update(chunk for chunk in new if chunk not in ahead)
        return bool(final)

    def _list_outputs(self) -> bool:
        """Take the tasks whose outputs are there without a word of the ledger: those of lost runs."""
        with self._lock:
            manifest = dataclasses.replace(self._manifest, study=self._tasks.study, rounds=self._rounds)
        found = find_complete_tasks(self._session.store, manifest)
        first_of = self._tasks.first_of
        complete = [number for number, is_complete in enumerate(found.complete) if is_complete]
        outputs = self._read_outputs([one for one in complete if one not in self._ends and first_of[one] == one])
        for number, values in outputs.items():
            self._note(number, values, None)
        return bool(outputs)

    def _read_outputs(self, numbers: Sequence[int]) -> dict[int, dict[str, bytes]]:
        """Return the outputs of tasks, by their numbers. A task is left out if one of them cannot be read."""
        keys: dict[str, tuple[int, str]] = {}
        known: dict[int, dict[str, bytes]] = {}
        for number, entry, name in self._find_outputs(numbers):
            outputs = known.setdefault(number, {})
            if not self._wants(name):
                continue
            if entry.value is None:
                keys[entry.key] = number, name
            else:
                outputs[name] = entry.value
        with ParallelFetcher.for_store(self._session.store) as fetcher:
            for (number, name), found in zip(keys.values(), fetcher.fetch([*keys]), strict=True):
                if isinstance(found, FailedRead):
                    raise StoreError(f"An output of task {number} of {self.job_id} cannot be read: {found.reason}.")
                if found is not None:
                    known[number][name] = found.value
        return known

    def _find_outputs(self, numbers: Sequence[int]) -> Iterator[tuple[int, Entry, str]]:
        store, tasks = self._session.store, self._tasks.tasks
        if len(numbers) > FEW_TASKS:
            prefix = results_prefix(self.job_id)
            wanted = {(tasks[number].param_id, str(tasks[number].seed)): number for number in numbers}
            for entry in store.scan(prefix):
                param, seed, name, *_ = (*entry.key[len(prefix) :].split("/", 2), "", "")
                if (param, seed) in wanted:
                    yield wanted[param, seed], entry, name
            return
        for number in numbers:
            below = output_key(self.job_id, tasks[number], "")
            for entry in store.scan(below):
                yield number, entry, entry.key.removeprefix(below)

    def _count_open(self) -> int:
        with self._lock:
            return sum(map(len, self._open.values()))

    def _ended_without_mark(self) -> bool:
        return self._has_ended() and self._session.store.get(round_key(self.job_id, self._rounds + 1)) is None

    def _has_ended(self) -> bool:
        state = self._session.registry.get_job(self.job_id)
        self._record_at = self._session.monotonic()
        return state is None or state.is_terminal

    def _raise_end(self, consequence: str) -> None:
        state = self._session.registry.require_job(self.job_id)
        why = f": {state.error_message}" if state.error_message else ""
        raise _END_ERRORS.get(str(state.status), JobEndError)(
            f"Job {self.job_id} is {state.status}, and {consequence}{why}.",
            job_id=self.job_id,
            status=str(state.status),
        )


def begin_growing(session: Session, request: SubmitRequest) -> GrowingJob:
    """Submit a growing job, and return its client.

    Args:
        session: the registry, the environment and the messages.
        request: the job. Its `grows` is the idle time; its study may have no sets.

    Raises:
        UsageError: if the request is not valid, or if the code cannot be packed.
        MopsJobsError: if the submission fails; see `client.submit_job`. The registry has to answer.
    """
    if request.grows is None:
        raise UsageError("missing idle time of a growing job.")
    return continue_growing(session, submit(request, session).job_id)


def continue_growing(session: Session, job_id: str, reads: Callable[[str], bool] = lambda _name: True) -> GrowingJob:
    """Return a client that goes on with a growing job, also after its end: then it only tells how its tasks ended.

    Args:
        session: the registry, the environment and the messages.
        job_id: the job.
        reads: returns whether the client wants an output of this name.

    Raises:
        JobNotFoundError: if the job does not exist.
        NoManifestError: if mops-jobs did not submit it.
        UsageError: if it is not a growing one.
        StoreError: if the registry cannot be read.
    """
    manifest = session.load_manifest(job_id)
    if manifest.grows is None:
        raise UsageError(
            f"Job {job_id} has all its parameter sets: it is not a growing job.",
            hint=f"Its results: {command_line('results', job_id)}",
        )
    state = session.registry.require_job(job_id)
    return GrowingJob(session, manifest, recorded_policy(last_launch(state.to_dict())), reads)


def _error_of(attempt: Attempt) -> dict[str, object]:
    if attempt.error is None:
        return {"type": str(attempt.outcome), "message": f"it ended as {attempt.outcome}"}
    where = {} if attempt.error.where is None else {"at": attempt.error.where}
    return {"type": attempt.error.type, "message": attempt.error.message, **where}
