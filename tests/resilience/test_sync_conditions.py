"""Bad servers and bad lines: a sync goes on with what it can read, and keeps what it has read."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from mopsjobs.registry.announcements import PREFIX as ANNOUNCEMENTS
from mopsjobs.store import open_store, pacer
from mopsjobs.store.base import Versioned, VersionedStore
from reliability.storm.proxy import POISONS, Plan, Proxy, faulty
from support.cli import Cli, Remote, foreign, key, sentences
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
        ran = cli("sync")
        assert ran.code == 7
        assert f"{chunks[1]}: not read: " in ran.err
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
