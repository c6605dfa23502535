"""Deliver what a process left on a disk because it did not reach the registry.

It lies in a store there: the outbox of a machine or of a shard (SQLite), or the drop of a shard (files). A model can
write there too. So a relay carries only keys of forms that name it, of its own job (registry/keys.py). Values are
written by `create_if_absent`: a delivery may stop anywhere, run at any time, and run twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from mopsjobs.errors import VALUE_ERRORS, InvalidKeyError, StoreError
from mopsjobs.registry.keys import BUNDLE, MACHINE, may_carry
from mopsjobs.store.base import VersionedStore
from mopsjobs.store.bulk import TransactionalStore, create_all_if_absent

BATCH_BYTES = 2**20
"""Values that an embedded registry takes in one transaction: each waits for the disk."""

OnRefused = Callable[[str, StoreError], object]
"""Called with key and reason for each value that can never be stored."""


def deliver(  # noqa: PLR0913 - all but five by name
    source: VersionedStore,
    store: VersionedStore,
    job_id: str,
    on_refused: OnRefused,
    is_over: Callable[[], bool] = lambda: False,
    *,
    relay: str = MACHINE,
    skips: Callable[[str], bool] = lambda _key: False,
    stays: Callable[[str], bool] = lambda _key: False,
    key_of: Callable[[str], str] = str,
    on_foreign: Callable[[str], None] | None = None,
) -> bool:
    """Move values into a store, in the order of their keys: a bundle goes before its manifest.

    Args:
        source: where the values wait.
        store: where they belong. A value that it has already stays.
        job_id: the job of the values.
        on_refused: see `OnRefused`. Such a value is removed as if it was delivered.
        is_over: called before each value; returns True to leave the rest.
        relay: `keys.MACHINE`, or `keys.SHARD` for what a shard left.
        skips: whether a key is neither delivered nor removed.
        stays: whether a key is not removed when it is delivered.
        key_of: the key under which a value is delivered.
        on_foreign: called with each key that the relay may not carry: its value is not read, and stays. None: it is
            refused, as a value that can never be stored.

    Returns:
        True if each value was delivered, refused or skipped.

    Raises:
        StoreUnavailableError: if the store does not answer. What was moved before stays moved.
        StoreError: if the store refuses every value.
    """
    limit = BATCH_BYTES if isinstance(store, TransactionalStore) else 0
    batch: list[tuple[str, bytes]] = []
    size = 0

    def write() -> None:
        _create(store, [(key_of(key), value) for key, value in batch], on_refused)
        for key, _ in batch:
            if not stays(key):
                source.delete(key)
        batch.clear()

    def refuse(key: str) -> None:
        on_refused(key, InvalidKeyError(f"it is not of job {job_id}."))
        source.delete(key)

    for entry in source.scan():
        if is_over():
            return False
        key, value = entry.key, entry.value
        if skips(key):
            continue
        if not may_carry(relay, key, job_id):
            (on_foreign or refuse)(key)
            continue
        try:
            found = source.get(key) if value is None else None
        except VALUE_ERRORS as error:
            on_refused(key, error)
            continue
        value = value if found is None else found.value
        if value is None:
            continue
        if (bundle := BUNDLE.parse(key)) is not None and hashlib.sha256(value).hexdigest() != bundle["bundle"]:
            refuse(key)
            continue
        batch.append((key, value))
        size += len(value)
        if size >= limit:
            write()
            size = 0
    write()
    return True


def _create(store: VersionedStore, batch: Sequence[tuple[str, bytes]], on_refused: OnRefused) -> None:
    """Create the keys of a batch that do not exist. If the store refuses one, the others are created all the same."""
    try:
        create_all_if_absent(store, batch)
    except VALUE_ERRORS:
        for key, value in batch:
            try:
                store.create_if_absent(key, value)
            except VALUE_ERRORS as error:
                on_refused(key, error)
