"""What is stored in S3 for a value: blanks behind it give it an ETag of its own, and are gone when it is read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopsjobs.store.s3.store import LENGTH, add_nonce, remove_nonce

BLANKS = st.text(alphabet=" \t\n", min_size=60, max_size=140).map(str.encode)
VALUES = st.binary(max_size=80) | BLANKS | st.builds(bytes.__add__, st.binary(max_size=5), BLANKS)


@given(VALUES, st.booleans())
def test_a_value_comes_back_as_it_was(value: bytes, replaces: bool) -> None:
    """Also one that ends like a nonce, and one that was read with its nonce and is written again."""
    stored = add_nonce(value, replaces=replaces)
    assert remove_nonce(stored) == value
    assert remove_nonce(add_nonce(stored, replaces=replaces)) == stored


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3))
def test_json_that_replaces_is_stored_differently_each_time(document: dict[str, object]) -> None:
    """And is JSON to every reader."""
    value = json.dumps(document).encode()
    stored = [add_nonce(value, replaces=True) for _ in range(3)]
    assert len(set(stored)) == 3
    assert [json.loads(one) for one in stored] == [document] * 3
    assert {len(one) - len(value) for one in stored} == {LENGTH}


@pytest.mark.parametrize("value", [b"", b"PAR1...PAR1", b"a,b\n1,2\n", b'{"a": 1}', b"[1]"])
def test_a_value_is_created_as_it_is(value: bytes) -> None:
    """Outputs, bundles and chunks, which other programs read in their formats, are never replaced."""
    assert add_nonce(value, replaces=False) == value
