"""The note of a model's environment: the same for the same environment, and readable whatever is written."""

from __future__ import annotations

import json

import pytest

import mopsjobs
from mopsjobs.errors import RecordError
from mopsjobs.ledger.environment import (
    MAX_BYTES,
    MAX_CHARACTERS,
    MAX_PACKAGES,
    Environment,
    encode_environment,
    environment_keys,
    environment_of_worker,
    environments_prefix,
    parse_environment,
)
from mopsjobs.store.memory import InMemoryVersionedStore

ANSWER = {
    "python": "3.12.4",
    "implementation": "cpython",
    "platform": "linux-x86_64",
    "libc": "glibc 2.36",
    "packages": {"scikit_learn": "1.5", "NumPy": "2.0", "zope.interface": "6", "local": "", "~umpy": "1.9"},
}
NONE = Environment(None, None, None, None, None, {})


def test_a_note_says_what_the_worker_says_and_no_more() -> None:
    """What pip renamed on its way out is left out."""
    environment = environment_of_worker({**ANSWER, "executable": "/home/ada/bin/python", "env": {"KEY": "secret"}})
    key, value = encode_environment("job", environment)
    assert parse_environment(value) == environment
    assert environment[:5] == ("3.12.4", "cpython", "linux-x86_64", "glibc 2.36", mopsjobs.__version__)
    assert environment.packages == {"local": "", "numpy": "2.0", "scikit-learn": "1.5", "zope-interface": "6"}
    assert b"ada" not in value
    assert b"secret" not in value
    assert key.startswith(environments_prefix("job"))
    store = InMemoryVersionedStore()
    store.create_if_absent(key, value)
    assert list(environment_keys(store, "job")) == [key]


def test_equal_environments_have_one_key_and_others_another() -> None:
    reordered = {**ANSWER, "packages": dict(reversed(ANSWER["packages"].items()))}  # type: ignore[attr-defined]
    keys = [encode_environment("job", environment_of_worker(answer)) for answer in (ANSWER, reordered)]
    assert keys[0] == keys[1]
    assert encode_environment("job", environment_of_worker({**ANSWER, "python": "3.13.0"}))[0] != keys[0][0]


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ({}, NONE),
        ({"python": 3, "packages": [1], "libc": {}}, NONE),
        ({"packages": {"": "1", "a": 1, "b": "\x1b[31m1"}}, NONE._replace(packages={"a": "", "b": "[31m1"})),
        ({"python": "9" * 10_000}, NONE._replace(python="9" * MAX_CHARACTERS)),
    ],
)
def test_invalid_parts_of_a_note_are_left_out(value: dict[str, object], read: Environment) -> None:
    assert parse_environment(json.dumps({"version": 1, **value}).encode()) == read


def test_a_note_with_a_million_packages_is_cut() -> None:
    found = Environment.from_json({"packages": {f"p{number}": "1" for number in range(MAX_PACKAGES + 1)}})
    assert len(found.packages) == MAX_PACKAGES


@pytest.mark.parametrize("value", [b"", b"[]", b"{}", b'{"version":2}', b"\xff", b" " * (MAX_BYTES + 1)])
def test_what_is_not_a_note_is_refused(value: bytes) -> None:
    with pytest.raises(RecordError):
        parse_environment(value)


@pytest.mark.parametrize("answer", [None, [], "text"])
def test_an_answer_that_is_not_an_object_is_refused(answer: object) -> None:
    with pytest.raises(RecordError, match="expected an object"):
        environment_of_worker(answer)


def test_other_keys_are_not_notes() -> None:
    store = InMemoryVersionedStore()
    for key in ("environments/a/x.json", "environments/a/b/0123456789abcdef.json", "x"):
        store.create_if_absent(key, b"{}")
    assert not list(environment_keys(store, "a"))
