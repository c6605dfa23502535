"""The lines of a task that are kept: the first as they come, the last at its end, and how many lie between."""

from __future__ import annotations

from pathlib import Path

import pytest

from mopsjobs.events.format import parse_chunk
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.runner.pools.process import KEPT_BYTES, LATER, MAX_CHARACTERS, MAX_LINE_BYTES, LogLines
from support.cli import LineStore
from support.runs import CHATTY_LINES, CHATTY_MODEL, Given, all_of, code, pool_of, study, until, work

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


def test_each_task_has_limits_of_its_own(lines: LogLines, kept: Kept) -> None:
    """And so has what the worker prints before its first task. A mark ends a line also without its end."""
    lines.feed(_numbers(0, 2000) + b"tail\x1e7\n" + _numbers(0, 2000) + b"\x1e8\nonly\n")
    lines.end()
    assert [sum(task == one for task, _ in kept) for one in (None, 7, 8)] == [1002, 1002, 1]
    assert kept[1001] == (None, "tail")


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


def test_a_model_that_prints_much_fills_nothing(
    given: Given, line: LineStore, registry: JobRegistry, model: Path, tmp_path: Path
) -> None:
    """20,000 lines of each task: about a thousand events, and the traceback of the one that fails."""
    code(model, CHATTY_MODEL)
    given([{"x": number, "fail": number == 0} for number in range(8)])
    assert work(line, registry, tmp_path / "job")[0].status == "partial"
    events = [event for entry in line.scan("events/") for event in parse_chunk(entry.value or b"")]
    for task in range(8):
        assert [one["text"] for one in events if one["kind"] == "log" and one["task"] == task] == CHATTY_LINES
    (failure,) = [number for number, one in enumerate(events) if one["kind"] == "task_failed"]
    assert "raise ValueError" in str(events[failure]["error"])
    last = [number for number, one in enumerate(events) if one["kind"] == "log" and one["task"] == 0][-1]
    assert last < failure


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
