"""`read_logs` for a Python program: lines come as data, page by page, and nothing but warnings is printed."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest

from mopsjobs.app.following.log_source import LogLine, LogRequest, read_logs
from mopsjobs.app.jobs.log_selection import LogSelection
from mopsjobs.app.run.app import App
from mopsjobs.errors import EXIT_DONE, EXIT_JOB_FAILED, JobNotFoundError, OptionError, UsageError
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


def test_a_traceback_has_a_line_each(read: Read, write: Writer) -> None:
    """The error of a task is among the lines of the job."""
    write("", kind="task_failed", task=3, error={"type": "E", "message": "m", "traceback": "Traceback\n  here\nE: m"})
    assert read(LogRequest(["a"]))[1] == [LogLine("Traceback", 3), LogLine("  here", 3), LogLine("E: m", 3)]


def test_the_end_of_a_followed_job_is_the_exit_code(app: App, read: Read, write: Writer) -> None:
    """The same code as that of `wait`."""
    write("one")
    app.registry.update_status("a", "failed")
    assert read(LogRequest(["a"], follow=True)) == (EXIT_JOB_FAILED, [LogLine("one")])


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


def test_an_invalid_expression_is_refused(read: Read) -> None:
    """Before any source is read."""
    with pytest.raises(UsageError, match=r"invalid regular expression '\('"):
        read(LogRequest(["a"], pattern="("))


def test_an_unknown_job_is_an_error(read: Read, write: Writer) -> None:
    """It is never a job without lines."""
    with pytest.raises(JobNotFoundError):
        read(LogRequest(["none"]))


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
