"""What goes wrong around a drop: files that are elsewhere, late, another job's or unreadable, and old reports."""

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

from mopsjobs.app.jobs.reconcile import reconcile
from mopsjobs.cache.database import open_to_write
from mopsjobs.cache.sync.events import sync_events
from mopsjobs.engines.base import EngineTimes
from mopsjobs.errors import EngineError, JobExistsError, ValueTooLargeError
from mopsjobs.ledger.retry_policy import RetryPolicy
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies.manifest import manifest_key
from mopsjobs.submission import shard_drop
from mopsjobs.submission.offline import deliver_shards
from mopsjobs.submission.shard_drop import ShardDrop, fill_drop
from mopsjobs.utils.times import utc_now
from support.drops import Site, counts
from support.engines import COMPLETE, GONE, RUNNING, Cluster, state_of
from support.runs import place, results, sets_of, study

ONCE = RetryPolicy(retries=0)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


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
    assert counts(site.reconcile(COMPLETE)) == ("succeeded", 6, 0)


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
