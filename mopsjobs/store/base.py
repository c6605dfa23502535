"""The contract of a versioned store: bytes under keys, each with a version, changed by compare-and-swap.

A store knows nothing about jobs. Each sentence of `VersionedStore` is a test in tests/contract/test_versioned_store.py,
which runs over all backends. What cannot be tested there is no part of the contract.

What the contract leans on, for each backend: an ETag in Azure Blob Storage, a random number in DynamoDB, a counter in
SQLite, a counter under a lock in memory. All give a new version to every write, equal bytes included.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from mopsjobs.errors import InvalidKeyError

MAX_KEY_LENGTH = 900
"""Characters. Azure allows 1,024, less what percent-encoding may add."""


class VersionToken(NamedTuple):
    """One version of one key. Opaque: compare for equality, hand back to `put`, read nothing into it."""

    value: str


class Versioned(NamedTuple):
    """A value with the version it had, both from the same reply."""

    value: bytes
    version: VersionToken


class Entry(NamedTuple):
    """One key of a scan. `value` is None where the listing did not carry it: then `get` fetches it.

    `size` is the value's length in bytes where the listing tells it, so that a reader can refuse a huge value
    unfetched.
    """

    key: str
    version: VersionToken
    value: bytes | None
    size: int | None = None


class VersionedStore(Protocol):
    """Versioned bytes under keys.

    An outage raises `StoreUnavailableError`, refused or missing credentials raise `StoreAccessError`, a reply that
    makes no sense raises `StoreError`: none of them ever looks like "no such key" or "no keys". A key outside the
    contract raises `InvalidKeyError` before anything is sent, and so does `ValueTooLargeError` a value that the backend
    does not take. A container or table that does not exist yet holds no
    keys; the first write creates it, a read never does. Every method may be called from several threads at once. A
    store that several processes can have open may be open when one of them forks, and is good on both sides then; or,
    where that cannot be, as while other threads use an embedded one, it is refused in the child. A listing that has
    begun is the parent's.
    """

    def get(self, key: str) -> Versioned | None:
        """The value and its version, or None when there is no such key."""

    def put(self, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        """Replace the value if `version` is still the current one.

        Returns the new version, which differs from every earlier one even when the bytes are equal. Returns None, and
        changes nothing, when the version is stale or the key is gone.
        """

    def create_if_absent(self, key: str, value: bytes) -> VersionToken | None:
        """Create the key. Returns its version; or None, and changes nothing, when it exists."""

    def delete(self, key: str) -> bool:
        """Remove the key, whatever its version. False when there was none."""

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        """The keys that start with `prefix`, in ascending order of code points, streaming."""

    def scan(self, prefix: str = "") -> Iterator[Entry]:
        """As `list_keys`, with the version of each key, and with its value where the listing carries it for free."""

    def close(self) -> None:
        """Release connections. Closing twice is harmless; any use after it is an error."""


def check_key(key: str) -> str:
    """Return `key` if the contract allows it.

    Raises:
        InvalidKeyError: it is empty or longer than 900 characters; it has a leading `/`, a character that does not
            print, a backslash, or a segment that is empty, `.` or `..`.
    """
    if not key or len(key) > MAX_KEY_LENGTH:
        raise InvalidKeyError(f"A key has 1 to {MAX_KEY_LENGTH} characters; this one has {len(key)}.")
    if not key.isprintable():
        raise InvalidKeyError(f"The key {key!r} has a character that does not print.")
    if "\\" in key:
        # Azure takes it for a slash: two keys would be one blob.
        raise InvalidKeyError(f"The key {key!r} has a backslash, which not every backend tells from a slash.")
    if any(segment in ("", ".", "..") for segment in key.split("/")):
        raise InvalidKeyError(f"The key {key!r} has an empty, '.' or '..' segment.")
    return key
