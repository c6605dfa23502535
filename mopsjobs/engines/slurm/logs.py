"""Read the log files of shards, which lie in the shared directory of their job, once or as they grow."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from pathlib import Path

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


def read_lines(
    list_files: Callable[[], list[tuple[int, Path]]],
    tail: int | None,
    *,
    several: bool,
    sleep: Callable[[float], None],
    is_over: Callable[[], bool] | None = None,
) -> Iterator[str]:
    """Yield the lines of a job, one shard after the other; to follow them, until it has ended.

    Args:
        list_files: returns the logs so far.
        tail: only the last of the lines so far, this many.
        several: whether the number of the shard stands in front of each line.
        sleep: waits that many seconds.
        is_over: to follow the lines: returns whether the job has ended. It is called after several looks at the files.
    """
    positions: dict[Path, int] = defaultdict(int)
    for look in itertools.count():
        # It is asked before the look: no line comes after it. The lines so far come before the first question.
        ended = is_over is None or (look % POLLS_PER_STATE == 1 and is_over())
        lines = (
            shard_prefix(shard, several=several) + line
            for shard, path in list_files()
            for line in _new_lines(path, positions, is_last=ended)
        )
        yield from lines if tail is None else deque(lines, maxlen=tail)
        if ended:
            return
        tail = None
        if look:
            sleep(POLL_SECONDS)


def _new_lines(path: Path, positions: dict[Path, int], *, is_last: bool) -> Iterator[str]:
    """Yield the lines since the last call. A line without its end waits for that, except the last one."""
    with contextlib.suppress(OSError), open(path, "rb") as file:  # a file that cannot be opened has none
        file.seek(positions[path])
        for line in iter(lambda: file.readline(MAX_LINE_BYTES), b""):
            if not line.endswith(b"\n") and len(line) < MAX_LINE_BYTES and not is_last:
                return
            positions[path] += len(line)
            yield line.decode("utf-8", "replace").rstrip("\r\n")
