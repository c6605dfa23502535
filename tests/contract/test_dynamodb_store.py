"""What only the DynamoDB backend has to be asked: requests, long keys, limits, credentials, outages, the command.

The contract itself is in tests/contract/test_versioned_store.py, which runs over this backend too, against dynalite.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mopsjobs.errors import StoreError, StoreUnavailableError, ValueTooLargeError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.base import VersionToken
from mopsjobs.store.dynamodb import store as dynamodb
from mopsjobs.store.dynamodb.store import MAX_ITEM_BYTES, DynamoDBVersionedStore
from mopsjobs.store.urls import identity
from support import services
from support.cli import Cli
from support.runs import code, sets_of
from support.servers import Dynalite
from support.services import IN_DYNAMODB, RECORD, SECRET, VERSION
from support.services import found_in_dynamodb as found
from support.services import refused_by_dynamodb as refused

scripted = functools.partial(services.scripted, IN_DYNAMODB)


class Place:
    """A table that does not exist yet, in the shared dynalite."""

    def __init__(self, server: Dynalite) -> None:
        self.server = server
        self.url = server.new_table()
        self.table = self.url.removeprefix("dynamodb://")
        self.stores: list[DynamoDBVersionedStore] = []

    def open(self, **options: Any) -> DynamoDBVersionedStore:
        store = DynamoDBVersionedStore(self.table, **options)
        self.stores.append(store)
        return store


@pytest.fixture
def place(dynalite: Dynalite) -> Iterator[Place]:
    made = Place(dynalite)
    yield made
    for store in made.stores:
        store.close()


class Request(NamedTuple):
    operation: str
    body: dict[str, Any]


def noted(store: DynamoDBVersionedStore) -> list[Request]:
    """Return the requests that the store sends from now on."""
    sent: list[Request] = []

    def note(model: Any, params: Any, **_: object) -> None:
        sent.append(Request(model.name, json.loads(params["body"])))

    store.connect().meta.events.register("before-call.dynamodb", note)
    return sent


# --- requests -------------------------------------------------------------------------------------------------------

COSTS: dict[str, tuple[Callable[[DynamoDBVersionedStore, VersionToken], object], list[str]]] = {
    "get": (lambda store, _: store.get("k/a"), ["GetItem"]),
    "get, no such key": (lambda store, _: store.get("missing"), ["GetItem"]),
    "put": (lambda store, version: store.put("k/a", b"2", version), ["PutItem"]),
    "put, stale": (lambda store, _: store.put("k/a", b"2", VERSION), ["PutItem"]),
    "create": (lambda store, _: store.create_if_absent("new", b"2"), ["PutItem"]),
    "create, exists": (lambda store, _: store.create_if_absent("k/a", b"2"), ["PutItem"]),
    "delete": (lambda store, _: store.delete("k/a"), ["DeleteItem"]),
    "delete, no such key": (lambda store, _: store.delete("missing"), ["DeleteItem"]),
    "scan": (lambda store, _: list(store.scan("k/")), ["Query"]),
    "list_keys": (lambda store, _: list(store.list_keys("k/")), ["Query"]),
    "list_keys, of every beginning": (lambda store, _: list(store.list_keys("k")), ["Query"] * 16),
}


@pytest.mark.parametrize("operation", COSTS)
def test_an_operation_costs_no_more_requests_than_promised(place: Place, operation: str) -> None:
    """One, by key or by a query on partitions, never a table scan; and every read is strongly consistent."""
    store = place.open()
    version = store.create_if_absent("k/a", RECORD)
    assert version is not None
    requests = noted(store)
    call, expected = COSTS[operation]
    call(store, version)
    assert [request.operation for request in requests] == expected
    for request in requests:
        if request.operation in ("GetItem", "Query"):
            assert request.body["ConsistentRead"] is True
        else:
            assert request.body["ConditionExpression"]


def test_a_listing_of_more_than_a_mebibyte_goes_on(place: Place) -> None:
    """DynamoDB ends a page there by itself."""
    store = place.open()
    value = bytes(350_000)
    for number in range(4):
        store.create_if_absent(f"k/{number}", value)
    requests = noted(store)
    assert [entry.value for entry in store.scan("k/")] == [value] * 4
    assert len(requests) == 2


def test_the_first_write_makes_a_table_that_is_paid_by_use(place: Place) -> None:
    assert place.open().create_if_absent("a", RECORD)
    with contextlib.closing(place.server.client()) as client:
        table = client.describe_table(TableName=place.table)["Table"]
    assert table["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"


# --- versions -------------------------------------------------------------------------------------------------------


# --- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["a", "é" * 450], ids=["short key", "long key"])
def test_the_largest_value_is_stored_and_a_larger_one_refused_unsent(place: Place, key: str) -> None:
    """400 KB for the whole item, names and key included."""
    most = MAX_ITEM_BYTES - sum(
        len(name) + len(one.get("S", "").encode()) for name, one in dynamodb._item(key, b"").items()
    )
    store = place.open()
    assert store.create_if_absent(key, bytes(most))
    requests = noted(store)
    with pytest.raises(ValueTooLargeError, match=f"of {most + 1} bytes: expected at most {most} in DynamoDB"):
        store.create_if_absent(key, bytes(most + 1))
    with pytest.raises(ValueTooLargeError):
        store.put(key, bytes(most + 1), VERSION)
    assert requests == []


def test_an_item_of_another_program_is_no_value(place: Place) -> None:
    store = place.open()
    store.create_if_absent("k/a", RECORD)
    item = {dynamodb.PARTITION: {"S": dynamodb._partition("k")}, dynamodb.KEY: {"S": "k/b"}}
    with contextlib.closing(place.server.client()) as client:
        client.put_item(TableName=place.table, Item=item)
    for read in (lambda: store.get("k/b"), lambda: list(store.scan("k/"))):
        with pytest.raises(StoreError, match="item of another program"):
            read()


# --- a server that misbehaves ---------------------------------------------------------------------------------------


def test_a_reply_to_a_query_without_items_is_no_empty_listing(aws: Callable[[int], None]) -> None:
    with scripted(aws, found(Count=0)) as (store, _, _sleep), pytest.raises(StoreError, match="unexpected response"):
        list(store.scan("a/"))


def test_a_table_that_does_not_become_ready_is_not_waited_for_for_ever(
    aws: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time is up after the first look here; nothing was written."""
    monkeypatch.setattr(dynamodb, "TABLE_SECONDS", 1)
    creating = found(Table={"TableStatus": "CREATING"})
    exists = refused(400, "ResourceInUseException")
    with scripted(aws, refused(400, "ResourceNotFoundException"), exists, creating) as (store, requests, _):
        with pytest.raises(StoreUnavailableError, match="being created or deleted"):
            store.create_if_absent("a", RECORD)
        assert len(requests) == 3


@pytest.mark.usefixtures("aws")
def test_without_a_region_one_sentence_says_so(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    said = cli.fails(4, "sync", MOPS_JOBS_REGISTRY="dynamodb://jobs")
    assert "No setting names the AWS region of dynamodb://jobs" in said
    assert SECRET not in said


# --- settings -------------------------------------------------------------------------------------------------------


def test_the_cache_tells_tables_apart_by_what_names_them() -> None:
    """Region, profile, account and endpoint: each makes another registry of the same URL; a password does not."""
    environments: list[dict[str, str]] = [
        {},
        {"AWS_DEFAULT_REGION": "eu-west-1"},
        {"AWS_DEFAULT_REGION": "eu-west-2"},
        {"AWS_PROFILE": "eu-west-1"},
        {"AWS_ACCOUNT_ID": "123456789012"},
        {"AWS_ENDPOINT_URL_DYNAMODB": f"http://u:{SECRET}@127.0.0.1:8000/"},
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:8001"},
    ]
    found = {identity("dynamodb://jobs", env) for env in environments}
    assert len(found) == len(environments)
    assert SECRET not in "".join(found)
    assert identity("dynamodb://jobs/", {}) == identity("dynamodb://jobs", {}) == "dynamodb://jobs"


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("too_large", ["bundle", "manifest"])
def test_a_job_that_does_not_fit_is_not_launched(
    cli: Cli, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, too_large: str
) -> None:
    """Waiting would not make it fit, so nothing is kept for later, and no record tells of it."""
    cli.env |= {"MOPS_JOBS_REGISTRY": place.url, **place.server.env}
    home = code(tmp_path / "code")
    sets = sets_of(1)
    if too_large == "bundle":
        (home / "data").write_bytes(os.urandom(MAX_ITEM_BYTES))
    else:
        sets = [{"x": "x" * MAX_ITEM_BYTES}]
    study = tmp_path / "study.json"
    study.write_text(json.dumps({"model": "model:simulate", "parameter_sets": sets, "outputs": ["result.json"]}))
    monkeypatch.chdir(home)
    assert "expected at most" in cli.fails(6, "submit", str(study), "--auto", "--job-id", "job")
    assert JobRegistry(place.open()).get_job("job") is None
