"""Shards that do not reach the registry leave files, and a delivery that may stop anywhere brings them there."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.app.reconcile import reconcile
from mopsjobs.cache.database import open_to_write
from mopsjobs.cache.sync.events import sync_events
from mopsjobs.engines.base import EngineState, EngineTimes
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.errors import EngineError, JobExistsError, StoreUnavailableError, ValueTooLargeError
from mopsjobs.ledger.retry_policy import RetryPolicy
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import JobState
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies.manifest import Manifest, manifest_key
from mopsjobs.submission import shard_drop
from mopsjobs.submission.session import Session
from mopsjobs.submission.shard_delivery import deliver_shards
from mopsjobs.submission.shard_drop import ShardDrop, deliver_drop, fill_drop
from mopsjobs.utils.times import utc_now
from support.engines import COMPLETE, FAILED, GONE, RUNNING, Cluster, state_of
from support.ledgers import attempts_in
from support.runs import calls, code, place, results, sets_of, study, work

SHARDS = 2

ONCE = RetryPolicy(retries=0)


class StopsAfter(InMemoryVersionedStore):
    """A store that stops answering before its n-th write."""

    def __init__(self) -> None:
        super().__init__()
        self.left: float = float("inf")

    def _count(self) -> None:
        if self.left <= 0:
            raise StoreUnavailableError("Cannot reach the registry: as asked.")
        self.left -= 1

    def put(self, *args: Any) -> Any:
        self._count()
        return super().put(*args)

    def create_if_absent(self, key: str, value: bytes) -> Any:
        self._count()
        return super().create_if_absent(key, value)


class Site:
    """A cluster whose nodes share a directory with the machine that has the registry."""

    def __init__(self, directory: Path) -> None:
        self.store = StopsAfter()
        self.registry = JobRegistry(self.store, sleep=lambda _: None)
        self.warnings: list[str] = []
        self.session = Session(
            registry_url="memory:",
            open_registry=lambda: self.registry,
            env={"XDG_STATE_HOME": str(directory / "state"), "HOME": str(directory)},
            warn=self.warnings.append,
        )
        self.directory = JobDir.for_job("job", self.session.env)
        self.calls = code(directory / "code") / "calls"
        self.manifest: Manifest

    def submit(self, sets: list[dict[str, Any]]) -> None:
        """Submit a job of two shards with a drop."""
        for one in sets:
            one["calls"] = str(self.calls)
        self.manifest = place(self.store, "job", study(sets), self.calls.parent)
        metadata = {"slurm_file_drop": "yes", "slurm_shards": str(SHARDS)}
        self.registry.register_job("job", engine="slurm", tasks_total=len(sets), metadata=metadata)
        self.registry.update_status("job", "scheduled")
        fill_drop(self.directory, self.manifest, self.store)

    def work(self, shard: int, **more: Any) -> list[str]:
        """Run a shard as on its node: it has its own part of the drop alone. Return what it said."""
        drop = ShardDrop(self.directory.drop, shard)
        directory = self.directory.path / f"shards/{shard}/mops-jobs/jobs/job"
        how = {"number": shard, "shards": SHARDS, "drop": self.directory.drop, **more}
        return work(drop, JobRegistry(drop), directory, **how)[1]

    def deliver(self, *, is_over: bool = False) -> JobState:
        return deliver_drop(
            state_of(self.registry, "job"),
            self.session,
            lambda key, reason: self.warnings.append(f"{key}: {reason}"),
            is_over=is_over,
        )

    def reconcile(self, says: EngineState) -> JobState:
        (done,) = reconcile(self.session, {"slurm": Cluster(says)}, [state_of(self.registry, "job")])
        assert done.problem is None
        return state_of(self.registry, "job")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def _counts(state: JobState) -> tuple[str, int, int]:
    return str(state.status), state.tasks_completed, state.tasks_failed


def test_the_outputs_and_counts_of_each_shard_are_delivered(site: Site) -> None:
    """Its attempts, events and usage too. All shards are done, so the outputs decide when Slurm has forgotten the job.

    A second delivery changes nothing, and nothing stays.
    """
    site.submit(sets_of(4))
    site.work(0)
    state = site.deliver()
    assert _counts(state) == ("running", 2, 0)
    assert site.deliver() == state
    site.work(1)
    state = site.deliver()
    assert _counts(state) == ("validating", 4, 0)
    assert state.heartbeat_at is None
    assert state.usage.keys() == {"0", "1"}
    assert len(results(site.store)) == 4
    assert [str(one.outcome) for one in attempts_in(site.store)] == ["succeeded"] * 4
    assert _counts(site.reconcile(GONE)) == ("succeeded", 4, 0)
    assert not site.directory.drop.exists()


def test_the_record_of_the_job_alone_tells_of_its_state(site: Site) -> None:
    """A shard sees its own tasks only, so neither its announcements nor its states are delivered."""
    site.submit(sets_of(2))
    before = [key for key in site.store.list_keys() if key.startswith("changes/")]
    site.work(0)
    site.deliver()
    assert [key for key in site.store.list_keys() if key.startswith("changes/")] == before
    events = [entry.value or b"" for entry in site.store.scan("events/")]
    assert not [event for event in events if b'"kind":"state"' in event]


def test_events_that_are_delivered_late_are_seen(site: Site, tmp_path: Path) -> None:
    """A sync lists the hours since the last one. The events were written in an earlier hour."""
    site.submit([{"x": 0, "fail": True}])
    site.work(0, policy=ONCE)
    later = utc_now() + timedelta(hours=3)
    site.session = dataclasses.replace(site.session, now=lambda: later)
    with contextlib.closing(open_to_write(str(tmp_path / "cache.db"), "memory:")) as cache:
        sync_events(site.store, cache, now=lambda: later)
        site.deliver()
        sync_events(site.store, cache, now=lambda: later)
        assert [kind for (kind,) in cache.execute("SELECT kind FROM event")].count("task_failed") == 1


def test_a_delivery_that_stops_anywhere_is_completed_by_the_next(site: Site) -> None:
    """Before each write of the store. Counts are never ahead of outputs, and no task is lost or runs again."""
    site.submit([*sets_of(3), {"x": 3, "fail": True}])
    site.work(0)
    site.work(1)
    steps = 0
    while True:
        site.store.left = steps
        try:
            site.reconcile(COMPLETE)
            break
        except StoreUnavailableError:
            steps += 1
        site.store.left = float("inf")
        seen = state_of(site.registry, "job")
        assert len(results(site.store)) >= seen.tasks_completed
    site.store.left = float("inf")
    assert steps > 5
    assert _counts(state_of(site.registry, "job")) == ("partial", 3, 1)
    assert len(results(site.store)) == 3
    assert len(attempts_in(site.store)) == 4
    assert deliver_shards(state_of(site.registry, "job"), site.session, COMPLETE)
    assert not site.directory.drop.exists()


def test_a_delivery_that_is_killed_between_two_removals_is_completed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is removed after it was delivered."""
    site.submit(sets_of(4))
    site.work(0)
    site.work(1)
    site.reconcile(RUNNING)
    site.registry.finalize_job("job", "succeeded")
    removals, kill_at = 0, 0
    delete = ShardDrop.delete

    def killed(store: ShardDrop, key: str) -> bool:
        nonlocal removals
        if removals == kill_at:
            raise KeyboardInterrupt
        removals += 1
        return delete(store, key)

    monkeypatch.setattr(shard_drop.DirectoryVersionedStore, "delete", killed)
    while site.directory.drop.exists():
        removals = 0
        try:
            site.deliver(is_over=True)
        except KeyboardInterrupt:
            kill_at += 1
        assert len(results(site.store)) == 4
    assert kill_at > 0


@pytest.mark.parametrize("shards", [1, 3])
def test_a_job_that_was_launched_with_other_shards_ends(site: Site, shards: int) -> None:
    """Reports of its earlier shards are about tasks that others have now. Their outputs are delivered."""
    site.submit(sets_of(6))
    site.work(0)
    site.work(1)
    site.registry.update_fields("job", metadata={"slurm_shards": str(shards)})
    site.work(shards - 1, shards=shards)
    site.reconcile(RUNNING)
    assert len(results(site.store)) == 6
    assert _counts(site.reconcile(COMPLETE)) == ("succeeded", 6, 0)


def test_a_shard_that_is_started_again_runs_no_task_again(site: Site) -> None:
    """Although its outputs were delivered, as far as there were some."""
    site.submit([{"x": 0}, {"x": 1}, {"x": 2, "needs": str(site.calls.parent / "there")}])
    site.work(0, policy=ONCE)
    site.deliver()
    (site.calls.parent / "there").touch()
    site.work(0)
    site.work(1)
    assert calls(site.calls) == {0: 1, 1: 1, 2: 2}
    assert _counts(site.reconcile(COMPLETE)) == ("succeeded", 3, 0)


def test_what_a_cancelled_job_has_stored_is_delivered_once_it_has_stopped(site: Site) -> None:
    """Its record stays as it is."""
    site.submit(sets_of(4))
    site.work(0)
    state = site.registry.cancel_job("job")
    deliver_shards(state, site.session, RUNNING)
    assert site.directory.drop.exists()
    assert deliver_shards(state, site.session, COMPLETE).status == "cancelled"
    assert len(results(site.store)) == 2
    assert not site.directory.drop.exists()


def test_reconcile_delivers_what_an_ended_job_has_left(site: Site) -> None:
    """Its shards had not stopped when it was cancelled. A file of a writer that was killed goes with the drop."""
    site.submit(sets_of(4))
    site.work(0)
    site.registry.cancel_job("job")
    (site.directory.drop / "0" / "p0123456789abcdef").touch()
    assert site.reconcile(COMPLETE).status == "cancelled"
    assert len(results(site.store)) == 2
    assert not site.directory.drop.exists()


def test_the_error_of_a_shard_is_that_of_the_job(site: Site) -> None:
    """It comes after what Slurm says."""
    site.submit([{"x": 0}, {"x": 1, "fail": True}])
    site.work(1, policy=ONCE)
    state = site.reconcile(FAILED)
    assert _counts(state) == ("failed", 0, 1)
    assert state.error_code == FAILED.reason
    assert "ValueError: as asked" in str(state.error_message)


def test_first_tasks_and_failures_count_in_each_shard_alone(site: Site) -> None:
    """A shard does not wait for another one, whose record it does not see. One that ends early ends alone."""
    site.submit([{"x": number, "fail": number % 2 == 1} for number in range(12)])
    said = site.work(1, first=1, policy=ONCE)
    assert not [line for line in said if "Waiting" in line]
    assert calls(site.calls) == {1: 1, 3: 1, 5: 1, 7: 1, 9: 1}
    site.work(0, max_failures="2")
    state = site.reconcile(COMPLETE)
    assert _counts(state) == ("partial", 6, 5)
    assert "Ended by --first 1" in str(state.error_message)


def test_an_output_that_the_store_refuses_keeps_no_other(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told of, and removed with the drop."""
    site.submit(sets_of(4))
    site.work(0)
    create = site.store.create_if_absent
    refused = next(iter(ShardDrop(site.directory.drop, 0).list_keys("results/")))

    def refuse(key: str, value: bytes) -> Any:
        if key == refused:
            raise ValueTooLargeError("too large")
        return create(key, value)

    monkeypatch.setattr(site.store, "create_if_absent", refuse)
    site.deliver()
    assert len(results(site.store)) == 1
    assert site.warnings == [f"{refused}: too large"]


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_a_drop_that_cannot_be_read_stops_no_other_job(site: Site, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """The registry answers, so the others are asked about. The job stays as it is."""
    site.submit(sets_of(2))
    site.work(0)
    site.registry.register_job("other", engine="slurm")
    site.registry.update_status("other", "scheduled")

    scandir = os.scandir

    def fail(path: Any) -> Any:
        if str(path).startswith(str(site.directory.drop)):
            raise OSError(code, os.strerror(code), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)
    states = [state_of(site.registry, name) for name in ("job", "other")]
    first, second = reconcile(site.session, {"slurm": Cluster(COMPLETE)}, states)
    assert (first.action.verb, first.after) == ("nothing", "scheduled")
    assert f"the directory {site.directory.drop}" in str(first.problem)
    assert (second.after, second.problem) == ("succeeded", None)


@pytest.mark.parametrize("status", ["scheduled", "running"])
def test_a_machine_without_the_files_does_not_end_the_job(site: Site, status: str) -> None:
    """Such as cron without XDG_STATE_HOME, or another user. The record tells that there are files."""
    site.submit(sets_of(2))
    site.work(0)
    site.registry.update_status("job", status)
    elsewhere = dataclasses.replace(site.session, env={"XDG_STATE_HOME": str(site.directory.path / "other")})
    (done,) = reconcile(elsewhere, {"slurm": Cluster(COMPLETE)}, [state_of(site.registry, "job")])
    assert (done.action.verb, done.after) == ("nothing", status)
    assert str(done.problem).endswith("in another state directory (XDG_STATE_HOME) or of another user.")


@pytest.mark.parametrize("status", ["pending", "submitting", "cancelled"])
def test_a_job_may_have_no_files_before_its_launch_and_after_its_end(site: Site, status: str) -> None:
    """A submission that was killed can be resumed. A drop is removed when it was delivered."""
    metadata = {"slurm_file_drop": "yes"}
    site.registry.register_job("job", engine="slurm", tasks_total=1, metadata=metadata)
    state = site.registry.update_status("job", status)
    assert deliver_shards(state, site.session, GONE) == state


def test_the_drop_of_another_job_of_the_id_is_left_alone(site: Site) -> None:
    """Another registry may have a job of the same id: neither may get the outputs of the other."""
    site.submit(sets_of(2))
    site.work(0)
    elsewhere = InMemoryVersionedStore()
    other = place(elsewhere, "job", study(sets_of(3)), site.calls.parent)
    with pytest.raises(EngineError, match="belongs to another job of the id job"):
        fill_drop(site.directory, other, elsewhere)
    key = next(key for key in site.store.list_keys("jobs/") if key.endswith("manifest.json"))
    found = site.store.get(key)
    assert found is not None
    site.store.put(key, other.to_json(), found.version)
    with pytest.raises(JobExistsError, match="it was not delivered"):
        site.deliver()
    assert results(site.store) == {}


def test_outputs_that_are_missing_on_a_network_file_system_are_waited_for(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine may see a name a minute late. Without missing outputs, the job ends at once."""
    monkeypatch.setattr(shard_drop, "network_file_system", lambda path: "nfs4")
    site.submit(sets_of(4))
    site.work(0)
    cluster = Cluster(COMPLETE)
    ends: list[tuple[Callable[[], object], int, str]] = [
        (lambda: None, 10, "running"),
        (lambda: site.work(1), 20, "succeeded"),
    ]
    for before, seconds, expected in ends:
        before()
        cluster.ran = EngineTimes(None, site.session.now() - timedelta(seconds=seconds))
        (done,) = reconcile(site.session, {"slurm": cluster}, [state_of(site.registry, "job")])
        assert (done.after, done.problem) == (expected, None)


def test_the_end_of_a_job_that_slurm_has_forgotten_is_that_of_its_record(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster may forget jobs within seconds (MinJobAge), while names are not seen yet."""
    monkeypatch.setattr(shard_drop, "network_file_system", lambda path: "nfs4")
    site.submit(sets_of(4))
    site.work(0)
    site.work(1)
    site.deliver()
    drop = ShardDrop(site.directory.drop, 0)
    unseen = next(drop.list_keys("results/"))
    assert drop.delete(unseen)
    assert site.store.delete(unseen)
    assert site.reconcile(GONE).status == "validating"
    later = utc_now() + timedelta(seconds=100)
    site.session = dataclasses.replace(site.session, now=lambda: later)
    assert site.reconcile(GONE).status == "partial"


def test_a_report_that_comes_after_the_end_is_left_out(site: Site) -> None:
    """Another process ends the job between the outputs and the report. Its end counts."""
    site.submit(sets_of(2))
    site.work(0)
    state = state_of(site.registry, "job")
    site.registry.cancel_job("job")
    assert deliver_shards(state, site.session, RUNNING).status == "cancelled"
    assert len(results(site.store)) == 1


def test_outputs_that_stay_missing_end_the_job_when_names_are_old(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_drop, "network_file_system", lambda path: "nfs4")
    site.submit(sets_of(4))
    site.work(0)
    cluster = Cluster(COMPLETE)
    cluster.ran = EngineTimes(None, site.session.now() - timedelta(seconds=100))
    (done,) = reconcile(site.session, {"slurm": cluster}, [state_of(site.registry, "job")])
    assert done.after == "partial"


def test_the_manifest_stays_while_a_file_is_left(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It tells whose outputs they are. A name that another machine has just made may not be seen, but is there."""
    site.submit(sets_of(4))
    site.work(0)
    state = site.registry.cancel_job("job")
    scan, unseen = ShardDrop.scan, str(site.directory.drop / "0")
    with monkeypatch.context() as patched:
        patched.setattr(
            shard_drop.DirectoryVersionedStore,
            "scan",
            lambda store, *how: iter(()) if store.path == unseen else scan(store, *how),
        )
        deliver_shards(state, site.session, COMPLETE)
    assert ShardDrop(site.directory.drop, 1).get(manifest_key("job")) is not None
    assert results(site.store) == {}
    deliver_shards(state, site.session, COMPLETE)
    assert len(results(site.store)) == 2
    assert not site.directory.drop.exists()


def test_outputs_of_an_unknown_job_become_those_of_no_other(site: Site) -> None:
    """A drop without its manifest may be that of an earlier job of the id. The hint says how to deliver it."""
    site.submit(sets_of(2))
    site.work(0)
    shutil.rmtree(site.directory.drop / "job")
    with pytest.raises(EngineError, match="belongs to another job of the id job") as raised:
        fill_drop(site.directory, site.manifest, site.store)
    assert str(raised.value.hint).endswith("first deliver that job, with its registry: mops-jobs validate job")
    assert not (site.directory.drop / "job").exists()


def test_files_are_for_their_owner_alone(site: Site) -> None:
    site.submit(sets_of(2))
    site.work(0)
    modes = {os.stat(os.path.join(root, name)).st_mode & 0o077 for root, _, names in os.walk(site.directory.drop)
             for name in (".", *names)}  # fmt: skip
    assert modes == {0}
