"""Events: written beside the job and never in its way; read back as strictly as they are written."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mopsjobs.errors import RecordError, StoreAccessError, UsageError
from mopsjobs.events import format as event_format
from mopsjobs.events.format import MAX_CHUNK_BYTES, MAX_EVENT_BYTES, Event, parse_chunk, parse_chunk_key
from mopsjobs.events.writer import EventLog, record_event
from mopsjobs.store.base import VersionedStore, VersionToken
from mopsjobs.store.memory import InMemoryVersionedStore
from support.cli import Clock
from support.doubles import FaultyStore
from support.runs import PATIENCE

HEAD = {"at": "2026-03-01T12:00:00Z", "job_id": "job", "kind": "log", "source": "w.1", "seq": 0}


def _log(store: VersionedStore, clock: Clock | None = None, **more: Any) -> EventLog:
    """Return a log whose pauses take no time worth mentioning."""
    return EventLog(store, "job", source="w", now=(clock or Clock()).now, **{"flush_seconds": 0.001, **more})


def _events(store: VersionedStore) -> list[Event]:
    """Return all events in the order of their keys."""
    values = [store.get(key) for key in store.list_keys("events/")]
    return [event for found in values if found is not None for event in parse_chunk(found.value)]


class Gate(FaultyStore):
    """A store that does not answer before `open` is called; `asked` is set by the first call."""

    def __init__(self) -> None:
        super().__init__(InMemoryVersionedStore())
        self.asked = threading.Event()
        self._opened = threading.Event()

    def open(self) -> None:
        self._opened.set()

    def create_if_absent(self, key: str, value: bytes) -> VersionToken | None:
        self.asked.set()
        assert self._opened.wait(PATIENCE)
        return super().create_if_absent(key, value)


# --- writing ---------------------------------------------------------------------------------------------------------


def test_emit_does_not_wait_for_the_store() -> None:
    """While the store keeps a write waiting, `emit` returns; all comes through afterwards."""
    gate = Gate()
    log = _log(gate)
    log.emit("log", text="first")
    assert gate.asked.wait(PATIENCE)
    for _ in range(100):
        log.emit("log", text="more")
    assert not log.close(0.0)
    gate.open()
    assert log.close(PATIENCE)
    assert len(_events(gate)) == 101


@pytest.mark.parametrize("error", [StoreAccessError("No."), RuntimeError("a bug in a store")])
def test_a_late_chunk_goes_into_the_hour_of_its_writing(error: Exception) -> None:
    """Whatever held it back. It then lands where readers look."""
    store, clock = FaultyStore(InMemoryVersionedStore()), Clock()
    errors = [error]

    def enter(method: str) -> None:
        if method == "create_if_absent" and errors:
            clock.advance(hours=1)
            raise errors.pop()

    store._enter = enter  # type: ignore[method-assign]
    log = _log(store, clock)
    log.emit("log", text="x")
    assert log.close(PATIENCE)
    (key,) = store.list_keys("events/")
    assert key.startswith("events/20260301T13/")
    assert _events(store)[0]["at"] == "2026-03-01T12:00:00Z"


def test_a_lost_reply_makes_the_same_chunk_twice_at_most() -> None:
    """A chunk whose reply was lost is sent again unchanged, under the same name, whatever came in meanwhile."""
    store, clock = FaultyStore(InMemoryVersionedStore()), Clock()
    store.lose_reply_next()
    log = _log(store, clock)
    store_now, log._now = log._now, lambda: (clock.advance(hours=1), store_now())[1]
    log.emit("log", text="a")
    assert log.close(PATIENCE)
    names = [event_format.parse_chunk_key(key) for key in store.list_keys("events/")]
    assert len(names) == 2
    assert len({one.name for one in names if one is not None}) == 1
    first, second = (store.get(key) for key in store.list_keys("events/"))
    assert first is not None
    assert second is not None
    assert first.value == second.value


def test_the_oldest_log_lines_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """When too many wait, the oldest `log` events go, other kinds stay, and `dropped` says how many are missing."""
    monkeypatch.setattr("mopsjobs.events.writer.MAX_WAITING", 10)
    gate = Gate()
    log = _log(gate)
    log.emit("runner", text="begin")
    assert gate.asked.wait(PATIENCE)
    for number in range(15):
        log.emit("task_failed" if number in (0, 4) else "log", text=str(number))
    gate.open()
    assert log.close(PATIENCE)
    found = _events(gate)
    told = [(event["kind"], event.get("text")) for event in found]
    kept = [("task_failed", "0"), ("task_failed", "4"), *(("log", str(number)) for number in range(7, 15))]
    assert told == [("runner", "begin"), ("dropped", None), *kept]
    assert found[1]["count"] == 5
    assert len({event["seq"] for event in found}) == len(found)


def test_close_gives_up_in_time_and_says_so() -> None:
    """With a store that stays away, `close` comes back and tells that not all was written; later events are ignored."""
    store = FaultyStore(InMemoryVersionedStore())
    store.fail_next(10**9, "create_if_absent")
    log = _log(store)
    log.emit("log", text="x")
    assert not log.close(0.01)
    log.emit("log", text="y")
    assert log._writer.join(PATIENCE)
    assert not log.close()


@pytest.mark.parametrize("source", ["", "a/b", "a b", "x" * 70, "é"])
def test_a_source_must_fit_into_a_key(source: str) -> None:
    """A name that no key can hold is refused at once, not in the thread."""
    with pytest.raises(UsageError):
        EventLog(InMemoryVersionedStore(), "job", source=source + "/" * (not source))


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no")


def _nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10**6, "\x1b[31m\n\u2028 \ud800", "😀" * 5000, float("nan"), float("inf"), 10**5000, b"bytes", object(),
        Unprintable(), {1: 2, None: object()}, _nested(50), _nested(10**5), {"a" * 10**5: 1}, ["x" * 100] * 10**4,
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_whatever_is_emitted_can_be_read(value: object) -> None:
    """Anything at all becomes an event within the bounds; what had to be cut says so."""
    store = InMemoryVersionedStore()
    log = _log(store)
    log.emit("log", text=value)
    log.emit("log", **{f"field{number}": "y" * 100 for number in range(1000)})
    log.emit("not a kind", text="z")
    assert log.close(PATIENCE)
    first, second = _events(store)
    assert len(json.dumps(first)) <= MAX_EVENT_BYTES + 100
    assert first["kind"] == "log"
    assert second["cut"] is True


def test_fields_of_the_head_cannot_be_forged() -> None:
    """A field named like one of the head's does not replace it."""
    store = InMemoryVersionedStore()
    log = _log(store)
    log.emit("log", job_id="other", seq=99, text="x")
    assert log.close(PATIENCE)
    (event,) = _events(store)
    assert (event["job_id"], event["seq"]) == ("job", 0)


def test_one_event_at_once() -> None:
    """`record_event` writes one chunk with one event; an outage makes it False, not an error."""
    store, clock = FaultyStore(InMemoryVersionedStore()), Clock()
    assert record_event(store, "job", "runner", now=clock.now, text="hello")
    (event,) = _events(store)
    assert event == {**HEAD, "kind": "runner", "source": event["source"], "text": "hello"}
    store.fail_next()
    assert not record_event(store, "job", "runner", text="hello")


# --- reading ---------------------------------------------------------------------------------------------------------


def _chunk(*events: object) -> bytes:
    return "".join(json.dumps(event) + "\n" for event in events).encode()


BAD_LINES = [
    b"", b"{", b"[]", b"null", b'"x"', b"\xff", b"NaN", b"[" * 20000,
    *(_chunk({**HEAD, name: value})[:-1] for name, value in [
        ("at", None), ("at", 1), ("at", "2026-03-01"), ("at", "2026-03-01T12:00:00+00:00"),
        ("at", "2026-13-01T12:00:00Z"), ("at", "0000-01-01T00:00:00Z"), ("kind", ""), ("kind", "A B"), ("kind", []),
        ("seq", -1), ("seq", True), ("seq", "1"), ("seq", 1.0), ("seq", 2**70), ("source", "a/b"), ("source", None),
        ("job_id", ""), ("job_id", "a//b"), ("job_id", None), ("job_id", "\x1b"),
        ("x", float("nan")), ("x", float("-inf")), ("x", _nested(30)), ("x", "y" * 40000),
    ]),
    *(_chunk({key: value for key, value in HEAD.items() if key != name})[:-1] for name in HEAD),
    _chunk(HEAD)[:-2] + b', "x": 1e999}',
    _chunk(HEAD)[:-2] + b', "x": ' + b"9" * 5000 + b"}",
]  # fmt: skip


@pytest.mark.parametrize("line", BAD_LINES, ids=lambda line: repr(line[:60]))
def test_one_bad_line_spoils_the_chunk(line: bytes) -> None:
    """A line that is not an event is an error that names the line; nothing else than that error is ever raised."""
    with pytest.raises(RecordError) as caught:
        parse_chunk(_chunk(HEAD) + line + b"\n")
    assert "line 2" in caught.value.reason or b"\xff" in line


def test_a_chunk_cut_short_is_no_chunk() -> None:
    """The last line ends with a line feed; a torn write does not."""
    with pytest.raises(RecordError, match="incomplete"):
        parse_chunk(_chunk(HEAD)[:-1])


def test_a_chunk_is_bounded() -> None:
    """Too many bytes or too many lines are refused unparsed."""
    with pytest.raises(RecordError, match="at most"):
        parse_chunk(b" " * (MAX_CHUNK_BYTES + 1))
    with pytest.raises(RecordError, match="at most"):
        parse_chunk(b"\n" * 30_000)


def test_events_are_of_the_job_that_the_key_names() -> None:
    """A chunk under one job's key cannot tell of another job."""
    assert parse_chunk(_chunk(HEAD), job_id="job")
    with pytest.raises(RecordError, match="of job 'job'"):
        parse_chunk(_chunk(HEAD), job_id="other")


@given(st.binary(max_size=300))
@example(b"\n")
@example(b"{}\n")
def test_any_bytes_give_events_or_one_error(value: bytes) -> None:
    """Whatever the bytes, the outcome is events or a RecordError."""
    _parse_or_refuse(value)


_JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*HEAD, "text", "x"]), _JSON), st.booleans())
def test_any_json_gives_events_or_one_error(changes: dict[str, object], is_whole: bool) -> None:
    """Fields of any kind in the place of the right ones: the same."""
    _parse_or_refuse(_chunk({**HEAD, **changes} if is_whole else changes))


@given(st.dictionaries(st.text(max_size=10), _JSON, max_size=5), st.text(max_size=20))
def test_what_is_written_can_be_read(fields: dict[str, object], text: str) -> None:
    """Whatever the fields, the line that is written is one that is read."""
    (event,) = parse_chunk(f"{event_format.event_line(HEAD, {**fields, 'text': text})}\n".encode("ascii"), job_id="job")
    assert {name: event[name] for name in HEAD} == HEAD


def _parse_or_refuse(value: bytes) -> None:
    try:
        events = parse_chunk(value)
    except RecordError:
        return
    for event in events:
        json.dumps(event, allow_nan=False).encode("ascii")


@pytest.mark.parametrize(
    "key",
    [
        "jobs/job/state.json", "events/20260301T12/job/x.ndjson", "events/20260301/job/w-000000.ndjson",
        "events/20260301T12/w-000000.ndjson", "events/20260301T12/job/w-000000.json",
        "events/20260301T12/job/w-0.ndjson", "events/20260301T12/job//w-000000.ndjson",
        "events/20260301T12/\x1b/w-000000.ndjson",
        "events/20260301T12/job/w-000000.ndjson\n", "events/\uff120260301T12/job/w-000000.ndjson",
    ],
)  # fmt: skip
def test_other_keys_are_none(key: str) -> None:
    """A key of something else names no job."""
    assert parse_chunk_key(key) is None
