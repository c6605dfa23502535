"""`serve`: its first page, also against the SQL behind it, a search, and what fifty browsers that watch live cost."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import os
import random
import re
import sqlite3
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from unittest import mock

from bench import registry_data
from bench.listing import REGISTRY
from bench.machine import Setup
from bench.measure import progress
from bench.report import Line, at_most

BROWSERS = 50
WATCHED_SECONDS = 20.0
CHANGE_SECONDS = 1.0
"""Between two changes of the cache: a registry in which something happens all the time."""
LOOK_SECONDS = 4.0
"""As live.js: how often a browser looks at its page."""
HEADERS = {
    "Accept": "*/*",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Accept-Language": "en-GB,en;q=0.9",
    "Connection": "keep-alive",
    "Sec-Fetch-Dest": "empty",
    "Sec-Fetch-Mode": "cors",
    "Sec-Fetch-Site": "same-origin",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0"
    " Safari/537.36",
    "sec-ch-ua": '"Chromium";v="140", "Not=A?Brand";v="24"',
    "sec-ch-ua-mobile": "?0",
    "sec-ch-ua-platform": '"Linux"',
}
"""What Chromium sends with each request, and so a part of the traffic of a tab."""
QUERIES = ("", "?status=running", "?status=failed", "?sort=-duration", "?hours=48", "?owner=ada", "?page=2")
"""What the browsers watch: not all the same."""

SQL_RATIO = 1.5
"""The first page, as a multiple of its SQL."""

ROUNDS = 5
SEARCHES = ("job-", "epi", "sir", "ada", "a", "memory", "nothing-at-all")
"""Words in ids, labels and studies of all jobs; in owners, in most jobs, in errors, and in none."""

PAGES = {
    "first page, by the clock": ("/jobs?", ("",), 50.0),
    "search": ("/jobs?q=", SEARCHES, 150.0),
}
"""Paths, words of which the slowest counts, and goals in milliseconds."""

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
        progress(f"pages, {ROUNDS} rounds")
        slowest = {what: 1000 * max(_seconds(server, path, words)) for what, (path, words, _) in PAGES.items()}
        pages, queries = _first_page(server, cache)
        progress(f"{BROWSERS} browsers for {WATCHED_SECONDS:.0f} s")
        share, seen, hourly = _watched(server, cache)
        peak = server.peak_mb
    page_ms, sql_ms = (statistics.median(seconds) * 1000 for seconds in (pages, queries))
    ratio = statistics.median(page / query for page, query in zip(pages, queries, strict=True))
    what = f"serve: {BROWSERS} browsers, a change each {CHANGE_SECONDS:g} s, {jobs:,} cached"
    return [
        Line(f"serve: first page, {jobs:,} cached", f"{page_ms:.1f} ms", f"its SQL, {sql_ms:.1f} ms", ratio,
             goal=at_most(SQL_RATIO, ratio, " x")),
        *(
            Line(f"serve: {what}, {jobs:,} cached", f"{slowest[what]:.0f} ms", "", None, None,
                 at_most(limit, slowest[what], " ms"))
            for what, (_, _, limit) in PAGES.items()
        ),
        Line(f"{what}: processor", f"{share:.2f} cores", f"{seen} pages", None, goal=at_most(1.0, share, " cores")),
        Line(f"{what}: memory", f"{peak:.0f} MB", "", None, goal=at_most(200.0, peak, " MB")),
        Line(f"{what}: busiest tab", f"{hourly:.1f} MB/h", "both ways, after the first page", None,
             goal=at_most(3.0, hourly, " MB/h")),
    ]  # fmt: skip


def get(line: http.client.HTTPConnection, path: str) -> None:
    """Ask for a page, over a line that stays, as a browser's does."""
    line.request("GET", path)
    response = line.getresponse()
    body = response.read()
    if response.status != 200:
        raise RuntimeError(f"{path}: {response.status}\n{body.decode()[:2000]}")


def unseen_query(number: int) -> str:
    """Return a query that filters nothing, another for each number: no page is one that was made before."""
    return "&".join(["owner="] * (number + 1))


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


def _seconds(server: Server, path: str, words: Sequence[str]) -> list[float]:
    """Return seconds for a page with each word behind its path, the median of some."""
    seconds: dict[str, list[float]] = {word: [] for word in words}
    with contextlib.closing(server.connect()) as line:
        for number in range(ROUNDS):
            others = unseen_query(number)
            for word, times in seconds.items():
                begun = time.perf_counter()
                get(line, f"{path}{word}&{others}")
                times.append(time.perf_counter() - begun)
    return [statistics.median(times) for times in seconds.values()]


def _first_page(server: Server, cache: str) -> tuple[list[float], list[float]]:
    """Return seconds for the page, and for the statements behind it, in turn."""
    statements = _statements(cache)
    pages, queries = [], []
    with contextlib.closing(sqlite3.connect(cache)) as connection, contextlib.closing(server.connect()) as line:
        for number in range(4 * ROUNDS):
            begun = time.perf_counter()
            get(line, f"/jobs?{unseen_query(ROUNDS + number)}")
            between = time.perf_counter()
            for statement in statements:
                connection.execute(statement).fetchall()
            pages.append(between - begun)
            queries.append(time.perf_counter() - between)
    return pages, queries


def _statements(cache: str) -> list[str]:
    """Return the SQL of the first page, as SQLite gets it."""
    from mopsjobs.app.run.app import open_app
    from mopsjobs.console.printer import Printer
    from mopsjobs.web.server.pages import make_app
    from mopsjobs.web.server.security import own_names
    from mopsjobs.web.site import site
    from mopsjobs.web.site.background import ChangeSignal

    seen: list[str] = []
    open_to_read = site.open_to_read

    def open_traced(file: str, registry: str) -> sqlite3.Connection | None:
        if (connection := open_to_read(file, registry)) is not None:
            connection.set_trace_callback(seen.append)
        return connection

    app = open_app({"registry": REGISTRY, "cache": cache}, {"HOME": os.path.dirname(cache)}, Printer(None, None, {}))
    with mock.patch.object(site, "open_to_read", open_traced):
        client = make_app(site.Site(app, ChangeSignal()), own_names("localhost", ())).test_client()
        if client.get("/jobs").status_code != 200:
            raise RuntimeError("The first page is not answered.")
    statements = [text for text in seen if not text.startswith(("BEGIN", "ROLLBACK", "PRAGMA", "--"))]
    if not statements:
        raise RuntimeError("The first page reads the cache by another way than this benchmark traces.")
    return statements


def _watched(server: Server, cache: str) -> tuple[float, int, float]:
    """Return the share of a core that the server takes while browsers watch, their looks, and MB/h of the busiest."""
    end = time.monotonic() + WATCHED_SECONDS
    tabs = [Tab(server, f"/jobs{QUERIES[number % len(QUERIES)]}") for number in range(BROWSERS)]
    browsers = [threading.Thread(target=tab.watch, args=(end,)) for tab in tabs]
    before, begun = server.cpu_seconds, time.monotonic()
    for browser in browsers:
        browser.start()
    draw = random.Random(registry_data.SEED)
    with contextlib.closing(sqlite3.connect(cache, isolation_level=None)) as connection:
        running = {row[0] for row in connection.execute("SELECT job_id FROM job WHERE status = 'running'")}
        with contextlib.closing(server.connect()) as line:
            line.request("GET", "/jobs")  # a change of what is not shown would cost a tab nothing
            shown = re.findall('<tr data-key="([^"]+)"', line.getresponse().read().decode())
        while time.monotonic() < end:
            _progress(connection, draw.choice([job_id for job_id in shown if job_id in running] or sorted(running)))
            time.sleep(CHANGE_SECONDS)
    for browser in browsers:
        browser.join()
    if min(tab.looks for tab in tabs) < 2:
        raise RuntimeError("A browser saw nothing change.")
    seconds = time.monotonic() - begun
    hourly = max(tab.bytes for tab in tabs) / seconds * 3600 / 1e6
    return (server.cpu_seconds - before) / seconds, sum(tab.looks for tab in tabs), hourly


def _progress(connection: sqlite3.Connection, job_id: str) -> None:
    """Let a task of a running job end, as a sync would write it."""
    now = time.time()
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    connection.execute(
        "UPDATE job SET tasks_completed = tasks_completed + 1, changed_ts = ?1, heartbeat_ts = ?1, record ="
        " json_set(record, '$.tasks_completed', json_extract(record, '$.tasks_completed') + 1, '$.updated_at', ?2)"
        " WHERE job_id = ?3",
        (now, at, job_id),
    )


class Tab:
    """A tab of a browser that shows a page of jobs and follows it, as live.js does."""

    def __init__(self, server: Server, path: str) -> None:
        self._server = server
        self._path = path
        self._version = ""
        self.looks = 0
        self.bytes = 0
        """Sent and received since the page was there."""

    def watch(self, end: float) -> None:
        """Load the page, and follow it."""
        with contextlib.closing(self._server.connect()) as line:
            self._look(line)
            self.bytes = self.looks = 0
            while time.monotonic() < end:
                time.sleep(LOOK_SECONDS)
                self._look(line)

    def _look(self, line: http.client.HTTPConnection) -> None:
        headers = HEADERS | ({"If-None-Match": f'"{self._version}"'} if self._version else {})
        line.request("GET", self._path, headers=headers)
        response = line.getresponse()
        body = response.read()
        self.looks += 1
        self.bytes += len(body) + sum(len(name) + len(value) + 4 for name, value in response.getheaders()) + 19
        self.bytes += sum(len(name) + len(value) + 4 for name, value in headers.items()) + len(self._path) + 40
        if response.status == 304:
            self._version = response.headers["ETag"].strip('W/"')
            return
        if response.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        found = re.search(rb' data-version="([^"]+)"', body)
        if response.status != 200 or (self._version and not found):
            raise RuntimeError(f"{self._path}: {response.status}\n{body.decode()[:2000]}")
        self._version = "" if found is None else found[1].decode()
