"""The limit of memory of a task, with real processes: one that exceeds it ends as `oom`, and no other is harmed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.ledger.attempt import Outcome
from mopsjobs.runner.pools.base import TaskResult
from mopsjobs.utils import measurement
from support.runs import HOG, MIB, all_of, code, ends, final, pool_of, study, until

Seen = Callable[[int, int], bool]
"""Whether a look has seen what a test waits for: by the number of processes, and their memory."""


@pytest.fixture
def hog(tmp_path: Path) -> Path:
    """Return a model that has as much memory as its parameters say."""
    return code(tmp_path / "hog", HOG)


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """Return the file in which the model notes its calls."""
    return tmp_path / "calls"


@pytest.fixture
def gate_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Seen], str]:
    """Return a file that appears once a look has seen what the test waits for, and allowed it."""

    def after(seen: Seen) -> str:
        look, gate = measurement.tree_memory, tmp_path / "gate"
        allowed = [0]

        def counted(tree: list[int], limit: int) -> int:
            memory = look(tree, limit)
            allowed[0] += seen(len(tree), memory) and memory <= limit
            if allowed[0] == 2:  # after the second look, the first one has had its effect
                gate.touch()
            return memory

        monkeypatch.setattr(measurement, "tree_memory", counted)
        return str(gate)

    return after


def _sets(calls: Path, *sets: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"x": number, "calls": str(calls), **one} for number, one in enumerate(sets)]


def _called(calls: Path) -> list[int]:
    return [int(line.split()[0]) for line in calls.read_text().splitlines()]


def _shown(results: list[TaskResult]) -> list[tuple[int, str, int, bool]]:
    return [(one.position, str(one.outcome), one.attempt, one.is_final) for one in results]


def test_a_hog_ends_as_oom_and_its_neighbours_are_unharmed(
    hog: Path, calls: Path, gate_after: Callable[[Seen], str]
) -> None:
    """Neither the one beside it, which has 100 MiB, nor those behind it begin twice."""
    gate = gate_after(lambda _processes, memory: 100 * MIB < memory < 150 * MIB)
    sets = _sets(calls, {"bytes": 300 * MIB, "gate": "/never"}, {"bytes": 100 * MIB, "gate": gate}, {}, {}, {})
    finished = all_of(pool_of(hog, 2, memory=200 * MIB), sets)
    assert [str(one.outcome) for one in finished] == ["oom", *["succeeded"] * 4]
    assert finished[0].error == {"type": "MemoryLimit", "message": "it used more memory than its limit of 200MiB"}
    assert (finished[0].usage.max_rss_bytes or 0) > 200 * MIB
    assert sorted(_called(calls)) == [0, 1, 2, 3, 4]


def test_the_second_attempt_has_twice_the_memory(hog: Path, calls: Path, gate_after: Callable[[Seen], str]) -> None:
    """It succeeds then. A larger one ends as `oom` at the doubled limit, and is tried no more than was asked for."""
    gate = gate_after(lambda _processes, memory: memory > 300 * MIB)
    sets = _sets(calls, {"bytes": 300 * MIB, "gate": gate}, {"bytes": 500 * MIB, "gate": "/never"})
    results = list(ends(pool_of(hog, 1, memory=200 * MIB, retries=1, retry_on="oom"), sets))
    assert _shown(results) == [
        (0, "oom", 1, False),
        (0, "succeeded", 2, True),
        (1, "oom", 1, False),
        (1, "oom", 2, True),
    ]
    assert (results[-1].error or {})["message"].endswith("its limit of 400MiB")
    assert results[1].outputs is not None
    assert json.loads(results[1].outputs["result.json"])["size"] == 300 * MIB


def test_what_an_earlier_task_left_is_not_blamed_on_the_next(
    hog: Path, calls: Path, gate_after: Callable[[Seen], str]
) -> None:
    """The second task exceeds the limit only with what the first one kept. It succeeds in a process of its own."""
    gate = gate_after(lambda _processes, memory: 100 * MIB < memory < 140 * MIB)
    sets = _sets(calls, {"bytes": 150 * MIB, "keep": True}, {"bytes": 100 * MIB, "gate": gate}, {})
    results = list(ends(pool_of(hog, 1, memory=200 * MIB), sets))
    assert _shown(results) == [(number, "succeeded", 1, True) for number in range(3)]
    assert _called(calls) == [0, 1, 1, 2]


@pytest.mark.parametrize(("memory", "ahead"), [(200 * MIB, 1), (None, 2)])
def test_with_a_limit_a_worker_has_one_task_at_a_time(
    hog: Path, calls: Path, tmp_path: Path, memory: int | None, ahead: int
) -> None:
    """Else it could have begun the next one before its answer was read, and the wrong task would be blamed."""
    gate = tmp_path / "gate"
    pool = pool_of(hog, 1, memory=memory)
    sets = _sets(calls, *[{"gate": str(gate)}] * 3)
    with contextlib.closing(pool.run(enumerate(study(sets).tasks()), wake_seconds=0.01)) as running:
        until(lambda: next(running) is None and calls.exists(), "a task at work")
        assert [len(worker.tasks) for worker in pool._workers] == [ahead]
        gate.touch()
        assert len(list(final(running))) == 3


def test_processes_that_a_task_starts_count_for_it(hog: Path, calls: Path) -> None:
    finished = all_of(pool_of(hog, 2, memory=200 * MIB), _sets(calls, {"child": 300 * MIB}, {}))
    assert [one.outcome for one in finished] == [Outcome.OOM, Outcome.SUCCEEDED]


def test_memory_that_forked_processes_share_counts_once(
    hog: Path, calls: Path, gate_after: Callable[[Seen], str]
) -> None:
    """Five processes with the same 100 MiB are not 500 MiB."""
    gate = gate_after(lambda processes, _memory: processes == 5)
    (one,) = all_of(pool_of(hog, 1, memory=250 * MIB), _sets(calls, {"fork": 100 * MIB, "gate": gate}))
    assert one.outcome == Outcome.SUCCEEDED
    assert Path(gate).exists()


def test_the_doubled_limit_stays_within_the_machine(hog: Path, calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that cannot have more is not tried again: it would end in the same way."""
    monkeypatch.setattr(measurement, "memory_size", lambda: 399 * MIB)
    sets = _sets(calls, {"bytes": 300 * MIB, "gate": "/never"})
    results = list(ends(pool_of(hog, 1, memory=200 * MIB, retries=5, retry_on="oom"), sets))
    assert _shown(results) == [(0, "oom", 1, True)]
