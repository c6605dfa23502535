"""Counts the requests of whole programs at an Azurite that logs each: the figures of docs/reference/limits.md."""

from __future__ import annotations

import contextlib
import re
import subprocess
import textwrap
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from bench import azurite, registry_data, servers
from bench.machine import Setup
from bench.measure import progress
from bench.report import Line
from bench.tasks import write_study
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store

TASKS = 1_000
MORE_TASKS = 10_000
JOBS = 5_000
"""So many that a sync reads announcements, and only scans what they do not tell."""
CHANGED_JOBS = 100

MODEL = """
    def simulate(params, seed):
        return {"y": params["x"] * 2 + seed % 7}
"""
LOGGED = re.compile(r'"(?P<method>[A-Z]+) (?P<path>\S+) HTTP/')
KINDS = ("writes", "listings", "reads", "deletions")


class Counted(NamedTuple):
    """The requests of one command."""

    what: str
    requests: Counter[str]

    def line(self) -> Line:
        """Return the counts as a line of the report."""
        text = ", ".join(f"{self.requests[kind]:,} {kind}" for kind in KINDS if self.requests[kind])
        return Line(f"requests: {self.what}", text or "none", "", None)


def run(setup: Setup) -> list[Line]:
    """Count what `submit`, `update`, `sync` and views send."""
    progress("counting requests")
    place = setup.directory / "counting"
    place.mkdir()
    server = azurite.make_server(place, logs_requests=True)
    with servers.running(server) as port:
        counter = _Counter(setup, azurite.Azurite(port), place)
        return [counted.line() for counted in (*_count_jobs(counter), *_count_syncs(counter))]


class _Counter:
    """Runs commands on a new container, and counts what each sends."""

    def __init__(self, setup: Setup, server: azurite.Azurite, place: Path) -> None:
        self.server, self.place = server, place
        self.container = azurite.new_container()
        self._setup = setup
        self._log = place / f"{azurite.NEWEST}.out"

    def run(self, *words: str) -> None:
        """Run one command."""
        argv, env = self._setup.command(*words, "--registry", self.server.url(self.container))
        subprocess.run(argv, env={**env, **self.server.env}, cwd=self.place, check=True, stdout=subprocess.DEVNULL)

    def count(self, what: str, *words: str) -> Counted:
        """Run one command and return what it sent."""
        start = self._log.stat().st_size
        self.run(*words)
        with self._log.open("rb") as lines:
            lines.seek(start)
            text = lines.read().decode("utf-8", "replace")
        return Counted(what, Counter(_kind(found["method"], found["path"]) for found in LOGGED.finditer(text)))


def _count_jobs(counter: _Counter) -> list[Counted]:
    """Count what one job sends, from `submit` to its results."""
    (counter.place / "model.py").write_text(textwrap.dedent(MODEL), encoding="utf-8")
    counter.run("register", "first")  # makes the container
    found = []
    for tasks in (TASKS, MORE_TASKS):
        study = write_study(counter.place, tasks, parameter_sets=tasks // 10)
        words = ("submit", str(study), "--auto", "--job-id", f"job-{tasks}", "--wait")
        found.append(counter.count(f"submit --auto --wait, {tasks:,} tasks", *words))
    job_id, table = f"job-{MORE_TASKS}", counter.place / "results.csv"
    outputs = str(counter.place / "outputs")
    return [
        *found,
        counter.count(f"tasks, {MORE_TASKS:,} ended, first look", "tasks", job_id),
        counter.count("tasks, the same, second look", "tasks", job_id),
        counter.count(f"results --table, {MORE_TASKS:,} tasks", "results", job_id, "--table", str(table)),
        counter.count(f"validate, {MORE_TASKS:,} tasks", "validate", job_id),
        counter.count(f"results --download, {MORE_TASKS:,} tasks", "results", job_id, "--download", outputs),
        counter.count("register", "register", "one"),
        counter.count("update", "update", "one", "--owner", "ada"),
    ]


def _count_syncs(counter: _Counter) -> list[Counted]:
    """Count what syncs of `JOBS` jobs send."""
    counter.container = azurite.new_container()
    registry_data.fill(counter.server, counter.container, JOBS, ours=True)
    found = [
        counter.count(f"sync, the first, {JOBS:,} jobs", "sync"),
        counter.count("sync, the second, nothing changed", "sync"),
        counter.count("sync, nothing changed", "sync"),
    ]
    url = counter.server.url(counter.container)
    with contextlib.closing(open_store(url, counter.server.env)) as store:
        registry = JobRegistry(store)
        for number in range(CHANGED_JOBS):
            registry.register_job(f"new-{number:03}")
    counter.run("list", "--offline")  # what the server logs of those comes a little late
    return [
        *found,
        counter.count(f"sync, {CHANGED_JOBS} new", "sync"),
        counter.count("sync, seconds later, nothing changed", "sync"),
    ]


def _kind(method: str, path: str) -> str:
    """Return what a request counts as on a bill."""
    if method == "GET":
        return "listings" if "comp=list" in path else "reads"
    return {"PUT": "writes", "POST": "writes", "DELETE": "deletions"}.get(method, "reads")
