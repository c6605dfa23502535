"""Servers that misbehave: what each store across a network makes of their replies, and of none."""

from __future__ import annotations

import contextlib
import socket
import time
import zlib
from collections.abc import Callable

import pytest

from mopsjobs.errors import MopsJobsError, StoreAccessError, StoreError, StoreUnavailableError, UnusableStoreError
from mopsjobs.store import network, pacer
from support.doubles import RecordingSleep
from support.replies import HANG_UP, SILENT, Reply, playing, saying
from support.runs import until
from support.services import (
    IN_AZURE,
    IN_DYNAMODB,
    IN_S3,
    RECORD,
    SECRET,
    Service,
    refused_by_azure,
    refused_by_dynamodb,
    refused_by_s3,
    scripted,
)

SERVICES = (IN_AZURE, IN_DYNAMODB, IN_S3)

PAGE = Reply(200, headers=(("Content-Type", "text/html"),), body=b"<html><p>Sign in, please<br></html>")

XML = (("Content-Type", "application/xml"),)

UNAVAILABLE, REFUSED, OTHER, UNUSABLE = StoreUnavailableError, StoreAccessError, StoreError, UnusableStoreError

ANSWERS: dict[str, list[tuple[Reply, type[StoreError], str]]] = {
    "azure": [
        (IN_AZURE.busy, UNAVAILABLE, ""),
        (HANG_UP, UNAVAILABLE, ""),
        (refused_by_azure(500, "InternalError"), UNAVAILABLE, ""),
        (refused_by_azure(409, "ContainerBeingDeleted"), UNAVAILABLE, ""),
        (refused_by_azure(401, "AuthenticationFailed"), REFUSED, "published key: 401 AuthenticationFailed"),
        (refused_by_azure(403, "AuthenticationFailed"), REFUSED, "published key: 403 AuthenticationFailed"),
        (PAGE, OTHER, ""),
        (Reply(302, headers=(("Location", "http://127.0.0.1:9/"),)), OTHER, ""),
        (Reply(404), OTHER, ""),
        (refused_by_azure(409, "SomethingNew"), OTHER, ""),
        (Reply(200, headers=XML, body=b"<EnumerationResults><Blobs>"), OTHER, ""),
        (Reply(200, headers=XML, body=b"<Blobs><Blob/></Blobs>"), OTHER, ""),
    ],
    "dynamodb": [
        (IN_DYNAMODB.busy, UNAVAILABLE, ""),
        (HANG_UP, UNAVAILABLE, ""),
        (Reply(503), UNAVAILABLE, ""),
        (Reply(403), REFUSED, ""),
        (PAGE, UNAVAILABLE, ""),
        (refused_by_dynamodb(500, "InternalServerError"), UNAVAILABLE, ""),
        (refused_by_dynamodb(400, "AccessDeniedException"), REFUSED, "dynamodb:Query"),
        (refused_by_dynamodb(400, "ExpiredTokenException"), REFUSED, "aws sso login"),
        (refused_by_dynamodb(400, "InvalidSignatureException"), REFUSED, "clock"),
        (refused_by_dynamodb(400, "ValidationException"), OTHER, "a table that mops-jobs has made"),
        (IN_DYNAMODB.found._replace(headers=(("x-amz-crc32", "1"),)), UNAVAILABLE, ""),
        (IN_DYNAMODB.found._replace(headers=()), UNAVAILABLE, ""),
        (IN_DYNAMODB.found._replace(body=IN_DYNAMODB.found.body[:20]), UNAVAILABLE, ""),
    ],
    "s3": [
        (IN_S3.busy, UNAVAILABLE, ""),
        (HANG_UP, UNAVAILABLE, ""),
        (Reply(503), UNAVAILABLE, ""),
        (Reply(403), REFUSED, ""),
        (PAGE, UNAVAILABLE, ""),
        (refused_by_s3(500, "InternalError"), UNAVAILABLE, ""),
        (refused_by_s3(400, "RequestTimeout"), UNAVAILABLE, ""),
        (refused_by_s3(403, "AccessDenied"), REFUSED, "kms:Decrypt"),
        (refused_by_s3(400, "ExpiredToken"), REFUSED, "aws sso login"),
        (refused_by_s3(403, "SignatureDoesNotMatch"), REFUSED, "clock"),
        (refused_by_s3(403, "RequestTimeTooSkewed"), REFUSED, "clock"),
        (refused_by_s3(404, "NoSuchBucket"), UNUSABLE, "aws s3 mb"),
        (Reply(404), OTHER, ""),
        (Reply(412), OTHER, ""),
        (refused_by_s3(400, "InvalidRequest"), OTHER, ""),
        (refused_by_s3(501, "NotImplemented"), UNUSABLE, "If-None-Match"),
        (IN_S3.found._replace(headers=(("ETag", '"0'),)), UNAVAILABLE, ""),
    ],
}
"""Replies, the errors that they become, and what these or their hints say."""

EXIT_CODES = {UNAVAILABLE: 5, REFUSED: 4, OTHER: 1, UNUSABLE: 2}


@pytest.fixture(params=SERVICES, ids=lambda service: service.name)
def service(request: pytest.FixtureRequest) -> Service:
    service: Service = request.param
    return service


def check(error: MopsJobsError, answer: tuple[Reply, type[StoreError], str]) -> None:
    """Check an error for a reply. It does not repeat the words of the reply."""
    reply, kind, words = answer
    assert (type(error), error.exit_code) == (kind, EXIT_CODES[kind]), reply
    assert words in f"{error} {error.hint}", reply
    assert SECRET not in f"{error} {error.hint}"


def test_a_write_is_sent_once_whatever_comes_back(service: Service, aws: Callable[[int], None]) -> None:
    """It may have landed: sent again, it would lose the race against itself."""
    answers = ANSWERS[service.name]
    for write in service.writes.values():
        with scripted(service, aws, *(reply for reply, _, _ in answers)) as (store, requests, sleep):
            for number, answer in enumerate(answers, 1):
                with pytest.raises(MopsJobsError) as caught:
                    write(store)
                check(caught.value, answer)
                assert len(requests) == number
            assert sleep.requested == []


def test_a_read_is_tried_three_times_if_that_may_help(service: Service, aws: Callable[[int], None]) -> None:
    """And what comes back never looks like "no such key" or "no keys"."""
    answers = [(answer, 3 if answer[1] is UNAVAILABLE else 1) for answer in ANSWERS[service.name]]
    for read in service.reads.values():
        played = [reply for (reply, _, _), count in answers for _ in range(count)]
        with scripted(service, aws, *played) as (store, requests, sleep):
            for answer, count in answers:
                requests.clear()
                sleep.requested.clear()
                with pytest.raises(MopsJobsError) as caught:
                    read(store)
                check(caught.value, answer)
                assert len(requests) == count, answer
                assert sleep.requested == list(pacer.PAUSES)[: count - 1]


@pytest.mark.parametrize(
    ("service", "operation"),
    [(service, name) for service in SERVICES for name in service.writes | service.reads],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_a_server_that_accepts_and_never_answers_is_given_up(
    service: Service, aws: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    """Tried once: the budget, shortened here, is spent by then."""
    monkeypatch.setattr(network, "BUDGET_SECONDS", 1.5)
    monkeypatch.setattr(network, "name_server_answers", lambda *_: True)
    with playing(SILENT) as (port, requests):
        aws(port)
        with contextlib.closing(service.open(port=port, sleep=RecordingSleep(), clock=time.monotonic)) as store:
            with pytest.raises(StoreUnavailableError, match="no answer in time") as caught:
                (service.writes | service.reads)[operation](store)
            assert (caught.value.sent, caught.value.silent) == (True, True)
            until(lambda: requests, "the request")
            assert len(requests) == 1


def test_a_closed_port_is_an_outage(service: Service, aws: Callable[[int], None]) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # bound, but no server listens
        port = reserved.getsockname()[1]
        aws(port)
        with contextlib.closing(service.open(port=port, sleep=RecordingSleep())) as store:
            for call in (service.writes | service.reads).values():
                with pytest.raises(StoreUnavailableError, match="connection refused") as caught:
                    call(store)
                assert (caught.value.sent, caught.value.silent) == (False, False)
                if service is not IN_AZURE:
                    assert "AWS_DEFAULT_REGION" in (caught.value.hint or "")
                    assert f"AWS_ENDPOINT_URL_{service.name.upper()}" in (caught.value.hint or "")


def _whole(head: str, body: bytes, more: str = "") -> bytes:
    return f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


_IN_AZURE = _whole('200 OK\r\nETag: "0x8DABCDEF"\r\nx-ms-version: 2025-01-05', b"abcd")
_WRITTEN = _whole('201 Created\r\nETag: "0x8DABCDEF"\r\nx-ms-version: 2025-01-05', b"")
_ITEM = _whole(f"200 OK\r\nx-amz-crc32: {zlib.crc32(IN_DYNAMODB.found.body)}", IN_DYNAMODB.found.body)
_ETAG = '200 OK\r\nContent-Type: x\r\nETag: "1234"'
_OBJECT = _whole(_ETAG, RECORD, "Last-Modified: Thu, 26 Nov 2026 23:40:16 GMT\r\n")
_REFUSAL = b"HTTP/1.1 412 Precondition Failed\r\nContent-Type: application/xml\r\nContent-Length: 99"
"""The lost body of this refusal would name its cause. A lost race is one cause of several."""

CUTS = {
    "azure": [("get", _IN_AZURE, range(1, len(_IN_AZURE), 7)), ("put", _WRITTEN, range(1, len(_WRITTEN), 7))],
    "dynamodb": [(call, _ITEM, range(20, len(_ITEM), 7)) for call in ("get", "put")],
    "s3": [
        ("get", _OBJECT, range(20, len(_OBJECT), 4)),
        ("put", _OBJECT, range(20, len(f"HTTP/1.1 {_ETAG}"))),
        ("put", _REFUSAL, range(34, len(_REFUSAL) - 4, 8)),
    ],
}
"""Calls, the replies to them, and after how many bytes these break off."""


def test_a_reply_that_breaks_off_anywhere_leaves_a_doubt(service: Service, aws: Callable[[int], None]) -> None:
    """It is an outage.

    In its headers too: the standard library takes what came of them for all, and half of an ETag for a whole one.
    """
    for call, reply, cuts in CUTS[service.name]:
        with saying(*(reply[:end] for end in cuts)) as port:
            aws(port)
            options = {"port": port, "sleep": RecordingSleep(), "clock": lambda: 0.0}
            with contextlib.closing(service.open(**options)) as store:
                for _ in cuts:  # a read is tried three times, so it meets each
                    with pytest.raises(StoreUnavailableError) as caught:
                        (service.reads | service.writes)[call](store)
                    assert caught.value.sent
