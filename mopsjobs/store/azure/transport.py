"""The transport of `AzureVersionedStore`, and its errors: to urllib3, over connections that send and read in pieces.

The SDK's own timeouts (20 s to connect, 60 s to read, retries after 15 s) are made for copying disks. A user waits for
a command. So it fails within five seconds if the network is gone, and never repeats a conditional write.
See docs/decisions/0018-reading-azure-without-the-sdk.md.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import socket
import ssl
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from azure.core.exceptions import AzureError, ClientAuthenticationError, DecodeError, ServiceRequestTimeoutError
from requests import Request
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies
from urllib3 import Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, ProtocolError

from mopsjobs.errors import StoreAccessError, StoreError, StoreUnavailableError, ValueTooLargeError
from mopsjobs.store import network

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, HTTPHeaderDict


_BUSY_STATUSES = frozenset({408, 429, 502, 503, 504})

_BUSY_CODES = frozenset({"ContainerBeingDeleted", "AccountBeingCreated", "ServerBusy", "OperationTimedOut"})

_VERSION_REFUSED = "400 InvalidHeaderValue"
"""What Azurite answers to an SDK that is newer than itself."""

_TIMEOUTS = (ServiceRequestTimeoutError,)

_WIRE = (OSError, HTTPError)

_ERROR_CODE = re.compile(r"[A-Za-z0-9]{1,80}")


def error_code(error: Exception) -> str:
    """Return Azure's error code, such as `BlobNotFound`; empty if there is none."""
    code = _header(error, "x-ms-error-code")
    return code if _ERROR_CODE.fullmatch(code) else ""


def is_timeout(error: Exception) -> bool:
    """Return whether no byte came in time."""
    return any(isinstance(each, (TimeoutError, *_TIMEOUTS)) for each in network.error_chain(error))


def retry_after(error: Exception) -> float:
    """Return the seconds for which the reply asks clients to wait; 0 if it does not."""
    text = _header(error, "Retry-After")
    return float(text) if text.isdecimal() else 0.0


def _header(error: Exception, name: str) -> str:
    response = getattr(error, "response", None)
    return "" if response is None else str(response.headers.get(name, ""))


def explain(error: Exception, location: str, credential_source: str) -> StoreError:
    """Return the error of the store's contract, in one sentence without secrets.

    The SDK's texts are never passed on: those of network errors hold the URL of the request with its SAS token.
    """
    if isinstance(error, StoreError):
        return error
    status = getattr(error, "status_code", None)
    answer = f"{status} {error_code(error)}".rstrip()
    if status in (401, 403):
        return StoreAccessError(
            f"{location} refused the credentials from {credential_source}: {answer}.",
            hint="Check that they are for this account, and allow this.",
        )
    if isinstance(error, ClientAuthenticationError):
        return StoreAccessError(
            f"There are no credentials for {location}: {credential_source} found none.",
            hint="Sign in with `az login`, or set AZURE_STORAGE_CONNECTION_STRING.",
        )
    is_busy = status in _BUSY_STATUSES or error_code(error) in _BUSY_CODES
    if is_busy or status == 500:
        problem = "is throttling requests" if is_busy else "failed to serve a request"
        return StoreUnavailableError(f"{location} {problem}: {answer}.", throttled=is_busy)
    # A library refuses a malformed URL or header by an error of its own that is a ValueError: that is not an outage.
    # So is an untrusted certificate, which is one.
    refusals = [each for each in network.error_chain(error) if isinstance(each, _WIRE) and isinstance(each, ValueError)]
    is_refused = any(not isinstance(each, ssl.SSLError) for each in refusals)
    is_of_wire = isinstance(error, (AzureError, *_WIRE)) and not isinstance(error, DecodeError)
    if status is None and is_of_wire and not is_refused:
        return network.unavailable(error, location, _TIMEOUTS)
    answer = answer if status else type(error).__name__
    hint = "If this is an Azurite, start it with --skipApiVersionCheck." if answer == _VERSION_REFUSED else None
    return StoreError(f"unexpected response from {location}: {answer}.", hint=hint)


PIECE_BYTES = 256 * 2**10
"""Bytes that are read from a connection at once, if they have arrived."""

MAX_SHORT_BODY_BYTES = 64 * 2**10
"""Longest body of an error, or of a reply to a write, that is read. The headers have all that is needed."""

SECONDS_PER_MIB = 2**20 * 8 / 1e6
"""Additional seconds for the reply to a write per MiB of its value: the time that a line of 1 Mbit/s needs.

The value may still be on its way after the system has accepted all of it. Buffers here, at a proxy and at the server
hold many megabytes.
"""

SENT_BYTES = 16 * 2**10
"""Bytes of a value that are sent at once, a record of TLS. Each such piece may take `STALL_SECONDS`."""

STALL_SECONDS = network.BUDGET_SECONDS
"""How long a write waits for the server to take the next piece of its value."""

UNSENT_BYTES = 128 * 2**10
"""Bytes that the system buffers. By default it fills megabytes, then accepts nothing until a third of them is sent."""


class _WholeLines:
    """The headers of a reply, read line by line. They must not end before the empty line."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.close = file.close

    def readline(self, limit: int = -1) -> bytes:
        line: bytes = self._file.readline(limit)
        if not line.endswith(b"\n") and len(line) != limit:  # the standard library refuses a line of this length
            raise http.client.RemoteDisconnected("The reply broke off in its headers.")
        return line


class _WholeReply(http.client.HTTPResponse):
    """A reply with complete headers. The standard library accepts incomplete ones (see RFC 9112, 8).

    A connection that breaks in the middle could else leave half of an ETag, or a reply without one.

    It is read in larger pieces than the standard library's 8 KiB. After each piece, the reading thread waits up to 5 ms
    for its turn, and a listing has many megabytes.
    """

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = sock.makefile("rb", PIECE_BYTES)

    def begin(self) -> None:
        file: Any = self.fp
        lines: Any = _WholeLines(file)
        self.fp = lines
        try:
            super().begin()
        finally:
            if self.fp is lines:  # it differs if the whole reply has been read: then it had no body
                self.fp = file


class _Connection(HTTPConnection):
    """A connection that sends a value in pieces, and gives up if the server accepts none for `STALL_SECONDS`.

    urllib3 keeps the timeout of connecting on the socket until the request is sent, and Python counts it for a whole
    call. So a value that took longer than this timeout never arrived.
    """

    response_class = _WholeReply

    def send(self, data: Any) -> None:
        """Send headers or a value."""
        if not isinstance(data, bytes) or len(data) <= SENT_BYTES or self.sock is None:
            super().send(data)
            return
        connecting = self.sock.gettimeout()
        self.sock.settimeout(STALL_SECONDS)
        with contextlib.suppress(OSError, AttributeError):  # some sandboxes and kinds of socket lack it
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        with memoryview(data) as whole:
            for start in range(0, len(whole), SENT_BYTES):
                super().send(whole[start : start + SENT_BYTES])
        self.sock.settimeout(connecting)


class _TLSConnection(_Connection, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


class _Adapter(HTTPAdapter):
    """The adapter of requests for these connections. It knows the proxies and certificates of the environment."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
        return manager


class _Route(NamedTuple):
    """The connections to a host."""

    pool: HTTPConnectionPool
    origin: str
    """The beginning of a URL that is removed before it is sent."""


class Reply(NamedTuple):
    """A whole reply, with the attributes that the SDK's policies and errors use."""

    status_code: int
    reason: str | None
    headers: HTTPHeaderDict
    body: bytes

    def text(self, encoding: str | None = None) -> str:
        """Return the body, for the SDK's errors."""
        return self.body.decode(encoding or "utf-8", "replace")


class AzureTransport:
    """Sends the requests of one store to its host, in the form in which the SDK's pipeline has them.

    The SDK's own transport is made for redirects, cookies and sign-ins, and wraps each reply three times. Without it, a
    small read takes a third of the processor time. Bodies are read within `send`, so that one that breaks off is an
    error of the request.

    Args:
        max_bytes: longest body.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._verify = network.tls_authorities(os.environ)
        self._name_resolves = False
        self._route: _Route | None = None
        self._pid = os.getpid()

    def send(self, request: Any, *, seconds: float) -> Reply:
        """Send one request, which may use some seconds, and read the whole reply.

        A third of them is for connecting, the rest for the reply, from one received piece to the next. So a listing of
        many megabytes may take any time while it makes progress, and a server that falls silent is given up. The same
        holds for a value on its way to the server.

        Raises:
            ValueTooLargeError: if the body is longer than `max_bytes`.
        """
        self._check_name(request.url, seconds / 3)
        route = self._find_route(request.url)
        patience = SECONDS_PER_MIB * len(request.data or b"") / 2**20
        reply = route.pool.urlopen(
            request.method,
            request.url.removeprefix(route.origin),
            body=request.data,
            headers=request.headers,
            timeout=Timeout(connect=seconds / 3, read=seconds * 2 / 3 + patience),
            retries=False,
            redirect=False,
            assert_same_host=False,
            preload_content=False,
            decode_content=False,
        )
        try:
            return Reply(reply.status, reply.reason, reply.headers, self._whole_body(reply, request.url))
        finally:
            reply.release_conn()  # one that broke off is not used again

    def close(self) -> None:
        """Close the connections."""
        if self._route is not None:
            self._route.pool.close()

    def _check_name(self, url: str, seconds: float) -> None:
        """Check that the name server answers for the host. No socket timeout covers its delay of up to 30 s."""
        if not self._name_resolves and not network.name_server_answers(url, seconds):
            raise ServiceRequestTimeoutError("The name server does not answer.")
        self._name_resolves = True

    def _find_route(self, url: str) -> _Route:
        """Return the connections to the host of the first URL: all URLs have the same host."""
        # Two processes on one connection take each other's replies, also the acknowledgements of writes.
        if self._route is None or self._pid != os.getpid():
            adapter: Any = _Adapter(pool_maxsize=network.POOL_CONNECTIONS, max_retries=0)
            prepared, proxies = Request("GET", url).prepare(), get_environ_proxies(url)
            pool = adapter.get_connection_with_tls_context(prepared, self._verify, proxies=proxies)
            adapter.cert_verify(pool, url, self._verify, None)
            # A proxy for plain HTTP gets the whole URL. Every other server gets the part after the host.
            is_whole = adapter.request_url(prepared, proxies) != prepared.path_url
            parts = urlsplit(url)
            self._route = _Route(pool, "" if is_whole else f"{parts.scheme}://{parts.netloc}")
            self._pid = os.getpid()
        return self._route

    def _whole_body(self, reply: BaseHTTPResponse, url: str) -> bytes:
        is_chunked = reply.headers.get("Transfer-Encoding", "").lower() == "chunked"
        text = reply.headers.get("Content-Length", "")
        length = int(text) if text.isdecimal() else None
        is_short = reply.status not in (200, 206)  # only its headers matter
        limit = MAX_SHORT_BODY_BYTES if is_short else self._max_bytes
        if is_chunked or (length is not None and length <= limit):
            # Without a bound if the length is known: urllib3 would else accept a reply that broke off.
            body = reply.read(limit + 1 if is_chunked else None)
            if len(body) <= limit:
                return body
        reply.close()  # its connection is not used again
        if is_short:
            return b""
        if not is_chunked and length is None:  # it would end with the connection, perhaps too early
            raise ProtocolError("The reply does not say how long it is.")
        what, size = url.partition("?")[0], "more" if is_chunked else text
        raise ValueTooLargeError(f"{what} has {size} bytes; at most {self._max_bytes} are read.")
