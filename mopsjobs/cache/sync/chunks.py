"""Fetch chunks of events and of ledgers. They never change, and the cache knows each by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mopsjobs.errors import RecordError
from mopsjobs.store.fetcher import NOT_READ, FailedRead, ParallelFetcher

CHUNKS = 64


class ChunkReport:
    """The counts and problems of a sync of chunks."""

    def __init__(self) -> None:
        self.listed = 0
        """Listed keys: the cost of the sync."""
        self.chunks = 0
        self.entries = 0
        self.problems: list[tuple[str, str]] = []
        """Key and reason of each new chunk that cannot be read, or not whole. Each is reported once."""


class Chunk(NamedTuple):
    """A chunk as it was read: its entries, or why it could not be read."""

    key: str
    parts: Any
    """Of the key: an `events.format.ChunkKey`, or a `ledger.format.ChunkKey`."""
    entries: Sequence[Any]
    problem: str | None


def is_missing(name: str, known: Mapping[str, str | None], *, retry: bool) -> bool:
    """Return whether the cache lacks a chunk.

    Args:
        name: its name.
        known: the problems of the chunks that the cache knows, by name; None for those without.
        retry: whether to read all unreadable chunks again, not only those that the store did not send.
    """
    problem = known.get(name)
    return name not in known or (problem is not None and (retry or problem.startswith(NOT_READ)))


def fetch_chunks(
    fetcher: ParallelFetcher, batch: Sequence[tuple[str, Any]], parse: Callable[[bytes, Any], Sequence[Any]]
) -> Iterator[Chunk]:
    """Yield chunks, fetched in parallel, and parsed one after the other. A chunk that is gone by now is skipped."""
    for (key, parts), found in zip(batch, fetcher.fetch([key for key, _ in batch]), strict=True):
        if isinstance(found, FailedRead):
            yield Chunk(key, parts, (), found.reason)
        elif found is not None:
            try:
                yield Chunk(key, parts, parse(found.value, parts), None)
            except RecordError as error:
                yield Chunk(key, parts, (), str(error))
