"""Read the log files of shards, which lie in the shared directory of their job, once or as they grow."""

from __future__ import annotations

import contextlib
import re
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from mopsjobs.engines.base import shard_prefix

LOG_NAME = "slurm-%A_%a.log"
"""The name of a log for sbatch: Slurm puts in the ids of the array and of the shard."""

POLL_SECONDS = 1.0
"""Seconds between two looks at the files to follow."""

POLLS_PER_STATE = 10
"""How often the files are looked at for each question to Slurm: a question loads its controller."""

MAX_LINE_BYTES = 2**20
"""A longer line is cut into several."""

_LOG = re.compile(r"slurm-(\d{1,10})_(\d{1,7})\.log", re.ASCII)


def log_files(directory: Path, array_id: int | None) -> list[tuple[int, Path]]:
    """Return the logs of a job with the numbers of their shards, in their order.

    Args:
        directory: that of the job.
        array_id: the job array whose logs to find; None: the newest that has one.
    """
    with contextlib.suppress(OSError):
        named = [(match, path) for path in directory.iterdir() if (match := _LOG.fullmatch(path.name)) is not None]
        last = max((int(match[1]) for match, _ in named), default=0) if array_id is None else array_id
        return sorted((int(match[2]), path) for match, path in named if int(match[1]) == last)
    return []


def existing_lines(files: list[tuple[int, Path]], tail: int | None, *, several: bool) -> Iterator[str]:
    """Yield the lines so far, one shard after the other; with `tail`, the last ones."""
    lines = (line for shard, path in files for line in _lines_of(path, shard_prefix(shard, several=several)))
    yield from lines if tail is None else deque(lines, maxlen=tail)


def follow_lines(
    list_files: Callable[[], list[tuple[int, Path]]],
    is_over: Callable[[], bool],
    tail: int | None,
    sleep: Callable[[float], None],
    *,
    several: bool,
) -> Iterator[str]:
    """Yield the lines of a job until it has ended.

    Args:
        list_files: returns the logs so far.
        is_over: returns whether the job has ended. It is called after several looks at the files.
        tail: only the last of the lines so far, this many.
        sleep: waits that many seconds.
        several: whether the number of the shard stands in front of each line.
    """
    readers: dict[Path, _Reader] = {}
    files = list_files()
    for _, path in files:
        readers[path] = _Reader(path)
    begun = (
        f"{shard_prefix(shard, several=several)}{line}" for shard, path in files for line in readers[path].new_lines()
    )
    yield from begun if tail is None else deque(begun, maxlen=tail)
    looks = 0
    while True:
        ended = looks % POLLS_PER_STATE == 0 and is_over()  # before the look: no line comes after it
        for shard, path in list_files():
            reader = readers.setdefault(path, _Reader(path))
            for line in reader.new_lines(is_last=ended):
                yield shard_prefix(shard, several=several) + line
        if ended:
            return
        looks += 1
        sleep(POLL_SECONDS)


class _Reader:
    """Reads whole lines of a file that grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0

    def new_lines(self, *, is_last: bool = False) -> Iterator[str]:
        """Yield the lines since the last call. A line without its end waits for that, except the last one."""
        try:
            file = open(self._path, "rb")  # noqa: SIM115 - closed below; a file that cannot be opened has none
        except OSError:
            return
        with file:
            file.seek(self._position)
            for line in _pieces(file):
                if not line.endswith(b"\n") and len(line) < MAX_LINE_BYTES and not is_last:
                    return
                self._position += len(line)
                yield _text(line)


def _lines_of(path: Path, prefix: str) -> Iterator[str]:
    for line in _Reader(path).new_lines(is_last=True):
        yield prefix + line


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(MAX_LINE_BYTES):
        yield line


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\r\n")
