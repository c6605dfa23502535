"""`read_logs` for a Python program: lines come as data, page by page, and nothing but warnings is printed."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest

from mopsjobs.app.following.log_source import LogLine, LogRequest, read_logs
from mopsjobs.app.jobs.log_selection import LogSelection
from mopsjobs.app.run.app import App
from mopsjobs.errors import EXIT_DONE, OptionError
from support.cli import Clock, add
from support.events import Writer

Read = Callable[..., tuple[int, list[LogLine]]]


@pytest.fixture
def read(app: App) -> Read:
    """Return a function that reads the lines of a request."""

    def read(request: LogRequest) -> tuple[int, list[LogLine]]:
        lines: list[LogLine] = []
        return read_logs(request, app, lambda _, some: lines.extend(some)), lines

    return read


@pytest.fixture
def write(app: App, clock: Clock) -> Writer:
    """Return a function that writes events of the job `a`, which runs."""
    add(app.registry, "a", "running")
    return Writer(app.store, clock, "a")


@pytest.mark.parametrize(
    ("request_", "texts"),
    [
        (LogRequest(["a"]), ["one", "two", "three"]),
        (LogRequest(["a"], pattern="t"), ["two", "three"]),
        (LogRequest(["a"], pattern="t", tail=1), ["three"]),
        (LogRequest(["a"], since=60), ["two", "three"]),
    ],
)
def test_lines_are_selected(read: Read, write: Writer, clock: Clock, request_: LogRequest, texts: list[str]) -> None:
    """By pattern, by number and by age, each with the task that wrote it."""
    write("one", task=0)
    clock.advance(minutes=5)
    write("two", "three", task=1)
    code, lines = read(request_)
    assert (code, [line.text for line in lines]) == (EXIT_DONE, texts)
    assert [line.task for line in lines][-1] == 1


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (LogRequest(["a"], tail=-1), "invalid tail '-1': expected 0 or more."),
        (LogRequest(["a"], follow=True, offline=True), "follow and offline contradict each other."),
    ],
)
def test_an_error_names_the_field_of_the_request(read: Read, request_: LogRequest, message: str) -> None:
    """A Python program has no flags."""
    with pytest.raises(OptionError) as caught:
        read(request_)
    assert str(caught.value) == message


def test_a_search_takes_the_memory_of_one_page(app: App, clock: Clock) -> None:
    """Whatever the number of lines: 20,000 lines of 1 kB, all of which match."""
    add(app.registry, "job", "running")
    write = Writer(app.store, clock)
    for _ in range(40):
        write(*["x" * 1000] * 500, task=1)
    counts: list[int] = []

    def show(_job_id: str, lines: Iterable[LogLine]) -> None:
        counts.append(sum(1 for _ in lines))

    request = LogRequest([], pattern="x$")
    read_logs(request._replace(pattern="nothing"), app, show)  # fills the cache
    tracemalloc.start()
    try:
        read_logs(request, app, show)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(counts) == 20_000
    assert peak < 8 * 2**20


def test_another_thread_searches_without_a_timer() -> None:
    """A signal can end a search in the main thread only."""
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(lambda: LogSelection(pattern="b+").has_match("abc")).result()
