"""The writers of `life`: each reports one job after the other, as runners do, by a clock that the caller moves."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from mopsjobs.errors import JobExistsError, StoreUnavailableError
from mopsjobs.events.format import LOG, STATE
from mopsjobs.events.writer import EventLog, state_fields
from mopsjobs.registry.announcements import slot_of
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.base import VersionedStore
from mopsjobs.utils.times import json_time
from reliability.trial import hold

EVERY = 60
"""Minutes between two reports of a job."""
SHORTEST, LONGEST = 60, 140
"""Minutes of a job."""
ATTEMPTS, PAUSE = 60, 5.0
"""At a write that finds the server too busy, and seconds between two of them."""

AT_ONCE = 8
"""Writers that are at work at the same instant."""

T = TypeVar("T")

OpenStore = Callable[[], VersionedStore]


@dataclass
class Life:
    """One job: what its writer knows of it."""

    job_id: str
    begins: int
    """The minute of the day, as all of these."""
    ends: int
    source: str = ""
    """Of its events."""
    emitted: int = 0
    """Events, all of which the store has taken once the log is closed."""
    ended_at: datetime | None = None


def lives(number: int, chance: random.Random, minutes: range) -> Iterator[Life]:
    """Yield the jobs that a writer reports in turn. The first is in the middle of its life."""
    begins = minutes.start
    length = chance.randint(1, LONGEST)
    for count in range(10**6):
        yield Life(f"job-{number:03}-{minutes.start + 10**5}-{count:03}", begins, begins + length)
        begins += length + 1
        if begins >= minutes.stop:
            return
        length = chance.randint(SHORTEST, LONGEST)


def reports(life: Life, minutes: range) -> Iterator[int]:
    """Yield the minutes at which a job's record is written."""
    yield from range(life.begins, min(life.ends, minutes.stop), EVERY)
    if life.ends < minutes.stop:
        yield life.ends


def announcements(writers: int, chance: random.Random, minutes: range, at: Callable[[int], datetime]) -> set[str]:
    """Return what this many writers announce in these minutes."""
    return {
        slot_of(at(minute)) + life.job_id
        for number in range(writers)
        for life in lives(number, chance, minutes)
        for minute in reports(life, minutes)
    }


class Writer:
    """One runner after the other: each job has a store, a registry and a log of its own, opened and closed with it."""

    def __init__(
        self, number: int, open_store: OpenStore, chance: random.Random, minutes: range, now: Callable[[], datetime]
    ) -> None:
        self.done: list[Life] = []
        """The jobs that it has begun, the last of which may be at work."""
        self._lives = lives(number, chance, minutes)
        self._open_store = open_store
        self._minutes = minutes
        self._now = now
        self._closing = contextlib.ExitStack()
        self._begin()

    def work(self, minute: int) -> None:
        """Do what is due."""
        life = self._life
        if life is None or minute not in self._due:
            return
        if minute == life.begins:
            self._closing = contextlib.ExitStack()
            store = self._open_store()
            self._closing.callback(store.close)
            self._registry = JobRegistry(store, now=self._now)
            self._log = EventLog(store, life.job_id, source="life", now=self._now, flush_seconds=0.02)
            life.source = self._log.source
            self.done.append(life)
            _patiently(lambda: self._register(life.job_id))
            running = _patiently(lambda: self._registry.update_status(life.job_id, "running"))
            self._emit(STATE, **state_fields(running))
        elif minute < life.ends:
            _patiently(lambda: self._registry.update_progress(life.job_id, (minute - life.begins) // EVERY))
            _patiently(lambda: self._registry.update_fields(life.job_id, heartbeat_at=json_time(self._now())))
            self._emit(LOG, text=f"minute {minute}")
        if minute == life.ends:
            ended = _patiently(lambda: self._registry.finalize_job(life.job_id, "succeeded"))
            self._emit(STATE, **state_fields(ended))
            life.ended_at = self._now()
            self.close()
            self._begin()

    def close(self) -> None:
        """End the process of the job at work, but not the job.

        Raises:
            PromiseBroken: its events were not taken.
        """
        if self._life is not None and self._life.source:
            hold(self._log.close(300), f"the events of {self._life.job_id} were not taken")
            self._closing.close()

    def _begin(self) -> None:
        self._life = next(self._lives, None)
        self._due = set() if self._life is None else set(reports(self._life, self._minutes))

    def _register(self, job_id: str) -> None:
        with contextlib.suppress(JobExistsError):  # an attempt before this one landed
            self._registry.register_job(job_id, tasks_total=10, owner="life")

    def _emit(self, kind: str, **fields: object) -> None:
        assert self._life is not None
        self._life.emitted += 1
        self._log.emit(kind, **fields)


def _patiently(write: Callable[[], T]) -> T:
    """Ask a server that is too busy again, as a runner does."""
    for _ in range(ATTEMPTS):
        with contextlib.suppress(StoreUnavailableError):
            return write()
        time.sleep(PAUSE)
    return write()


@dataclass
class Fleet:
    """All writers."""

    writers: list[Writer]
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(AT_ONCE))

    def work(self, minute: int) -> None:
        """Let each do what is due."""
        list(self.threads.map(lambda writer: writer.work(minute), self.writers))

    def close(self) -> list[Life]:
        """End them all. Returns the jobs."""
        for writer in self.writers:
            writer.close()
        self.threads.shutdown()
        return [life for writer in self.writers for life in writer.done]
