"""Read and update JSON objects by compare-and-swap, for programs written against ModelOps' storage layer."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping

from mopsjobs.errors import RecordError
from mopsjobs.store import cas
from mopsjobs.store.base import ReadableStore, VersionedStore
from mopsjobs.utils.json_strict import read_json

log = logging.getLogger(__name__)


def update_with_retry(
    store: VersionedStore,
    key: str,
    update_fn: Callable[[dict[str, object]], dict[str, object]],
    max_attempts: int = cas.ATTEMPTS,
    initial_delay: float = cas.BASE_SECONDS,
) -> dict[str, object]:
    """Replace the JSON object under `key` by `update_fn(object)`, and return it.

    `update_fn` must be pure: it may be called again. `initial_delay` bounds the seconds of the first wait.

    A plain dict has no place for a write id. So a lost reply may look like a lost race. Then `StoreUnavailableError`
    says that the write may have landed.

    Raises:
        KeyError: if the key does not exist.
        RecordError: if the value is not a JSON object.
        TooManyRetriesError: if every attempt lost the race.
    """

    def apply(value: bytes) -> bytes:
        return _dump(update_fn(_load(key, value)))

    result = cas.update(store, key, apply, attempts=max_attempts, base_seconds=initial_delay)
    return _load(key, result.value)


def create_with_retry(
    store: VersionedStore, key: str, value: Mapping[str, object], max_attempts: int = cas.ATTEMPTS
) -> bool:
    """Create `key` with a JSON object; return False if it exists. `max_attempts` is there for callers of ModelOps."""
    return cas.create(store, key, _dump(value)) is not None


def get_json(store: ReadableStore, key: str) -> dict[str, object] | None:
    """Return the JSON object under `key`, or None if there is none. A value of another form is logged.

    Raises:
        StoreError: if the store does not answer. That never looks like a missing key.
    """
    found = store.get(key)
    if found is None:
        return None
    try:
        return _load(key, found.value)
    except RecordError as error:
        log.error("%s", error)  # noqa: TRY400 - the message says all
        return None


def _load(key: str, value: bytes) -> dict[str, object]:
    try:
        document = read_json(value)
    except RecordError as error:
        raise RecordError(error.reason, key=key) from None
    if not isinstance(document, dict):
        raise RecordError("not a JSON object", key=key)
    return document


def _dump(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
