"""Scalars of tasks: numbers, texts and truth values in their outputs, and the chunks that hold them.

The scalars come from JSON outputs and from CSV outputs with one row. A scalar's key is the name of the output, and the
way to it as in a JSON Pointer (RFC 6901): `result.json/fit/error`. Lists, nulls and cells without a header are left
out. What is too large is left out too, and counted under `LEFT_OUT`. NaN and infinities are numbers like others. The
same outputs give the same scalars, here and in the runner.

The runner writes those of many tasks at once, so that a table need not read an object per task. Beside a chunk of
attempts lies `ledger/<job_id>/<shard>.<run>-<number>.scalars.gz`, in the form of `format.py`:

    {"version": 1, "job_id": "j", "shard": 0, "count": 2, "shapes": [["result.json/peak", "result.json/day"]]}
    {"column": "task", "values": [0, 3]}
    {"column": "shape", "values": [0, 0]}
    {"column": "scalars", "values": [[0.25, 31], [0.5, 12]]}

Tasks with the same keys share a shape. A number that is not finite is a list of its name: `["nan"]`, `["inf"]` or
`["-inf"]`. A task in a chunk without scalars has none in its outputs. A task in no chunk
has to be asked by its outputs.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mopsjobs.engines.worker import real_numbers
from mopsjobs.errors import RecordError
from mopsjobs.ledger.format import VERSION, ChunkKey, encode_columns, parse_columns, whole_number
from mopsjobs.utils.json_strict import check_surrogates, read_json

Scalar = int | float | str | bool

Scalars = Mapping[str, Scalar]
"""Scalars by their keys."""

LEFT_OUT = "left out"
"""Not the key of a scalar, but in their mapping: how many were left out. Absent if none were."""

MAX_OUTPUT_BYTES = 1024 * 1024
"""Of an output that is searched for scalars."""

MAX_SCALARS = 200
MAX_BYTES = 16 * 1024
"""Of the scalars of one task, keys included. The first ones count."""

MAX_CHUNK_TASK_BYTES = 4 * 1024
"""Of the scalars of one task in a chunk: 5,000 tasks must fit in memory. If more, a table reads the outputs."""

LIST_BYTES = 24
"""How much more a list takes than a number, so that readers of chunks, which count both, take what was written."""

MAX_TEXT = 1_000
"""Characters of a text."""

MAX_KEY = 200
"""Characters of a key."""

MAX_DEPTH = 20
"""Objects within each other."""

MAX_INTEGER = 2**128
"""Whole numbers from here on are left out."""

_INTEGER = re.compile(r"[+-]?(?:0|[1-9][0-9]{0,38})", re.ASCII)
_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?", re.ASCII)
_NOT_FINITE = {str(number): number for number in (math.nan, math.inf, -math.inf)}
_NOT_FINITE_CELL = re.compile("[+-]?(?:nan|NaN|NAN|inf|Inf|INF|infinity|Infinity)")
_BOOLEANS = {"True": True, "true": True, "False": False, "false": False}


def may_have_scalars(name: str) -> bool:
    """Return whether an output of this name is searched for scalars."""
    return name.endswith((".json", ".csv")) and not name.startswith("_")


def extract_scalars(outputs: Mapping[str, bytes | None]) -> dict[str, Scalar]:
    """Return the scalars of a task, by their keys.

    Args:
        outputs: the outputs of the task; None for one that is too large to be read.
    """
    found: dict[str, Scalar] = {}
    left_out = size = 0
    for name in sorted(filter(may_have_scalars, outputs), key=output_order):
        value = outputs[name]
        is_json = name.endswith(".json")
        if value is None or len(value) > MAX_OUTPUT_BYTES:
            left_out += is_json  # a CSV file of that size has more than one row
            continue
        try:
            pairs = list(_walk("", read_result(value), 0) if is_json else _csv_scalars(value))
        except (RecordError, csv.Error, UnicodeError):
            left_out += 1
            continue
        for path, scalar in pairs:
            key = f"{name}/{path}"
            size += _size(key, scalar)
            if len(found) >= MAX_SCALARS or size > MAX_BYTES or len(key) > MAX_KEY or not is_scalar(scalar):
                left_out += 1
            else:
                found[key] = scalar
    return {**found, LEFT_OUT: left_out} if left_out else found


def read_result(value: bytes) -> object:
    """Return a JSON output, with NaN and infinities, as the worker marks them or as other programs write them.

    Raises:
        RecordError: if it is not JSON.
    """
    return real_numbers(read_json(value, must_be_finite=False))


def scalars_for_chunk(outputs: Mapping[str, bytes | None]) -> dict[str, Scalar] | None:
    """Return the scalars of a task; None if they are too large for a chunk."""
    scalars = extract_scalars(outputs)
    size = sum(_size(key, value) + LIST_BYTES * is_not_finite(value) for key, value in scalars.items())
    return scalars if size <= MAX_CHUNK_TASK_BYTES else None


def _size(key: str, value: object) -> int:
    """Return about how many bytes a scalar takes with its key."""
    return len(key) + (len(value) if isinstance(value, str) else 8)


def output_order(name: str) -> tuple[bool, str]:
    """Return the key by which outputs are sorted: `result.json` and `result.csv` come first."""
    return not name.startswith("result."), name


def is_scalar(value: object) -> bool:
    """Return whether a value is a scalar of bounded size."""
    if isinstance(value, bool):
        return True
    if isinstance(value, int):
        return abs(value) < MAX_INTEGER
    return isinstance(value, float) or (isinstance(value, str) and len(value) <= MAX_TEXT)


def is_not_finite(value: object) -> bool:
    """Return whether a scalar is NaN or infinite."""
    return isinstance(value, float) and not math.isfinite(value)


def _walk(path: str, value: object, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield path and value of the scalars in a JSON output, also of those that are too large."""
    if isinstance(value, dict):
        if depth == MAX_DEPTH:
            raise RecordError("nested too deeply")
        for name, member in value.items():
            step = name.replace("~", "~0").replace("/", "~1")
            yield from _walk(f"{path}/{step}" if depth else step, member, depth + 1)
    elif value is not None and not isinstance(value, list):
        yield path, value


def _csv_scalars(value: bytes) -> Iterator[tuple[str, Any]]:
    """Yield name and value of the cells of a CSV output, if it has one row below its header."""
    first = list(itertools.islice(csv_rows(value), 3))
    if len(first) != 2 or len(first[0]) != len(first[1]):
        return
    header, cells = first
    names = [name for name in header if name]  # the index of pandas has no name
    if len(set(names)) < len(names):
        raise RecordError("a name comes twice in the header")
    for name, cell in zip(header, cells, strict=True):
        if name and cell:
            yield name.replace("~", "~0").replace("/", "~1"), _cell_value(cell)


def csv_rows(value: bytes) -> Iterator[list[str]]:
    """Yield the rows of a CSV output that are not empty, its header first.

    Raises:
        UnicodeError: if it is not UTF-8.
        csv.Error: if it is not CSV. The rows before were yielded.
    """
    rows = csv.reader(io.StringIO(value.decode("utf-8-sig"), newline=""), strict=True)
    return (row for row in rows if row)


def _cell_value(cell: str) -> Scalar:
    """Return the value of a cell. `007` stays a text: it is a name, not a number."""
    if cell in _BOOLEANS:
        return _BOOLEANS[cell]
    if _INTEGER.fullmatch(cell):
        return int(cell)
    if _FLOAT.fullmatch(cell) and not re.match(r"[+-]?0[0-9]", cell):
        return float(cell)
    return float(cell) if _NOT_FINITE_CELL.fullmatch(cell) else cell


# --- chunks ---------------------------------------------------------------------------------------------------------


def encode_scalars(job_id: str, shard: int, tasks: Iterable[tuple[int, Mapping[str, object]]]) -> bytes | None:
    """Return the bytes of a chunk, the same for the same tasks; None without tasks.

    Args:
        job_id: the job.
        shard: the shard.
        tasks: numbers and scalars of the tasks that succeeded.
    """
    shapes: dict[tuple[str, ...], int] = {}
    numbers: list[int] = []
    columns: dict[str, list[Any]] = {"task": numbers, "shape": [], "scalars": []}
    for number, scalars in tasks:
        numbers.append(number)
        columns["shape"].append(shapes.setdefault(tuple(scalars), len(shapes)))
        columns["scalars"].append([[str(one)] if is_not_finite(one) else one for one in scalars.values()])
    head = {
        "version": VERSION,
        "job_id": job_id,
        "shard": shard,
        "count": len(numbers),
        "shapes": [list(shape) for shape in shapes],
    }
    return encode_columns(head, columns) if numbers else None


def parse_scalars(value: bytes, key: ChunkKey) -> list[tuple[int, dict[str, Scalar]]]:
    """Return numbers and scalars of the tasks in a chunk.

    Raises:
        RecordError: if it is not a chunk of scalars of that job and shard, or only a newer version can read it.
    """
    head, columns = parse_columns(value, key)
    try:
        shapes = [_shape(names) for names in head["shapes"]]
        rows = zip(columns["task"], columns["shape"], columns["scalars"], strict=True)
        return [
            (whole_number(task), dict(zip(shapes[whole_number(shape)], map(_scalar, values), strict=True)))
            for task, shape, values in rows
        ]
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise RecordError(f"not a chunk of scalars ({type(error).__name__}: {error})") from None


def _shape(names: object) -> list[str]:
    if not isinstance(names, list) or len(names) > MAX_SCALARS + 1:
        raise TypeError(f"expected a list of at most {MAX_SCALARS} keys")
    for name in names:
        if not (isinstance(name, str) and len(name) <= MAX_KEY and (name == LEFT_OUT or _is_key(name))):
            raise ValueError(f"invalid key {str(name)[:40]!r}")
    check_surrogates(names)
    return names


def _is_key(name: str) -> bool:
    return may_have_scalars(name.partition("/")[0]) and "/" in name


def _scalar(value: object) -> Any:
    if isinstance(value, list):
        (name,) = value
        return _NOT_FINITE[name]
    if not is_scalar(value):
        raise ValueError(f"invalid scalar {str(value)[:40]!r}")
    if isinstance(value, str) and not value.isascii():
        check_surrogates(value)
    return value
