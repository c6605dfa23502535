"""JSON from elsewhere: what two readers would take differently, or what fails in the next encoder, is refused."""

from __future__ import annotations

import pytest

from mopsjobs.errors import MopsJobsError, RecordError
from mopsjobs.events.format import parse_chunk
from mopsjobs.store.documents import update_with_retry
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies.manifest import Manifest
from mopsjobs.utils.json_strict import MAX_DEPTH, read_json
from mopsjobs.utils.times import MAX_TIME_LENGTH, parse_time

REFUSED = [
    (b'{"a":1,"a":2}', "not JSON: 'a' comes twice in one object"),
    (b'{"a":NaN}', "not JSON: invalid number NaN"),
    (b'{"a":1e400}', "not JSON: invalid number 1e400"),
    (b'{"a":' + b"9" * 5000 + b"}", "not JSON: a number with too many digits"),
    (b'{"a":"\\uD800"}', "has half a surrogate pair in a text"),
    (b'{"\\udfff":1}', "has half a surrogate pair in a text"),
    (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested too deeply"),
    (b"[" * 100_000, "nested too deeply"),
    ("{}".encode("utf-16"), "not UTF-8 text"),
    (b'"\xed\xa0\x80"', "not UTF-8 text"),
]


@pytest.mark.parametrize(("value", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_what_readers_take_differently_is_refused(value: bytes, reason: str) -> None:
    with pytest.raises(RecordError) as caught:
        read_json(value)
    assert caught.value.reason == reason


@pytest.mark.parametrize("value", [b"\xef\xbb\xbf{}", b'"\\ud83d\\ude00"', b"[" * MAX_DEPTH + b"]" * MAX_DEPTH])
def test_what_is_unusual_and_sound_is_read(value: bytes) -> None:
    """A byte order mark, both halves of a character, lists up to the bound."""
    read_json(value)


def test_names_that_come_twice_are_found_in_one_look() -> None:
    """100,000 of them: comparing each with each would take an hour."""
    names = ",".join(f'"k{number % 50_000}":0' for number in range(100_000))
    with pytest.raises(RecordError, match="'k0' comes twice"):
        read_json(f"{{{names}}}".encode())


@pytest.mark.parametrize(("value", "reason"), REFUSED[:5], ids=[reason for _, reason in REFUSED[:5]])
def test_documents_are_not_rewritten_from_what_is_no_sound_json(value: bytes, reason: str) -> None:
    """`update_with_retry` leaves the value as it is, and says why."""
    store = InMemoryVersionedStore()
    store.create_if_absent("k", value)
    with pytest.raises(RecordError, match=f"k: {reason}"):
        update_with_retry(store, "k", lambda document: document)
    found = store.get("k")
    assert found is not None
    assert found.value == value


def test_half_a_character_in_an_event_is_replaced() -> None:
    """An error message may quote a path that is not UTF-8: the chunk is not lost for that."""
    line = b'{"at":"2026-03-01T10:00:00Z","job_id":"a","kind":"log","source":"s","seq":1,"text":"/x\\udcff"}\n'
    assert parse_chunk(line)[0]["text"] == "/x?"


@pytest.mark.parametrize("only", ['"12"', "[1.5]", "[-1]", "[1, 0]", "[0, 0]", "[2]", '{"1": 2}', "[true]"])
def test_a_manifest_names_tasks_that_its_study_has(only: str) -> None:
    study = '{"model": "m", "parameter_sets": [{"x": 1}, {"x": 2}]}'
    text = f'{{"version": 1, "job_id": "a", "bundle": "b", "study": {study}, "only": {only}, "parent_job_id": null}}'
    with pytest.raises(RecordError, match=r"expected (its tasks|numbers of)"):
        Manifest.from_json(text.encode())


def test_a_message_is_one_sentence_whatever_it_quotes() -> None:
    """Beginning and end stay: the one says what it is about, the other often where it came from."""
    error = MopsJobsError("The value " + "x" * 10**6 + " is none (color, from file).")
    assert len(str(error)) <= 2003
    assert str(error).startswith("The value x")
    assert str(error).endswith("is none (color, from file).")
    assert len(RecordError("y" * 10**6).reason) <= 503


def test_a_time_is_short() -> None:
    """What was read is remembered, so a megabyte of digits is refused."""
    parse_time("2026-01-01T00:00:00." + "1" * (MAX_TIME_LENGTH - 20))
    with pytest.raises(ValueError, match="too long"):
        parse_time("2026-01-01T00:00:00." + "1" * 10**6)
