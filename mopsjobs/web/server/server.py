"""Run the server: its socket, its threads, and the signals that end it."""

from __future__ import annotations

import contextlib
import errno
import logging
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from waitress.server import create_server

from mopsjobs.app.run.app import App
from mopsjobs.errors import UsageError
from mopsjobs.utils.hosts import is_loopback
from mopsjobs.utils.malloc import limit_malloc_arenas
from mopsjobs.utils.user_dirs import user_name
from mopsjobs.web.server.pages import make_app
from mopsjobs.web.server.security import own_names
from mopsjobs.web.site.background import MAX_WAIT_SECONDS, ChangeSignal
from mopsjobs.web.site.site import Site

THREADS = 12

MAX_CONNECTIONS = 400

IDLE_SECONDS = 60
"""How long a connection may neither send nor take anything, unless its request is being answered."""

MAX_HEADER_BYTES = 1 << 15

MAX_BODY_BYTES = 0
"""A request with a body is refused, and its connection closed, so that no proxy finds another request in the body."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def serve(
    app: App,
    *,
    host: str,
    port: int,
    allowed: list[str],
    sync_every: float | None,
    on_start: Callable[[str], None],
    behind_proxy: bool = False,
) -> int:
    """Serve until SIGINT or SIGTERM.

    Args:
        app: settings, cache and registry.
        host: name or address to listen on.
        port: 0 for any free port.
        allowed: further names to answer to.
        sync_every: seconds between two syncs; None for no syncs.
        on_start: called with the URL when the server listens.
        behind_proxy: whether all clients come through a proxy.

    Returns:
        The number of the signal that ended it.

    Raises:
        UsageError: if the server cannot listen there.
    """
    is_own = is_loopback(host) and not behind_proxy
    limit_malloc_arenas()
    listening = _listen(host, port)
    site = Site(app, ChangeSignal(), user=user_name(app.env) if is_own else None)
    if sync_every is not None:
        site.prepare_syncs(sync_every)
    wsgi_app = make_app(site, own_names(host, allowed))
    logging.getLogger("waitress").setLevel(logging.ERROR)  # no warnings that requests wait for a thread
    with _stop_signals() as stops:
        server = make_server(wsgi_app, listening)

        def answer() -> None:
            try:
                server.run()
            finally:
                stops.put(0)

        threading.Thread(target=answer, name="server", daemon=True).start()
        if site.syncer is not None:
            site.syncer.start()
        on_start(_url(host, listening.getsockname()[1]))
        try:
            return _wait(stops)
        finally:
            site.changes.is_over = True
            server.task_dispatcher.shutdown()
            server.close()
            site.readers.close()


def make_server(wsgi_app: Callable[..., Any], listening: socket.socket) -> Any:
    """Return the server of waitress, with limits on connections and requests. It answers once `run` is called.

    Waitress ends no connection whose client has stopped reading, and a long answer would keep its thread. So Linux is
    told to end them.
    """
    if sys.platform == "linux":
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * IDLE_SECONDS)
    return create_server(
        wsgi_app,
        sockets=[listening],
        threads=THREADS,
        connection_limit=MAX_CONNECTIONS,
        channel_timeout=IDLE_SECONDS,
        cleanup_interval=IDLE_SECONDS // 6,
        max_request_header_size=MAX_HEADER_BYTES,
        max_request_body_size=MAX_BODY_BYTES,
        asyncore_use_poll=True,
        log_socket_errors=False,
        ident=None,
    )


def _listen(host: str, port: int) -> socket.socket:
    try:
        [(family, _, _, _, address), *_] = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        return socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        is_port = getattr(error, "errno", None) in (errno.EADDRINUSE, errno.EACCES)
        hint = "Use --port 0 for any free port." if is_port else "Name an address of this machine: --host 127.0.0.1."
        raise UsageError(f"Cannot listen on {host}, port {port}: {why}.", hint=hint) from None


def _url(host: str, port: int) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/"


@contextlib.contextmanager
def _stop_signals() -> Iterator[queue.SimpleQueue[int]]:
    """Yield a queue that gets the signals that end a server, so that they interrupt no other code."""
    stops: queue.SimpleQueue[int] = queue.SimpleQueue()  # a handler may put, whatever its thread is doing
    previous = {number: signal.signal(number, lambda number, _frame: stops.put(number)) for number in STOP_SIGNALS}
    try:
        yield stops
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _wait(stops: queue.SimpleQueue[int]) -> int:
    """Return the first signal, or 0 that ends the wait."""
    while True:
        with contextlib.suppress(queue.Empty):
            return stops.get(timeout=MAX_WAIT_SECONDS)  # Windows calls handlers only between two waits
