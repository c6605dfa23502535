"""Defects put into mops-jobs on purpose, in the processes of a long life: a check that finds none proves nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, NamedTuple

from mopsjobs.cache import pruning
from mopsjobs.cache.sync import events as event_sync
from mopsjobs.cache.sync import mirror
from mopsjobs.events.retention import Retention
from mopsjobs.web.site import background
from reliability.storm.mutations import look_at_half_of_what_was_announced


class Mutation(NamedTuple):
    """One thing that is wrong, and the sentence that tells of it, as a regular expression."""

    put_in: Callable[[], None]
    told: str


def _remove_nothing() -> None:
    Retention._remove = lambda self, old: True  # type: ignore[method-assign]


def _remove_too_much() -> None:
    Retention._has_ended = lambda self, job_id: True  # type: ignore[method-assign]


def _forget_no_names() -> None:
    event_sync.forget_chunks = lambda connection, before: 0


def _leave_a_connection_open() -> None:
    given, left = mirror.open_to_write, []

    def open_one(path: str, registry_id: str) -> Any:
        left.append(given(path, registry_id))
        return given(path, registry_id)

    mirror.open_to_write = open_one


def _keep_what_was_read() -> None:
    given, kept = event_sync.parse_chunk, []

    def parse(value: bytes, *, job_id: str | None = None) -> Any:
        kept.append(b"x" * (1 << 17))
        return given(value, job_id=job_id)

    event_sync.parse_chunk = parse


def _prune_no_events() -> None:
    given = pruning.prune

    def prune(connection: sqlite3.Connection, ended_before: float) -> pruning.PruneResult:
        kept = connection.execute("SELECT * FROM event").fetchall()
        pruned = given(connection, ended_before)
        marks = ", ".join("?" * len(kept[0])) if kept else ""
        connection.executemany(f"INSERT OR IGNORE INTO event VALUES ({marks})", kept)
        return pruned

    pruning.prune = prune


def _never_sync_the_page() -> None:
    background.Syncer._sync = lambda self: None  # type: ignore[method-assign]


MUTATIONS = {
    "retention removes nothing": Mutation(_remove_nothing, "announcements in the store"),
    "retention removes the events of active jobs": Mutation(_remove_too_much, "events of .* are missing"),
    "names of chunks are never forgotten": Mutation(_forget_no_names, "names of chunks in the cache"),
    "each sync leaves a connection to the cache open": Mutation(_leave_a_connection_open, "open files of who syncs"),
    "what was read of events stays in memory": Mutation(_keep_what_was_read, "memory in use of who syncs"),
    "a delta sync looks at half of what was announced": Mutation(
        look_at_half_of_what_was_announced, "unlike the registry"
    ),
    "pruning a cache leaves the events": Mutation(_prune_no_events, "rows of the cache of the page"),
    "the page never syncs by itself": Mutation(_never_sync_the_page, "the page has synced"),
}
