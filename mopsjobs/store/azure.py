"""A versioned store in an Azure Blob Storage container: a key is a block blob, its version is the blob's ETag.

What each operation costs, counted against Azurite 3.37 with azure-storage-blob 12.31.1:

    get                     1 request
    put, create_if_absent   1 request, never repeated here; 3 for the first key of a container that does not exist
    delete                  1 request, never repeated here
    list_keys, scan         1 request for 2,000 keys; `list_keys` 2 where such a page has an empty blob

A listing does not carry values, but it carries metadata. So each write puts the value, compressed, into the blob's
metadata as well when it fits: in the same Put Blob, hence the two never differ. `scan` believes it only if length and
MD5 are those that Azure lists for the blob itself, since other programs write blobs here too.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import logging
import re
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast
from urllib.parse import quote, unquote

from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError
from azure.core.pipeline.policies import ContentDecodePolicy
from azure.core.rest import HttpRequest
from azure.storage.blob import ContainerClient, ContentSettings

from mopsjobs.errors import StoreError, ValueTooLargeError
from mopsjobs.store.azure_credentials import find_container
from mopsjobs.store.azure_transport import BoundedTransport, error_code, explain, retry_after, timeouts
from mopsjobs.store.base import Entry, Versioned, VersionToken, check_key
from mopsjobs.store.outages import BUDGET_SECONDS, read_patiently

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from xml.etree.ElementTree import Element

    from azure.core.paging import PageIterator
    from azure.core.pipeline import Pipeline, PipelineResponse

    from mopsjobs.store.azure_credentials import AzureContainer

MAX_VALUE_BYTES = 256 * 2**20
"""The largest value: up to here the SDK writes it by one request. A longer one is not read either."""

INLINE_NAME = "mopsvalue"
"""The metadata name under which a value also goes. Lower case: some proxies change the case of headers."""

INLINE_MAX_CHARACTERS = 7000
"""Azure allows 8 KiB of metadata in all; the rest is left to other programs. A job's record takes about 400."""

INLINE_MAX_VALUE_BYTES = 128 * 2**10
"""Values above this are not even tried. JSON that packs into the room above is far shorter."""

PAGE_KEYS = 2000
"""Keys that a listing asks for at once. Azure allows 5,000; but an Azurite on a busy machine needs two to three seconds
before the first byte of these with their metadata: too close to where an account counts as unreachable."""

_MISSING = frozenset({"BlobNotFound", "ContainerNotFound"})
_CONFLICTS = _MISSING | {"ConditionNotMet", "TargetConditionNotMet", "BlobAlreadyExists"}
_ETAG = re.compile(r"[!#-)+-~]+")  # what may stand in one; without `*`, which would match every version

T = TypeVar("T")

# A program without logging set up would otherwise see the SDK's warnings on stderr.
logging.getLogger("azure").addHandler(logging.NullHandler())


def open_azure_store(url: str, env: Mapping[str, str]) -> AzureVersionedStore:
    """Open the container that `url` names with the credentials found in `env`. Nothing is sent yet.

    Raises:
        ConfigError: the URL or a variable makes no sense, holds a secret where none belongs, or the two name different
            accounts.
        StoreAccessError: nothing says which account `azure://` means.
    """
    return AzureVersionedStore(find_container(url, env))


class _Page(NamedTuple):
    """What one request of a listing brought. `following` fetches the next page; empty after the last."""

    blobs: list[Element]
    following: str


class AzureVersionedStore:
    """The contract of `VersionedStore` over one container.

    Reading needs the permissions to read and list, and no other.

    Args:
        container: where, and with what credential.
        page_size: keys that a listing asks for at once, up to Azure's 5,000.
        sleep: waits that many seconds between two attempts at a read.
        clock: seconds from any start, never going back.
        client_options: passed on to the SDK's `ContainerClient`.
    """

    def __init__(
        self,
        container: AzureContainer,
        *,
        page_size: int = PAGE_KEYS,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        client_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.location = container.location
        self.credential_source = container.credential_source
        self._credential = container.credential
        self._page_size = page_size
        self._sleep = sleep
        self._clock = clock
        self._closed = False
        options: dict[str, Any] = {
            "transport": BoundedTransport(MAX_VALUE_BYTES),
            "retry_total": 0,  # reads are retried here, within a budget; writes never
            "permit_redirects": False,  # Azure sends none; a captive portal does
            "max_single_put_size": MAX_VALUE_BYTES,
            **timeouts(BUDGET_SECONDS),
            **(client_options or {}),
        }
        self._container = ContainerClient(
            container.endpoint, container.container, credential=container.credential, **options
        )
        # Its signatures, headers and hooks. The SDK has no public way to send a plain request through them; the file
        # holds the very version of the SDK that the tests ran with.
        self._pipeline: Pipeline[Any, Any] = self._container._pipeline  # noqa: SLF001

    def get(self, key: str) -> Versioned | None:
        """See `VersionedStore.get`."""
        check_key(key)
        return self._read(functools.partial(self._download, key))

    def put(self, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        """See `VersionedStore.put`."""
        check_key(key)
        if not _ETAG.fullmatch(version.value):
            return None
        condition = {"etag": f'"{version.value}"', "match_condition": MatchConditions.IfNotModified}
        try:
            return self._upload(key, value, overwrite=True, **condition)
        except Exception as error:  # noqa: BLE001 - no error of the SDK, of whatever kind, leaves this module
            if error_code(error) in _CONFLICTS:
                return None
            raise self._explain(error) from None

    def create_if_absent(self, key: str, value: bytes) -> VersionToken | None:
        """See `VersionedStore.create_if_absent`."""
        check_key(key)
        try:
            try:
                return self._upload(key, value, overwrite=False)
            except HttpResponseError as error:
                if error_code(error) != "ContainerNotFound":
                    raise
            self._create_container()
            return self._upload(key, value, overwrite=False)
        except Exception as error:  # noqa: BLE001 - as in `put`
            if error_code(error) in _CONFLICTS - _MISSING:
                return None
            raise self._explain(error) from None

    def delete(self, key: str) -> bool:
        """See `VersionedStore.delete`. Snapshots of the blob go with it."""
        check_key(key)
        self._check_open()
        try:
            self._container.delete_blob(key, delete_snapshots="include", **timeouts(BUDGET_SECONDS))
        except Exception as error:  # noqa: BLE001 - as in `put`
            if error_code(error) in _MISSING:
                return False
            raise self._explain(error) from None
        return True

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        """See `VersionedStore.list_keys`."""
        return (entry.key for entry in _in_code_point_order(self._entries(prefix, values=False)))

    def scan(self, prefix: str = "") -> Iterator[Entry]:
        """See `VersionedStore.scan`. An entry has its value if mops-jobs wrote the blob and it is small."""
        return _in_code_point_order(self._entries(prefix, values=True))

    def close(self) -> None:
        """See `VersionedStore.close`."""
        if self._closed:
            return
        self._closed = True
        self._container.close()
        # A sign-in holds connections of its own; keys and SAS tokens have nothing to close.
        getattr(self._credential, "close", lambda: None)()

    # --- one request each -------------------------------------------------------------------------------------------

    def _download(self, key: str, left: float) -> Versioned | None:
        # The SDK's pipeline, without its downloader, which is made for files in many pieces: it doubles the processor
        # time of a small read, asks for a range, which an empty blob does not have, and asks again by itself.
        request = HttpRequest(
            "GET",
            f"{self._container.url}/{quote(key, safe='~/')}",
            headers={"x-ms-version": self._container.api_version},
        )
        reply = self._pipeline.run(request, stream=True, **timeouts(left)).http_response
        if reply.status_code != 200:
            error = HttpResponseError(response=reply)
            if error_code(error) in _MISSING:
                return None
            raise error
        return Versioned(reply.internal_response.raw.read(), self._version(reply.headers.get("ETag")))

    def _upload(self, key: str, value: bytes, **condition: Any) -> VersionToken:
        self._check_open()
        size = len(value)
        if size > MAX_VALUE_BYTES:
            raise ValueTooLargeError(f"A value has at most {MAX_VALUE_BYTES} bytes; this one for {key} has {size}.")
        reply = self._container.get_blob_client(key).upload_blob(
            bytes(value),
            metadata=_pack(value),
            # Bytes are bytes: what they mean is not the store's to say. Azure holds the MD5 against what arrives.
            content_settings=ContentSettings(
                content_type="application/octet-stream", content_md5=bytearray(_md5(value))
            ),
            **condition,
            **timeouts(BUDGET_SECONDS, size),
        )
        return self._version(reply.get("etag"))

    def _create_container(self) -> None:
        try:
            self._container.create_container(**timeouts(BUDGET_SECONDS))
        except HttpResponseError as error:
            if error_code(error) != "ContainerAlreadyExists":
                raise

    def _page(self, prefix: str, token: str | None, include: list[str], left: float) -> _Page:
        # The names alone, and the rest from the XML that the SDK has parsed to find them: its own models of the blobs
        # cost five times as much processor time as everything else in a listing together.
        replies: list[PipelineResponse[Any, Any]] = []
        pages = self._container.list_blob_names(
            name_starts_with=prefix or None,
            include=include,
            results_per_page=self._page_size,
            raw_response_hook=replies.append,
            **timeouts(left),
        ).by_page(token)
        try:
            next(pages)
        except HttpResponseError as error:
            if error_code(error) == "ContainerNotFound":
                return _Page([], "")
            raise
        tree = replies[-1].context[ContentDecodePolicy.CONTEXT_NAME]
        if getattr(tree, "tag", None) != "EnumerationResults":
            raise StoreError(f"{self.location} gave a listing that makes no sense.")
        return _Page(tree.findall("Blobs/Blob"), cast("PageIterator[str]", pages).continuation_token or "")

    # --- listings ---------------------------------------------------------------------------------------------------

    def _entries(self, prefix: str, *, values: bool) -> Iterator[Entry]:
        # While the reader works on a page, the next one is on its way: the server's time and ours then overlap.
        with ThreadPoolExecutor(1) as ahead:
            page = self._filled_page(prefix, None, values=values)
            while True:
                following = None
                for blob in page.blobs:
                    if blob.findtext("Metadata/hdi_isfolder") != "true":
                        yield self._entry(blob)
                    # Not before the reader has come back for more: many want to know no more than whether there is any.
                    if page.following and following is None:
                        following = ahead.submit(self._filled_page, prefix, page.following, values=values)
                if not page.following:
                    return
                page = following.result() if following else self._filled_page(prefix, page.following, values=values)

    def _filled_page(self, prefix: str, token: str | None, *, values: bool) -> _Page:
        page = self._read(functools.partial(self._page, prefix, token, ["metadata"] if values else []))
        if not values and any(blob.findtext("Properties/Content-Length") == "0" for blob in page.blobs):
            # A folder of an account with a hierarchical namespace looks like an empty blob; its metadata tells.
            page = self._read(functools.partial(self._page, prefix, token, ["metadata"]))
        return page

    def _entry(self, blob: Element) -> Entry:
        name, length = blob.find("Name"), blob.findtext("Properties/Content-Length") or ""
        if name is None or not name.text or not length.isdecimal():
            raise StoreError(f"{self.location} gave a listing that makes no sense.")
        # Azure encodes names that XML cannot hold, and says so.
        key = unquote(name.text) if name.get("Encoded") == "true" else name.text
        packed, md5 = blob.findtext(f"Metadata/{INLINE_NAME}"), blob.findtext("Properties/Content-MD5")
        value = _unpack(packed, int(length), md5) if packed and md5 else None
        return Entry(key, self._version(blob.findtext("Properties/Etag")), value, int(length))

    def _version(self, etag: object) -> VersionToken:
        # Replies quote the ETag, listings do not.
        value = etag.strip('"') if isinstance(etag, str) else ""
        if not _ETAG.fullmatch(value):
            raise StoreError(f"{self.location} gave a reply without a version.")
        return VersionToken(value)

    # --- errors -----------------------------------------------------------------------------------------------------

    def _read(self, attempt: Callable[[float], T]) -> T:
        def checked(left: float) -> T:
            self._check_open()
            return attempt(left)

        return read_patiently(
            checked,
            self._explain,
            sleep=self._sleep,
            clock=self._clock,
            budget=BUDGET_SECONDS,
            asked_pause=retry_after,
        )

    def _explain(self, error: Exception) -> StoreError:
        return explain(error, self.location, self.credential_source)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"The store {self.location} is closed.")


def _in_code_point_order(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Bring a listing that is ordered by UTF-16 units into the order of code points.

    The two differ in one point: characters above U+FFFF come before U+E000 to U+FFFF in the one, after them in the
    other. So only keys that follow such a character, after the same beginning, are held back and sorted: next to none.
    """
    held: list[Entry] = []
    beginning = ""
    for entry in entries:
        if held and not entry.key.startswith(beginning):
            yield from sorted(held)
            held = []
        if not held:
            high = None if entry.key.isascii() else next((c for c in entry.key if c > "\uffff"), None)
            if high is None:
                yield entry
                continue
            beginning = entry.key.partition(high)[0]
        held.append(entry)
    yield from sorted(held)


def _md5(value: bytes) -> bytes:
    return hashlib.md5(value, usedforsecurity=False).digest()


def _pack(value: bytes) -> dict[str, str]:
    """The metadata that repeats the value; empty if it does not fit."""
    if len(value) > INLINE_MAX_VALUE_BYTES:
        return {}
    packed = base64.b64encode(zlib.compress(value)).decode("ascii")
    return {INLINE_NAME: packed} if len(packed) <= INLINE_MAX_CHARACTERS else {}


def _unpack(packed: str, size: int, md5: str) -> bytes | None:
    """The value that metadata repeat, or None if it is not that of the blob with this size and MD5."""
    if size > INLINE_MAX_VALUE_BYTES:
        return None
    try:
        # Bounded: a few kilobytes of metadata can be made to unpack into many megabytes.
        value = zlib.decompressobj().decompress(base64.b64decode(packed, validate=True), size + 1)
    except (ValueError, zlib.error):
        return None
    return value if len(value) == size and base64.b64encode(_md5(value)).decode("ascii") == md5 else None
