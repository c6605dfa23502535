"""The pace of reads: tries and pauses of each, concurrency of all, and when the store counts as away."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mopsjobs.errors import StoreError, StoreUnavailableError
from mopsjobs.store import pacer
from mopsjobs.store.base import USUAL_WINDOW
from mopsjobs.store.network import BUDGET_SECONDS
from mopsjobs.store.pacer import MAX_TRIES, MAX_WINDOW, SILENT_SECONDS, ReadPacer

BUSY = StoreUnavailableError("503 ServerBusy.", throttled=True)
SILENT = StoreUnavailableError("No answer in time.", silent=True)
REFUSED = StoreUnavailableError("Connection refused.", sent=False)
BROKEN = StoreUnavailableError("The connection broke.")


class Server:
    """A server in simulated time."""

    def __init__(self, retry_after: float = 0.0) -> None:
        self.time = 0.0
        self.requests = 0
        self.pauses: list[float] = []
        self.pacer = ReadPacer(sleep=self._sleep, clock=lambda: self.time, retry_after=lambda error: retry_after)
        self.pacer.on_retry = lambda _reason, pause: self.pauses.append(pause)

    def _sleep(self, seconds: float) -> None:
        self.time += seconds

    def read(self, *failures: StoreError, seconds: float = 0.01) -> None:
        """Read a key whose first requests fail, and whose requests take so long."""
        todo = iter(failures)

        def attempt(_left: float) -> None:
            self.requests += 1
            self.time += seconds
            failure = next(todo, None)
            if failure is not None:
                raise failure

        self.pacer.read(attempt, _same, budget=BUDGET_SECONDS)

    def read_many(self, count: int, seconds: Callable[[int], float], refuses: Callable[[int], bool]) -> None:
        """Read keys; `seconds` and `refuses` say how the server treats a request if `window` of them are on the way."""
        for _ in range(count):
            window = self.pacer.window
            self.read(*([BUSY] * 3 if refuses(window) else []), seconds=seconds(window))


def _same(error: Exception) -> StoreError:
    assert isinstance(error, StoreError)
    return error


def never(_window: int) -> bool:
    return False


def test_a_read_is_tried_again_for_as_long_as_the_store_answers_others() -> None:
    """More often than a single read, and after longer pauses."""
    server = Server()
    with server.pacer.bulk():
        server.read()
        server.read(*[BUSY, BROKEN] * 5, SILENT)
    assert (server.requests, server.pacer.retries) == (13, 11)


def test_a_read_without_a_reply_is_given_up_sooner() -> None:
    """Each try takes 20 s."""
    server = Server()
    with server.pacer.bulk():
        server.read()
        with pytest.raises(StoreUnavailableError):
            server.read(*[SILENT] * 100)
    assert server.requests == 1 + MAX_TRIES // pacer.SILENT_TRIES


def test_a_reply_that_broke_off_late_is_requested_again() -> None:
    """A page of a listing may be the only reply for minutes on a thin line."""
    server = Server()
    with server.pacer.bulk():
        server.read()
        server.read(BROKEN, seconds=2 * SILENT_SECONDS)
    assert server.requests == 3


def test_a_server_that_refuses_all_requests_is_waited_for() -> None:
    server = Server()
    with server.pacer.bulk(), pytest.raises(StoreUnavailableError):
        server.read(*[BUSY] * 1000)
    last_request = 0.02  # seconds, at most
    assert SILENT_SECONDS - pacer.MAX_PAUSE <= server.time <= SILENT_SECONDS + last_request


@pytest.mark.parametrize("failure", [REFUSED, SILENT, BROKEN])
def test_a_store_that_never_answered_is_away_after_five_seconds(failure: StoreUnavailableError) -> None:
    server = Server()
    with server.pacer.bulk(), pytest.raises(StoreUnavailableError):
        server.read(*[failure] * 100)
    assert server.time < BUDGET_SECONDS


def test_a_store_that_has_answered_may_be_silent_for_longer() -> None:
    """It may not refuse connections for longer."""
    server = Server()
    with server.pacer.bulk():
        server.read()
        server.read(SILENT, seconds=SILENT_SECONDS / 2 - 1)
        with pytest.raises(StoreUnavailableError):
            server.read(*[REFUSED] * 100)
        begun = server.time
        with pytest.raises(StoreUnavailableError):
            server.read(*[SILENT] * 100, seconds=20.0)
    assert server.time - begun <= 2 * 20.0 + 1


def test_the_wait_that_the_server_asks_for_is_kept() -> None:
    """For as long as it counts as there."""
    server = Server(retry_after=20.0)
    with server.pacer.bulk():
        server.read(BUSY)
        assert server.pauses == [20.0]
        with pytest.raises(StoreUnavailableError):
            server.read(BUSY, BUSY)


@pytest.mark.parametrize("seconds", [0.03, 0.095, 0.3])
def test_reads_queue_for_a_second_at_most_at_a_serial_server(seconds: float) -> None:
    server = Server()
    with server.pacer.bulk():
        server.read(seconds=seconds)
        server.read_many(1000, lambda window: seconds * window, never)
    assert server.pacer.window * seconds <= max(pacer.QUEUE_SECONDS, 4 * seconds)
    assert server.pacer.window > 1


@pytest.mark.parametrize(("seconds", "window"), [(0.01, USUAL_WINDOW), (0.03, MAX_WINDOW), (1.5, MAX_WINDOW)])
def test_a_distant_server_gets_as_many_reads_at_once_as_help(seconds: float, window: int) -> None:
    server = Server()
    with server.pacer.bulk():
        server.read_many(1000, lambda _window: seconds, never)
    assert server.pacer.window == window


def test_fewer_reads_are_sent_at_once_while_most_are_refused() -> None:
    server = Server()
    with server.pacer.bulk():
        server.read_many(1000, lambda _window: 0.01, lambda window: window > 3)
        assert server.pacer.window <= 6
        server.read_many(2000, lambda _window: 0.01, never)
        assert server.pacer.window == USUAL_WINDOW


def test_reads_that_wait_end_when_the_sync_is_interrupted() -> None:
    """Ctrl-C does not wait for the pauses of retries."""
    server = Server(retry_after=20.0)
    with server.pacer.bulk():
        server.pacer.on_retry = lambda _reason, _pause: server.pacer.stop()
        with pytest.raises(StoreUnavailableError):
            server.read(BUSY, BUSY)
    assert server.time < 1
