"""Plain JSON values that change by compare-and-swap, as in ModelOps."""

from __future__ import annotations

import json

import pytest

from mopsjobs.errors import RecordError, StoreUnavailableError
from mopsjobs.store.documents import create_with_retry, update_with_retry
from mopsjobs.store.memory import InMemoryVersionedStore
from support.doubles import FaultyStore


def test_a_dict_is_created_once_and_updated_by_a_function() -> None:
    """The second create changes nothing and says so; the update returns what it wrote."""
    store = InMemoryVersionedStore()
    assert create_with_retry(store, "k", {"a": 1})
    assert not create_with_retry(store, "k", {"a": 2})
    assert update_with_retry(store, "k", lambda found: {**found, "b": found["a"]}) == {"a": 1, "b": 1}
    assert json.loads(store.get("k").value) == {"a": 1, "b": 1}  # type: ignore[union-attr]


def test_a_dict_update_of_a_missing_key_is_a_key_error() -> None:
    """And one of a value that is not a sound JSON object is a RecordError, and it stays. As in ModelOps, but named."""
    store = InMemoryVersionedStore()
    with pytest.raises(KeyError):
        update_with_retry(store, "k", dict)
    for key, value in [("list", b"[]"), ("html", b"<html>"), ("bytes", b"\xff"), ("twice", b'{"a":1,"a":2}')]:
        store.create_if_absent(key, value)
        with pytest.raises(RecordError, match=f"^{key}: not "):
            update_with_retry(store, key, dict)
        assert store.get(key).value == value  # type: ignore[union-attr]


def test_a_dict_update_whose_reply_was_lost_is_reported_as_unknown() -> None:
    """It is never applied twice.

    A plain dict has no room for a write id: so the error neither says that nothing was written, nor guesses.
    """
    for attempts in (1, 2):
        line = FaultyStore(InMemoryVersionedStore())
        create_with_retry(line, "k", {"n": 1})
        line.lose_reply_next()
        with pytest.raises(StoreUnavailableError, match="reply to the write of k was lost"):
            update_with_retry(line, "k", lambda found: {"n": int(str(found["n"])) + 1}, attempts)
        assert json.loads(line.inner.get("k").value) == {"n": 2}  # type: ignore[union-attr]
