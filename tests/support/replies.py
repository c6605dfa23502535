"""Servers that give the replies of a test: what no real server can be made to answer."""

from __future__ import annotations

import http.server
import itertools
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple


class Reply(NamedTuple):
    """The answer of the server. `status` 0 hangs up, -1 is silence; `body` may be shorter than `length` says."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    length: int | None = None


HANG_UP = Reply(0)
SILENT = Reply(-1)


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[int]:
    """Run a server in a thread of its own, and yield its port."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def playing(*replies: Reply) -> Iterator[tuple[int, list[str]]]:
    """Yield the server's port, and the method of each request that it has had."""
    todo = iter(replies)
    requests: list[str] = []
    done = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            requests.append(self.command)
            reply = next(todo)
            if reply == SILENT:
                done.wait()
            if reply.status <= 0:
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in reply.headers:
                self.send_header(name, value)
            if ("Transfer-Encoding", "chunked") not in reply.headers:
                self.send_header("Content-Length", str(len(reply.body) if reply.length is None else reply.length))
            self.end_headers()
            self.wfile.write(reply.body)
            self.close_connection = reply.length is not None and self.command != "HEAD"

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815 - names given by http.server

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        try:
            yield port, requests
        finally:
            done.set()


@contextmanager
def saying(*replies: bytes) -> Iterator[int]:
    """Yield the port of a server that answers each request with the next of these, again and again, and hangs up."""
    todo = itertools.cycle(replies)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):  # the client has left
                self.request.recv(65536)
                self.request.sendall(next(todo))

    with serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)) as port:
        yield port
