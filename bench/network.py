"""Syncs under bad conditions: runs needed, time, and rows after each run, beside the physical limit of the line.

Servers refuse requests, take one at a time, or never send one record. Lines break, stall or are thin. An Azurite was
filled just before. The limit is the time that any client needs: bytes / bandwidth, requests x time, and at least the
time of the same sync without faults. If the limit would be above `Setup.max_seconds`, there are fewer records.

An Azurite is slower right after many writes than later. There the limit is the time of the fastest plain HTTP reader.
Each reads a new server that was filled in the same way.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench import azurite, measure, peers, proxy, registry_data
from bench.conditions import POISONS, Conditions, Traffic, imposed
from bench.machine import Setup
from bench.report import Goal, Line

MAX_RUNS = 5
"""Syncs until all is mirrored. Further ones are not tried."""

GOAL_RATIO, GOAL_SECONDS = 1.5, 10.0
"""Goal: at most this multiple of the limit, and these seconds more."""

PARALLEL_READS = 32
"""Concurrent requests of a client, where a condition makes each of them wait."""

COMPLETE, WITH_PROBLEMS = 0, 7
"""Exit codes of a sync that reached the end."""

_FOREIGN_BYTES = 2000
_OWN_BYTES = 1500
"""About what a record takes on the line, to choose the number of records. The limit is calculated from what passed."""


class Case(NamedTuple):
    """A condition."""

    name: str
    conditions: Conditions = Conditions()
    delay: float = 0.0
    """Seconds that each reply takes longer."""
    bits_per_second: float = 0.0
    """What the line carries in each direction; 0 for any number."""

    def limit(self, traffic: Traffic, seconds: float) -> float:
        """Return the seconds that any client needs.

        Args:
            traffic: of a sync without faults.
            seconds: what that sync takes.
        """
        imposed, requests = self.conditions, traffic.requests
        waiting = requests * (self.delay + imposed.busy * imposed.retry_after) / PARALLEL_READS
        bits = 8 * max(traffic.request_bytes, traffic.reply_bytes)
        on_the_line = bits / self.bits_per_second if self.bits_per_second else 0.0
        return max(seconds, requests * imposed.serial_seconds, waiting, on_the_line) + imposed.stall_seconds

    def most_records(self, seconds: float, *, ours: bool) -> int:
        """Return the number of records for which the limit is about these seconds, or a number without bound."""
        size = _OWN_BYTES if ours else _FOREIGN_BYTES
        each = 8 * size / self.bits_per_second if self.bits_per_second else 0.0
        if not ours:
            each += self.conditions.serial_seconds + self.delay / PARALLEL_READS
        return int(seconds / each) if each else 10**9


class Outcome(NamedTuple):
    """One sync."""

    code: int
    seconds: float
    rows: int


def cases(poisoned: str, stall_at: int) -> Iterator[Case]:
    """Yield all conditions.

    Args:
        poisoned: the key that the server never sends.
        stall_at: the request at which the line stops once.
    """
    for kind in POISONS:
        yield Case(f"one record never sent: {kind}", Conditions(poisons={poisoned: kind}))
    for share in (0.2, 0.4):
        yield Case(f"503 {share:.0%}", Conditions(busy=share))
        yield Case(f"503 {share:.0%} and bursts", Conditions(busy=share, burst_seconds=2.0))
    yield Case("503 20%, Retry-After 1 s", Conditions(busy=0.2, retry_after=1))
    for seconds in (0.03, 0.095, 0.15, 0.3):
        yield Case(f"one request at a time, {seconds * 1000:.0f} ms", Conditions(serial_seconds=seconds))
    for share in (0.05, 0.2):
        yield Case(f"resets {share:.0%}", Conditions(resets=share))
    for seconds in (4.0, 6.0, 20.0):
        yield Case(f"one stall of {seconds:.0f} s", Conditions(stall_at=stall_at, stall_seconds=seconds))
    yield Case("latency 300 ms", delay=0.3)
    for kilobits in (256, 64, 24):
        yield Case(f"line of {kilobits} kbit/s", bits_per_second=kilobits * 1000)


@contextlib.contextmanager
def reached(server: azurite.Azurite, case: Case) -> Iterator[azurite.Azurite]:
    """Yield the server as it is reached under a condition, while the block runs."""
    with contextlib.ExitStack() as stack:
        port = server.port
        if case.conditions != Conditions():
            port = stack.enter_context(imposed(port, case.conditions)).port
        if case.delay:
            port = stack.enter_context(proxy.delayed(port, case.delay))
        if case.bits_per_second:
            port = stack.enter_context(proxy.limited(port, case.bits_per_second))
        yield azurite.Azurite(port)


def count_rows(cache: Path) -> int:
    """Return the number of jobs in a cache, also in one that no sync has filled."""
    if not cache.exists():
        return 0
    with contextlib.closing(sqlite3.connect(cache)) as connection:
        try:
            return int(connection.execute("SELECT count(*) FROM job").fetchone()[0])
        except sqlite3.Error:
            return 0


def some_key(server: azurite.Azurite, container: str) -> str:
    """Return the key of a record in the middle of the first page."""
    from azure.storage.blob import ContainerClient

    with ContainerClient.from_connection_string(server.connection_string, container) as client:
        names = list(itertools.islice(client.list_blob_names(results_per_page=100), 100))
    return str(names[len(names) // 2])


def run(setup: Setup) -> list[Line]:
    """Measure under each condition, with `setup.jobs` records of other programs and as many of mops-jobs."""
    lines = []
    for package in (azurite.OLDER, azurite.NEWEST):
        for ours in (False, True):
            directory = setup.directory / f"{package}-{'own' if ours else 'foreign'}"
            directory.mkdir()
            with azurite.running(directory, package) as server:
                lines += list(_Table(setup, server, package, directory, ours=ours).lines())
    return lines


class _Table:
    """The conditions of one server and one kind of records."""

    def __init__(self, setup: Setup, server: azurite.Azurite, package: str, directory: Path, *, ours: bool) -> None:
        self._setup = setup
        self._server = server
        self._package = package
        self._directory = directory
        self._ours = ours
        self._records = "own records" if ours else "foreign records"
        self._containers: dict[int, str] = {}
        self._numbers = itertools.count()

    def lines(self) -> Iterator[Line]:
        count = self._setup.jobs
        version = f"Azurite {azurite.version(self._package)}"
        hot_name, cold_name = f"{version} right after the writes", f"{version} later"
        named = [case.name for case in cases("", 0)] if self._package == azurite.NEWEST else []
        if not any(map(self._is_wanted, [hot_name, cold_name, *named])):
            return
        is_hot_wanted = self._is_wanted(hot_name)
        first, *others = peers.PLAIN_LISTERS if self._ours else peers.PLAIN_READERS
        plain = [self._read_plainly(first)] if is_hot_wanted else []
        container = self._filled(count)
        hot = self._sync(self._server, container, self._new_cache())
        if is_hot_wanted:
            plain += map(self._read_plainly, others)
            yield self._line(hot_name, [hot], count, min(plain), is_poisoned=False)
        if not any(map(self._is_wanted, [cold_name, *named])):
            return
        traffic, baseline = self._measure_baseline(container)
        if self._is_wanted(cold_name):
            cold = self._sync(self._server, container, self._new_cache())
            yield self._line(cold_name, [cold], count, baseline, is_poisoned=False)
        if not any(map(self._is_wanted, named)):
            return
        for case in cases(some_key(self._server, container), traffic.requests // 2 + 1):
            if self._is_wanted(case.name):
                records = min(count, max(100, case.most_records(self._setup.max_seconds, ours=self._ours)))
                part = records / count
                passed = Traffic(*(round(value * part) for value in traffic))
                limit = case.limit(passed, baseline * part)
                yield self._measure(case, records, limit)

    def _is_wanted(self, name: str) -> bool:
        full_name = f"{name}: {self._records}"
        return not self._setup.conditions or any(word in full_name for word in self._setup.conditions)

    def _measure(self, case: Case, records: int, limit: float) -> Line:
        container = self._filled(records)
        is_poisoned = bool(case.conditions.poisons) and not self._ours
        if is_poisoned:
            kind = next(iter(case.conditions.poisons.values()))
            case = case._replace(conditions=Conditions(poisons={some_key(self._server, container): kind}))
        cache = self._new_cache()
        outcomes: list[Outcome] = []
        with reached(self._server, case) as server:
            while len(outcomes) < MAX_RUNS and not _is_complete(outcomes, records - is_poisoned):
                outcomes.append(self._sync(server, container, cache, timeout=5 * limit + 60))
        return self._line(case.name, outcomes, records, limit, is_poisoned=is_poisoned)

    def _measure_baseline(self, container: str) -> tuple[Traffic, float]:
        """Return what passes in a sync without faults, and its seconds: through the same proxy, which costs time."""
        with imposed(self._server.port, Conditions()) as server:
            cache = self._new_cache()
            outcome = self._sync(azurite.Azurite(server.port), container, cache)
            return server.change(Conditions()), outcome.seconds

    def _read_plainly(self, reader: str) -> float:
        """Return the seconds of a plain reader, right after as many writes to a new server as to this one."""
        directory = self._directory / reader
        directory.mkdir()
        with azurite.running(directory, self._package) as server:
            container = self._new_container(server, self._setup.jobs)
            command, env = self._setup.module("bench.peers", reader, server.sas_url(container))
            process = measure.Case(command, env, check=measure.must_print(str(self._setup.jobs)))
            seconds = measure.run(process, directory).seconds
        measure.progress(f"{reader}: {seconds:.1f} s")
        return seconds

    def _filled(self, records: int) -> str:
        if records not in self._containers:
            self._containers[records] = self._new_container(self._server, records)
        return self._containers[records]

    def _new_container(self, server: azurite.Azurite, records: int) -> str:
        measure.progress(f"writing {records:,} records")
        container = azurite.new_container()
        registry_data.fill(server, container, records, ours=self._ours)
        return container

    def _new_cache(self) -> Path:
        return self._directory / f"cache-{next(self._numbers)}.db"

    def _sync(self, server: azurite.Azurite, container: str, cache: Path, timeout: float = 600.0) -> Outcome:
        registry = ["--registry", server.url(container), "--cache", str(cache)]
        command, env = self._setup.command("sync", "-q", *registry)
        begun = time.monotonic()
        try:
            code = subprocess.run(
                command, env={**env, **server.env}, stderr=subprocess.DEVNULL, timeout=timeout, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
        return Outcome(code, time.monotonic() - begun, count_rows(cache))

    def _line(self, name: str, outcomes: list[Outcome], records: int, limit: float, *, is_poisoned: bool) -> Line:
        seconds = sum(outcome.seconds for outcome in outcomes)
        is_complete = _is_complete(outcomes, records - is_poisoned)
        rows = ", ".join(f"{outcome.rows:,}" for outcome in outcomes)
        codes = ", ".join(str(outcome.code) for outcome in outcomes)
        if not is_complete:
            codes += "; NOT COMPLETE"
        what = f"{name}: {records:,} {self._records}"
        against = f"the limit, {limit:.1f} s; rows {rows} (exit {codes})"
        allowed = round(GOAL_RATIO * limit + GOAL_SECONDS, 1)
        keeps_rows = all(before.rows <= after.rows for before, after in itertools.pairwise(outcomes))
        goal = Goal(f"all, no row lost, at most {allowed:g} s", is_complete and keeps_rows and seconds <= allowed)
        measure.progress(f"{what}: {seconds:.1f} s, {against}")
        return Line(what, f"{seconds:.1f} s", against, seconds / limit, goal=goal)


def _is_complete(outcomes: list[Outcome], whole: int) -> bool:
    if not outcomes:
        return False
    last = outcomes[-1]
    return last.code in (COMPLETE, WITH_PROBLEMS) and last.rows >= whole
