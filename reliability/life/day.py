"""A long life: a day of cron with a hundred writers, by a clock that is moved, and what has piled up at its end.

Each minute a `sync`, each hour a `prune` of the cache and one of the store, a `list` in between, and a page that is
open all day. Two processes live through the whole of it and run each command within themselves: so what one of them
leaves behind, a file, a thread, memory, is there at the end, multiplied. The day before has left its announcements.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import random
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bench import azurite
from bench.machine import ROOT
from bench.registry_data import states
from mopsjobs.chunks import chunk_name, parse_chunk
from mopsjobs.errors import EXIT_UNREACHABLE
from mopsjobs.registry import JobRegistry
from mopsjobs.sqlite_file import WAL_BYTES
from mopsjobs.store import open_store
from mopsjobs.store.base import VersionedStore
from mopsjobs.store.outages import POOL_CONNECTIONS
from reliability.life.child import MUTATION
from reliability.life.writers import Fleet, Life, Writer, announcements
from reliability.trial import Figure, Trial, hold

WRITERS = 100
DAY = 24 * 60
AGE = "2h"
"""How old the events, and the jobs in the caches, may become."""
OLD_JOBS = 12_000
"""That ended the day before: so many that syncs are deltas, and that a full listing has its largest pages from the
morning on. Otherwise the reader's memory would grow with the registry, which keeps each job."""
BEGAN = datetime(2026, 3, 2, tzinfo=UTC)

WARM = range(5, 7)
"""The hours that the last ones are compared with: by then the first jobs have grown old enough to go."""

ATTEMPTS, PAUSE = 60, 5.0
"""At a command that finds the server too busy, and seconds between two of them."""

PAGE_SYNC_EVERY = {"Azurite": "5s", "embedded": "0.5s"}
"""By the real clock: hundreds of syncs in the simulated day."""

PAGES = ("/jobs", "/charts", "/metrics", "/api/v1/jobs?limit=50", "/api/v1/events")


@dataclass(frozen=True)
class Growth:
    """By how much something may be more in the last quarter of the day than in the hours of `WARM`, on average."""

    what: str
    field: str
    part: float
    """Of what it was."""
    more: float
    """Besides, for what has nothing to do with age: threads of a pool that have not been needed before, say."""
    unit: str = ""
    always: float = 0
    """What it may be in any case: connections that are kept, say, of which a busier moment opens more."""


WAL = WAL_BYTES + 2**19
"""Bytes that one may have in any case: SQLite begins it anew after 1,000 pages, and the last write may go beyond."""

GROWTHS = (
    Growth("open files of who syncs", "cron_files", 0, 1),
    Growth("open files of the page", "page_files", 0, 6, "", 3 * POOL_CONNECTIONS),
    Growth("open files of the writers", "writers_files", 0.1, 12),
    Growth("threads of who syncs", "cron_threads", 0, 1),
    Growth("threads of the page", "page_threads", 0, 2),
    Growth("memory of who syncs", "cron_memory", 0.05, 2048, " KiB"),
    Growth("memory of the page", "page_memory", 0.08, 4096, " KiB"),
    Growth("cache, without what it keeps of each pruned job", "cache", 0.1, 65536, " bytes"),
    Growth("WAL of the cache", "cache_wal", 0, 0, " bytes", WAL),
    Growth("WAL of the cache under the page", "page_wal", 0, 0, " bytes", WAL),
    Growth("WAL of the registry", "registry_wal", 0, 0, " bytes", WAL),
    Growth("announcements in the store", "announcements", 0.05, 20),
    Growth("chunks of events in the store", "chunks", 0.1, 20),
    Growth("names of chunks in the cache", "names", 0.1, 20),
    Growth("requests of a delta sync", "requests", 0.1, 3),
)


@dataclass
class Hour:
    """What was measured at the end of one."""

    cron_files: float = 0
    cron_threads: float = 0
    cron_memory: float = 0
    page_files: float = 0
    page_threads: float = 0
    page_memory: float = 0
    writers_files: float = 0
    cache: float = 0
    cache_wal: float = 0
    page_wal: float = 0
    registry_wal: float = 0
    announcements: float = 0
    chunks: float = 0
    names: float = 0
    requests: float = 0


def run(trial: Trial, mutation: str = "") -> Iterator[Figure]:
    """Live through the day twice: over a real Azurite, and over one SQLite file.

    Raises:
        PromiseBroken: something grew, was lost, or came twice.
    """
    yield from over_azure(trial, mutation)
    yield from embedded(trial, mutation)


def over_azure(trial: Trial, mutation: str = "") -> list[Figure]:
    """Over a real Azurite."""
    with azurite.running(trial.directory, collects_garbage=False) as server:
        day = Day(trial, trial.directory / "azurite", server.url(azurite.new_container()), server.env, mutation)
        return day.live("Azurite")


def embedded(trial: Trial, mutation: str = "") -> list[Figure]:
    """Over one SQLite file."""
    directory = trial.directory / "embedded"
    return Day(trial, directory, f"sqlite://{directory}/registry.db", {}, mutation).live("embedded")


class Child:
    """One of the two processes."""

    def __init__(self, role: str, directory: Path, env: Mapping[str, str], *words: str) -> None:
        self.cache = directory / f"{role}.db"
        self.outages = 0
        """How often a command ended with "unreachable, try again", and was tried again."""
        self._errors = (directory / f"{role}.err").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "reliability.life.child", role, *words],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], **env, "MOPS_JOBS_CACHE": str(self.cache)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def do(self, now: datetime, *commands: tuple[str, ...], measure: bool = False) -> dict[str, Any]:
        """Run commands at that time, each of which has to end with 0, after some attempts if the server is too busy."""
        answer = self._ask(now, commands, measure)
        done = answer["done"]
        for number, words in enumerate(commands):
            for _ in range(ATTEMPTS):
                if done[number]["code"] == EXIT_UNREACHABLE:
                    self.outages += 1
                    time.sleep(PAUSE)
                    (done[number],) = self._ask(now, (words,), measure)["done"]
            code = done[number]["code"]
            hold(code == 0, f"{' '.join(words)} ended with {code} at {now}: {self._said()}")
        return answer

    def _ask(self, now: datetime, commands: tuple[tuple[str, ...], ...], measure: bool) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"now": now.isoformat(), "commands": commands, "measure": measure}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        hold(bool(line), f"the process has died: {self._said()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End it."""
        with self._process, self._errors:
            self._process.kill()

    def _said(self) -> str:
        self._errors.flush()
        self._errors.seek(0)
        return self._errors.read()[-1000:]


class Day:
    """The day, over one registry."""

    def __init__(self, trial: Trial, directory: Path, url: str, env: Mapping[str, str], mutation: str) -> None:
        self._trial = trial
        self._directory = directory
        self._url = url
        self._env = {**env, "HOME": str(directory), "MOPS_JOBS_REGISTRY": url, MUTATION: mutation}
        self._writers = trial.times(WRITERS, 3)
        self._step = 1 if trial.scale >= 0.5 else 20 if trial.scale > 0.02 else 60
        """Minutes between two syncs."""
        self._now = BEGAN
        self._syncs: list[tuple[str, int]] = []
        """Of the hour so far: kind, and requests."""
        self._counts = {
            "syncs, delta": 0,
            "syncs, full": 0,
            "pages": 0,
            "commands tried again, since the server was busy": 0,
        }
        self.hours: list[Hour] = []

    def live(self, name: str) -> list[Figure]:
        """Live through it.

        Raises:
            PromiseBroken: see `run`.
        """
        self._directory.mkdir(parents=True)
        with contextlib.ExitStack() as stack:
            store = open_store(self._url, self._env)
            stack.callback(store.close)
            self._leave_the_day_before(store)
            chance = random.Random(f"{self._trial.seed} {name}")
            fleet = Fleet([self._writer(number, chance) for number in range(self._writers)])
            with _port() as port:
                pass
            children = [Child("cron", self._directory, self._env)]
            children.append(
                Child("page", self._directory, self._env, "--port", str(port), "--sync-every", PAGE_SYNC_EVERY[name])
            )
            for child in children:
                stack.callback(child.close)
            children[1].do(self._now, ("sync", "-q"))
            for minute in range(DAY):
                self._now = BEGAN + timedelta(minutes=minute)
                fleet.work(minute)
                if minute % self._step == 0:
                    self._do(minute, *children, port)
                if minute % 60 == 59:
                    self._end_the_hour(*children, store)
            jobs = fleet.close()
            for child in children:
                child.do(self._now, ("sync", "-q", "--full"))
                self._counts["commands tried again, since the server was busy"] += child.outages
            self._check_growth(name)
            told = self._check_events(store, jobs, children)
            self._check_caches(store, children)
        return self._figures(name, jobs, told)

    # --- the day ---------------------------------------------------------------------------------------------------

    def _writer(self, number: int, chance: random.Random) -> Writer:
        def opened() -> VersionedStore:
            return open_store(self._url, self._env)

        return Writer(number, opened, chance, range(DAY), lambda: self._now)

    def _leave_the_day_before(self, store: VersionedStore) -> None:
        """Jobs that have ended, and what the writers of that day have announced."""
        ended = (
            dataclasses.replace(one, status="succeeded", updated_at=(BEGAN - timedelta(days=1)).isoformat())
            for one in states(self._trial.times(OLD_JOBS, 20), BEGAN - timedelta(days=1))
        )
        made = {f"jobs/{one.job_id}/state.json": one.to_json() for one in ended}
        chance = random.Random(f"{self._trial.seed} before")
        before = announcements(self._writers, chance, range(-DAY, 0), lambda at: BEGAN + timedelta(minutes=at))
        made |= dict.fromkeys(before, b"-")
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda key: store.create_if_absent(key, made[key]), made))

    def _do(self, minute: int, cron: Child, page: Child, port: int) -> None:
        """What happens at one minute."""
        (synced,) = cron.do(self._now, ("sync", "--json"))["done"]
        mode = json.loads(synced["out"])["mode"]
        self._syncs.append((mode, synced["requests"]))
        self._counts[f"syncs, {mode}"] += 1
        if minute % 20 == 0:
            cron.do(self._now, ("list", "-q"), ("list", "--json", "--status", "active"), ("summary",))
            page.do(self._now, ("metrics",))
            for path in PAGES:
                self._ask(port, path)

    def _ask(self, port: int, path: str) -> None:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            try:
                connection.request("GET", path)
                with connection.getresponse() as response:
                    response.read()
                    hold(response.status in (200, 503), f"{path} is answered by {response.status}")
            except ConnectionRefusedError:  # it is about to start
                return
        self._counts["pages"] += response.status == 200

    def _end_the_hour(self, cron: Child, page: Child, store: VersionedStore) -> None:
        prune = ("prune", "--older-than", AGE, "--yes", "-q")
        found = {"cron": cron.do(self._now, ("prune", "--store", *prune[1:]), prune, measure=True)}
        found["page"] = page.do(self._now, ("sync", "-q"), prune, measure=True)
        hour = Hour(writers_files=len(os.listdir("/proc/self/fd")))
        for role, answer in found.items():
            for name in ("files", "threads", "memory"):
                setattr(hour, f"{role}_{name}", answer[name])
        deltas = [requests for mode, requests in self._syncs if mode == "delta" or self._trial.scale < 0.5]
        hour.requests = sum(deltas) / max(1, len(deltas))
        self._syncs.clear()
        hour.announcements = sum(1 for _ in store.list_keys("changes/"))
        hour.chunks = sum(1 for _ in store.list_keys("events/"))
        with contextlib.closing(sqlite3.connect(cron.cache)) as cache:
            (hour.names,) = cache.execute("SELECT count(*) FROM event_chunk").fetchone()
            (pruned,) = cache.execute("SELECT coalesce(sum(length(key) + length(version)), 0) FROM pruned").fetchone()
        hour.cache = cron.cache.stat().st_size - 1.5 * pruned
        hour.cache_wal = _size(f"{cron.cache}-wal")
        hour.page_wal = _size(f"{page.cache}-wal")
        hour.registry_wal = _size(f"{self._directory}/registry.db-wal")
        self.hours.append(hour)

    # --- the end of it ---------------------------------------------------------------------------------------------

    def _check_growth(self, name: str) -> None:
        grown = []
        for growth in GROWTHS:
            first, last = self._means(growth)
            hold(first > 0 or growth.always > 0, f"{name}: nothing was counted of: {growth.what}")
            if last > max(growth.always, first * (1 + growth.part) + growth.more):
                hours = " ".join(f"{getattr(hour, growth.field):,.0f}" for hour in self.hours)
                grown.append(f"{growth.what}: {first:,.1f}, and {last:,.1f} in the end{growth.unit} (hours: {hours})")
        hold(not grown, f"{name}, seed {self._trial.seed}: it grew. " + "; ".join(grown))

    def _means(self, growth: Growth) -> tuple[float, float]:
        values = [getattr(hour, growth.field) for hour in self.hours]
        first, last = values[WARM.start : WARM.stop], values[-6:]
        return sum(first) / len(first), sum(last) / len(last)

    def _check_events(self, store: VersionedStore, jobs: list[Life], children: list[Child]) -> int:
        """Each event of a job that is young enough is in the store once, and in the caches. Returns how many."""
        found: dict[str, list[int]] = {life.source: [] for life in jobs}
        for key in store.list_keys("events/"):
            name, value = chunk_name(key), store.get(key)
            if name is not None and value is not None:
                for event in parse_chunk(value.value, job_id=name.job_id):
                    found[str(event["source"])].append(int(str(event["seq"])))
        limit = (self._now - timedelta(hours=2)).replace(minute=0, second=0, microsecond=0)
        young = [life for life in jobs if life.ended_at is None or life.ended_at >= limit]
        for life in young:
            hold(sorted(found.pop(life.source)) == list(range(life.emitted)), f"events of {life.job_id} are missing")
        left = [source for source, events in found.items() if events]
        hold(not left, f"{len(left)} jobs have events that should be gone")
        kept = self._now - timedelta(hours=2)
        for child in children:
            with contextlib.closing(sqlite3.connect(child.cache)) as cache:
                told: dict[str, list[int]] = {}
                for source, seq in cache.execute("SELECT body ->> '$.source', body ->> '$.seq' FROM event"):
                    told.setdefault(source, []).append(seq)
            for life in jobs:
                if life.ended_at is None or life.ended_at >= kept:
                    there = sorted(told.get(life.source, ()))
                    hold(there == list(range(life.emitted)), f"{child.cache.name} has other events of {life.job_id}")
        return sum(life.emitted for life in young)

    def _check_caches(self, store: VersionedStore, children: list[Child]) -> None:
        records = {}
        for entry in JobRegistry(store).scan():
            records[entry.key] = entry.version.value
        for child in children:
            with contextlib.closing(sqlite3.connect(child.cache)) as cache:
                known = dict(cache.execute("SELECT key, version FROM job UNION ALL SELECT key, version FROM pruned"))
            hold(known == records, f"{child.cache.name} does not equal the registry")

    def _figures(self, name: str, jobs: list[Life], told: int) -> list[Figure]:
        figures = [
            Figure(
                f"{name}: writers, jobs, events", f"{self._writers}, {len(jobs):,}, {sum(j.emitted for j in jobs):,}"
            ),
            Figure(f"{name}: events that had to be there in the end, and were", f"{told:,}"),
            *(Figure(f"{name}: {what}", f"{count:,}") for what, count in self._counts.items()),
        ]
        for growth in GROWTHS:
            first, last = self._means(growth)
            if first or last:
                figures.append(
                    Figure(f"{name}: {growth.what}, hours 6 and 7 / 19 to 24", f"{first:,.0f} / {last:,.0f}")
                )
        return figures


@contextlib.contextmanager
def _port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def _size(path: str) -> int:
    return os.path.getsize(path) if os.path.exists(path) else 0
