"""The form of event chunks: where they lie, what a line of them is, and how bytes from elsewhere are read. Pure.

A chunk is NDJSON, one event a line. It is created once and never changed, under
`events/<hour>/<job_id>/<source>-<number>.ndjson`. The hour is that of the writing, not of the events, so a chunk that
had to wait for an outage lands where a reader will look next. Its name, `<job_id>/<source>-<number>`, is unique by
itself, since every writer draws its own `source`: a chunk sent twice because the first reply was lost is the same
chunk in two hours, and readers take it once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from mopsjobs.errors import RecordError, UsageError
from mopsjobs.registry.job_state import check_job_id
from mopsjobs.utils.json_strict import parse_json, whole_characters
from mopsjobs.utils.times import parse_time

PREFIX = "events/"


BUCKET_FORMAT = "%Y%m%dT%H"


MAX_EVENT_BYTES = 16 * 1024
"""Of one event, as it is written. Longer texts in it are cut, and a field `cut` says so."""


MAX_CHUNK_BYTES = 1024 * 1024
"""Of a chunk that is read. Those written here are much smaller."""


MAX_CHUNK_EVENTS = 20_000


MAX_DEPTH = 20
"""Lists and objects within each other, in one event."""


_KEY = re.compile(
    r"events/(?P<bucket>\d{8}T\d\d)/(?P<name>(?P<job>[^/]+)/[A-Za-z0-9._-]{1,80}-\d{6,12})\.ndjson", re.ASCII
)


_SOURCE = re.compile(r"[A-Za-z0-9._-]{1,80}", re.ASCII)


_KIND = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)


_AT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?Z", re.ASCII)


_CUTS = (8192, 2048, 256, 16)
"""Characters left of each text of an event that is too long, tried in turn."""


Event = dict[str, object]


class ChunkName(NamedTuple):
    """What the key of a chunk tells. `name` is the chunk's identity, whatever hour it lies in."""

    bucket: str
    name: str
    job_id: str


def bucket_of(moment: datetime) -> str:
    """The hour that chunks written at that time lie in."""
    return moment.strftime(BUCKET_FORMAT)


def chunk_key(moment: datetime, job_id: str, source: str, number: int) -> str:
    """Where a chunk that is written at that time goes."""
    return f"{PREFIX}{bucket_of(moment)}/{job_id}/{source}-{number:06d}.ndjson"


def chunk_name(key: str) -> ChunkName | None:
    """What a chunk's key tells; None when the key is that of something else."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    try:
        return ChunkName(match["bucket"], match["name"], check_job_id(match["job"]))
    except UsageError:
        return None


def is_kind(text: str) -> bool:
    """Whether an event may be of this kind: lower case letters, digits and `_`."""
    return _KIND.fullmatch(text) is not None


def is_source(text: str) -> bool:
    """Whether a source of events may have this name: at most 80 letters, digits and `. _ -`."""
    return _SOURCE.fullmatch(text) is not None


def parse_chunk(value: bytes, *, job_id: str | None = None) -> list[Event]:
    """The events of a chunk, in their order.

    Args:
        value: the chunk.
        job_id: the job that its key names; the events must be of the same.

    Raises:
        RecordError: it is too large, no text, or a line of it is no event. One bad line spoils the chunk: nothing that
            we write has one.
    """
    if len(value) > MAX_CHUNK_BYTES:
        raise RecordError(f"{len(value):,} bytes are no chunk of events: at most {MAX_CHUNK_BYTES:,} are read")
    try:
        lines = value.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        raise RecordError("not UTF-8 text") from None
    if lines.pop():
        raise RecordError("the last line is not complete")
    if len(lines) > MAX_CHUNK_EVENTS:
        raise RecordError(f"{len(lines):,} events in one chunk: at most {MAX_CHUNK_EVENTS:,} are read")
    events = []
    for number, line in enumerate(lines, 1):
        try:
            events.append(_parse_event(line, job_id))
        except RecordError as error:
            raise RecordError(f"line {number}: {error.reason}") from None
    return events


def _parse_event(line: str, job_id: str | None) -> Event:
    if len(line) > 2 * MAX_EVENT_BYTES:
        raise RecordError(f"{len(line):,} characters are no event")
    event = parse_json(line, max_depth=MAX_DEPTH)
    if "\\ud" in line or "\\uD" in line:
        event = whole_characters(event, "replace")  # our own messages may quote paths that are not UTF-8
    if not isinstance(event, dict):
        raise RecordError("not a JSON object")
    at, owner, kind, source, seq = (event.get(name) for name in ("at", "job_id", "kind", "source", "seq"))
    if not (isinstance(kind, str) and is_kind(kind)):
        raise RecordError("kind is none")
    if not (isinstance(source, str) and is_source(source)):
        raise RecordError("source is no name")
    if type(seq) is not int or not 0 <= seq < 2**53:
        raise RecordError("seq is no number of an event")
    if not (isinstance(at, str) and _is_time(at)):
        raise RecordError("at is no time in RFC 3339 with Z")
    if not isinstance(owner, str) or (job_id is not None and owner != job_id):
        raise RecordError(f"the event is of job {str(owner)[:80]!r}")
    try:
        check_job_id(owner)
    except UsageError:
        raise RecordError("job_id is none") from None
    return event


def _is_time(text: str) -> bool:
    try:
        return _AT.fullmatch(text) is not None and parse_time(text) is not None
    except ValueError:
        return False


def _may_be_deep(line: str) -> bool:
    return line.count("[") + line.count("{") > MAX_DEPTH


def _is_deep(event: Mapping[str, object]) -> bool:
    """Whether more than `MAX_DEPTH` levels lie within each other. Without recursion, the danger itself."""
    level: list[object] = list(event.values())
    for _ in range(MAX_DEPTH - 1):
        level = [
            one
            for item in level
            if isinstance(item, dict | list | tuple)
            for one in (item.values() if isinstance(item, dict) else item)
        ]
    return any(isinstance(item, dict | list | tuple) for item in level)


def event_line(head: Mapping[str, object], fields: Mapping[str, object]) -> str:
    """An event as one line of ASCII within the bounds, whatever the fields are; those of the head win."""
    try:
        line = json.dumps({**head, **fields, **head}, allow_nan=False, separators=(",", ":"))
        if len(line) <= MAX_EVENT_BYTES and not (_may_be_deep(line) and _is_deep(fields)):
            return line
    except (TypeError, ValueError, RecursionError):
        pass  # what JSON cannot say is told as text
    for limit in _CUTS:
        texts = {str(name)[:limit]: _cut(value, limit) for name, value in fields.items()}
        line = json.dumps({**head, **texts, **head, "cut": True}, separators=(",", ":"))
        if len(line) <= MAX_EVENT_BYTES:
            return line
    return json.dumps({**head, "cut": True}, separators=(",", ":"))


def _cut(value: object, limit: int) -> object:
    """A field that is sure to fit: a number of usual size as it is, anything else as text, cut where it is longer."""
    if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**63):
        return value
    try:
        text = value if isinstance(value, str) else str(value)
    except Exception:  # noqa: BLE001 - somebody's __str__ must not stop a job
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else text[:limit] + "…"
