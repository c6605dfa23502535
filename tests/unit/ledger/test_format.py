"""Chunks of a ledger: what is written is read again, and what is not a chunk is refused with a reason."""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopsjobs.errors import RecordError
from mopsjobs.ledger.attempt import MAX_MESSAGE_CHARACTERS, Attempt, AttemptError, Outcome, Resumed
from mopsjobs.ledger.format import (
    MAX_CHUNK_ATTEMPTS,
    MAX_READ_ATTEMPTS,
    ChunkKey,
    FilesOpened,
    chunk_key,
    encode_attempts,
    ledger_prefix,
    parse_attempts,
    parse_chunk,
    parse_chunk_key,
)

pack = functools.partial(gzip.compress, mtime=0)  # the ids of the tests have no time in them

KEY = ChunkKey("job-1/0.ab-000000", "job-1", 0, "attempts")

_seconds = st.none() | st.integers(0, 10**10).map(lambda ms: ms / 1000)
_errors = st.none() | st.builds(
    AttemptError,
    st.text("0123456789abcdef", min_size=12, max_size=12),
    st.text(max_size=20),
    st.none() | st.text(max_size=20),
    st.text(max_size=40),
)
_attempts = st.builds(
    Attempt,
    task=st.integers(0, 2**40),
    attempt=st.integers(1, 9),
    outcome=st.sampled_from(Outcome),
    started_at=st.none() | st.integers(0, 4 * 10**12).map(lambda ms: ms / 1000),
    seconds=_seconds,
    user_seconds=_seconds,
    system_seconds=_seconds,
    max_rss_bytes=st.none() | st.integers(0, 2**32).map(lambda kib: kib * 1024),
    host=st.none() | st.text("abc-1", max_size=9),
    python=st.none() | st.just("3.12.4"),
    error=_errors,
    output_bytes=st.none() | st.integers(0, 2**50),
    resumed=st.none()
    | st.builds(
        Resumed, st.integers(1, 9), st.text("ab7", max_size=9), st.integers(0, 10**10).map(lambda ms: ms / 1000)
    ),
)


def _chunk(**changes: object) -> bytes:
    head = {"version": 1, "job_id": "job-1", "shard": 0, "count": 0, "epoch_ms": 0}
    return pack(json.dumps({**head, "hosts": [], "pythons": [], "errors": [], **changes}).encode())


@given(st.lists(_attempts, max_size=20))
def test_attempts_come_back_as_they_were_written(attempts: list[Attempt]) -> None:
    """A chunk gives the same attempts in the same order, and the same attempts give the same bytes."""
    attempts = [one for one in attempts if one.error is None or _is_encodable(one.error)]
    value = encode_attempts("job-1", 0, attempts)
    assert value == encode_attempts("job-1", 0, list(attempts))
    assert parse_attempts(value, KEY) == attempts


@pytest.mark.parametrize(
    ("opened", "read"),
    [
        (None, None),
        (frozenset(), frozenset()),
        (frozenset({"model.py", "data/é.csv"}), frozenset({"model.py", "data/é.csv"})),
        (frozenset({"a\nb"}), None),
        (frozenset(f"{number:01000}" for number in range(100)), None),
    ],
)
def test_a_chunk_has_the_files_that_its_tasks_opened(opened: FilesOpened, read: FilesOpened) -> None:
    """Names of too many characters, or with a line feed, count as not known."""
    assert parse_chunk(encode_attempts("job-1", 0, [], opened), KEY) == ([], read)


def _is_encodable(error: AttemptError) -> bool:
    return all(text is None or text.encode("utf-8", "ignore").decode() == text for text in error)


def test_a_long_message_is_cut() -> None:
    """A message has at most `MAX_MESSAGE_CHARACTERS`; half a surrogate pair in it becomes a question mark."""
    error = AttemptError("00", "ValueError", None, "\udcff" + "x" * 10_000)
    attempt = Attempt(0, 1, Outcome.FAILED, None, None, None, None, None, None, None, error, None)
    (read,) = parse_attempts(encode_attempts("job-1", 0, [attempt]), KEY)
    assert read.error is not None
    assert read.error.message == "?" + "x" * (MAX_MESSAGE_CHARACTERS - 1)


def test_a_key_is_split_into_what_it_was_made_of() -> None:
    """The key of a chunk names job, shard and kind; other keys below the prefix are those of something else."""
    key = chunk_key("job-1", 12, "ab12", 3)
    assert key.startswith(ledger_prefix("job-1"))
    assert parse_chunk_key(key) == ChunkKey("job-1/12.ab12-000003", "job-1", 12, "attempts")
    scalars = parse_chunk_key(chunk_key("job-1", 0, "ab12", 3, "scalars"))
    assert scalars is not None
    assert scalars.kind == "scalars"
    for other in ("ledger/job-1/x", "ledger/../0.ab-000000.attempts.gz", "events/0.ab-000000.attempts.gz"):
        assert parse_chunk_key(other) is None


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "the gzip is incomplete"),
        (b"plain", "not gzip"),
        (pack(b"x" * 100)[:-9], "the gzip is incomplete"),
        (pack("é".encode()), "not ASCII text"),
        (pack(b"0" * (65 * 2**20)), "unpacks to more than"),
        (pack(b"\n" * 10_000), "too large: more than"),
        (pack(b'{"x":[' + b"[]," * 1_600_000 + b"[]]}"), "too large: more than"),
        (pack(b"[]\n"), "expected an object with a version"),
        (_chunk(version=2), "unknown version of a ledger 2"),
        (_chunk(job_id="job-2"), "a chunk of job 'job-2'"),
        (_chunk(shard=1), "shard 1"),
        (_chunk(), "KeyError"),
        (_chunk() + pack(b"{}"), "KeyError"),
        (_chunk(count=-1), "invalid count -1"),
        (_chunk(count=True), "invalid count True"),
        (_chunk(count=MAX_READ_ATTEMPTS + 1), "invalid count 20001: expected up to 20,000"),
    ],
)
def test_bytes_that_are_not_a_chunk_are_refused(value: bytes, reason: str) -> None:
    """Whatever lies under the key of a chunk gives a RecordError with the reason, within bounded memory."""
    with pytest.raises(RecordError, match=reason):
        parse_attempts(value, KEY)


@pytest.mark.parametrize(
    ("count", "rest", "reason"),
    [
        (10**7, '{"column": "task", "values": [0' + ",0" * (10**7 - 1) + "]}", "more than 1,200,000 values"),
        (1, '{"column": "task", "values": [[]' + ",[]" * 10**7 + "]}", "more than 1,200,000 values"),
        (1, "\n" * 10**7, "more than 100 lines"),
        (1, '{"column": "message", "values": ["' + "x" * 2**25 + '"]}', "unpacks to more than"),
        (1, '{"column": "x", "values": [' + '{"a":0},' * 500_000 + "{}]}", "or 100 objects"),
        (1, '{"column": "x", "values": [' + '"ab",' * 1_300_000 + '"ab"]}', "more than 1,200,000 values"),
    ],
    ids=["values", "lists", "lines", "text", "objects", "texts"],
)
def test_a_chunk_of_millions_of_values_is_refused_unread(count: int, rest: str, reason: str) -> None:
    """A few kilobytes may unpack to as many values as fill the memory."""
    head = json.dumps({"version": 1, "job_id": "job-1", "shard": 0, "count": count})
    value = pack(f"{head}\n{rest}".encode(), 1)
    tracemalloc.start()
    try:
        with pytest.raises(RecordError, match=reason):
            parse_attempts(value, KEY)
        assert tracemalloc.get_traced_memory()[1] < 130 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["hosts", "pythons", "errors", "shapes"])
def test_a_chunk_has_no_more_entries_than_tasks(name: str) -> None:
    """Each host, error and shape is that of a task, so thousands of them beside a few tasks are none of a runner."""
    with pytest.raises(RecordError, match=f"'{name}' has more entries than the chunk has tasks"):
        parse_attempts(_chunk(count=2, **{name: [["a", "b", None]] * 3}), KEY)


@pytest.mark.parametrize("characters", ['["', "{,", "\U0001f600" * 2])
def test_a_full_chunk_of_long_messages_is_read(characters: str) -> None:
    """Whatever characters the messages have."""
    error = AttemptError("0123456789ab", "ValueError", "model.py:3", characters * (MAX_MESSAGE_CHARACTERS // 2))
    attempts = [
        Attempt(task, 1, Outcome.FAILED, None, None, None, None, None, None, None, error, None)
        for task in range(MAX_CHUNK_ATTEMPTS)
    ]
    assert parse_attempts(encode_attempts("job-1", 0, attempts), KEY) == attempts


def test_the_chunk_of_a_killed_runner_may_have_more_attempts() -> None:
    """Beside as many ended attempts as a chunk takes, it has those that ran at the kill."""
    count = MAX_CHUNK_ATTEMPTS + 100
    attempts = [Attempt(task, 1, Outcome.LOST, 1.0, *[None] * 8) for task in range(count)]
    assert len(parse_attempts(encode_attempts("job-1", 0, attempts), KEY)) == count


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: pack(text.encode("utf-8", "replace"))))
def test_any_bytes_give_a_chunk_or_a_reason(value: bytes) -> None:
    """No bytes raise anything but a RecordError."""
    with contextlib.suppress(RecordError):
        parse_attempts(value, KEY)


@pytest.mark.parametrize(
    "change",
    [
        {"task": [-1]},
        {"task": [1.5]},
        {"task": [0, 1]},
        {"attempt": [0]},
        {"outcome": ["odd"]},
        {"host": [5]},
        {"host": [-1]},
        {"seconds_ms": [True]},
        {"error": [0]},
    ],
)
def test_a_column_with_other_values_is_refused(change: dict[str, list[object]]) -> None:
    """A number out of range, an unknown outcome or a position beyond a list makes the chunk unreadable."""
    attempt = Attempt(0, 1, Outcome.SUCCEEDED, 1.0, 1.0, 1.0, 1.0, 1024, "h", "3.12.4", None, 5)
    lines = gzip.decompress(encode_attempts("job-1", 0, [attempt])).splitlines()
    changed = [
        json.dumps({"column": name, "values": change.get(name, values)})
        for name, values in ((line["column"], line["values"]) for line in map(json.loads, lines[1:]))
    ]
    with pytest.raises(RecordError):
        parse_attempts(pack("\n".join([lines[0].decode(), *changed]).encode()), KEY)
