"""Tell a key whose value the store does not send from a store that does not answer."""

from __future__ import annotations

from mopsjobs.errors import (
    StoreAccessError,
    StoreError,
    StoreUnavailableError,
    UnusableStoreError,
    ValueTooLargeError,
)
from mopsjobs.store.base import ReadableStore

NOT_READ = "not read: "
"""Beginning of the reason, so that a later sync knows that the value was never seen."""


def why_unread(store: ReadableStore, key: str, error: StoreError) -> str | None:
    """Return why the store does not send the value of one key, or None if the key is gone.

    An outage and a refusal may concern the whole store. If a listing of the key works, an outage does not. A refusal
    does not if a read of a missing key is answered too: credentials may permit to list, and not to read.

    Raises:
        StoreError: if the store cannot be listed, refuses all reads, or cannot keep a registry.
    """
    if isinstance(error, UnusableStoreError):
        raise error
    is_refusal = isinstance(error, StoreAccessError)
    if is_refusal or isinstance(error, StoreUnavailableError):
        if next((entry.key for entry in store.scan(key)), None) != key:
            return None
        if is_refusal:
            store.get(_missing_key(key))
    return reason_of(error)


def _missing_key(key: str) -> str:
    """Return a key as long as this one, and with the same end, that no job has: permissions may depend on the path."""
    directory, slash, name = key.rpartition("/")
    return f"{directory[:-1]}~{slash}{name}"


def reason_of(error: StoreError) -> str:
    """Return why a value was not read, for reports that name its key."""
    return error.message if isinstance(error, ValueTooLargeError) else f"{NOT_READ}{error.message.rstrip('.')}"
