"""A versioned store in a container of Azure Blob Storage: a key is a block blob, its version is the blob's ETag.

The cost of each operation, counted against Azurite 3.37 with azure-storage-blob 12.31.1:

    get, get_range          1 request
    put, create_if_absent   1 request, never repeated here; 3 for the first key of a container that does not exist
    delete                  1 request, never repeated here
    list_keys, scan         1 request for the first 1,000 keys, then 1 per 1,000 to 5,000 by the server's speed
    list_keys               2 requests for a page with an empty blob

A listing carries no values, but it carries metadata. So each write repeats its value there (listing.py).
"""

from __future__ import annotations

import functools
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from azure.core.exceptions import HttpResponseError
from azure.core.pipeline import Pipeline
from azure.core.pipeline.transport import HttpRequest
from azure.storage.blob import ContainerClient

from mopsjobs.errors import StoreError, ValueTooLargeError
from mopsjobs.store import network
from mopsjobs.store.azure import listing
from mopsjobs.store.azure.credentials import find_container
from mopsjobs.store.azure.transport import AzureTransport, Reply, error_code, explain, is_timeout, retry_after
from mopsjobs.store.base import Entry, Versioned, VersionToken, WantsValues, always, check_key
from mopsjobs.store.pacer import ReadPacer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from mopsjobs.store.azure.credentials import AzureContainer


MAX_VALUE_BYTES = 256 * 2**20
"""The largest value that is written in one request, or read."""

_MISSING = frozenset({"BlobNotFound", "ContainerNotFound"})

_CONFLICTS = _MISSING | {"ConditionNotMet", "TargetConditionNotMet", "BlobAlreadyExists"}

_SUCCESSES = {"GET": 200, "PUT": 201, "DELETE": 202}

_PART = 206

T = TypeVar("T")


# A program without logging set up would otherwise see the SDK's warnings on stderr.
logging.getLogger("azure").addHandler(logging.NullHandler())


def open_azure_store(url: str, env: Mapping[str, str]) -> AzureVersionedStore:
    """Open the container of `url` with the credentials in `env`. This sends nothing.

    Raises:
        ConfigError: if the URL or a variable is malformed, if the URL holds a secret, or if the two name different
            accounts.
        StoreAccessError: if no variable names the account of an `azure://` URL.
    """
    return AzureVersionedStore(find_container(url, env))


class AzureVersionedStore:
    """The contract of `VersionedStore` over one container.

    Reading needs the permissions to read and list, and no other.

    Args:
        container: the container and its credential.
        page_size: keys per page of a listing, up to Azure's 5,000; None to adapt it to the server's speed.
        sleep: waits for a number of seconds between two attempts at a read.
        clock: returns the seconds from any start, and never goes back.
    """

    def __init__(
        self,
        container: AzureContainer,
        *,
        page_size: int | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.location = container.location
        self.credential_source = container.credential_source
        self.server_time: datetime | None = None
        """When the last reply was sent, by the server's clock; None if no reply had it."""
        self._credential = container.credential
        self._page_size = page_size
        self._clock = clock
        self.pacer = ReadPacer(sleep=sleep, clock=clock, retry_after=retry_after)
        self._closed = False
        self._container = ContainerClient(container.endpoint, container.container, credential=container.credential)
        self._transport = AzureTransport(MAX_VALUE_BYTES)
        # The policy that signs requests has no public name. The single file holds the SDK's version of the tests.
        signing = self._container._credential_policy  # noqa: SLF001
        # The pipeline asks the transport for no more than `send`.
        self._pipeline: Pipeline[Any, Any] = Pipeline(self._transport, [signing])  # type: ignore[arg-type]

    def get(self, key: str) -> Versioned | None:
        """See `VersionedStore.get`."""
        check_key(key)
        return self._read(functools.partial(self._download, key))

    def get_range(self, key: str, start: int, length: int) -> bytes | None:
        """See `RangedStore.get_range`."""
        check_key(key)
        part = {"x-ms-range": f"bytes={start}-{start + length - 1}"}
        found = self._read(functools.partial(self._download, key, part=part))
        return None if found is None else found.value

    def put(self, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        """See `VersionedStore.put`."""
        check_key(key)
        if not network.is_etag(version.value):
            return None
        try:
            return self._upload(key, value, {"If-Match": f'"{version.value}"'})
        except Exception as error:  # noqa: BLE001 - no error of the SDK, of whatever kind, leaves this module
            if error_code(error) in _CONFLICTS:
                return None
            raise self._explain(error) from None

    def create_if_absent(self, key: str, value: bytes) -> VersionToken | None:
        """See `VersionedStore.create_if_absent`."""
        check_key(key)
        try:
            try:
                return self._upload(key, value, {"If-None-Match": "*"})
            except HttpResponseError as error:
                if error_code(error) != "ContainerNotFound":
                    raise
            self._create_container()
            return self._upload(key, value, {"If-None-Match": "*"})
        except Exception as error:  # noqa: BLE001 - as in `put`
            if error_code(error) in _CONFLICTS - _MISSING:
                return None
            raise self._explain(error) from None

    def delete(self, key: str) -> bool:
        """See `VersionedStore.delete`. Snapshots of the blob go with it."""
        check_key(key)
        self._check_open()
        try:
            self._request(_blob_path(key), "DELETE", {"x-ms-delete-snapshots": "include"})
        except Exception as error:  # noqa: BLE001 - as in `put`
            if error_code(error) in _MISSING:
                return False
            raise self._explain(error) from None
        return True

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        """See `VersionedStore.list_keys`."""
        return (entry.key for entry in listing.in_code_point_order(self._entries(prefix, lambda: False)))

    def scan(self, prefix: str = "", wants_values: WantsValues = always, after: str = "") -> Iterator[Entry]:
        """See `VersionedStore.scan`. An entry has its value if mops-jobs wrote the blob and it is small."""
        entries = listing.in_code_point_order(self._entries(prefix, wants_values, after))
        # Also if the server knows no `startFrom`, and has listed all keys under the prefix.
        return (entry for entry in entries if entry.key > after) if after else entries

    def close(self) -> None:
        """See `VersionedStore.close`."""
        if self._closed:
            return
        self._closed = True
        self._container.close()
        self._transport.close()
        # A sign-in has connections of its own; keys and SAS tokens have nothing to close.
        getattr(self._credential, "close", lambda: None)()

    # --- one request each -------------------------------------------------------------------------------------------

    def _request(
        self,
        path: str,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        value: bytes | None = None,
        *,
        left: float | None = None,
    ) -> Reply:
        """Send a request for the container or a blob once, and read the whole reply.

        The SDK signs the request, and takes no other part. Its clients are made for files in many pieces, and retry by
        themselves. Their pipeline and models take most of the processor time of a small request.
        """
        headers = {
            **(headers or {}),
            **({} if value is None else {"Content-Length": str(len(value))}),
            "x-ms-version": self._container.api_version,
            "x-ms-date": formatdate(usegmt=True),
            "User-Agent": network.USER_AGENT,
        }
        request = HttpRequest(method, f"{self._container.url}{path}", headers, data=value)
        reply: Reply = self._pipeline.run(request, seconds=left or network.BUDGET_SECONDS).http_response
        self.server_time = network.time_of_reply(reply.headers.get("Date")) or self.server_time
        if reply.status_code != _SUCCESSES[method] and not ("x-ms-range" in headers and reply.status_code == _PART):
            raise HttpResponseError(response=reply)  # type: ignore[arg-type] # it reads no request
        return reply

    def _download(self, key: str, left: float, part: Mapping[str, str] | None = None) -> Versioned | None:
        try:
            reply = self._request(_blob_path(key), headers=part, left=left)
        except HttpResponseError as error:
            if error_code(error) in _MISSING:
                return None
            if error.status_code == 416:  # the blob ends before it
                return Versioned(b"", VersionToken(""))
            raise
        return Versioned(reply.body, self._version(reply.headers.get("ETag")))

    def _upload(self, key: str, value: bytes, condition: Mapping[str, str]) -> VersionToken:
        self._check_open()
        size = len(value)
        if size > MAX_VALUE_BYTES:
            raise ValueTooLargeError(f"invalid value for {key} of {size} bytes: expected at most {MAX_VALUE_BYTES}.")
        headers = {
            **condition,
            "x-ms-blob-type": "BlockBlob",
            # The store does not know the meaning of the bytes. Azure compares the MD5 with the bytes that arrive.
            "x-ms-blob-content-type": "application/octet-stream",
            "x-ms-blob-content-md5": listing.md5(value),
            **{f"x-ms-meta-{name}": text for name, text in listing.pack(value).items()},
        }
        return self._version(self._request(_blob_path(key), "PUT", headers, bytes(value)).headers.get("ETag"))

    def _create_container(self) -> None:
        try:
            self._request("?restype=container", "PUT", value=b"")
        except HttpResponseError as error:
            if error_code(error) != "ContainerAlreadyExists":
                raise

    def _page(self, place: listing.Place, size: int, left: float, *, metadata: bool) -> listing.Page:
        try:
            reply = self._request(f"?{listing.query(place, size, metadata=metadata)}", left=left)
        except HttpResponseError as error:
            if place.start and error.status_code == 400:  # the server refuses `startFrom`
                return self._page(place._replace(start=""), size, left, metadata=metadata)
            if error_code(error) == "ContainerNotFound":
                if place.marker:
                    raise StoreError(f"{self.location} was deleted while it was listed.") from None
                return listing.Page([], "")
            raise
        try:
            return listing.parse(reply.body)
        except listing.ListingError:
            raise StoreError(f"unexpected response from {self.location}: not a listing.") from None

    # --- listings ---------------------------------------------------------------------------------------------------

    def _entries(self, prefix: str, wants_values: WantsValues, after: str = "") -> Iterator[Entry]:
        begin = listing.Place(prefix, start=listing.ordered_head(after))
        is_probe = self.pacer.is_bulk and not self.pacer.has_answered
        size = self._page_size or (listing.PROBE_KEYS if is_probe else listing.FIRST_PAGE_KEYS)

        def attempt(marker: str, left: float, *, metadata: bool) -> listing.Page:
            nonlocal size
            try:
                return self._page(begin._replace(marker=marker), size, left, metadata=metadata)
            except Exception as error:
                if self._page_size is None and is_timeout(error):
                    size = max(1, size // listing.SMALLER)
                raise

        def fetch_page(marker: str) -> listing.Page:
            nonlocal size
            fetch_started_at = self._clock()
            values = wants_values()
            page = self._filled_page(functools.partial(attempt, marker), values=values)
            if self._page_size is None:
                seconds = self._clock() - fetch_started_at
                size = listing.next_size(size, seconds, page.bytes)
            return page

        # The next page is fetched while the reader works on this one.
        page = fetch_page("")
        ahead = ThreadPoolExecutor(1)
        try:
            while True:
                coming = None
                for blob in page.blobs:
                    if not blob.is_folder:
                        yield self._entry(blob)
                    # Not before the reader takes a second key: many readers only check whether there is any.
                    if coming is None and page.following:
                        coming = ahead.submit(fetch_page, page.following)
                if not page.following:
                    return
                page = coming.result() if coming is not None else fetch_page(page.following)
        finally:
            # A reader that stops early does not wait for the next page.
            ahead.shutdown(wait=False, cancel_futures=True)

    def _filled_page(self, attempt: Callable[..., listing.Page], *, values: bool) -> listing.Page:
        page = self._read(functools.partial(attempt, metadata=values), is_small=False)
        if not values and any(blob.size == 0 for blob in page.blobs):
            # A folder of an account with a hierarchical namespace looks like an empty blob, except for its metadata.
            page = self._read(functools.partial(attempt, metadata=True), is_small=False)
        return page

    def _entry(self, blob: listing.Blob) -> Entry:
        value = listing.unpack(blob.packed, blob.size, blob.md5) if blob.packed and blob.md5 else None
        version = network.bare_etag(blob.etag)
        # A reader gets a blob without a version by its key, and finds the same problem, if there is one.
        return Entry(blob.key, VersionToken(version), value if version else None, blob.size)

    def _version(self, etag: object) -> VersionToken:
        value = network.bare_etag(etag)
        if not value:
            raise StoreError(f"unexpected response from {self.location}: no version.")
        return VersionToken(value)

    # --- errors -----------------------------------------------------------------------------------------------------

    def _read(self, attempt: Callable[[float], T], *, is_small: bool = True) -> T:
        def attempt_if_open(left: float) -> T:
            self._check_open()
            return attempt(left)

        return self.pacer.read(attempt_if_open, self._explain, budget=network.BUDGET_SECONDS, is_small=is_small)

    def _explain(self, error: Exception) -> StoreError:
        return explain(error, self.location, self.credential_source)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"The store {self.location} is closed.")


def _blob_path(key: str) -> str:
    return f"/{quote(key, safe='~/')}"
