"""Signatures of errors: what differs between tasks does not count, what differs between causes does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopsjobs.ledger.attempt import MAX_MESSAGE_CHARACTERS, attempt_error, error_signature, normalise

NORMALISED = [
    ("beta=0.93 is above 0.9 in /data/run-17/in.csv", "beta=# is above # in …/in.csv"),
    ("x=-1.5e-7 of 1_000", "x=# of #"),
    ("'beta'", "'beta'"),
    ("no such file: 'data/a/b12.csv'", "no such file: '<id>'"),
    ("'/tmp/x/y.csv' or C:\\a\\b.txt or ~/z.txt", "'…/y.csv' or …/b.txt or …/z.txt"),
    ("<Model object at 0x7f33a0>", "<Model object at <address>>"),
    ("since 2026-01-02T03:04:05Z, 12:33:11", "since <time>, <time>"),
    ("[1.0, 2.5  3.1] and [4 5]", "[#, …] and [#, …]"),
    ("5 km/h", "# km/h"),
    ("in -.-a/b/c or ./a/b/c or --a-b/c.d/e", "in …/c or …/c or …/e"),
    ("550e8400-e29b-41d4-a716-446655440000 deadbeef12", "<id> <id>"),
    ("column_12 of int64", "column_# of int#"),
    ("300000001B of 12B, 512MiB or 0.5GB", "#B of #B, #MiB or #GB"),
]


@pytest.mark.parametrize(("message", "normalised"), NORMALISED)
def test_what_differs_between_tasks_becomes_a_mark(message: str, normalised: str) -> None:
    assert normalise(message) == normalised


def test_type_place_and_words_tell_causes_apart() -> None:
    told = {
        error_signature(*error)
        for error in (
            ("ValueError", "a.py:1", "bad"),
            ("TypeError", "a.py:1", "bad"),
            ("ValueError", "a.py:2", "bad"),
            ("ValueError", None, "bad"),
            ("ValueError", "a.py:1", "worse"),
        )
    }
    assert len(told) == 5
    assert all(len(signature) == 12 for signature in told)


@given(st.text(max_size=300))
def test_any_text_has_a_signature(text: str) -> None:
    assert error_signature("E", None, text) == error_signature("E", None, text)


def test_only_the_beginning_of_a_long_message_counts() -> None:
    error = attempt_error("E", None, "a" * 5_000_000)
    assert error.key == attempt_error("E", None, "a" * 4_000).key
    assert error.message == "a" * MAX_MESSAGE_CHARACTERS


def test_a_path_that_is_not_text_has_a_signature() -> None:
    assert len(error_signature("E", None, "caf\udce9")) == 12
