"""`serve`: its first page against the SQL behind it, and what fifty browsers that watch live cost its process."""

from __future__ import annotations

import contextlib
import http.client
import os
import sqlite3
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from bench import registry_data
from bench.listing import REGISTRY
from bench.machine import Setup
from bench.measure import progress
from bench.report import Line, at_most

BROWSERS = 50
WATCHED_SECONDS = 20.0
CHANGE_SECONDS = 1.0
"""Between two changes of the cache: a registry in which something happens all the time."""
LOOK_SECONDS = 2.0
"""As live.js: a browser looks at its page again after a change, at most so often."""
QUERIES = ("", "?status=running", "?status=failed", "?sort=-duration", "?hours=48", "?owner=ada", "?page=2")
"""What the browsers watch: not all the same."""

ROUNDS = 20

LARGE = 10
"""Times `setup.jobs`: a page is made for a cache that is not small."""


class Server(NamedTuple):
    process: subprocess.Popen[str]
    port: int

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    @property
    def cpu_seconds(self) -> float:
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def peak_mb(self) -> float:
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024 / 1e6


def run(setup: Setup) -> list[Line]:
    """Measure over ten times `setup.jobs` cached jobs."""
    jobs = LARGE * setup.jobs
    progress(f"filling a cache with {jobs:,} jobs")
    cache = str(setup.directory / "serving.db")
    registry_data.fill_cache(setup.directory / "serving.db", REGISTRY, jobs)
    with serving(setup, cache) as server:
        progress(f"the first page, {ROUNDS} rounds")
        page, sql = _first_page(server, cache)
        progress(f"{BROWSERS} browsers for {WATCHED_SECONDS:.0f} s")
        share, seen = _watched(server, cache)
        peak = server.peak_mb
    page_ms, sql_ms = (statistics.median(samples) * 1000 for samples in (page, sql))
    ratio = statistics.median(mine / theirs for mine, theirs in zip(page, sql, strict=True))
    what = f"serve: {BROWSERS} browsers, a change each {CHANGE_SECONDS:g} s, {jobs:,} cached"
    return [
        Line(
            f"serve: first page, {jobs:,} cached",
            f"{page_ms:.1f} ms",
            f"its SQL, {sql_ms:.1f} ms",
            ratio,
            goal=at_most(1.5, ratio, " x"),
        ),
        Line(f"{what}: processor", f"{share:.2f} cores", f"{seen} pages", None, goal=at_most(1.0, share, " cores")),
        Line(f"{what}: memory", f"{peak:.0f} MB", "", None, goal=at_most(200.0, peak, " MB")),
    ]


def _get(line: http.client.HTTPConnection, path: str) -> None:
    """Ask for a page, over a line that stays, as a browser's does."""
    line.request("GET", path)
    response = line.getresponse()
    body = response.read()
    if response.status != 200:
        raise RuntimeError(f"{path}: {response.status}\n{body.decode()[:2000]}")


@contextlib.contextmanager
def serving(setup: Setup, cache: str) -> Iterator[Server]:
    words = ("serve", "--port", "0", "--offline", "--registry", REGISTRY, "--cache", cache)
    command, env = setup.command(*words)
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip().rstrip("/")
            if not url:
                raise RuntimeError("The server did not start.")
            yield Server(process, int(url.rpartition(":")[2]))
        finally:
            process.terminate()


def _first_page(server: Server, cache: str) -> tuple[list[float], list[float]]:
    """Return seconds for the page, and for the statements behind it, in turn. No page is one that was made before."""
    statements = _statements(cache)
    pages, queries = [], []
    with contextlib.closing(sqlite3.connect(cache)) as connection, contextlib.closing(server.connect()) as line:
        for number in range(ROUNDS + 2):
            begun = time.perf_counter()
            _get(line, "/jobs?" + "&".join(["q="] * (number + 1)))
            between = time.perf_counter()
            for statement in statements:
                connection.execute(statement).fetchall()
            if number >= 2:
                pages.append(between - begun)
                queries.append(time.perf_counter() - between)
    return pages, queries


def _statements(cache: str) -> list[str]:
    """Return the SQL of the first page, as SQLite gets it."""
    from mopsjobs.cache.queries import filters, overview
    from mopsjobs.cache.queries import jobs as job_queries
    from mopsjobs.cache.queries import statistics as sums
    from mopsjobs.web.jobs_page import RECENT_HOURS, SHOWN_ROWS
    from mopsjobs.web.query_params import PAGE_SIZE

    seen: list[str] = []
    now = time.time()
    with contextlib.closing(sqlite3.connect(cache)) as connection:
        connection.set_trace_callback(seen.append)
        everything = filters.Filter()
        sums.by_status(connection, everything)
        overview.open_failures(connection, filters.Filter(since=now - RECENT_HOURS * 3600))
        overview.active_jobs(connection, everything, now)
        ids: list[str] = []
        for phase in filters.PHASES:
            order, limit = overview.order_of_phase(phase, now), SHOWN_ROWS.get(phase, PAGE_SIZE)
            chosen = overview.in_phase(everything, phase)
            page = job_queries.page_of_jobs(connection, chosen, order=order, limit=limit, offset=0, now=now)
            ids += [str(job["job_id"]) for job in page]
        overview.resumed_as(connection, ids)
    return seen


def _watched(server: Server, cache: str) -> tuple[float, int]:
    """Return the share of a core that the server takes while browsers watch, and how many pages they got."""
    end = time.monotonic() + WATCHED_SECONDS
    counts = [0] * BROWSERS
    browsers = [threading.Thread(target=_browse, args=(server, number, end, counts)) for number in range(BROWSERS)]
    before, begun = server.cpu_seconds, time.monotonic()
    for browser in browsers:
        browser.start()
    with contextlib.closing(sqlite3.connect(cache, isolation_level=None)) as connection:
        while time.monotonic() < end:
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('bench', ?)", (str(time.monotonic()),))
            time.sleep(CHANGE_SECONDS)
    for browser in browsers:
        browser.join()
    if min(counts) < 2:
        raise RuntimeError("A browser saw nothing change.")
    return (server.cpu_seconds - before) / (time.monotonic() - begun), sum(counts)


def _browse(server: Server, number: int, end: float, counts: list[int]) -> None:
    path = f"/jobs{QUERIES[number % len(QUERIES)]}"
    looked = 0.0
    with contextlib.closing(server.connect()) as stream, contextlib.closing(server.connect()) as line:
        stream.request("GET", "/live")
        response = stream.getresponse()
        while time.monotonic() < end:
            if response.readline().startswith(b"event: change") and time.monotonic() - looked >= LOOK_SECONDS:
                _get(line, path)
                looked = time.monotonic()
                counts[number] += 1
