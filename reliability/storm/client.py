"""One of the processes of a storm: works on jobs and keys that others work on too, and notes what it was told.

`python -m reliability.storm.client SPEC` takes the JSON of a `Spec`. It does its operations and says "done". After a
line on its standard input, when the network is good again, it syncs its cache once more and ends.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from mopsjobs.cache import database as cache_database
from mopsjobs.cache.sync import mirror
from mopsjobs.cache.write_through import cached_version, write_through
from mopsjobs.errors import (
    CacheError,
    InvalidTransitionError,
    JobError,
    RecordError,
    StoreError,
    StoreUnavailableError,
    TooManyRetriesError,
)
from mopsjobs.registry.job_registry import JobRegistry, TakeRecord
from mopsjobs.registry.job_state import JobState
from mopsjobs.store import open_store
from mopsjobs.store.base import Versioned, VersionToken
from mopsjobs.store.urls import identity
from mopsjobs.utils.times import utc_now
from reliability.storm import messages
from reliability.storm.mutations import MUTATIONS
from reliability.storm.store_history import Log, RecordingStore


class Spec(NamedTuple):
    """The orders of a process."""

    name: str
    url: str
    log: str
    cache: str
    seed: str
    operations: int
    first: int = 0
    """Number of its first operation: one that follows a killed one goes on where the others are."""
    seconds: float = 600.0
    """After so long it begins no other operation."""
    clock: float = 0.0
    """Seconds by which its clock is off."""
    mutation: str = ""
    """What is wrong with it on purpose: a name in `MUTATIONS`, of its backend."""


IN_DOUBT = "may or may not have landed"
"""What the hint of an error says exactly when its write may have landed."""


PAGE_KEYS = 5
"""Keys in a page of a listing across a network, so that those of a storm have several, as those of large registries."""

SHARED_FOR = 12
"""Operations for which all processes are at the same hot job; then they go on to the next."""

TOLD_FOR = 4
OWN_FOR = 25
RAW_FOR = 40
"""The same for a message, a job without other writers, and keys of the store below the registry."""

ENDS = ("succeeded", "partial", "failed")

CALM_TRIES = 5
"""At the last sync: a machine that is busy may keep a server from answering in time."""

_TARGETS = {"submitting": 20, "scheduled": 30, "running": 40, "validating": 15} | dict.fromkeys(ENDS, 1)
_SEEN = "key, json_extract(record, '$.revision'), version, status = json_extract(record, '$.status')"
_MIX = {
    "status": 30, "progress": 25, "fields": 12, "cancel": 2, "own": 15, "raw": 15, "sync": 6, "begin": 4, "tell": 10,
}  # fmt: skip


class Client:
    """The process."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._log = Log(spec.log)
        self._random = random.Random(spec.seed)
        self._registry_id = identity(spec.url, os.environ)
        store = open_store(spec.url)
        backend = getattr(store, "_store", store)  # without the probe of conditions
        if hasattr(backend, "_page_size"):
            backend._page_size = PAGE_KEYS
        self._store = RecordingStore(store, self._log, ("jobs/hot-", "jobs/own-", "raw/"))
        self._operation = ""
        self._begun = itertools.count()
        self._registry = JobRegistry(self._store, now=self._now, new_id=lambda: self._operation, observe=self._observe)
        self._number = spec.first
        self._versions: dict[str, VersionToken] = {}

    def run(self) -> None:
        """Do the operations, wait until all is calm, and bring the cache up to date."""
        end = time.monotonic() + self._spec.seconds
        kinds, weights = list(_MIX), list(_MIX.values())
        last = self._spec.first + self._spec.operations
        while self._number < last and time.monotonic() < end:
            self._job(f"own-{self._spec.name}-{self._number // OWN_FOR}", "register")
            self._job(f"hot-{self._number // SHARED_FOR}", "register")
            for _ in range(SHARED_FOR):
                kind = self._random.choices(kinds, weights)[0]
                self._one(kind)
        print("done", flush=True)
        sys.stdin.readline()
        self._insist(lambda: self._sync(is_calm=True))
        self._store.close()

    def _insist(self, sync: Callable[[], bool]) -> None:
        if not any(sync() for _ in range(CALM_TRIES)):
            sys.exit(f"{self._spec.name} could not sync on a line without faults")

    def _one(self, kind: str) -> None:
        self._number += 1
        calls: dict[str, Callable[[], object]] = {
            "raw": self._raw,
            "sync": self._sync,
            "tell": self._tell,
            "begin": self._begin_cache,
        }
        if kind == "own":
            self._job(f"own-{self._spec.name}-{self._number // OWN_FOR}", self._random.choice(["status", "progress"]))
        elif kind in calls:
            calls[kind]()
        else:
            self._job(f"hot-{self._number // SHARED_FOR}", kind)

    # --- through the registry -----------------------------------------------------------------------------------

    def _job(self, job: str, kind: str) -> None:
        """Make one call of the registry. Every field that can carry the name of the operation does."""
        trace = {self._begin(kind): 1}
        target = self._random.choices(list(_TARGETS), list(_TARGETS.values()))[0]
        calls: dict[str, Callable[[], JobState]] = {
            "register": lambda: self._registry.register_job(job, metadata=trace),
            "status": lambda: self._registry.update_status(job, target, metadata=trace),
            "progress": lambda: self._registry.update_progress(job, self._random.randrange(10**9)),
            "fields": lambda: self._registry.update_fields(job, metadata=trace),
            "cancel": lambda: self._registry.cancel_job(job),
        }
        details = {"target": target} if kind == "status" else {"target": "cancelled"} if kind == "cancel" else {}
        self._note(kind, job, **details)
        try:
            state = calls[kind]()
        except RecordError as error:
            self._ended("corrupt", error)
        except StoreError as error:
            denied = "unreached" if isinstance(error, StoreUnavailableError) else "nonsense"
            self._ended("unknown" if IN_DOUBT in (error.hint or "") else denied, error)
        except InvalidTransitionError as error:
            self._ended("refused", error, from_status=error.from_status, to_status=error.to_status)
        except (JobError, TooManyRetriesError) as error:
            self._ended("refused", error)
        else:
            self._ended("ok", status=str(state.status), revision=state.revision, write_id=state.write_id)

    def _observe(self, key: str) -> TakeRecord:
        """Return a function that puts the record of `key` into the cache, as commands do."""
        job_id = self._registry.job_id_of(key)
        assert job_id is not None
        before = cached_version(self._spec.cache, self._registry_id, job_id, key)

        def take(record: Versioned) -> None:
            with contextlib.suppress(CacheError):  # the next sync brings the record
                write_through(self._spec.cache, self._registry_id, job_id, key, record, before)

        return take

    def _now(self) -> datetime:
        return utc_now() + timedelta(seconds=self._spec.clock)

    # --- below it, and above it ---------------------------------------------------------------------------------

    def _raw(self) -> None:
        """Make one call on a key of the store. The store's own notes tell of it."""
        key = f"raw/{self._number // RAW_FOR}-{self._random.randrange(2)}"
        value = self._begin("raw").encode()
        with contextlib.suppress(StoreError):
            chosen = self._random.random()
            if chosen < 0.3:
                found = self._store.get(key)
                self._remember(key, found)
            elif chosen < 0.5:
                self._store.create_if_absent(key, value)
            elif chosen < 0.53:
                self._store.delete(key)
            else:
                version = self._versions.get(key) or self._remember(key, self._store.get(key))
                if version is not None and (put := self._store.put(key, value, version)) is not None:
                    self._versions[key] = put

    def _remember(self, key: str, found: Versioned | None) -> VersionToken | None:
        if found is not None:
            self._versions[key] = found.version
        return None if found is None else found.version

    def _sync(self, *, is_calm: bool = False, cache: str = "") -> bool:
        """Sync a cache, and note what it holds then: each job's revision and version. Returns whether it worked."""
        cache = cache or self._spec.cache
        self._begin("sync")
        self._note("sync", None, is_calm=is_calm)
        try:
            report = mirror.sync(self._registry, cache, self._registry_id, now=self._now)
        except StoreError as error:
            self._ended("failed", error)
            return False
        connection = cache_database.open_to_read(cache, self._registry_id)
        assert connection is not None
        with contextlib.closing(connection):
            rows = connection.execute(f"SELECT {_SEEN} FROM job").fetchall()
        problems = [(one.key, one.reason) for one in report.problems]
        problems += [(key, "its row is not that of its record") for key, _, _, is_own in rows if not is_own]
        self._ended("ok", is_full=report.is_full, rows={key: rest for key, *rest in rows}, problems=problems)
        return True

    def _tell(self) -> None:
        """Tell of a job, unless another process has."""
        self._begin("tell")
        self._note("tell", None)
        try:
            messages.tell(self._store, f"told-{self._number // TOLD_FOR}", self._log, self._now)
        except StoreError as error:
            self._ended("failed", error)
        else:
            self._ended("ok")

    def _begin_cache(self) -> None:
        """Fill an empty cache. What a killed process has left is gone on with."""
        path = f"{self._spec.cache}.begun"
        if self._sync(cache=path):
            for suffix in ("", "-wal", "-shm"):
                Path(path + suffix).unlink(missing_ok=True)

    # --- notes --------------------------------------------------------------------------------------------------

    def _begin(self, kind: str) -> str:
        self._operation = f"{self._spec.name}.{kind}.{next(self._begun)}"
        return self._operation

    def _note(self, kind: str, job: str | None, **details: object) -> None:
        self._log.note(op=self._operation, kind=kind, job=job, start=time.monotonic(), **details)

    def _ended(self, outcome: str, error: Exception | None = None, **details: Any) -> None:
        if error is not None:
            details |= {"error": type(error).__name__, "message": str(error)}
        self._log.note(op_ended=self._operation, outcome=outcome, end=time.monotonic(), **details)


def main() -> None:
    spec = Spec(**json.loads(sys.argv[1]))
    # A registry as small as a trial's would be listed whole each time: here the changed jobs alone are asked for.
    mirror.SMALL_REGISTRY, mirror.MAX_SHARE_READ = 0, 1e6
    if spec.mutation:
        backend = {"dynamodb": "DynamoDB", "s3": "S3"}.get(spec.url.partition(":")[0], "Azure")
        MUTATIONS[backend][spec.mutation].put_in()
    Client(spec).run()


if __name__ == "__main__":
    main()
