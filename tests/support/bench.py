"""A registry over a store in memory, with a clock, ids, a sleep and a line that the test holds in its hands."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from mopsjobs.errors import StoreUnavailableError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.memory import InMemoryVersionedStore
from support.doubles import FaultyStore, RecordingSleep
from support.existing import existing

NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)


class Overtaken(FaultyStore):
    """A bad line on which another writer writes on top of a write that landed, before its writer hears of the loss."""

    rival: Callable[[], object] | None = None

    def _write(self, write: Callable[[], Any]) -> Any:
        try:
            return super()._write(write)
        except StoreUnavailableError:
            if self.rival is not None:
                self.rival()
            raise


class Bench:
    """A registry with everything that it was given, and what it told its mirror."""

    def __init__(self) -> None:
        self.store = InMemoryVersionedStore()
        self.line = Overtaken(self.store)
        self.sleep = RecordingSleep()
        self.now = NOW
        self.told: list[tuple[str, bytes, Any]] = []
        ids = itertools.count(1)
        self.registry = JobRegistry(
            self.line,
            now=lambda: self.now,
            new_id=lambda: f"w{next(ids)}",
            sleep=self.sleep,
            random=lambda: 0.5,
            on_write=lambda key, value, version: self.told.append((key, value, version)),
        )
        self.rival = JobRegistry(self.store, now=lambda: self.now, new_id=lambda: f"rival{next(ids)}")

    def place(self, job_id: str = "a", **fields: object) -> bytes:
        """Put a record there as ModelOps does: indented, with none of our fields unless given."""
        at = NOW.isoformat()
        record = {"job_id": job_id, "status": "running", "created_at": at, "updated_at": at, "tasks_total": 0, **fields}
        value = json.dumps(record, indent=2).encode()
        assert self.store.create_if_absent(self.registry.key_of(job_id), value)
        return value

    def bytes(self, job_id: str = "a") -> bytes:
        return existing(self.registry.get_record(job_id)).value

    def history(self, job_id: str = "a") -> list[str]:
        job = existing(self.registry.get_job(job_id))
        return [str(step["status"]) for step in job.transitions]
