"""A versioned store in a bucket of S3: a key is an object, its version is the object's ETag.

The cost of each operation, counted against moto 5 with boto3 1.44:

    get                     1 request
    put, create_if_absent   1 request, never repeated here, unless the reply says that another write was in progress
    delete                  2 requests: S3 does not say whether there was a key. The removal is never repeated here
    list_keys, scan         1 request per 1,000 keys

A listing carries neither values nor metadata. Readers fetch the values that they want one by one, in parallel.

*Versions.* An ETag is the MD5 of what is stored, and a conditional write compares nothing else. So the ETag of a value
would come back with its bytes. A writer that has seen the first of A, B and A could replace the second A. Behind each
value that replaces another go a line feed, and a blank or a tab for each bit of a random nonce. JSON allows them there.
Other programs that read a record see plain JSON. See docs/decisions/0083-s3.md.

*The bucket.* It must exist: its name is unique in the world, and its owner chooses its region and rules. The store is a
prefix of it, which exists once a key does.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import heapq
import io
import re
import secrets
import time
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from mopsjobs.errors import (
    InvalidKeyError,
    MopsJobsError,
    StoreError,
    StoreUnavailableError,
    UnusableStoreError,
    ValueTooLargeError,
)
from mopsjobs.store.aws import client as aws
from mopsjobs.store.aws.urls import S3_ENDPOINT
from mopsjobs.store.base import Entry, Versioned, VersionToken, WantsValues, always, check_key
from mopsjobs.store.network import bare_etag, is_etag
from mopsjobs.utils.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping


BITS = 64

LENGTH = 1 + BITS

_NONCE = re.compile(rb"\n[ \t]{%d}" % BITS)


def add_nonce(value: bytes, *, replaces: bool) -> bytes:
    """Return what is stored for a value.

    A value that is created is stored as it is. Outputs, bundles and chunks are never replaced, so other programs can
    read all their formats.

    Args:
        value: the value.
        replaces: whether it replaces another.
    """
    # A value that ends like a nonce gets one, too: else its end would be taken for one.
    return value + _draw() if replaces or _has_nonce(value) else value


def remove_nonce(stored: bytes) -> bytes:
    """Return the value in what is stored. A value of another program has no nonce."""
    return stored[:-LENGTH] if _has_nonce(stored) else stored


def _has_nonce(stored: bytes) -> bool:
    return bool(_NONCE.fullmatch(stored, max(0, len(stored) - LENGTH)))


def _draw() -> bytes:
    bits = f"{secrets.randbits(BITS):0{BITS}b}"
    return b"\n" + bits.translate({ord("0"): " ", ord("1"): "\t"}).encode()


NO_KEY = "NoSuchKey"
"""Of a read, or of a write to one version."""

LOST = "PreconditionFailed"
"""The condition of a write does not hold."""

NOT_IMPLEMENTED = 501
"""The status of a server that does not know a header, such as a condition."""

_OVERLAPPED = frozenset({"ConditionalRequestConflict", "OperationAborted"})

_NO_BUCKET = frozenset({"InvalidBucketName", "NoSuchBucket"})

_OTHER_REGION = frozenset({
    "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect", "TemporaryRedirect",
})  # fmt: skip

_PERMISSIONS = (
    "Allow s3:ListBucket on the bucket and s3:GetObject on its objects; a writer needs s3:PutObject and "
    "s3:DeleteObject, too. Without s3:ListBucket, S3 refuses reads of missing keys. If a KMS key encrypts the bucket, "
    "allow kms:Decrypt and kms:GenerateDataKey."
)

_NEW_BUCKET = f"Create it, for example by `aws s3 mb`, or check the URL and {S3_ENDPOINT}."


def has_overlapped(error: Exception) -> bool:
    """Return whether a write was refused since another one was in progress. Nothing was written."""
    status, code = aws.status_and_code(error)
    return status == 409 and code in _OVERLAPPED


def explain(error: Exception, location: str, credential_source: str) -> MopsJobsError:
    """Return the error of the store's contract, in one sentence without secrets."""
    status, code = aws.status_and_code(error)
    answer = aws.describe(status, code)
    problems: tuple[tuple[bool, type[MopsJobsError], str, str | None], ...] = (
        (code == "KeyTooLongError", InvalidKeyError, f"invalid key: {location} takes shorter ones ({answer}).", None),
        (code in _NO_BUCKET, UnusableStoreError, f"There is no bucket for {location}: {answer}.", _NEW_BUCKET),
        (
            code in _OTHER_REGION or status in (301, 307),
            UnusableStoreError,
            f"The bucket of {location} is in another region: {answer}.",
            "Set AWS_DEFAULT_REGION to the region of the bucket.",
        ),
        (
            status == NOT_IMPLEMENTED,
            UnusableStoreError,
            f"unexpected response from {location}: {answer}.",
            "Use a server that supports If-None-Match and If-Match in PutObject.",
        ),
    )
    for is_met, kind, message, hint in problems:
        if is_met:
            return kind(message, hint=hint)
    return aws.explain(error, location, credential_source, S3_ENDPOINT, _PERMISSIONS)


MAX_VALUE_BYTES = 256 * 2**20

LARGE_BYTES = 64 * 2**10
"""Values above it are sent in pieces, and may take `LARGE_REPLY_SECONDS`. boto3 gives up on a value that it sends as a
whole after the time for connecting."""

LARGE_REPLY_SECONDS = 60.0
"""How long the reply to a large value may take: buffers on the way hold megabytes of it on a slow line."""

OVERLAPS = 4
"""Writes in a row that may be refused because another write to the key is in progress."""

_OVERLAP_SECONDS = 0.1
_MAX_OVERLAP_SECONDS = 0.8

_OPTIONS = {
    # Newer checksums are refused, or ignored, by older servers. `Content-MD5` is known to all of them.
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
}

_AMAZON = (
    ".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu", ".api.amazonwebservices.com.cn",
    ".api.amazonwebservices.eu", ".api.aws",
)  # fmt: skip

_WITHOUT_BODY = (204, 304)
"""Statuses of replies that do not say how long they are."""

T = TypeVar("T")


def _is_amazon(endpoint: str) -> bool:
    return (urlsplit(endpoint).hostname or "").endswith(_AMAZON)


def _options_at(endpoint: str) -> Mapping[str, Any]:
    """Return the settings for an endpoint: only Amazon's name servers know a host for each bucket."""
    return {} if _is_amazon(endpoint) else {"s3": {"addressing_style": "path"}}


def _send_at_once(params: Mapping[str, Any], **_: object) -> None:
    """Send a value behind its headers. boto3 would wait for the server's consent first, which takes a round trip."""
    params["headers"].pop("Expect", None)


class S3VersionedStore(aws.AwsStore):
    """The contract of `VersionedStore` over the objects of a bucket whose names start with a prefix.

    Reading needs `s3:GetObject` and `s3:ListBucket`, and no other permission.

    Args:
        bucket: its name. The bucket must exist.
        prefix: the beginning of all names, without the slash that ends it; empty for the whole bucket.
        page_size: keys per page of a listing, up to S3's 1,000.
        sleep: waits for a number of seconds between two attempts.
        clock: returns the seconds from any start, and never goes back.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        page_size: int = 1000,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        url = f"s3://{bucket}{f'/{prefix}' if prefix else ''}"
        shared: Any = {"on_reply": self._check_framed, "options": _OPTIONS, "options_at": _options_at}
        super().__init__("s3", url, explain, on_request=_send_at_once, sleep=sleep, clock=clock, **shared)
        self._patient = aws.AwsClient("s3", url, explain, reply_seconds=LARGE_REPLY_SECONDS, **shared)
        self._bucket = bucket
        self._root = f"{prefix}/" if prefix else ""
        self._page_size = page_size
        self._sleep = sleep

    def find_server(self) -> str | None:
        """Return the address of a server that is not Amazon's, without secrets; None for Amazon's."""
        parts = urlsplit(self.connect().meta.endpoint_url)
        address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
        return None if self._is_amazon() else address

    def get(self, key: str) -> Versioned | None:
        """See `VersionedStore.get`."""
        return self._read_object(self._name(key), self._download)

    def get_range(self, key: str, start: int, length: int) -> bytes | None:
        """See `RangedStore.get_range`."""

        def download(name: str) -> bytes:
            part = f"bytes={start}-{start + length - 1}"
            try:
                reply = self.connect().get_object(Bucket=self._bucket, Key=name, Range=part)
            except Exception as error:
                if aws.status_and_code(error)[0] == 416:  # the object ends before it
                    return b""
                raise
            with contextlib.closing(reply["Body"]) as body:
                is_part = reply["ResponseMetadata"]["HTTPStatusCode"] == 206  # some servers send all of it
                return bytes(body.read() if is_part else body.read()[start : start + length])

        return self._read_object(self._name(key), download)

    def put(self, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        """See `VersionedStore.put`."""
        name = self._name(key)
        if not is_etag(version.value):
            return None
        return self._upload(name, add_nonce(value, replaces=True), IfMatch=f'"{version.value}"')

    def create_if_absent(self, key: str, value: bytes) -> VersionToken | None:
        """See `VersionedStore.create_if_absent`."""
        return self._upload(self._name(key), add_nonce(value, replaces=False), IfNoneMatch="*")

    def delete(self, key: str) -> bool:
        """See `VersionedStore.delete`.

        If a server ignores the condition, or does not know it, two may be told that the key was there.
        """
        name = self._name(key)
        is_conditional = True
        backoff = Backoff(_OVERLAP_SECONDS, _MAX_OVERLAP_SECONDS, sleep=self._sleep)
        while (version := self._read_object(name, self._look)) is not None:
            condition = {"IfMatch": f'"{version.value}"'} if is_conditional else {}
            try:
                self.connect().delete_object(Bucket=self._bucket, Key=name, **condition)
            except Exception as error:  # noqa: BLE001 - no error of the SDK, of whatever kind, leaves this module
                if aws.error_code(error) == NO_KEY:
                    break
                if is_conditional and aws.status_and_code(error)[0] == NOT_IMPLEMENTED:
                    is_conditional = False
                    continue
                is_overlap = aws.error_code(error) == LOST or has_overlapped(error)
                self._refuse_overlap(error, name, backoff, is_overlap=is_overlap)
                backoff.wait()
            else:
                return True
        return False

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        """See `VersionedStore.list_keys`."""
        return (entry.key for entry in self.scan(prefix))

    def scan(self, prefix: str = "", wants_values: WantsValues = always, after: str = "") -> Iterator[Entry]:
        """See `VersionedStore.scan`. No entry has its value."""
        if after > prefix and not after.startswith(prefix):
            return  # all keys with the prefix come before it
        last = after
        for entry in self._ordered_entries(prefix, after):
            if entry.key > last:
                yield entry
                last = entry.key
            elif last != after:
                raise StoreError(
                    f"{self.location} lists keys out of order: {entry.key} after {last}.",
                    hint="Use a server that lists keys in the order of their bytes, or folder by folder.",
                )

    def close(self) -> None:
        """See `VersionedStore.close`."""
        super().close()
        self._patient.close()

    # --- requests ---------------------------------------------------------------------------------------------------

    def _upload(self, name: str, stored: bytes, **condition: str) -> VersionToken | None:
        """Send a conditional write. Return the new version, or None if the condition does not hold.

        Raises:
            StoreUnavailableError: if the store did not answer; or if other writes to a new key went on and on.
        """
        if len(stored) > MAX_VALUE_BYTES:
            raise ValueTooLargeError(
                f"invalid value for {name} of {len(stored)} bytes: expected at most {MAX_VALUE_BYTES}."
            )
        is_large = len(stored) > LARGE_BYTES
        client = (self._patient if is_large else self).connect()
        backoff = Backoff(_OVERLAP_SECONDS, _MAX_OVERLAP_SECONDS, sleep=self._sleep)
        # Without it, SeaweedFS keeps what has come of a value whose sender is killed.
        digest = base64.b64encode(hashlib.md5(stored, usedforsecurity=False).digest()).decode()
        while True:
            body = io.BytesIO(stored) if is_large else stored
            try:
                reply = client.put_object(Bucket=self._bucket, Key=name, Body=body, ContentMD5=digest, **condition)
                return self._version(reply)
            except Exception as error:  # noqa: BLE001 - as in `delete`
                if aws.error_code(error) == LOST or ("IfMatch" in condition and aws.error_code(error) == NO_KEY):
                    return None
                if "IfMatch" in condition and has_overlapped(error) and backoff.failures + 1 == OVERLAPS:
                    return None  # nothing was written, and the version is about to become stale: a lost race
                self._refuse_overlap(error, name, backoff, is_overlap=has_overlapped(error))
            backoff.wait()

    def _refuse_overlap(self, error: Exception, name: str, backoff: Backoff, *, is_overlap: bool) -> None:
        """Return if a write was refused because of another one, and may be sent again.

        Raises:
            MopsJobsError: if it was refused for another reason, or too often.
        """
        if not is_overlap:
            raise self.explain(error) from None
        if backoff.failures + 1 == OVERLAPS:
            raise StoreUnavailableError(
                f"{self.location} refuses to change {name} while other writes to it are in progress.",
                sent=False,
                throttled=True,
            ) from None

    def _read_object(self, name: str, use: Callable[[str], T]) -> T | None:
        """Return what `use` makes of an object; None if there is none."""

        def attempt() -> T | None:
            try:
                return use(name)
            except Exception as error:
                # The status alone would not do: a missing bucket has the same, and so has the page of a proxy.
                if aws.error_code(error) == NO_KEY:
                    return None
                raise

        return self._read(attempt)

    def _download(self, name: str) -> Versioned:
        reply = self.connect().get_object(Bucket=self._bucket, Key=name)
        with contextlib.closing(reply["Body"]) as body:
            version = self._version(reply)
            if reply.get("ContentLength", 0) > MAX_VALUE_BYTES:
                raise ValueTooLargeError(f"The value of {name} has more than {MAX_VALUE_BYTES} bytes.")
            return Versioned(remove_nonce(body.read()), version)

    def _look(self, name: str) -> VersionToken:
        # HEAD has no body, so its refusals name no cause: a missing bucket would look like a missing key.
        try:
            reply = self.connect().get_object(Bucket=self._bucket, Key=name, Range="bytes=0-0")
        except Exception as error:
            if aws.status_and_code(error)[0] != 416:  # it is empty
                raise
            reply = self.connect().get_object(Bucket=self._bucket, Key=name)
        with contextlib.closing(reply["Body"]) as body:
            version = self._version(reply)
            body.read(1)  # the whole of it, so that the connection can be used again
        return version

    def _check_framed(self, response_dict: Mapping[str, Any]) -> None:
        if response_dict["status_code"] not in _WITHOUT_BODY and not aws.is_framed(response_dict["headers"]):
            raise self._broken("a reply broke off in its headers")

    # --- listings ---------------------------------------------------------------------------------------------------

    def _ordered_entries(self, prefix: str, after: str) -> Iterator[Entry]:
        """Yield the entries in order. Only of Amazon's servers it is known that they list keys in this order."""
        if self._is_amazon():
            return self._entries(prefix, after)
        return from_folder_order(self._entries(prefix), prefix[: prefix.rfind("/") + 1])

    def _entries(self, prefix: str, after: str = "") -> Iterator[Entry]:
        """Yield the entries of keys that start with a prefix, in the order of the server, after a key."""
        arguments: dict[str, Any] = {"Prefix": self._root + prefix, "MaxKeys": self._page_size}
        if after > prefix:
            arguments["StartAfter"] = self._root + after
        while True:
            page = self._read(functools.partial(self._page, arguments), is_small=False)
            for item in page.get("Contents", []):
                entry = self._entry(item, prefix)
                if entry.key and not entry.key.endswith("/"):  # some programs make empty objects for folders
                    yield entry
            if not page["IsTruncated"]:
                return
            arguments = {**arguments, "ContinuationToken": page["NextContinuationToken"]}
            arguments.pop("StartAfter", None)  # the token says where to go on

    def _is_amazon(self) -> bool:
        return _is_amazon(self.connect().meta.endpoint_url)

    def _page(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        reply: Mapping[str, Any] = self.connect().list_objects_v2(Bucket=self._bucket, **arguments)
        if "IsTruncated" not in reply or (reply["IsTruncated"] and not reply.get("NextContinuationToken")):
            raise self._broken("a reply is not the page of a listing")
        return reply

    # --- names and replies ------------------------------------------------------------------------------------------

    def _name(self, key: str) -> str:
        """Return the name of the object for a key.

        Raises:
            InvalidKeyError: if the contract forbids it.
        """
        return self._root + check_key(key)

    def _entry(self, item: Mapping[str, Any], prefix: str) -> Entry:
        name, version = item.get("Key", ""), bare_etag(item.get("ETag"))
        if not name.startswith(self._root + prefix) or not version:
            raise StoreError(f"unexpected response from {self.location}: not a listing.")
        return Entry(name.removeprefix(self._root), VersionToken(version), None, item.get("Size"))

    def _version(self, reply: Mapping[str, Any]) -> VersionToken:
        """Return the version in a reply. Without its closing quote, the reply broke off in its headers."""
        etag = reply.get("ETag", "")
        value = bare_etag(etag)
        if not value or etag != f'"{value}"':
            raise self._broken("a reply broke off in its headers, or the server there is not S3")
        return VersionToken(value)

    def _broken(self, problem: str) -> MopsJobsError:
        return StoreUnavailableError(f"Cannot reach {self.location}: {problem}.", hint=aws.network_hint(S3_ENDPOINT))


def from_folder_order(entries: Iterable[Entry], folder: str) -> Iterator[Entry]:
    """Yield the entries in the order of code points, from a server that lists folder by folder, or in that order.

    Such a server lists `a/x` before `a-1/x`, since it compares the names `a` and `a-1`. So the entries of a folder are
    held back until no entry that sorts before them can follow.

    Args:
        entries: the entries of one folder and of those below it, each folder in the order of its names.
        folder: its name with the slash that ends it; empty for the whole store.
    """
    held: list[Entry] = []
    for entry in entries:
        # What follows has this name below the folder, this name with something behind it, or a later one.
        following = f"{folder}{entry.key[len(folder) :].partition('/')[0]} "
        while held and held[0].key < following:
            yield heapq.heappop(held)
        heapq.heappush(held, entry)
    yield from sorted(held)
