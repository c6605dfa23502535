"""Storms: processes that are told nothing false while the line to the store breaks; and that these checks can fail.

The whole of it is `./build.sh reliability --only storm`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mopsjobs.registry.job_state import JobState
from reliability.storm import storms as storm
from reliability.storm.linearizable import Operation, unexplained
from reliability.storm.mutations import MUTATIONS
from reliability.storm.proxy import FAULTS
from reliability.storm.store_history import Call, histories, step
from reliability.storm.verdict import Verdict
from reliability.trial import Trial

# --- the checker of histories ---------------------------------------------------------------------------------------

VERSIONS = st.sampled_from("ab")


def op(start: float, end: float, kind: str, outcome: str, written: str | None = None, over: str | None = None) -> Any:
    """Return a call on one key. The value of version `a` has the digest `A`; that of an open one has no version."""
    told = None if outcome == "open" else written
    call = Call(kind, outcome, written and written.upper(), told, over, over and over.upper())
    return Operation(start, end, call, kind == "get" or outcome == "no")


@st.composite
def operations(draw: st.DrawFn) -> Operation:
    start = draw(st.integers(0, 6))
    kind = draw(st.sampled_from(["get", "put", "create", "delete"]))
    outcome = draw(st.sampled_from(["yes", "no"] if kind == "get" else ["yes", "no", "open"]))
    end = math.inf if outcome == "open" else start + draw(st.integers(0, 4))
    written = None if kind == "delete" or (kind == "get" and outcome == "no") else draw(VERSIONS)
    return op(start, end, kind, outcome, written, draw(VERSIONS) if kind == "put" else None)  # type: ignore[no-any-return]


def every_order_fails(history: Sequence[Operation]) -> bool:
    """Try all: each choice of the open calls, in each order."""
    ended = [one for one in history if one.end < math.inf]
    open_ended = [one for one in history if one.end == math.inf]
    chosen = (c for size in range(len(open_ended) + 1) for c in itertools.combinations(open_ended, size))
    return not any(is_legal(order) for choice in chosen for order in itertools.permutations([*ended, *choice]))


def is_legal(order: Sequence[Operation]) -> bool:
    if any(later.end < earlier.start for earlier, later in itertools.combinations(order, 2)):
        return False
    states: set[Any] = {None}
    for one in order:
        states = {after for state in states for after in step(state, one.call)}
    return bool(states)


@example([op(0, math.inf, "create", "open", "a"), op(1, 2, "get", "no"), op(3, 4, "get", "yes", "a")])
@example([op(0, 1, "create", "yes", "a"), op(0, math.inf, "delete", "open"), op(2, 3, "get", "no")])
@given(st.lists(operations(), max_size=5))
def test_the_checker_agrees_with_trying_all_orders(history: list[Operation]) -> None:
    assert (unexplained(history, None, step) is not None) == every_order_fails(history)


GOOD = {
    "a lost reply, seen later": [op(0, math.inf, "create", "open", "a"), op(5, 6, "get", "yes", "a")],
    "a lost reply, never seen": [op(0, math.inf, "create", "open", "a"), op(5, 6, "get", "no")],
    "it landed late": [
        op(0, math.inf, "create", "open", "a"),
        op(1, 2, "get", "no"),
        op(3, 4, "create", "no", "b"),
        op(5, 6, "put", "yes", "b", over="a"),
    ],
    "one of two wins": [
        op(0, 1, "create", "yes", "a"),
        op(2, 5, "put", "yes", "b", over="a"),
        op(2, 5, "put", "no", "c", over="a"),
    ],
}
BAD = {
    "both of two win": [
        op(0, 1, "create", "yes", "a"),
        op(2, 5, "put", "yes", "b", over="a"),
        op(2, 5, "put", "yes", "c", over="a"),
    ],
    "a conflict with nobody": [op(0, 1, "create", "yes", "a"), op(2, 3, "put", "no", "b", over="a")],
    "a read of what was replaced": [
        op(0, 1, "create", "yes", "a"),
        op(2, 3, "put", "yes", "b", over="a"),
        op(4, 5, "get", "yes", "a"),
    ],
    "acknowledged and not there": [op(0, 1, "create", "yes", "a"), op(2, 3, "get", "no")],
    "back from a deletion": [
        op(0, 1, "create", "yes", "a"),
        op(2, 3, "delete", "yes"),
        op(4, 5, "put", "yes", "b", over="a"),
    ],
}


@pytest.mark.parametrize("name", GOOD)
def test_a_history_that_can_be_is_taken(name: str) -> None:
    assert unexplained(GOOD[name], None, step) is None


@pytest.mark.parametrize("name", BAD)
def test_an_impossible_history_is_refused_by_its_first_bad_call(name: str) -> None:
    """The first call that no order of the calls explains."""
    assert unexplained(BAD[name], None, step) is not None


def test_notes_become_histories() -> None:
    """A call whose end was not noted is open; one that was not sent has not happened."""
    log = [
        {"call": "create", "number": 0, "key": "k", "start": 1.0, "digest": "A"},
        {"ended": 0, "outcome": "yes", "end": 2.0, "version": "a"},
        {"call": "put", "number": 1, "key": "k", "start": 3.0, "digest": "B", "expected": "a", "expected_digest": "A"},
        {"call": "put", "number": 2, "key": "k", "start": 3.0, "digest": "C", "expected": "a", "expected_digest": "A"},
        {"ended": 2, "outcome": "unsent", "end": 4.0},
        {"call": "get", "key": "k", "start": 5.0, "end": 6.0, "digest": "A", "version": "a"},
    ]
    expected = [
        op(1, 2, "create", "yes", "a"),
        op(3, math.inf, "put", "open", "b", over="a"),
        op(5, 6, "get", "yes", "a"),
    ]
    assert histories([log]) == {"k": expected}


# --- the verdict ----------------------------------------------------------------------------------------------------


def wrote(revision: int) -> list[Any]:
    """Return what a process notes of one write of a job's record that it is told has landed."""
    write_id, key = f"write-{revision}", "jobs/job/state.json"
    return [
        {"call": "put", "number": revision, "key": key, "start": 0.0, "revision": revision, "write_id": write_id},
        {"ended": revision, "outcome": "yes", "end": 1.0, "version": str(revision)},
        {"op": write_id, "kind": "progress", "job": "job", "start": 0.0},
        {"op_ended": write_id, "outcome": "ok", "end": 1.0},
    ]


def at_revision(revision: int) -> dict[str, JobState]:
    at = "2026-01-01T00:00:00+00:00"
    return {"job": JobState(job_id="job", status="pending", created_at=at, updated_at=at, revision=revision)}


def test_a_last_write_that_was_acknowledged_and_is_gone_is_a_lost_update() -> None:
    """No write follows it, so that no second write has its revision."""
    verdict = Verdict([[*wrote(1), *wrote(2)]])
    verdict.judge(at_revision(1))
    assert "job is at revision 1, and write-2 has made revision 2: a lost update." in verdict.broken


def test_a_revision_that_nobody_has_made_is_told() -> None:
    verdict = Verdict([[*wrote(1), *wrote(3)]])
    verdict.judge(at_revision(3))
    assert "job is at revision 3; no process has seen or written [2]." in verdict.broken


def test_a_job_is_not_found_only_before_its_registration_ended() -> None:
    """A storm finds by it that no reader checks replies."""
    write, ended, operation, acknowledged = wrote(1)
    defect = MUTATIONS["DynamoDB"]["no reader checks that a reply is whole"]
    reply = {"error": "JobNotFoundError", "message": "Job job not found."}
    for begun, is_explained in ((0.5, True), (2.0, False)):
        late = {"op": "late", "kind": "status", "job": "job", "start": begun, "target": "running"}
        refused = {"op_ended": "late", "outcome": "refused", "end": 3.0, **reply}
        verdict = Verdict([[write, ended, operation | {"kind": "register"}, acknowledged, late, refused]])
        verdict.judge(at_revision(1))
        found = " ".join(verdict.broken)
        assert ("was refused without a cause" not in found) == is_explained, found
        assert bool(re.search(defect.sentence, found, re.DOTALL)) != is_explained


# --- storms ---------------------------------------------------------------------------------------------------------

QUICK = 0.02


def test_a_storm_over_one_file_loses_nothing_and_fools_nobody(tmp_path: Path) -> None:
    """Processes at one SQLite file, killed in the middle of it."""
    counts = storm.over_a_file(Trial(tmp_path, seed=1, scale=QUICK))
    assert counts["acknowledged"] == counts["acknowledged and found"] > 0
    assert counts["histories checked"] > 0
    assert counts["processes killed"] > 0
    assert counts["caches equal to the registry"] >= 3  # one more for each process that was too fast for its kill


FAR = [
    pytest.param("Azure", marks=pytest.mark.azurite),
    pytest.param("DynamoDB", marks=pytest.mark.dynalite),
    pytest.param("S3", marks=pytest.mark.s3),
]


@pytest.mark.parametrize("backend", FAR)
def test_a_storm_on_a_bad_line_loses_nothing_and_fools_nobody(tmp_path: Path, backend: str) -> None:
    counts = storm.over(Trial(tmp_path, seed=1, scale=QUICK), backend)
    assert counts["acknowledged"] == counts["acknowledged and found"] > 0
    assert sum(counts[fault] for fault in FAULTS) > 0
    assert counts["caches equal to the registry"] >= 3  # one more for each process that was too fast for its kill
