"""Further attempts by the cause of an end, with real processes of the pool of this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.runner.pools.base import TaskResult
from support.runs import calls, code, ends, pool_of, sets_of, study, until

FLAKY = """
import os, signal, time

def simulate(params, seed):
    with open(params["calls"], "a") as file:
        file.write("%s %s\\n" % (params["x"], os.getpid()))
    with open(params["calls"]) as file:
        calls = sum(line.startswith("%s " % params["x"]) for line in file)
    if calls <= params.get("times", 0):
        if params["how"] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if params["how"] == "hang":
            time.sleep(600)
        raise {"ConnectionError": ConnectionError, "ValueError": ValueError, "MemoryError": MemoryError}[params["how"]]
    return calls
"""


@pytest.fixture
def flaky(tmp_path: Path) -> Path:
    """Return a model that fails as often as its parameters say, and how."""
    return code(tmp_path / "flaky", FLAKY)


def _attempts(results: Iterator[TaskResult]) -> list[tuple[int, str, bool]]:
    return [(one.attempt, str(one.outcome), one.is_final) for one in results]


@pytest.mark.parametrize(
    ("how", "options", "expected"),
    [
        ("die", {}, [(1, "died", False), (2, "died", True)]),
        ("die", {"retries": 0}, [(1, "died", True)]),
        ("die", {"retries": 3}, [(1, "died", False), (2, "died", False), (3, "succeeded", True)]),
        ("die", {"retry_on": "timeout"}, [(1, "died", True)]),
        ("ValueError", {"retries": 9}, [(1, "failed", True)]),
        ("ValueError", {"retries": 9, "retry_on": "died,oom,timeout,error:TypeError"}, [(1, "failed", True)]),
        ("MemoryError", {}, [(1, "oom", True)]),
        (
            "MemoryError",
            {"retries": 2, "retry_on": "oom"},
            [(1, "oom", False), (2, "oom", False), (3, "succeeded", True)],
        ),
    ],
)
def test_a_task_is_tried_again_only_after_the_causes_asked_for(
    flaky: Path, tmp_path: Path, how: str, options: dict[str, Any], expected: list[tuple[int, str, bool]]
) -> None:
    """By default twice if its worker dies, and never after an error whose type is not named."""
    noted = tmp_path / "calls"
    sets = sets_of(1, calls=str(noted), how=how, times=2)
    assert _attempts(ends(pool_of(flaky, 1, **options), sets)) == expected
    assert calls(noted) == {0: len(expected)}


def test_a_task_that_took_too_long_is_tried_again_if_asked_for(flaky: Path, tmp_path: Path) -> None:
    noted = tmp_path / "calls"
    passed = [0.0]

    def clock() -> float:
        passed[0] += calls(noted) == {0: 1}
        return passed[0]

    pool = pool_of(flaky, 1, timeout=5, retry_on="timeout", clock=clock)
    results = ends(pool, sets_of(1, calls=str(noted), how="hang", times=1))
    assert _attempts(results) == [(1, "timeout", False), (2, "succeeded", True)]


def test_an_error_is_tried_again_after_a_pause_in_which_others_run(flaky: Path, tmp_path: Path) -> None:
    """Of one second, then two. Only the clock of the pool ends a pause."""
    noted = tmp_path / "calls"
    now = [0.0]
    sets = sets_of(4, calls=str(noted), how="ConnectionError", times=0)
    sets[0]["times"] = 2
    pool = pool_of(flaky, 1, retries=2, retry_on="error:ConnectionError", clock=lambda: now[0])
    with contextlib.closing(pool.run(enumerate(study(sets).tasks()), wake_seconds=0.01)) as running:
        assert [(one.position, one.attempt) for one in _next_results(running, 4)] == [(0, 1), (1, 1), (2, 1), (3, 1)]
        for attempt, pause in ((2, 1.0), (3, 2.0)):
            now[0] += pause - 0.01
            assert not [one for one in _some(running, 10) if one is not None]
            now[0] += 0.02
            (result,) = _next_results(running, 1)
            assert (result.position, result.attempt) == (0, attempt)
        assert result.error is None
        assert next(running, None) is None


def _some(running: Iterator[TaskResult | None], count: int) -> list[TaskResult | None]:
    return [next(running) for _ in range(count)]


def _next_results(running: Iterator[TaskResult | None], count: int) -> list[TaskResult]:
    found: list[TaskResult] = []

    def step() -> bool:
        one = next(running)
        found.extend([] if one is None else [one])
        return len(found) == count

    until(step, "a result")
    return found
