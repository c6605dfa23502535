"""What pages ask to be read: in which order, how often, and what becomes of a failure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mopsjobs.errors import StoreUnavailableError
from mopsjobs.web.site.background import ChangeSignal
from mopsjobs.web.site.job_reads import FAILURES, MAX_WAITING, PAUSE_AFTER_PROBLEM_SECONDS, PAUSE_SECONDS, JobReads

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.cli import Cli, Clock


class _Read:
    """Notes which jobs were read."""

    def __init__(self) -> None:
        self.jobs: list[str] = []
        self.error: Exception | None = None
        self.takes: Callable[[], object] = lambda: None

    def __call__(self, job_id: str) -> None:
        self.jobs.append(job_id)
        self.takes()
        if self.error is not None:
            raise self.error


def _reads(cli: Cli, read: _Read) -> JobReads:
    return JobReads(cli.app(), ChangeSignal(), {FAILURES: read})


def test_jobs_are_read_once_and_in_order(cli: Cli) -> None:
    """However often pages ask meanwhile."""
    read = _Read()
    reads = _reads(cli, read)
    for job_id in ("a", "b", "a", "b"):
        assert reads.ask(FAILURES, job_id)[:2] == (True, None)
    assert [reads.run_next(0) for _ in range(3)] == [True, True, False]
    assert read.jobs == ["a", "b"]
    assert reads.ask(FAILURES, "a")[:2] == (False, None)


def test_a_job_is_read_again_after_a_pause(cli: Cli, clock: Clock) -> None:
    """A longer one after a failure, which pages show."""
    read = _Read()
    reads = _reads(cli, read)
    reads.ask(FAILURES, "a")
    reads.run_next(0)
    clock.advance(seconds=PAUSE_SECONDS)
    assert reads.ask(FAILURES, "a").is_waiting
    read.error = StoreUnavailableError("The line is down.")
    reads.run_next(0)
    clock.advance(seconds=PAUSE_AFTER_PROBLEM_SECONDS - 1)
    assert reads.ask(FAILURES, "a")[:2] == (False, "The line is down.")
    clock.advance(seconds=1)
    assert reads.ask(FAILURES, "a")[:2] == (True, "The line is down.")
    read.error = None
    reads.run_next(0)
    assert reads.ask(FAILURES, "a")[:2] == (False, None)


def test_a_costly_read_takes_a_twentieth_of_the_time(cli: Cli, clock: Clock) -> None:
    """Comparing the failures of a large job takes seconds, and a page of it may be open for days."""
    read = _Read()
    read.takes = lambda: clock.advance(seconds=10)
    reads = _reads(cli, read)
    for _ in range(1000):
        reads.ask(FAILURES, "a")
        reads.run_next(0)
        clock.advance(seconds=1)
    assert len(read.jobs) <= 1000 / 200


def test_an_unexpected_error_ends_nothing(cli: Cli) -> None:
    """It is shown, and the next job is read."""
    read = _Read()
    read.error = ZeroDivisionError("division by zero")
    reads = _reads(cli, read)
    reads.ask(FAILURES, "a")
    reads.run_next(0)
    assert reads.ask(FAILURES, "a").problem == "Unexpected: ZeroDivisionError: division by zero"


def test_only_some_jobs_wait(cli: Cli) -> None:
    """A flood of requests for other jobs leaves a bounded queue, and each page says that nothing is read for it."""
    reads = _reads(cli, _Read())
    states = [reads.ask(FAILURES, f"job-{number}") for number in range(MAX_WAITING + 5)]
    assert [state.is_waiting for state in states] == [True] * MAX_WAITING + [False] * 5


def test_a_read_counts_as_a_change(cli: Cli) -> None:
    """So open pages ask again."""
    changes = ChangeSignal()
    reads = JobReads(cli.app(), changes, {FAILURES: _Read()})
    reads.ask(FAILURES, "a")
    reads.run_next(0)
    assert changes.number == 1
