"""Defects put into mops-jobs on purpose, in the processes of a long life: a check that finds none proves nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from mopsjobs.cache import events, mirror
from mopsjobs.retention import Old, Retention


def _remove_nothing() -> None:
    Retention._remove = lambda self, old: True  # type: ignore[method-assign]


def _remove_too_much() -> None:
    given = Retention._old_chunks

    def old_chunks(self: Retention) -> Iterator[Old]:
        return (old._replace(job_id="nobody") for old in given(self))

    Retention._old_chunks = old_chunks  # type: ignore[method-assign]


def _forget_no_names() -> None:
    events.forget_chunks = lambda connection, before: 0


def _leave_a_connection_open() -> None:
    given, left = mirror.open_to_write, []

    def open_one(path: str, registry_id: str) -> Any:
        left.append(given(path, registry_id))
        return given(path, registry_id)

    mirror.open_to_write = open_one


def _keep_what_was_read() -> None:
    given, kept = events.parse_chunk, []

    def parse(value: bytes, *, job_id: str | None = None) -> Any:
        kept.append(b"x" * (1 << 17))
        return given(value, job_id=job_id)

    events.parse_chunk = parse


MUTATIONS: dict[str, Callable[[], None]] = {
    "retention removes nothing": _remove_nothing,
    "retention removes the events of active jobs": _remove_too_much,
    "names of chunks are never forgotten": _forget_no_names,
    "each sync leaves a connection to the cache open": _leave_a_connection_open,
    "what was read of events stays in memory": _keep_what_was_read,
}
