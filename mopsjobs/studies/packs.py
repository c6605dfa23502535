"""The form of a pack: many small outputs of a shard in one immutable object, behind an index of them.

- The head is `HEAD`: a mark, the length of the index, and the beginning of its SHA-256.
- The index begins with the length of a JSON object, and the object: version, job, shard, names of outputs, and counts.
- The parameter ids follow, 32 bytes each, ascending.
- Then the rows follow, `ROW` each, in the order of the keys of their outputs.
- The index ends with the contents of `_outputs.json`, each once, so that it tells which tasks are complete.
- Behind the index, the outputs follow. Offsets count from the first content of `_outputs.json`.

Other programs may write packs, too. So an index is checked before it is used, and each output when it is read. See
docs/decisions/0113-packs.md.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from mopsjobs.errors import RecordError
from mopsjobs.registry.keys import LOGGED_NAME, NAMES_NAME, OUTPUT, PACK
from mopsjobs.utils.json_strict import read_json

VERSION = 1

MAX_PACKED_BYTES = 64 * 2**10
"""A larger output stays an object of its own."""

PACK_BYTES = 4 * 2**20
"""Outputs of a pack, about. Those of one task are never in two packs; with more, they stay objects of their own."""

MIN_OUTPUTS = 8
"""A delivery of fewer outputs has no pack: a listing tells of objects what an index tells of a pack, without a read."""

MAX_ROWS = 50_000
"""Outputs of a pack that is written."""

MAX_PACK_BYTES = 64 * 2**20
"""Of a pack that is read. What is written has about `PACK_BYTES` and its index."""

HEAD = struct.Struct(">8sI16s")
MAGIC = b"mopspack"

ROW = struct.Struct(">IQHII16s")
"""Parameter id and name by their place in their tables, between them the seed; size, offset, beginning of SHA-256."""

PARAM_BYTES = 32
MAX_INDEX_BYTES = 16 * 2**20
MAX_SEED = 2**64 - 1


_FIRST = (NAMES_NAME, LOGGED_NAME)


class Row(NamedTuple):
    """An output in a pack."""

    param_id: str
    seed: str
    name: str
    size: int
    offset: int
    digest: bytes


class PackIndex:
    """The index of a pack, as bytes: some 40 per output, and 32 per parameter set."""

    def __init__(self, key: str, index: bytes, size: int | None = None) -> None:
        """Check an index.

        Args:
            key: the key of the pack.
            index: its bytes, behind the head.
            size: the bytes of the whole pack; None if it is not known.

        Raises:
            RecordError: if it is invalid, or is that of another pack.
        """
        if size is not None and size > MAX_PACK_BYTES:
            raise RecordError(f"invalid pack: {size:,} bytes, expected at most {MAX_PACK_BYTES:,}", key=key)
        self.key = key
        self.start = HEAD.size + len(index)
        """Where the outputs begin that are not in the index."""
        parts = PACK.parse(key)
        try:
            (length,) = struct.unpack_from(">I", index)
            meta: Any = read_json(index[4 : 4 + length])
            names, params, rows = meta["names"], meta["params"], meta["rows"]
            is_ours = parts is not None and (meta["version"], meta["job"], meta["shard"]) == (
                VERSION, parts["job"], int(parts["shard"]),
            )  # fmt: skip
            is_valid = is_ours and type(params) is int and type(rows) is int and params >= 0 and rows >= 0
            is_valid = (
                is_valid
                and isinstance(names, list)
                and len(names) <= 2**16
                and all(isinstance(name, str) for name in names)
            )
        except (struct.error, KeyError, TypeError, ValueError) as error:
            raise RecordError(f"invalid pack: {error}", key=key) from None
        if not is_valid:
            raise RecordError("invalid pack: it is of another job, shard or version", key=key)
        first = 4 + length
        end = first + params * PARAM_BYTES + rows * ROW.size
        if end > len(index):
            raise RecordError("invalid pack: its index is too short", key=key)
        self._params = index[first : first + params * PARAM_BYTES]
        self._rows = index[first + params * PARAM_BYTES : end]
        self._inline = index[end:]
        self._names: Sequence[str] = names
        self.job_id: str = meta["job"]
        self.count: int = rows
        self._check(None if size is None else size - self.start + len(self._inline))

    def _check(self, size: int | None) -> None:
        """Refuse rows that are out of order, have another form than outputs, or lie outside the pack."""
        ids = [self._params[place : place + PARAM_BYTES] for place in range(0, len(self._params), PARAM_BYTES)]
        in_order = all(one < other for one, other in itertools.pairwise(ids))
        problem = "" if in_order else "its parameter sets are out of order"
        if not all(OUTPUT.parse(OUTPUT.key(job="j", param="0" * 64, seed=0, output=name)) for name in self._names):
            problem = "it names an output that none can have"
        last: tuple[int, str, str] | None = None
        largest = 0
        for param, seed, name, length, offset, _ in ROW.iter_unpack(self._rows):
            if param >= len(ids) or name >= len(self._names) or (size is not None and offset + length > size):
                problem = "a row points outside"
                break
            if length > MAX_PACKED_BYTES:
                problem = "an output is too large for a pack"
                break
            place = (param, str(seed), self._names[name])
            if last is not None and place <= last:
                problem = "its rows are out of order"
                break
            last = place
            largest = max(largest, offset + length)
        if problem:
            raise RecordError(f"invalid pack: {problem}", key=self.key)
        self.bytes = self.start - len(self._inline) + largest
        """Of the whole pack."""

    def rows(self, first: int = 0) -> Iterator[Row]:
        """Yield the rows from one on, in the order of the keys of their outputs."""
        last, param_id = -1, ""
        for param, seed, name, size, offset, digest in ROW.iter_unpack(memoryview(self._rows)[first * ROW.size :]):
            if param != last:
                last, param_id = param, self._param(param).hex()
            yield Row(param_id, str(seed), self._names[name], size, offset, digest)

    def place_of(self, param_id: str, seed: str = "", name: str = "") -> int:
        """Return the number of the first row whose output is not before this one."""
        param = bytes.fromhex(param_id)
        sets = len(self._params) // PARAM_BYTES
        place = bisect_left(range(sets), param, key=self._param)
        is_here = place < sets and self._param(place) == param
        return bisect_left(range(self.count), (place, seed, name) if is_here else (place, "", ""), key=self._order)

    def find(self, param_id: str, seed: str, name: str) -> Row | None:
        """Return the row of an output; None if it is not here."""
        row = next(self.rows(self.place_of(param_id, seed, name)), None)
        return row if row is not None and row[:3] == (param_id, seed, name) else None

    def inline(self, row: Row) -> bytes | None:
        """Return an output that lies in the index; None if it does not."""
        end = row.offset + row.size
        return bytes(self._inline[row.offset : end]) if end <= len(self._inline) else None

    def span(self, row: Row) -> tuple[int, int]:
        """Return where an output begins in the pack, and its length."""
        return self.start - len(self._inline) + row.offset, row.size

    @property
    def memory(self) -> int:
        """Return about how many bytes this takes."""
        return len(self._params) + len(self._rows) + len(self._inline) + 1000

    def _param(self, place: int) -> bytes:
        return self._params[place * PARAM_BYTES : (place + 1) * PARAM_BYTES]

    def _order(self, place: int) -> tuple[int, str, str]:
        param, seed, name, *_ = ROW.unpack_from(self._rows, place * ROW.size)
        return param, str(seed), self._names[name]


def digest_of(value: bytes) -> bytes:
    """Return the beginning of the SHA-256 of an output, as rows have it."""
    return hashlib.sha256(value).digest()[:16]


def can_pack(key: str, value: bytes) -> bool:
    """Return whether an output may lie in a pack: if it is small, and its job and seed have their usual forms."""
    parts = OUTPUT.parse(key)
    if parts is None or len(value) > MAX_PACKED_BYTES:
        return False
    seed = parts["seed"]
    return "/" not in parts["job"] and str(int(seed)) == seed and int(seed) <= MAX_SEED


class Split(NamedTuple):
    """The outputs of a task, as they are stored."""

    plain: list[tuple[str, bytes]]
    """Objects of their own, which are written first, in this order."""
    packed: list[tuple[str, bytes]]


def split_outputs(outputs: Sequence[tuple[str, bytes]], limit: int = PACK_BYTES, max_rows: int = MAX_ROWS) -> Split:
    """Return whether the outputs of a task go into a pack: if all are small, and are not too many for one.

    They stay together: a large output is in the store at once, and a pack seconds later, perhaps from another run. What
    tells that a task is incomplete without the others goes before them: the names of the outputs, and what the task has
    logged.

    Args:
        outputs: keys and contents.
        limit: the bytes of a pack.
        max_rows: the outputs of a pack.
    """
    size = sum(len(value) for _, value in outputs)
    if len(outputs) <= max_rows and size <= limit and all(can_pack(*output) for output in outputs):
        return Split([], [*outputs])
    return Split(names_first(outputs), [])


def names_first(outputs: Iterable[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Return outputs in the order in which they are written as objects of their own."""
    return sorted(outputs, key=lambda output: (output[0].rpartition("/")[2] not in _FIRST, output[0]))


def encode_pack(job_id: str, shard: int, outputs: Iterable[tuple[str, bytes]]) -> bytes:
    """Return a pack of outputs for which `can_pack` is true.

    Args:
        job_id: the job of all.
        shard: the shard in whose log the pack goes.
        outputs: their keys, each once, and contents.
    """
    found = []
    for key, value in outputs:
        parts = OUTPUT.parse(key)
        assert parts is not None  # noqa: S101 - `can_pack`
        found.append((parts["param"], parts["seed"], parts["output"], value))
    found.sort()
    params = {param: place for place, param in enumerate(sorted({one[0] for one in found}))}
    names = {name: place for place, name in enumerate(sorted({one[2] for one in found}))}
    lists: dict[bytes, int] = {}
    for *_, name, value in found:
        if name == NAMES_NAME:
            lists.setdefault(value, sum(map(len, lists)) if value not in lists else 0)
    inline = b"".join(lists)
    rows, body, offset = bytearray(), [], len(inline)
    for param, seed, name, value in found:
        at = lists[value] if name == NAMES_NAME else offset
        rows += ROW.pack(params[param], int(seed), names[name], len(value), at, digest_of(value))
        if name != NAMES_NAME:
            body.append(value)
            offset += len(value)
    fields = {
        "version": VERSION,
        "job": job_id,
        "shard": shard,
        "names": [*names],
        "params": len(params),
        "rows": len(found),
    }
    meta = json.dumps(fields, separators=(",", ":")).encode()
    index = b"".join([struct.pack(">I", len(meta)), meta, *map(bytes.fromhex, params), rows, inline])
    return b"".join([HEAD.pack(MAGIC, len(index), digest_of(index)), index, *body])


def index_length(key: str, head: bytes) -> int:
    """Return how many bytes the index of a pack has, by the head of the pack.

    Raises:
        RecordError: if it is not a pack.
    """
    if len(head) < HEAD.size or not head.startswith(MAGIC):
        raise RecordError("invalid pack: it does not begin as one", key=key)
    length: int = HEAD.unpack_from(head)[1]
    if length > MAX_INDEX_BYTES:
        raise RecordError(f"invalid pack: an index of {length:,} bytes, expected at most {MAX_INDEX_BYTES:,}", key=key)
    return length


def parse_index(key: str, beginning: bytes, size: int | None = None) -> PackIndex:
    """Return the index of a pack.

    Args:
        key: the key of the pack.
        beginning: its bytes, to the end of the index at least.
        size: the bytes of the whole pack; None if it is not known.

    Raises:
        RecordError: if it is invalid.
    """
    length = index_length(key, beginning)
    index = beginning[HEAD.size : HEAD.size + length]
    if len(index) < length or digest_of(index) != HEAD.unpack_from(beginning)[2]:
        raise RecordError("invalid pack: its index is damaged", key=key)
    return PackIndex(key, index, size)
