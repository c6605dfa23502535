"""Put the listing of a server that has an order of its own into the order of code points, while it streams."""

from __future__ import annotations

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
