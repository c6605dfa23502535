"""Mirroring a registry in Azurite, against rclone, against reading it record by record, and against the bare listing.

Once as it is, and once through a proxy that adds 30 ms to each reply, as a network does.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import time
from dataclasses import dataclass

from bench import azurite, proxy, registry_data, tools
from bench.azurite import Azurite
from bench.machine import Setup
from bench.measure import Case, in_turn, must_print, progress
from bench.report import Line, at_most
from mopsjobs.cache.sync.mirror import sync
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from mopsjobs.store.urls import identity

DELAY_SECONDS = 0.03

GOAL_JOBS = 10_000
"""The number of records that the goals are about."""

FULL_RATIO, FOREIGN_RATIO, UNCHANGED_RATIO = 0.2, 0.6, 0.4
"""Goals, as multiples of rclone's time for the same."""

DELAYED_FOREIGN_RATIO = 0.4
"""The goal for foreign records where each reply comes later."""

SCAN_RATIO, SCAN_TO_RCLONE = 0.35, 0.7
"""Goals of a scan without news, as multiples of the first full sync, and of rclone's time for the same."""

QUIET_RATIO = 1.3
"""Processor time of `sync -q` with nothing to do, as a multiple of importing the SDK and one request."""

BURST_SECONDS = 600
"""How long announcements are certainly within the reach of a sync: less than its 15 minutes."""


@dataclass(frozen=True)
class Registry:
    """A registry in a container, and the way to it."""

    setup: Setup
    server: Azurite
    """As the measured processes reach it."""
    container: str
    jobs: int
    name: str
    """Tells the files of its caches and mirrors apart."""

    def full_sync(self) -> Case:
        """Return `mops-jobs sync` into a new cache, which lists the registry."""
        cache = self.setup.directory / f"{self.name}-fresh.db"
        command, env = self._sync(str(cache), "--json")

        def prepare() -> None:
            for path in self.setup.directory.glob(f"{cache.name}*"):
                path.unlink()

        def check(output: str) -> None:
            report = json.loads(output)
            with contextlib.closing(sqlite3.connect(cache)) as connection:
                cached = connection.execute("SELECT count(*) FROM jobs").fetchone()[0]
            if report["added"] != self.jobs or cached != self.jobs or report["problems"]:
                raise RuntimeError(f"sync did something else, and the cache has {cached} jobs:\n{output[:2000]}")

        return Case(command, env, prepare, check)

    def delta_sync(self, *, changed: int = 0, quiet: bool = False) -> Case:
        """Return `mops-jobs sync` into a cache that lacks only the jobs that are changed before each round."""
        cache = self.setup.directory / f"{self.name}-{changed}-changed{'-quiet' * quiet}.db"
        command, env = self._sync(str(cache), "-q" if quiet else "--json")
        url = self.server.url(self.container)
        registry = JobRegistry(open_store(url, self.server.env))

        def prepare() -> None:
            # Up to date, and sure that all writers announce: that takes two full syncs, and each hour another.
            while sync(registry, str(cache), identity(url, self.server.env)).is_full:
                pass
            with contextlib.closing(sqlite3.connect(cache)) as connection:
                active = connection.execute("SELECT job_id FROM jobs WHERE is_active LIMIT ?", (changed,)).fetchall()
            for (job_id,) in active:
                registry.update_fields(job_id, metadata={"round": str(time.monotonic_ns())})

        def check(output: str) -> None:
            if quiet:
                return
            report = json.loads(output)
            if (report["mode"], report["changed"]) != ("delta", changed) or report["problems"]:
                raise RuntimeError(f"sync did something else:\n{output[:2000]}")

        return Case(command, env, prepare, check)

    def sync_after_burst(self) -> Case:
        """Return `mops-jobs sync` with nothing new, minutes after all jobs were registered.

        Syncs list the announcements of the last 15 minutes. So the jobs are announced again before that.
        """
        cache = self.setup.directory / f"{self.name}-burst.db"
        command, env = self._sync(str(cache), "--json")
        url = self.server.url(self.container)
        registry = JobRegistry(open_store(url, self.server.env))
        announced: list[float] = []

        def prepare() -> None:
            if not announced or time.monotonic() - announced[-1] > BURST_SECONDS:
                registry_data.announce(self.server, self.container, self.jobs)
                announced.append(time.monotonic())
            sync(registry, str(cache), identity(url, self.server.env))

        def check(output: str) -> None:
            report = json.loads(output)
            if (report["added"], report["changed"], report["fetched"]) != (0, 0, 0) or report["problems"]:
                raise RuntimeError(f"sync did something else:\n{output[:2000]}")

        return Case(command, env, prepare, check)

    def scan(self) -> Case:
        """Return a view that scans the whole registry, of which the cache has everything."""
        cache = self.setup.directory / f"{self.name}-scanned.db"
        url = self.server.url(self.container)
        registry = JobRegistry(open_store(url, self.server.env))
        argv, env = self.setup.command("list", "--refresh", "--json", "--limit", "1", "--registry", url)

        def prepare() -> None:
            while sync(registry, str(cache), identity(url, self.server.env)).is_full:
                pass

        def check(output: str) -> None:
            if (total := json.loads(output)["total"]) != self.jobs:
                raise RuntimeError(f"the view has {total} jobs instead of {self.jobs}")

        return Case([*argv, "--cache", str(cache)], {**env, **self.server.env}, prepare, check)

    def rclone(self, *, unchanged: bool = False) -> Case:
        """Return `rclone sync` of the records into a new directory, or into one that has them all.

        With one listing of everything (--fast-list), since it would list each job's folder otherwise; and 16 transfers
        at a time, as many as ours.
        """
        mirror = self.setup.directory / f"{self.name}-{'mirror' if unchanged else 'fresh'}"
        argv = [tools.rclone(), "sync", "--fast-list", "--transfers", "16", "--checkers", "16"]
        argv += [f":azureblob:{self.container}/jobs", str(mirror)]
        settings = {"RCLONE_CONFIG": "", "RCLONE_AZUREBLOB_SAS_URL": self.server.sas_url(self.container)}

        def prepare() -> None:
            if not unchanged:
                shutil.rmtree(mirror, ignore_errors=True)

        def check(_: str) -> None:
            if (count := sum(1 for _ in mirror.glob("*/state.json"))) != self.jobs:
                raise RuntimeError(f"rclone has mirrored {count} records instead of {self.jobs}.")

        return Case(argv, {**self.setup.env, **settings}, prepare, check)

    def peer(self, what: str, *, prints: int | None = None, slow: bool = False) -> Case:
        """Return a client of bench.clients. It must print how many records there are, or the number given."""
        argv, env = self.setup.module("bench.clients", what, self.container, packages=tools.packages())
        count = self.jobs if prints is None else prints
        return Case(argv, {**env, **self.server.env}, check=must_print(str(count)), slow=slow)

    def _sync(self, cache: str, *words: str) -> tuple[list[str], dict[str, str]]:
        url = self.server.url(self.container)
        command, env = self.setup.command("sync", *words, "--registry", url, "--cache", cache)
        return command, {**env, **self.server.env}


def run(setup: Setup) -> list[Line]:
    """Measure syncs of `setup.jobs` records, of mops-jobs and of another program."""
    names = {name: azurite.new_container() for name in ("ours", "foreign", "burst")}
    with azurite.running(setup.directory) as server:
        for name, container in names.items():
            progress(f"writing {setup.jobs:,} records: {name}")
            registry_data.fill(server, container, setup.jobs, ours=name != "foreign")
        lines = _measure(setup, server, names, "", all_peers=True)
        with proxy.delayed(server.port, DELAY_SECONDS) as port:
            note = f", {DELAY_SECONDS * 1000:.0f} ms later"
            lines += _measure(setup, azurite.Azurite(port), names, note, all_peers=False)
    return lines


def _measure(setup: Setup, server: azurite.Azurite, names: dict[str, str], note: str, *, all_peers: bool) -> list[Line]:
    at = {
        name: Registry(setup, server, container, setup.jobs, f"{name}-{server.port}")
        for name, container in names.items()
    }
    cases = {
        "full": at["ours"].full_sync(),
        "rclone": at["ours"].rclone(),
        "unchanged": at["ours"].delta_sync(),
        "rclone, unchanged": at["ours"].rclone(unchanged=True),
        "foreign": at["foreign"].full_sync(),
        "rclone, foreign": at["foreign"].rclone(),
        "scan": at["ours"].scan(),
        "quiet": at["ours"].delta_sync(quiet=True),
        "one request": at["ours"].peer("one-request", prints=0),
    }
    peers = {
        "listing alone": at["ours"].peer("list"),
        "listing with metadata": at["ours"].peer("list-metadata"),
        "GET per record, azure-storage-blob, 16 threads": at["ours"].peer("get-16", slow=True),
        "GET per record, azure-storage-blob, one by one": at["ours"].peer("get-1", slow=True),
    }
    burst = at["burst"].sync_after_burst()
    measured = {**cases, **({"burst": burst, **peers} if all_peers else {})}
    progress(f"syncs{note}, {setup.runs} rounds of {len(measured)} processes")
    in_turn(measured.values(), setup.runs, setup.directory)
    lines = _lines(setup, cases, note)
    if all_peers:
        what = f"sync, nothing new, minutes after {setup.jobs:,} registrations"
        limit = UNCHANGED_RATIO if setup.jobs == GOAL_JOBS else None
        lines.append(compared(what, burst, "rclone", cases["rclone, unchanged"], limit))
        lines += [compared(f"full sync, {setup.jobs:,} of our records", cases["full"], *peer) for peer in peers.items()]
    return lines


def _lines(setup: Setup, cases: dict[str, Case], note: str) -> list[Line]:
    count = f"{setup.jobs:,}"
    are_goals = setup.jobs == GOAL_JOBS
    quiet = cases["quiet"]
    cpu_ratio = quiet.ratios_to(cases["one request"])[1]

    def against_rclone(what: str, ours: str, theirs: str, limit: float) -> Line:
        return compared(f"{what}{note}", cases[ours], "rclone", cases[theirs], limit if are_goals else None)

    return [
        against_rclone(f"full sync, {count} of our records", "full", "rclone", FULL_RATIO),
        against_rclone(f"full sync, {count} foreign records", "foreign", "rclone, foreign",
                       DELAYED_FOREIGN_RATIO if note else FOREIGN_RATIO),
        against_rclone(f"sync, nothing changed among {count}", "unchanged", "rclone, unchanged", UNCHANGED_RATIO),
        against_rclone(f"scan, nothing changed among {count}", "scan", "rclone, unchanged", SCAN_TO_RCLONE),
        compared(
            f"scan, nothing changed among {count}{note}", cases["scan"], "its full sync", cases["full"],
            SCAN_RATIO if are_goals else None,
        ),
        Line(
            f"sync -q, nothing changed{note}: processor time", _processor(quiet),
            f"import of the SDK, one request, {_processor(cases['one request'])}",
            *quiet.ratios_to(cases["one request"]), at_most(QUIET_RATIO, cpu_ratio, " x"),
        ),
    ]  # fmt: skip


def compared(what: str, case: Case, against: str, other: Case, limit: float | None = None) -> Line:
    """Return the line of a process beside another."""
    ratio, cpu_ratio = case.ratios_to(other)
    told = f"{against}, {other.seconds:.2f} s"
    return Line(what, f"{case.seconds:.2f} s", told, ratio, cpu_ratio, at_most(limit, ratio, " x"))


def _processor(case: Case) -> str:
    return f"{case.cpu_seconds:.2f} s"
