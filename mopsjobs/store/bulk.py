"""Many reads, or many creations, of a store at once: paced together, or in one transaction.

`pacer.py` paces reads of a store across a network. It is not imported here: a listing of a store on this machine syncs
too, and needs no network.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from mopsjobs.store.base import VersionedStore
    from mopsjobs.store.pacer import ReadPacer


def pacer_of(store: object) -> ReadPacer | None:
    """Return the pacer of a store across a network; None of another store."""
    return getattr(store, "pacer", None)


@contextlib.contextmanager
def bulk_reads(store: object) -> Iterator[None]:
    """Have all reads of a store in the block paced together."""
    pacer = pacer_of(store)
    with pacer.bulk() if pacer is not None else contextlib.nullcontext():
        yield


@runtime_checkable
class TransactionalStore(Protocol):
    """The method of a store with transactions, which cost more than the values in them."""

    def create_all_if_absent(self, values: Sequence[tuple[str, bytes]]) -> None:
        """Create those of the keys that do not exist. After an error, none of them was created."""

    def delete_all(self, keys: Sequence[str]) -> None:
        """Remove those of the keys that exist. After an error, none of them was removed."""


def create_all_if_absent(store: VersionedStore, values: Sequence[tuple[str, bytes]]) -> None:
    """Create those of the keys that do not exist, in their order; in one transaction where the store has them.

    Raises:
        StoreError: if `VersionedStore.create_if_absent` would. A store without transactions may have the first keys.
    """
    if isinstance(store, TransactionalStore):
        store.create_all_if_absent(values)
    else:
        for key, value in values:
            store.create_if_absent(key, value)


def delete_all(store: VersionedStore, keys: Sequence[str]) -> None:
    """Remove keys; in one transaction where the store has them."""
    if isinstance(store, TransactionalStore):
        store.delete_all(keys)
    else:
        for key in keys:
            store.delete(key)
