"""`sync` interrupted, and beside others: whatever ends it or overtakes it, no row becomes wrong."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from mopsjobs.cache.sync import mirror
from mopsjobs.cache.sync import records as record_sync
from mopsjobs.cache.write_through import write_through
from mopsjobs.errors import StoreError
from mopsjobs.store.base import Versioned, VersionToken
from support.cli import REMOTE_URL, Cli, Remote, add, foreign, key, put

if TYPE_CHECKING:
    from collections.abc import Callable

    from mopsjobs.store.base import VersionedStore


def _fill(store: VersionedStore, names: str) -> None:
    for name in names.split():
        put(store, key(name), foreign(name))


def _held(cli: Cli) -> list[str]:
    return sorted(cli.ids("--offline", "--limit", "0"))


def _status(cli: Cli, job_id: str) -> str:
    return json.loads(cli.ok("status", job_id, "--json", "--offline").out)["status"]  # type: ignore[no-any-return]


class Interruption(BaseException):
    """Stands for anything that ends a process."""


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make batches of three, so that twenty jobs are many batches."""
    monkeypatch.setattr(record_sync, "BATCH", 3)


def _names(count: int) -> str:
    return " ".join(f"job-{number:02}" for number in range(count))


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("at", range(0, 20, 3))
def test_a_listing_that_breaks_off_removes_nothing(cli: Cli, remote: Remote, at: int) -> None:
    """Rows vanish only after a complete listing: one that breaks off, wherever, leaves every row there is."""
    _fill(remote.store.inner, _names(20))
    cli.ok("sync")
    for number in range(0, 20, 2):
        remote.store.inner.delete(key(f"job-{number:02}"))
    remote.store.break_scan_at = at // 2
    assert cli("sync").code == 5
    assert _held(cli) == _names(20).split()
    remote.store.break_scan_at = None
    assert cli.ok("sync", "--json").json["removed"] == 10
    assert _held(cli) == _names(20).split()[1::2]


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("batches", range(1, 8))
def test_a_sync_ended_after_any_batch_leaves_true_rows(cli: Cli, remote: Remote, batches: int) -> None:
    """Ended between any two batches, each row is the record before or after the sync, and the next sync mends all."""
    _fill(remote.store.inner, _names(20))
    cli.ok("sync")
    synced_at = cli.ok("list", "--json").json["synced_at"]
    cli.clock.advance(minutes=1)
    for name in _names(20).split():
        put(remote.store.inner, key(name), foreign(name, "succeeded"))
    _end_after(batches, lambda stop: _mirror(cli, remote, stop))
    document = cli.ok("list", "--json", "--limit", "0").json
    assert document["synced_at"] == synced_at
    assert document["total"] == 20
    changed = [job["job_id"] for job in document["jobs"] if job["status"] == "succeeded"]
    assert sorted(changed) == _names(20).split()[: batches * 3]
    cli.ok("sync")
    assert len(cli.ids("--status", "succeeded")) == 20


def _mirror(cli: Cli, remote: Remote, on_progress: Callable[[int], None] | None = None) -> record_sync.SyncReport:
    return mirror.sync(remote.jobs, str(cli.cache), REMOTE_URL, on_progress=on_progress, now=cli.clock.now)


def _end_after(batches: int, run: Callable[[Callable[[int], None]], object]) -> None:
    calls = iter(range(1, batches))

    def stop(_seen: int) -> None:
        if next(calls, None) is None:
            raise Interruption

    with pytest.raises(Interruption):
        run(stop)


@pytest.mark.usefixtures("small_batches")
def test_a_listing_out_of_order_is_refused(cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that does not keep the order of keys is told so, and nothing is removed."""
    _fill(remote.store.inner, _names(9))
    cli.ok("sync")
    ordered = list(remote.store.inner.scan("jobs/"))
    monkeypatch.setattr(remote.store.inner, "scan", lambda *_: iter(reversed(ordered[:4])))
    with pytest.raises(StoreError, match="out of order"):
        _mirror(cli, remote)
    assert _held(cli) == _names(9).split()


def test_a_write_during_a_sync_is_not_covered_by_it(cli: Cli, remote: Remote) -> None:
    """What this machine wrote after a listing was taken stays in the cache, new job and changed job alike."""
    add(remote.jobs, "old")
    cli.ok("sync")
    remote.put(key("other"), foreign("other"))

    def meanwhile() -> None:
        remote.store.after_listing = lambda: None
        cli.ok("update", "old", "failed", "-q")
        cli.ok("register", "new", "-q")

    remote.store.after_listing = meanwhile
    cli.ok("sync", "-q")
    assert _held(cli) == ["new", "old", "other"]
    assert _status(cli, "old") == "failed"


def test_an_older_sync_takes_nothing_back_from_a_newer_one(cli: Cli, remote: Remote) -> None:
    """Two syncs at work: the one whose listing is older neither overwrites nor removes what the newer one wrote."""
    add(remote.jobs, "old")
    cli.ok("sync")

    def meanwhile() -> None:
        remote.jobs.update_status("old", "failed")
        add(remote.jobs, "new")
        _mirror(cli, remote)  # a newer sync, from beginning to end

    remote.jobs.update_fields("old", owner="ada")  # so that the older sync has something to write
    remote.store.after_listing = meanwhile
    cli.ok("sync", "-q")
    assert _held(cli) == ["new", "old"]
    assert _status(cli, "old") == "failed"


def test_an_older_sync_brings_no_ghost_back(cli: Cli, remote: Remote) -> None:
    """A job that a newer sync did not find any more is not put back by an older one that has it in its listing."""
    _fill(remote.store.inner, "gone kept")
    cli.clock.advance(minutes=1)

    def meanwhile() -> None:
        remote.store.after_listing = lambda: None
        remote.store.inner.delete(key("gone"))
        _mirror(cli, remote)  # a newer sync, from beginning to end

    remote.store.after_listing = meanwhile
    cli.ok("sync", "-q")
    assert _held(cli) == ["kept"]


def test_the_first_listing_beside_the_first_writer_prints_its_document(cli: Cli, remote: Remote) -> None:
    """The registry is empty when it is listed, and a job comes into registry and cache before the sync ends.

    The row of that job is younger than the listing. It was taken for one that the registry had lost, and nothing was
    printed.
    """

    def register() -> None:
        remote.store.after_listing = lambda: None
        cli.app().registry.register_job("new")

    remote.store.after_listing = register
    ran = cli.ok("list", "--json")
    assert [job["job_id"] for job in ran.json["jobs"]] == ["new"]
    assert ran.err == ""


def test_own_writes_are_listed_at_once(cli: Cli, remote: Remote) -> None:
    """What this machine writes is in the next listing, without a sync; an older revision never comes back."""
    cli.ok("sync")
    cli.ok("register", "mine", "--label", "a=1", "-q")
    cli.ok("progress", "mine", "2/8", "-q")
    remote.store.down = True
    assert cli.ids("--label", "a=1", "--status", "running") == ["mine"]
    record = remote.jobs.get_record("mine")
    assert record is not None
    older = json.dumps({**json.loads(record.value), "revision": 1, "status": "pending"}).encode()
    late = Versioned(older, VersionToken("older"))
    write_through(str(cli.cache), REMOTE_URL, "mine", key("mine"), late, None)
    assert _status(cli, "mine") == "running"


@pytest.mark.parametrize("synced", [True, False])
def test_own_writes_are_listed_after_our_revision_was_dropped(cli: Cli, remote: Remote, synced: bool) -> None:
    """By a foreign writer.

    Our count begins anew on a record that lost it: the lower revision does not hide the write.
    """
    cli.ok("sync")
    cli.ok("register", "a", "-q")
    for number in range(1, 4):
        cli.ok("progress", "a", f"{number}/8", "-q")
    remote.put(key("a"), foreign("a", "running", tasks_total=8))
    if synced:
        cli.ok("sync", "-q")
    else:
        cli.clock.advance(seconds=1)
    cli.ok("update", "a", "succeeded", "-q")
    record = remote.jobs.get_record("a")
    assert record is not None
    assert json.loads(record.value)["revision"] == 1
    assert _status(cli, "a") == "succeeded"
