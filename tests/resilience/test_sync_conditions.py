"""Bad servers and bad lines: a sync goes on with what it can read, and keeps what it has read."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from mopsjobs.cache.database import open_to_write
from mopsjobs.cache.sync import mirror
from mopsjobs.cache.sync import records as record_sync
from mopsjobs.cache.write_through import write_through
from mopsjobs.errors import StoreError
from mopsjobs.registry.announcements import PREFIX as ANNOUNCEMENTS
from mopsjobs.store import open_store, pacer
from mopsjobs.store.base import Versioned, VersionedStore, VersionToken
from reliability.storm.proxy import POISONS, Plan, Proxy, faulty
from support.cli import REMOTE_URL, Cli, Remote, add, foreign, key, put, put_foreign, sentences
from support.existing import existing
from support.servers import Azurite

FEW = 40
BAD = key("job-007")


class Place:
    """A registry that the command reaches through a bad server."""

    def __init__(self, azurite: Azurite, server: Proxy, cli: Cli) -> None:
        self.follow = server.follow
        self.container = azurite.new_container()
        self.client = azurite.client
        url = azurite.url(self.container)
        self.store: VersionedStore = open_store(url, {})
        """Reaches the registry directly."""
        cli.env["MOPS_JOBS_REGISTRY"] = url.replace(f":{azurite.port}/", f":{server.port}/")

    def write_foreign(self, count: int) -> None:
        """Write records as another program does: listings carry no values."""
        with self.client(self.container) as client:
            client.create_container()
            for number in range(count):
                client.upload_blob(key(f"job-{number:03}"), foreign(f"job-{number:03}"))


@pytest.fixture
def place(azurite: Azurite, cli: Cli) -> Iterator[Place]:
    with faulty(azurite.port, Plan(0.0)) as server:
        place = Place(azurite, server, cli)
        yield place
        place.store.close()


@pytest.mark.parametrize("kind", POISONS)
def test_one_bad_blob_is_named_and_the_rest_is_mirrored(
    place: Place, cli: Cli, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each sync says which record and why; when the server sends it, it is mirrored too."""
    monkeypatch.setattr(pacer, "MAX_TRIES", 3)
    place.write_foreign(FEW)
    place.follow(Plan(0.0, poisons={BAD: kind}))
    for _ in range(2):
        ran = cli("sync", "--json")
        assert ran.code == 7, ran
        (problem,) = ran.json["problems"]
        assert (problem["key"], problem["kind"]) == (BAD, "unreadable")
        assert problem["reason"].startswith("not read: ")
        assert len(cli.ids("--limit", "0")) == FEW - 1
    place.follow(Plan(0.0))
    assert cli.ok("sync", "--json").json["problems"] == []
    assert len(cli.ids("--limit", "0")) == FEW


def test_credentials_that_only_list_end_the_sync_with_one_sentence(place: Place, cli: Cli, azurite: Azurite) -> None:
    """They concern the whole store too. Rows from before stay, and the next sync with better ones is complete."""
    place.write_foreign(1)
    cli.ok("sync")
    with place.client(place.container) as client:
        for number in range(1, FEW):
            client.upload_blob(key(f"job-{number:03}"), foreign(f"job-{number:03}"))
    cli.env["AZURE_STORAGE_ACCOUNT"] = azurite.account
    cli.env["AZURE_STORAGE_SAS_TOKEN"] = azurite.sas_url(place.container, "l").partition("?")[2]
    said = cli.fails(4, "sync")
    assert [line.endswith(": 403 AuthorizationPermissionMismatch.") for line in sentences(said)] == [True]
    assert _rows(cli) == 1
    cli.env["AZURE_STORAGE_SAS_TOKEN"] = azurite.sas_url(place.container).partition("?")[2]
    assert cli.ok("sync").err == ""
    assert _rows(cli) == FEW


def test_a_bad_chunk_of_events_is_named_until_it_is_read(place: Place, cli: Cli) -> None:
    """The other chunks are mirrored. It is tried again by each sync, also when its hour is no longer listed."""
    for name in "abc":
        cli.ok("register", name)
    chunks = [name for name in place.store.list_keys() if not name.startswith(("jobs/", ANNOUNCEMENTS))]
    assert len(chunks) == 3
    place.follow(Plan(0.0, poisons={chunks[1]: "forbidden"}))
    for _ in range(2):
        assert f"{chunks[1]}: not read: " in cli.ends(7, "sync").err
        cli.clock.advance(hours=3)
    assert cli.ok("query", "SELECT count(*) AS events FROM events", "--json").json["rows"] == [{"events": 2}]
    place.follow(Plan(0.0))
    assert cli.ok("sync").err == ""
    assert cli.ok("query", "SELECT count(*) AS events FROM events", "--json").json["rows"] == [{"events": 3}]


@pytest.fixture
def _many_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a read be tried so often that chance does not refuse each try: with 12, it would in one test of 1,300."""
    monkeypatch.setattr(pacer, "MAX_TRIES", 60)


@pytest.mark.usefixtures("_many_tries")
@pytest.mark.parametrize("plan", [Plan(0.4, ("busy",)), Plan(0.25, ("lost",))])
def test_a_busy_server_and_a_bad_line_cost_time_only(place: Place, cli: Cli, plan: Plan) -> None:
    """Each request is taken at its second or third try."""
    place.write_foreign(FEW)
    place.follow(plan)
    cli.ok("sync")
    assert len(cli.ids("--limit", "0")) == FEW


@pytest.fixture
def _short_reads(monkeypatch: pytest.MonkeyPatch, _many_tries: None) -> None:
    """Let each read wait for 0.3 s, but the first one as long as ever."""
    monkeypatch.setattr(pacer, "REPLY_SECONDS", 0.45)


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the list to which the window after each round of replies is added."""
    found: list[int] = []
    adapt = pacer.ReadPacer._adapt

    def note(self: pacer.ReadPacer, *ended: Any) -> None:
        adapt(self, *ended)
        found.append(self.window)

    monkeypatch.setattr(pacer.ReadPacer, "_adapt", note)
    return found


@pytest.mark.usefixtures("_short_reads")
def test_a_server_that_takes_one_request_at_a_time_is_mirrored(place: Place, cli: Cli, windows: list[int]) -> None:
    """The replies to all threads at once would take longer than a reply may take. So fewer are asked for at once."""
    count = FEW // 2
    place.write_foreign(count)
    place.follow(Plan(0.0, serial_seconds=0.05))
    assert "Trying again in " in cli.ok("sync", "-v").err
    assert len(cli.ids("--limit", "0")) == count
    assert min(windows) < pacer.FIRST_WINDOW


@pytest.mark.usefixtures("_short_reads")
def test_a_stall_of_the_line_is_waited_for(place: Place, cli: Cli) -> None:
    """In the middle of a sync, for longer than a single read waits."""
    place.write_foreign(FEW)
    requests = place.follow(Plan(0.0))["requests"]
    place.follow(Plan(0.0, stall_at=requests + 20, stall_seconds=2.0))
    assert "Trying again in " in cli.ok("sync", "-v").err
    assert len(cli.ids("--limit", "0")) == FEW


def test_each_sync_goes_on_where_the_last_one_had_to_stop(cli: Cli, remote: Remote) -> None:
    """The store is away after every 80 reads: the rows so far stay, and the next sync reads the others."""
    for number in range(200):
        remote.put(key(f"job-{number:03}"), foreign(f"job-{number:03}"))
    store, reads = remote.store, itertools.count(1)
    store.hides_values = True
    get = store.get

    def get_until_away(name: str) -> Versioned | None:
        if not store.down and next(reads) % 80 == 0:
            store.down = True
        return get(name)

    with mock.patch.object(store, "get", get_until_away):
        rows = [0]
        while rows[-1] < 200:
            store.down = False
            cli("sync", "-q")
            rows.append(_rows(cli))
            assert rows[-1] > rows[-2]
    assert len(rows) <= 5
    store.down = False
    assert cli.ok("sync").err == ""


def test_a_listing_that_breaks_off_leaves_what_it_showed(cli: Cli, remote: Remote) -> None:
    """Also the last entries before the break, which fill no batch."""
    for number in range(30):
        remote.put(key(f"job-{number:03}"), foreign(f"job-{number:03}"))
    remote.store.break_scan_at = 20
    assert cli("sync").code == 5
    assert _rows(cli) == 20


def _rows(cli: Cli) -> int:
    """Return the number of rows, also of a cache that no sync has filled and no view shows."""
    with contextlib.closing(sqlite3.connect(cli.cache)) as connection:
        return int(connection.execute("SELECT count(*) FROM job").fetchone()[0])


# --- `sync` interrupted, and beside others: whatever ends it or overtakes it, no row becomes wrong -------------------


def _status(cli: Cli, job_id: str) -> str:
    return json.loads(cli.ok("status", job_id, "--json", "--offline").out)["status"]  # type: ignore[no-any-return]


class Interruption(BaseException):
    """Stands for anything that ends a process."""


def _names(count: int) -> str:
    return " ".join(f"job-{number:02}" for number in range(count))


@pytest.mark.parametrize("at", range(0, 20, 3))
def test_a_listing_that_breaks_off_removes_nothing(cli: Cli, remote: Remote, at: int) -> None:
    """Rows vanish only after a complete listing: one that breaks off, wherever, leaves every row there is."""
    put_foreign(remote.store.inner, _names(20))
    cli.ok("sync")
    for number in range(0, 20, 2):
        remote.store.inner.delete(key(f"job-{number:02}"))
    remote.store.break_scan_at = at // 2
    assert cli("sync").code == 5
    assert cli.held() == _names(20).split()
    remote.store.break_scan_at = None
    assert cli.ok("sync", "--json").json["removed"] == 10
    assert cli.held() == _names(20).split()[1::2]


@pytest.mark.parametrize("batches", range(1, 8))
def test_a_sync_ended_after_any_batch_leaves_true_rows(
    cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    """Ended between any two batches, each row is the record before or after the sync, and the next sync mends all."""
    monkeypatch.setattr(record_sync, "BATCH", 3)
    put_foreign(remote.store.inner, _names(20))
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


def test_a_listing_out_of_order_is_refused(cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that does not keep the order of keys is told so, and nothing is removed."""
    put_foreign(remote.store.inner, _names(9))
    cli.ok("sync")
    ordered = list(remote.store.inner.scan("jobs/"))
    monkeypatch.setattr(remote.store.inner, "scan", lambda *_: iter(reversed(ordered[:4])))
    with pytest.raises(StoreError, match="out of order"):
        _mirror(cli, remote)
    assert cli.held() == _names(9).split()


def test_an_older_sync_brings_no_ghost_back(cli: Cli, remote: Remote) -> None:
    """A job that a newer sync did not find any more is not put back by an older one that has it in its listing."""
    put_foreign(remote.store.inner, "gone kept")
    cli.clock.advance(minutes=1)

    def meanwhile() -> None:
        remote.store.after_listing = lambda: None
        remote.store.inner.delete(key("gone"))
        _mirror(cli, remote)  # a newer sync, from beginning to end

    remote.store.after_listing = meanwhile
    cli.ok("sync", "-q")
    assert cli.held() == ["kept"]


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
    record = existing(remote.jobs.get_record("mine"))
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
    assert json.loads(existing(remote.jobs.get_record("a")).value)["revision"] == 1
    assert _status(cli, "a") == "succeeded"


def test_rows_of_a_sync_never_block_an_own_write(cli: Cli, remote: Remote) -> None:
    """Even a row whose revision is higher than ours, as after a restore of the registry, is replaced."""
    remote.put(key("a"), foreign("a", "running", revision=40))
    cli.ok("sync")
    remote.put(key("a"), foreign("a", "running", revision=3))
    cli.ok("update", "a", "failed", "-q")
    assert _status(cli, "a") == "failed"


JOBS = [f"job-{number:02}" for number in range(12)]
SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY 1, 2"


class Killed(BaseException):
    """Stands for the end of a process."""


class DyingConnection:
    """A connection that its process stops using at a statement: what is not committed is lost."""

    def __init__(self, connection: sqlite3.Connection, statements: int) -> None:
        self._connection = connection
        self.left = statements

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, *words: Any) -> sqlite3.Cursor:
        self._count()
        return self._connection.execute(*words)

    def executemany(self, *words: Any) -> sqlite3.Cursor:
        self._count()
        return self._connection.executemany(*words)

    def commit(self) -> None:
        self._count()
        self._connection.commit()

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed


@pytest.fixture
def new(tmp_path: Path) -> str:
    """Return a new cache, to be copied."""
    path = str(tmp_path / "new.db")
    open_to_write(path, REMOTE_URL).close()
    return path


@pytest.fixture
def filled(remote: Remote) -> Remote:
    """Return a registry with the jobs."""
    for number, name in enumerate(JOBS):
        add(remote.jobs, name, "failed" if number % 3 else "running", owner="ada", labels={"exp": str(number % 2)})
    return remote


def _ask(path: str | Path, sql: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def _assert_complete(cache: Path, new: str, jobs: Sequence[str] = JOBS) -> None:
    """Assert that the cache has the jobs, and the schema of a new one."""
    assert [name for (name,) in _ask(cache, "SELECT job_id FROM job ORDER BY job_id")] == list(jobs)
    assert _ask(cache, SCHEMA) == _ask(new, SCHEMA)
    assert _ask(cache, "PRAGMA integrity_check(1)") == [("ok",)]


def test_a_first_sync_ended_at_any_statement_is_completed(
    cli: Cli, filled: Remote, new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next sync makes each cache equal to the registry."""
    monkeypatch.setattr(record_sync, "BATCH", 3)
    statements = 0
    is_ended = True
    while is_ended:
        shutil.copy(new, cli.cache)
        with monkeypatch.context() as patched:
            _let_die(patched, statements)
            is_ended = False
            try:
                _mirror(cli, filled)
            except Killed:
                is_ended = True
        _mirror(cli, filled)
        _assert_complete(cli.cache, new)
        statements += 1
    assert statements > 30


def _let_die(patched: pytest.MonkeyPatch, statements: int) -> None:
    def open_dying(*words: Any) -> Any:
        return DyingConnection(open_to_write(*words), statements)

    patched.setattr(mirror, "open_to_write", open_dying)
