"""The record of a job: what is read, what is refused and why, what is written back."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopsjobs.errors import RecordError, UsageError
from mopsjobs.registry.job_state import (
    FIELDS,
    MAX_BYTES_BESIDES_OUTPUTS,
    MAX_RECORD_BYTES,
    UPDATABLE,
    JobState,
    check_field,
)
from mopsjobs.registry.status import JobStatus
from support.records import AT, MODELOPS, OURS, REQUIRED

LENIENT_TEXTS = {"error_message", "error_code", "last_validation_error"}
LENIENT_COUNTS = {"tasks_total", "tasks_completed", "tasks_verified", "validation_attempts"}
TEXTS = ("k8s_name", "k8s_namespace", "k8s_uid", "error_message", "error_code", "results_path", "last_validation_error")
TEXTS += ("write_id", "owner", "engine", "parent_job_id")
COUNTS = ("tasks_total", "tasks_completed", "tasks_verified", "validation_attempts", "revision", "tasks_failed")
TIMES = ("validation_started_at", "validation_completed_at", "heartbeat_at")
LISTS = ("expected_outputs", "verified_outputs", "missing_outputs", "transitions")
OBJECTS = ("metadata", "labels")

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
unknown_fields = st.dictionaries(words.filter(lambda name: name not in FIELDS), json_values, max_size=4)


def encoded(**fields: object) -> bytes:
    return json.dumps({**REQUIRED, **fields}).encode()


def reason(value: bytes) -> str:
    with pytest.raises(RecordError) as caught:
        JobState.from_json(value)
    assert caught.value.reason == str(caught.value)
    return caught.value.reason


def test_a_state_is_frozen_with_its_collections() -> None:
    """Neither a field nor what a field holds can be changed in place."""
    state = JobState.from_dict({**MODELOPS, **OURS})
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.status = "failed"  # type: ignore[misc]
    for collection in (state.metadata, state.labels, state.extra, state.transitions[0]):
        with pytest.raises(TypeError):
            collection["x"] = "y"  # type: ignore[index]
    assert all(isinstance(getattr(state, name), tuple) for name in LISTS)


# --- what is read ---------------------------------------------------------------------------------------------------


def test_four_fields_are_enough() -> None:
    """The others have the values that say nothing."""
    state = JobState.from_json(encoded())
    assert state == JobState(job_id="job-1", status=JobStatus.RUNNING, created_at=AT, updated_at=AT)
    assert (state.tasks_total, state.metadata, state.transitions, state.extra) == (0, {}, (), {})


@pytest.mark.parametrize("at", ["2026-11-24T09:00:00Z", "2026-11-24T09:00:00", "2026-11-24T10:00:00.123+01:00"])
def test_what_other_programs_write_is_read_and_not_rewritten(at: str) -> None:
    """A time keeps its form. JavaScript writes 5.0 or 5 at will, and editors on Windows leave a byte order mark.

    `from_dict` changes nothing in the object that it is given; nor do changes of that reach the state.
    """
    state = JobState.from_json(b"\xef\xbb\xbf" + encoded(created_at=at, tasks_total=5.0))
    assert (json.loads(state.to_json())["created_at"], state.tasks_total) == (at, 5)
    record: dict[str, Any] = {**REQUIRED, "created_at": at, "metadata": {"a": [1]}, "theirs": {"b": 1}}
    before = copy.deepcopy(record)
    state = JobState.from_dict(record)
    assert record == before
    record["metadata"]["later"] = 1
    assert state.metadata == {"a": [1]}


def test_a_record_as_modelops_writes_it_loses_nothing() -> None:
    """Indented JSON with all its fields and none of mops-jobs comes out with the same fields and values."""
    state = JobState.from_json(json.dumps(MODELOPS, indent=2).encode())
    assert state.status is JobStatus.RUNNING
    assert json.loads(state.to_json()) == MODELOPS


def test_a_record_of_ours_loses_nothing() -> None:
    """Our own fields come out too, and what other versions have put into a transition."""
    assert json.loads(JobState.from_dict({**MODELOPS, **OURS}).to_json()) == {**MODELOPS, **OURS}


def test_modelops_fields_are_always_written_and_ours_if_set() -> None:
    """ModelOps' programs index their fields without asking; ours would only be in their way."""
    assert set(JobState.from_json(encoded()).to_dict()) == set(MODELOPS)


def test_the_known_fields_are_those_of_the_contract() -> None:
    """Their names are a contract with programs outside of this project."""
    assert set(FIELDS) == {*MODELOPS, *OURS}
    bookkeeping = {"write_id", "revision", "transitions", "shards", "usage", "forecast"}
    assert set(REQUIRED) | bookkeeping | set(UPDATABLE) == set(FIELDS)


@given(unknown_fields)
def test_unknown_fields_are_carried_along_unchanged(fields: dict[str, object]) -> None:
    """Arbitrary JSON in fields of a later version survives reading and writing."""
    state = JobState.from_json(encoded(**fields))
    assert state.extra == fields
    assert {**json.loads(state.to_json()), **fields} == json.loads(state.evolve(tasks_total=0).to_json())
    assert JobState.from_json(state.to_json()) == state


@pytest.mark.parametrize("status", ["archived", "Running", "PENDING", "état"])
def test_an_unknown_status_is_kept_as_it_is(status: str) -> None:
    """A newer version may have more of them. As far as we know, such a job has not ended."""
    state = JobState.from_json(encoded(status=status))
    assert state.status == status
    assert not state.is_terminal
    assert json.loads(state.to_json())["status"] == status


def test_null_says_the_same_as_a_missing_field() -> None:
    """ModelOps writes null for what is not set."""
    for name in set(FIELDS) - REQUIRED.keys():
        assert JobState.from_json(encoded(**{name: None})) == JobState.from_json(encoded()), name


FOREIGN = [
    (name, value, json.dumps(value)) for name in sorted(LENIENT_TEXTS) for value in (137, 1.5, True, [1], {"a": 1})
]
FOREIGN += [(name, value, max(0, int(value))) for name in sorted(LENIENT_COUNTS) for value in (2.5, 0.1, -1, -1.5)]


@pytest.mark.parametrize(("name", "value", "shown"), FOREIGN, ids=repr)
def test_a_foreign_value_is_shown_and_written_back(name: str, value: object, shown: object) -> None:
    """A change of another field keeps it; a change of the field itself replaces it."""
    state = JobState.from_json(encoded(**{name: value}))
    assert getattr(state, name) == shown
    assert state.foreign[name].reason.startswith(f"invalid field {name}: expected ")
    assert json.loads(state.evolve(results_path="r").to_json())[name] == value
    new: object = "new" if isinstance(shown, str) else 7
    assert json.loads(state.evolve(**{name: new}).to_json())[name] == new


@pytest.mark.parametrize(("text", "kept"), [("NaN", "NaN"), ("-Infinity", "-Infinity"), ("1e999", "Infinity")])
@pytest.mark.parametrize("where", ["metadata", "x"])
def test_a_number_that_is_not_finite_is_written_back(text: str, kept: str, where: str) -> None:
    """In `metadata` and in unknown fields. JSON does not have it, and Python's reader does."""
    state = JobState.from_json(encoded(**{where: {"loss": "?", "n": 1}}).replace(b'"?"', text.encode()))
    assert not state.is_finite
    value = state.evolve(metadata={**state.metadata, "more": 2}).to_json()
    assert f'"loss":{kept}'.encode() in value
    assert not JobState.from_json(value).is_finite


# --- what is refused, and why ---------------------------------------------------------------------------------------


def test_a_missing_field_is_named() -> None:
    """Without one of the four there is no record."""
    for name in REQUIRED:
        fields = {other: value for other, value in REQUIRED.items() if other != name}
        assert reason(json.dumps(fields).encode()) == f"no field {name}"


def test_a_field_of_a_wrong_type_or_range_is_named() -> None:
    """The reason says which field, and what it should be. What is refused when it is read is never written."""
    for name, value in WRONG:
        expected = rf"invalid field {name}: expected \w+"
        assert re.match(expected, reason(encoded(**{name: value}))), (name, value)
        if name in UPDATABLE and value is not None:
            with pytest.raises(UsageError, match=expected):
                check_field(name, value)


STRICT = (*sorted({*TEXTS} - LENIENT_TEXTS), "job_id", "status", "created_at")
WRONG = [(name, value) for name in STRICT for value in (1, True, [], {})]
WRONG += [(name, None) for name in REQUIRED]
WRONG += [(name, value) for name in COUNTS for value in ("5", True, [], {}, 2**53, 10**300, 1e300)]
WRONG += [(name, value) for name in COUNTS if name not in LENIENT_COUNTS for value in (1.5, -1.5, -1)]
WRONG += [(name, value) for name in (*TIMES, "created_at", "updated_at") for value in (0, "", "yesterday", "9" * 99)]
WRONG += [(name, value) for name in LISTS for value in ("a", 1, {}, False)]
WRONG += [(name, value) for name in OBJECTS for value in ("a", 1, [], True)]
WRONG += [("status", ""), ("status", "x" * 65)]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"labels": {"exp": 7}}, "labels.exp"),
        ({"transitions": ["running"]}, "transitions[0]"),
        ({"transitions": [OURS["transitions"][0], {"status": "running"}]}, "transitions[1].at"),  # type: ignore[index]
        ({"transitions": [{"at": AT}]}, "transitions[0].status"),
    ],
)
def test_a_wrong_type_inside_a_field_is_named_with_its_place(fields: dict[str, object], named: str) -> None:
    """So that a user can find it in the record."""
    assert reason(encoded(**fields)).startswith(f"invalid field {named}: expected ")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"", "not JSON: "),
        (encoded()[:-1] + b', "tasks_total": NaN}', "invalid field tasks_total: expected a whole number"),
        (encoded()[:-1] + b', "status": "failed"}', "not JSON: 'status' comes twice"),
        (b"[]", "not a JSON object but a list"),
        (encoded(owner="\ud800"), "has half a surrogate pair in a text"),
        (encoded().replace(b"job-1", b"job-\xff"), "not UTF-8 text"),
        (b"[" * 100_000, "nested too deeply"),
        (encoded(error_message="x" * 9_000_000), "too large: 9,000,147 bytes, expected at most 8,388,608"),
    ],
    ids=range(8),
)
def test_bytes_that_are_no_record_are_refused_with_a_reason(value: bytes, expected: str) -> None:
    """Nothing foreseeable in a blob ends otherwise than in a RecordError of one line."""
    found = reason(value)
    assert found.startswith(expected)
    assert "\n" not in found


@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_at_all_make_reading_fail_otherwise(value: bytes) -> None:
    """Arbitrary bytes and arbitrary JSON are a record or a RecordError."""
    with contextlib.suppress(RecordError):
        assert JobState.from_json(value).job_id is not None


def test_the_largest_record_has_eight_megabytes() -> None:
    """At the limit it is read, a byte beyond it is not."""
    padding = MAX_RECORD_BYTES - len(encoded(expected_outputs=[""]))
    assert JobState.from_json(encoded(expected_outputs=["x" * padding])).expected_outputs == ("x" * padding,)
    assert reason(encoded(expected_outputs=["x" * (padding + 1)])).startswith(
        "too large: 8,388,609 bytes, expected at most"
    )


def test_one_megabyte_of_a_record_is_for_other_fields() -> None:
    """The lists of outputs are shown in part, and everything else is shown whole."""
    padding = MAX_BYTES_BESIDES_OUTPUTS - len(JobState.from_json(encoded(owner="-")).to_json()) + 1
    outputs = ["x" * 2_000_000]
    assert JobState.from_json(encoded(owner="x" * padding, missing_outputs=outputs)).owner == "x" * padding
    found = reason(encoded(owner="x" * (padding + 1), missing_outputs=outputs))
    assert found == "too large: 1,048,577 bytes besides its outputs, expected at most 1,048,576"


# --- fields that a caller sets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["job_id", "status", "created_at", "updated_at", "write_id", "revision", "transitions"]
)
def test_the_bookkeeping_of_the_registry_cannot_be_set(name: str) -> None:
    """Nor can an unknown field; the sentence lists what can be."""
    for bad in (name, name.upper(), "extra"):
        with pytest.raises(UsageError, match=f"invalid field '{bad}': expected one of engine, "):
            check_field(bad, "x")


def test_none_unsets_a_field() -> None:
    """It becomes what it is in a record that does not have it."""
    for name in UPDATABLE:
        assert check_field(name, None) == getattr(JobState.from_dict(REQUIRED), name), name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("owner", "\ud800"),
        ("metadata", {"a": float("nan")}),
        ("metadata", {"a": object()}),
        ("metadata", {("a", "b"): 1}),
        ("labels", {"\udc80": "x"}),
        ("expected_outputs", [{1, 2}]),
    ],
)
def test_a_value_that_json_cannot_hold_names_its_field(name: str, value: object) -> None:
    """It is a usage error. An argument that the shell could not decode is one of these."""
    with pytest.raises(UsageError, match=f"The field {name} "):
        check_field(name, value)


# --- what ModelOps prints -------------------------------------------------------------------------------------------

MARKED = st.text("[]/a#@\\ '1\u2060", max_size=12)


@given(MARKED, st.dictionaries(MARKED, MARKED | st.lists(MARKED, max_size=2), max_size=3))
def test_no_text_of_a_record_is_markup_for_modelops(text: str, metadata: dict[str, object]) -> None:
    """`mops jobs status` prints texts and metadata through rich: `[/mnt/x]` ended it with a traceback."""
    markup = pytest.importorskip("rich.text").Text.from_markup
    state = JobState(**REQUIRED, error_message=text, results_path=text, metadata=metadata)
    stored = json.loads(state.to_json())
    pairs = (f"{name}: {value}" for name, value in stored["metadata"].items())
    for printed in (stored["error_message"], stored["results_path"], *pairs):
        shown = markup(f"[red]{printed} [/red]", emoji=False).plain
        assert shown.replace("\\", "") == f"{printed} ".replace("\\", "")  # rich shows `\\[` as `[`
    rewritten = json.dumps(stored).encode()  # as ModelOps writes it, with escapes
    for value in (state.to_json(), rewritten):
        read = JobState.from_json(value)
        assert (read.error_message, read.results_path, dict(read.metadata)) == (text, text, metadata)


def test_only_brackets_of_markup_get_a_mark() -> None:
    """All other texts lie in the record as they were written, and no field of another program is changed."""
    state = JobState(**REQUIRED, error_message="[1] ['a'] [A] x[/mnt/x]", extra={"theirs": "[/mnt/x]"})
    stored = json.loads(state.to_json())
    assert (stored["error_message"], stored["theirs"]) == ("[1] ['a'] [A] x[\u2060/mnt/x]", "[/mnt/x]")
