"""Stand-ins for what tests cannot wait for: a store that fails on demand, and a sleep that only takes notes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from mopsjobs.errors import StoreUnavailableError
from mopsjobs.registry import announcements
from mopsjobs.store.base import always

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mopsjobs.store.azure.store import AzureVersionedStore
    from mopsjobs.store.base import Entry, Versioned, VersionedStore, VersionToken, WantsValues


class FaultyStore:
    """A real store, `inner`, seen through a bad line.

    The faults queue up by kind and strike the next calls. A write may be refused as lost race (`conflict_next`), land
    and lose its reply (`lose_reply_next`), or not arrive (`fail_next`, which strikes `get` too). `calls` counts all
    calls by method. `before_put` is called before each `put` with its key: a rival that writes in between. The
    first two kinds are about records: announcements of changes (mopsjobs/registry/announcements.py) pass them by.
    """

    def __init__(self, inner: VersionedStore) -> None:
        self.inner = inner
        self.calls: Counter[str] = Counter()
        self.sent = True
        self.silent = False
        self.before_put: Callable[[str], None] | None = None
        self._conflicts = 0
        self._lost_replies = 0
        self._failures: Counter[str] = Counter()

    def conflict_next(self, n: int = 1) -> None:
        """Let the next `n` writes do nothing and report a lost race."""
        self._conflicts += n

    def lose_reply_next(self, n: int = 1) -> None:
        """Let the next `n` writes land, but raise StoreUnavailableError."""
        self._lost_replies += n

    def fail_next(self, n: int = 1, *methods: str) -> None:
        """Let the next `n` calls of each of `methods` raise: by default of put, create_if_absent and get."""
        for method in methods or ("put", "create_if_absent", "get"):
            self._failures[method] += n

    def outage(self, message: str) -> StoreUnavailableError:
        """Return what a call that is cut off raises: with the facts in `sent` and `silent`."""
        return StoreUnavailableError(message, sent=self.sent, silent=self.silent)

    def get(self, key: str) -> Versioned | None:
        self._enter("get")
        return self.inner.get(key)

    def put(self, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        self._enter("put")
        if self.before_put is not None:
            self.before_put(key)
        return self._write(lambda: self.inner.put(key, value, version))

    def create_if_absent(self, key: str, value: bytes) -> VersionToken | None:
        self._enter("create_if_absent")
        if key.startswith(announcements.PREFIX):
            return self.inner.create_if_absent(key, value)
        return self._write(lambda: self.inner.create_if_absent(key, value))

    def delete(self, key: str) -> bool:
        self._enter("delete")
        return self.inner.delete(key)

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        self._enter("list_keys")
        return self.inner.list_keys(prefix)

    def scan(self, prefix: str = "", wants_values: WantsValues = always, after: str = "") -> Iterator[Entry]:
        self._enter("scan")
        return self.inner.scan(prefix, wants_values, after)

    def close(self) -> None:
        self.inner.close()

    def _enter(self, method: str) -> None:
        self.calls[method] += 1
        if self._failures[method] > 0:
            self._failures[method] -= 1
            raise self.outage(f"No connection for {method}.")

    def _write(self, write: Callable[[], VersionToken | None]) -> VersionToken | None:
        if self._conflicts > 0:
            self._conflicts -= 1
            return None
        version = write()
        if self._lost_replies > 0:
            self._lost_replies -= 1
            raise StoreUnavailableError("The reply was lost.", silent=self.silent)
        return version


class RecordingSleep:
    """A sleep that returns at once and remembers what it was asked for, in `requested`."""

    def __init__(self) -> None:
        self.requested: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.requested.append(seconds)


def hooked(store: AzureVersionedStore, hook: Callable[[Any], object]) -> AzureVersionedStore:
    """Have a function called with each request that a store in Azure sends; return the store."""
    send = store._transport.send

    def noting(request: Any, **options: Any) -> Any:
        hook(request)
        return send(request, **options)

    store._transport.send = noting
    return store
