"""Limit the connections and threads of `serve`, so that no client takes them from the others.

A connection is busy while one of its requests waits for a thread or has one. The others may be closed at any time: they
are half-open (the request is incomplete), idle, or still send a response. The oldest of them are closed first, so a new
client always gets in. See docs/decisions/0035-connections-of-the-page.md.
"""

from __future__ import annotations

import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher

REQUEST_SECONDS = 10.0
"""How long a request may take to arrive; the first one counts from the start of the connection."""

IDLE_SECONDS = 60.0
"""How long a connection may be idle between two requests, or accept nothing of a response."""

MAX_PER_PEER = 64
"""Connections per address that are not busy, at most."""

MAX_CONNECTIONS = 400

MAX_QUEUED = 64
"""Requests per lane that wait for a thread, at most."""

CHECK_SECONDS = 1.0
"""How often late connections are looked for."""

ACCEPTED_AT_ONCE = 64
"""Connections that are accepted before other events are handled, at most."""

BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class StrictRequestParser(HTTPRequestParser):
    """The parser of waitress, which also refuses bytes that two servers could read as different requests."""

    def parse_header(self, header_plus: bytes) -> None:
        """Read the header.

        Raises:
            ParsingError: if it has both Content-Length and Transfer-Encoding.
        """
        super().parse_header(header_plus)
        if "CONTENT_LENGTH" in self.headers and (self.chunked or "TRANSFER_ENCODING" in self.headers):
            raise ParsingError("Content-Length with Transfer-Encoding is refused")


class ClientChannel(HTTPChannel):
    """A connection, with the time since which the server waits for its client."""

    parser_class = StrictRequestParser

    def __init__(self, server: PageServer, *args: Any, **named: Any) -> None:
        self.since = time.monotonic()
        """When the connection was opened, its request began, or a part of a response was last sent."""
        self._is_new = True
        self._is_served = True
        super().__init__(server, *args, **named)

    @property
    def is_busy(self) -> bool:
        """Return True if one of its requests waits for a thread, or has one."""
        return bool(self.requests) or not self._is_served

    def is_late(self, now: float) -> bool:
        """Return True if the client has exceeded its time."""
        is_half_open = self._is_new or self.request is not None
        limit = REQUEST_SECONDS if is_half_open and not self.total_outbufs_len else IDLE_SECONDS
        return not self.is_busy and (self.will_close or now - self.since > limit)

    def received(self, data: bytes) -> bool:
        """Handle data from the client."""
        begins = self.request is None
        is_accepted = bool(super().received(data))
        if begins and self.request is not None and not self._is_new:
            self.since = time.monotonic()
        return is_accepted

    def expect_thread(self) -> None:
        """Note that a request waits for a thread; called before a thread may take it."""
        self._is_new = self._is_served = False

    def service(self) -> None:
        """Answer a request; called in a thread."""
        super().service()
        self.since = time.monotonic()
        with self.requests_lock:  # type: ignore[attr-defined]
            if not self.requests:
                self._is_served = True

    def refuse(self) -> None:
        """Answer that the server is busy, without using a thread."""
        self.requests = []
        self.write_soon(BUSY)
        self.close_when_flushed = True
        self._is_served = True

    def _flush_some(self, do_close: bool = True) -> bool:  # noqa: FBT001, FBT002 - as waitress calls it
        sent = bool(super()._flush_some(do_close=do_close))  # type: ignore[misc]
        if sent:
            self.since = time.monotonic()
        return sent


class PageServer(TcpWSGIServer):
    """The server of waitress, with lanes of threads, deadlines, and limits on connections."""

    channel_class = ClientChannel
    active_channels: dict[int, ClientChannel]  # type: ignore[assignment]

    def __init__(
        self,
        app: Any,
        listening: socket.socket,
        lanes: dict[str, int],
        lane_of: Callable[[str], str],
        *,
        behind_proxy: bool = False,
        **settings: Any,
    ) -> None:
        """Start the threads.

        Args:
            app: the WSGI application.
            listening: the socket.
            lanes: the number of threads per lane; requests of one lane never wait for those of another.
            lane_of: returns the lane of a request, by its path.
            behind_proxy: whether all clients come through one address, which then may have all connections.
            settings: the settings of waitress.
        """
        self._lanes = {name: ThreadedTaskDispatcher() for name in lanes}
        self._lane_of = lane_of
        self._behind_proxy = behind_proxy
        self._next_check = 0.0
        self._has_new = False
        for name, threads in lanes.items():
            self._lanes[name].set_thread_count(threads)
        sockinfo = (listening.family, listening.type, listening.proto, listening.getsockname())
        super().__init__(
            app,
            _sock=listening,
            dispatcher=next(iter(self._lanes.values())),
            adj=Adjustments(**settings),
            bind_socket=False,
            sockinfo=sockinfo,
        )

    def add_task(self, channel: ClientChannel) -> None:  # type: ignore[override]
        """Queue a request for the threads of its lane, or refuse it if too many wait."""
        lane = self._lanes[self._lane_of(getattr(channel.requests[0], "path", ""))]
        channel.expect_thread()
        if len(lane.queue) >= MAX_QUEUED:
            channel.refuse()
        else:
            lane.add_task(channel)  # type: ignore[arg-type]

    def handle_accept(self) -> None:
        """Accept waiting connections."""
        for _ in range(ACCEPTED_AT_ONCE):
            before = len(self.active_channels)
            super().handle_accept()
            if len(self.active_channels) == before:
                break
            self._has_new = True

    def readable(self) -> bool:
        """Close late and surplus connections; return True if there were none, so that new ones are accepted.

        After a close, new ones wait for the next round, which follows at once. In this round, poll() still reports the
        closed descriptor, and a connection that is accepted may get its number. It would be closed for it.
        """
        now = time.monotonic()
        before = len(self.active_channels)
        if now >= self._next_check:
            self._next_check = now + CHECK_SECONDS
            _close(channel for channel in self.active_channels.values() if channel.is_late(now))
        if self._has_new:
            self._has_new = False
            self._make_room()
        if len(self.active_channels) == before:
            return True
        self.pull_trigger()
        return False

    def end(self) -> None:
        """End threads and connections."""
        for lane in self._lanes.values():
            lane.set_thread_count(0)
        for lane in self._lanes.values():
            lane.shutdown()
        self.close()

    def _make_room(self) -> None:
        """Close the oldest connections that are not busy: of each address with too many, then of all."""
        by_peer: dict[str, list[ClientChannel]] = defaultdict(list)
        for channel in self.active_channels.values():
            if not channel.is_busy:
                by_peer[channel.addr[0]].append(channel)
        for channels in () if self._behind_proxy else by_peer.values():
            channels.sort(key=lambda channel: channel.since)
            _close(channels[:-MAX_PER_PEER])
        if (excess := len(self.active_channels) - MAX_CONNECTIONS) > 0:
            closable = [channel for channel in self.active_channels.values() if not channel.is_busy]
            _close(sorted(closable, key=lambda channel: channel.since)[:excess])


def _close(channels: Iterable[ClientChannel]) -> None:
    for channel in list(channels):
        channel.handle_close()
