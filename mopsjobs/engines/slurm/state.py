"""Tell the state of a job from the states of its shards on Slurm, with Slurm's own words."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from mopsjobs.engines.base import EngineState, EngineTimes, ShardEnd
from mopsjobs.engines.slurm.script import EXIT_NOT_FOUND, EXIT_SETUP, EXIT_TIME_LIMIT
from mopsjobs.utils.text import cut_to_length, parse_whole_number, pluralize
from mopsjobs.utils.times import from_timestamp

MAX_ID = 2**32
"""Ids of jobs in Slurm are smaller."""

MAX_SECONDS = 2**33
"""Times are less, in seconds since 1970."""

SACCT_FIELDS = ("JobID", "JobName", "State", "ExitCode", "Start", "End")

_FIELD = re.compile(r"(?:^| )(JobId|ArrayJobId|ArrayTaskId|JobName|JobState|Reason|Restarts|ExitCode|StartTime|EndTime"
                    r"|Dependency)=(\S*)", re.ASCII)  # fmt: skip

_ARRAY_ID = re.compile(r"(\d{1,10})(?:_(?:(\d{1,10})|\[([\d,:%-]*)\]))?", re.ASCII)

_PART = re.compile(r"(\d{1,10})(?:-(\d{1,10})(?::(\d{1,10}))?)?", re.ASCII)


class SlurmShards(NamedTuple):
    """Shards of a job that are in the same state: one that has started, or several that wait."""

    array_id: int
    """The id of the job array."""
    name: str
    state: str
    """In Slurm's words: `PENDING`, `RUNNING`, `COMPLETED`, ..."""
    parts: tuple[range, ...] = (range(1),)
    """The numbers of these shards."""
    reason: str | None = None
    """Why they wait or have ended, in Slurm's words: `Resources`."""
    exit_code: int = 0
    signal: int = 0
    restarts: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None
    dependency: str | None = None

    @property
    def shards(self) -> int:
        """Return how many shards these are."""
        return sum(map(len, self.parts))

    @property
    def has_begun(self) -> bool:
        """Return whether they have begun. The start of a shard that was cancelled in the queue is its end, or none."""
        return self.state != "CANCELLED" or self.started_at not in (None, self.ended_at)


def parse_scontrol(text: str) -> list[SlurmShards]:
    """Return the shards that `scontrol show job --oneliner` lists. Other lines are left out.

    The text has had the same form for many years. See docs/decisions/0081-slurm-by-its-commands.md.
    """
    # The first of a name counts: a comment of the user may look like a field, and stands behind them.
    return _shards(dict(reversed(_FIELD.findall(line))) for line in text.splitlines())


def parse_sacct(text: str) -> list[SlurmShards]:
    """Return the shards that `sacct --parsable2 --noheader` lists with the format `SACCT_FIELDS`."""
    rows = (line.split("|") for line in text.splitlines())
    return _shards(_fields_of_account(*row) for row in rows if len(row) == len(SACCT_FIELDS))


def _fields_of_account(job_id: str, name: str, state: str, code: str, start: str, end: str) -> dict[str, str]:
    """Return a row of an account in the names of scontrol."""
    match = _ARRAY_ID.fullmatch(job_id)
    if match is None:
        return {}
    state, _, by = state.partition(" by ")  # `CANCELLED by 1000`
    times = {"StartTime": start, "EndTime": end}
    ids = {"ArrayJobId": match[1], "ArrayTaskId": match[2] or match[3] or "0", "JobName": name}
    return {**ids, **times, "JobState": state, "ExitCode": code, "Reason": f"by uid {by}" if by else "None"}


def _shards(rows: Iterable[Mapping[str, str]]) -> list[SlurmShards]:
    """Return the shards whose fields these are, by the names of scontrol."""
    found = []
    for fields in rows:
        array_id = parse_whole_number(fields.get("ArrayJobId", fields.get("JobId", "")), 1, MAX_ID)
        if array_id is None or "JobState" not in fields:
            continue
        exit_code, _, signal = fields.get("ExitCode", "").partition(":")
        reason, dependency = fields.get("Reason", "None"), fields.get("Dependency", "(null)")
        found.append(
            SlurmShards(
                array_id,
                fields.get("JobName", ""),
                fields["JobState"],
                tuple(_parts(fields.get("ArrayTaskId", "0").partition("%")[0])) or (range(1),),
                None if reason in ("None", "") else reason,
                parse_whole_number(exit_code, 0, 255) or 0,
                parse_whole_number(signal, 0, 255) or 0,
                parse_whole_number(fields.get("Restarts", ""), 0, MAX_ID) or 0,
                _time(fields.get("StartTime", "")),
                _time(fields.get("EndTime", "")),
                None if dependency == "(null)" else dependency,
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


def _parts(text: str) -> Iterator[range]:
    for word in text.split(","):
        if part := _PART.fullmatch(word):
            first = int(part[1])
            numbers = range(first, int(part[2] or first) + 1, int(part[3] or 1) or 1)
            if numbers:
                yield numbers


def _time(text: str) -> datetime | None:
    """Return a time that Slurm gives as seconds since 1970; None for `Unknown` and for times of no meaning."""
    seconds = parse_whole_number(text, 1, MAX_SECONDS)
    return None if seconds is None else from_timestamp(seconds)


WAITING = frozenset(
    {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
)
"""States of a shard that waits. A shard whose node is being started has the second one."""

COMPLETED = "COMPLETED"

MEANINGS: Mapping[str, str] = {
    "OUT_OF_MEMORY": "exceeded the memory of the job",
    "TIMEOUT": "reached the time limit of the job",
    "NODE_FAIL": "lost {their} node",
    "BOOT_FAIL": "got a node that did not start",
    "DEADLINE": "reached the deadline of the job",
    "PREEMPTED": "{were} ended for jobs of a higher priority",
    "FAILED": "failed",
    "REVOKED": "{were} revoked, since another cluster began them",
    "CANCELLED": "{were} cancelled in Slurm",
}
"""What shards did that have ended without success, by their state, the most telling first. The words of a clause depend
on their number."""

ENDS = frozenset({COMPLETED, *MEANINGS})
"""States of a shard that has ended. In any other state that is not one of `WAITING`, it counts as at work."""

REASONS: Mapping[str, str] = {
    "Priority": "jobs of a higher priority come first",
    "Resources": "no node is free that has what it asks for",
    "BeginTime": "its time to begin has not come; after a requeue, that takes up to two minutes",
    "Cleaning": "an earlier run of it is being cleaned up",
    "Dependency": "jobs that it depends on have not ended",
    "JobArrayTaskLimit": "as many shards run as --array-limit allows",
    "Licenses": "it waits for a licence",
    "Prolog": "the cluster prepares its node",
    "ReqNodeNotAvail": "nodes that it needs are down, drained or reserved",
    "Reservation": "its reservation has not begun",
    "None": "Slurm has not looked at it yet",
}
"""What reasons of a shard that waits mean. Its turn comes by itself."""

STUCK_REASONS: Mapping[str, str] = {
    "JobHeldUser": "its user holds it; release it: scontrol release {id}",
    "JobHeldAdmin": "an administrator holds it",
    "job_requeued_in_held_state": "it was requeued and is held; release it: scontrol release {id}",
    "launch_failed_requeued_held": "its launch failed, and it is held; release it: scontrol release {id}",
    "DependencyNeverSatisfied": "a job that it depends on has failed, so it never begins",
    "BadConstraints": "no node can ever have what it asks for",
    "PartitionTimeLimit": "its time limit is above that of the partition",
    "PartitionNodeLimit": "it asks for more nodes than the partition allows",
    "PartitionDown": "the partition starts no jobs",
    "PartitionInactive": "the partition starts no jobs",
    "InvalidAccount": "its account is not valid",
    "InvalidQOS": "its QOS is not valid",
    "AccountNotAllowed": "its account may not use the partition",
    "QOSNotAllowed": "its QOS may not use the partition",
}
"""What reasons mean of a shard that never begins by itself."""

STUCK_PARTS = ("MaxWallDurationPerJob", "MaxCpuPerJob", "MaxNodePerJob", "MaxMemPerJob", "MaxJobsPerUser=0", "Held")
"""Parts of further reasons that mean so: limits that one shard alone exceeds."""

EXIT_CODES: Mapping[int, tuple[str, str]] = {
    EXIT_TIME_LIMIT: ("TIMEOUT", "stopped ahead of the time limit of the job"),
    EXIT_SETUP: ("SetupFailed", "ended, since the setup failed"),
    EXIT_NOT_FOUND: ("NotFound", "ended on a node that does not see mops-jobs at its path"),
}
"""Reasons and clauses for exit codes of the script."""

MAX_DETAIL = 500

MAX_LOST = 1000
"""Failed shards that are told one by one."""


def newest(shards: Iterable[SlurmShards]) -> list[SlurmShards]:
    """Return the shards of the newest array among several."""
    found = list(shards)
    last = max((one.array_id for one in found), default=0)
    return [one for one in found if one.array_id == last]


def is_active(shards: Iterable[SlurmShards]) -> bool:
    """Return whether one of the shards has not ended."""
    return any(one.state not in ENDS for one in shards)


def state_of(shards: Sequence[SlurmShards]) -> EngineState:
    """Return the state of a job whose shards these are. Slurm forgets shards that ended minutes ago."""
    waiting = [one for one in shards if one.state in WAITING]
    at_work = [one for one in shards if one.state not in WAITING and one.state not in ENDS]
    failed = [one for one in shards if one.state in MEANINGS]
    reason, clause = _failure(failed)
    if at_work:
        lost = tuple(itertools.islice(_lost(failed, had_begun=False), MAX_LOST))
        return EngineState("running", reason or _suspension(at_work), _summary(at_work, waiting, clause), lost=lost)
    if waiting:
        word, meaning = _wait(waiting)
        others = "" if clause is None else f"; {clause}"
        detail = cut_to_length(meaning + others, MAX_DETAIL)
        return EngineState("pending", word, detail, is_stuck=any(is_stuck(one) for one in waiting))
    if failed:
        done = sum(one.shards for one in shards) - sum(one.shards for one in failed)
        others = f"; {pluralize(done, 'shard')} completed" if done else ""
        detail = cut_to_length(f"{clause}{others}", MAX_DETAIL)
        return EngineState("failed", reason, detail, lost=tuple(itertools.islice(_lost(failed), MAX_LOST)))
    return EngineState("succeeded")


def times_of(shards: Sequence[SlurmShards]) -> EngineTimes:
    """Return when a job began whose shards these are, and when it ended."""
    begun = (one for one in shards if one.state not in WAITING and one.has_begun)
    began = [one.started_at for one in begun if one.started_at is not None]
    ended = [one.ended_at for one in shards if one.ended_at is not None]
    return EngineTimes(min(began, default=None), None if is_active(shards) else max(ended, default=None))


def _failure(failed: Sequence[SlurmShards]) -> tuple[str | None, str | None]:
    """Return how the shards ended that failed: the most telling state, and a clause about all."""
    if not failed:
        return None, None
    kinds: Counter[tuple[str, str]] = Counter()
    for one in failed:
        kinds[_end(one)] += one.shards
    order = [*MEANINGS]
    ranked = sorted(kinds.items(), key=lambda kind: order.index(kind[0][0] if kind[0][0] in order else "FAILED"))
    clauses = [f"{pluralize(count, 'shard')} {_inflect(meaning, count)} ({word})" for (word, meaning), count in ranked]
    return ranked[0][0][0], "; ".join(clauses)


def _lost(failed: Iterable[SlurmShards], *, had_begun: bool = True) -> Iterator[ShardEnd]:
    """Yield the shards that had tasks in hand, or all. One that was cancelled before it began had none."""
    for one in failed:
        for number in itertools.chain(*one.parts) if one.has_begun or not had_begun else ():
            yield ShardEnd(number, _end(one)[0], one.exit_code or None, one.state == "OUT_OF_MEMORY")


def _end(one: SlurmShards) -> tuple[str, str]:
    """Return how a shard ended: Slurm's word, and a clause."""
    if one.state == "FAILED":
        if one.exit_code in EXIT_CODES and not one.signal:
            return EXIT_CODES[one.exit_code]
        how = f"killed by signal {one.signal}" if one.signal else f"exit code {one.exit_code}"
        return "FAILED", f"{{were}} {how}" if one.signal else f"failed with {how}"
    clause = MEANINGS[one.state]
    by = one.reason if one.state == "CANCELLED" and one.reason is not None and one.reason.startswith("by ") else None
    return one.state, f"{clause} {by}" if by else clause


def _inflect(clause: str, count: int) -> str:
    return clause.format(were="was" if count == 1 else "were", their="its" if count == 1 else "their")


def _suspension(at_work: Sequence[SlurmShards]) -> str | None:
    return "SUSPENDED" if all(one.state in ("SUSPENDED", "STOPPED") for one in at_work) else None


def _summary(at_work: Sequence[SlurmShards], waiting: Sequence[SlurmShards], clause: str | None) -> str | None:
    """Return what the shards of a running job do, if they differ."""
    stopped = sum(one.shards for one in at_work if one.state in ("SUSPENDED", "STOPPED"))
    count = sum(one.shards for one in waiting)
    parts = (
        f"Slurm has suspended {pluralize(stopped, 'shard')}" if stopped else None,
        f"{pluralize(count, 'shard')} {'waits' if count == 1 else 'wait'}: {_wait(waiting)[1]}" if count else None,
        clause,
    )
    return cut_to_length("; ".join(filter(None, parts)), MAX_DETAIL) or None


def _wait(waiting: Sequence[SlurmShards]) -> tuple[str, str]:
    """Return why shards wait: Slurm's word, and a sentence. A reason that needs help comes first."""
    one = min(waiting, key=lambda shards: (not is_stuck(shards), -shards.shards))
    text = one.reason or ("None" if one.state == "PENDING" else one.state)
    word, _, more = text.partition(",")
    meaning = STUCK_REASONS.get(word) or REASONS.get(word) or _limit(word)
    nodes = f" ({more.strip('_').replace('_', ' ')})" if more else ""
    after = f" ({one.dependency})" if one.dependency is not None and word.startswith("Dependency") else ""
    again = f"; requeued {one.restarts} times" if one.restarts > 1 else "; requeued" if one.restarts else ""
    return word, meaning.format(id=one.array_id) + nodes + after + again


def _limit(word: str) -> str:
    """Return what a reason means that names a limit, such as `QOSMaxJobsPerUserLimit` and `AssocGrpCpuLimit`."""
    for prefix, place in (("QOS", "the QOS"), ("Assoc", "the account"), ("Max", "the cluster")):
        if word.startswith(prefix):
            return f"a limit of {place} is reached"
    return "Slurm has not started it"


def is_stuck(shards: SlurmShards) -> bool:
    """Return whether shards that wait need help, since their turn does not come by itself."""
    word = (shards.reason or "").partition(",")[0]
    return word in STUCK_REASONS or any(part in word for part in STUCK_PARTS) or shards.state in (
        "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT",
    )  # fmt: skip
