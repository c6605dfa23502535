"""What operations cost in requests: the counts that docs/reference/limits.md reckons with."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from mopsjobs.cache.sync import mirror
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.azure.credentials import find_container
from mopsjobs.store.azure.store import AzureVersionedStore
from mopsjobs.store.dynamodb.store import DynamoDBVersionedStore
from mopsjobs.store.s3.store import S3VersionedStore
from mopsjobs.store.s3.url import parse_s3_url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mopsjobs.store.base import VersionedStore
    from support.cli import Clock
    from support.servers import S3, Azurite, Dynalite


class Line:
    """A registry, and the requests that it has sent: L a listing, R a read, W a write."""

    def __init__(self, store: VersionedStore, sent: list[str], clock: Clock) -> None:
        self.lists_values = not isinstance(store, S3VersionedStore)
        self.registry = JobRegistry(store, now=clock.now)
        self._sent = sent

    def sent(self) -> str:
        """Return the requests since the last call."""
        told = "".join(self._sent)
        self._sent.clear()
        return told


def in_azure(server: Azurite, sent: list[str]) -> VersionedStore:
    def hook(request: Any) -> None:
        is_listing = "comp=list" in request.http_request.url
        sent.append("L" if is_listing else "R" if request.http_request.method == "GET" else "W")

    place = find_container(f"{server.endpoint}/{server.new_container()}", {})
    return AzureVersionedStore(place, client_options={"raw_request_hook": hook})


def in_dynamodb(server: Dynalite, sent: list[str]) -> VersionedStore:
    def hook(model: Any, **_: object) -> None:
        sent.append({"Query": "L", "GetItem": "R"}.get(model.name, "W"))

    store = DynamoDBVersionedStore(server.new_table().removeprefix("dynamodb://"))
    store._client().meta.events.register("before-call.dynamodb", hook)
    return store


def in_s3(server: S3, sent: list[str]) -> VersionedStore:
    def hook(model: Any, **_: object) -> None:
        sent.append({"ListObjectsV2": "L", "GetObject": "R"}.get(model.name, "W"))

    store = S3VersionedStore(*parse_s3_url(server.new_prefix()))
    store._client().meta.events.register("before-call.s3", hook)
    return store


@pytest.fixture(
    params=[
        pytest.param("azurite", marks=pytest.mark.azurite),
        pytest.param("dynalite", marks=pytest.mark.dynalite),
        pytest.param("moto", marks=pytest.mark.s3),
    ]
)
def line(request: pytest.FixtureRequest, clock: Clock) -> Iterator[Line]:
    sent: list[str] = []
    opened = {"azurite": in_azure, "dynalite": in_dynamodb, "moto": in_s3}[request.param]
    store = opened(request.getfixturevalue(request.param), sent)
    made = Line(store, sent, clock)
    made.registry.register_job("first")  # and with it the container, or the table
    made.sent()
    yield made
    store.close()


def test_registering_is_two_writes(line: Line) -> None:
    """The announcement and the record."""
    line.registry.register_job("a")
    assert line.sent() == "WW"


def test_an_update_is_a_read_and_a_write(line: Line, clock: Clock) -> None:
    """And one write more in each ten minutes, which announces the job."""
    line.registry.register_job("a")
    line.sent()
    line.registry.update_fields("a", owner="ada")
    assert line.sent() == "RW"
    clock.advance(minutes=10)
    line.registry.update_fields("a", owner="grace")
    assert line.sent() == "RWW"


def test_a_sync_costs_what_changed(line: Line, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full one is a listing for up to 1,000 jobs; a delta one a minute later lists four slots and reads what changed.

    And one job besides, which shows that the registry is there. The first sync of all looks for a snapshot if the
    registry is across a network. A listing of S3 has no records, so a full sync reads those that it does not know.
    """
    for number in range(60):
        line.registry.register_job(f"job-{number:02}")
    monkeypatch.setattr(mirror, "SMALL_REGISTRY", 0)

    def synced(*, minutes: int) -> str:
        clock.advance(minutes=minutes)
        line.sent()
        mirror.sync(line.registry, str(tmp_path / "cache.db"), "registry", now=clock.now)
        return line.sent()

    first = synced(minutes=1)
    assert first in ("L", "RL") if line.lists_values else first == "RL" + "R" * 61
    synced(minutes=40)  # full as well, since the first could not tell whether all writers announce
    assert synced(minutes=1) in ("LLLR", "LLLLR")
    line.registry.update_fields("job-00", owner="ada")
    line.registry.update_fields("job-01", owner="ada")
    assert sorted(synced(minutes=1).lstrip("L")) == ["R", "R", "R"]


@pytest.mark.azurite
def test_a_scan_lists_records_only_if_many_are_news(
    azurite: Azurite, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names and versions tell what changed, in a fraction of the bytes. A few changed records are read one by one."""
    monkeypatch.setattr(mirror, "SMALL_REGISTRY", 0)
    seen: list[str] = []

    def hook(request: Any) -> None:
        query = parse_qs(urlsplit(request.http_request.url).query)
        if query.get("prefix") == ["jobs/"]:
            seen.append("records" if query.get("include") == ["metadata"] else "names")
        elif "comp" not in query:
            seen.append("read")

    place = find_container(f"{azurite.endpoint}/{azurite.new_container()}", {})
    with contextlib.closing(AzureVersionedStore(place, client_options={"raw_request_hook": hook})) as store:
        registry = JobRegistry(store, now=clock.now)

        def scanned() -> Counter[str]:
            clock.advance(minutes=1)
            seen.clear()
            mirror.sync(registry, str(tmp_path / "cache.db"), "registry", scan=True, now=clock.now)
            return Counter(seen)

        for number in range(60):
            registry.register_job(f"job-{number:02}")
        assert scanned() == {"read": 1, "records": 1}  # the first one looks for a snapshot
        witnesses = scanned()["read"]  # each shows that the registry is still the same
        assert scanned() == {"names": 1, "read": witnesses}
        for job_id in ("job-00", "job-17", "job-59"):
            registry.update_fields(job_id, owner="ada")
        assert scanned() == {"names": 1, "read": witnesses + 3}
        for number in range(60, 90):
            registry.register_job(f"job-{number}")
        assert scanned() == {"names": 1, "records": 1, "read": witnesses}
        assert scanned() == {"names": 1, "read": witnesses}
        with contextlib.closing(sqlite3.connect(tmp_path / "cache.db")) as cache:
            assert cache.execute("SELECT count(*), count(owner) FROM job").fetchone() == (90, 3)
