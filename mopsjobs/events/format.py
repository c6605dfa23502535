"""The form of event chunks: their keys, their lines, and how bytes from elsewhere are parsed. No input or output.

A chunk is NDJSON, one event per line, at `events/<hour>/<job_id>/<source>-<number>.ndjson`. It never changes. The hour
is that of the writing, not of the events: a chunk that waited for an outage lands where a reader looks next. Its name,
`<job_id>/<source>-<number>`, is unique, since every writer draws its own `source`. A writer that lost a reply may send
a chunk again in a later hour; readers take it once, by its name. See docs/decisions/0024-events-and-logs.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from mopsjobs.errors import RecordError, UsageError
from mopsjobs.registry.job_id import check_job_id
from mopsjobs.registry.keys import EVENTS
from mopsjobs.utils.json_strict import check_surrogates, is_deeper, parse_json
from mopsjobs.utils.times import parse_time

PREFIX = EVENTS.prefix

BUCKET_FORMAT = "%Y%m%dT%H"

STATE = "state"
"""Kind: the record was written, but not for labels or a note after the end.

Fields `status`, `tasks_total`, `tasks_completed`, `tasks_failed`, `revision`.
"""

TASK_FAILED = "task_failed"

LOG = "log"
"""Kind: a line that a task wrote, in the field `text`. The first to be dropped if there are too many events."""

RUNNER = "runner"
"""Kind: a message of the runner, in the field `text`."""

STRAGGLER = "straggler"
"""Kind: a task is at work for longer than the finished ones explain, in the field `text`. Once per task and run."""

NOTE = "note"
"""Kind: a user noted something about the job, in the field `text`; `by` is the user, if known."""

LABELS = "labels"
"""Kind: a user changed labels of the job: the field `labels` has their values, null for one that was removed; `by`."""

NOTIFIED = "notified"
"""Kind: a user was told of the job, in the field `text`; `recipient` is the kind of recipient, never an address."""

DROPPED = "dropped"
"""Kind: events are missing here; the field `count` has their number."""

KINDS = (STATE, TASK_FAILED, LOG, RUNNER, STRAGGLER, NOTE, LABELS, NOTIFIED, DROPPED)
"""The kinds that mops-jobs writes. Other writers may have more."""

MAX_EVENT_BYTES = 16 * 1024
"""Of one event, as it is written. Longer texts in it are cut, and the field `cut` is set."""

MAX_CHUNK_BYTES = 1024 * 1024
"""Of a chunk that is read. mops-jobs writes much smaller ones."""

MAX_CHUNK_EVENTS = 20_000

MAX_DEPTH = 20
"""Nested lists and objects in one event."""

_SOURCE = re.compile(r"[A-Za-z0-9._-]{1,80}", re.ASCII)

_KIND = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?Z", re.ASCII)

_CUT_LENGTHS = (8192, 2048, 256, 16)
"""Characters to which each text of a long event is cut. They are tried in turn."""

Event = dict[str, object]


class ChunkKey(NamedTuple):
    """The parts of a chunk's key. `name` is the identity of the chunk, whatever hour it lies in."""

    bucket: str
    name: str
    job_id: str


def bucket_of(moment: datetime) -> str:
    """Return the hour under which chunks of a moment lie."""
    return moment.strftime(BUCKET_FORMAT)


def chunk_key(moment: datetime, job_id: str, source: str, number: int) -> str:
    """Return the key of a chunk that is written at a moment."""
    return EVENTS.key(hour=bucket_of(moment), job=job_id, source=source, number=f"{number:06d}")


def parse_chunk_key(key: str) -> ChunkKey | None:
    """Split the key of a chunk into its parts; None if it is the key of something else."""
    parts = EVENTS.parse(key)
    if parts is None:
        return None
    return ChunkKey(parts["hour"], "{job}/{source}-{number}".format_map(parts), parts["job"])


def is_kind(text: str) -> bool:
    """Return True for a valid kind of event: at most 32 lower case letters, digits and `_`, beginning with a letter."""
    return _KIND.fullmatch(text) is not None


def is_source(text: str) -> bool:
    """Return True for a valid source of events: at most 80 letters, digits and `. _ -`."""
    return _SOURCE.fullmatch(text) is not None


def parse_chunk(value: bytes, *, job_id: str | None = None) -> list[Event]:
    """Return the events of a chunk, in their order.

    Args:
        value: the bytes of the chunk.
        job_id: the job in its key; its events must have the same.

    Raises:
        RecordError: if it is too large, is not text, or a line is not an event. One bad line spoils the chunk:
            mops-jobs writes none.
    """
    if len(value) > MAX_CHUNK_BYTES:
        raise RecordError(f"too large: {len(value):,} bytes, expected at most {MAX_CHUNK_BYTES:,}")
    try:
        lines = value.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        raise RecordError("not UTF-8 text") from None
    if lines.pop():
        raise RecordError("the last line is incomplete")
    if len(lines) > MAX_CHUNK_EVENTS:
        raise RecordError(f"too many events: {len(lines):,}, expected at most {MAX_CHUNK_EVENTS:,}")
    events = []
    for number, line in enumerate(lines, 1):
        try:
            events.append(_parse_event(line, job_id))
        except RecordError as error:
            raise RecordError(f"line {number}: {error.reason}") from None
    return events


def _parse_event(line: str, job_id: str | None) -> Event:
    if len(line) > 2 * MAX_EVENT_BYTES:
        raise RecordError(f"too long: {len(line):,} characters")
    event = parse_json(line, max_depth=MAX_DEPTH)
    if "\\ud" in line or "\\uD" in line:
        event = check_surrogates(event, "replace")  # messages of mops-jobs may quote paths that are not UTF-8
    if not isinstance(event, dict):
        raise RecordError("not a JSON object")
    at, owner, kind, source, seq = (event.get(name) for name in ("at", "job_id", "kind", "source", "seq"))
    if not (isinstance(kind, str) and is_kind(kind)):
        raise RecordError("invalid kind")
    if not (isinstance(source, str) and is_source(source)):
        raise RecordError("invalid source")
    if type(seq) is not int or not 0 <= seq < 2**53:
        raise RecordError("invalid seq: expected a whole number from 0 and below 2^53")
    if not (isinstance(at, str) and _is_time(at)):
        raise RecordError("invalid at: expected a time in RFC 3339 with Z")
    if not isinstance(owner, str) or (job_id is not None and owner != job_id):
        raise RecordError(f"it is an event of job {str(owner)[:80]!r}")
    try:
        check_job_id(owner)
    except UsageError:
        raise RecordError("invalid job_id") from None
    return event


def _is_time(text: str) -> bool:
    try:
        return _TIME.fullmatch(text) is not None and parse_time(text) is not None
    except ValueError:
        return False


def event_line(head: Mapping[str, object], fields: Mapping[str, object]) -> str:
    """Encode an event as one line of ASCII within the limits, whatever the fields hold. Fields of the head win."""
    try:
        line = json.dumps({**head, **fields, **head}, allow_nan=False, separators=(",", ":"))
        if len(line) <= MAX_EVENT_BYTES and not is_deeper(dict(fields), MAX_DEPTH, line):
            return line
    except (TypeError, ValueError, RecursionError):
        pass  # values that JSON cannot hold become text
    for limit in _CUT_LENGTHS:
        texts = {str(name)[:limit]: _truncate(value, limit) for name, value in fields.items()}
        line = json.dumps({**head, **texts, **head, "cut": True}, separators=(",", ":"))
        if len(line) <= MAX_EVENT_BYTES:
            return line
    return json.dumps({**head, "cut": True}, separators=(",", ":"))


def _truncate(value: object, limit: int) -> object:
    """Return a value that fits: numbers of usual size unchanged, all else as text of at most `limit` characters."""
    if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**63):
        return value
    try:
        text = value if isinstance(value, str) else str(value)
    except Exception:  # noqa: BLE001 - a broken __str__ must not stop a job
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else text[:limit] + "…"
