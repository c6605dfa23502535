"""A long life: a day of cron with a hundred writers, by a clock that is moved, and what has piled up at its end.

Each minute a `sync`, each hour a `prune` of the cache and one of the store, a `list` in between. A page is open all
day. Two processes live through the whole of it and run each command within themselves. So what one of them leaves
behind, a file, a thread, memory, is there at the end, multiplied. The day before has left its announcements.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import math
import os
import random
import re
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bench import azurite
from bench.machine import ROOT
from bench.registry_data import states
from mopsjobs.errors import EXIT_UNREACHABLE
from mopsjobs.events.format import parse_chunk, parse_chunk_key
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from mopsjobs.store.base import VersionedStore
from mopsjobs.web.server.server import THREADS
from reliability.life.child import MUTATION
from reliability.life.growth import HELD, Growths, Hour
from reliability.life.mutations import MUTATIONS
from reliability.life.writers import Fleet, Life, Writer, announcements
from reliability.trial import Figure, PromiseBroken, Trial, hold

ATTEMPTS, PAUSE = 60, 5.0
"""At a command that finds the server too busy, and seconds between two of them."""

EXACT = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
"""What a thread keeps to itself of what was freed, up to a quarter of a megabyte, counts as in use: they keep nothing.

Otherwise the hundred threads of the page would seem to leak for days, each a little with every request.
"""


class Child:
    """One of the two processes."""

    def __init__(self, role: str, directory: Path, env: Mapping[str, str], *words: str) -> None:
        self.role = role
        self.cache = directory / f"{role}.db"
        self.outages = 0
        """How often a command ended with "unreachable, try again", and was tried again."""
        self._errors = (directory / f"{role}.err").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "reliability.life.child", role, *words],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], **EXACT, **env, "MOPS_JOBS_CACHE": str(self.cache)},
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


WRITERS = 100
DAY = 24 * 60
AGE = "2h"
"""How old the events, and the jobs in the caches, may become."""
SHORT = 0.02
"""The scale of a day that finds defects: few writers, and a sync each hour."""

OLD_JOBS, FEWEST = 12_000, 1200
"""That ended the day before: so many that syncs are deltas, and that a full listing has its largest pages from the
morning on. Otherwise the reader's memory would grow with the registry, which keeps each job. In a part of the trial,
as many as make deltas worth while."""
BEGAN = datetime(2026, 3, 2, tzinfo=UTC)

PAGE_SYNC_EVERY = {"Azurite": "5s", "embedded": "0.2s"}
"""By the real clock: hundreds of syncs in the simulated day."""

PAGES = ("/jobs", "/charts", "/metrics", "/api/v1/jobs?limit=50", "/api/v1/events")


def run(trial: Trial) -> Iterator[Figure]:
    """Live through the day over a real Azurite, over one SQLite file, and then once, shortly, with each defect.

    Raises:
        PromiseBroken: something grew, was lost, or came twice; or a defect was not found.
    """
    yield from over_azure(trial)
    yield from embedded(trial)
    for mutation in list(MUTATIONS)[: trial.times(len(MUTATIONS))]:
        yield Figure(f"found in a short day: {mutation}", find(trial, mutation))


def find(trial: Trial, mutation: str) -> str:
    """Let a short day find a defect that has been put in. Returns what was told of it.

    Raises:
        PromiseBroken: it was not found, or something else was.
    """
    directory = trial.directory / f"mutation-{list(MUTATIONS).index(mutation)}"
    directory.mkdir()
    try:
        embedded(Trial(directory, trial.seed, SHORT), mutation)
    except PromiseBroken as broken:
        found = re.search(MUTATIONS[mutation].told, str(broken))
        hold(found is not None, f"{mutation}: was looked for, and this was found: {broken}")
        return found[0] if found else ""
    raise PromiseBroken(f"not found in a day: {mutation}")


def over_azure(trial: Trial, mutation: str = "") -> list[Figure]:
    """Run it over a real Azurite."""
    with azurite.running(trial.directory, collects_garbage=False) as server:
        day = Day(trial, trial.directory / "azurite", server.url(azurite.new_container()), server.env, mutation)
        return day.live("Azurite")


def embedded(trial: Trial, mutation: str = "") -> list[Figure]:
    """Run it over one SQLite file."""
    directory = trial.directory / "embedded"
    return Day(trial, directory, f"sqlite://{directory}/registry.db", {}, mutation).live("embedded")


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
            "records held against a cache, hour after hour": 0,
            "syncs of the page by itself": 0,
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
                self._sync_and_compare(child, store)
                self._counts["commands tried again, since the server was busy"] += child.outages
            grown = Growths(self.hours, name).grown()
            hold(not grown, f"{name}, seed {self._trial.seed}: it grew. " + "; ".join(grown))
            told = self._check_events(store, jobs, children)
            own = self._counts["syncs of the page by itself"]
            hold(own >= self._trial.times(5), f"the page has synced {own} times by itself")
        return self._figures(name, jobs, told)

    # --- the day ---------------------------------------------------------------------------------------------------

    def _writer(self, number: int, chance: random.Random) -> Writer:
        def opened() -> VersionedStore:
            return open_store(self._url, self._env)

        return Writer(number, opened, chance, range(DAY), lambda: self._now)

    def _leave_the_day_before(self, store: VersionedStore) -> None:
        """Leave jobs that have ended, and what the writers of that day have announced."""
        ended = (
            dataclasses.replace(one, status="succeeded", updated_at=(BEGAN - timedelta(days=1)).isoformat())
            for one in states(self._trial.times(OLD_JOBS, FEWEST), BEGAN - timedelta(days=1))
        )
        made = {f"jobs/{one.job_id}/state.json": one.to_json() for one in ended}
        chance = random.Random(f"{self._trial.seed} before")
        before = announcements(self._writers, chance, range(-DAY, 0), lambda at: BEGAN + timedelta(minutes=at))
        made |= dict.fromkeys(before, b"-")
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda key: store.create_if_absent(key, made[key]), made))

    def _do(self, minute: int, cron: Child, page: Child, port: int) -> None:
        """Do what happens at one minute."""
        self._sync(cron)
        if minute % 20 == 0:
            cron.do(self._now, ("list", "-q"), ("list", "--json", "--status", "active"), ("summary",))
            page.do(self._now, ("metrics",))
            for path in PAGES:
                self._ask(port, path)

    def _sync(self, child: Child) -> None:
        """Sync by command."""
        for _ in range(ATTEMPTS):
            (synced,) = child.do(self._now, ("sync", "--json"))["done"]
            document = json.loads(synced["out"])
            if not document["already_running"]:
                break
            time.sleep(0.2)  # the page is at it
        if child.role == "cron":
            self._syncs.append((document["mode"], synced["requests"]))
            self._counts[f"syncs, {document['mode']}"] += 1

    def _ask(self, port: int, path: str) -> None:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            try:
                connection.request("GET", path)
                with connection.getresponse() as response:
                    response.read()
                    status = response.status
            except ConnectionRefusedError:
                status = 0
        if not self._counts["pages"] and status in (0, 503):
            return  # it is about to start, and has not been filled yet
        hold(status == 200, f"{path} is answered by {status or 'no server'} at {self._now}")
        self._counts["pages"] += 1
        if self._counts["pages"] == 1:
            # Each thread of the server keeps the request that it answered last: let each have one from the morning on.
            for _ in range(THREADS):
                self._ask(port, path)

    def _end_the_hour(self, cron: Child, page: Child, store: VersionedStore) -> None:
        self._sync_and_compare(cron, store)
        prune = ("prune", "--older-than", AGE, "--yes", "-q")
        found = {cron: cron.do(self._now, ("prune", "--store", *prune[1:]), prune, measure=True)}
        found[page] = page.do(self._now, ("sync", "-q"), prune, measure=True)
        deltas = [requests for mode, requests in self._syncs if mode == "delta"]
        self._syncs.clear()
        hour: Hour = {
            "writers_files": len(os.listdir("/proc/self/fd")),
            "requests": sum(deltas) / len(deltas) if deltas else math.nan,
            "announcements": sum(1 for _ in store.list_keys("changes/")),
            "chunks": sum(1 for _ in store.list_keys("events/")),
            "registry_wal": _size(f"{self._directory}/registry.db-wal"),
        }
        self._counts["syncs of the page by itself"] = found[page]["own_syncs"]
        for child, answer in found.items():
            hour |= {f"{child.role}_{name}": answer[name] for name in HELD}
            hour[f"{child.role}_cache"], hour[f"{child.role}_rows"] = _content(child.cache)
            hour[f"{child.role}_wal"] = _size(f"{child.cache}-wal")
        with contextlib.closing(sqlite3.connect(cron.cache)) as cache:
            (hour["names"],) = cache.execute("SELECT count(*) FROM event_chunk").fetchone()
        self.hours.append(hour)

    # --- the end of it ---------------------------------------------------------------------------------------------

    def _check_events(self, store: VersionedStore, jobs: list[Life], children: list[Child]) -> int:
        """Return each event of a job that is young enough is in the store once, and in the caches. Returns how many."""
        found: dict[str, list[int]] = {life.source: [] for life in jobs}
        for key in store.list_keys("events/"):
            name, value = parse_chunk_key(key), store.get(key)
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
                    there = sorted(told.pop(life.source, ()))
                    hold(there == list(range(life.emitted)), f"{child.cache.name} has other events of {life.job_id}")
            hold(not told, f"{child.cache.name} has events of {len(told)} jobs that were pruned")
        return sum(life.emitted for life in young)

    def _sync_and_compare(self, child: Child, store: VersionedStore) -> None:
        """Sync once more as usual, and compare: the cache has each record as the registry has it, and no other."""
        self._sync(child)
        records = {entry.key: entry.version.value for entry in JobRegistry(store).scan()}
        with contextlib.closing(sqlite3.connect(child.cache)) as cache:
            known = dict(cache.execute("SELECT key, version FROM job UNION ALL SELECT key, version FROM pruned"))
        unlike = [key for key in records.keys() | known.keys() if records.get(key) != known.get(key)]
        hold(not unlike, f"{child.cache.name} has {len(unlike)} jobs unlike the registry at {self._now}")
        self._counts["records held against a cache, hour after hour"] += len(records)

    def _figures(self, name: str, jobs: list[Life], told: int) -> list[Figure]:
        figures = [
            Figure(
                f"{name}: writers, jobs, events", f"{self._writers}, {len(jobs):,}, {sum(j.emitted for j in jobs):,}"
            ),
            Figure(f"{name}: events that had to be there in the end, and were", f"{told:,}"),
            *(Figure(f"{name}: {what}", f"{count:,}") for what, count in self._counts.items()),
        ]
        figures += [
            Figure(f"{name}: {growth.what}, {growth.hours}", f"{first:,.0f} / {last:,.0f}{growth.unit}")
            for growth, first, last in Growths(self.hours, name).typical()
        ]
        return figures


@contextlib.contextmanager
def _port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def _content(path: Path) -> tuple[float, int]:
    """Return the size of a cache and its rows, both without traces of pruned jobs, and without its counters."""
    with contextlib.closing(sqlite3.connect(path)) as cache:
        (pruned,) = cache.execute("SELECT coalesce(sum(length(key) + length(version)), 0) FROM pruned").fetchone()
        tables = ("job", "job_label", "event", "event_chunk", "problem", "tally", "meta")
        counts = [cache.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]
    return path.stat().st_size - 1.5 * pruned, sum(counts)


def _size(path: str) -> int:
    return os.path.getsize(path) if os.path.exists(path) else 0
