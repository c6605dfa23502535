"""What operations cost in requests: the counts that docs/reference/limits.md reckons with."""

from __future__ import annotations

import contextlib
import functools
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from mopsjobs.cache.sync import mirror
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.keys import OUTPUT
from mopsjobs.store import open_store
from mopsjobs.store.aws import client as aws_client
from mopsjobs.store.aws.urls import parse_s3_url
from mopsjobs.store.azure.credentials import find_container
from mopsjobs.store.azure.store import AzureVersionedStore
from mopsjobs.store.base import VersionedStore
from mopsjobs.store.dynamodb.store import DynamoDBVersionedStore
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.store.s3 import store as s3
from mopsjobs.store.s3.store import S3VersionedStore
from mopsjobs.studies.pack_log import PackLog
from mopsjobs.studies.packed_store import PackedStore
from mopsjobs.submission.relay import deliver
from support.cli import Cli, Clock
from support.doubles import hooked
from support.servers import S3, Azurite, Dynalite


class Line:
    """A registry, and the requests that it has sent: L a listing, R a read, W a write."""

    def __init__(self, store: VersionedStore, sent: list[str], clock: Clock) -> None:
        self.lists_values = not isinstance(store, S3VersionedStore)
        self.registry = JobRegistry(store, now=clock.now)
        self._sent = sent

    def sent(self) -> str:
        """Return the requests since the last call."""
        sent = "".join(self._sent)
        self._sent.clear()
        return sent


def in_azure(server: Azurite, sent: list[str]) -> VersionedStore:
    def hook(request: Any) -> None:
        is_listing = "comp=list" in request.url
        sent.append("L" if is_listing else "R" if request.method == "GET" else "W")

    place = find_container(f"{server.endpoint}/{server.new_container()}", {})
    return hooked(AzureVersionedStore(place), hook)


def in_dynamodb(server: Dynalite, sent: list[str]) -> VersionedStore:
    def hook(model: Any, **_: object) -> None:
        sent.append({"Query": "L", "GetItem": "R"}.get(model.name, "W"))

    store = DynamoDBVersionedStore(server.new_table().removeprefix("dynamodb://"))
    store.connect().meta.events.register("before-call.dynamodb", hook)
    return store


def note_s3(sent: list[str], model: Any, **_: object) -> None:
    sent.append({"ListObjectsV2": "L", "GetObject": "R"}.get(model.name, "W"))


def in_s3(server: S3, sent: list[str]) -> VersionedStore:
    store = S3VersionedStore(*parse_s3_url(server.new_prefix()))
    store.connect().meta.events.register("before-call.s3", functools.partial(note_s3, sent))
    return store


@pytest.fixture(
    params=[
        pytest.param("azurite", marks=pytest.mark.azurite),
        pytest.param("dynalite", marks=pytest.mark.dynalite),
        pytest.param("moto", marks=pytest.mark.s3),
        pytest.param("seaweedfs", marks=pytest.mark.s3),
    ]
)
def line(request: pytest.FixtureRequest, clock: Clock) -> Iterator[Line]:
    sent: list[str] = []
    opened = {"azurite": in_azure, "dynalite": in_dynamodb}.get(request.param, in_s3)
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

    And one job besides, which shows that the registry is there. A listing of S3 has no records, so a full sync reads
    those that it does not know.
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
    assert first in ("L", "LL") if line.lists_values else first == "L" + "R" * 61
    synced(minutes=40)  # full as well, since the first could not tell whether all writers announce
    assert synced(minutes=1) in ("LLLR", "LLLLR")
    line.registry.update_fields("job-00", owner="ada")
    line.registry.update_fields("job-01", owner="ada")
    assert sorted(synced(minutes=1).lstrip("L")) == ["R", "R", "R"]


def test_a_thousand_small_outputs_are_few_requests(line: Line) -> None:
    """To write, to list and to read: within the limits of each store. A second delivery writes nothing."""
    outbox, values = InMemoryVersionedStore(), {}
    for number in range(1000):
        key = OUTPUT.key(job="a", param=f"{number % 40:064x}", seed=number, output="result.json")
        values[key] = json.dumps({"peak": number}).encode()

    def delivered() -> str:
        for key, value in values.items():
            outbox.create_if_absent(key, value)
        line.sent()
        log = PackLog(PackedStore(line.registry.store), "a", 0)
        assert deliver(outbox, log.store, "a", pytest.fail, log=log)
        return line.sent()

    assert delivered().count("W") <= 2
    reader = PackedStore(line.registry.store)
    found = {entry.key: reader.get_entry(entry) for entry in reader.scan("results/a/")}
    assert {key: value.value for key, value in found.items() if value is not None} == values
    assert len(line.sent()) <= 4
    assert "W" not in delivered()


@pytest.mark.azurite
def test_a_scan_lists_records_only_if_many_are_news(
    azurite: Azurite, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names and versions tell what changed, in a fraction of the bytes. A few changed records are read one by one."""
    monkeypatch.setattr(mirror, "SMALL_REGISTRY", 0)
    seen: list[str] = []

    def hook(request: Any) -> None:
        query = parse_qs(urlsplit(request.url).query)
        if query.get("prefix") == ["jobs/"]:
            seen.append("records" if query.get("include") == ["metadata"] else "names")
        elif "comp" not in query:
            seen.append("read")

    place = find_container(f"{azurite.endpoint}/{azurite.new_container()}", {})
    with contextlib.closing(hooked(AzureVersionedStore(place), hook)) as store:
        registry = JobRegistry(store, now=clock.now)

        def scanned() -> Counter[str]:
            clock.advance(minutes=1)
            seen.clear()
            mirror.sync(registry, str(tmp_path / "cache.db"), "registry", scan=True, now=clock.now)
            return Counter(seen)

        for number in range(60):
            registry.register_job(f"job-{number:02}")
        assert scanned() == {"records": 2}
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


S3_REQUESTS = {
    "register new": ("W3", "W3"),
    "update new --owner ada": ("R1 W3", "R1 W3"),
    "sync, the first one": ("L2 R{all}+2", "L2 R{all}+2"),
    "sync, the second one": ("L3 R1", "L3 R1"),
    "sync, nothing new": ("L3 R1", "L7 R1"),
    "sync, 1 change": ("L3 R3", "L9 R3"),
    "list": ("", ""),
    "list --refresh, nothing new": ("L1 R1", "L1 R1"),
    "list --refresh, 1 change": ("L1 R2", "L4 R2"),
    "sync --full": ("L2 R{all}+1", "L2 R{all}+1"),
}
"""What commands send to Amazon, to a small registry and to a larger one.

L is a listing, R a read and W a write. A sync also reads the events, one read for each new chunk.
"""


@pytest.mark.s3
@pytest.mark.parametrize("is_large", [False, True], ids=["small", "large"])
def test_what_commands_send_to_s3(cli: Cli, moto: S3, monkeypatch: pytest.MonkeyPatch, *, is_large: bool) -> None:
    """Its listings have no records, so a first sync reads each. docs/reference/limits.md has the money."""
    jobs = 60
    cli.env |= {"MOPS_JOBS_REGISTRY": moto.new_prefix(), **moto.env}
    monkeypatch.setattr(s3, "_AMAZON", (".0.0.1",))
    if is_large:
        monkeypatch.setattr(mirror, "SMALL_REGISTRY", 0)
    with contextlib.closing(open_store(cli.env["MOPS_JOBS_REGISTRY"], {})) as store, ThreadPoolExecutor() as pool:
        registry = JobRegistry(store, now=cli.clock.now)
        list(pool.map(registry.register_job, (f"job-{number}" for number in range(jobs - 1))))
    sent: list[str] = []
    connect_alone = aws_client.AwsClient._connect

    def connect(client: aws_client.AwsClient) -> Any:
        connected = connect_alone(client)
        connected.meta.events.register("before-call.s3", functools.partial(note_s3, sent))
        return connected

    monkeypatch.setattr(aws_client.AwsClient, "_connect", connect)
    for what, expected in S3_REQUESTS.items():
        command, _, state = what.partition(", ")
        if state == "1 change":  # on another machine
            cli.ok("update", "new", "--label", f"at={what}", MOPS_JOBS_CACHE=str(cli.cache.with_name("other.db")))
        cli.clock.advance(minutes=1)
        sent.clear()
        cli.ok(*command.split())
        counts = Counter(sent)
        if counts["R"] > jobs:
            found = f"L{counts['L']} R{{all}}+{counts['R'] - jobs}"
        else:
            found = " ".join(f"{kind}{count}" for kind, count in sorted(counts.items()))
        assert found == expected[is_large], what
