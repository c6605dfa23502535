"""The lines of a task that are kept: the first as they come, the last at its end, and how many lie between."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.ledger.attempt import Outcome
from mopsjobs.runner.pools.base import TaskResult
from mopsjobs.runner.pools.process import KEPT_BYTES, LATER, MAX_CHARACTERS, MAX_LINE_BYTES, LogLines
from mopsjobs.utils import measurement
from support.runs import HOG, MIB, all_of, code, ends, final, pool_of, study, until

Kept = list[tuple[int | None, str]]


@pytest.fixture
def kept() -> Kept:
    """Return the lines that `lines` keeps, each with its task."""
    return []


@pytest.fixture
def lines(kept: Kept) -> LogLines:
    """Return a reader of lines."""
    return LogLines(lambda task, line: kept.append((task, line)))


def _numbers(first: int, last: int) -> bytes:
    return b"".join(b"%d\n" % number for number in range(first, last))


def _texts(first: int, last: int) -> list[str]:
    return [str(number) for number in range(first, last)]


def test_the_first_lines_come_at_once(lines: LogLines, kept: Kept) -> None:
    """Those after them wait for the end of the task, and a line says so."""
    lines.feed(b"\x1e7\n" + _numbers(0, 700))
    assert [line for _, line in kept] == [*_texts(0, 500), LATER]
    lines.end_task(7)
    assert [line for _, line in kept] == [*_texts(0, 500), LATER, *_texts(500, 700)]


def test_the_end_of_a_task_does_not_end_the_next(lines: LogLines, kept: Kept) -> None:
    """A worker begins its next task before the runner has read its answer to the one before."""
    lines.feed(b"\x1e7\na\n\x1e8\n" + _numbers(0, 1500))
    lines.end_task(7)
    assert len(kept) == 502
    lines.feed(_numbers(1500, 2000))
    lines.end_task(8)
    assert kept[502] == (8, "… 1,000 lines are left out")


@pytest.mark.parametrize(
    ("count", "marks"),
    [(500, []), (501, [LATER]), (1000, [LATER]), (1001, [LATER, "… 1 line is left out"])],
)
def test_a_mark_says_how_many_are_left_out(lines: LogLines, kept: Kept, count: int, marks: list[str]) -> None:
    """At their place, and only if there are any."""
    lines.feed(_numbers(0, count))
    lines.end()
    assert [line for _, line in kept[500 : 500 + len(marks)]] == marks
    assert [line for _, line in kept if line not in marks] == [*_texts(0, 500), *_texts(max(500, count - 500), count)]


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_any_pieces_give_the_same_lines(size: int) -> None:
    data = "ä\r\n\nb\x1e3\nc\x1ed\n\x1e4\n\x1e\n".encode() + b"\xff\n" + b"\x1e" + b"9" * 5000 + b"\n" + b"end"
    kept: Kept = []
    lines = LogLines(lambda task, line: kept.append((task, line)))
    for start in range(0, len(data), size):
        lines.feed(data[start : start + size])
    lines.end()
    assert kept == [
        (None, "ä"), (None, "b"), (3, "c\x1ed"), (4, "\x1e"), (4, "\ufffd"), (4, "\x1e" + "9" * 5000), (4, "end"),
    ]  # fmt: skip


def test_bytes_are_limited_as_lines_are(lines: LogLines, kept: Kept) -> None:
    """Up to 128 KiB of the first lines and as much of the last, whatever their length."""
    for number in range(1000):
        lines.feed(b"%05d" % number + b"x" * 5000 + b"\n")
    lines.end()
    first = kept.index((None, LATER))
    count = KEPT_BYTES // 5005
    assert [line[:5] for _, line in kept[:first]] == [f"{number:05}" for number in range(count)]
    assert kept[first + 1] == (None, f"… {1000 - 2 * count} lines are left out")
    assert [line[:5] for _, line in kept[first + 2 :]] == [f"{number:05}" for number in range(1000 - count, 1000)]


def test_a_line_without_end_is_cut_and_takes_no_memory(lines: LogLines, kept: Kept) -> None:
    """The mark at its end still counts."""
    for _ in range(100):
        lines.feed(b"y" * 100_000)
        assert len(lines._partial) <= 2 * MAX_LINE_BYTES
    lines.feed(b"\x1e5\nnext\n")
    assert kept == [(None, "y" * MAX_CHARACTERS), (5, "next")]


def test_a_task_that_is_stopped_keeps_its_last_lines(tmp_path: Path) -> None:
    """As far as the runner has read them; so does one whose worker dies."""
    source = "import os, time\ndef simulate(params, seed):\n    for n in range(600):\n        print(n, flush=True)\n"
    kept: Kept = []
    dies = pool_of(code(tmp_path / "a", source + "    os._exit(3)\n"), 1, on_log=lambda *one: kept.append(one))
    all_of(dies, [{"x": 0}])
    assert [line for _, line in kept] == 2 * [*_texts(0, 500), LATER, *_texts(500, 600)]
    kept.clear()
    hangs = pool_of(code(tmp_path / "b", source + "    time.sleep(600)\n"), 1, on_log=lambda *one: kept.append(one))
    running = hangs.run(enumerate(study([{"x": 0}]).tasks()))
    until(lambda: next(running, None) is None and len(hangs._workers[0].log_lines._tail) == 100, "its lines")
    running.close()
    assert [line for _, line in kept] == [*_texts(0, 500), LATER, *_texts(500, 600)]


# --- the limit of memory, with real processes ------------------------------------------------------------------------

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
