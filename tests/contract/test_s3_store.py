"""What only the S3 backend has to be asked: requests, objects of others, limits, refusals, outages, the command.

The contract itself is in tests/contract/test_versioned_store.py, which runs over this backend too, against moto and a
real SeaweedFS.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mopsjobs.errors import StoreError, StoreUnavailableError, UnusableStoreError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import network
from mopsjobs.store.aws.urls import MAX_PREFIX, parse_s3_url
from mopsjobs.store.base import MAX_KEY_BYTES, VersionToken
from mopsjobs.store.s3 import store as s3
from mopsjobs.store.s3.store import LENGTH, S3VersionedStore
from mopsjobs.store.urls import identity
from support import services
from support.cli import Cli
from support.existing import existing
from support.replies import Reply
from support.runs import code
from support.servers import S3
from support.services import IN_S3, RECORD, SECRET, VERSION
from support.services import refused_by_s3 as refused

FOUND = IN_S3.found

scripted = functools.partial(services.scripted, IN_S3)


class Place:
    """A prefix without objects, in the shared moto."""

    def __init__(self, server: S3) -> None:
        self.server = server
        self.url = server.new_prefix()
        self.bucket, self.prefix = parse_s3_url(self.url)
        self.stores: list[S3VersionedStore] = []

    def open(self, **options: Any) -> S3VersionedStore:
        store = S3VersionedStore(self.bucket, self.prefix, **options)
        self.stores.append(store)
        return store

    def raw(self, key: str) -> bytes:
        """Return what lies in the bucket, as another program reads it."""
        with contextlib.closing(self.server.client()) as client:
            body: bytes = client.get_object(Bucket=self.bucket, Key=f"{self.prefix}/{key}")["Body"].read()
            return body

    def put_raw(self, key: str, value: bytes) -> None:
        """Write as another program does."""
        with contextlib.closing(self.server.client()) as client:
            client.put_object(Bucket=self.bucket, Key=f"{self.prefix}/{key}", Body=io.BytesIO(value))


@pytest.fixture
def place(moto: S3) -> Iterator[Place]:
    made = Place(moto)
    yield made
    for store in made.stores:
        store.close()


class Request(NamedTuple):
    operation: str
    condition: str
    """The headers with conditions; `Expect` is one as well, which costs a round trip."""
    has_digest: bool = False
    """Whether it has the MD5 of its value, so that no server keeps a part of one whose sender is killed."""


def noted(store: S3VersionedStore) -> list[Request]:
    """Return the requests that the store sends from now on."""
    sent: list[Request] = []

    def note(model: Any, params: Any, **_: object) -> None:
        headers = params["headers"]
        condition = " ".join(name for name in ("If-Match", "If-None-Match", "Expect") if name in headers)
        sent.append(Request(model.name, condition, "Content-MD5" in headers))

    store.connect().meta.events.register_last("before-call.s3", note)
    return sent


# --- requests -------------------------------------------------------------------------------------------------------

COSTS: dict[str, tuple[Callable[[S3VersionedStore, VersionToken], object], list[tuple[str, str]]]] = {
    "get": (lambda store, _: store.get("k/a"), [("GetObject", "")]),
    "get, no such key": (lambda store, _: store.get("missing"), [("GetObject", "")]),
    "put, stale": (lambda store, _: store.put("k/a", b"2", VERSION), [("PutObject", "If-Match")]),
    "put": (lambda store, version: store.put("k/a", b"2", version), [("PutObject", "If-Match")]),
    "create": (lambda store, _: store.create_if_absent("new", b"2"), [("PutObject", "If-None-Match")]),
    "create, exists": (lambda store, _: store.create_if_absent("k/a", b"2"), [("PutObject", "If-None-Match")]),
    "scan": (lambda store, _: list(store.scan("k/")), [("ListObjectsV2", "")]),
    "list_keys": (lambda store, _: list(store.list_keys()), [("ListObjectsV2", "")]),
    "scan, after the last key": (lambda store, _: list(store.scan("k/", after="z")), []),
    "delete": (lambda store, _: store.delete("k/a"), [("GetObject", ""), ("DeleteObject", "If-Match")]),
    "delete, no such key": (lambda store, _: store.delete("k/a"), [("GetObject", "")]),
}


def test_an_operation_costs_no_more_requests_than_promised(place: Place) -> None:
    """Each write is conditional. A removal looks first whether there is a key, since S3 does not say so."""
    paged = place.open(page_size=2)
    requests = noted(paged)
    for name in "abcde":
        paged.create_if_absent(f"pages/{name}", RECORD)
    requests.clear()
    assert len(list(paged.scan("pages/"))) == 5
    assert len(requests) == 3
    store = place.open()
    version = existing(store.create_if_absent("k/a", RECORD))
    requests = noted(store)
    for name, (call, expected) in COSTS.items():
        requests.clear()
        call(store, version)
        assert [request[:2] for request in requests] == expected, name
        assert all(request.has_digest == (request.operation == "PutObject") for request in requests), name


# --- objects --------------------------------------------------------------------------------------------------------


def test_other_programs_read_records_as_json_and_outputs_as_they_are(place: Place) -> None:
    """JSON allows blanks behind an object. A value that is created has none."""
    store = place.open()
    assert store.put("jobs/a/state.json", RECORD, existing(store.create_if_absent("jobs/a/state.json", RECORD)))
    assert json.loads(place.raw("jobs/a/state.json")) == json.loads(RECORD)
    assert len(place.raw("jobs/a/state.json")) == len(RECORD) + LENGTH
    for name, value in (("table.csv", b"a,b\n1,2\n"), ("result.json", b'{"a": 1}')):
        assert store.create_if_absent(f"results/a/p/1/{name}", value)
        assert place.raw(f"results/a/p/1/{name}") == value


def test_what_other_programs_write_is_read_as_it_is(place: Place) -> None:
    """A copy of an object has its blanks, and is read without them. An empty object for a folder is left out."""
    store = place.open()
    place.put_raw("jobs/a/state.json", RECORD + b"\n")
    version = existing(store.create_if_absent("jobs/b/state.json", b"{}"))
    store.put("jobs/b/state.json", RECORD, version)
    place.put_raw("jobs/c/state.json", place.raw("jobs/b/state.json"))
    place.put_raw("jobs/", b"")
    found = [store.get(f"jobs/{name}/state.json") for name in "abc"]
    assert [one and one.value for one in found] == [RECORD + b"\n", RECORD, RECORD]
    assert found[0] is not None
    assert store.put("jobs/a/state.json", RECORD, found[0].version)
    assert list(store.list_keys()) == [f"jobs/{name}/state.json" for name in "abc"]


def test_a_value_put_back_as_it_was_lets_no_old_version_through(place: Place) -> None:
    """A, B, and A again: a writer that has seen the first A cannot write.

    A value that is removed and created again has the version that it had. Records have the id of their creation.
    """
    store = place.open()
    first = existing(store.create_if_absent("a", RECORD))
    assert store.put("a", RECORD, existing(store.put("a", b"{}", first)))
    assert store.put("a", b"{}", first) is None
    store.delete("a")
    assert store.create_if_absent("a", RECORD) == first
    registry = JobRegistry(store)
    versions = []
    for _ in range(2):
        registry.register_job("a")
        found = existing(store.get("jobs/a/state.json"))
        versions.append(found.version)
        store.delete("jobs/a/state.json")
    assert versions[0] != versions[1]


def test_a_store_is_one_prefix_of_a_bucket(place: Place) -> None:
    """Other prefixes are other stores, also one whose name only begins like it."""
    store = place.open()
    store.create_if_absent("a", RECORD)
    for prefix in (f"{place.prefix}/a", f"{place.prefix}2", place.prefix[:-1]):
        with contextlib.closing(S3VersionedStore(place.bucket, prefix)) as other:
            assert list(other.list_keys()) == []
    with contextlib.closing(S3VersionedStore(place.bucket)) as whole:
        assert list(whole.list_keys(place.prefix)) == [f"{place.prefix}/a"]


def test_the_longest_key_fits_behind_the_longest_prefix() -> None:
    """S3 takes 1,024 bytes."""
    prefix = "p" * MAX_PREFIX
    assert parse_s3_url(f"s3://bucket/{prefix}") == ("bucket", prefix)
    assert len(f"{prefix}/") + MAX_KEY_BYTES <= 1024


# --- a server that misbehaves ---------------------------------------------------------------------------------------


def listed(*keys: str, more: str = "<IsTruncated>false</IsTruncated>") -> Reply:
    items = "".join(f"<Contents><Key>p/{key}</Key><ETag>&quot;1&quot;</ETag></Contents>" for key in keys)
    body = f"<ListBucketResult><Name>bucket</Name>{more}{items}</ListBucketResult>".encode()
    return Reply(200, headers=(("Content-Type", "application/xml"),), body=body)


def test_a_write_that_overlaps_another_one_is_sent_again(aws: Callable[[int], None]) -> None:
    """S3 refuses it with 409, having written nothing. It does not say who wins; so the write is sent once more.

    An update that overlaps others too often has lost the race: its writer reads again, with longer pauses.
    """
    overlap, lost = refused(409, "ConditionalRequestConflict"), refused(412, "PreconditionFailed")
    written = Reply(200, headers=(("ETag", '"9"'),))
    with scripted(aws, overlap, written, overlap, lost, *[overlap] * s3.OVERLAPS) as (store, requests, sleep):
        assert store.create_if_absent("a", RECORD) == VersionToken("9")
        assert store.put("a", RECORD, VERSION) is None
        with pytest.raises(StoreUnavailableError, match="while other writes to it are in progress") as caught:
            store.create_if_absent("a", RECORD)
        assert (caught.value.sent, caught.value.throttled) == (False, True)
        assert len(requests) == 4 + s3.OVERLAPS
        assert len(sleep.requested) == 2 + s3.OVERLAPS - 1
    with scripted(aws, *[overlap] * s3.OVERLAPS) as (store, requests, _):
        assert store.put("a", RECORD, VERSION) is None
        assert len(requests) == s3.OVERLAPS


def test_a_removal_does_without_a_condition_that_the_server_does_not_know(aws: Callable[[int], None]) -> None:
    unknown, removed = refused(501, "NotImplemented"), Reply(204)
    with scripted(aws, FOUND, unknown, FOUND, removed, FOUND, unknown, FOUND, unknown) as (store, requests, _):
        assert store.delete("a")
        assert requests == ["GET", "DELETE"] * 2
        with pytest.raises(UnusableStoreError):
            store.delete("a")
        assert len(requests) == 8


@pytest.mark.parametrize(
    ("replies", "message"),
    [
        ([listed("b/x", "c/x", "a/x")], "out of order"),
        ([listed("a", "a")], "out of order"),
        ([listed("a", more="")] * 3, "not the page of a listing"),
        ([listed("a", more="<IsTruncated>true</IsTruncated>")] * 3, "not the page of a listing"),
    ],
)
def test_a_listing_that_cannot_be_trusted_is_an_error(
    aws: Callable[[int], None], replies: list[Reply], message: str
) -> None:
    """Keys out of order, or an end that is none: a sync would take jobs for removed ones."""
    with scripted(aws, *replies) as (store, _, _sleep), pytest.raises(StoreError, match=message):
        list(store.scan())


def test_a_server_may_list_folder_by_folder(aws: Callable[[int], None]) -> None:
    """SeaweedFS lists a/x before a-1/x. Amazon's order is known, so nothing is held back there."""
    with scripted(aws, listed("a/x", "a/y", "a.b/x", "a-1/x", "a-1-2/x", "ab/x")) as (store, _, _sleep):
        assert list(store.list_keys()) == ["a-1-2/x", "a-1/x", "a.b/x", "a/x", "a/y", "ab/x"]


def test_a_listing_of_amazons_begins_after_a_key(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server leaves out what comes before. Elsewhere the order is not known, so the store does that."""
    keys = ["k/a-1/x", "k/a/x", "k/b"]
    for amazon in ((), (".0.0.1",)):
        monkeypatch.setattr(s3, "_AMAZON", amazon)
        store = place.open(page_size=1)
        for key in keys:
            store.create_if_absent(key, RECORD)
        requests = noted(store)
        assert [entry.key for entry in store.scan("k/", after="k/a-1/x")] == keys[1:]
        assert len(requests) == (2 if amazon else 3)


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_cache", [False, True], ids=["no cache", "a cache"])
def test_a_bucket_that_is_missing_is_an_error_that_says_how_to_make_it(
    cli: Cli, moto: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_cache: bool
) -> None:
    """It never looks like an empty registry, and no write makes it: its region and rules are the owner's choice.

    A view shows what a cache has. Exit code 5 would have a script try again.
    """
    bucket = f"gone-{tmp_path.name.lower().replace('_', '-')[-40:]}"
    cli.env |= {"MOPS_JOBS_REGISTRY": f"s3://{bucket}/jobs", **moto.env}
    if has_cache:
        with contextlib.closing(moto.client()) as client:
            client.create_bucket(Bucket=bucket)
            cli.ok("register", "a")
            cli.ok("sync")
            for item in client.list_objects_v2(Bucket=bucket)["Contents"]:
                client.delete_object(Bucket=bucket, Key=item["Key"])
            client.delete_bucket(Bucket=bucket)
        cli.clock.advance(minutes=1)
    study = tmp_path / "study.json"
    study.write_text(json.dumps({"model": "model:simulate", "parameter_sets": [{"x": 1}], "outputs": ["y"]}))
    monkeypatch.chdir(code(tmp_path / "code"))
    views = [("list", "--refresh"), ("list", "--max-age", "1s"), ("status", "a", "--refresh")]
    others = [("sync",), ("sync", "--full"), ("doctor",), ("register", "b"), ("update", "a", "running")]
    others += [("cancel", "a"), ("wait", "a", "--timeout", "1s"), ("submit", str(study), "--auto")]
    for argv in views + others:
        ran = cli(*argv)
        assert ran.code == 2, (argv, ran)
        message = ran.out + ran.err
        assert f"There is no bucket for s3://{bucket}/jobs" in message, argv
        is_shown = has_cache and argv in views
        assert ("aws s3 mb" in message) != is_shown
        assert ("Showing the cache" in message) == is_shown
    assert (cli("list").code, cli("list", "--offline").code) == ((0, 0) if has_cache else (2, 5))
    with contextlib.closing(S3VersionedStore(bucket)) as store:
        for call in (IN_S3.writes | IN_S3.reads).values():
            with pytest.raises(UnusableStoreError):
                call(store)


def test_a_request_to_another_region_is_sent_to_that_of_the_bucket(aws: Callable[[int], None]) -> None:
    """Amazon's refusal names it, having done nothing. So the region need not be set."""
    refusal = refused(301, "PermanentRedirect")
    moved = refusal._replace(headers=(*refusal.headers, ("x-amz-bucket-region", "eu-central-1")))
    written = Reply(200, headers=(("ETag", '"9"'),))
    with scripted(aws, moved, FOUND, written, moved, moved) as (store, requests, _):
        assert store.get("a") == (RECORD, VersionToken("0"))
        assert store.create_if_absent("a", RECORD) == VersionToken("9")
        assert requests == ["GET", "GET", "PUT"]
        with pytest.raises(UnusableStoreError, match="in another region"):
            store.put("a", RECORD, VERSION)


def test_only_amazon_has_a_host_for_each_bucket() -> None:
    paths = {"s3": {"addressing_style": "path"}}
    assert s3._options_at("https://s3.eu-west-1.amazonaws.com") == {}
    assert s3._options_at("https://s3.cn-north-1.amazonaws.com.cn") == {}
    assert s3._options_at("https://s3.eusc-de-east-1.amazonaws.eu") == {}
    assert s3._options_at("https://amazonaws.com.example.org") == paths
    assert s3._options_at("http://127.0.0.1:9000") == paths


@pytest.mark.parametrize(
    ("endpoint", "host", "server"),
    [
        ("http://127.0.0.1:9/", "127.0.0.1:9", "http://127.0.0.1:9"),
        (f"http://u:{SECRET}@127.0.0.1:9/gate/", "127.0.0.1:9", "http://127.0.0.1:9/gate"),
        ("https://s3.eu-west-1.amazonaws.com/", "s3.eu-west-1.amazonaws.com", None),
    ],
)
def test_the_host_is_named_whatever_path_the_endpoint_has(
    aws: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, endpoint: str, host: str, server: str | None
) -> None:
    """The address of the server, by which its probe is noted, has the path too, and no secret."""
    monkeypatch.setattr(network, "name_server_answers", lambda *_: True)
    aws(9)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    with contextlib.closing(S3VersionedStore("bucket")) as store:
        assert store.find_server() == server
        assert store.location == f"s3://bucket at {host}"


def test_the_cache_tells_buckets_apart_by_what_names_them() -> None:
    """Endpoint, profile and prefix: each makes another registry of the same bucket; a password or a region does not."""
    environments: list[dict[str, str]] = [
        {},
        {"AWS_PROFILE": "lab"},
        {"AWS_ENDPOINT_URL_S3": f"http://u:{SECRET}@127.0.0.1:8000/"},
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:8001"},
    ]
    found = {identity(f"s3://bucket/{prefix}", env) for env in environments for prefix in ("a", "b")}
    assert len(found) == 2 * len(environments)
    assert SECRET not in "".join(found)
    assert identity("s3://bucket/", {"AWS_DEFAULT_REGION": "eu-west-1"}) == identity("s3://bucket", {}) == "s3://bucket"


# --- the servers of the tests ---------------------------------------------------------------------------------------
