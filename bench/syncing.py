"""Mirroring a registry in Azurite, against reading it record by record, and against the bare listing."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
import time
from collections.abc import Callable

from bench import azurite, registry_data
from bench.machine import ROOT, Setup
from bench.measure import Case, in_turn, progress
from bench.report import Line, at_most
from mopsjobs.cache.mirror import sync
from mopsjobs.registry import JobRegistry
from mopsjobs.store import identity, open_store

FULL_SECONDS, FULL_MIB = 3.0, 150.0
"""Goals for a full sync of 10,000 records of ours."""

FULL_RATIO = 0.27
"""The same goal for any machine: on the one that it was set for, a GET per record takes 11 s."""


def run(setup: Setup) -> list[Line]:
    """Measure syncs of `setup.jobs` records, of ours and of another program."""
    with azurite.running(setup.directory) as server:
        env = {"AZURE_STORAGE_CONNECTION_STRING": server.connection_string}
        ours, moving, foreign = server.new_url(), server.new_url(), server.new_url()
        progress(f"writing {setup.jobs:,} records of ours, twice")
        registry_data.fill_ours(ours, env, setup.jobs)
        registry_data.fill_ours(moving, env, setup.jobs)  # apart: what was announced is looked at for half an hour
        progress(f"writing {setup.jobs:,} records as another program does")
        registry_data.fill_foreign(foreign, server.connection_string, setup.jobs)
        cases = {
            "full sync of our records": _sync(setup, ours, env),
            "sync, nothing changed": _delta(setup, ours, env, changed=0),
            "sync, 10 changed": _delta(setup, moving, env, changed=10),
            "full sync of foreign records": _sync(setup, foreign, env),
            "listing alone": _peer(setup, "list", ours, env),
            "listing with metadata": _peer(setup, "list-metadata", ours, env),
            "GET per record, 16 threads": _peer(setup, "get-16", ours, env),
            "GET per record, one by one": _peer(setup, "get-1", ours, env, slow=True),
        }
        progress(f"syncs, {setup.runs} rounds of {len(cases)} processes")
        in_turn(cases.values(), setup.runs, setup.directory)
    return _lines(setup, cases)


def _lines(setup: Setup, cases: dict[str, Case]) -> list[Line]:
    full = cases["full sync of our records"]
    unchanged, ten = cases["sync, nothing changed"], cases["sync, 10 changed"]
    bare, packed = cases["listing alone"], cases["listing with metadata"]
    one_by_one, many = cases["GET per record, one by one"], cases["GET per record, 16 threads"]
    foreign = cases["full sync of foreign records"]
    limited = setup.jobs == 10_000  # what the goals are about
    goals = {
        "ratio": at_most(FULL_RATIO, full.ratios_to(many)[0], " x") if limited else None,
        "seconds": at_most(FULL_SECONDS, full.seconds, " s") if limited else None,
        "memory": at_most(FULL_MIB, full.peak_mib, " MiB") if limited else None,
    }
    memory = full.peak_mib / bare.peak_mib
    lines = [
        Line(
            f"full sync, {setup.jobs:,} of our records",
            _s(full),
            "GET, 16 threads",
            *full.ratios_to(many),
            goals["ratio"],
        ),
        Line("- the same", _s(full), "GET, one by one", *full.ratios_to(one_by_one), goals["seconds"]),
        Line("- the same", _s(full), "listing with metadata", *full.ratios_to(packed)),
        Line("- the same", _s(full), "listing alone", *full.ratios_to(bare)),
        Line("- its peak memory", _mib(full), "listing alone", memory, None, goals["memory"]),
        Line("sync, nothing changed", _s(unchanged), "listing alone", *unchanged.ratios_to(bare)),
        Line("sync, 10 changed", _s(ten), "sync, nothing changed", *ten.ratios_to(unchanged)),
        Line(f"full sync, {setup.jobs:,} foreign records", _s(foreign), "GET, 16 threads", *foreign.ratios_to(many)),
        Line("- its peak memory", _mib(foreign), "GET, 16 threads", foreign.peak_mib / many.peak_mib),
    ]
    peers = {what: cases[what] for what in cases if what.startswith(("listing", "GET"))}
    return lines + [Line(what, _s(case), "listing alone", *case.ratios_to(bare)) for what, case in peers.items()]


def _sync(setup: Setup, url: str, env: dict[str, str]) -> Case:
    """`mops-jobs sync` into a new cache."""
    cache = setup.directory / f"{url.rpartition('/')[2]}-fresh.db"
    command, ours = setup.command("sync", "--json", "--registry", url, "--cache", str(cache))

    def prepare() -> None:
        for path in setup.directory.glob(f"{cache.name}*"):
            path.unlink()

    def check(output: str) -> None:
        report = json.loads(output)
        with contextlib.closing(sqlite3.connect(cache)) as connection:
            cached = connection.execute("SELECT count(*) FROM jobs").fetchone()[0]
        if report["added"] != setup.jobs or cached != setup.jobs or report["problems"]:
            raise RuntimeError(f"sync did something else, and the cache has {cached} jobs:\n{output[:2000]}")

    return Case(command, {**ours, **env}, prepare, check)


def _delta(setup: Setup, url: str, env: dict[str, str], *, changed: int) -> Case:
    """`mops-jobs sync` into a cache that is up to date but for the jobs that are changed before each round."""
    cache = setup.directory / f"{url.rpartition('/')[2]}-{changed}-changed.db"
    command, ours = setup.command("sync", "--json", "--registry", url, "--cache", str(cache))
    registry = JobRegistry(open_store(url, env))
    registry_id = identity(url, env)
    active = [job.job_id for job in registry.get_active_jobs()][:changed]

    def prepare() -> None:
        # Up to date, and sure that nobody writes unannounced: that takes two full syncs, and each hour another.
        while sync(registry, str(cache), registry_id).is_full:
            pass
        for job_id in active:
            registry.update_fields(job_id, metadata={"round": str(time.monotonic_ns())})

    def check(output: str) -> None:
        report = json.loads(output)
        if (report["mode"], report["changed"], len(active)) != ("delta", changed, changed) or report["problems"]:
            raise RuntimeError(f"sync did something else:\n{output[:2000]}")

    return Case(command, {**ours, **env}, prepare, check)


def _peer(setup: Setup, what: str, url: str, env: dict[str, str], *, slow: bool = False) -> Case:
    check = _must_print(setup.jobs)
    argv = [sys.executable, "-m", "bench.peers", what, url.rpartition("/")[2]]
    return Case(argv, {**setup.env, **env, "PYTHONPATH": str(ROOT)}, check=check, slow=slow)


def _must_print(count: int) -> Callable[[str], None]:
    def check(output: str) -> None:
        if int(output) != count:
            raise RuntimeError(f"A peer has seen {output.strip()} records instead of {count}.")

    return check


def _s(case: Case) -> str:
    return f"{case.seconds:.2f} s ({case.cpu_seconds:.2f} s of processor)"


def _mib(case: Case) -> str:
    return f"{case.peak_mib:.0f} MiB"
