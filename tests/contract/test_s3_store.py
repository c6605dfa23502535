"""What only the S3 backend has to be asked: requests, objects of others, limits, refusals, outages, the command.

The contract itself is in tests/contract/test_versioned_store.py, which runs over this backend too, against moto and a
real SeaweedFS.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import socket
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from botocore.exceptions import ClientError

import bench.s3
import bench.servers
from bench.servers import free_ports
from mopsjobs.errors import (
    ConfigError,
    InvalidKeyError,
    MopsJobsError,
    StoreAccessError,
    StoreError,
    StoreUnavailableError,
    UnusableStoreError,
)
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import network, open_store
from mopsjobs.store.aws import client as aws_client
from mopsjobs.store.base import VersionToken
from mopsjobs.store.s3 import store as s3
from mopsjobs.store.s3.errors import explain
from mopsjobs.store.s3.nonce import LENGTH
from mopsjobs.store.s3.store import S3VersionedStore
from mopsjobs.store.s3.url import parse_s3_url
from mopsjobs.store.urls import identity
from support.doubles import RecordingSleep
from support.replies import HANG_UP, SILENT, Reply, playing, saying

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.cli import Cli
    from support.servers import S3

VERSION = VersionToken("0" * 32)
RECORD = b'{"job_id": "j-1", "status": "running", "tasks_total": 100}'
SECRET = "must-not-be-seen"


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


def noted(store: S3VersionedStore) -> list[Request]:
    """Return the requests that the store sends from now on."""
    sent: list[Request] = []

    def note(model: Any, params: Any, **_: object) -> None:
        headers = params["headers"]
        sent.append(
            Request(model.name, " ".join(name for name in ("If-Match", "If-None-Match", "Expect") if name in headers))
        )

    store._client().meta.events.register_last("before-call.s3", note)
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
    store = place.open()
    version = store.create_if_absent("k/a", RECORD)
    assert version is not None
    requests = noted(store)
    for name, (call, expected) in COSTS.items():
        requests.clear()
        call(store, version)
        assert requests == expected, name


def test_a_page_of_a_listing_is_one_request(place: Place) -> None:
    store = place.open(page_size=2)
    for name in "abcde":
        store.create_if_absent(f"k/{name}", RECORD)
    requests = noted(store)
    assert [entry.key for entry in store.scan("k/")] == [f"k/{name}" for name in "abcde"]
    assert len(requests) == 3


# --- objects --------------------------------------------------------------------------------------------------------


def test_other_programs_read_records_as_json_and_outputs_as_they_are(place: Place) -> None:
    """JSON allows blanks behind an object. A value that is created has none."""
    store = place.open()
    version = store.create_if_absent("jobs/a/state.json", RECORD)
    assert version is not None
    assert store.put("jobs/a/state.json", RECORD, version)
    assert json.loads(place.raw("jobs/a/state.json")) == json.loads(RECORD)
    assert len(place.raw("jobs/a/state.json")) == len(RECORD) + LENGTH
    for name, value in (("table.csv", b"a,b\n1,2\n"), ("result.json", b'{"a": 1}')):
        assert store.create_if_absent(f"results/a/p/1/{name}", value)
        assert place.raw(f"results/a/p/1/{name}") == value


def test_what_other_programs_write_is_read_as_it_is(place: Place) -> None:
    """A copy of an object has its blanks, and is read without them. An empty object for a folder is left out."""
    store = place.open()
    place.put_raw("jobs/a/state.json", RECORD + b"\n")
    version = store.create_if_absent("jobs/b/state.json", b"{}")
    assert version is not None
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
    first = store.create_if_absent("a", RECORD)
    assert first is not None
    second = store.put("a", b"{}", first)
    assert second is not None
    assert store.put("a", RECORD, second)
    assert store.put("a", b"{}", first) is None
    store.delete("a")
    assert store.create_if_absent("a", RECORD) == first
    registry = JobRegistry(store)
    versions = []
    for _ in range(2):
        registry.register_job("a")
        found = store.get("jobs/a/state.json")
        assert found is not None
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


def test_a_key_that_is_too_long_for_s3_is_refused_unsent(place: Place) -> None:
    """1,024 bytes with the prefix. 900 letters of ASCII fit behind the longest prefix."""
    store = place.open()
    requests = noted(store)
    with pytest.raises(InvalidKeyError, match="expected at most 986 in S3"):
        store.create_if_absent("é" * 500, RECORD)
    assert requests == []
    parse_s3_url(f"s3://bucket/{'p' * (s3.MAX_KEY_BYTES - 1 - 900 - 3)}")


# --- a server that misbehaves ---------------------------------------------------------------------------------------

WRITES: dict[str, Callable[[S3VersionedStore], object]] = {
    "put": lambda store: store.put("a", RECORD, VERSION),
    "create": lambda store: store.create_if_absent("a", RECORD),
}
READS: dict[str, Callable[[S3VersionedStore], object]] = {
    "get": lambda store: store.get("a"),
    "scan": lambda store: list(store.scan("a/")),
    "delete": lambda store: store.delete("a"),
}
"""A removal begins with a read."""


def refused(status: int, code: str) -> Reply:
    body = f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>".encode()
    return Reply(status, headers=(("Content-Type", "application/xml"),), body=body)


def listed(*keys: str, more: str = "<IsTruncated>false</IsTruncated>") -> Reply:
    items = "".join(f"<Contents><Key>jobs/{key}</Key><ETag>&quot;1&quot;</ETag></Contents>" for key in keys)
    body = f"<ListBucketResult><Name>bucket</Name>{more}{items}</ListBucketResult>".encode()
    return Reply(200, headers=(("Content-Type", "application/xml"),), body=body)


FOUND = Reply(200, headers=(("ETag", '"0"'),), body=RECORD)
BUSY = refused(503, "SlowDown")
PAGE = Reply(200, headers=(("Content-Type", "text/html"),), body=b"<html><p>Sign in, please<br></html>")


class Scripted(NamedTuple):
    """A server that plays replies in turn: the store that talks to it, and what the store asked for."""

    store: S3VersionedStore
    requests: list[str]
    sleep: RecordingSleep


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make boto3 talk to a port of this machine."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    return lambda port: monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")


@contextlib.contextmanager
def scripted(aws: Callable[[int], None], *replies: Reply) -> Iterator[Scripted]:
    with playing(*replies) as (port, requests):
        aws(port)
        sleep = RecordingSleep()
        with contextlib.closing(S3VersionedStore("bucket", "jobs", sleep=sleep, clock=lambda: 0.0)) as store:
            yield Scripted(store, requests, sleep)


ANSWERS = [
    (BUSY, StoreUnavailableError, 5),
    (HANG_UP, StoreUnavailableError, 5),
    (refused(500, "InternalError"), StoreUnavailableError, 5),
    (refused(400, "RequestTimeout"), StoreUnavailableError, 5),
    (Reply(503), StoreUnavailableError, 5),
    (refused(403, "AccessDenied"), StoreAccessError, 4),
    (refused(403, "InvalidAccessKeyId"), StoreAccessError, 4),
    (refused(400, "ExpiredToken"), StoreAccessError, 4),
    (refused(403, "SignatureDoesNotMatch"), StoreAccessError, 4),
    (refused(403, "RequestTimeTooSkewed"), StoreAccessError, 4),
    (Reply(403), StoreAccessError, 4),
    (refused(403, "InvalidObjectState"), StoreError, 1),
    (refused(404, "NoSuchBucket"), UnusableStoreError, 2),
    (PAGE._replace(status=404), StoreError, 1),
    (Reply(404), StoreError, 1),
    (Reply(412), StoreError, 1),
    (refused(400, "InvalidRequest"), StoreError, 1),
    (refused(501, "NotImplemented"), UnusableStoreError, 2),
    (PAGE, StoreUnavailableError, 5),
    (FOUND._replace(headers=(("ETag", '"0'),)), StoreUnavailableError, 5),
]
HINTS = {
    b"AccessDenied": "s3:ListBucket",
    b"InvalidObjectState": "aws s3api restore-object",
    b"ExpiredToken": "aws sso login",
    b"RequestTimeTooSkewed": "clock",
    b"SignatureDoesNotMatch": "clock",
    b"NoSuchBucket": "aws s3 mb",
    b"NotImplemented": "If-None-Match",
}


@pytest.mark.parametrize("write", WRITES)
def test_a_write_is_sent_once_whatever_comes_back(aws: Callable[[int], None], write: str) -> None:
    """It may have landed: sent again, it would lose the race against itself. The reply's words are not repeated."""
    with scripted(aws, *(reply for reply, _, _ in ANSWERS)) as (store, requests, sleep):
        for number, (reply, kind, code) in enumerate(ANSWERS, 1):
            with pytest.raises(MopsJobsError) as caught:
                WRITES[write](store)
            assert (type(caught.value), caught.value.exit_code) == (kind, code), reply
            told = f"{caught.value} {caught.value.hint}"
            assert SECRET not in told
            assert all(hint in told for name, hint in HINTS.items() if name in reply.body), told
            assert requests == ["PUT"] * number
        assert sleep.requested == []


@pytest.mark.parametrize("read", READS)
def test_a_read_is_tried_three_times_if_that_may_help(aws: Callable[[int], None], read: str) -> None:
    """And what comes back never looks like "no such key" or "no keys"."""
    tries = [3 if kind is StoreUnavailableError else 1 for _, kind, _ in ANSWERS]
    played = [reply for (reply, _, _), count in zip(ANSWERS, tries, strict=True) for _ in range(count)]
    with scripted(aws, *played) as (store, requests, sleep):
        for (reply, kind, code), count in zip(ANSWERS, tries, strict=True):
            requests.clear()
            sleep.requested.clear()
            with pytest.raises(MopsJobsError) as caught:
                READS[read](store)
            assert (type(caught.value), caught.value.exit_code) == (kind, code), reply
            assert len(requests) == count, reply
            assert sleep.requested == [network.FIRST_PAUSE, network.MAX_PAUSE][: count - 1]


def test_a_read_that_succeeds_later_is_a_success(aws: Callable[[int], None]) -> None:
    with scripted(aws, BUSY, HANG_UP, FOUND) as (store, requests, _):
        assert store.get("a") == (RECORD, VersionToken("0"))
        assert len(requests) == 3


def test_a_reply_that_breaks_off_anywhere_leaves_a_doubt(aws: Callable[[int], None]) -> None:
    """It is an outage.

    In its headers too: the standard library takes what came of them for all, and boto3 then for an empty value.
    """
    etag = b'HTTP/1.1 200 OK\r\nContent-Type: x\r\nETag: "1234"'
    whole = b"%b\r\nContent-Length: %d\r\n\r\n%b" % (etag, len(RECORD), RECORD)
    for call, cuts in (("get", range(20, len(whole), 4)), ("put", range(20, len(etag)))):
        with saying(*(whole[:end] for end in cuts)) as port:
            aws(port)
            with contextlib.closing(S3VersionedStore("bucket", sleep=RecordingSleep(), clock=lambda: 0.0)) as store:
                for _ in cuts:  # a read is tried three times, so it meets each
                    with pytest.raises(StoreUnavailableError) as caught:
                        (READS | WRITES)[call](store)
                    assert caught.value.sent


def test_a_lost_race_is_a_return_value(aws: Callable[[int], None]) -> None:
    """412; and 404 for a write to one version, whose key is gone."""
    lost, gone = refused(412, "PreconditionFailed"), refused(404, "NoSuchKey")
    with scripted(aws, lost, gone, lost) as (store, requests, _):
        assert [WRITES[write](store) for write in ("put", "put", "create")] == [None, None, None]
        assert len(requests) == 3


def test_a_write_that_overlaps_another_one_is_sent_again(aws: Callable[[int], None]) -> None:
    """S3 refuses it with 409, having written nothing. It does not say who wins; so the write is sent once more."""
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


def test_an_update_that_overlaps_others_too_often_has_lost_the_race(aws: Callable[[int], None]) -> None:
    """Nothing was written, so the writer reads again, with longer pauses."""
    overlap = refused(409, "ConditionalRequestConflict")
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
    ("replies", "told"),
    [
        ([listed("b/x", "c/x", "a/x")], "out of order"),
        ([listed("a", "a")], "out of order"),
        ([listed("a", more="")] * 3, "not the page of a listing"),
        ([listed("a", more="<IsTruncated>true</IsTruncated>")] * 3, "not the page of a listing"),
    ],
)
def test_a_listing_that_cannot_be_trusted_is_an_error(
    aws: Callable[[int], None], replies: list[Reply], told: str
) -> None:
    """Keys out of order, or an end that is none: a sync would take jobs for removed ones."""
    with scripted(aws, *replies) as (store, _, _sleep), pytest.raises(StoreError, match=told):
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


@pytest.mark.parametrize("operation", [*WRITES, *READS])
def test_a_server_that_accepts_and_never_answers_is_given_up(
    aws: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    """Tried once: the budget, shortened here, is spent by then."""
    for module in (s3, aws_client):
        monkeypatch.setattr(module, "BUDGET_SECONDS", 1.5)
    with scripted(aws, SILENT) as (store, requests, _):
        monkeypatch.setattr(store.pacer, "_clock", time.monotonic)
        with pytest.raises(StoreUnavailableError, match="no answer in time") as caught:
            (WRITES | READS)[operation](store)
        assert (caught.value.sent, caught.value.silent) == (True, True)
        assert len(requests) == 1


def test_a_closed_port_is_an_outage(aws: Callable[[int], None]) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # bound, but no server listens
        aws(reserved.getsockname()[1])
        with contextlib.closing(S3VersionedStore("bucket", sleep=RecordingSleep())) as store:
            for call in (WRITES | READS).values():
                with pytest.raises(StoreUnavailableError, match="connection refused") as caught:
                    call(store)
                assert (caught.value.sent, caught.value.silent) == (False, False)
                assert "AWS_ENDPOINT_URL_S3" in (caught.value.hint or "")


# --- settings -------------------------------------------------------------------------------------------------------


def test_a_bucket_that_is_missing_is_an_error_that_says_how_to_make_it(cli: Cli, moto: S3) -> None:
    """It never looks like an empty registry, and no write makes it: its region and rules are the owner's choice."""
    cli.env |= {"MOPS_JOBS_REGISTRY": "s3://missing/jobs", **moto.env}
    for argv in (("sync",), ("register", "a"), ("update", "a", "running")):
        ran = cli(*argv)
        assert ran.code == 2, ran.err
        assert "There is no bucket for s3://missing/jobs" in ran.err
        assert "aws s3 mb" in ran.err
    with contextlib.closing(S3VersionedStore("missing")) as store:
        for call in (WRITES | READS).values():
            with pytest.raises(UnusableStoreError):
                call(store)


def test_without_credentials_one_sentence_says_how_to_get_them(cli: Cli) -> None:
    ran = cli("sync", MOPS_JOBS_REGISTRY="s3://bucket/jobs")
    assert ran.code == 4
    assert "There are no usable AWS credentials for s3://bucket/jobs" in ran.err
    assert "aws sso login" in ran.err


def test_without_the_library_one_sentence_says_how_to_get_it(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)  # as the interpreter notes what cannot be imported
    ran = cli("sync", MOPS_JOBS_REGISTRY="s3://bucket/jobs")
    assert ran.code == 2
    assert "A registry in S3 needs the package boto3" in ran.err


def test_an_older_library_is_refused_with_the_version_needed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its import would fail, since it lacks an error of signing in."""
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "1.40.76")
    ran = cli("sync", MOPS_JOBS_REGISTRY="s3://bucket/jobs")
    assert ran.code == 2
    assert "A registry in S3 needs the package boto3 1.41 or later; this Python has 1.40.76." in ran.err
    assert "-m pip install 'boto3>=1.41'" in ran.err


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize(("url", "variable"), [("s3://bucket", "S3"), ("dynamodb://table", "DYNAMODB")])
def test_plain_http_is_for_this_machine_only(monkeypatch: pytest.MonkeyPatch, url: str, variable: str) -> None:
    """Values could be read and changed on the way, bundles of code among them. Nothing is sent."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv(f"AWS_ENDPOINT_URL_{variable}", "http://storage.example.org:9000")
    with contextlib.closing(open_store(url, {})) as store:
        for call in (lambda: store.get("a"), lambda: store.create_if_absent("a", RECORD)):
            with pytest.raises(ConfigError, match="expected https"):
                call()


@pytest.mark.parametrize("url", ["s3://", "s3://ab", "s3://A:k=s;x@bucket", "s3://bucket/../a", "s3://bucket/a//b"])
def test_a_url_that_names_no_place_is_refused_without_repeating_it_all(url: str) -> None:
    with pytest.raises(ConfigError, match=r"invalid (bucket|prefix)") as caught:
        open_store(url, {})
    assert "k=s" not in str(caught.value)


def test_a_directory_bucket_is_refused_with_the_reason() -> None:
    """A sync needs an order of keys."""
    with pytest.raises(ConfigError, match="A directory bucket lists keys in no order"):
        open_store("s3://jobs--use1-az4--x-s3/a", {})


@pytest.mark.parametrize(("status", "code"), [(301, "PermanentRedirect"), (400, "AuthorizationHeaderMalformed")])
def test_a_bucket_in_another_region_is_told_as_such(status: int, code: str) -> None:
    reply = {"Error": {"Code": code, "Message": SECRET}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error = explain(ClientError(reply, "GetObject"), "s3://bucket", "the AWS settings")  # type: ignore[arg-type]
    assert isinstance(error, UnusableStoreError)
    assert f"The bucket of s3://bucket is in another region: {status} {code}." in str(error)
    assert "AWS_DEFAULT_REGION" in (error.hint or "")
    assert SECRET not in str(error)


def test_only_amazon_has_a_host_for_each_bucket() -> None:
    paths = {"s3": {"addressing_style": "path"}}
    assert s3._options_at("https://s3.eu-west-1.amazonaws.com") == {}
    assert s3._options_at("https://s3.cn-north-1.amazonaws.com.cn") == {}
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
    monkeypatch.setattr(aws_client, "name_server_answers", lambda *_: True)
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


def test_a_server_whose_port_was_taken_starts_with_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sockets that draw ports are closed before the server listens. The last failure is raised."""
    started: list[int] = []

    class Taken:
        def __init__(self, *_: object) -> None:
            self.port, self.other = free_ports(2)

        def start(self) -> None:
            assert self.port != self.other
            started.append(self.port)
            if len(started) != bench.s3.STARTS:
                raise RuntimeError("did not start")

    monkeypatch.setattr(bench.s3, "make_server", Taken)
    assert bench.s3.start_server(tmp_path, bench.s3.MOTO).port == started[-1]
    with pytest.raises(RuntimeError, match="did not start"):
        bench.s3.start_server(tmp_path, bench.s3.MOTO)
    assert len(started) == 2 * bench.s3.STARTS


def test_a_server_without_its_bucket_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = bench.s3.make_server(tmp_path, bench.s3.MOTO)
    stopped: list[bool] = []
    monkeypatch.setattr(bench.servers.ServerProcess, "start", lambda _: None)
    monkeypatch.setattr(bench.servers.ServerProcess, "stop", lambda _: stopped.append(True))
    monkeypatch.setattr(bench.s3, "plain_client", lambda *_: contextlib.closing(None))
    with pytest.raises(AttributeError):
        server.start()
    assert stopped == [True]


# --- the command ----------------------------------------------------------------------------------------------------


def test_a_job_lives_from_end_to_end_by_the_command(cli: Cli, place: Place) -> None:
    cli.env |= {"MOPS_JOBS_REGISTRY": place.url, **place.server.env}
    assert "reachable, no jobs yet, signed in by the AWS settings (env, us-east-1)" in cli("doctor").out
    assert place.url in cli.ok("config", "show").out
    cli.ok("register", "a", "--owner", "ada")
    cli.ok("register", "b")
    cli.ok("update", "a", "running")
    cli.ok("progress", "a", "5/10")
    cli.ok("sync")
    assert [(job["job_id"], job["status"]) for job in cli.ok("list", "--json", "--sort", "name").json["jobs"]] == [
        ("a", "running"),
        ("b", "pending"),
    ]
    cli.ok("cancel", "b")
    cli.ok("update", "a", "succeeded")
    assert cli("update", "a", "running").code == 6
    cli.ok("sync")
    assert set(cli.ids("--status", "done")) == {"a", "b"}
    assert cli.ok("status", "a", "--json").json["tasks_completed"] == 5
    assert cli("doctor").code == 0
    for ran in (cli.ok("config", "show", "--json"), cli("doctor", "--json")):
        assert place.server.env["AWS_SECRET_ACCESS_KEY"] not in ran.out
    assert JobRegistry(place.open()).get_job("a") is not None
