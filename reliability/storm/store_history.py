"""What processes saw of a versioned store, written down call by call, and the model that it is held against.

A key of a versioned store is a register with compare-and-swap: `put` takes effect exactly when the version that it
names is the current one.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from mopsjobs.errors import StoreUnavailableError
from mopsjobs.store.base import Entry, Versioned, VersionedStore, VersionToken, WantsValues, always
from reliability.storm.linearizable import Operation, State

Line = dict[str, Any]


class Log:
    """The notes of one process, one JSON object per line. A note is there even if the process is killed next."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, **fields: object) -> None:
        """Add a line. Threads may do so at once: a line is one write."""
        os.write(self._file, (json.dumps(fields, separators=(",", ":")) + "\n").encode())


def read_log(path: str) -> list[Line]:
    """Return the lines of a log; the last one may have been cut by a kill."""
    lines = []
    with open(path, encoding="utf-8") as file:
        for text in file:
            with contextlib.suppress(ValueError):
                lines.append(json.loads(text))
    return lines


class RecordingStore:
    """A store whose calls on keys with some prefixes are noted, with CLOCK_MONOTONIC, which all processes share."""

    def __init__(self, store: VersionedStore, log: Log, prefixes: tuple[str, ...]) -> None:
        self._store = store
        self._log = log
        self._prefixes = prefixes
        self._numbers = itertools.count()
        self._digests: dict[str, str] = {}
        self.list_keys = store.list_keys
        self.close = store.close

    def get(self, key: str) -> Versioned | None:
        start = time.monotonic()
        found = self._store.get(key)
        if key.startswith(self._prefixes):
            self._saw(key, start, None if found is None else found.version, None if found is None else found.value)
        return found

    def put(self, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        expected = {"expected": version.value, "expected_digest": self._digests.get(version.value)}
        return self._write("put", key, value, lambda: self._store.put(key, value, version), **expected)

    def create_if_absent(self, key: str, value: bytes) -> VersionToken | None:
        return self._write("create", key, value, lambda: self._store.create_if_absent(key, value))

    def delete(self, key: str) -> bool:
        return bool(self._write("delete", key, None, lambda: self._store.delete(key)))

    def scan(self, prefix: str = "", wants_values: WantsValues = always, after: str = "") -> Iterator[Entry]:
        start = time.monotonic()
        for entry in self._store.scan(prefix, wants_values, after):
            if entry.key.startswith(self._prefixes) and entry.value is not None:
                self._saw(entry.key, start, entry.version, entry.value)
            yield entry

    def _saw(self, key: str, start: float, version: VersionToken | None, value: bytes | None) -> None:
        found: Line = {}
        if version is not None and value is not None:
            found = {"version": version.value, **_identity_of(value)}
            self._digests[version.value] = found["digest"]
        self._log.note(call="get", key=key, start=start, end=time.monotonic(), **found)

    def _write(self, kind: str, key: str, value: bytes | None, write: Callable[[], Any], **expected: object) -> Any:
        if not key.startswith(self._prefixes):
            return write()
        number = next(self._numbers)
        identity = {} if value is None else _identity_of(value)
        self._log.note(call=kind, number=number, key=key, start=time.monotonic(), **expected, **identity)
        try:
            done = write()
        except StoreUnavailableError as error:
            # Nothing was sent: then nothing has happened. Else the outcome is unknown, and the call stays open.
            if not error.sent:
                self._log.note(ended=number, outcome="unsent", end=time.monotonic())
            raise
        version = done.value if isinstance(done, VersionToken) else None
        self._log.note(ended=number, outcome="yes" if done else "no", end=time.monotonic(), version=version)
        if version is not None and value is not None:
            self._digests[version] = identity["digest"]
        return done


def _identity_of(value: bytes) -> Line:
    """Return what tells one value from another, and which write a record is from."""
    identity: Line = {"digest": hashlib.blake2b(value, digest_size=8).hexdigest()}
    with contextlib.suppress(ValueError):
        record = json.loads(value)
        if isinstance(record, dict):
            identity |= {"revision": record.get("revision"), "write_id": record.get("write_id")}
    return identity


# --- the model ------------------------------------------------------------------------------------------------------


class Call(NamedTuple):
    """A call on one key. Digests stand for values; no two writes of a trial have the same on one key."""

    kind: str
    """get, put, create or delete."""
    outcome: str
    """`yes`: it did, or found, something; `no`, or `open`: unknown."""
    digest: str | None
    """Of what it wrote or found."""
    version: str | None
    """Of what it wrote or found; None if no reply said it."""
    expected: str | None
    """The version that a put replaces."""
    expected_digest: str | None


def step(state: State, call: Any) -> tuple[State, ...]:
    """Return the model of one key: `None`, or digest and version, the latter None until a reply says it."""
    assert isinstance(call, Call)
    assert state is None or isinstance(state, tuple)
    written = (call.digest, call.version)
    if call.kind == "get":
        if call.outcome == "no":
            return (state,) if state is None else ()
        return (written,) if state in (written, (call.digest, None)) else ()
    if call.kind == "put":
        applies = state is not None and (
            state[1] == call.expected or (state[1] is None and state[0] == call.expected_digest)
        )
    else:
        applies = (state is None) == (call.kind == "create")
    if call.outcome == "no":
        return () if applies else (state,)
    return ((None if call.kind == "delete" else written),) if applies else ()


def histories(logs: Iterable[list[Line]]) -> dict[str, list[Operation]]:
    """Return what all processes together saw of each key. A call without an end is open: it may have landed or not."""
    found: dict[str, list[Operation]] = defaultdict(list)
    for log in logs:
        ends = {line["ended"]: line for line in log if "ended" in line}
        for line in log:
            if "call" not in line:
                continue
            kind = line["call"]
            end = line if kind == "get" else ends.get(line["number"], {"outcome": "open", "end": math.inf})
            outcome = end.get("outcome") or ("yes" if line.get("version") else "no")
            if outcome == "unsent":
                continue
            fields = (line.get("digest"), end.get("version"), line.get("expected"), line.get("expected_digest"))
            observes = kind == "get" or outcome == "no"
            call = Call(kind, outcome, *fields)
            found[line["key"]].append(Operation(line["start"], end["end"], call, observes))
    return found
