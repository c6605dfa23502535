"""Put the listing of a server that has an order of its own into the order of code points, while it streams."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator

from mopsjobs.store.base import Entry


def in_code_point_order(entries: Iterable[Entry], unordered_prefix: Callable[[str], str | None]) -> Iterator[Entry]:
    """Yield the entries in the order of code points, and hold back only those that may be out of it.

    Args:
        entries: a listing that is in order, except within groups of keys that share a prefix.
        unordered_prefix: returns for a key the prefix of the group that it opens; None if the key is in its place.
    """
    held: list[Entry] = []
    prefix = ""
    for entry in entries:
        if held and not entry.key.startswith(prefix):
            yield from sorted(held)
            held = []
        if not held:
            opened = unordered_prefix(entry.key)
            if opened is None:
                yield entry
                continue
            prefix = opened
        held.append(entry)
    yield from sorted(held)


def from_folder_order(entries: Iterable[Entry], folder: str) -> Iterator[Entry]:
    """Yield the entries in the order of code points, from a server that lists folder by folder, or in that order.

    Such a server lists `a/x` before `a-1/x`, since it compares the names `a` and `a-1`. So the entries of a folder are
    held back until no entry that sorts before them can follow.

    Args:
        entries: the entries of one folder and of those below it, each folder in the order of its names.
        folder: its name with the slash that ends it; empty for the whole store.
    """
    held: list[Entry] = []
    for entry in entries:
        # What follows has this name below the folder, this name with something behind it, or a later one.
        following = f"{folder}{entry.key[len(folder) :].partition('/')[0]} "
        while held and held[0].key < following:
            yield heapq.heappop(held)
        heapq.heappush(held, entry)
    yield from sorted(held)
