"""Syncs under bad conditions: each record that the server sends is mirrored within a few syncs, and no row is lost.

The conditions are those of bench/network.py: records that are never sent, refused and reset requests, one request at a
time, thin lines, a stall. Under one more the server is away after some requests of each sync. Records of another
program are read one by one; records of mops-jobs come with the listing. Half of the trials are over an older Azurite.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from bench import azurite, registry_data
from bench.conditions import Conditions, imposed
from bench.machine import ROOT
from bench.network import COMPLETE, WITH_PROBLEMS, Case, cases, reached, some_key
from mopsjobs.cache.sync import mirror
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from reliability.storm.mutations import SYNC_MUTATIONS
from reliability.storm.sync_process import Spec
from reliability.trial import Figure, PromiseBroken, Trial, hold

MAX_SYNCS = 4
"""Syncs within which all is mirrored."""

RECORDS = 500
LEAST_RECORDS = 40

SECONDS = 8.0
"""The limit of the line under a condition, which decides on the number of records."""

SYNC_SECONDS = 240
"""A sync that takes longer hangs."""

AWAY = "away after some requests"
AWAY_PARTS = (0.6, 0.35, 0.35, 0.35)
"""Requests of each sync, as parts of the records, after which the server is away until the next sync."""

SILENT_SECONDS = 2.0
"""How long a sync waits for a server that is away: the 30 seconds of a real one would be most of the trial."""


@dataclass(frozen=True)
class Registry:
    """Records in a container."""

    server: azurite.Azurite
    container: str
    ours: bool
    rows: dict[str, tuple[object, ...]]
    """The row of each key in a cache that was filled on a good line."""
    middle_key: str


@contextlib.contextmanager
def filled(server: azurite.Azurite, directory: Path, records: int, *, ours: bool) -> Iterator[Registry]:
    """Yield a new registry of that many records."""
    container = azurite.new_container()
    registry_data.fill(server, container, records, ours=ours)
    path = directory / f"{container}.db"
    with (
        mock.patch.dict(os.environ, server.env),
        contextlib.closing(open_store(server.url(container))) as store,
    ):
        mirror.sync(JobRegistry(store), str(path), "calm", full=True)
    rows = read_rows(path)
    hold(len(rows) == records, f"On a good line {len(rows)} of {records} records are mirrored.")
    yield Registry(server, container, ours, rows, some_key(server, container))


def read_rows(cache: Path) -> dict[str, tuple[object, ...]]:
    """Return the rows of a cache by key; none if no sync has made it."""
    if not cache.exists():
        return {}
    with contextlib.closing(sqlite3.connect(cache)) as connection:
        rows = connection.execute("SELECT key, version, status, record FROM job").fetchall()
    return {row[0]: tuple(row) for row in rows}


def sync_until_complete(registry: Registry, case: Case, directory: Path, mutation: str = "") -> int:
    """Sync under a condition until all is mirrored. Return the number of syncs.

    Raises:
        PromiseBroken: if a record is missing after `MAX_SYNCS` syncs, or if a sync loses or invents a row.
    """
    cache = directory / f"cache-{registry.container}.db"
    poisoned = set() if registry.ours else set(case.conditions.poisons)
    expected = {key: row for key, row in registry.rows.items() if key not in poisoned}
    seen: dict[str, tuple[object, ...]] = {}
    codes = []
    is_away = case.name == AWAY
    spec = Spec(mutation=mutation)._replace(**({"silent_seconds": SILENT_SECONDS} if is_away else {}))
    with contextlib.ExitStack() as stack:
        line = stack.enter_context(imposed(registry.server.port, Conditions())) if is_away else None
        reached_as = (
            azurite.Azurite(line.port) if line is not None else stack.enter_context(reached(registry.server, case))
        )
        for number in range(MAX_SYNCS):
            if line is not None:
                requests = line.impose(Conditions())
                line.impose(Conditions(away_at=requests + 3 + round(len(registry.rows) * AWAY_PARTS[number])))
            code, problems = _sync(reached_as, registry.container, cache, spec)
            codes.append(code)
            rows = read_rows(cache)
            lost = seen.keys() - rows.keys()
            hold(not lost, f"{case.name}: sync {number + 1} lost {len(lost)} of {len(seen)} rows.")
            wrong = [key for key, row in rows.items() if registry.rows.get(key) != row]
            hold(
                not wrong, f"{case.name}: sync {number + 1} mirrored {len(wrong)} rows that differ from their records."
            )
            seen = rows
            if code in (COMPLETE, WITH_PROBLEMS):
                keys = {str(problem["key"]) for problem in problems}
                hold(
                    keys <= poisoned or bool(case.conditions.busy or case.conditions.resets),
                    f"{case.name}: sync {number + 1} reports {sorted(keys - poisoned)[:3]}, which the server sends.",
                )
                hold(keys >= poisoned, f"{case.name}: sync {number + 1} does not report {sorted(poisoned)}.")
                if rows.keys() >= expected.keys():
                    return number + 1
    counts = f"{len(seen)} of {len(expected)} records are mirrored"
    raise PromiseBroken(f"{case.name}: none of {MAX_SYNCS} syncs ended well, exit codes {codes}; {counts}.")


def _sync(server: azurite.Azurite, container: str, cache: Path, spec: Spec) -> tuple[int, list[dict[str, object]]]:
    """Return the exit code of a sync and the problems that it reports."""
    words = ["sync", "--json", "--registry", server.url(container), "--cache", str(cache)]
    command = [sys.executable, "-m", "reliability.storm.sync_process", json.dumps(spec), *words]
    env = {**os.environ, **server.env, "PYTHONPATH": str(ROOT), "HOME": str(cache.parent)}
    try:
        ran = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=SYNC_SECONDS, check=False, cwd=ROOT
        )
    except subprocess.TimeoutExpired:
        raise PromiseBroken(f"A sync takes more than {SYNC_SECONDS} s: {' '.join(words)}.") from None
    return ran.returncode, json.loads(ran.stdout)["problems"] if ran.stdout else []


def all_cases(registry: Registry, records: int) -> Iterator[Case]:
    """Yield the conditions of a trial."""
    yield from cases(registry.middle_key, records // 2)
    yield Case(AWAY)


def run(trial: Trial) -> Iterator[Figure]:
    """Yield the syncs needed under each condition, then what was found of each mutation.

    Raises:
        PromiseBroken: if something that must hold did not, or a mutation was not found.
    """
    whole = trial.times(RECORDS, LEAST_RECORDS)
    with contextlib.ExitStack() as stack:
        places = {}
        for package in (azurite.NEWEST, azurite.OLDER):
            directory = trial.directory / package
            directory.mkdir()
            places[package] = stack.enter_context(azurite.running(directory, package)), directory
        names = [case.name for case in cases("", 0)] + [AWAY]
        for number, name in enumerate(names):
            for ours in (False, True):
                package = (azurite.NEWEST, azurite.OLDER)[(number + ours) % 2]
                yield Figure(
                    f"Azurite {azurite.version(package)}, {'own' if ours else 'foreign'} records, {name}: syncs",
                    try_condition(*places[package], name, whole, ours=ours),
                )
        server, directory = places[azurite.NEWEST]
        for mutation in SYNC_MUTATIONS:
            yield Figure(f"it was found that {mutation}", find(server, directory, mutation))


def try_condition(
    server: azurite.Azurite, directory: Path, name: str, records: int, *, ours: bool, mutation: str = ""
) -> int:
    """Return the number of syncs that mirror a new registry under a condition.

    Raises:
        PromiseBroken: see `sync_until_complete`.
    """
    template = next(case for case in itertools.chain(cases("", 0), [Case(AWAY)]) if case.name == name)
    count = max(LEAST_RECORDS, min(records, template.most_records(SECONDS, ours=ours)))
    with filled(server, directory, count, ours=ours) as registry:
        case = next(case for case in all_cases(registry, 4 if ours else count) if case.name == name)
        return sync_until_complete(registry, case, directory, mutation)


def find(server: azurite.Azurite, directory: Path, mutation: str) -> str:
    """Let a trial find a defect that has been put in. Return the sentence about it.

    Raises:
        PromiseBroken: if it does not, or finds something else.
    """
    defect = SYNC_MUTATIONS[mutation]
    try:
        try_condition(server, directory, defect.condition, LEAST_RECORDS * 2, ours=False, mutation=mutation)
    except PromiseBroken as broken:
        hold(re.search(defect.sentence, str(broken)) is not None, f"{mutation}: this was found instead: {broken}")
        return str(broken)
    raise PromiseBroken(f"not found: {mutation}.")
