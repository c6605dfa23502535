"""Syncs of mops-jobs, and what people would use instead, as processes to measure over one registry in Azurite."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from dataclasses import dataclass

from bench import tools
from bench.azurite import Azurite
from bench.machine import Setup
from bench.measure import Case, must_print
from mopsjobs.cache.sync.mirror import sync
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from mopsjobs.store.urls import identity


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

    def delta_sync(self, *, quiet: bool = False) -> Case:
        """Return `mops-jobs sync` into a cache that has all."""
        cache = self.setup.directory / f"{self.name}-unchanged{'-quiet' * quiet}.db"
        command, env = self._sync(str(cache), "-q" if quiet else "--json")
        url = self.server.url(self.container)
        registry = JobRegistry(open_store(url, self.server.env))

        def prepare() -> None:
            # Up to date, and sure that all writers announce: that takes two full syncs, and each hour another.
            while sync(registry, str(cache), identity(url, self.server.env)).is_full:
                pass

        def check(output: str) -> None:
            if quiet:
                return
            report = json.loads(output)
            if (report["mode"], report["changed"]) != ("delta", 0) or report["problems"]:
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
        """Return a peer of bench.peers. It must print how many records there are, or the number given."""
        argv, env = self.setup.module("bench.peers", what, self.container, packages=tools.packages())
        count = self.jobs if prints is None else prints
        return Case(argv, {**env, **self.server.env}, check=must_print(str(count)), slow=slow)

    def _sync(self, cache: str, *words: str) -> tuple[list[str], dict[str, str]]:
        url = self.server.url(self.container)
        command, env = self.setup.command("sync", *words, "--registry", url, "--cache", cache)
        return command, {**env, **self.server.env}
