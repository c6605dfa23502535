"""Updates by compare-and-swap whose effect can be told in the bytes: each appends a name to a list."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from mopsjobs.store import cas
from mopsjobs.store.base import Versioned
from support.doubles import FaultyStore, RecordingSleep

KEY = "jobs/j-1/state.json"


def mark(name: str) -> cas.Apply:
    """Return an update whose effect can be told in the bytes: it appends a name to a list."""
    return lambda value: json.dumps([*json.loads(value), name]).encode()


def marked(name: str) -> Callable[[bytes], bool]:
    return lambda value: name in json.loads(value)


def marks(store: FaultyStore) -> list[str]:
    found = store.inner.get(KEY)
    assert found is not None
    names: list[str] = json.loads(found.value)
    return names


def rival(store: FaultyStore, name: str = "rival") -> None:
    """Write another update, straight to the store."""
    cas.update(store.inner, KEY, mark(name))


class Marking:
    """The `cas.Update` of a mark that may not outlive the next write."""

    def __init__(
        self, already_applied: Callable[[bytes], bool], before_write: Callable[[], None] = lambda: None
    ) -> None:
        self.already_applied = already_applied
        self.before_write = before_write

    def leaves_permanent_trace(self, value: bytes) -> bool:
        return False

    def on_read(self, current: Versioned) -> None:
        """Ignore them."""


def marking(name: str) -> Marking:
    """Return the callbacks of an update by `mark(name)`."""
    return Marking(marked(name))


def update(store: FaultyStore, name: str = "mine", **options: Any) -> cas.CasResult:
    options = {"sleep": RecordingSleep(), "callbacks": marking(name)} | options
    return cas.update(store, KEY, mark(name), **options)


def create(store: FaultyStore, name: str = "mine", **options: Any) -> cas.CasResult | None:
    options = {"sleep": RecordingSleep(), "callbacks": marking(name)} | options
    return cas.create(store, "new", json.dumps([name]).encode(), **options)
