"""Calls that the tests of stores across a network share, and servers that play replies to them in turn."""

from __future__ import annotations

import contextlib
import json
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.azurite import ACCOUNT
from mopsjobs.store.azure.credentials import find_container
from mopsjobs.store.azure.store import AzureVersionedStore
from mopsjobs.store.base import VersionToken
from mopsjobs.store.dynamodb import store as dynamodb
from mopsjobs.store.s3 import store as s3
from support.doubles import RecordingSleep
from support.replies import Reply, playing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mopsjobs.store.base import VersionedStore

VERSION = VersionToken("0" * 32)
RECORD = b'{"job_id": "j-1", "status": "running", "tasks_total": 100}'
SECRET = "must-not-be-seen"


class Service(NamedTuple):
    """Azure Blob Storage, DynamoDB or S3."""

    name: str
    """As its scheme in URLs, and boto3, have it."""
    open: Callable[..., VersionedStore]
    """Opens a store. That of Azure talks to a `port`; boto3 finds one in the environment."""
    found: Reply
    """The reply to a read of `RECORD`."""
    busy: Reply
    writes: dict[str, Callable[[VersionedStore], object]]
    """Calls that begin with a write."""
    reads: dict[str, Callable[[VersionedStore], object]]
    """Calls that begin with a read."""


class Scripted(NamedTuple):
    """A server that plays replies in turn: the store that talks to it, and what the store asked for."""

    store: Any
    requests: list[str]
    sleep: RecordingSleep


@contextlib.contextmanager
def scripted(service: Service, aws: Callable[[int], None], *replies: Reply) -> Iterator[Scripted]:
    """Yield a store at a server that plays these replies. `aws` makes boto3 talk to its port."""
    with playing(*replies) as (port, requests):
        aws(port)
        sleep = RecordingSleep()
        with contextlib.closing(service.open(port=port, sleep=sleep, clock=lambda: 0.0)) as store:
            yield Scripted(store, requests, sleep)


def refused_by_azure(status: int, code: str) -> Reply:
    """Return a refusal."""
    return Reply(status, headers=(("x-ms-error-code", code),))


def refused_by_dynamodb(status: int, code: str) -> Reply:
    """Return a refusal, whose words hold a secret."""
    body = json.dumps({"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": SECRET}).encode()
    return Reply(status, headers=(("Content-Type", "application/x-amz-json-1.0"),), body=body)


def refused_by_s3(status: int, code: str) -> Reply:
    """Return a refusal, whose words hold a secret."""
    body = f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>".encode()
    return Reply(status, headers=(("Content-Type", "application/xml"),), body=body)


def found_in_dynamodb(**document: Any) -> Reply:
    """Return a reply with its checksum."""
    body = json.dumps(document).encode()
    checksum = ("x-amz-crc32", str(zlib.crc32(body)))
    return Reply(200, headers=(("Content-Type", "application/x-amz-json-1.0"), checksum), body=body)


_WRITES: dict[str, Callable[[VersionedStore], object]] = {
    "put": lambda store: store.put("a", RECORD, VERSION),
    "create": lambda store: store.create_if_absent("a", RECORD),
}
_READS: dict[str, Callable[[VersionedStore], object]] = {
    "get": lambda store: store.get("a"),
    "scan": lambda store: list(store.scan("a/")),
}
_DELETE: dict[str, Callable[[VersionedStore], object]] = {"delete": lambda store: store.delete("a")}

IN_AZURE = Service(
    "azure",
    lambda port, **options: AzureVersionedStore(
        find_container(f"http://127.0.0.1:{port}/{ACCOUNT}/c-1", {}), **options
    ),
    Reply(200, headers=(("ETag", '"0x2"'), ("x-ms-blob-type", "BlockBlob")), body=b"hello"),
    refused_by_azure(503, "ServerBusy"),
    _WRITES | _DELETE,
    _READS | {"list_keys": lambda store: list(store.list_keys())},
)
IN_DYNAMODB = Service(
    "dynamodb",
    lambda port=0, **options: dynamodb.DynamoDBVersionedStore("jobs", **options),
    found_in_dynamodb(Item=dynamodb._item("a", b"hello") | {dynamodb.VALUE: {"B": "aGVsbG8="}}),
    refused_by_dynamodb(400, "ProvisionedThroughputExceededException"),
    _WRITES | _DELETE,
    _READS,
)
IN_S3 = Service(
    "s3",
    lambda port=0, **options: s3.S3VersionedStore("jobs", "p", **options),
    Reply(200, headers=(("ETag", '"0"'),), body=RECORD),
    refused_by_s3(503, "SlowDown"),
    _WRITES,
    _READS | _DELETE,
)
