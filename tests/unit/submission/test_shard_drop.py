"""What shards leave in files reaches the registry: whole, interrupted, late, or forged by a model."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
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
from mopsjobs.errors import EngineError, JobExistsError, StoreUnavailableError, ValueTooLargeError
from mopsjobs.registry import precision_counts
from mopsjobs.registry.keys import BUNDLE, FORMS, MANIFEST, OUTPUT
from mopsjobs.store.directory import MAX_VALUE_BYTES, _directories, _pieces
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from mopsjobs.studies.manifest import manifest_key
from mopsjobs.submission import shard_drop
from mopsjobs.submission.offline import deliver_shards
from mopsjobs.submission.relay import deliver
from mopsjobs.submission.shard_drop import ShardDrop, fill_drop
from mopsjobs.utils.times import utc_now
from support.drops import Site, counts
from support.engines import COMPLETE, FAILED, GONE, RUNNING, Cluster, state_of
from support.existing import existing
from support.keys import key_of, keys_of
from support.ledgers import attempts_in
from support.runs import calls, place, results, sets_of, study


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture(params=["plain", "packs"])
def any_site(tmp_path: Path, request: pytest.FixtureRequest) -> Site:
    """Return a site whose registry takes outputs one by one, or in packs."""
    return Site(tmp_path, packs=request.param == "packs")


def test_the_outputs_and_counts_of_each_shard_are_delivered(any_site: Site) -> None:
    """Its attempts, events and usage too. All shards are done, so the outputs decide when Slurm has forgotten the job.

    A second delivery changes nothing, and nothing stays.
    """
    site = any_site
    site.run(sets_of(4), 0)
    state = site.deliver()
    assert counts(state) == ("running", 2, 0)
    assert site.deliver() == state
    site.work(1)
    state = site.deliver()
    assert counts(state) == ("validating", 4, 0)
    assert state.heartbeat_at is None
    assert state.usage.keys() == {"0", "1"}
    assert len(results(site.store)) == 4
    assert [str(one.outcome) for one in attempts_in(site.store)] == ["succeeded"] * 4
    assert counts(site.reconcile(GONE)) == ("succeeded", 4, 0)
    assert not site.directory.drop.exists()


def test_the_record_of_the_job_alone_tells_of_its_state(site: Site) -> None:
    """A shard sees its own tasks only, so neither its announcements nor its states are delivered."""
    site.submit(sets_of(2))
    before = [key for key in site.store.list_keys() if key.startswith("changes/")]
    site.work(0)
    site.deliver()
    assert [key for key in site.store.list_keys() if key.startswith("changes/")] == before
    assert not [entry for entry in site.store.scan("events/") if b'"kind":"state"' in (entry.value or b"")]


def test_a_delivery_that_stops_anywhere_is_completed_by_the_next(any_site: Site) -> None:
    """Before each write of the store. Counts are never ahead of outputs, and no task is lost or runs again."""
    site = any_site
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
    assert steps > 3
    assert counts(state_of(site.registry, "job")) == ("partial", 3, 1)
    assert len(results(site.store)) == 3
    assert len(attempts_in(site.store)) == 4
    assert deliver_shards(state_of(site.registry, "job"), site.session, COMPLETE)
    assert not site.directory.drop.exists()


def test_a_delivery_that_is_killed_between_two_removals_is_completed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file is removed after it was delivered."""
    site.run(sets_of(4), 0, 1)
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


def test_a_shard_that_is_started_again_runs_no_task_again(site: Site) -> None:
    """Although its outputs were delivered, as far as there were some."""
    site.submit([{"x": 0}, {"x": 1}, {"x": 2, "needs": str(site.calls.parent / "there")}])
    site.work(0, retries=0)
    site.deliver()
    (site.calls.parent / "there").touch()
    site.work(0)
    site.work(1)
    assert calls(site.calls) == {0: 1, 1: 1, 2: 2}
    assert counts(site.reconcile(COMPLETE)) == ("succeeded", 3, 0)


@pytest.mark.parametrize("shards", [1, 3])
def test_a_job_that_was_launched_with_other_shards_ends(site: Site, shards: int) -> None:
    """Reports of its earlier shards are about tasks that others have now. Their outputs are delivered."""
    site.run(sets_of(6), 0, 1)
    site.registry.update_fields("job", metadata={"slurm_shards": str(shards)})
    site.work(shards - 1, shards=shards)
    site.reconcile(RUNNING)
    assert len(results(site.store)) == 6
    assert counts(site.reconcile(COMPLETE)) == ("succeeded", 6, 0)


def test_reconcile_delivers_what_an_ended_job_has_left(site: Site) -> None:
    """Its shards had not stopped when it was cancelled. A file of a writer that was killed goes with the drop."""
    site.run(sets_of(4), 0)
    site.registry.cancel_job("job")
    (site.directory.drop / "0" / "p0123456789abcdef").touch()
    assert counts(site.reconcile(COMPLETE)) == ("cancelled", 2, 0)
    assert len(results(site.store)) == 2
    assert not site.directory.drop.exists()


@pytest.mark.usefixtures("hour_each")
def test_each_shard_has_its_part_of_a_budget(site: Site) -> None:
    """Two shards do not see each other: each ends its tasks at half of it."""
    site.submit(sets_of(12), max_cpu_hours="4")
    for number in range(2):
        said = site.work(number, workers=1, max_cpu_hours=4.0)
        assert said[-1] == "Ended by --max-cpu-hours 4: 2.00 of 2 CPU-hours used by this shard."
    state = site.reconcile(COMPLETE)
    assert counts(state) == ("partial", 4, 0)
    assert state.error_code == "BUDGET"
    reason = "Ended by --max-cpu-hours 4: 4.00 of 4 CPU-hours used; 8 of 12 tasks left no complete outputs"
    assert state.error_message == reason


def test_first_tasks_and_failures_count_in_each_shard_alone(site: Site) -> None:
    """A shard does not wait for another one, whose record it does not see. One that ends early ends alone."""
    site.submit([{"x": number, "fail": number % 2 == 1} for number in range(12)])
    said = site.work(1, first=1, retries=0)
    assert not [line for line in said if "Waiting" in line]
    assert calls(site.calls) == {1: 1, 3: 1, 5: 1, 7: 1, 9: 1}
    site.work(0, max_failures="2")
    state = site.reconcile(COMPLETE)
    assert counts(state) == ("partial", 6, 5)
    assert "Ended by --first 1" in str(state.error_message)


def test_the_error_of_a_shard_is_that_of_the_job(site: Site) -> None:
    """It comes after what Slurm says."""
    site.submit([{"x": 0}, {"x": 1, "fail": True}])
    site.work(1, retries=0)
    state = site.reconcile(FAILED)
    assert counts(state) == ("failed", 0, 1)
    assert state.error_code == FAILED.reason
    assert "ValueError: as asked" in str(state.error_message)


def test_files_are_for_their_owner_alone(site: Site) -> None:
    site.run(sets_of(2), 0)
    modes = {os.stat(os.path.join(root, name)).st_mode & 0o077 for root, _, names in os.walk(site.directory.drop)
             for name in (".", *names)}  # fmt: skip
    assert modes == {0}


def test_events_that_are_delivered_late_are_seen(site: Site, tmp_path: Path) -> None:
    """A sync lists the hours since the last one. The events were written in an earlier hour."""
    site.submit([{"x": 0, "fail": True}])
    site.work(0, retries=0)
    later = utc_now() + timedelta(hours=3)
    site.session = dataclasses.replace(site.session, now=lambda: later)
    with contextlib.closing(open_to_write(str(tmp_path / "cache.db"), "memory:")) as cache:
        sync_events(site.store, cache, now=lambda: later)
        site.deliver()
        sync_events(site.store, cache, now=lambda: later)
        assert [kind for (kind,) in cache.execute("SELECT kind FROM event")].count("task_failed") == 1


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_a_drop_that_cannot_be_read_stops_no_other_job(site: Site, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """The registry answers, so the others are asked about. The job stays as it is."""
    site.run(sets_of(2), 0)
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
    site.run(sets_of(2), 0)
    site.registry.update_status("job", status)
    elsewhere = dataclasses.replace(site.session, env={"XDG_STATE_HOME": str(site.directory.path / "other")})
    (done,) = reconcile(elsewhere, {"slurm": Cluster(COMPLETE)}, [state_of(site.registry, "job")])
    assert (done.action.verb, done.after) == ("nothing", status)
    assert str(done.problem).endswith("in another state directory (XDG_STATE_HOME) or of another user.")


@pytest.mark.parametrize("status", ["pending", "submitting", "cancelled"])
def test_a_job_may_have_no_files_before_its_launch_and_after_its_end(site: Site, status: str) -> None:
    """A submission that was killed can be resumed. A drop is removed when it was delivered."""
    site.registry.register_job("job", engine="slurm", tasks_total=1, metadata={"slurm_file_drop": "yes"})
    state = site.registry.update_status("job", status)
    assert deliver_shards(state, site.session, GONE) == state


def test_outputs_of_an_unknown_job_become_those_of_no_other(site: Site) -> None:
    """A drop without its manifest may be that of an earlier job of the id. The hint says how to deliver it."""
    site.run(sets_of(2), 0)
    shutil.rmtree(site.directory.drop / "job")
    with pytest.raises(EngineError, match="belongs to another job of the id job") as raised:
        fill_drop(site.directory, site.manifest, site.store)
    assert str(raised.value.hint).endswith("first deliver that job, with its registry: mops-jobs validate job")
    assert not (site.directory.drop / "job").exists()


def test_the_drop_of_another_job_of_the_id_is_left_alone(site: Site) -> None:
    """Another registry may have a job of the same id: neither may get the outputs of the other."""
    site.run(sets_of(2), 0)
    elsewhere = InMemoryVersionedStore()
    other = place(elsewhere, "job", study(sets_of(3)), site.calls.parent)
    with pytest.raises(EngineError, match="belongs to another job of the id job"):
        fill_drop(site.directory, other, elsewhere)
    key = next(key for key in site.store.list_keys("jobs/") if key.endswith("manifest.json"))
    found = existing(site.store.get(key))
    site.store.put(key, other.to_json(), found.version)
    with pytest.raises(JobExistsError, match="it was not delivered"):
        site.deliver()
    assert results(site.store) == {}


def test_outputs_that_are_missing_on_a_network_file_system_are_waited_for(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine may see a name a minute late. Without missing outputs, the job ends at once."""
    monkeypatch.setattr(shard_drop, "network_file_system", lambda path: "nfs4")
    site.run(sets_of(4), 0)
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


def test_outputs_that_stay_missing_end_the_job_when_names_are_old(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_drop, "network_file_system", lambda path: "nfs4")
    site.run(sets_of(4), 0)
    cluster = Cluster(COMPLETE)
    cluster.ran = EngineTimes(None, site.session.now() - timedelta(seconds=100))
    (done,) = reconcile(site.session, {"slurm": cluster}, [state_of(site.registry, "job")])
    assert done.after == "partial"


FOREIGN = [
    "snapshots/manifest.json", "snapshots/20260301T120000-0123abcd/part", "conditions/kept-0123", "notified/job/end-1",
    "changes/20260301T1200/other", "jobs/other/state.json", "jobs/job/manifest.json", "jobs/job/other.json",
    f"bundles/sha256/{'0' * 64}", "results/job/x/1/result.json", f"results/job/{'a' * 64}/1/../x", "RESULTS/job/a/1/b",
    f"results/job%2f..%2fother/{'a' * 64}/1/result.json", f"results/job/{'a' * 64}/1/.hidden", "anything",
]  # fmt: skip


@pytest.fixture
def ran(site: Site) -> Site:
    """Return the site, whose first shard has run."""
    site.run(sets_of(2), 0)
    return site


def _leave(site: Site, key: str, value: bytes = b"forged") -> Path:
    """Write the file of a key as a model can, which no check of keys stops. Return its path."""
    folder, _, name = key.rpartition("/")
    path = site.directory.drop.joinpath("0", *_directories(folder), *_pieces(name, "f"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(value)
    return path


def _forged(site: Site) -> list[str]:
    return [key for key in site.store.list_keys() if (found := site.store.get(key)) and found.value == b"forged"]


@pytest.mark.claim("A delivery takes nothing of another job")
def test_no_key_of_another_job_or_form_is_delivered(ran: Site) -> None:
    """The rest of the shard is delivered. The files are counted in one warning, and stay."""
    paths = {_leave(ran, key) for key in [*(key_of(form, "other") for form in FORMS), *FOREIGN]}
    ran.deliver()
    assert len(results(ran.store)) == 1
    assert _forged(ran) == []
    (warning,) = ran.warnings
    assert warning.startswith(f"job: {len(paths)} files of {ran.directory.drop} that no shard writes stay there")
    ran.registry.cancel_job("job")
    deliver_shards(state_of(ran.registry, "job"), ran.session, COMPLETE)
    assert len(results(ran.store)) == 1
    assert all(path.exists() for path in paths)


def test_the_record_of_a_job_is_never_that_of_a_drop(ran: Site) -> None:
    """Its counts alone are taken, by the rules of the registry."""
    drop = ShardDrop(ran.directory.drop, 0)
    key = "jobs/job/state.json"
    found = existing(drop.get(key))
    assert drop.put(key, found.value.replace(b'"running"', b'"succeeded"'), found.version)
    assert counts(ran.deliver()) == ("running", 1, 0)
    assert ran.warnings == []


@pytest.mark.parametrize("added", [7, {}, {"precise": []}, {"widest": 1.5}, {"widest": [[]]}, {"needed": 10**400}])
def test_a_precision_that_no_shard_reports_stops_no_delivery(ran: Site, added: object) -> None:
    """The other counts of the shard are taken."""
    drop = ShardDrop(ran.directory.drop, 0)
    found = existing(drop.get("jobs/job/state.json"))
    record = json.loads(found.value)
    sound = dict.fromkeys(precision_counts.COUNTS, 1)
    added = sound | added if isinstance(added, dict) and added else added
    record["metadata"]["precision"] = sound | {"shards": {"0": added}}
    assert drop.put("jobs/job/state.json", json.dumps(record).encode(), found.version)
    assert counts(ran.deliver()) == ("running", 1, 0)


@pytest.mark.claim("A delivery follows no link or pipe")
def test_a_file_of_each_kind_but_a_regular_one_is_left_alone(ran: Site, tmp_path: Path) -> None:
    """No link is followed, no pipe or device is waited for, and no loop is entered. The rest is delivered."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "fsecret.json").write_bytes(b"forged")
    folder = ran.directory.drop / "0" / "dresults" / "djob" / f"d{'a' * 64}"
    folder.mkdir(parents=True)
    (folder / "d1").symlink_to(outside)
    (folder / "dloop").symlink_to(folder)
    (folder / "d2").mkdir()
    (folder / "d2" / "flink.json").symlink_to(outside / "fsecret.json")
    os.mkfifo(folder / "d2" / "fpipe.json")
    (folder / "d2" / "fnull.json").symlink_to("/dev/zero")
    (folder / "cshort").mkdir()
    (folder / "cshort" / "fer.json").write_bytes(b"forged")
    (folder / "d3").write_bytes(b"a file where a directory belongs")
    (ran.directory.drop / "1").symlink_to(outside)
    ran.deliver()
    assert len(results(ran.store)) == 1
    assert _forged(ran) == []
    (warning,) = ran.warnings
    assert "7 files" in warning
    assert os.path.lexists(folder / "d2" / "fpipe.json")


def test_a_pipe_in_place_of_a_record_is_an_error_of_that_job(ran: Site) -> None:
    """The delivery does not wait for a writer."""
    record = ran.directory.drop / "0" / "djobs" / "djob" / "fstate.json"
    record.unlink()
    os.mkfifo(record)
    with pytest.raises(Exception, match="Not allowed to use the directory"):
        ran.deliver()


def test_names_that_are_too_long_stop_no_delivery(ran: Site) -> None:
    """Nor does a name that is not text."""
    folder = ran.directory.drop / "0" / "dresults" / "djob"
    (folder / f"d{'é' * 100}").mkdir()
    (folder / f"d{'é' * 100}" / "fx").write_bytes(b"forged")
    (folder / os.fsdecode(b"d\xff")).mkdir()
    (folder / os.fsdecode(b"d\xff") / "fx").write_bytes(b"forged")
    ran.deliver()
    assert len(results(ran.store)) == 1
    assert _forged(ran) == []
    assert len(ran.warnings) == 1


def test_a_huge_file_is_refused_unread(ran: Site) -> None:
    key = OUTPUT.key(job="job", param="a" * 64, seed=1, output="huge.bin")
    path = _leave(ran, key)
    os.truncate(path, MAX_VALUE_BYTES + 1)  # it takes no room
    ran.deliver()
    assert len(results(ran.store)) == 1
    assert ran.warnings == [f"{key}: {path} has {MAX_VALUE_BYTES + 1} bytes; at most {MAX_VALUE_BYTES} are read."]


def test_a_file_that_changes_while_it_is_read_waits(ran: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of it would stay for good, as outputs are never replaced. The next delivery takes it."""
    key = OUTPUT.key(job="job", param="a" * 64, seed=1, output="growing.json")
    path = _leave(ran, key, b"half")
    fstat = os.fstat

    def and_grow(file: int) -> os.stat_result:
        found = fstat(file)
        if os.path.samestat(found, os.stat(path)):
            with open(path, "ab") as growing:
                growing.write(b" and more")
        return found

    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", and_grow)
        ran.deliver()
    assert ran.store.get(key) is None
    ran.deliver()
    found = existing(ran.store.get(key))
    assert found.value == path.read_bytes()


def _outbox(site: Site, directory: Path) -> None:
    """Fill the outbox below a directory as a model can: a key of each form and of two jobs, and a wrong bundle."""
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(SQLiteVersionedStore(directory / "outbox.db")) as outbox:
        for key in [*keys_of("other").values(), *keys_of("job").values(), "snapshots/manifest.json", "x"]:
            outbox.create_if_absent(key, b"forged")


@pytest.mark.claim("A delivery takes nothing of another job")
def test_the_outbox_of_a_shard_carries_its_own_job_alone(ran: Site) -> None:
    """The rest is named, and removed with it."""
    _outbox(ran, ran.directory.path / "shards" / "0" / "mops-jobs" / "jobs" / "job")
    deliver_shards(state_of(ran.registry, "job"), ran.session, RUNNING)
    assert _forged(ran) == []
    deliver_shards(state_of(ran.registry, "job"), ran.session, COMPLETE)
    expected = {
        key_of(form, "job") for form in FORMS if form.name in ("output of a task", "events", "ledger", "environment")
    }
    assert set(_forged(ran)) == expected
    assert sum("cannot be delivered, and is removed: it is not of job job." in text for text in ran.warnings) > 5


def test_an_outbox_carries_a_manifest_and_true_bundles_of_its_job(tmp_path: Path) -> None:
    store = InMemoryVersionedStore()
    true = BUNDLE.key(bundle=hashlib.sha256(b"forged").hexdigest())
    refused: list[str] = []
    with contextlib.closing(SQLiteVersionedStore(tmp_path / "outbox.db")) as outbox:
        for key in [*keys_of("other").values(), *keys_of("job").values(), true]:
            outbox.create_if_absent(key, b"forged")
        assert deliver(outbox, store, "job", lambda key, _: refused.append(key))
        assert list(outbox.list_keys()) == []
    names = ("output of a task", "events", "ledger", "environment")
    expected = {key_of(form, "job") for form in FORMS if form.name in names} | {MANIFEST.key(job="job"), true}
    assert set(store.list_keys()) == expected
    assert not expected & set(refused)


def test_an_output_that_the_store_refuses_keeps_no_other(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told of, and removed with the drop."""
    site.run(sets_of(4), 0)
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


def test_the_end_of_a_job_that_slurm_has_forgotten_is_that_of_its_record(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster may forget jobs within seconds (MinJobAge), while names are not seen yet."""
    monkeypatch.setattr(shard_drop, "network_file_system", lambda path: "nfs4")
    site.run(sets_of(4), 0, 1)
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
    site.run(sets_of(2), 0)
    state = state_of(site.registry, "job")
    site.registry.cancel_job("job")
    assert deliver_shards(state, site.session, RUNNING).status == "cancelled"
    assert len(results(site.store)) == 1


def test_the_manifest_stays_while_a_file_is_left(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It tells whose outputs they are. A name that another machine has just made may not be seen, but is there."""
    site.run(sets_of(4), 0)
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
