"""The two transports of `AzureVersionedStore`: one for the requests of the SDK, a shorter one for reads.

The SDK's own timeouts (20 s to connect, 60 s to read, retries after 15 s) are made for copying disks. A user waits for
a command. So it fails within five seconds if the network is gone, and never repeats a conditional write.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import requests
from azure.core.exceptions import ServiceRequestTimeoutError
from azure.core.pipeline.transport import HttpTransport, RequestsTransport
from requests.adapters import HTTPAdapter
from urllib3 import Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ProtocolError

from mopsjobs.errors import ValueTooLargeError
from mopsjobs.store import network

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, HTTPHeaderDict


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

MAX_HEADERS = 1000
"""Headers in a row that are left out. A blob has 8 KiB of metadata at most."""

_UNREAD_HEADERS = frozenset(
    b"accept-ranges content-md5 last-modified server x-ms-access-tier x-ms-access-tier-inferred x-ms-blob-content-md5"
    b" x-ms-blob-type x-ms-creation-time x-ms-lease-state x-ms-lease-status x-ms-server-encrypted x-ms-version".split()
)


def timeouts(left: float, value_bytes: int = 0) -> dict[str, Any]:
    """Return the SDK's timeouts for a request that may use `left` seconds: a third to connect, the rest for the reply.

    The read timeout counts from one received piece to the next. So a listing of many megabytes may take any time while
    it makes progress, and a server that falls silent is given up. The same holds for a value on its way to the server:
    see `_InPieces`.
    """
    return {
        "connection_timeout": left / 3,
        "read_timeout": left * 2 / 3 + SECONDS_PER_MIB * value_bytes / 2**20,
    }


class _WholeLines:
    """The headers of a reply, read line by line. They must not end before the empty line.

    Lines that only describe a blob are left out: to parse them takes a fifth of the processor time of a small read.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self.close = file.close

    def readline(self, limit: int = -1) -> bytes:
        for left_out in range(MAX_HEADERS):
            line: bytes = self._file.readline(limit)
            if not line.endswith(b"\n"):
                if len(line) != limit:
                    raise http.client.RemoteDisconnected("The reply broke off in its headers.")
                return line  # the standard library refuses a line of this length
            is_rest = left_out and line.startswith((b" ", b"\t"))  # of a header that goes over several lines
            name = line.partition(b":")[0].lower()
            if not is_rest and name not in _UNREAD_HEADERS and not name.startswith(b"x-ms-meta-"):
                return line
        raise http.client.HTTPException(f"The reply has more than {MAX_HEADERS} headers in a row that are not read.")


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


class _InPieces(HTTPConnection):
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


class _Connection(_InPieces):
    pass


class _TLSConnection(_InPieces, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


class _Adapter(HTTPAdapter):
    """The adapter of requests for these connections."""

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


class _Session(requests.Session):
    """A session to one host, which reads the environment once.

    requests reads it for each request, and merges settings that never differ here. This takes half of the processor
    time of a small request.
    """

    def __init__(self) -> None:
        super().__init__()
        adapter = _Adapter(pool_maxsize=network.POOL_CONNECTIONS, max_retries=0)
        self.mount("https://", adapter)
        self.mount("http://", adapter)
        self._settings: dict[object, dict[str, Any]] = {}

    def request(self, method: str, url: str, **options: Any) -> requests.Response:  # type: ignore[override]
        """Send one request of the SDK. It follows no redirects and has no cookies, forms or sign-in of its own."""
        prepared = requests.PreparedRequest()
        prepared.prepare_method(method)
        prepared.prepare_url(url, None)
        prepared.prepare_headers({**self.headers, **options["headers"]})
        prepared.prepare_body(options.get("data"), None)
        settings = self._connection_settings(url, options.get("verify"), options.get("cert"), options.get("proxies"))
        response = self.get_adapter(url).send(prepared, timeout=options.get("timeout"), **settings)
        if not options.get("stream"):
            # requests would read a body of any length.
            response._content = _short_body(response.raw)  # noqa: SLF001
        return response

    def route(self, url: str, verify: Any) -> _Route:
        """Return the connections to the URL's host, with the proxy and the certificates that requests would use."""
        prepared = requests.PreparedRequest()
        prepared.prepare_method("GET")
        prepared.prepare_url(url, None)
        settings = self._connection_settings(url, verify, None, None)
        adapter: Any = self.get_adapter(url)
        pool = adapter.get_connection_with_tls_context(
            prepared, settings["verify"], proxies=settings["proxies"], cert=settings["cert"]
        )
        adapter.cert_verify(pool, url, settings["verify"], settings["cert"])
        # A proxy for plain HTTP gets the whole URL. Every other server gets the part after the host.
        is_whole = adapter.request_url(prepared, settings["proxies"]) != prepared.path_url
        parts = urlsplit(url)
        return _Route(pool, "" if is_whole else f"{parts.scheme}://{parts.netloc}")

    def _connection_settings(self, url: str, verify: Any, cert: Any, proxies: dict[str, str] | None) -> dict[str, Any]:
        """Return proxies and certificates, as requests finds them in the environment."""
        key = (verify, cert, *sorted((proxies or {}).items()))
        if key not in self._settings:
            settings = self.merge_environment_settings(url, proxies or {}, None, verify, cert)
            self._settings[key] = {name: settings[name] for name in ("proxies", "verify", "cert")}
        return self._settings[key]


class BoundedTransport(RequestsTransport):  # type: ignore[misc] # azure.core exports it untyped
    """The SDK's transport, with a pool for many threads and a bound on name resolution."""

    def __init__(self) -> None:
        self.session: _Session | None
        super().__init__(session=_Session(), connection_verify=network.tls_authorities(os.environ))
        self._name_resolves = False
        self._route: _Route | None = None
        self._pid = os.getpid()

    def send(self, request: Any, **kwargs: Any) -> Any:
        """Send one request."""
        self._leave_parents_connections()
        self.check_name(request.url, kwargs.get("connection_timeout", network.BUDGET_SECONDS / 3))
        return super().send(request, **kwargs)

    def route(self, url: str) -> _Route:
        """Return the connections to the host of the first URL: all URLs have the same host."""
        self._leave_parents_connections()
        if self._route is None:
            assert self.session is not None  # noqa: S101 - a closed store has refused before
            self._route = self.session.route(url, self.connection_config.verify)
        return self._route

    def _leave_parents_connections(self) -> None:
        # Two processes on one connection take each other's replies, also the acknowledgements of writes.
        if self._pid != os.getpid() and self.session is not None:
            self.session, self._route, self._pid = _Session(), None, os.getpid()

    def check_name(self, url: str, seconds: float) -> None:
        """Check that the name server answers for the host. No socket timeout covers its delay of up to 30 s.

        Raises:
            ServiceRequestTimeoutError: if it does not answer in time.
        """
        if self._name_resolves:
            return
        if not network.name_server_answers(url, seconds):
            raise ServiceRequestTimeoutError("The name server does not answer.")
        self._name_resolves = True


class Reply:
    """The whole reply to a read, with the attributes that the SDK's policies and errors use."""

    __slots__ = ("body", "headers", "reason", "status_code")

    def __init__(self, status_code: int, reason: str | None, headers: HTTPHeaderDict, body: bytes) -> None:
        self.status_code = status_code
        self.reason = reason
        self.headers = headers
        self.body = body

    def text(self, encoding: str | None = None) -> str:
        """Return the body, for the SDK's errors."""
        return self.body.decode(encoding or "utf-8", "replace")


class ReadingTransport(HttpTransport[Any, Any]):
    """The transport of reads: directly to urllib3, over the same connections as the SDK's.

    The SDK uses requests, which is made for redirects, cookies and sign-ins, and wraps each reply three times. This
    takes two thirds of the processor time of a small read. Bodies are read within `send`, so that one that breaks off
    is an error of the request.

    Args:
        connections: the SDK's transport.
        max_bytes: longest body.
    """

    def __init__(self, connections: BoundedTransport, max_bytes: int) -> None:
        self._connections = connections
        self._max_bytes = max_bytes

    def send(self, request: Any, **options: Any) -> Reply:
        """Send one request, with the options of `timeouts`, and read the whole reply.

        Raises:
            ValueTooLargeError: if the body is longer than `max_bytes`.
        """
        url, connecting = request.url, options["connection_timeout"]
        self._connections.check_name(url, connecting)
        route = self._connections.route(url)
        reply = route.pool.urlopen(
            request.method,
            url.removeprefix(route.origin),
            headers=request.headers,
            timeout=Timeout(connect=connecting, read=options["read_timeout"]),
            retries=False,
            redirect=False,
            assert_same_host=False,
            preload_content=False,
            decode_content=False,
        )
        try:
            return Reply(reply.status, reply.reason, reply.headers, self._whole_body(reply, url))
        finally:
            reply.release_conn()  # one that broke off is not used again

    def open(self) -> None:
        """Do nothing: the SDK's transport has the connections."""

    def close(self) -> None:
        """Do nothing, as `open`."""

    def __exit__(self, *_: object) -> None:
        """Do nothing, as `open`."""

    def _whole_body(self, reply: BaseHTTPResponse, url: str) -> bytes:
        if reply.status != 200:
            return _short_body(reply)
        body = _body(reply, self._max_bytes)
        if body is None:
            what, size = url.partition("?")[0], "more" if _is_chunked(reply) else reply.headers["Content-Length"]
            raise ValueTooLargeError(f"{what} has {size} bytes; at most {self._max_bytes} are read.")
        return body


def _short_body(reply: BaseHTTPResponse) -> bytes:
    """Return the body of a reply of which only the headers matter; empty if it is long, or of unknown length."""
    if _is_chunked(reply) or _length(reply) is not None:
        return _body(reply, MAX_SHORT_BODY_BYTES) or b""
    reply.close()
    return b""


def _body(reply: BaseHTTPResponse, limit: int) -> bytes | None:
    """Return the body of a reply; None if it has more than `limit` bytes. Then its connection is not used again.

    Raises:
        ProtocolError: if it does not state its length. It would end with the connection, perhaps too early.
        HTTPError: if it broke off, or made no progress.
    """
    is_chunked, length = _is_chunked(reply), _length(reply)
    if not is_chunked and length is None:
        reply.close()
        raise ProtocolError("The reply does not say how long it is.")
    if is_chunked or (length or 0) <= limit:
        # Without a bound if the length is known: urllib3 would else accept a reply that broke off.
        body = reply.read(limit + 1 if is_chunked else None)
        if len(body) <= limit:
            return body
    reply.close()
    return None


def _is_chunked(reply: BaseHTTPResponse) -> bool:
    return reply.headers.get("Transfer-Encoding", "").lower() == "chunked"


def _length(reply: BaseHTTPResponse) -> int | None:
    text = reply.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None
