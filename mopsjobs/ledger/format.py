"""The form of ledger chunks: their keys, their bytes, and how bytes from elsewhere are parsed. No input or output.

A chunk is gzip of NDJSON at `ledger/<job_id>/<shard>.<run>-<number>.attempts.gz`, and never changes. Its first line is
an object about all its attempts, and each further line is one column of them:

    {"version": 1, "job_id": "j", "shard": 0, "count": 2, "epoch_ms": 1780000000000,
     "hosts": ["node-1"], "pythons": ["3.12.4"], "errors": [["1a2b3c4d5e6f", "ValueError", "PLACE:21"]]}
    {"column": "task", "values": [0, 3]}
    {"column": "attempt", "values": [1, 1]}
    …

The first line also has `files_opened`: the files of the bundle that these attempts may have opened, with a line feed
between two names. It is missing if that is not known.

By columns, a chunk takes a third of the bytes that it would take by rows. `task` and `started_ms` hold the difference
to the value before, the first one to 0 and to `epoch_ms`. `host`, `python` and `error` are positions in the lists of
the first line. Times are whole milliseconds, memory is in KiB. If an attempt went on from a
checkpoint, `resumed` has its number, its name, and the milliseconds that the task had worked by then. The same attempts
give the same bytes. So a writer that lost a reply, or was killed, sends its chunk again under the same key, and
`create_if_absent` keeps one. See docs/decisions/0044-the-ledger.md.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from mopsjobs.errors import RecordError
from mopsjobs.ledger.attempt import MAX_MESSAGE_CHARACTERS, Attempt, AttemptError, Outcome, Resumed
from mopsjobs.registry.job_id import check_job_id
from mopsjobs.registry.keys import LEDGER
from mopsjobs.store.base import VersionedStore
from mopsjobs.utils.json_strict import check_surrogates, parse_json

T = TypeVar("T")

VERSION = 1

MAX_CHUNK_ATTEMPTS = 5_000
"""Ended attempts in one chunk, at most: some 50 KB."""

MAX_READ_ATTEMPTS = 4 * MAX_CHUNK_ATTEMPTS
"""Of a chunk that is read. The chunk of a killed runner also has the attempts that ran: one per worker."""

MAX_CHUNK_BYTES = 8 * 1024 * 1024
"""Of a chunk as it is stored."""

MAX_TEXT_BYTES = 32 * 1024 * 1024
"""Of a chunk that is unpacked: 5,000 messages of emoji. A few kilobytes of gzip may hold gigabytes."""

MAX_VALUES = 1_200_000
"""Values in a chunk that is read: 200 scalars of 5,000 tasks, and their places. An empty list takes 3 bytes of text,
but 64 bytes of memory."""

MAX_FILES_CHARACTERS = 64 * 1024
"""Of the names of opened files in a chunk. With more, they count as not known."""

MAX_LINES = 100
"""Lines of a chunk that is read."""

MAX_NAME_CHARACTERS = 200
"""Of a host, a version, a type or a place."""

_TEXTS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"')

_OUTCOMES = {str(outcome): outcome for outcome in Outcome}

_MEASURED: dict[str, tuple[str, Callable[[float], int], Callable[[int], float]]] = {
    "seconds_ms": ("seconds", lambda seconds: round(seconds * 1000), lambda ms: ms / 1000),
    "user_ms": ("user_seconds", lambda seconds: round(seconds * 1000), lambda ms: ms / 1000),
    "system_ms": ("system_seconds", lambda seconds: round(seconds * 1000), lambda ms: ms / 1000),
    "max_rss_kib": ("max_rss_bytes", lambda size: int(size) // 1024, lambda kib: kib * 1024),
    "output_bytes": ("output_bytes", int, int),
}
"""Columns of whole numbers or nulls: the field of an attempt, and how its value becomes a number and is read back."""


FilesOpened = frozenset[str] | None
"""Files of a bundle, by their names in it; None if it is not known which were opened."""


class ChunkKey(NamedTuple):
    """The parts of a chunk's key. `name` is the identity of the chunk, `kind` is `attempts` or `scalars`."""

    name: str
    job_id: str
    shard: int
    kind: str

    @property
    def key(self) -> str:
        """Return the whole key."""
        return f"{LEDGER.prefix}{self.name}.{self.kind}.gz"


def ledger_prefix(job_id: str) -> str:
    """Return the prefix of all chunks of a job's ledger."""
    return LEDGER.prefix_of(check_job_id(job_id))


def list_chunks(store: VersionedStore, job_id: str) -> Iterator[ChunkKey]:
    """Yield the keys of the chunks with attempts in a job's ledger."""
    listed = map(parse_chunk_key, store.list_keys(ledger_prefix(job_id)))
    return (chunk for chunk in listed if chunk is not None and chunk.kind == "attempts")


def chunk_key(job_id: str, shard: int, run: str, number: int, kind: str = "attempts") -> str:
    """Return the key of a chunk.

    Args:
        job_id: the job.
        shard: the shard that wrote it.
        run: drawn by the runner for this run of the shard: up to 32 hexadecimal digits.
        number: counts the chunks of the run, from 0.
        kind: `attempts` or `scalars`.
    """
    return LEDGER.key(job=check_job_id(job_id), shard=shard, run=run, number=f"{number:06d}", kind=kind)


def parse_chunk_key(key: str) -> ChunkKey | None:
    """Split the key of a chunk into its parts; None if it is the key of something else."""
    parts = LEDGER.parse(key)
    if parts is None:
        return None
    name = "{job}/{shard}.{run}-{number}".format_map(parts)
    return ChunkKey(name, parts["job"], int(parts["shard"]), parts["kind"])


def encode_attempts(job_id: str, shard: int, attempts: Sequence[Attempt], files_opened: FilesOpened = None) -> bytes:
    """Return the bytes of a chunk, the same for the same attempts and files."""
    hosts: dict[str, int] = {}
    pythons: dict[str, int] = {}
    errors: dict[tuple[str, str, str | None], int] = {}
    started = [None if one.started_at is None else round(one.started_at * 1000) for one in attempts]
    epoch_ms = min((at for at in started if at is not None), default=0)
    columns: dict[str, list[Any]] = {
        "task": _differences([one.task for one in attempts], 0),
        "attempt": [one.attempt for one in attempts],
        "outcome": [str(one.outcome) for one in attempts],
        "started_ms": _differences(started, epoch_ms),
        **{
            column: [None if (value := getattr(one, field)) is None else encode(value) for one in attempts]
            for column, (field, encode, _) in _MEASURED.items()
        },
        "host": [_position(hosts, one.host) for one in attempts],
        "python": [_position(pythons, one.python) for one in attempts],
        "error": [_position(errors, one.error and _error_head(one.error)) for one in attempts],
        "message": [one.error and one.error.message[:MAX_MESSAGE_CHARACTERS] for one in attempts],
    }
    if any(one.resumed for one in attempts):
        columns["resumed"] = [
            one.resumed and [one.resumed.number, one.resumed.at, round(one.resumed.seconds * 1000)] for one in attempts
        ]
    head = {
        "version": VERSION,
        "job_id": job_id,
        "shard": shard,
        "count": len(attempts),
        "epoch_ms": epoch_ms,
        "hosts": list(hosts),
        "pythons": list(pythons),
        "errors": [list(error) for error in errors],
    }
    names = None if files_opened is None else "\n".join(sorted(files_opened))
    if names is not None and len(names) <= MAX_FILES_CHARACTERS and all(map(str.isprintable, files_opened or ())):
        head["files_opened"] = names
    return encode_columns(head, columns)


def encode_columns(head: dict[str, object], columns: dict[str, list[Any]]) -> bytes:
    """Return the bytes of a chunk with these columns."""
    lines = [head, *({"column": name, "values": values} for name, values in columns.items())]
    text = "".join(json.dumps(line, allow_nan=False, separators=(",", ":")) + "\n" for line in lines)
    return gzip.compress(text.encode("ascii"), mtime=0)


def parse_attempts(value: bytes, key: ChunkKey) -> list[Attempt]:
    """Return the attempts of a chunk, in the order of their ends; see `parse_chunk`."""
    return parse_chunk(value, key)[0]


def parse_chunk(value: bytes, key: ChunkKey) -> tuple[list[Attempt], FilesOpened]:
    """Return the attempts of a chunk, in the order of their ends, and the files that they may have opened.

    Args:
        value: its bytes.
        key: its key: the job and the shard in the chunk must be those.

    Raises:
        RecordError: if it is not a chunk of attempts of that job and shard, or only a newer version can read it.
    """
    head, columns = parse_columns(value, key)
    try:
        return list(_attempts(head, columns)), _files_opened(head)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise RecordError(f"not a chunk of attempts ({type(error).__name__}: {error})") from None


def parse_files_opened(value: bytes) -> FilesOpened:
    """Return the files that the attempts of a chunk may have opened, without reading these.

    Raises:
        RecordError: if it is not a chunk.
    """
    head = parse_json(_unpack(value).partition("\n")[0])
    return _files_opened(head) if isinstance(head, dict) else None


def _files_opened(head: dict[str, Any]) -> FilesOpened:
    names = head.get("files_opened")
    return frozenset(filter(None, names.split("\n"))) if isinstance(names, str) else None


def parse_columns(value: bytes, key: ChunkKey) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Return the first line of a chunk, and its columns, each with as many values as the first line says.

    Raises:
        RecordError: if it is not a chunk of that job and shard, or only a newer version can read it.
    """
    head, *lines = [parse_json(line) for line in _lines(_unpack(value))] or [None]
    if not isinstance(head, dict) or type(head.get("version")) is not int:
        raise RecordError("not a chunk of a ledger: expected an object with a version in its first line")
    if head["version"] != VERSION:
        raise RecordError(f"unknown version of a ledger {head['version']}: expected {VERSION}")
    if (head.get("job_id"), head.get("shard")) != (key.job_id, key.shard):
        raise RecordError(f"it is a chunk of job {str(head.get('job_id'))[:80]!r}, shard {str(head.get('shard'))[:9]}")
    if type(head.get("count")) is not int or not 0 <= head["count"] <= MAX_READ_ATTEMPTS:
        raise RecordError(f"invalid count {str(head.get('count'))[:20]}: expected up to {MAX_READ_ATTEMPTS:,}")
    for name, entries in head.items():  # hosts, errors or shapes, of which each is used
        if isinstance(entries, list) and len(entries) > head["count"]:
            raise RecordError(f"{name[:80]!r} has more entries than the chunk has tasks")
    columns: dict[str, list[Any]] = {}
    for line in lines:
        if not (isinstance(line, dict) and isinstance(line.get("column"), str)):
            raise RecordError("not a column: expected an object with a column and its values")
        values = line.get("values")
        if not isinstance(values, list) or len(values) != head["count"]:
            raise RecordError(f"column {line['column'][:80]!r} has another number of values than the first line says")
        columns[line["column"]] = values
    return head, columns


def _unpack(value: bytes) -> str:
    if len(value) > MAX_CHUNK_BYTES:
        raise RecordError(f"too large: {len(value):,} bytes, expected at most {MAX_CHUNK_BYTES:,}")
    unpacker = zlib.decompressobj(wbits=31)
    try:
        content = unpacker.decompress(value, MAX_TEXT_BYTES)
    except zlib.error:
        raise RecordError("not gzip") from None
    if unpacker.unconsumed_tail:
        raise RecordError(f"too large: it unpacks to more than {MAX_TEXT_BYTES:,} bytes")
    if not unpacker.eof:
        raise RecordError("the gzip is incomplete")
    try:
        return content.decode("ascii")
    except UnicodeDecodeError:
        raise RecordError("not ASCII text") from None


def _lines(text: str) -> list[str]:
    """Split a chunk into its lines, unless they have more values than fit in memory.

    Commas and brackets in texts, as in messages, do not count. Only the lines are objects.
    """
    if sum(map(text.count, ",[{")) > MAX_VALUES or text.count("{") > MAX_LINES:
        bare = _TEXTS.sub("", text)
        if sum(map(bare.count, ",[{")) > MAX_VALUES or bare.count("{") > MAX_LINES:
            raise RecordError(f"too large: more than {MAX_VALUES:,} values, or {MAX_LINES} objects")
    if text.count("\n") > MAX_LINES:
        raise RecordError(f"too large: more than {MAX_LINES} lines")
    return text.splitlines()


def _attempts(head: dict[str, Any], columns: dict[str, list[Any]]) -> Iterator[Attempt]:
    hosts, pythons = ([_text(text) for text in _list(head[name])] for name in ("hosts", "pythons"))
    errors = [(_text(key), _text(kind), None if where is None else _text(where)) for key, kind, where in head["errors"]]
    measured = [
        [None if (number := _number(value)) is None else decode(number) for value in columns[column]]
        for column, (_, _, decode) in _MEASURED.items()
    ]
    rows = zip(
        _sums(columns["task"], 0),
        columns["attempt"],
        columns["outcome"],
        _sums(columns["started_ms"], head["epoch_ms"]),
        *measured,
        *(columns[name] for name in ("host", "python", "error", "message")),
        columns.get("resumed") or [None] * head["count"],
        strict=True,
    )
    for task, attempt, outcome, started_ms, seconds, user, system, rss, size, host, python, *reason, resumed in rows:
        error, message = reason
        yield Attempt(
            whole_number(task),
            whole_number(attempt, 1),
            _OUTCOMES[outcome],
            None if started_ms is None else started_ms / 1000,
            seconds,
            user,
            system,
            rss,
            None if host is None else hosts[whole_number(host)],
            None if python is None else pythons[whole_number(python)],
            None
            if error is None
            else AttemptError(*errors[whole_number(error)], _text(message, MAX_MESSAGE_CHARACTERS)),
            size,
            None if resumed is None else _resumed(*_list(resumed)),
        )


def _resumed(number: object, at: object, milliseconds: object) -> Resumed:
    return Resumed(whole_number(number, 1), _text(at), whole_number(milliseconds) / 1000)


def _position(positions: dict[T, int], value: T | None) -> int | None:
    """Return the position of a value among the distinct ones, in the order of their first use."""
    return None if value is None else positions.setdefault(value, len(positions))


def _error_head(error: AttemptError) -> tuple[str, str, str | None]:
    where = None if error.where is None else error.where[:MAX_NAME_CHARACTERS]
    return error.key[:MAX_NAME_CHARACTERS], error.type[:MAX_NAME_CHARACTERS], where


def _differences(values: Iterable[int | None], first: int) -> list[int | None]:
    """Return each value as its difference to the one before. Nulls stay."""
    differences: list[int | None] = []
    for value in values:
        differences.append(None if value is None else value - first)
        first = first if value is None else value
    return differences


def _sums(differences: Iterable[object], first: object) -> Iterator[int | None]:
    """Return the values of `_differences`."""
    total = whole_number(first, 0)
    for difference in differences:
        number = _number(difference, least=-(2**53))
        if number is None:
            yield None
        else:
            total += number
            yield total


def _number(value: object, least: int = 0) -> int | None:
    return None if value is None else whole_number(value, least)


def whole_number(value: object, least: int = 0) -> int:
    """Return a number of a chunk.

    Raises:
        ValueError: if it is not a whole number from `least` and below 2^53.
    """
    if type(value) is not int or not least <= value < 2**53:
        raise ValueError(f"invalid number {str(value)[:40]!r}")
    return value


def _list(values: object) -> list[Any]:
    if not isinstance(values, list):
        raise TypeError("expected a list of texts")
    return values


def _text(value: object, most: int = MAX_NAME_CHARACTERS) -> str:
    """Return a text, cut, without halves of surrogate pairs: messages may quote paths that are not UTF-8."""
    if not isinstance(value, str):
        raise TypeError("expected a text")
    return (value if value.isascii() else str(check_surrogates(value, "replace")))[:most]
