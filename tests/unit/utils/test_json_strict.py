"""JSON from elsewhere: what two readers would take differently, or what fails in the next encoder, is refused."""

from __future__ import annotations

import pytest

from mopsjobs.errors import RecordError
from mopsjobs.events.format import parse_chunk
from mopsjobs.utils.json_strict import MAX_DEPTH, read_json

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


def test_half_a_character_in_an_event_is_replaced() -> None:
    """An error message may quote a path that is not UTF-8: the chunk is not lost for that."""
    line = b'{"at":"2026-03-01T10:00:00Z","job_id":"a","kind":"log","source":"s","seq":1,"text":"/x\\udcff"}\n'
    assert parse_chunk(line)[0]["text"] == "/x?"
