"""Full or delta: a sync costs what changed, and lists everything whenever that is the only way to be right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from mopsjobs.cache.sync import mirror, records
from mopsjobs.cache.sync.records import BATCH
from mopsjobs.registry import announcements
from mopsjobs.store.base import Entry, WantsValues, always
from support.cli import Cli, Remote, foreign, key

COUNT = 1200
COUNTED = ("mode", "seen", "added", "changed", "unchanged", "removed", "fetched")


def _name(number: int) -> str:
    return f"job-{number:05}"


def _sync(cli: Cli, *flags: str) -> dict[str, Any]:
    return cli.ok("sync", "--json", *flags).json  # type: ignore[no-any-return]


def _mode(cli: Cli, *flags: str) -> str:
    return str(_sync(cli, *flags)["mode"])


@pytest.fixture
def filled(cli: Cli, remote: Remote) -> Remote:
    """Return a registry of many jobs, mirrored until the syncs are sure that all writers announce."""
    for number in range(COUNT):
        remote.store.inner.create_if_absent(key(_name(number)), foreign(_name(number)).encode())
    assert [_mode(cli) for _ in range(3)] == ["full", "full", "delta"]
    cli.clock.advance(minutes=9)
    assert _mode(cli) == "delta"
    return remote


@pytest.fixture
def calls(filled: Remote) -> Counter[str]:
    """Return what the store was asked since."""
    filled.store.calls.clear()
    return filled.store.calls


def test_what_changed_is_read_and_nothing_else(cli: Cli, filled: Remote, calls: Counter[str]) -> None:
    """Ten changed jobs are ten reads, and a new one is one more. What is announced and unchanged counts as that.

    One more read shows that the registry is there.
    """
    for number in range(10):
        filled.jobs.update_status(_name(number), "succeeded")
    filled.jobs.register_job("new")
    report = _sync(cli)
    expected = {"mode": "delta", "seen": 11, "added": 1, "changed": 10, "unchanged": 0, "removed": 0, "fetched": 11}
    assert {name: report[name] for name in COUNTED} == expected
    assert (calls["scan"], calls["get"]) == (0, 12)
    assert len(cli.ids("--offline", "--status", "succeeded")) == 10
    assert _sync(cli)["unchanged"] == 11
    filled.store.inner.delete(key("new"))
    assert _sync(cli)["removed"] == 1
    assert cli.ids("--offline", "--name", "new") == []


def test_reading_writes_nothing(cli: Cli, filled: Remote, calls: Counter[str]) -> None:
    """A read-only permit serves a delta sync."""
    filled.jobs.update_status(_name(1), "failed")
    cli.ok("sync")
    assert not calls.keys() & {"put", "create_if_absent", "delete"}


def test_an_unannounced_change_makes_syncs_full_until_none_is_seen(cli: Cli, filled: Remote) -> None:
    """While another program writes, every sync lists everything; and no longer than that."""
    filled.put(key(_name(3)), foreign(_name(3), "failed"))
    assert _mode(cli) == "delta"  # no full sync has compared them yet
    cli.clock.advance(minutes=31)
    assert _mode(cli) == "full"  # the hourly one
    for number in range(4, 6):
        filled.put(key(_name(number)), foreign(_name(number), "failed"))
        assert _mode(cli) == "full"
    filled.store.inner.delete(key(_name(9)))
    assert [_mode(cli) for _ in range(3)] == ["full", "full", "delta"]
    assert len(cli.ids("--offline", "--status", "failed")) == 3


def test_announced_changes_do_not_make_syncs_full(cli: Cli, filled: Remote) -> None:
    """A full sync that finds changes by mops-jobs alone, some made while it was listing, trusts the announcements."""
    filled.jobs.update_status(_name(1), "failed")

    def meanwhile() -> None:
        filled.store.after_listing = lambda: None
        filled.jobs.register_job("new")
        filled.store.inner.delete(key(_name(2)))
        filled.store.inner.create_if_absent(f"{announcements.slot_of(cli.clock.now())}{_name(2)}", b"-")

    filled.store.after_listing = meanwhile
    assert _mode(cli, "--full") == "full"
    assert _mode(cli) == "delta"
    assert cli.ids("--offline", "--name", "new") == ["new"]


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(("foreign_age", "minutes"), [(mirror.FOREIGN_SCAN_AGE, 10), (timedelta(days=1), 60)])
def test_some_time_after_the_last_full_sync_comes_another(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, foreign_age: timedelta, minutes: int
) -> None:
    """An unannounced change goes unseen for ten minutes where other programs write, else for an hour."""
    monkeypatch.setattr(mirror, "FOREIGN_SCAN_AGE", foreign_age)
    cli.clock.advance(minutes=minutes - 9, seconds=-1)
    assert _mode(cli) == "delta"
    cli.clock.advance(seconds=2)
    assert _mode(cli) == "full"


def test_a_burst_of_announcements_is_listed_in_part(
    cli: Cli, filled: Remote, calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After many registrations, syncs list the jobs, and announcements until a scan is cheaper."""
    taken: list[str] = []
    list_keys = filled.store.list_keys

    def counting(prefix: str = "") -> Iterator[str]:
        for name in list_keys(prefix):
            taken.append(name)
            yield name

    for number in range(COUNT):
        filled.jobs.register_job(f"new-{number:05}")
    assert _sync(cli)["added"] == COUNT
    monkeypatch.setattr(filled.store, "list_keys", counting)
    report = _sync(cli)
    assert (report["mode"], report["changed"], report["fetched"]) == ("full", 0, 0)
    assert sum(name.startswith(announcements.PREFIX) for name in taken) == 2 * COUNT // records.GET_COST
    # A scan that is due in any case lists them only if it finds news, to tell whether these were announced.
    for changes, are_listed in ((0, False), (1, True)):
        for _ in range(changes):
            filled.jobs.update_status(_name(1), "failed")
        taken.clear()
        assert cli.ok("list", "--refresh", "--json", "--limit", "1").json["total"] == 2 * COUNT
        assert any(name.startswith(announcements.PREFIX) for name in taken) == are_listed
    cli.clock.advance(minutes=36)
    assert [_mode(cli) for _ in range(2)] == ["full", "delta"]  # one is due, as other programs write


def test_records_are_listed_again_where_many_have_changed(
    cli: Cli, filled: Remote, calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing without records finds many news: they come by a second one, from there on, and few by reads.

    A listing that has no records, as one of other programs' blobs, is not begun a third time.
    """
    lists_records = filled.store.scan
    asked: list[tuple[str, bool]] = []

    def scan(prefix: str = "", wants_values: WantsValues = always, after: str = "") -> Iterator[Entry]:
        asked.append((after, wants_values()))
        for entry in lists_records(prefix, wants_values, after):
            yield entry if wants_values() else entry._replace(value=None)

    monkeypatch.setattr(filled.store, "scan", scan)
    begin = BATCH + 20
    for hides_values in (False, True):
        filled.store.hides_values = hides_values
        for number in range(begin, COUNT):
            filled.jobs.update_fields(_name(number), metadata={"hides": hides_values})
        asked.clear()
        calls.clear()
        report = _sync(cli)
        assert (report["mode"], report["changed"]) == ("full", COUNT - begin)
        assert asked == [("", False), (key(_name(BATCH - 1)), True)]
        assert report["fetched"] == (COUNT - begin if hides_values else 0)
        assert calls["get"] == 1 + report["fetched"]
    assert _sync(cli)["unchanged"] == COUNT


def test_a_flood_of_names_exhausts_nothing(cli: Cli, filled: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound, everything is listed, and goes on being listed while the flood lasts."""
    monkeypatch.setattr(announcements, "MAX_NAMES", 20)
    for number in range(30):
        filled.store.inner.create_if_absent(f"{announcements.slot_of(cli.clock.now())}flood-{number}", b"-")
    assert [_mode(cli) for _ in range(2)] == ["full", "full"]
    cli.clock.advance(minutes=40)
    assert [_mode(cli) for _ in range(2)] == ["full", "delta"]


def test_a_small_registry_is_listed(cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few jobs are one request, fewer than their announcements would be."""
    for number in range(mirror.SMALL_REGISTRY):
        remote.store.inner.create_if_absent(key(_name(number)), foreign(_name(number)).encode())
    assert [_mode(cli) for _ in range(3)] == ["full", "full", "full"]
    with monkeypatch.context() as patch:
        patch.setattr(announcements, "announced_jobs", None)
        assert _mode(cli) == "full"  # without a look at the announcements


def test_a_delta_sync_that_breaks_off_claims_nothing(cli: Cli, filled: Remote) -> None:
    """Ended by an outage, it leaves the age of the data as it was, and the next one brings what it had not."""
    filled.jobs.update_status(_name(1), "failed")
    synced_at = cli.ok("list", "--json", "--limit", "1").json["synced_at"]
    cli.clock.advance(minutes=1)
    filled.store.fail_next(1, "get", "scan")
    assert cli("sync").code == 5
    document = cli.ok("list", "--json", "--limit", "1").json
    assert (document["synced_at"], document["stale"]) == (synced_at, True)
    assert _sync(cli)["changed"] == 1
    assert cli.ok("list", "--json", "--limit", "1").json["stale"] is False
