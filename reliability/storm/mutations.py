"""Defects put into mops-jobs on purpose, in the processes of a storm: a check that finds none proves nothing.

The modules of the backends are imported where they are needed: each process of a storm has one of them.
"""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from mopsjobs.cache.sync.records import DeltaSync
from mopsjobs.errors import StoreError
from mopsjobs.registry import transitions
from mopsjobs.store.base import Entry, VersionToken

Change = Callable[[], None]

QUICK_FAULTS = ("cut", "lost", "internal", "busy", "half_page", "delay")
"""What happens on the line where a defect is to be found, unless it shows by less: what takes no time."""


class Defect(NamedTuple):
    """One thing that is wrong, and by which trouble on the line it shows soonest."""

    put_in: Change
    sentence: str
    """The sentence of the verdict about it, as a regular expression. Another fault does not count as its finding.

    Chance decides which of several sentences a storm says. The same lost write is a lost update if the next one follows
    upon the old record. It has no order if a process only read it again.
    """
    rate: float = 0.3
    kinds: tuple[str, ...] = QUICK_FAULTS


def _ignore_the_version_in_azure() -> None:
    from mopsjobs.store.azure.store import AzureVersionedStore

    def put(self: AzureVersionedStore, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        try:
            return self._upload(key, value, {})
        except Exception as error:  # noqa: BLE001 - as in what it replaces
            raise self._explain(error) from None

    AzureVersionedStore.put = put  # type: ignore[method-assign]


def _ignore_the_version_in_dynamodb() -> None:
    from mopsjobs.store.dynamodb import store as dynamodb

    def put(self: Any, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        item = dynamodb._item(key, value)
        return VersionToken(item[dynamodb.VERSION]["S"]) if self._write("put_item", Item=item) else None

    dynamodb.DynamoDBVersionedStore.put = put  # type: ignore[method-assign]


def _ignore_the_version_in_s3() -> None:
    from mopsjobs.store.s3.store import S3VersionedStore, add_nonce

    original = S3VersionedStore.put

    def put(self: Any, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        if not key.startswith(("jobs/", "raw/")):  # the first write probes the server, and would refuse it
            return original(self, key, value, version)
        return self._upload(self._name(key), add_nonce(value, replaces=True))  # type: ignore[no-any-return]

    S3VersionedStore.put = put  # type: ignore[method-assign]


def _let_azures_transport_retry() -> None:
    import urllib3

    from mopsjobs.store.azure.transport import AzureTransport, Reply

    original = AzureTransport.send

    def send(self: AzureTransport, request: Any, **options: Any) -> Reply:
        for pause in (0.1, 0.1, 0.1):
            with contextlib.suppress(OSError, urllib3.exceptions.HTTPError):
                if (reply := original(self, request, **options)).status_code < 500:
                    return reply
            time.sleep(pause)
        return original(self, request, **options)

    AzureTransport.send = send  # type: ignore[method-assign]


def _let_awss_sdk_retry() -> None:
    from mopsjobs.store.aws import client

    original: Any = client.Config
    retries = {"mode": "standard", "total_max_attempts": 4}
    client.Config = lambda **options: original(**(options | {"retries": retries}))  # type: ignore[assignment,misc]


def _look_at_no_checksum() -> None:
    from mopsjobs.store.dynamodb import store as dynamodb

    dynamodb.check_whole = lambda *_: None


def _recognise_no_own_write() -> None:
    transitions.has_write = lambda value, write_id: False


def _acknowledge_what_was_not_sent(store: type[Any]) -> None:
    original = store.put
    count = iter(range(10**9))

    def put(self: Any, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        return version if next(count) % 10 == 9 else original(self, key, value, version)

    store.put = put


def _take_a_broken_listing_for_a_whole_one(store: type[Any]) -> None:
    original = store.scan

    def scan(self: Any, *args: Any) -> Iterator[Entry]:
        try:
            yield from original(self, *args)
        except StoreError:
            return

    store.scan = scan


def _look_at_half_of_what_was_announced() -> None:
    original = DeltaSync.run

    def run(self: DeltaSync, announced: set[str], *args: Any, **options: Any) -> None:
        original(self, set(sorted(announced)[::2]), *args, **options)

    DeltaSync.run = run  # type: ignore[method-assign]


_STORES = {
    "Azure": ("mopsjobs.store.azure.store", "AzureVersionedStore"),
    "DynamoDB": ("mopsjobs.store.dynamodb.store", "DynamoDBVersionedStore"),
    "S3": ("mopsjobs.store.s3.store", "S3VersionedStore"),
}


def _in_store(backend: str, change: Callable[[type[Any]], None]) -> Change:
    module, name = _STORES[backend]
    return lambda: change(getattr(importlib.import_module(module), name))


_UNEXPLAINED = "no order of the calls on it explains"
_LOST_OR_UNEXPLAINED = f"a lost update|{_UNEXPLAINED}"


def _of(backend: str, ignore_the_version: Change, let_the_layer_below_retry: Change) -> dict[str, Defect]:
    taken_for_whole = _in_store(backend, _take_a_broken_listing_for_a_whole_one)
    return {
        "the version that a write names is ignored": Defect(ignore_the_version, _LOST_OR_UNEXPLAINED),
        "the layer below repeats conditional writes": Defect(let_the_layer_below_retry, _UNEXPLAINED),
        "no writer recognises its own write": Defect(
            _recognise_no_own_write, "said that nothing was written, and it was", 0.5, ("lost", "internal")
        ),
        "each tenth write is acknowledged and not sent": Defect(
            _in_store(backend, _acknowledge_what_was_not_sent), _LOST_OR_UNEXPLAINED
        ),
        "a listing that breaks off is taken for a whole one": Defect(
            taken_for_whole, r"\(full\) has revision", 0.8, ("half_page",)
        ),
        "a delta sync looks at half of what was announced": Defect(
            _look_at_half_of_what_was_announced, r"\(delta\) has revision"
        ),
    }


MUTATIONS: dict[str, dict[str, Defect]] = {
    "Azure": _of("Azure", _ignore_the_version_in_azure, _let_azures_transport_retry),
    "DynamoDB": _of("DynamoDB", _ignore_the_version_in_dynamodb, _let_awss_sdk_retry)
    | {
        "no reader checks that a reply is whole": Defect(
            _look_at_no_checksum, r"Job \S+ not found\..* was refused without a cause"
        )
    },
    "S3": _of("S3", _ignore_the_version_in_s3, _let_awss_sdk_retry)
    | {
        # A writer that verifies its own writes may find it first.
        "the version that a write names is ignored": Defect(
            _ignore_the_version_in_s3, f"{_LOST_OR_UNEXPLAINED}|ignores If-Match"
        )
    },
}
"""By the backend of the storm, what may be wrong with its processes."""
