"""Defects put into mops-jobs on purpose, in the processes of a trial: a check that finds none proves nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from mopsjobs import rules
from mopsjobs.cache import events, mirror
from mopsjobs.cache.delta import Delta
from mopsjobs.errors import StoreError, StoreUnavailableError
from mopsjobs.retention import Old, Retention
from mopsjobs.store import cas
from mopsjobs.store.azure import AzureVersionedStore
from mopsjobs.store.base import Entry, VersionToken


def _ignore_the_version() -> None:
    def put(self: AzureVersionedStore, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        try:
            return self._upload(key, value, overwrite=True)
        except Exception as error:  # noqa: BLE001 - as in what it replaces
            raise self._explain(error) from None

    AzureVersionedStore.put = put  # type: ignore[method-assign]


def _let_the_sdk_retry() -> None:
    given = AzureVersionedStore.__init__

    def init(self: AzureVersionedStore, container: Any) -> None:
        given(self, container, client_options={"retry_total": 3, "initial_backoff": 1, "random_jitter_range": 0})

    AzureVersionedStore.__init__ = init  # type: ignore[assignment,method-assign]


def _recognise_no_own_write() -> None:
    rules.has_write = lambda value, write_id: False


def _take_a_lost_reply_for_a_lost_race() -> None:
    given = AzureVersionedStore.put

    def put(self: AzureVersionedStore, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        try:
            return given(self, key, value, version)
        except StoreUnavailableError:
            return None

    AzureVersionedStore.put = put  # type: ignore[method-assign]


def _say_nothing_of_doubt() -> None:
    given = cas._unknown_outcome

    def silent(key: str, cause: StoreUnavailableError | None = None) -> StoreUnavailableError:
        error = given(key, cause)
        error.hint = None
        return error

    cas._unknown_outcome = silent


def _acknowledge_what_was_not_sent() -> None:
    given = AzureVersionedStore.put
    count = iter(range(10**9))

    def put(self: AzureVersionedStore, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        return version if next(count) % 10 == 9 else given(self, key, value, version)

    AzureVersionedStore.put = put  # type: ignore[method-assign]


def _take_a_broken_listing_for_a_whole_one() -> None:
    given = AzureVersionedStore.scan

    def scan(self: AzureVersionedStore, prefix: str = "") -> Iterator[Entry]:
        try:
            yield from given(self, prefix)
        except StoreError:
            return

    AzureVersionedStore.scan = scan  # type: ignore[method-assign]


def _look_at_half_of_what_was_announced() -> None:
    given = Delta.__init__

    def init(self: Delta, registry: Any, connection: Any, report: Any, generation: int, announced: set[str]) -> None:
        given(self, registry, connection, report, generation, set(sorted(announced)[::2]))

    Delta.__init__ = init  # type: ignore[method-assign]


MUTATIONS: dict[str, Callable[[], None]] = {
    "the version that a write names is ignored": _ignore_the_version,
    "the SDK repeats conditional writes": _let_the_sdk_retry,
    "nobody recognises a write of his own": _recognise_no_own_write,
    "a lost reply is taken for a lost race": _take_a_lost_reply_for_a_lost_race,
    "an error does not tell that the write may have landed": _say_nothing_of_doubt,
    "each tenth write is acknowledged and not sent": _acknowledge_what_was_not_sent,
    "a listing that breaks off is taken for a whole one": _take_a_broken_listing_for_a_whole_one,
    "a delta sync looks at half of what was announced": _look_at_half_of_what_was_announced,
}


# --- what a long life brings to light ---------------------------------------------------------------------------------


def _remove_nothing() -> None:
    Retention._remove = lambda self, old: True  # type: ignore[method-assign]


def _remove_too_much() -> None:
    given = Retention._old_chunks

    def old_chunks(self: Retention) -> Iterator[Old]:
        return (old._replace(job_id="nobody") for old in given(self))

    Retention._old_chunks = old_chunks  # type: ignore[method-assign]


def _forget_no_names() -> None:
    events.forget_chunks = lambda connection, before: 0


def _leave_a_connection_open() -> None:
    given, left = mirror.open_to_write, []

    def open_one(path: str, registry_id: str) -> Any:
        left.append(given(path, registry_id))
        return given(path, registry_id)

    mirror.open_to_write = open_one


def _keep_what_was_read() -> None:
    given, kept = events.parse_chunk, []

    def parse(value: bytes, *, job_id: str | None = None) -> Any:
        kept.append(b"x" * (1 << 17))
        return given(value, job_id=job_id)

    events.parse_chunk = parse


LIFE_MUTATIONS: dict[str, Callable[[], None]] = {
    "retention removes nothing": _remove_nothing,
    "retention removes the events of active jobs": _remove_too_much,
    "names of chunks are never forgotten": _forget_no_names,
    "each sync leaves a connection to the cache open": _leave_a_connection_open,
    "what was read of events stays in memory": _keep_what_was_read,
}
