"""What only the Azure backend has to be asked: requests, metadata, foreign writers, credentials, outages.

The contract itself is in tests/contract/test_versioned_store.py, which runs over this backend too.
"""

from __future__ import annotations

import base64
import functools
import gzip
import os
import random
import socket
import threading
import traceback
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.storage.blob import BlobBlock, BlobLeaseClient, ContainerSasPermissions, generate_container_sas
from hypothesis import given
from hypothesis import strategies as st
from urllib3 import Timeout

from bench.proxy import limited
from mopsjobs.errors import (
    ConfigError,
    MopsJobsError,
    StoreAccessError,
    StoreError,
    StoreUnavailableError,
    ValueTooLargeError,
)
from mopsjobs.store import network
from mopsjobs.store.azure import listing, transport
from mopsjobs.store.azure import store as azure
from mopsjobs.store.azure.credentials import find_container
from mopsjobs.store.azure.listing import NAME as INLINE_NAME
from mopsjobs.store.azure.listing import in_code_point_order
from mopsjobs.store.azure.store import AzureVersionedStore, open_azure_store
from mopsjobs.store.base import Entry, VersionToken
from support import services
from support.doubles import RecordingSleep, hooked
from support.existing import existing
from support.replies import Reply, saying
from support.runs import PATIENCE
from support.servers import ACCOUNT, ACCOUNT_KEY, Azurite
from support.services import IN_AZURE, RECORD, VERSION

SECRET_KEY = base64.b64encode(b"a key that must not be seen").decode()
SECRET_SAS = "sv=2024-08-04&sr=c&sp=rl&sig=must-not-be-seen"
USUAL_BUDGET = network.BUDGET_SECONDS
"""That of programs. Tests with a server wait longer."""


class Place:
    """A container that does not exist yet, in an Azurite that tests share."""

    def __init__(self, server: Azurite) -> None:
        self.server = server
        self.name = server.new_container()
        self.url = f"{server.endpoint}/{self.name}"
        self.stores: list[AzureVersionedStore] = []

    def open(
        self, env: Mapping[str, str] | None = None, *, hook: Callable[[Any], None] | None = None, **options: Any
    ) -> AzureVersionedStore:
        store = AzureVersionedStore(find_container(self.url, env or {}), **options)
        self.stores.append(store)
        return store if hook is None else hooked(store, hook)


@pytest.fixture
def place(azurite: Azurite) -> Iterator[Place]:
    """Yield a place in the newest Azurite. The contract suite runs over the older one too."""
    made = Place(azurite)
    yield made
    for store in made.stores:
        store.close()


class Requests(list[str]):
    """Notes the method of each request."""

    def __call__(self, request: Any) -> None:
        self.append(request.method)


# --- requests -------------------------------------------------------------------------------------------------------

COSTS: dict[str, tuple[Callable[[AzureVersionedStore, VersionToken], object], list[str]]] = {
    "get": (lambda store, _: store.get("a"), ["GET"]),
    "get, no such key": (lambda store, _: store.get("missing"), ["GET"]),
    "get, empty value": (lambda store, _: store.get("empty"), ["GET"]),
    "put": (lambda store, version: store.put("a", b"2", version), ["PUT"]),
    "put, stale": (lambda store, _: store.put("a", b"2", VERSION), ["PUT"]),
    "put, impossible version": (lambda store, _: store.put("a", b"2", VersionToken("*")), []),
    "create": (lambda store, _: store.create_if_absent("new", b"2"), ["PUT"]),
    "create, exists": (lambda store, _: store.create_if_absent("a", b"2"), ["PUT"]),
    "delete": (lambda store, _: store.delete("a"), ["DELETE"]),
    "delete, no such key": (lambda store, _: store.delete("missing"), ["DELETE"]),
    "scan": (lambda store, _: list(store.scan()), ["GET"]),
    "list_keys": (lambda store, _: list(store.list_keys("a")), ["GET"]),
    "list_keys, empty value": (lambda store, _: list(store.list_keys()), ["GET", "GET"]),
}


def test_an_operation_costs_no_more_requests_than_promised(azurite: Azurite) -> None:
    for operation, (call, expected) in COSTS.items():
        requests = Requests()
        with closing(Place(azurite).open(hook=requests)) as store:
            version = store.create_if_absent("a", RECORD)
            store.create_if_absent("empty", b"")
            assert version is not None
            requests.clear()
            call(store, version)
        assert requests == expected, operation


def test_a_page_of_a_listing_is_one_request(place: Place) -> None:
    """So is the making of the container, before the first key is sent again. No page before `after` is listed."""
    requests = Requests()
    store = place.open(hook=requests, page_size=2)
    assert store.create_if_absent("a", RECORD)
    assert requests == ["PUT"] * 3
    for key in "bcdef":
        store.create_if_absent(key, RECORD)
    requests.clear()
    assert [entry.key for entry in store.scan()] == list("abcdef")
    assert [entry.key for entry in store.scan(after="d")] == list("ef")
    assert requests == ["GET"] * (3 + 2)


def test_a_server_that_cannot_begin_after_a_key_lists_all(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """One refuses the parameter, an older one ignores it."""
    store = place.open(page_size=2)
    for key in "abcdef":
        store.create_if_absent(key, RECORD)
    request, seen = store._request, []

    def refuse(path: str, *, left: float) -> transport.Reply:
        seen.append("startFrom" in path)
        if seen[-1]:
            reply = mock.Mock(status_code=400, headers={}, reason="refused")
            raise HttpResponseError(response=reply)
        return request(path, left=left)

    monkeypatch.setattr(store, "_request", refuse)
    assert [entry.key for entry in store.scan(after="d")] == list("ef")
    assert seen.count(True) == seen.count(False) == 3
    monkeypatch.setattr(store, "_request", lambda path, left: request(path.replace("startFrom", "ignored"), left=left))
    assert [entry.key for entry in store.scan(after="d")] == list("ef")


# --- the value in the metadata --------------------------------------------------------------------------------------


def test_the_blob_itself_holds_the_value_and_its_metadata_repeat_it(place: Place) -> None:
    """A raw look behind the store: bytes, their MD5, and a copy that zlib and base64 undo."""
    version = place.open().create_if_absent("jobs/j-1/state.json", RECORD)
    with place.server.client(place.name) as client:
        blob = client.download_blob("jobs/j-1/state.json")
        properties = client.get_blob_client("jobs/j-1/state.json").get_blob_properties()
        assert blob.readall() == RECORD
    assert version == VersionToken(properties.etag.strip('"'))
    assert list(properties.metadata) == [INLINE_NAME]
    assert zlib.decompress(base64.b64decode(properties.metadata[INLINE_NAME])) == RECORD
    assert properties.content_settings.content_type == "application/octet-stream"


@pytest.mark.parametrize("value", [os.urandom(6_000), b"0" * (128 * 2**10 + 1)], ids=["incompressible", "long"])
def test_a_value_that_does_not_fit_is_left_out_of_the_metadata(place: Place, value: bytes) -> None:
    """8 KiB is all that Azure gives; the value is then fetched by get."""
    store = place.open()
    version = store.create_if_absent("a", value)
    with place.server.client(place.name) as client:
        assert client.get_blob_client("a").get_blob_properties().metadata == {}
    assert list(store.scan()) == [Entry("a", version, None, len(value))]
    assert store.get("a") == (value, version)


def foreign(place: Place, value: bytes, **settings: Any) -> None:
    """Write blob `a` as another program would."""
    with place.server.client(place.name) as client:
        if not client.exists():
            client.create_container()
        client.upload_blob("a", value, overwrite=True, **settings)


def only_entry(store: AzureVersionedStore) -> Entry:
    (entry,) = store.scan()
    return entry


def test_a_foreign_blob_is_listed_without_value_and_can_be_replaced(place: Place) -> None:
    """It can be read, too."""
    foreign(place, b"theirs")
    store = place.open()
    with place.server.client(place.name) as client:
        client.upload_blob("a//b", b"outside of the contract of keys")
    entry, other = store.scan()
    assert list(store.list_keys()) == [entry.key, other.key] == ["a", "a//b"]
    assert (entry.value, entry.size) == (None, 6)
    assert store.get("a") == (b"theirs", entry.version)
    assert store.put("a", b"ours", entry.version)
    assert next(iter(store.scan())).value == b"ours"


def test_metadata_of_an_older_value_are_not_believed(place: Place) -> None:
    """Another program kept them when it changed the value. Equal length, our metadata, other bytes: the MD5 tells."""
    store = place.open()
    store.create_if_absent("a", b"running")
    with place.server.client(place.name) as client:
        metadata = client.get_blob_client("a").get_blob_properties().metadata
    foreign(place, b"succeed", metadata=metadata)
    assert only_entry(store).value is None
    assert store.get("a") == (b"succeed", only_entry(store).version)


def test_metadata_of_a_blob_without_md5_are_not_believed(place: Place) -> None:
    """A blob put together from blocks has none, unless its writer says so. Its snapshots do not keep it."""
    store = place.open()
    store.create_if_absent("other", b"")
    store.delete("other")
    with place.server.client(place.name) as client:
        blob = client.get_blob_client("a")
        blob.stage_block("MDAw", b"running")
        packed = base64.b64encode(zlib.compress(b"running")).decode()
        blob.commit_block_list([BlobBlock("MDAw")], metadata={INLINE_NAME: packed})
        blob.create_snapshot()
    assert only_entry(store).value is None
    assert store.get("a") == (b"running", only_entry(store).version)
    assert store.delete("a")


def test_metadata_that_are_not_the_value_are_not_believed() -> None:
    """Nor are those of a compression bomb, of which no more is unpacked than the blob is long."""
    value = b"running"
    bomb = zlib.compress(b"0" * 5_000_000)
    packed = [zlib.compress(other) for other in (b"another", b"running, and more", b"run")]
    packed += [zlib.compress(value)[:-8], b"not zlib at all", bomb]
    tracemalloc.start()
    for texts in (*(base64.b64encode(one).decode() for one in packed), "not base64!"):
        assert listing.unpack(texts, len(value), listing.md5(value)) is None
    assert tracemalloc.get_traced_memory()[1] < 500_000
    tracemalloc.stop()


# --- foreign blobs --------------------------------------------------------------------------------------------------


def test_a_folder_of_a_hierarchical_namespace_is_no_key(place: Place) -> None:
    store = place.open(page_size=2)
    for key in ("jobs/a/state.json", "jobs/b", "jobs/empty"):
        store.create_if_absent(key, b"" if key.endswith("empty") else b"1")
    with place.server.client(place.name) as client:
        for folder in ("jobs", "jobs/a"):
            client.upload_blob(folder, b"", metadata={"hdi_isfolder": "true"})
    expected = ["jobs/a/state.json", "jobs/b", "jobs/empty"]
    assert list(store.list_keys()) == expected
    assert [entry.key for entry in store.scan()] == expected


@pytest.mark.claim("Metadata of a blob hide no record")
@pytest.mark.parametrize("value", [b"{}", b""], ids=["content", "empty"])
@pytest.mark.parametrize("has_empty_blob", [True, False])
def test_metadata_of_a_folder_hide_no_record(place: Place, value: bytes, *, has_empty_blob: bool) -> None:
    """`get`, `list_keys` and `scan` agree: a record that a writer marks as a folder is there for all three."""
    store = place.open()
    record = "jobs/a/state.json"
    if has_empty_blob:  # then `list_keys` looks at the metadata too
        store.create_if_absent("jobs/a/empty", b"")
    store.create_if_absent("jobs/z", b"1")
    with place.server.client(place.name) as client:
        client.upload_blob(record, value, metadata={"hdi_isfolder": "true"})
    expected = [*(["jobs/a/empty"] if has_empty_blob else []), record, "jobs/z"]
    assert list(store.list_keys()) == expected
    assert [entry.key for entry in store.scan()] == expected
    assert existing(store.get(record)).value == value


def test_a_blob_with_a_content_encoding_is_read_as_it_is_stored(place: Place) -> None:
    """Bytes are bytes: otherwise the listed size would not be that of the value, and a small blob might be a bomb."""
    from azure.storage.blob import ContentSettings

    packed = gzip.compress(b"0" * 1000)
    foreign(place, packed, content_settings=ContentSettings(content_encoding="gzip"))
    store = place.open()
    assert store.get("a") == (packed, only_entry(store).version)
    assert only_entry(store).size == len(packed)


def test_a_leased_blob_is_an_error_and_no_lost_race(place: Place) -> None:
    """Azure answers 412 to this as well; reported as a conflict it would be tried again for nothing."""
    store = place.open()
    version = existing(store.create_if_absent("a", b"1"))
    with place.server.client(place.name) as client:
        lease = BlobLeaseClient(client.get_blob_client("a"))
        lease.acquire()
        with pytest.raises(StoreError, match="412 LeaseIdMissing"):
            store.put("a", b"2", version)
        lease.release()
    assert store.put("a", b"2", version)


@given(st.lists(st.text(alphabet="a/é\uff21\ufffd\U0001f600\U0001f601", min_size=1, max_size=6), unique=True))
def test_utf16_order_is_turned_into_code_point_order(keys: list[str]) -> None:
    """Azurite lists by UTF-16 units; the contract asks for code points. Either order comes out as the latter."""
    by_units = sorted(keys, key=lambda key: key.encode("utf-16-be"))
    for listed in (by_units, sorted(keys)):
        entries = [Entry(key, VERSION, None) for key in listed]
        assert [entry.key for entry in in_code_point_order(entries)] == sorted(keys)


def test_a_value_above_the_limit_is_refused_unsent(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(azure, "MAX_VALUE_BYTES", 10)
    store = place.open()
    with pytest.raises(ValueTooLargeError, match="11"):
        store.create_if_absent("a", b"0" * 11)
    foreign(place, b"0" * 20)
    with pytest.raises(ValueTooLargeError, match=r"/a has 20 bytes; at most 10"):
        place.open().get("a")


# --- a server that misbehaves ---------------------------------------------------------------------------------------


WRITES, READS, BUSY = IN_AZURE.writes, IN_AZURE.reads, IN_AZURE.busy

scripted = functools.partial(services.scripted, IN_AZURE, lambda _port: None)


def test_retry_after_is_honoured_if_the_budget_allows() -> None:
    busy = BUSY._replace(headers=(*BUSY.headers, ("Retry-After", "2")))
    with scripted(busy, IN_AZURE.found) as (store, _, sleep):
        assert store.get("a")
        assert sleep.requested == [2.0]


def test_a_page_that_fails_is_asked_for_again_and_the_listing_goes_on(place: Place) -> None:
    """No entry twice, none left out."""
    failing = iter([False, True, False, True])

    def hook(request: Any) -> None:
        if request.method == "GET" and next(failing, False):
            raise ConnectionResetError("cut")

    store = place.open(hook=hook, page_size=2, sleep=RecordingSleep())
    for key in "abcde":
        store.create_if_absent(key, RECORD)
    assert [entry.key for entry in store.scan()] == list("abcde")


def test_a_container_deleted_in_the_middle_of_a_listing_is_an_error(place: Place) -> None:
    """The keys that were not listed are not taken for removed ones."""
    store = place.open(page_size=2)
    for key in "abcde":
        store.create_if_absent(key, RECORD)
    entries = store.scan()
    next(entries)
    with place.server.client(place.name) as client:
        client.delete_container()
    with pytest.raises(StoreError, match="was deleted while it was listed"):
        list(entries)


def test_a_listed_blob_without_a_version_is_one_to_read(place: Place) -> None:
    """It does not end the listing of the others. Azure never leaves it out; other servers may."""
    blob = "<Blob><Name>{}</Name><Properties>{}<Content-Length>1</Content-Length></Properties></Blob>"
    blobs = blob.format("a", "") + blob.format("b", "<Etag>0x8D</Etag>")
    page = f"<EnumerationResults><Blobs>{blobs}</Blobs><NextMarker /></EnumerationResults>".encode()
    with scripted(Reply(200, body=page)) as (store, _, _):
        assert [(entry.key, entry.version.value, entry.value) for entry in store.scan()] == [
            ("a", "", None), ("b", "0x8D", None),
        ]  # fmt: skip


def test_a_proxy_is_asked_with_its_own_password_and_for_the_whole_address(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[bytes] = []

    def serve() -> None:
        client, _ = server.accept()
        with client:
            heard.append(client.recv(65536))
            client.sendall(b"HTTP/1.1 404 Not Found\r\nx-ms-error-code: ContainerNotFound\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HTTP_PROXY", f"http://ada:word@127.0.0.1:{server.getsockname()[1]}")
        thread = threading.Thread(target=serve)
        thread.start()
        store = AzureVersionedStore(find_container(f"http://127.0.0.1:9/{ACCOUNT}/c-1", {}), sleep=RecordingSleep())
        assert store.get("a") is None
        thread.join()
        store.close()
    assert heard[0].startswith(b"GET http://127.0.0.1:9/devstoreaccount1/c-1")
    assert b"\r\nProxy-Authorization: Basic YWRhOndvcmQ=\r\n" in heard[0]
    assert b"\r\nAuthorization: SharedKey devstoreaccount1:" in heard[0]


def test_every_request_has_timeouts_that_add_up_to_less_than_five_seconds(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unreachable account fails a command within five seconds. A large value gets longer to be answered.

    A line of 1 Mbit/s carries it meanwhile: buffers on the way may have taken all of it before.
    """
    monkeypatch.setattr(network, "BUDGET_SECONDS", USUAL_BUDGET)
    seen: list[tuple[float, float]] = []

    def note(connect: float, read: float) -> Timeout:
        seen.append((connect, read))
        return Timeout(connect=PATIENCE, read=PATIENCE)

    monkeypatch.setattr(transport, "Timeout", note)
    store = place.open()
    version = existing(store.create_if_absent("a", b""))
    store.put("a", b"", version)
    store.get("a")
    list(store.scan())
    list(store.list_keys())
    store.delete("a")
    assert len(seen) == 9
    assert max(map(sum, seen)) < 5
    store.create_if_absent("large", bytes(10**6))
    assert seen[-1] == pytest.approx((seen[0][0], seen[0][1] + 8))


# --- no server at all -----------------------------------------------------------------------------------------------


def test_a_value_arrives_on_a_line_that_needs_longer_than_a_connect(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connect timeout does not count for the value: 6 MB at 100 Mbit/s take 0.5 s, a connect may take 0.05 s."""
    monkeypatch.setattr(transport, "Timeout", lambda connect, read: Timeout(connect=0.05, read=60.0))
    monkeypatch.setattr(network, "name_server_answers", lambda *_: True)
    monkeypatch.setattr(transport, "STALL_SECONDS", 60.0)
    value = random.Random(1).randbytes(6_000_000)
    with limited(place.server.port, 100e6) as port:
        place.url = place.url.replace(f":{place.server.port}/", f":{port}/")
        store = place.open()
        assert store.create_if_absent("a", value)
        found = store.get("a")
    assert found is not None
    assert found.value == value


def test_a_value_of_which_no_more_is_taken_is_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server connects and never reads: what the buffers hold is sent, and then nothing more for that time."""
    monkeypatch.setattr(transport, "STALL_SECONDS", 0.2)
    monkeypatch.setattr(transport, "SECONDS_PER_MIB", 600.0)  # not the reply is waited for
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = open_azure_store(f"http://127.0.0.1:{silent.getsockname()[1]}/{ACCOUNT}/c-1", {})
        with pytest.raises(StoreUnavailableError, match="no answer in time") as caught:
            store.create_if_absent("a", bytes(64 * 2**20))
        assert (caught.value.sent, caught.value.silent) == (True, True)
        store.close()
        silent.setblocking(False)
        silent.accept()[0].close()  # one client has connected, and no other
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_a_name_that_does_not_resolve_is_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    container = find_container("https://acme.blob.core.windows.net/c-1", {"AZURE_STORAGE_ACCOUNT": "acme"} | KEY_ENV)
    store = AzureVersionedStore(container, sleep=RecordingSleep())
    resolved = r"acme\.blob\.core\.windows\.net/c-1: its name does not resolve"
    for operation in (WRITES | READS).values():
        with pytest.raises(StoreUnavailableError, match=resolved) as caught:
            operation(store)
        assert (caught.value.sent, caught.value.silent) == (False, False)
    store.close()


def test_a_name_server_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """No socket timeout covers name resolution; the system's own patience is half a minute."""
    answered = threading.Event()
    monkeypatch.setattr(network, "_resolve", lambda *_: answered.wait(PATIENCE))
    monkeypatch.setattr(network, "BUDGET_SECONDS", 0.3)
    store = open_azure_store("https://acme.blob.core.windows.net/c-1", {"AZURE_STORAGE_ACCOUNT": "acme"} | KEY_ENV)
    with pytest.raises(StoreUnavailableError, match="no answer in time"):
        store.get("a")
    answered.set()
    store.close()


@pytest.mark.parametrize(
    "framing", ["", "Content-Length: 4\r\nContent-Length: 4\r\n", "Content-Length: 4 bytes\r\n"], ids=repr
)
def test_a_reply_that_does_not_say_how_long_it_is_is_an_outage(framing: str) -> None:
    """Half of it would look like all of it."""
    with (
        answering(f'HTTP/1.1 200 OK\r\nETag: "0x8DABCDEF"\r\n{framing}\r\nab'.encode()) as store,
        pytest.raises(StoreUnavailableError, match="the connection broke"),
    ):
        store.get("a")


def test_a_body_in_chunks_is_bounded_whatever_length_it_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy may send it so; how long it becomes is then not known before its end."""
    head = b'HTTP/1.1 200 OK\r\nETag: "0x1"\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n'
    for limit in (5, 4):
        monkeypatch.setattr(azure, "MAX_VALUE_BYTES", limit)
        with answering(head + b"5\r\nhello\r\n0\r\n\r\n") as store:
            if limit == 5:
                assert store.get("a") == (b"hello", VersionToken("0x1"))
            else:
                with pytest.raises(ValueTooLargeError, match="has more bytes; at most 4"):
                    store.get("a")


@pytest.mark.parametrize(
    "framing",
    [
        f"Content-Length: {2**40}\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n" + "ffff\r\n" + "x" * 0xFFFF + "\r\n2\r\nyy\r\n",
    ],
    ids=["by its length", "in chunks"],
)
def test_the_body_of_a_reply_to_a_write_is_not_read_beyond_a_bound(framing: str) -> None:
    """Nor that of an error. The headers say all: whatever a server sends besides takes no memory."""
    with answering(f'HTTP/1.1 201 Created\r\nETag: "0x1"\r\n{framing}'.encode()) as store:
        assert store.put("a", RECORD, VERSION) == VersionToken("0x1")
    with answering(f"HTTP/1.1 404 Not Found\r\nx-ms-error-code: BlobNotFound\r\n{framing}".encode()) as store:
        assert store.get("a") is None


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        ("201 Created", "", None),
        ("412 Precondition Failed", "ConditionNotMet", None),
        ("403 Forbidden", "AuthorizationFailure", StoreAccessError),
        ("503 Service Unavailable", "ServerBusy", StoreUnavailableError),
    ],
)
def test_the_status_of_a_reply_without_length_decides_a_write(
    status: str, code: str, told: type[StoreError] | None
) -> None:
    """The end of the connection ends the reply.

    Some gateways reply so. The body is not needed, and so is its end.
    """
    head = f'HTTP/1.1 {status}\r\nETag: "0x1"\r\nx-ms-error-code: {code}\r\nConnection: close\r\n\r\n<html>'
    with answering(head.encode()) as store:
        if told is None:
            assert store.put("a", RECORD, VERSION) == (None if code else VersionToken("0x1"))
            return
        with pytest.raises(told) as caught:
            store.put("a", RECORD, VERSION)
        assert getattr(caught.value, "throttled", True)


def test_a_listing_that_is_left_early_waits_for_no_page(place: Place) -> None:
    """The next page has been asked for by then, and does not come."""
    is_left = threading.Event()
    asked: list[bool] = []

    def hook(request: Any) -> None:
        if request.method == "GET":
            asked.append(not asked or is_left.wait(PATIENCE))

    store = place.open(hook=hook, page_size=2)
    for key in "abcde":
        store.create_if_absent(key, RECORD)
    entries = store.scan()
    assert [next(entries).key, next(entries).key] == ["a", "b"]
    entries.close()  # type: ignore[attr-defined]
    is_left.set()
    assert all(asked)


@contextmanager
def answering(reply: bytes) -> Iterator[AzureVersionedStore]:
    """Yield a store whose server answers each request with these bytes, and hangs up."""
    with saying(reply) as port:
        container = find_container(f"http://127.0.0.1:{port}/{ACCOUNT}/c-1", {})
        with closing(AzureVersionedStore(container, sleep=RecordingSleep())) as store:
            yield store


def test_an_outage_in_the_middle_of_a_listing_does_not_look_like_its_end(private_azurite: Azurite) -> None:
    url = f"{private_azurite.endpoint}/{private_azurite.new_container()}"
    store = AzureVersionedStore(find_container(url, {}), page_size=1, sleep=RecordingSleep())
    for key in "ab":
        store.create_if_absent(key, RECORD)
    entries = store.scan()
    assert next(entries).key == "a"
    private_azurite.stop()
    with pytest.raises(StoreUnavailableError):
        next(entries)
    private_azurite.start()
    assert list(store.scan()) == []  # a new server, without the container: reachable, and empty
    store.close()


# --- credentials ----------------------------------------------------------------------------------------------------

KEY_ENV = {"AZURE_STORAGE_KEY": SECRET_KEY}
SAS_ENV = {"AZURE_STORAGE_SAS_TOKEN": SECRET_SAS}
ACME = {"AZURE_STORAGE_ACCOUNT": "acme"}
ACME_STRING = {"AZURE_STORAGE_CONNECTION_STRING": f"AccountName=acme;AccountKey={SECRET_KEY}"}
OWN_STRING = {
    "AZURE_STORAGE_CONNECTION_STRING": f"BlobEndpoint=https://blobs.example.org/x/;SharedAccessSignature=?{SECRET_SAS}"
}
DEVELOPMENT = {"AZURE_STORAGE_CONNECTION_STRING": "UseDevelopmentStorage=true"}
REMOTE_EMULATOR = {
    "AZURE_STORAGE_CONNECTION_STRING": (
        f"AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};BlobEndpoint=http://azurite:10000/{ACCOUNT}"
    )
}
CHINA_STRING = {
    "AZURE_STORAGE_CONNECTION_STRING": f"AccountName=acme;AccountKey={SECRET_KEY};EndpointSuffix=core.chinacloudapi.cn;"
}
PUBLIC = "https://acme.blob.core.windows.net"
LOCAL = f"http://127.0.0.1:10000/{ACCOUNT}"
STRING, SIGN_IN = "AZURE_STORAGE_CONNECTION_STRING", "DefaultAzureCredential"
WITH_KEY, WITH_SAS = (
    "AZURE_STORAGE_ACCOUNT with AZURE_STORAGE_KEY",
    "AZURE_STORAGE_ACCOUNT with AZURE_STORAGE_SAS_TOKEN",
)
PUBLISHED = "the emulator's published key"


class SignIn:
    """A stand-in for `DefaultAzureCredential` that finds no sign-in."""

    def __init__(self, **options: object) -> None:
        self.options = options

    def get_token(self, *scopes: str, **options: object) -> object:
        raise ClientAuthenticationError("DefaultAzureCredential failed.\nAttempted credentials:\n\tEnvironment: no")


@pytest.mark.parametrize(
    ("url", "env", "location", "source"),
    [
        ("azure://c-1", ACME_STRING | ACME | KEY_ENV, f"{PUBLIC}/c-1", STRING),
        ("azure://c-1", DEVELOPMENT, f"{LOCAL}/c-1", STRING),
        ("azure://c-1", REMOTE_EMULATOR, f"http://azurite:10000/{ACCOUNT}/c-1", STRING),
        (
            "azure://c-1",
            {STRING: "BlobEndpoint=http://[::1]:1/a;SharedAccessSignature=sig=x"},
            "http://[::1]:1/a/c-1",
            STRING,
        ),
        ("azure://c-1", ACME | KEY_ENV | SAS_ENV, f"{PUBLIC}/c-1", WITH_KEY),
        ("azure://c-1", ACME | SAS_ENV | {STRING: " "}, f"{PUBLIC}/c-1", WITH_SAS),
        ("azure://c-1", ACME, f"{PUBLIC}/c-1", SIGN_IN),
        (f"{PUBLIC}/c-1", ACME_STRING, f"{PUBLIC}/c-1", STRING),
        (f"{PUBLIC}/c-1", {"AZURE_STORAGE_ACCOUNT": "other"}, f"{PUBLIC}/c-1", SIGN_IN),
        ("https://acme.blob.core.usgovcloudapi.net/c-1", {}, "https://acme.blob.core.usgovcloudapi.net/c-1", None),
        (f"{LOCAL}/c-1", {}, f"{LOCAL}/c-1", PUBLISHED),
        (f"{LOCAL}/c-1", {"AZURE_STORAGE_ACCOUNT": ACCOUNT} | SAS_ENV, f"{LOCAL}/c-1", WITH_SAS),
        ("http://localhost:1/acme/c-1", ACME | KEY_ENV, "http://localhost:1/acme/c-1", WITH_KEY),
    ],
)
def test_credentials_are_found_as_the_azure_cli_finds_them(
    monkeypatch: pytest.MonkeyPatch, url: str, env: dict[str, str], location: str, source: str | None
) -> None:
    monkeypatch.setattr("azure.identity.DefaultAzureCredential", SignIn)
    store = open_azure_store(url, env)
    store.close()
    assert (store.location, store.credential_source) == (location, source or SIGN_IN)


REFUSED: list[tuple[str, dict[str, str], str]] = [
    # a secret in the URL
    (f"{PUBLIC}/c?{SECRET_SAS}", ACME | KEY_ENV, "expected no query"),
    (f"azure://c?{SECRET_SAS}", ACME | KEY_ENV, "expected no query"),
    (f"{PUBLIC}/c#sig=must-not-be-seen", {}, "expected no query"),
    (f"{PUBLIC}/c%3F{SECRET_SAS}", {}, "invalid container in the registry URL"),
    ("https://me:must-not-be-seen@acme.blob.core.windows.net/c-1", {}, "user name"),
    # the secret of one account, and the URL of another
    ("https://other.blob.core.windows.net/c-1", ACME_STRING, "CONNECTION_STRING is not for that account"),
    ("https://other.blob.core.windows.net/c-1", ACME | KEY_ENV, "STORAGE_KEY is not for that account"),
    ("https://other.blob.core.windows.net/c-1", ACME | SAS_ENV, "SAS_TOKEN is not for that account"),
    (f"{PUBLIC}/c-1", SAS_ENV, "SAS_TOKEN is not for that account"),
    (f"{PUBLIC}/c-1", CHINA_STRING, "is not for that account"),
    ("https://acme.blob.example.org/c-1", ACME | SAS_ENV, "is not for that account"),
    ("https://acme.blob.core.windows.net.example.org/c-1", ACME | SAS_ENV, "is not for that account"),
    ("https://blobs.example.org/y/c-1", OWN_STRING, "is not for that account"),
    # a token, and any host
    ("https://acme.blob.example.org/c-1", {}, "not an Azure storage host"),
    ("https://acme.blob.core.windows.net.example.org/c-1", {}, "not an Azure storage host"),
    ("https://blob.core.windows.net/c-1", {}, "not an Azure storage host"),
    ("http://127.0.0.1:1/acme/c-1", {}, "not an Azure storage host"),
    ("http://acme.blob.core.windows.net/c-1", ACME | SAS_ENV, "expected azure://CONTAINER"),
    ("http://azurite:10000/devstoreaccount1/c-1", {}, "expected azure://CONTAINER"),
    # not a container
    ("azure://a--b", {}, "invalid container in the registry URL"),
    (f"{PUBLIC}/container/jobs", {}, "and no more"),
    ("https://acme.blob.core.windows.net:8443/container", {}, "and no more"),
    ("http://127.0.0.1:10000/c-1", {}, "emulator"),
    ("https://acme:port/c-1", {}, "invalid registry URL"),
    # invalid variables
    ("azure://c-1", KEY_ENV, "AZURE_STORAGE_ACCOUNT is not"),
    ("azure://c-1", SAS_ENV, "AZURE_STORAGE_ACCOUNT is not"),
    ("azure://c-1", {"AZURE_STORAGE_ACCOUNT": "evil.example.org/"} | SAS_ENV, "invalid account name"),
    ("azure://c-1", ACME | {"AZURE_STORAGE_KEY": "must-not-be-seen"}, "expected base64"),
    ("azure://c-1", {STRING: "must-not-be-seen"}, "invalid AZURE_STORAGE_CONNECTION_STRING"),
    ("azure://c-1", {STRING: f"AccountKey={SECRET_KEY}"}, "invalid AZURE_STORAGE_CONNECTION_STRING"),
    (
        "azure://c-1",
        {STRING: f"AccountName=evil.org/x;AccountKey={SECRET_KEY}"},
        "invalid AZURE_STORAGE_CONNECTION_STRING",
    ),
    (
        "azure://c-1",
        {STRING: f"BlobEndpoint=ftp://x;SharedAccessSignature={SECRET_SAS}"},
        "invalid AZURE_STORAGE_CONNECTION_STRING",
    ),
    ("azure://c-1", {STRING: f"BlobEndpoint=https://x/?{SECRET_SAS}"}, "invalid AZURE_STORAGE_CONNECTION_STRING"),
    ("azure://c-1", {STRING: "AccountName=acme;AccountKey=must-not-be-seen"}, "expected base64"),
    # a secret, and a network that listens
    ("azure://c-1", {STRING: f"DefaultEndpointsProtocol=http;AccountName=acme;AccountKey={SECRET_KEY}"}, "plain http"),
    ("azure://c-1", {STRING: f"BlobEndpoint=http://10.0.0.1/a;SharedAccessSignature={SECRET_SAS}"}, "plain http"),
    ("azure://c-1", {STRING: f"BlobEndpoint=http://127.0.0.1.evil.org/a;SharedAccessSignature={SECRET_SAS}"}, "plain"),
    (
        "azure://c-1",
        {STRING: f"BlobEndpoint=http://azurite:10000/{ACCOUNT};AccountName={ACCOUNT};AccountKey={SECRET_KEY}"},
        "plain http",
    ),
    ("azure://c-1", {STRING: "AccountName=acme"}, "expected AccountName and AccountKey"),
]


@pytest.mark.claim("A secret goes to the host of its account only", "Nothing goes over a network in clear")
@pytest.mark.parametrize(("url", "env", "why"), REFUSED)
def test_an_invalid_url_or_variable_is_refused_without_its_secrets(
    monkeypatch: pytest.MonkeyPatch, url: str, env: dict[str, str], why: str
) -> None:
    """The message does not repeat them."""
    monkeypatch.setattr("azure.identity.DefaultAzureCredential", SignIn)
    with pytest.raises(ConfigError, match=why) as caught:
        open_azure_store(url, env)
    assert_no_secret(caught.value)


def assert_no_secret(error: MopsJobsError) -> None:
    """Check for one sentence, and none of the secrets of this module: not in the message, hint, repr or traceback."""
    told = [str(error), error.hint or "", repr(error), *traceback.format_exception(error)[-1:]]
    assert "\n" not in str(error)
    for secret in (SECRET_KEY, "sig=", "must-not-be-seen", ACCOUNT_KEY):
        assert secret not in "\n".join(told)


def test_without_any_account_the_message_says_what_to_set() -> None:
    with pytest.raises(StoreAccessError, match="No variable names the storage account") as caught:
        open_azure_store("azure://job-registry", {})
    assert "AZURE_STORAGE_CONNECTION_STRING" in (caught.value.hint or "")


def test_nobody_signed_in_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Azure CLI, asked for a token without a network, may hang for as long as it is let. The bounds are real."""
    real = open_azure_store(f"{PUBLIC}/c-1", {})
    assert type(real._credential).__name__ == "DefaultAzureCredential"
    real.close()
    monkeypatch.setattr("azure.identity.DefaultAzureCredential", SignIn)
    store = open_azure_store(f"{PUBLIC}/c-1", {})
    bounds = {"process_timeout": 4, "connection_timeout": 2, "read_timeout": 4, "retry_total": 1}
    assert store._credential.options == bounds  # type: ignore[union-attr]
    for operation in (WRITES | READS).values():
        with pytest.raises(StoreAccessError, match="DefaultAzureCredential found none") as caught:
            operation(store)
        assert "az login" in (caught.value.hint or "")
        assert "\n" not in str(caught.value)
    store.close()


def test_a_wrong_key_is_refused_by_name_of_its_source(place: Place) -> None:
    store = place.open({"AZURE_STORAGE_ACCOUNT": ACCOUNT} | KEY_ENV)
    for operation in (WRITES | READS).values():
        with pytest.raises(StoreAccessError, match=f"{WITH_KEY}: 403") as caught:
            operation(store)
        assert place.url in str(caught.value)
        assert_no_secret(caught.value)


def read_only_sas(place: Place) -> str:
    return generate_container_sas(
        ACCOUNT,
        place.name,
        account_key=ACCOUNT_KEY,
        permission=ContainerSasPermissions(read=True, list=True),
        expiry=datetime.now(UTC) + timedelta(hours=1),
    )


@pytest.mark.claim("A read-only SAS changes nothing")
def test_a_read_only_sas_serves_all_reading_and_no_writing(place: Place) -> None:
    """A container that is missing reads as empty."""
    env = {"AZURE_STORAGE_ACCOUNT": ACCOUNT, "AZURE_STORAGE_SAS_TOKEN": "?" + read_only_sas(place)}
    viewer = place.open(env)
    assert (list(viewer.scan()), viewer.get("a")) == ([], None)
    version = existing(place.open().create_if_absent("a", RECORD))
    assert viewer.get("a") == (RECORD, version)
    assert viewer.get("missing") is None
    assert list(viewer.list_keys()) == ["a"]
    assert [entry.value for entry in viewer.scan()] == [RECORD]
    for write in WRITES.values():
        with pytest.raises(StoreAccessError, match=WITH_SAS) as caught:
            write(viewer)
        assert_no_secret(caught.value)
    assert place.open().get("a") == (RECORD, version)


def test_no_error_tells_a_sas_token_that_is_part_of_every_url() -> None:
    """The SDK's own texts hold the URL of the request, and so the token: they are not passed on, nor chained."""
    env = {"AZURE_STORAGE_ACCOUNT": ACCOUNT} | SAS_ENV
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}/{ACCOUNT}/c-1"
        store = AzureVersionedStore(find_container(url, env), sleep=RecordingSleep())
        for operation in (WRITES | READS).values():
            with pytest.raises(StoreUnavailableError) as caught:
                operation(store)
            assert "must-not-be-seen" not in "".join(traceback.format_exception(caught.value))
            assert_no_secret(caught.value)
        store.close()


def test_a_netrc_file_does_not_replace_the_signature(place: Place) -> None:
    """Else the HTTP library would send the password in it instead: a default entry fits every host."""
    netrc = Path(os.environ["HOME"]) / ".netrc"
    netrc.write_text("default login me password must-not-be-sent\n")
    netrc.chmod(0o600)
    assert place.open().create_if_absent("a", b"1")
