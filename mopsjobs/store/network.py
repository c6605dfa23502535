"""Patience with a store across a network, and why one does not answer: what the backends that have one share.

A command that a person waits for has to fail within five seconds when the network is gone.
"""

from __future__ import annotations

import socket
import ssl
import threading
import urllib.request
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from mopsjobs.errors import MopsJobsError, StoreUnavailableError
from mopsjobs.utils.backoff import NO_JITTER, Backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


BUDGET_SECONDS = 4.5
"""What one read may take in all while the store does not answer: five seconds, less the start of the program."""


POOL_CONNECTIONS = 40
"""Connections kept for reuse: for the 32 threads that fetch in a sync, and those that list ahead of them."""


READ_ATTEMPTS = 3
"""Attempts at one read, as far as the budget allows them."""


FIRST_PAUSE = 0.1
"""Seconds before the second attempt at a read."""


MAX_PAUSE = 0.4
"""Seconds before the third one."""


_PATIENCE_SECONDS = 1.5  # less than this left of the budget is not worth another attempt


_CAUSES: tuple[tuple[type[BaseException], str], ...] = (
    (socket.gaierror, "its name does not resolve"),
    (ssl.SSLCertVerificationError, "its TLS certificate is not trusted"),
    (ssl.SSLError, "TLS could not be agreed on"),
    (TimeoutError, "no answer in time"),
    (ConnectionRefusedError, "connection refused"),
)


T = TypeVar("T")


def read_with_retries(
    attempt: Callable[[float], T],
    explain: Callable[[Exception], MopsJobsError],
    *,
    sleep: Callable[[float], None],
    clock: Callable[[], float],
    budget: float = BUDGET_SECONDS,
    asked_pause: Callable[[Exception], float] = lambda error: 0.0,
) -> T:
    """Call `attempt` with the seconds left until it succeeds, a few times, within the budget.

    Args:
        attempt: one request that only reads.
        explain: the error of the store's contract that an error amounts to.
        sleep: waits that many seconds.
        clock: seconds from any start, never going back.
        budget: seconds for all of it.
        asked_pause: seconds for which the reply behind an error asks us to stay away.

    Raises:
        MopsJobsError: as `explain` has it.
    """
    end = clock() + budget
    backoff = Backoff(FIRST_PAUSE, MAX_PAUSE, factor=4.0, jitter=NO_JITTER)
    while True:
        try:
            return attempt(end - clock())
        except Exception as error:  # noqa: BLE001 - no error of an SDK, of whatever kind, leaves the store
            failure = explain(error)
            pause = backoff.next_delay()
            if not isinstance(failure, StoreUnavailableError) or backoff.failures == READ_ATTEMPTS:
                raise failure from None
            pause = max(pause, asked_pause(error))
            if clock() + pause + _PATIENCE_SECONDS > end:
                raise failure from None
        sleep(pause)


def name_server_answers(url: str, seconds: float) -> bool:
    """Whether the name of the URL's host can be asked for in time. No socket timeout covers that; it may take 30 s.

    What is found is thrown away, an error too: the request itself will meet it again, and tell it properly.
    """
    if urllib.request.getproxies():
        return True
    parts = urlsplit(url)
    thread = threading.Thread(target=_resolve, args=(parts.hostname, parts.port), daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def _resolve(host: str | None, port: int | None) -> None:
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return


def unavailable(error: Exception, location: str, silences: tuple[type[BaseException], ...]) -> StoreUnavailableError:
    """The outage that `error` amounts to. `silences` are what a library raises for it, besides TimeoutError."""
    each = list(chain(error))
    silent = any(isinstance(one, (TimeoutError, *silences)) for one in each)
    kinds = {type(one) for one in each}
    return StoreUnavailableError(
        f"Cannot reach {location}: {_cause(each, silent=silent)}.",
        sent=not kinds & {ConnectionRefusedError, socket.gaierror},
        silent=silent,
    )


def _cause(errors: list[BaseException], *, silent: bool) -> str:
    """Why there was no reply, in a few words of ours."""
    for kind, words in _CAUSES:
        if any(isinstance(each, kind) for each in errors) or (silent and kind is TimeoutError):
            return words
    named = (each.strerror for each in errors if isinstance(each, OSError) and not isinstance(each, ConnectionError))
    return next((words.lower() for words in named if words), "the connection broke")


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and everything it wraps. Each library on the way hides its cause in a place of its own."""
    todo: list[object] = [error]
    seen: set[int] = set()
    while todo and len(seen) < 32:
        each = todo.pop()
        if not isinstance(each, BaseException) or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        inner = (getattr(each, name, None) for name in ("reason", "inner_exception", "__cause__", "__context__"))
        todo.extend([*each.args, *inner])
