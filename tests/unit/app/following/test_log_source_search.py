"""`read_logs` of several jobs for a Python program: lines come as data, page by page, in any thread."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from mopsjobs.app.following.log_source import LogRequest, read_logs
from mopsjobs.app.jobs.log_selection import LogLine, LogSelection
from mopsjobs.app.run.app import App
from support.cli import Clock, add
from support.events import Writer


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
