"""The record of a job: a frozen `JobState` and its JSON. Pure: no clock, no store.

The key and the field names are a contract with ModelOps' own programs, which read and write the same records. Unknown
fields are kept in `extra` and written back unchanged, so that an old client never erases the fields of a newer one.
Types are checked strictly: an unreadable record is reported, which is better than a wrong reading. A few values of
ModelOps' programs are the exception: `foreign_values.py` has them.
"""

from __future__ import annotations

import dataclasses
import json
import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NoReturn, Self

from mopsjobs.errors import RecordError, UsageError
from mopsjobs.registry.foreign_values import ForeignValue, read_foreign, with_marks, without_marks
from mopsjobs.registry.status import TERMINAL, JobStatus
from mopsjobs.utils.json_strict import NotFiniteError, read_json
from mopsjobs.utils.times import parse_time

MAX_RECORD_BYTES = 8 * 1024 * 1024
"""A larger record is refused unread. Records of mops-jobs stay below 4 KB. Those of ModelOps list every expected output
with its parameters, which takes some 400 bytes per task."""

MAX_BYTES_BESIDES_OUTPUTS = 1024 * 1024
"""Size of a record without its lists of outputs, which views shorten. The rest is shown whole."""

# Made once: json.dumps makes one per call with options.
_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)

_NOT_FINITE_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)

JsonObject = Mapping[str, object]


def _empty_object() -> JsonObject:
    return MappingProxyType({})


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class JobState:
    """One job, as in its record. Times are ISO 8601 text in UTC."""

    job_id: str
    status: str
    """A `JobStatus`, or a status that this version does not know. The latter is never overwritten."""
    created_at: str
    updated_at: str

    k8s_name: str | None = None
    k8s_namespace: str | None = None
    k8s_uid: str | None = None
    tasks_total: int = 0
    """Tasks of the job; 0 if unknown."""
    tasks_completed: int = 0
    """Tasks that ended well. With `tasks_failed` they are at most `tasks_total`."""
    error_message: str | None = None
    error_code: str | None = None
    results_path: str | None = None
    expected_outputs: tuple[object, ...] = ()
    verified_outputs: tuple[object, ...] = ()
    missing_outputs: tuple[object, ...] = ()
    tasks_verified: int = 0
    validation_started_at: str | None = None
    validation_completed_at: str | None = None
    validation_attempts: int = 0
    last_validation_error: str | None = None
    metadata: JsonObject = dataclasses.field(default_factory=_empty_object)

    # Fields of mops-jobs, unknown to ModelOps' programs:
    write_id: str | None = None
    """Random for each write, so that a writer recognises its own write after a lost reply."""
    revision: int = 0
    """Number of writes to the record by mops-jobs."""
    transitions: tuple[JsonObject, ...] = ()
    """The history: `{status, at, id}`, oldest first; `id` is the write that made the step."""
    tasks_failed: int = 0
    """Tasks that ended in an error."""
    heartbeat_at: str | None = None
    """When a runner last gave a sign of life."""
    shards: JsonObject = dataclasses.field(default_factory=_empty_object)
    """The progress of each shard, by its number: `[completed, failed, 1 if it is done]`. The totals above are their
    sums, so that several shards never overwrite each other's counts."""
    owner: str | None = None
    labels: Mapping[str, str] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    engine: str | None = None
    parent_job_id: str | None = None
    usage: JsonObject = dataclasses.field(default_factory=_empty_object)
    """What the tasks of each shard used, by its number; see `registry/usage.py`."""
    forecast: JsonObject = dataclasses.field(default_factory=_empty_object)
    """When each active shard expects to end, by its number; see `registry/usage.py`."""

    extra: JsonObject = dataclasses.field(default_factory=_empty_object)
    """Fields of the record that this version does not know, written back unchanged."""

    foreign: Mapping[str, ForeignValue] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    """Values of another form, by field, written back unchanged while the field has the value that is shown."""
    is_finite: bool = True
    """False if the record has a number that is not finite, which JSON does not have. It is written back unchanged."""

    @property
    def is_terminal(self) -> bool:
        """Return True if the job has ended. An unknown status counts as active."""
        return self.status in TERMINAL

    @property
    def progress_percent(self) -> float | None:
        """Return the completed tasks in percent; None while the number of tasks is unknown."""
        return self.tasks_completed / self.tasks_total * 100 if self.tasks_total else None

    def evolve(self, **changes: object) -> JobState:
        """Return a copy with other values for some fields."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def fields(self) -> dict[str, Any]:
        """Return every field that this version knows, as plain JSON types."""
        values = dict(zip(FIELDS, _values_of(self), strict=True))
        for name in OUTPUT_LISTS:
            values[name] = list(values[name])
        for name in _OBJECTS:
            values[name] = _plain(values[name])
        values["transitions"] = [_plain(step) for step in self.transitions]
        return values

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON types. It has all fields of ModelOps, and those of mops-jobs that are set."""
        known = {name: value for name, value in self.fields().items() if value or name not in _MOPS_JOBS_FIELDS}
        foreign = {
            name: value
            for name, (value, near_value, _) in self.foreign.items()
            if known.get(name, near_value) == near_value  # an empty one is left out
        }
        return {**known, **foreign, **self.extra}

    def to_json(self) -> bytes:
        """Return the record as it is stored: compact JSON in UTF-8."""
        encoder = _ENCODER if self.is_finite else _NOT_FINITE_ENCODER
        return encoder.encode(with_marks(self.to_dict())).encode()

    @classmethod
    def from_dict(cls, record: JsonObject) -> Self:
        """Read a record from plain JSON types, which stay unchanged.

        Raises:
            RecordError: if a required field is missing, or a field has the wrong type.
        """
        for name in _REQUIRED:
            if name not in record:
                raise RecordError(f"no field {name}")
        values: dict[str, object] = {}
        extra: dict[str, object] = {}
        foreign: dict[str, ForeignValue] = {}
        for name, value in record.items():
            check = _CHECKS.get(name)
            if check is None:
                extra[name] = value
            # ModelOps writes null for "not set", also for counts, which are 0 here.
            elif value is not None or name in _REQUIRED:
                try:
                    values[name] = check(name, value)
                except RecordError as error:
                    found = read_foreign(name, value, error.reason)
                    if found is None:
                        raise
                    values[name], foreign[name] = found.near_value, found
        if foreign:
            values["foreign"] = MappingProxyType(foreign)
        return cls(**values, extra=MappingProxyType(extra))  # type: ignore[arg-type]

    @classmethod
    def from_json(cls, value: bytes, *, key: str | None = None) -> Self:
        """Read a record from bytes. An error names `key`, under which they lie.

        Raises:
            RecordError: if the bytes are too many, not a JSON object, or not a record.
        """
        try:
            record, is_finite = _parse(value)
            state = cls.from_dict(record)
            if not is_finite:
                state = dataclasses.replace(state, is_finite=False)
            if len(value) > MAX_BYTES_BESIDES_OUTPUTS:
                _check_size_besides_outputs(state)
            return state
        except RecordError as error:
            raise RecordError(error.reason, key=key) from None


def _plain(value: JsonObject) -> dict[str, object]:
    """Return a copy of an object. `dict` copies a view of another dict name by name, and takes five times as long."""
    return value.copy() if isinstance(value, MappingProxyType) else dict(value)


def _parse(value: bytes) -> tuple[JsonObject, bool]:
    """Return the JSON object in the bytes, and whether all its numbers are finite."""
    if len(value) > MAX_RECORD_BYTES:
        raise RecordError(f"too large: {len(value):,} bytes, expected at most {MAX_RECORD_BYTES:,}")
    value, is_finite = without_marks(value), True
    try:
        record = read_json(value)
    except NotFiniteError:
        record, is_finite = read_json(value, must_be_finite=False), False
    if not isinstance(record, dict):
        raise RecordError(f"not a JSON object but {_json_type(record)}")
    return record, is_finite


def _check_size_besides_outputs(state: JobState) -> None:
    size = len(state.evolve(**dict.fromkeys(OUTPUT_LISTS, ())).to_json())
    if size > MAX_BYTES_BESIDES_OUTPUTS:
        raise RecordError(
            f"too large: {size:,} bytes besides its outputs, expected at most {MAX_BYTES_BESIDES_OUTPUTS:,}"
        )


def _json_type(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _raise_invalid(name: str, expected: str, value: object) -> NoReturn:
    raise RecordError(f"invalid field {name}: expected {expected}, not {_json_type(value)}")


def _text(name: str, value: object) -> str:
    return value if isinstance(value, str) else _raise_invalid(name, "text", value)


def _count(name: str, value: object) -> int:
    if type(value) is int and 0 <= value < 2**53:  # the usual case
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, float):
        raise RecordError(f"invalid field {name}: expected a whole number, not {value}")
    if isinstance(value, bool) or not isinstance(value, int):
        _raise_invalid(name, "a whole number", value)
    if not 0 <= value < 2**53:
        raise RecordError(f"invalid field {name}: expected a count, from 0 to 2^53")
    return value


def _time(name: str, value: object) -> str:
    if not isinstance(value, str):
        _raise_invalid(name, "text", value)
    try:
        parse_time(value)
    except ValueError:
        raise RecordError(f"invalid field {name}: expected an ISO 8601 time, not {value[:40]!r}") from None
    return value


def _status(name: str, value: object) -> str:
    text = _text(name, value)
    try:
        return JobStatus(text)
    except ValueError:
        if not text or len(text) > 64:
            raise RecordError(f"invalid field {name}: expected a word of 1 to 64 characters") from None
        return text


def _list(name: str, value: object) -> tuple[object, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else _raise_invalid(name, "a list", value)


def _object(name: str, value: object) -> JsonObject:
    # dict first: the check of the abstract class is ten times as slow, and a sync makes it for each record.
    if not isinstance(value, (dict, MappingProxyType)) and not isinstance(value, Mapping):
        _raise_invalid(name, "an object", value)
    return MappingProxyType(dict(value))


def _labels(name: str, value: object) -> Mapping[str, str]:
    return MappingProxyType({label: _text(f"{name}.{label}", text) for label, text in _object(name, value).items()})


def _shards(name: str, value: object) -> JsonObject:
    shards = _object(name, value)
    for number, counts in shards.items():
        where = f"{name}.{number}"
        if len(_list(where, counts)) != 3:
            _raise_invalid(where, "a list of three counts", counts)
        for count in counts:  # type: ignore[attr-defined]
            _count(where, count)
    return shards


def _numbers_by_shard(name: str, value: object, lengths: tuple[int, ...]) -> JsonObject:
    """Check lists of numbers from 0 to 2^53, or nulls. Each has one of the lengths."""
    shards = _object(name, value)
    for number, values in shards.items():
        if len(_list(f"{name}.{number}", values)) not in lengths:
            _raise_invalid(f"{name}.{number}", f"a list of {' or '.join(map(str, lengths))} numbers", values)
        for one in values:  # type: ignore[attr-defined]
            if one is not None and (type(one) not in (int, float) or not 0 <= one < 2**53):
                raise RecordError(f"invalid field {name}.{number}: expected numbers from 0 to 2^53, or null")
    return shards


def _transitions(name: str, value: object) -> tuple[JsonObject, ...]:
    steps = []
    for number, step in enumerate(_list(name, value)):
        fields = step if type(step) is dict else _object(f"{name}[{number}]", step)
        try:
            _text("status", fields.get("status"))
            _time("at", fields.get("at"))
        except RecordError as error:  # named in full only here: a sync reads five steps a record
            raise RecordError(error.reason.replace("field ", f"field {name}[{number}].", 1)) from None
        steps.append(MappingProxyType(dict(fields)))
    return tuple(steps)


Check = Callable[[str, object], object]

_BY_TYPE: dict[object, Check] = {
    "str": _text, "str | None": _text, "int": _count, "tuple[object, ...]": _list, "JsonObject": _object,
}  # fmt: skip

_BY_NAME: dict[str, Check] = {
    "status": _status,
    "transitions": _transitions,
    "shards": _shards,
    "labels": _labels,
    "usage": lambda name, value: _numbers_by_shard(name, value, (4, 5)),
    "forecast": lambda name, value: _numbers_by_shard(name, value, (3, 7)),
}

_NOT_IN_RECORDS = ("extra", "foreign", "is_finite")

_CHECKS = {
    name: _BY_NAME.get(name) or (_time if name.endswith("_at") else _BY_TYPE[field.type])
    for name, field in JobState.__dataclass_fields__.items()
    if name not in _NOT_IN_RECORDS
}
"""How the value of each field is checked: by its type above, unless it has a form of its own."""

FIELDS = tuple(_CHECKS)
"""The names of a record's fields that this version knows, in the order of the record."""

_values_of = operator.attrgetter(*FIELDS)

_REQUIRED = ("job_id", "status", "created_at", "updated_at")

OUTPUT_LISTS = ("expected_outputs", "verified_outputs", "missing_outputs")

_OBJECTS = ("metadata", "shards", "labels", "usage", "forecast")

_MOPS_JOBS_FIELDS = frozenset(FIELDS[FIELDS.index("write_id") :])

UPDATABLE = frozenset(FIELDS) - {*_REQUIRED, "write_id", "revision", "transitions", "shards", "usage", "forecast"}
"""The fields that a caller may set. The registry sets the others."""


def check_field(name: str, value: object) -> object:
    """Return the value of a field as `JobState` holds it. None unsets the field.

    Raises:
        UsageError: if the field does not exist, if callers cannot set it, or if the value has the wrong type.
    """
    if name not in UPDATABLE:
        raise UsageError(f"invalid field '{name}': expected one of {', '.join(sorted(UPDATABLE))}.")
    if value is None:
        field = next(field for field in dataclasses.fields(JobState) if field.name == name)
        factory = field.default_factory
        return field.default if factory is dataclasses.MISSING else factory()
    try:
        checked = _CHECKS[name](name, value)
        plain = dict(checked) if isinstance(checked, Mapping) else checked
        json.dumps(plain, ensure_ascii=False, allow_nan=False).encode()
    except RecordError as error:
        raise UsageError(f"{error.reason}.") from None
    except UnicodeEncodeError:
        raise UsageError(f"The field {name} has half a surrogate pair in a text.") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"The field {name} cannot be written as JSON: {error}.") from None
    return checked
