"""Views of one machine never go back, and never claim to be fresher than they are.

Every later view on this machine shows at least what a command has read or written of a record. A state machine draws
sequences of commands, with writes by another machine and by another program in between.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from unittest import mock

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from mopsjobs.store.base import VersionedStore
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.utils.times import parse_time, record_time
from support.cli import REMOTE_URL, Cli, LineStore, Ran, foreign, key
from support.existing import existing
from support.machines import Machines, SyncMachine
from support.servers import Azurite

NAMES = "abcde"
JOBS = st.sampled_from(NAMES)
STATUSES = st.sampled_from([*["running"] * 5, "validating", "succeeded", "failed"])
"""Mostly one in which a job goes on to change."""
MAX_AGE = timedelta(minutes=5)
FRESHNESS = st.sampled_from([(), (), ("--offline",), ("--refresh",), ("--max-age", "5m")])
"""Flags of a view."""


class Landed(NamedTuple):
    """A write of a record, as it landed."""

    moment: datetime
    is_foreign: bool


class Views(SyncMachine):
    """One machine with its cache, another machine, and another program."""

    def __init__(self, store: VersionedStore, make_cli: Callable[[], Cli]) -> None:
        super().__init__()
        self._store = store
        self._cli = make_cli()
        self._clock = self._cli.clock
        self._other = JobRegistry(store, now=self._clock.now, sleep=self._clock.sleep)
        self._numbers = itertools.count(1)
        self._landed: dict[str, list[Landed]] = defaultdict(list)
        self._places: dict[str, dict[tuple[object, ...], int]] = defaultdict(dict)
        """The place of each state of a job in the order of its writes."""
        self._seen: dict[str, int] = {}
        """The place of the newest state of a job that a command has printed."""

    def teardown(self) -> None:
        super().teardown()
        self._store.close()

    # --- what may happen ---------------------------------------------------------------------------------------

    @initialize(has_foreign=st.booleans())
    def begin(self, has_foreign: bool) -> None:
        """Mirror a few jobs, so that the next syncs are deltas."""
        for name in NAMES:
            self._other.register_job(name)
            self._note(name, is_foreign=False)
        if has_foreign:
            self._put("theirs", foreign("theirs"))
            self._note("theirs", is_foreign=True)
        self._clock.advance(minutes=45)  # deltas do not read again what was announced so long ago
        for _ in range(3):
            self.sync(full=False)

    @rule(seconds=st.sampled_from([30.0, 30.0, 400.0, 4000.0]))
    def time_passes(self, seconds: float) -> None:
        self._clock.advance(seconds=seconds)

    @rule(job=JOBS, status=STATUSES, here=st.booleans())
    def update(self, job: str, status: str, here: bool) -> None:
        """Change the status by a command of this machine or of another."""
        metadata = json.dumps({"number": next(self._numbers)})
        self._write_here_or_there(job, here, ("update", job, status, "--metadata", metadata, "--json"))

    @rule(job=JOBS, done=st.integers(0, 9), here=st.booleans())
    def progress(self, job: str, done: int, here: bool) -> None:
        self._write_here_or_there(job, here, ("progress", job, f"{done}/9", "--json"))

    @rule(job=JOBS)
    def cancel(self, job: str) -> None:
        self._run_write(job, ("cancel", job, "--json"))

    @rule(job=JOBS, status=STATUSES, drops=st.booleans(), behind=st.sampled_from([0.0, 300.0]), flags=FRESHNESS)
    def other_program_writes(self, job: str, status: str, drops: bool, behind: float, flags: tuple[str, ...]) -> None:
        """Write unannounced, with or without the fields of mops-jobs, by a clock that may be late."""
        found = existing(self._store.get(key(job)))
        record = json.loads(found.value)
        if record["status"] in ("succeeded", "failed", "cancelled", "partial"):
            return
        if drops:
            record = json.loads(foreign(job, created_at=record["created_at"]))
        moment = self._tick()
        record |= {"status": status, "updated_at": record_time(moment - timedelta(seconds=behind))}
        record["metadata"] = {"number": next(self._numbers)}
        assert self._store.put(key(job), json.dumps(record).encode(), found.version)
        self._note(job, is_foreign=True)
        self.sync(full=False)
        self.list(flags)

    @rule(full=st.sampled_from([False, False, True]))
    def sync(self, full: bool) -> None:
        self._run("sync", *(["--full"] if full else []))

    @rule(job=JOBS)
    def wait(self, job: str) -> None:
        self._run("wait", job, "--timeout", "0s", "--json", codes=(0, 8, 100, 103))

    @rule(job=JOBS, flags=FRESHNESS)
    def status(self, job: str, flags: tuple[str, ...]) -> None:
        ran = self._run("status", job, "--json", *flags)
        if flags == ("--refresh",):
            self._check_shows(ran, job, len(self._landed[job]) - 1)

    @rule(flags=FRESHNESS)
    def list(self, flags: tuple[str, ...]) -> None:
        """Check that a listing shows what its header claims."""
        began = self._clock.now() + timedelta(seconds=1)
        document = self._run("list", "--json", "--limit", "0", *flags).json
        assert not (document["stale"] and flags == ("--refresh",))
        generated, places = parse_time(document["generated_at"]), self._shown(document["jobs"])
        known_to = parse_time(document["foreign_writes_known_to"])
        asked_for = {("--refresh",): began, ("--max-age", "5m"): generated - MAX_AGE}.get(flags, known_to)
        known_to = max(known_to, generated - timedelta(seconds=document["age_seconds"]))
        for job, writes in self._landed.items():
            for place, write in enumerate(writes):
                limit = max(known_to, asked_for) if write.is_foreign else parse_time(document["synced_at"])
                assert write.moment >= limit or places[job] >= place, (job, document, writes, places)

    @rule(job=JOBS)
    def events(self, job: str) -> None:
        """Show the events of a job, whose states later views show too."""
        before = len(self._landed[job]) - 1
        self._run("events", job)
        self._saw(job, before)

    # --- how it is done ----------------------------------------------------------------------------------------

    def _write_here_or_there(self, job: str, here: bool, argv: tuple[str, ...]) -> None:
        if here:
            self._run_write(job, argv)
            return
        with mock.patch.dict(self._cli.env, MOPS_JOBS_CACHE=self._cli.env["MOPS_JOBS_CACHE"] + ".other"):
            self._tick()
            if self._cli(*argv).code == 0:
                self._note(job, is_foreign=False)

    def _run_write(self, job: str, argv: tuple[str, ...]) -> None:
        """Run a command that changes a job. If it is refused, its message shows the state of the job."""
        self._tick()
        ran = self._cli(*argv)
        assert ran.code in (0, 6, 7), ran  # 7: cancelled, but there is no cluster to stop it on
        self._note(job, is_foreign=False)
        self._saw(job, len(self._landed[job]) - 1)
        self._check(ran)

    def _run(self, *argv: str, codes: tuple[int, ...] = (0,)) -> Ran:
        self._tick()
        ran = self._cli(*argv)
        assert ran.code in codes, ran
        self._check(ran)
        return ran

    def _check(self, ran: Ran) -> None:
        """Check that neither the output nor the cache is older than an earlier output."""
        lines = [json.loads(line) for line in ran.lines if line.startswith("{")]
        for jobs in (line.get("jobs", [line]) for line in lines):
            self._shown(jobs)
        self._shown(self._cli.ok("list", "--offline", "--json", "--limit", "0").json["jobs"])

    def _check_shows(self, ran: Ran, job: str, place: int) -> None:
        assert self._shown([ran.json])[job] == place

    def _shown(self, jobs: list[dict[str, Any]]) -> dict[str, int]:
        """Return the places of the states of jobs, after a check that none of them went back."""
        found = {}
        for shown in jobs:
            job = str(shown["job_id"])
            found[job] = self._places[job][_identity(shown)]
            assert found[job] >= self._seen.get(job, 0), (shown, self._seen)
            self._saw(job, found[job])
        return found

    def _saw(self, job: str, place: int) -> None:
        self._seen[job] = max(place, self._seen.get(job, 0))

    def _tick(self) -> datetime:
        self._clock.advance(seconds=1)
        return self._clock.now()

    def _put(self, job: str, record: str) -> None:
        assert self._store.create_if_absent(key(job), record.encode())

    def _note(self, job: str, *, is_foreign: bool) -> None:
        """Note the state of a job in the registry, if it is a new one."""
        identity = _identity(json.loads(existing(self._store.get(key(job))).value))
        if identity not in self._places[job]:
            self._places[job][identity] = len(self._landed[job])
            self._landed[job].append(Landed(self._clock.now(), is_foreign))


def _identity(record: dict[str, Any]) -> tuple[object, ...]:
    """Return what differs between any two states of a job here."""
    return (
        record["status"],
        record.get("tasks_completed") or 0,
        record.get("revision") or 0,
        parse_time(record["updated_at"]),
        record["metadata"].get("number"),
    )


def _run(machine: Callable[[], Views], examples: int, steps: int) -> None:
    """Run examples. Shrinking a failure would take minutes, and a sequence is short enough to read."""
    run_state_machine_as_test(
        machine, settings=settings(max_examples=examples, stateful_step_count=steps, phases=[Phase.generate])
    )


def test_no_view_goes_back_in_memory(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a registry across a network, many sequences."""
    current: list[VersionedStore] = []
    monkeypatch.setattr("mopsjobs.store.open_store", lambda _url, _env, **_: LineStore(current[-1]))

    def machine() -> Views:
        current.append(InMemoryVersionedStore())
        return Views(current[-1], lambda: machines(MOPS_JOBS_REGISTRY=REMOTE_URL))

    _run(machine, 20, 20)


def test_no_view_goes_back_in_sqlite(machines: Machines) -> None:
    """Over an embedded registry, which each view reads first."""

    def machine() -> Views:
        cli = machines()
        return Views(open_store(cli.env["MOPS_JOBS_REGISTRY"], {}), lambda: cli)

    _run(machine, 6, 15)


def test_no_view_goes_back_in_azurite(machines: Machines, azurite: Azurite) -> None:
    """Over Azure Blob Storage, a few."""

    def machine() -> Views:
        url = azurite.url(azurite.new_container())
        return Views(open_store(url, {}), lambda: machines(MOPS_JOBS_REGISTRY=url))

    _run(machine, 3, 10)
