"""Create many keys at once, in one transaction where the store has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from mopsjobs.store.base import VersionedStore


@runtime_checkable
class TransactionalStore(Protocol):
    """The method of a store with transactions, which cost more than the values in them."""

    def create_all_if_absent(self, values: Sequence[tuple[str, bytes]]) -> None:
        """Create those of the keys that do not exist. After an error, none of them was created."""


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
