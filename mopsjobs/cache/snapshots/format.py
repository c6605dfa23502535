"""The form of a snapshot: a manifest, and immutable parts that are named by their hashes.

`snapshots/manifest.json` names the current snapshot. Its parts are at `snapshots/<id>/<sha256>`. A part is compressed
text. Its first line is a JSON object: the columns of its rows, their labels, and problems. Each further line is the
column `record` of one row. Columns instead of rows: they are checked and parsed at once, and take less space.

The rows are those of the cache, so a snapshot serves only caches with the same schema. A reader trusts no part of it:
see take.py and docs/decisions/0063-snapshots.md.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import pairwise
from types import NoneType
from typing import Any, NamedTuple

from mopsjobs.cache import rows
from mopsjobs.cache.snapshots.row_checks import MAX_NUMBER, check_rows, parse_object
from mopsjobs.cache.sync.batch import UNREAD_VERSION
from mopsjobs.errors import MAX_REASON, RecordError, shorten
from mopsjobs.utils.json_strict import read_json
from mopsjobs.utils.times import parse_time

PREFIX = "snapshots/"

MANIFEST_KEY = f"{PREFIX}manifest.json"

UNREADABLE_HINT = "Use a newer mops-jobs, or delete that key."
"""What to do about a manifest that cannot be read. Until then, none replaces it."""

SCHEMA_VERSION = 1
"""The `schema_version` of the manifest."""

ID_FORMAT = "%Y%m%dT%H%M%S"
"""The beginning of an id: when the publisher began, in UTC. A random text follows."""

PART_ROWS = 1000
"""Most rows of a part, which are written in one transaction. They take some 200 KB."""

PART_BYTES = 350 * 2**10
"""Of a part, unless it has a single row: a value of DynamoDB has 400 KiB."""

PART_CHARACTERS = 2**21
"""Characters of the rows of a part, unless one row is longer."""

MAX_PARTS = 20_000
"""Parts that a reader accepts: 20 million jobs."""

MAX_MANIFEST_BYTES = 2 * 2**20

MAX_TEXT_BYTES = 32 * 2**20
"""Of the text of a part. A row has up to a megabyte, and is not split."""

_PART_KEY = re.compile(r"snapshots/(?P<id>(?P<at>\d{8}T\d{6})-[0-9a-f]{8})/(?P<hash>[0-9a-f]{64})", re.ASCII)

_TIME_BOUNDS = (-62_135_596_800.0, 253_402_300_799.0)
"""Seconds since 1970 that have a date in the years 1 to 9999."""

_BOUNDS = dict.fromkeys(("is_active", "has_history", "is_validated", "progress"), (0, 1))

_COUNT_BOUNDS = (0, MAX_NUMBER)

_TEXT, _INTEGER, _REAL = (str,), (int,), (int, float)

_KINDS: dict[str, tuple[type, ...]] = {
    "key": _TEXT, "job_id": _TEXT, "version": _TEXT, "status": _TEXT, "is_active": _INTEGER, "created_ts": _REAL,
    "changed_ts": _REAL, "has_history": _INTEGER, "tasks_total": _INTEGER, "tasks_completed": _INTEGER,
    "outputs_expected": _INTEGER, "outputs_verified": _INTEGER, "is_validated": _INTEGER,
    **dict.fromkeys(("started_ts", "ended_ts", "progress", "heartbeat_ts"), (*_REAL, NoneType)),
}  # fmt: skip
"""The types of the values of a column; those of all others are texts or null."""

NOT_SHARED = ("generation", "record")
"""Columns that are not among those of the first line: one is that of the reader, the other has its own lines."""

SHARED = tuple(name for name in rows.COLUMNS if name not in NOT_SHARED)

_REMARKS = (rows.UNKNOWN_STATUS, rows.FOREIGN_VALUE)
"""Problems of records that have rows."""

_ENCODER = json.JSONEncoder(separators=(",", ":"), check_circular=False, allow_nan=False)


class Retired(NamedTuple):
    """A snapshot that another one has replaced, and when. Readers may still download it."""

    id: str
    at: str


class Manifest(NamedTuple):
    """Description of the current snapshot."""

    id: str
    known_to: str
    """When the scan began that its publisher took the rows from, RFC 3339."""
    cache_schema: int
    jobs: int
    bytes: int
    """Of all its parts."""
    foreign_writes: str
    foreign_records: str
    """What the publisher's syncs found about other programs: the meta values of these names; see sync_state.py."""
    parts: tuple[str, ...]
    """The hashes of its parts, in the order of the keys of their rows."""
    retired: tuple[Retired, ...]

    def part_keys(self) -> list[str]:
        """Return the keys of its parts."""
        return [part_key(self.id, name) for name in self.parts]


class Part(NamedTuple):
    """The rows of a part, in the order of their keys, and what lies beside them."""

    rows: list[rows.Row]
    labels: list[tuple[str, str, str]]
    """Labels and values of these jobs, with their ids last."""
    remarks: list[rows.Problem]
    """Problems that say how a row is shown."""
    problems: list[rows.Problem]
    """Those of keys without a valid record."""


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the manifest as JSON."""
    document = {"schema_version": SCHEMA_VERSION, **manifest._asdict()}
    return _ENCODER.encode(document | {"retired": [one._asdict() for one in manifest.retired]}).encode()


def parse_manifest(value: bytes) -> Manifest:
    """Parse a manifest.

    Raises:
        RecordError: if it is not one that this version knows.
    """
    if len(value) > MAX_MANIFEST_BYTES:
        raise RecordError(f"larger than {MAX_MANIFEST_BYTES:,} bytes")
    content = read_json(value)
    if not isinstance(content, dict) or content.get("schema_version") != SCHEMA_VERSION:
        raise RecordError(f"not a manifest of snapshots of schema {SCHEMA_VERSION}")
    fields = {name: content.get(name) for name in Manifest._fields}
    texts, counts = ("id", "known_to", "foreign_writes", "foreign_records"), ("cache_schema", "jobs", "bytes")
    are_known = all(type(fields[name]) is str for name in texts) and all(type(fields[name]) is int for name in counts)
    if not (are_known and isinstance(fields["parts"], list) and isinstance(fields["retired"], list)):
        raise RecordError("a field of the manifest is missing, or of another type")
    if len(fields["parts"]) > MAX_PARTS or not all(
        part_id(f"{PREFIX}{fields['id']}/{name}") for name in fields["parts"]
    ):
        raise RecordError("invalid names of parts")
    if fields["foreign_writes"] not in ("yes", "no", "") or fields["foreign_records"] not in ("yes", "no"):
        raise RecordError("invalid findings about other programs")
    try:
        retired = tuple(Retired(str(one["id"]), str(one["at"])) for one in fields["retired"])
        for text in (str(fields["known_to"]), *(one.at for one in retired)):
            parse_time(text)
    except (TypeError, KeyError, ValueError):
        raise RecordError("invalid times of snapshots") from None
    return Manifest(**fields | {"parts": tuple(fields["parts"]), "retired": retired})


def part_key(snapshot_id: str, name: str) -> str:
    """Return the key of a part."""
    return f"{PREFIX}{snapshot_id}/{name}"


def part_id(key: str) -> str | None:
    """Return the id of the snapshot that the key of a part names; None for another key."""
    match = _PART_KEY.fullmatch(key)
    return None if match is None else match["id"]


def begun_before(snapshot_id: str, moment: datetime) -> bool:
    """Return whether the publisher of a snapshot began before a time, in UTC."""
    return snapshot_id < moment.strftime(ID_FORMAT)


def name_of(part: bytes) -> str:
    """Return the name of a part: its hash."""
    return hashlib.sha256(part).hexdigest()


def encode_part(
    found: Sequence[Sequence[object]], labels: Sequence[tuple[str, str, str]], problems: Sequence[Sequence[str]]
) -> bytes:
    """Compress rows to a part.

    Args:
        found: the columns `SHARED` of each row, and its record at the end.
        labels: labels and values of these jobs, with their ids last.
        problems: the problems beside them.
    """
    numbers = {str(row[SHARED.index("job_id")]): number for number, row in enumerate(found)}
    head = {
        "columns": dict(
            zip(SHARED, zip(*(row[:-1] for row in found), strict=True) if found else (), strict=bool(found))
        ),
        "labels": [(numbers[job_id], label, value) for label, value, job_id in labels],
        "problems": problems,
    }
    return zlib.compress("\n".join([_ENCODER.encode(head), *(str(row[-1]) for row in found)]).encode())


def decode_part(part: bytes, name: str, job_id_of: Callable[[str], str | None], generation: int) -> Part:
    """Return the rows of a part, with the generation of the sync that reads it.

    Raises:
        RecordError: if the part does not have its hash, is too large, or has values that no row has.
    """
    if name_of(part) != name:
        raise RecordError("has another hash than its name")
    decompressor = zlib.decompressobj()
    try:
        text = decompressor.decompress(part, MAX_TEXT_BYTES)
    except zlib.error:
        raise RecordError("cannot be decompressed") from None
    if not decompressor.eof:
        raise RecordError(f"incomplete, or larger than {MAX_TEXT_BYTES:,} bytes")
    first, *records = _decode(text).split("\n")
    if len(records) > PART_ROWS:
        raise RecordError(f"has more than {PART_ROWS:,} rows")
    head = parse_object(first)
    columns = _checked_columns(head.get("columns"), len(records))
    if not all(job_id_of(key) == job_id for key, job_id in zip(columns["key"], columns["job_id"], strict=True)):
        raise RecordError("has a key that is not that of its job")
    if any(earlier >= later for earlier, later in pairwise(columns["key"])):
        raise RecordError("its keys are out of order")
    whole = columns | {"record": records, "generation": [generation] * len(records)}
    check_rows(whole)
    labels = _checked_labels(head.get("labels"), columns["job_id"])
    problems = _problems_by_key(head.get("problems"))
    remarks = _take_remarks(problems, dict(zip(columns["key"], columns["version"], strict=True)))
    made = list(zip(*(whole[column] for column in rows.COLUMNS), strict=True))
    return Part(made, labels, remarks, [_unverified(problem, job_id_of) for problem in problems.values()])


def job_row(part: Part, number: int) -> rows.JobRow:
    """Return a row of a part with its labels, as a record makes it."""
    row = part.rows[number]
    return rows.JobRow(row, tuple(label for label in part.labels if label[-1] == row[1]), None)


def _decode(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise RecordError("not UTF-8 text") from None


def _checked_columns(columns: object, count: int) -> dict[str, list[Any]]:
    """Return the columns of a part with that many rows, if all values have types and bounds of their columns.

    Raises:
        RecordError: if one has not.
    """
    if not count:
        return {name: [] for name in SHARED}
    if not isinstance(columns, dict) or columns.keys() != set(SHARED):
        raise RecordError("has other columns")
    for name, values in columns.items():
        kinds = _KINDS.get(name, (str, NoneType))
        if not isinstance(values, list) or len(values) != count or not {type(value) for value in values} <= set(kinds):
            raise RecordError(f"invalid column {name}")
        if kinds[0] is not str:
            numbers = [value for value in values if value is not None]
            low, high = _TIME_BOUNDS if name.endswith("_ts") else _BOUNDS.get(name, _COUNT_BOUNDS)
            if numbers and not low <= min(numbers) <= max(numbers) <= high:
                raise RecordError(f"invalid number in column {name}")
    return columns


def _checked_labels(labels: object, job_ids: list[str]) -> list[tuple[str, str, str]]:
    """Return the labels of the rows, each with the id of its job.

    Raises:
        RecordError: if a label is not of a row, or occurs twice.
    """
    try:
        numbers, names, values = zip(*labels, strict=True) if labels else ((), (), ())  # type: ignore[misc]
    except (TypeError, ValueError):
        raise RecordError("invalid labels") from None
    is_typed = {*map(type, numbers)} <= {int} and {*map(type, names), *map(type, values)} <= {str}
    if (
        not (isinstance(labels, list) and is_typed)
        or (labels and not 0 <= min(numbers) <= max(numbers) < len(job_ids))
        or len({*zip(numbers, names, strict=True)}) != len(labels)
    ):
        raise RecordError("invalid labels")
    return list(zip(names, values, map(job_ids.__getitem__, numbers), strict=True))


def _problems_by_key(problems: object) -> dict[str, rows.Problem]:
    """Return the problems of a part.

    Raises:
        RecordError: if one has other values than texts.
    """
    if not isinstance(problems, list):
        raise RecordError("invalid problems")
    found = {}
    for each in problems:
        if not (isinstance(each, list) and len(each) == 4 and {type(one) for one in each} == {str}):
            raise RecordError("invalid problems")
        key, kind, reason, version = each
        found[key] = rows.Problem(key, kind, shorten(reason, MAX_REASON), version)
    return found


def _take_remarks(problems: dict[str, rows.Problem], versions: dict[str, str]) -> list[rows.Problem]:
    """Take the problems that say how a row is shown out of the problems. The rows have these versions, by key."""
    found = [one for one in problems.values() if one.kind in _REMARKS and versions.get(one.key) == one.version]
    for remark in found:
        del problems[remark.key]
    return found


def _unverified(problem: rows.Problem, job_id_of: Callable[[str], str | None]) -> rows.Problem:
    """Return a problem as the reader notes it. A record that the publisher could not read is read by the next sync."""
    is_record = job_id_of(problem.key) is not None
    kind, version = (rows.UNREADABLE, UNREAD_VERSION) if is_record else (rows.NOT_A_RECORD, problem.version)
    return rows.Problem(problem.key, kind, problem.reason, version)
