"""Whether what processes were told in a storm can be true: their notes, held against each other and the registry.

The notes are those of `client.Client` and `store_history.RecordingStore`. Times are CLOCK_MONOTONIC.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from mopsjobs.errors import JobNotFoundError
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.status import TERMINAL, TRANSITIONS, JobStatus, steps
from mopsjobs.store.fetcher import NOT_READ
from reliability.storm.linearizable import unexplained
from reliability.storm.store_history import Line, histories, step

NOTHING_WRITTEN = ("refused", "unreached", "nonsense")
"""Outcomes that say that there was no write. The last is an unexpected answer, and no word of a doubt."""


class OperationNote(NamedTuple):
    """One operation, and what its caller was told. `line` is the note of its begin and its end together."""

    operation: str
    kind: str
    job: str | None
    start: float
    end: float
    outcome: str
    """As the client notes it; `killed` where it did not live to see."""
    line: Line


class Verdict:
    """The findings. `broken` has a sentence for each promise that did not hold."""

    def __init__(self, logs: list[list[Line]]) -> None:
        self.broken: list[str] = []
        self.counts: Counter[str] = Counter()
        self.logs = logs
        self.operations = [one for log in logs for one in _operations(log)]
        self._by_name = {one.operation: one for one in self.operations}
        self._by_job: dict[str, list[OperationNote]] = defaultdict(list)
        for one in self.operations:
            self._by_job[one.job or ""].append(one)

    def judge(self, records: Mapping[str, JobState]) -> None:
        """Hold all notes against each other, and the records as they are in the end, by job."""
        self.counts["operations"] = len(self.operations)
        for one in self.operations:
            self.counts[f"operations {one.outcome}"] += 1
            if one.outcome == "corrupt":
                self._break(one, "failed as nothing may")
        chains = self._chains()
        for job, operations in self._by_job.items():
            if job:
                self._judge_job(records.get(job), operations, chains.get(f"jobs/{job}/state.json", {}))
        self._judge_syncs(chains)
        self._judge_histories()

    # --- one job ------------------------------------------------------------------------------------------------

    def _judge_job(self, record: JobState | None, operations: list[OperationNote], chain: dict[int, str]) -> None:
        if record is None:
            if lost := [one for one in operations if one.outcome == "ok"]:
                self._break(lost[0], "was acknowledged, and there is no such job")
            return
        blocks = _blocks(record)
        self._judge_chain(record, chain)
        landed = {*chain.values(), *(block.write_id for block in blocks), *record.metadata}
        for one in operations:
            if one.outcome == "ok":
                self._judge_acknowledged(one, record, blocks, landed)
            elif one.outcome in NOTHING_WRITTEN:
                if one.operation in landed:
                    self._break(one, "said that nothing was written, and it was")
                if one.outcome == "refused" and not self._is_explained(one, blocks, operations):
                    self._break(one, f"was refused without a cause, over {[block.statuses for block in blocks]}")
        names = Counter(block.write_id for block in blocks)
        for write_id, count in names.items():
            if count > 1:
                self.broken.append(f"{record.job_id}: the steps of {write_id} are in the history {count} times.")
        states = [status for block in blocks for status in block.statuses]
        for one_status, next_status in pairwise(states):
            if JobStatus(next_status) not in TRANSITIONS[JobStatus(one_status)]:
                self.broken.append(f"{record.job_id}: {one_status} is followed by {next_status}.")

    def _judge_chain(self, record: JobState, chain: dict[int, str]) -> None:
        """Check that each revision is a known write, and that what writes added to the metadata is there to the end."""
        where = f"{record.job_id} is at revision {record.revision}"
        if missing := set(range(1, record.revision + 1)) - chain.keys():
            self.broken.append(f"{where}; no process has seen or written {sorted(missing)}.")
        if (newest := max(chain, default=0)) > record.revision:
            self.broken.append(f"{where}, and {chain[newest]} has made revision {newest}: a lost update.")
        kinds = ("register", "status", "fields")
        for write_id in set(chain.values()):
            one = self._by_name.get(write_id)
            if one is not None and one.kind in kinds and write_id not in record.metadata:
                self._break(one, "landed, and what it wrote is gone")
        self.counts["writes landed"] += len(chain)
        self.counts["writes applied again"] += len(chain) - len(set(chain.values()))

    def _judge_acknowledged(
        self, one: OperationNote, record: JobState, blocks: list[_Block], landed: set[str | None]
    ) -> None:
        self.counts["acknowledged"] += 1
        if one.operation in landed:
            self.counts["acknowledged and found"] += 1
        elif one.line.get("target") == record.status == "cancelled":
            self.counts["acknowledged and found"] += 1  # it was cancelled already: then there is nothing to write
        else:
            self._break(one, "was acknowledged, and is not in the record")

    def _is_explained(self, one: OperationNote, blocks: list[_Block], operations: list[OperationNote]) -> bool:
        """Return True if it was refused because of another write, which could have come before its end."""
        error = one.line.get("error", "")
        if one.kind == "register":
            return blocks[0].write_id != one.operation and self._bounds(blocks[0].write_id)[0] <= one.end
        if error == JobNotFoundError.__name__:
            return all(each.end >= one.start for each in operations if each.kind == "register" and each.outcome == "ok")
        if error == "TooManyRetriesError":
            self.counts["operations refused, the race lost too often"] += 1
            return True
        target = one.line.get("target") or one.line.get("to_status")
        for number, block in enumerate(blocks):
            status = block.statuses[-1]
            if one.line.get("from_status") not in (None, status) or block.write_id == one.operation:
                continue
            is_refusal = status in TERMINAL or (target and steps(JobStatus(status), JobStatus(target)) is None)
            begun = self._bounds(block.write_id)[0]
            over = self._bounds(blocks[number + 1].write_id)[1] if number + 1 < len(blocks) else math.inf
            if is_refusal and begun <= one.end and over >= one.start:
                return True
        return False

    def _bounds(self, write_id: str | None) -> tuple[float, float]:
        """Return between which times a write landed. One that no process has noted may have at any."""
        one = self._by_name.get(write_id or "")
        return (-math.inf, math.inf) if one is None else (one.start, one.end)

    # --- all of them --------------------------------------------------------------------------------------------

    def _chains(self) -> dict[str, dict[int, str]]:
        """Return, by key, which write made which revision, as far as a process saw it or was told that it landed."""
        chains: dict[str, dict[int, str]] = defaultdict(dict)
        for log in self.logs:
            done = {line["ended"] for line in log if line.get("outcome") == "yes" and "ended" in line}
            for line in log:
                has_landed = line.get("call") == "get" or ("call" in line and line.get("number") in done)
                if not has_landed or line.get("revision") is None:
                    continue
                key, revision, write_id = line["key"], line["revision"], line["write_id"]
                known = chains[key].setdefault(revision, write_id)
                if known != write_id:
                    self.broken.append(f"{key}: revision {revision} is both {known} and {write_id}: a lost update.")
        return chains

    def _judge_syncs(self, chains: Mapping[str, Mapping[int, str]]) -> None:
        """Check that a sync shows every write that landed before it began, and none that had not begun."""
        landed: dict[str, list[tuple[float, int]]] = defaultdict(list)
        for key, chain in chains.items():
            for revision, write_id in chain.items():
                landed[key].append((self._acknowledged_at(write_id), revision))
        for one in self.operations:
            if one.kind != "sync" or one.outcome != "ok":
                continue
            self.counts["syncs, full" if one.line["is_full"] else "syncs, delta"] += 1
            unread = {key for key, reason in one.line["problems"] if reason.startswith(NOT_READ)}
            self.counts["records that syncs named as not read"] += len(unread)
            if wrong := [problem for problem in one.line["problems"] if problem[0] not in unread]:
                self._break(one, f"took records for something else: {wrong}")
            for key, writes in landed.items():
                if key in unread:
                    continue
                revision = one.line["rows"].get(key, (0, ""))[0]
                if self._bounds(chains[key].get(revision))[0] > one.end:
                    self._break(one, f"has revision {revision} of {key}, which no process had begun to write")
                least = max((number for end, number in writes if end < one.start), default=0)
                if revision < least:
                    kind = "full" if one.line["is_full"] else "delta"
                    self._break(one, f"({kind}) has revision {revision} of {key}; {least} had landed before")

    def _acknowledged_at(self, write_id: str) -> float:
        one = self._by_name.get(write_id)
        return one.end if one is not None and one.outcome == "ok" else math.inf

    def _judge_histories(self) -> None:
        for key, history in histories(self.logs).items():
            self.counts["histories checked"] += 1
            self.counts["calls in them"] += len(history)
            if (one := unexplained(history, None, step)) is not None:
                self.broken.append(f"{key}: no order of the calls on it explains {one}.")

    def _break(self, one: OperationNote, what: str) -> None:
        words = " ".join(str(one.line[name]) for name in ("target", "error", "message") if one.line.get(name))
        self.broken.append(f"{one.operation} ({one.kind} {one.job}: {one.outcome} {words}) {what}.")


class _Block(NamedTuple):
    """Steps of a history that one write has made."""

    write_id: str | None
    statuses: list[str]


def _blocks(record: JobState) -> list[_Block]:
    blocks: list[_Block] = []
    for taken in record.transitions:
        status, write_id = str(taken["status"]), taken.get("id")
        if not blocks or blocks[-1].write_id != write_id:
            blocks.append(_Block(str(write_id), []))
        blocks[-1].statuses.append(status)
    return blocks


def _operations(log: Iterable[Line]) -> Iterator[OperationNote]:
    lines = list(log)
    ends: dict[str, dict[str, Any]] = {line["op_ended"]: line for line in lines if "op_ended" in line}
    for line in lines:
        if "op" in line:
            end = ends.get(line["op"], {"outcome": "killed", "end": math.inf})
            yield OperationNote(
                line["op"], line["kind"], line["job"], line["start"], end["end"], end["outcome"], {**line, **end}
            )
