"""How `AzureVersionedStore` talks over the wire, and how what goes wrong there is told.

The SDK's own patience (20 s to connect, 60 s to read, retries after 15 s) is made for copying disks. A command that a
person waits for has to fail within five seconds when the network is gone, and never repeat a conditional write.
"""

from __future__ import annotations

import http.client
import io
import os
import re
from typing import TYPE_CHECKING, Any

import requests
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    DecodeError,
    IncompleteReadError,
    ServiceRequestTimeoutError,
    ServiceResponseError,
)
from azure.core.pipeline.transport import RequestsTransport
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from mopsjobs.errors import ConfigError, StoreAccessError, StoreError, StoreUnavailableError, ValueTooLargeError
from mopsjobs.store.outages import BUDGET_SECONDS, POOL_CONNECTIONS, chain, name_server_answers, unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

SECONDS_PER_MIB = 1.0
"""What a write may take longer for each MiB that it carries, so that a slow line still gets a large value through."""

_BUSY_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
_BUSY_CODES = frozenset({"ContainerBeingDeleted", "AccountBeingCreated", "ServerBusy", "OperationTimedOut"})
_SILENCES = (requests.Timeout, ServiceRequestTimeoutError)
_ERROR_CODE = re.compile(r"[A-Za-z0-9]{1,80}")


def timeouts(left: float, value_bytes: int = 0) -> dict[str, Any]:
    """The SDK's two timeouts for one request that may use `left` seconds: a third to connect, the rest to be answered.

    The read timeout counts from one received piece to the next, not for the whole reply: a listing of many megabytes
    may take as long as it takes while it keeps coming; a server that falls silent is given up.
    """
    return {
        "connection_timeout": left / 3,
        "read_timeout": left * 2 / 3 + SECONDS_PER_MIB * value_bytes / 2**20,
    }


class _WholeLines:
    """The beginning of a reply, read line by line; it must not end before its empty line."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.close = file.close

    def readline(self, limit: int = -1) -> bytes:
        line: bytes = self._file.readline(limit)
        if not line.endswith(b"\n") and len(line) != limit:
            raise http.client.RemoteDisconnected("The reply broke off in its headers.")
        return line


class _WholeReply(http.client.HTTPResponse):
    """A reply whose headers are all there. The standard library takes what has come of them for all (RFC 9112, 8).

    Without this, a connection that breaks in mid-reply could leave half of an ETag, or a reply without one.
    """

    def begin(self) -> None:
        file: Any = self.fp
        lines: Any = _WholeLines(file)
        self.fp = lines
        try:
            super().begin()
        finally:
            if self.fp is lines:  # not so once the whole reply has been read: it had no body
                self.fp = file


class _Connection(HTTPConnection):
    response_class = _WholeReply


class _TLSConnection(HTTPSConnection):
    response_class = _WholeReply


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


class _Adapter(HTTPAdapter):
    """The adapter of requests over these connections."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
        return manager


class _Session(requests.Session):
    """A session to one host, which finds out once what the environment says about it.

    requests asks anew for each request, and merges settings that are the same for all of ours: half of the processor
    time that a small request takes.
    """

    def __init__(self) -> None:
        super().__init__()
        adapter = _Adapter(pool_maxsize=POOL_CONNECTIONS, max_retries=0)
        self.mount("https://", adapter)
        self.mount("http://", adapter)
        self._settings: dict[object, dict[str, Any]] = {}

    def request(self, method: str, url: str, **options: Any) -> requests.Response:  # type: ignore[override]
        """Send one request of the SDK's, which follows no redirect and has no cookies, no forms and no sign-in here."""
        prepared = requests.PreparedRequest()
        prepared.prepare_method(method)
        prepared.prepare_url(url, None)
        prepared.prepare_headers({**self.headers, **options["headers"]})
        prepared.prepare_body(options.get("data"), None)
        sending = self._sending(url, options.get("verify"), options.get("cert"), options.get("proxies"))
        stream = bool(options.get("stream"))
        response = self.get_adapter(url).send(prepared, stream=stream, timeout=options.get("timeout"), **sending)
        if not stream:
            _ = response.content
        return response

    def _sending(self, url: str, verify: Any, cert: Any, proxies: dict[str, str] | None) -> dict[str, Any]:
        """Proxies and certificates, as requests finds them in the environment."""
        key = (verify, cert, *sorted((proxies or {}).items()))
        if key not in self._settings:
            settings = self.merge_environment_settings(url, proxies or {}, None, verify, cert)
            self._settings[key] = {name: settings[name] for name in ("proxies", "verify", "cert")}
        return self._settings[key]


class BoundedTransport(RequestsTransport):  # type: ignore[misc] # azure.core exports it untyped
    """The SDK's transport, with a pool for many threads, a bound on name resolution, and bodies read in one go.

    Args:
        max_bytes: how long the body of a download may be.
    """

    def __init__(self, max_bytes: int) -> None:
        super().__init__(session=_Session(), connection_verify=_trusted(os.environ))
        self._max_bytes = max_bytes
        self._name_resolves = False

    def send(self, request: Any, **kwargs: Any) -> Any:
        """Send one request and read the whole reply.

        A streamed body would be read outside the SDK's pipeline. Read here, a broken one is an error like any other.

        Raises:
            ValueTooLargeError: a download is longer than `max_bytes`.
        """
        self._check_name(request.url, kwargs.get("connection_timeout", BUDGET_SECONDS / 3))
        response = super().send(request, **kwargs)
        if kwargs.get("stream"):
            reply = response.internal_response
            reply.raw = io.BytesIO(self._body(reply))
        return response

    def _body(self, reply: requests.Response) -> bytes:
        length = reply.headers.get("Content-Length", "")
        is_known = length.isdecimal()  # otherwise a proxy has cut the reply into chunks
        body = b""
        if not is_known or int(length) <= self._max_bytes:
            try:
                # Not with a bound when the length is known: urllib3 would take a reply that broke off for a short one.
                body = reply.raw.read(None if is_known else self._max_bytes + 1, decode_content=False)
            except (HTTPError, OSError) as error:
                reply.close()
                raise ServiceResponseError("The reply broke off.", error=error) from error
        if max(len(body), int(length) if is_known else 0) > self._max_bytes:
            reply.close()
            what, size = reply.url.partition("?")[0], length or "more"
            raise ValueTooLargeError(f"{what} has {size} bytes; at most {self._max_bytes} are read.")
        return body

    def _check_name(self, url: str, seconds: float) -> None:
        """Raise if resolving the host's name takes too long. No socket timeout covers that, and it may take 30 s."""
        if self._name_resolves:
            return
        if not name_server_answers(url, seconds):
            raise ServiceRequestTimeoutError("The name server does not answer.")
        self._name_resolves = True


def _trusted(env: Mapping[str, str]) -> str | bool:
    """The file of the authorities that a certificate is checked against, or True for those of `certifi`.

    There is no way to switch the check off. `requests` knows REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE; OpenSSL's own
    SSL_CERT_FILE, which other programs obey and the Kubernetes engine does, comes after them.

    Raises:
        ConfigError: a variable names nothing that is there.
    """
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        if path := env.get(name):
            if not os.path.exists(path):
                raise ConfigError(f"{name} names {path}, and there is no such file of TLS authorities.")
            return path
    return True


def error_code(error: Exception) -> str:
    """Azure's own word for what is wrong, such as `BlobNotFound`; empty when there is none."""
    code = getattr(error, "error_code", None)
    if code is None and (response := getattr(error, "response", None)) is not None:
        code = response.headers.get("x-ms-error-code")
    word = str(getattr(code, "value", code) or "")
    return word if _ERROR_CODE.fullmatch(word) else ""


def retry_after(error: Exception) -> float:
    """The seconds for which the reply asks us to stay away; 0 when it does not say so."""
    response = getattr(error, "response", None)
    text = response.headers.get("Retry-After", "") if response is not None else ""
    return float(text) if text.isdecimal() else 0.0


def explain(error: Exception, location: str, credential_source: str) -> StoreError:
    """The error of the store's contract that `error` amounts to, in one sentence that no secret can be part of.

    The SDK's texts are never passed on: those of network errors hold the request's URL, SAS token included.
    """
    if isinstance(error, StoreError):
        return error
    # An incomplete reply has the status of its first line, which says nothing about how it ended.
    status = None if isinstance(error, IncompleteReadError) else getattr(error, "status_code", None)
    answer = f"{status} {error_code(error)}".rstrip()
    if status in (401, 403):
        return StoreAccessError(
            f"{location} refused the credentials from {credential_source}: {answer}.",
            hint="Either they are not for this account, or they do not allow this.",
        )
    if isinstance(error, ClientAuthenticationError):
        return StoreAccessError(
            f"There are no credentials for {location}: {credential_source} gave none.",
            hint="Sign in with `az login`, or set AZURE_STORAGE_CONNECTION_STRING.",
        )
    if status in _BUSY_STATUSES or error_code(error) in _BUSY_CODES:
        return StoreUnavailableError(f"{location} asks to be tried again later: {answer}.", throttled=True)
    if status is None and _is_outage(error):
        return unavailable(error, location, _SILENCES)
    answer = answer if status else type(error).__name__
    return StoreError(f"{location} gave an answer that mops-jobs cannot use: {answer}.")


def _is_outage(error: Exception) -> bool:
    if isinstance(error, DecodeError) and not isinstance(error, IncompleteReadError):
        return False
    # requests reports a URL or header that it will not send as a ValueError too: that is no outage.
    if any(isinstance(each, requests.RequestException) and isinstance(each, ValueError) for each in chain(error)):
        return False
    return isinstance(error, AzureError | requests.RequestException | OSError)
