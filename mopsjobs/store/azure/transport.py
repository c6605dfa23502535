"""How `AzureVersionedStore` talks over the wire: one transport for what the SDK sends, a shorter one for reads.

The SDK's own patience (20 s to connect, 60 s to read, retries after 15 s) is made for copying disks. A command that a
person waits for has to fail within five seconds when the network is gone, and never repeat a conditional write.
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

from mopsjobs.errors import ConfigError, ValueTooLargeError
from mopsjobs.store.network import BUDGET_SECONDS, POOL_CONNECTIONS, name_server_answers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from urllib3 import BaseHTTPResponse, HTTPHeaderDict


PIECE_BYTES = 256 * 2**10
"""What is read from a connection at once, as far as it is there."""


MAX_REMARK_BYTES = 64 * 2**10
"""How long the body of an error, or of a reply to a write, may be to be looked at: the headers have said it all."""


SECONDS_PER_MIB = 2**20 * 8 / 1e6
"""How much longer the reply to a write may take for each MiB of the value: a line of 1 Mbit/s needs that to carry it.

The value may still be on its way when the system has taken all of it: buffers here, at a proxy and at the server hold
many megabytes.
"""


SENT_BYTES = 16 * 2**10
"""What of a value is sent at once, a record of TLS. Each such piece has the whole of `STALL_SECONDS`."""


STALL_SECONDS = BUDGET_SECONDS
"""How long a write waits for the server to take the next piece of its value."""


UNSENT_BYTES = 128 * 2**10
"""How much the system keeps unsent. By itself it fills megabytes, then takes nothing until a third of them is sent."""


def timeouts(left: float, value_bytes: int = 0) -> dict[str, Any]:
    """The SDK's two timeouts for one request that may use `left` seconds: a third to connect, the rest to be answered.

    The read timeout counts from one received piece to the next, not for the whole reply: a listing of many megabytes
    may take as long as it takes while it keeps coming; a server that falls silent is given up. The same holds for a
    value on its way to the server: see `_InPieces`.
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

    It is also read in larger pieces than the standard library's 8 KiB: after each, a thread that reads waits for its
    turn among those that work, up to 5 ms, and a listing has many megabytes.
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
            if self.fp is lines:  # not so once the whole reply has been read: it had no body
                self.fp = file


class _InPieces(HTTPConnection):
    """A connection that sends a value piece by piece, and gives up when the server takes none for `STALL_SECONDS`.

    urllib3 leaves the timeout of connecting on the socket until the request is sent, and Python counts it for all
    that one call sends. A value that the line could not carry in that time never arrived.
    """

    response_class = _WholeReply

    def send(self, data: Any) -> None:
        """Send headers or a value."""
        if not isinstance(data, bytes) or len(data) <= SENT_BYTES or self.sock is None:
            super().send(data)
            return
        connecting = self.sock.gettimeout()
        self.sock.settimeout(STALL_SECONDS)
        with contextlib.suppress(OSError, AttributeError):  # some sandboxes and kinds of socket do without
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
    """The adapter of requests over these connections."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
        return manager


class _Route(NamedTuple):
    """The way to a host."""

    pool: HTTPConnectionPool
    origin: str
    """What is left out of a URL before it is sent."""


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
        response = self.get_adapter(url).send(prepared, timeout=options.get("timeout"), **sending)
        if not options.get("stream"):
            # In the place of requests, which would read whatever comes.
            response._content = _remark(response.raw)  # noqa: SLF001
        return response

    def route(self, url: str, verify: Any) -> _Route:
        """The way to the URL's host, through the proxy and by the certificates that requests would use."""
        prepared = requests.PreparedRequest()
        prepared.prepare_method("GET")
        prepared.prepare_url(url, None)
        sending = self._sending(url, verify, None, None)
        adapter: Any = self.get_adapter(url)
        pool = adapter.get_connection_with_tls_context(
            prepared, sending["verify"], proxies=sending["proxies"], cert=sending["cert"]
        )
        adapter.cert_verify(pool, url, sending["verify"], sending["cert"])
        # A proxy for plain HTTP is asked for the whole URL, everybody else for what comes after the host.
        is_whole = adapter.request_url(prepared, sending["proxies"]) != prepared.path_url
        parts = urlsplit(url)
        return _Route(pool, "" if is_whole else f"{parts.scheme}://{parts.netloc}")

    def _sending(self, url: str, verify: Any, cert: Any, proxies: dict[str, str] | None) -> dict[str, Any]:
        """Proxies and certificates, as requests finds them in the environment."""
        key = (verify, cert, *sorted((proxies or {}).items()))
        if key not in self._settings:
            settings = self.merge_environment_settings(url, proxies or {}, None, verify, cert)
            self._settings[key] = {name: settings[name] for name in ("proxies", "verify", "cert")}
        return self._settings[key]


class BoundedTransport(RequestsTransport):  # type: ignore[misc] # azure.core exports it untyped
    """The SDK's transport, with a pool for many threads and a bound on name resolution."""

    def __init__(self) -> None:
        self.session: _Session | None
        super().__init__(session=_Session(), connection_verify=_trusted(os.environ))
        self._name_resolves = False
        self._route: _Route | None = None
        self._pid = os.getpid()

    def send(self, request: Any, **kwargs: Any) -> Any:
        """Send one request."""
        self._leave_parents_connections()
        self.check_name(request.url, kwargs.get("connection_timeout", BUDGET_SECONDS / 3))
        return super().send(request, **kwargs)

    def route(self, url: str) -> _Route:
        """The way that its requests take to the host of the URL: of the first one, since all are the same."""
        self._leave_parents_connections()
        if self._route is None:
            assert self.session is not None  # noqa: S101 - a closed store has refused before
            self._route = self.session.route(url, self.connection_config.verify)
        return self._route

    def _leave_parents_connections(self) -> None:
        # Of two processes on one connection each takes the other's replies, and the word that a write has landed.
        if self._pid != os.getpid() and self.session is not None:
            self.session, self._route, self._pid = _Session(), None, os.getpid()

    def check_name(self, url: str, seconds: float) -> None:
        """Raise if resolving the host's name takes too long. No socket timeout covers that, and it may take 30 s."""
        if self._name_resolves:
            return
        if not name_server_answers(url, seconds):
            raise ServiceRequestTimeoutError("The name server does not answer.")
        self._name_resolves = True


class Reply:
    """What came back to a read, whole: as much of the SDK's response as its policies and errors look at."""

    __slots__ = ("body", "headers", "reason", "status_code")

    def __init__(self, status_code: int, reason: str | None, headers: HTTPHeaderDict, body: bytes) -> None:
        self.status_code = status_code
        self.reason = reason
        self.headers = headers
        self.body = body

    def text(self, encoding: str | None = None) -> str:
        """The body, for the SDK's errors."""
        return self.body.decode(encoding or "utf-8", "replace")


class ReadingTransport(HttpTransport[Any, Any]):
    """The transport of what only reads: straight to urllib3, over the same connections as the SDK's.

    The SDK goes there by way of requests, which is made for redirects, cookies and sign-ins, and wraps each reply three
    times: two thirds of the processor time of a small read. Bodies are read here, within the bounds of the SDK's
    policies and ours, so that one that breaks off is an error like any other.

    Args:
        connections: the SDK's transport.
        max_bytes: how long a body may be.
    """

    def __init__(self, connections: BoundedTransport, max_bytes: int) -> None:
        self._connections = connections
        self._max_bytes = max_bytes

    def send(self, request: Any, **options: Any) -> Reply:
        """Send one request, with the options of `timeouts`, and read the whole reply.

        Raises:
            ValueTooLargeError: the body is longer than `max_bytes`.
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
        """Nothing to do: the SDK's transport has the connections."""

    def close(self) -> None:
        """As `open`."""

    def __exit__(self, *_: object) -> None:
        """As `open`."""

    def _whole_body(self, reply: BaseHTTPResponse, url: str) -> bytes:
        if reply.status != 200:
            return _remark(reply)
        body = _body(reply, self._max_bytes)
        if body is None:
            what, size = url.partition("?")[0], "more" if _is_chunked(reply) else reply.headers["Content-Length"]
            raise ValueTooLargeError(f"{what} has {size} bytes; at most {self._max_bytes} are read.")
        return body


def _remark(reply: BaseHTTPResponse) -> bytes:
    """The body of a reply whose headers have said it all; nothing of one that is long, or of a length unknown."""
    if _is_chunked(reply) or _length(reply) is not None:
        return _body(reply, MAX_REMARK_BYTES) or b""
    reply.close()
    return b""


def _body(reply: BaseHTTPResponse, limit: int) -> bytes | None:
    """The body of a reply; None if it has more than `limit` bytes, and then its connection is not used again.

    Raises:
        ProtocolError: it does not say how long it is. Then its end is that of the connection, and nobody can tell
            whether it has come whole.
        HTTPError: it broke off, or did not go on.
    """
    is_chunked, length = _is_chunked(reply), _length(reply)
    if not is_chunked and length is None:
        reply.close()
        raise ProtocolError("The reply does not say how long it is.")
    if is_chunked or (length or 0) <= limit:
        # Not with a bound when the length is known: urllib3 would take a reply that broke off for a short one.
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
