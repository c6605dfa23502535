"""Checkpoints in the store: what a task saved of its state, in pieces, and a header that makes them whole.

A checkpoint is a file or a directory that the model made. It is stored as a tar in pieces, and then its header is
created: without it, readers do not see the pieces. Nothing changes it later. Its header binds it to the code that wrote
it, and its key to the parameters and the seed. See docs/decisions/0123-checkpoints.md.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import posixpath
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mopsjobs.errors import RecordError
from mopsjobs.registry.keys import CHECKPOINT, CHECKPOINT_PIECE
from mopsjobs.store.base import VersionedStore
from mopsjobs.utils.json_strict import read_json

PIECE_BYTES = 8 * 2**20
"""Of a piece, at most; one at a time is in memory."""

KEPT = 2
"""How many checkpoints of a task are kept, the last ones."""

MAX_AT = 100
"""Characters of the name that the model gives a checkpoint."""

MAX_PIECES = 10**6 - 1


class Saved(NamedTuple):
    """A checkpoint, as its header describes it."""

    number: int
    """Counts the checkpoints of a task, from 1, over all attempts and jobs of a family."""
    at: str
    """The name that the model gave it, for example the day of the simulation."""
    bundle: str
    """The digest of the code that wrote it."""
    packages: str | None
    """A digest of the interpreter and the packages that wrote it; None if they are not known."""
    seconds: float
    """How long the task had worked by then, without what was lost."""
    size: int
    """Bytes of its files."""
    run: str = ""
    """Names its pieces in the store, so that two writers never mix theirs."""
    pieces: int = 0
    sha256: str = ""
    """Of all pieces together."""

    def encode(self) -> bytes:
        """Return the header."""
        return json.dumps(self._asdict(), sort_keys=True, separators=(",", ":")).encode("ascii")

    def is_of(self, bundle: str, packages: str | None) -> bool:
        """Return whether this code wrote it."""
        return (self.bundle, self.packages) == (bundle, packages)


def parse_saved(value: bytes) -> Saved:
    """Return what a header says.

    Raises:
        RecordError: if it is not a header.
    """
    document: Any = read_json(value)
    try:
        saved = Saved(**{name: document[name] for name in Saved._fields if name in document})
    except TypeError:
        raise RecordError("not a checkpoint: expected an object with its fields") from None
    counts = (saved.number, saved.size, saved.pieces)
    texts = (saved.at, saved.bundle, saved.packages or "", saved.run, saved.sha256)
    if not (
        all(type(count) is int and count >= 0 for count in counts)
        and type(saved.seconds) in (int, float)
        and 0 <= saved.seconds < math.inf
        and all(isinstance(text, str) for text in texts)
        and is_name(saved.at)
        and saved.pieces <= MAX_PIECES
    ):
        raise RecordError("not a checkpoint: invalid fields")
    return saved


def is_name(name: str) -> bool:
    """Return whether a model may give a checkpoint this name."""
    return 0 < len(name) <= MAX_AT and not name.startswith(".") and "/" not in name and name.isprintable()


def task_prefix(job_id: str, param_id: str, seed: int) -> str:
    """Return the prefix of all keys of the checkpoints of a task."""
    return f"{CHECKPOINT.prefix_of(job_id)}{param_id}/{seed}/"


def list_numbers(store: VersionedStore, job_id: str) -> Iterator[tuple[str, int, int]]:
    """Yield parameter set, seed and number of each whole checkpoint of a job.

    Raises:
        StoreError: if the listing failed.
    """
    for key in store.list_keys(CHECKPOINT.prefix_of(job_id)):
        parts = CHECKPOINT.parse(key)
        if parts is not None and parts["job"] == job_id:
            yield parts["param"], int(parts["seed"]), int(parts["number"])


def read_saved(store: VersionedStore, job_id: str, param_id: str, seed: int, number: int) -> Saved | None:
    """Return the header of a checkpoint; None if it is gone.

    Raises:
        RecordError: if it is not one.
        StoreError: if it cannot be read.
    """
    found = store.get(_header_key(job_id, param_id, seed, number))
    return None if found is None else parse_saved(found.value)


def _header_key(job_id: str, param_id: str, seed: int, number: int) -> str:
    return CHECKPOINT.key(job=job_id, param=param_id, seed=seed, number=f"{number:06d}")


def _piece_key(job_id: str, param_id: str, seed: int, saved: Saved, piece: int) -> str:
    parts = {"number": f"{saved.number:06d}", "run": saved.run, "piece": f"{piece:06d}"}
    return CHECKPOINT_PIECE.key(job=job_id, param=param_id, seed=seed, **parts)


# --- write ---------------------------------------------------------------------------------------------------


def store_checkpoint(store: VersionedStore, job_id: str, param_id: str, seed: int, saved: Saved, content: Path) -> bool:
    """Store a checkpoint. Return False if another writer has stored one with its number.

    After a failure, a call with an equal `saved` goes on behind the pieces that are there.

    Args:
        store: the store.
        job_id: the job.
        param_id: the parameter set of the task.
        seed: its seed.
        saved: what the header says, without its pieces. Its `run` is of this checkpoint alone.
        content: the file or the directory. Nothing changes it meanwhile.

    Raises:
        OSError: if it cannot be read.
        StoreError: if the store does not take it. Its pieces are then no checkpoint.
    """
    size = min(PIECE_BYTES, getattr(store, "max_value_bytes", PIECE_BYTES))
    first = _piece_key(job_id, param_id, seed, saved, 0)
    there = set(store.list_keys(first.removesuffix("000000"))) if saved.size >= size else ()

    def create(piece: int, value: bytes) -> None:
        if (key := _piece_key(job_id, param_id, seed, saved, piece)) not in there:
            store.create_if_absent(key, value)

    pieces: Any = _Pieces(create, size)
    with tarfile.open(
        fileobj=pieces, mode="w|", bufsize=2**16, format=tarfile.PAX_FORMAT, dereference=True, encoding="utf-8"
    ) as tar:
        tar.add(content, saved.at, filter=_only_content)
    saved = pieces.end(saved)
    return store.create_if_absent(_header_key(job_id, param_id, seed, saved.number), saved.encode()) is not None


def _only_content(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member if member.isfile() or member.isdir() else None


class _Pieces:
    """Takes the bytes of a tar, and stores them in pieces."""

    def __init__(self, create: Callable[[int, bytes], object], size: int) -> None:
        self._create = create
        self._size = size
        self._buffer = bytearray()
        self._count = 0
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Take the next bytes."""
        self._buffer += data
        while len(self._buffer) >= self._size:
            self._send(bytes(self._buffer[: self._size]))
            del self._buffer[: self._size]
        return len(data)

    def _send(self, value: bytes) -> None:
        self._digest.update(value)
        self._create(self._count, value)
        self._count += 1

    def end(self, saved: Saved) -> Saved:
        """Store the last piece, and return what the header says."""
        if self._buffer:
            self._send(bytes(self._buffer))
        return saved._replace(pieces=self._count, sha256=self._digest.hexdigest())


def remove_checkpoints(store: VersionedStore, job_id: str, param_id: str, seed: int, before: int | None = None) -> None:
    """Remove the checkpoints of a task, headers first, and what killed writers left of others.

    Args:
        store: the store.
        job_id: the job.
        param_id: the parameter set of the task.
        seed: its seed.
        before: only those with a smaller number; None: all.

    Raises:
        StoreError: if the store cannot be listed, or does not remove them.
    """
    found = [
        (key, parts)
        for key in store.list_keys(task_prefix(job_id, param_id, seed))
        if (parts := CHECKPOINT.parse(key) or CHECKPOINT_PIECE.parse(key)) is not None
        and (before is None or int(parts["number"]) < before)
    ]
    for key, _ in sorted(found, key=lambda pair: "piece" in pair[1]):
        store.delete(key)


# --- read ----------------------------------------------------------------------------------------------------


def load_checkpoint(store: VersionedStore, job_id: str, param_id: str, seed: int, saved: Saved, target: Path) -> None:
    """Read a checkpoint into a directory that does not exist yet, as `target/<at>`.

    Raises:
        RecordError: if it is damaged. What was read is removed.
        OSError: if it cannot be written.
        StoreError: if the store does not answer.
    """
    pieces: Any = _PieceReader(
        store, [_piece_key(job_id, param_id, seed, saved, piece) for piece in range(saved.pieces)]
    )
    target.mkdir(0o700)
    try:
        with tarfile.open(fileobj=pieces, mode="r|", bufsize=2**16, encoding="utf-8") as tar:
            for member in tar:
                _extract(tar, member, target)
        if pieces.digest() != saved.sha256:
            raise RecordError("its bytes are not those that were written")
    except (tarfile.TarError, RecordError) as error:
        shutil.rmtree(target, ignore_errors=True)
        raise RecordError(f"the checkpoint is damaged: {error}") from None
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    name = posixpath.normpath(member.name)
    if name.startswith(("/", "..")) or not (member.isreg() or member.isdir()):
        raise RecordError(f"{member.name[:100]!r} is neither a file nor a directory inside")
    path = target / name
    if member.isdir():
        path.mkdir(0o700)
        return
    source = tar.extractfile(member)
    assert source is not None  # noqa: S101 - of a file
    mode = 0o700 if member.mode & 0o100 else 0o600
    with source, open(path, "xb", opener=lambda path, flags: os.open(path, flags, mode)) as file:
        shutil.copyfileobj(source, file, 2**20)


class _PieceReader:
    """Reads pieces as one file, one at a time."""

    def __init__(self, store: VersionedStore, keys: list[str]) -> None:
        self._store = store
        self._keys = iter(keys)
        self._piece = memoryview(b"")
        self._digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        """Return up to this many bytes, none at the end."""
        if not self._piece and (key := next(self._keys, None)) is not None:
            found = self._store.get(key)
            if found is None:
                raise RecordError("a piece is missing")
            self._digest.update(found.value)
            self._piece = memoryview(found.value)
        data, self._piece = self._piece[:size], self._piece[size:]
        return bytes(data)

    def digest(self) -> str:
        """Return the digest of all pieces; those behind the end of the tar are read too."""
        while self.read(PIECE_BYTES):
            pass
        return self._digest.hexdigest()
