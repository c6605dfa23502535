"""Storms: many processes at the same jobs while the line to the store breaks in every way, and processes are killed.

Each process notes what it asked for and what it was told. In the end, on a line that is good again, the notes are
compared with the records, the caches and each other. verdict.py has what must hold. Nothing here knows a
backend: a `Place` is all that a storm needs.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from bench.far import SERVERS
from bench.machine import ROOT
from mopsjobs.cache.sync import mirror
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from reliability.places import Place, embedded, far
from reliability.storm import messages
from reliability.storm.client import Spec
from reliability.storm.mutations import MUTATIONS
from reliability.storm.proxy import FAULTS, Plan, Proxy
from reliability.storm.store_history import read_log
from reliability.storm.verdict import Verdict
from reliability.trial import Figure, PromiseBroken, Trial, hold

PROCESSES = 16

QUICK_SCALE = 0.05
"""Up to here a storm is one of the quick ones, which leave out what takes seconds each time: silence."""

RATE = 0.15
"""The part of the requests to which something happens: an update is three or four."""

ENDING_SECONDS = 120.0
"""How long a process may be at its last sync, on a line without faults."""

TRIES = 5
"""Processes that are looked at for a kill, until one is in the middle of its operations."""

FINDING = 5
"""Storms in which a defect that was put in has to be found. In most it is in the first; chance decides who meets it."""

MAX_CLOCK = 290.0
"""Seconds by which clocks are off: any two differ by less than the ten minutes that syncs allow for."""

_SHOWN_SENTENCES = 12
"""Sentences of a failure that are shown."""


@dataclass
class Storm:
    """The processes and faults of one storm."""

    place: Place
    directory: Path
    seed: str
    operations: int
    """Of each process."""
    processes: int = PROCESSES
    kills: int = 0
    """Processes that are killed in the middle of it; another one takes over the cache of each."""
    seconds: float = 600.0
    """After so long no process begins another operation."""
    mutation: str = ""
    line: Proxy | None = None
    """The bad line, where there is one: it is calmed before the end."""
    broken: list[str] = field(default_factory=list)
    """What did not hold, each in a sentence, once it is over."""

    def run(self) -> Counter[str]:
        """Let it happen, and count.

        Raises:
            PromiseBroken: something that must hold did not. Says what, and where the notes are.
        """
        self.directory.mkdir(parents=True)
        chance = random.Random(self.seed)
        counts: Counter[str] = Counter()
        with _Fleet(self, chance) as fleet:
            counts["processes killed"] = fleet.sail()
            counts += Counter({} if self.line is None else self.line.calm())
            fleet.land()
        verdict = Verdict([read_log(str(path)) for path in sorted(self.directory.glob("*.log"))])
        fresh = self.directory / "fresh" / "cache.db"
        with (  # boto3 looks into the environment itself
            mock.patch.dict(os.environ, self.place.calm_env),
            contextlib.closing(open_store(self.place.calm_url)) as store,
        ):
            registry = JobRegistry(store)
            verdict.judge({job.job_id: job for job in registry.list_jobs()})
            mirror.sync(registry, str(fresh), "fresh", full=True)
            again = messages.told_later(registry.store, MAX_CLOCK)
        untold = messages.judge(verdict.logs, again, verdict.counts)
        caches = sorted(self.directory.glob("*.db"))
        self.broken = [*verdict.broken, *untold, *_differences(caches, _rows(fresh))]
        if self.broken:
            shown = self.broken[:_SHOWN_SENTENCES]
            more = f" And {len(self.broken) - _SHOWN_SENTENCES} more." if len(self.broken) > _SHOWN_SENTENCES else ""
            raise PromiseBroken(f"Seed {self.seed}: " + " ".join(shown) + more)
        counts["caches equal to the registry"] = len(caches)
        return counts + verdict.counts


class _Fleet(contextlib.ExitStack):
    """The processes of a storm, which end with the block."""

    def __init__(self, storm: Storm, chance: random.Random) -> None:
        super().__init__()
        self._storm = storm
        self._chance = chance
        self._processes: list[tuple[Spec, subprocess.Popen[str]]] = []

    def _spec(self, name: str) -> Spec:
        return Spec(
            name=name,
            url=self._storm.place.url,
            log=str(self._storm.directory / f"{name}.log"),
            cache=str(self._storm.directory / f"{name}.db"),
            seed=f"{self._storm.seed}-{name}",
            operations=self._storm.operations,
            seconds=self._storm.seconds,
            clock=self._chance.uniform(-MAX_CLOCK, MAX_CLOCK),
            mutation=self._storm.mutation,
        )

    def sail(self) -> int:
        """Wait until all have done their operations, and kill some meanwhile. Returns how many were killed."""
        for number in range(self._storm.processes):
            self._start(self._spec(f"p{number:02}"))
        killed = 0
        places = sorted(self._chance.sample(range(10, 90), self._storm.kills))
        for percent in places:
            number, begun = self._at(percent)
            spec, process = self._processes[number]
            if process.poll() is None and begun < spec.first + spec.operations:
                process.kill()
                process.wait()
                killed += 1
                name = f"{spec.name}x"
                left = spec.first + spec.operations - begun
                log = str(self._storm.directory / f"{name}.log")
                following = spec._replace(name=name, log=log, seed=f"{spec.seed}x", first=begun, operations=left)
                self._start(following, number)
        for spec, process in self._processes:
            assert process.stdout is not None
            if process.stdout.readline() != "done\n":
                raise PromiseBroken(f"Seed {self._storm.seed}: {spec.name} came to no end of its operations.")
        return killed

    def _at(self, percent: int) -> tuple[int, int]:
        """Wait until a process has come so far with its operations: which one, and how many it has begun.

        One that was faster than we look is joined by another, which is looked at in its stead.
        """
        number = self._chance.randrange(len(self._processes))
        for _ in range(TRIES):
            spec, process = self._processes[number]
            begun = _until(spec, spec.first + spec.operations * percent // 100, process)
            if begun < spec.first + spec.operations:
                break
            number = len(self._processes)
            self._start(self._spec(f"p{number:02}"))
        return number, begun

    def land(self) -> None:
        """Have one after the other bring its cache up to date, and end."""
        for spec, process in self._processes:
            try:
                process.communicate("calm\n", timeout=ENDING_SECONDS)
            except subprocess.TimeoutExpired:
                raise PromiseBroken(f"Seed {self._storm.seed}: the last sync of {spec.name} hangs.") from None
            if process.returncode != 0:
                raise PromiseBroken(f"Seed {self._storm.seed}: {spec.name} ended with {process.returncode}.")

    def _start(self, spec: Spec, number: int | None = None) -> None:
        words = [sys.executable, "-m", "reliability.storm.client", json.dumps(spec._asdict())]
        env = {**os.environ, **self._storm.place.env, "PYTHONPATH": str(ROOT), "HOME": str(self._storm.directory)}
        pipe = subprocess.PIPE
        process = subprocess.Popen(words, env=env, stdin=pipe, stdout=pipe, text=True)
        self.callback(_end, process)
        if number is None:
            self._processes.append((spec, process))
        else:
            self._processes[number] = (spec, process)


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def _until(spec: Spec, number: int, process: subprocess.Popen[str]) -> int:
    """Wait until a process has begun its operation of that number, or ended. Returns how many it has begun.

    Raises:
        PromiseBroken: it does neither.
    """
    end = time.monotonic() + spec.seconds + ENDING_SECONDS
    while time.monotonic() < end:
        begun = spec.first
        with contextlib.suppress(OSError):
            begun += sum('"op":' in text for text in Path(spec.log).read_text(encoding="utf-8").splitlines())
        if begun >= number or process.poll() is not None:
            return begun
        time.sleep(0.005)  # some operations take no longer: a kill that comes too late is none
    raise PromiseBroken(f"{spec.name} has begun {begun} operations in {spec.seconds:g} s, and does not end.")


def _differences(paths: Iterable[Path], expected: list[tuple[object, ...]]) -> Iterator[str]:
    for path in paths:
        if wrong := set(_rows(path)) ^ set(expected):
            keys = sorted({str(row[0]) for row in wrong})
            yield f"The cache {path.name} differs from the registry in {len(keys)} jobs, such as {keys[:3]}."


def _rows(path: Path) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT key, version, status, record FROM job ORDER BY key").fetchall()
    return [tuple(row) for row in rows]


# --- the trial ------------------------------------------------------------------------------------------------------


def run(trial: Trial) -> Iterator[Figure]:
    """Yield storms over one SQLite file, two Azurites, DynamoDB and two servers of S3, then one for each mutation.

    Raises:
        PromiseBroken: something that must hold did not, or a mutation was not found.
    """
    yield from _figures("SQLite", over_a_file(trial))
    for backend in SERVERS:
        yield from _figures(backend, over(trial, backend))
    for backend in MUTATIONS:
        names = list(MUTATIONS[backend])
        for one in names[: trial.times(len(names))]:
            yield Figure(f"{backend}: storms until it was found that {one}", find(trial, backend, one))


def over_a_file(trial: Trial) -> Counter[str]:
    """Return a storm over one SQLite file, without a line that could break, but with kills."""
    storm = Storm(embedded(trial.directory), trial.directory / "sqlite", str(trial.seed), trial.times(120, 12))
    storm.kills, storm.processes = trial.times(16, 2), trial.times(PROCESSES, 3)
    return storm.run()


def over(trial: Trial, backend: str) -> Counter[str]:
    """Return a storm over a real server of that backend, with everything that can happen on the line, and kills."""
    kinds = tuple(kind for kind in FAULTS if kind != "stall" or trial.scale > QUICK_SCALE)
    with far(backend, trial.directory, Plan(RATE, kinds, trial.seed)) as (place, proxy):
        storm = Storm(place, trial.directory / backend, str(trial.seed), trial.times(60, 12), line=proxy)
        storm.kills, storm.processes = trial.times(8), trial.times(PROCESSES, 3)
        return storm.run()


def find(trial: Trial, backend: str, mutation: str) -> int:
    """Let a storm over that backend find a defect that has been put in. Returns after how many storms it did.

    Raises:
        PromiseBroken: it does not, or finds something else.
    """
    defect = MUTATIONS[backend][mutation]
    for attempt in range(1, FINDING + 1):
        seed = trial.seed + attempt
        name = f"{backend}-mutation-{list(MUTATIONS[backend]).index(mutation)}-{attempt}"
        with far(backend, trial.directory, Plan(defect.rate, defect.kinds, seed)) as (place, proxy):
            storm = Storm(place, trial.directory / name, str(seed), trial.times(48, 24), 4, line=proxy)
            storm.mutation = mutation
            try:
                storm.run()
            except PromiseBroken as broken:
                is_it = any(re.search(defect.sentence, sentence) for sentence in storm.broken)
                hold(is_it, f"{mutation}: this was found instead: {broken}")
                return attempt
    raise PromiseBroken(f"{backend}: not found in {attempt} storms: {mutation}.")


def _figures(where: str, counts: Counter[str]) -> list[Figure]:
    faults = {name for name in FAULTS if counts[name]}
    faulty = [Figure(f"{where}: faults, {name}", counts[name]) for name in FAULTS if name in faults]
    rest = [Figure(f"{where}: {name}", count) for name, count in sorted(counts.items()) if name not in FAULTS]
    return [*rest, *faulty]
