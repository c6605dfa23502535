"""Parse what scontrol and sacct print in text about the shards of a job, and sbatch about a launch.

The text has had the same form for many years. `documents` reads the same of `squeue --json`.
See docs/decisions/0081-slurm-by-its-commands.md.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import NamedTuple

from mopsjobs.utils.text import parse_whole_number
from mopsjobs.utils.times import from_timestamp

MAX_ID = 2**32
"""Ids of jobs in Slurm are smaller."""

MAX_SECONDS = 2**33
"""Times are less, in seconds since 1970."""

SACCT_FIELDS = ("JobID", "JobName", "State", "ExitCode", "Start", "End")

_FIELD = re.compile(r"(?:^| )(JobId|ArrayJobId|ArrayTaskId|JobName|UserId|JobState|Reason|Restarts|ExitCode|StartTime"
                    r"|EndTime|Partition|Dependency)=(\S*)", re.ASCII)  # fmt: skip

_ARRAY_ID = re.compile(r"(\d{1,10})(?:_(?:(\d{1,10})|\[([\d,:%-]*)\]))?", re.ASCII)

_PART = re.compile(r"(\d{1,10})(?:-(\d{1,10})(?::(\d{1,10}))?)?", re.ASCII)


class SlurmShards(NamedTuple):
    """Shards of a job that are in the same state: one that has started, or several that wait."""

    array_id: int
    """The id of the job array."""
    name: str
    state: str
    """In Slurm's words: `PENDING`, `RUNNING`, `COMPLETED`, ..."""
    first: int = 0
    """The number of the first of these shards."""
    shards: int = 1
    reason: str | None = None
    """Why they wait or have ended, in Slurm's words: `Resources`."""
    exit_code: int = 0
    signal: int = 0
    restarts: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None
    partition: str | None = None
    dependency: str | None = None
    parts: tuple[range, ...] = ()
    """The numbers of these shards, if they do not follow each other."""

    @property
    def numbers(self) -> Iterable[int]:
        """Return the numbers of these shards."""
        return itertools.chain(*self.parts) if self.parts else range(self.first, self.first + self.shards)

    @property
    def has_begun(self) -> bool:
        """Return whether they have begun. The start of a shard that was cancelled in the queue is its end, or none."""
        return self.state != "CANCELLED" or self.started_at not in (None, self.ended_at)


def parse_scontrol(text: str) -> list[SlurmShards]:
    """Return the shards that `scontrol show job --oneliner` lists. Other lines are left out."""
    found = []
    for line in text.splitlines():
        fields: dict[str, str] = {}
        for name, value in _FIELD.findall(line):
            fields.setdefault(name, value)  # a comment of the user may look like a field, and stands behind them
        array_id = parse_whole_number(fields.get("ArrayJobId", fields.get("JobId", "")), 1, MAX_ID)
        if array_id is None or "JobState" not in fields:
            continue
        first, count, parts = parse_tasks(fields.get("ArrayTaskId", "0"))
        exit_code, signal = _exit(fields.get("ExitCode", ""))
        reason, dependency = fields.get("Reason", "None"), fields.get("Dependency", "(null)")
        found.append(
            SlurmShards(
                array_id,
                fields.get("JobName", ""),
                fields["JobState"],
                first,
                count,
                None if reason in ("None", "") else reason,
                exit_code,
                signal,
                parse_whole_number(fields.get("Restarts", ""), 0, MAX_ID) or 0,
                _time(fields.get("StartTime", "")),
                _time(fields.get("EndTime", "")),
                fields.get("Partition"),
                None if dependency == "(null)" else dependency,
                parts,
            )
        )
    return found


def parse_sacct(text: str) -> list[SlurmShards]:
    """Return the shards that `sacct --parsable2 --noheader` lists with the format `SACCT_FIELDS`."""
    found = []
    for line in text.splitlines():
        words = line.split("|")
        match = _ARRAY_ID.fullmatch(words[0])
        if match is None or len(words) != len(SACCT_FIELDS):
            continue
        first, count, parts = parse_tasks(match[2] or match[3] or "0")
        exit_code, signal = _exit(words[3])
        state, _, by = words[2].partition(" by ")  # `CANCELLED by 1000`
        found.append(
            SlurmShards(
                int(match[1]),
                words[1],
                state,
                first,
                count,
                f"by uid {by}" if by else None,
                exit_code,
                signal,
                0,
                _time(words[4]),
                _time(words[5]),
                parts=parts,
            )
        )
    return found


def parse_submission(text: str) -> tuple[int, str | None] | None:
    """Return the id and the cluster that `sbatch --parsable` prints; None if it has printed something else.

    Only with several clusters, it prints the name of one.
    """
    lines = text.split()
    number, _, cluster = lines[-1].partition(";") if lines else ("", "", "")
    array_id = parse_whole_number(number, 1, MAX_ID)
    return None if array_id is None else (array_id, cluster or None)


def parse_tasks(text: str) -> tuple[int, int, tuple[range, ...]]:
    """Return the first of the tasks that `0-3,7%2` names, how many they are, and their numbers if these have holes."""
    parts = tuple(_parts(text.partition("%")[0]))
    if not parts:
        return 0, 1, ()
    has_holes = len(parts) > 1 or parts[0].step > 1
    return min(part.start for part in parts), sum(map(len, parts)), parts if has_holes else ()


def _parts(text: str) -> Iterator[range]:
    for word in text.split(","):
        if part := _PART.fullmatch(word):
            first = int(part[1])
            numbers = range(first, int(part[2] or first) + 1, int(part[3] or 1) or 1)
            if numbers:
                yield numbers


def _exit(text: str) -> tuple[int, int]:
    """Return the exit code and the signal of `1:0`."""
    code, _, signal = text.partition(":")
    return parse_whole_number(code, 0, 255) or 0, parse_whole_number(signal, 0, 255) or 0


def _time(text: str) -> datetime | None:
    """Return a time that Slurm gives as seconds since 1970; None for `Unknown` and for times of no meaning."""
    seconds = parse_whole_number(text, 1, MAX_SECONDS)
    return None if seconds is None else from_timestamp(seconds)
