"""The contract of a versioned store: bytes under keys, each with a version, changed by compare-and-swap.

A store knows nothing about jobs. Each sentence of `VersionedStore` is a test in tests/contract/test_versioned_store.py,
which runs over all backends. A sentence that cannot be tested there does not belong to the contract.

The version is an ETag in Azure Blob Storage and S3, a random number in DynamoDB, and a counter in SQLite and in memory.
Each write gets a new version, also a write of equal bytes. There is one exception, in S3: values of equal bytes have
equal versions until they are replaced. The values that mops-jobs replaces are created with an id or a time in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from mopsjobs.errors import InvalidKeyError

MAX_KEY_BYTES = 900
"""Of UTF-8. DynamoDB and S3 allow 1,024, S3 with the prefix of the store."""

USUAL_WINDOW = 32
"""Concurrent reads that suffice if replies come within `pacer.LONG_SECONDS`."""


WantsValues = Callable[[], bool]
"""Whether the next request of a listing is to carry values."""


def always() -> bool:
    """Return True: each request of a listing is to carry values."""
    return True


class VersionToken(NamedTuple):
    """One version of one key. Opaque: compare it for equality, hand it to `put`, and do not interpret it."""

    value: str


class Versioned(NamedTuple):
    """A value and its version, both from the same reply."""

    value: bytes
    version: VersionToken


class Entry(NamedTuple):
    """One key of a scan. `value` is None if the listing did not carry it: then `get` fetches it.

    `size` is the length of the value in bytes if the listing has it, so that a reader can refuse a huge value
    unfetched. In S3 it is 65 bytes more once the value has replaced another.
    """

    key: str
    version: VersionToken
    value: bytes | None
    size: int | None = None


class ReadableStore(Protocol):
    """The methods of a `VersionedStore` that readers of single keys and listings need."""

    def get(self, key: str) -> Versioned | None:
        """See `VersionedStore.get`."""

    def scan(self, prefix: str = "") -> Iterator[Entry]:
        """See `VersionedStore.scan`."""


class VersionedStore(Protocol):
    """Versioned bytes under keys.

    An outage raises `StoreUnavailableError`. Refused or missing credentials raise `StoreAccessError`. An unexpected
    response raises `StoreError`. None of them ever looks like "no such key" or "no keys".

    A key outside the contract raises `InvalidKeyError`, and a value above the backend's limit raises
    `ValueTooLargeError`, both before anything is sent.

    A container or table that does not exist yet holds no keys. The first write creates it, a read never does.

    Every method may be called from several threads at once. A process may fork while it has a store open that several
    processes can have open. Then parent and child can both use it; of an embedded store, the child refuses to. A
    listing that has begun belongs to the parent.
    """

    def get(self, key: str) -> Versioned | None:
        """Return the value and its version, or None if the key does not exist."""

    def put(self, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        """Replace the value if `version` is still the current one.

        Returns the new version, which differs from every earlier one even if the bytes are equal. Returns None, and
        changes nothing, if the version is stale or the key is gone.
        """

    def create_if_absent(self, key: str, value: bytes) -> VersionToken | None:
        """Create the key. Returns its version; or None, and changes nothing, if it exists."""

    def delete(self, key: str) -> bool:
        """Remove the key, in any version. Return False if there was none."""

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys that start with `prefix`, in ascending order of code points."""

    def scan(self, prefix: str = "", wants_values: WantsValues = always, after: str = "") -> Iterator[Entry]:
        """Yield the same keys with their versions, and with their values if the listing carries them.

        `wants_values` is asked before each request. A listing whose values cost nothing carries them in any case.
        The keys up to `after` are left out.
        """

    def close(self) -> None:
        """Release the connections. A second call does nothing; any use after it is an error."""


class RangedStore(Protocol):
    """The method of a store that can send a part of a value."""

    def get_range(self, key: str, start: int, length: int) -> bytes | None:
        """Return bytes of the value, fewer at its end; or None if the key does not exist.

        It is for values that are created and never replaced.
        """


def check_key(key: str) -> str:
    """Return `key` if the contract allows it.

    A key has 1 to 900 bytes of UTF-8, of characters that print, no backslash, and no leading `/`. No segment is empty,
    `.` or `..`.

    Raises:
        InvalidKeyError: if the contract forbids it.
    """
    if not key.isprintable():
        raise InvalidKeyError(f"invalid key {key!r}: expected printable characters only.")
    if not key or len(key.encode()) > MAX_KEY_BYTES:
        raise InvalidKeyError(f"invalid key of {len(key.encode()):,} bytes: expected 1 to {MAX_KEY_BYTES}.")
    if "\\" in key:
        # Azure replaces it by a slash: two keys would be one blob.
        raise InvalidKeyError(f"invalid key {key!r}: expected no backslash, which some backends take for a slash.")
    if any(segment in ("", ".", "..") for segment in key.split("/")):
        raise InvalidKeyError(f"invalid key {key!r}: expected no empty, '.' or '..' segment.")
    return key
