"""Moving what one machine has kept during an outage into the store where it belongs."""

from __future__ import annotations

from collections.abc import Callable

from mopsjobs.errors import InvalidKeyError, StoreError, ValueTooLargeError
from mopsjobs.store.base import Entry, VersionedStore

REFUSED = (ValueTooLargeError, InvalidKeyError)
"""What is wrong with one value, and with no other."""


def deliver(
    kept: VersionedStore,
    store: VersionedStore,
    refused: Callable[[str, StoreError], None],
    is_over: Callable[[], bool] = lambda: False,
) -> bool:
    """Move what is kept into the store, in the order of the keys: a bundle before the manifest that names it.

    Written by `create_if_absent`: what is there already stays. Tells whether nothing is left.

    Args:
        kept: where it waits.
        store: where it belongs.
        refused: called with key and reason for each value that can never be stored; it is given up.
        is_over: asked before each whether to leave the rest.

    Raises:
        StoreUnavailableError: the store does not answer. What was moved before stays moved.
        StoreError: it takes nothing more.
    """
    for entry in kept.scan():
        if is_over():
            return False
        value = entry.value if entry.value is not None else _value(kept, entry)
        if value is not None:
            try:
                store.create_if_absent(entry.key, value)
            except REFUSED as error:
                refused(entry.key, error)
        kept.delete(entry.key)
    return True


def _value(store: VersionedStore, entry: Entry) -> bytes | None:
    found = store.get(entry.key)
    return None if found is None else found.value
