"""A slow network: a TCP proxy on this machine through which each reply takes a while longer, or that has a bandwidth.

A delay holds back what comes back and leaves the bandwidth alone: bytes wait for their time, not for each other. A
bandwidth holds in each direction for all connections together, as on the line of an office.
`python -m bench.proxy PORT SECONDS [BITS_PER_SECOND]` says on which port it listens, and ends with its standard input.

How such a proxy is started, controlled and serves is here for reliability/storm/proxy.py too, which does to single
requests what networks do.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from bench.machine import ROOT

_PIECE_BYTES = 2**18

_MAX_LINE_PIECE_BYTES = 2**14
_PACKET_BYTES = 1460
_LINE_PIECE_SECONDS = 0.05
"""How long a line carries one piece, if that is between a packet and the largest piece: a thin line is never silent."""

_LINE_BUFFER_BYTES = 2**16
"""What a line takes before it has carried it. The system would give a connection of this machine megabytes."""

Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class ControlledProxy:
    """A proxy that takes settings while it runs: one JSON document per line, each with one as the answer."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.port = port
        self._process = process

    def send(self, settings: object) -> Any:
        """Change the settings. Return the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(settings, default=dict) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@contextlib.contextmanager
def delayed(port: int, seconds: float) -> Iterator[int]:
    """Yield the port of a proxy to a port of this machine, while the block runs.

    Raises:
        RuntimeError: if it does not start.
    """
    with started("bench.proxy", str(port), str(seconds)) as (_, listening):
        yield listening


@contextlib.contextmanager
def limited(port: int, bits_per_second: float) -> Iterator[int]:
    """Yield the port of a proxy that carries so much in each direction, while the block runs.

    Raises:
        RuntimeError: if it does not start.
    """
    with started("bench.proxy", str(port), "0", str(bits_per_second)) as (_, listening):
        yield listening


@contextlib.contextmanager
def started(module: str, *argv: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Yield a proxy as a process of its own, and the port that it says it listens on, while the block runs.

    Raises:
        RuntimeError: if it does not start.
    """
    words = [sys.executable, "-m", module, *argv]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError("The proxy did not start.")
            yield process, int(line)
        finally:
            process.kill()


async def serve(connected: Connected, until: Awaitable[object], buffer_bytes: int = 0) -> None:
    """Serve connections to a free port of this machine, which is printed, until that has happened.

    Args:
        connected: serves one.
        until: what ends it.
        buffer_bytes: what the system may take from a client before it is read; 0 for what the system likes.
    """
    listening = socket.create_server(("127.0.0.1", 0))
    if buffer_bytes:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)  # its connections inherit it
    server = await asyncio.start_server(connected, sock=listening)
    print(server.sockets[0].getsockname()[1], flush=True)
    await until
    server.close()


async def read_message(reader: asyncio.StreamReader, *, has_body: bool = True) -> bytes:
    """Return one whole message as it came. Its length is told by Content-Length or its chunks (RFC 9112, section 6)."""
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(one.lower().split(b":", 1) for one in head.split(b"\r\n")[1:-2])
    if not has_body:
        return head
    if b"chunked" not in fields.get(b"transfer-encoding", b""):
        return head + await reader.readexactly(int(fields.get(b"content-length", b"0")))
    pieces = [head]
    size = 1
    while size:
        pieces.append(await reader.readuntil(b"\r\n"))
        size = int(pieces[-1], 16)
        pieces.append(await reader.readexactly(size + 2))
    return b"".join(pieces)


def reply(status: str, body: str, *headers: str, media_type: str = "application/xml") -> bytes:
    """Return a whole reply."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {media_type}", f"Content-Length: {len(body.encode())}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


async def _serve(port: int, seconds: float, bits_per_second: float = 0.0) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        above_reader, above_writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError):
            if bits_per_second:
                await asyncio.gather(up.carry(reader, above_writer), down.carry(above_reader, writer))
            else:
                await asyncio.gather(_pass(reader, above_writer, 0), _pass(above_reader, writer, seconds))

    up, down = _Line(bits_per_second), _Line(bits_per_second)
    await serve(connected, asyncio.to_thread(sys.stdin.read), _LINE_BUFFER_BYTES if bits_per_second else 0)


class _Line:
    """One direction of a line, which carries one piece after the other."""

    def __init__(self, bits_per_second: float) -> None:
        self._bits_per_second = bits_per_second
        piece_bytes = int(bits_per_second * _LINE_PIECE_SECONDS / 8)
        self._piece_bytes = min(max(piece_bytes, _PACKET_BYTES), _MAX_LINE_PIECE_BYTES)
        self._free_at = 0.0

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what is read, and then the end."""
        loop = asyncio.get_running_loop()
        while piece := await reader.read(self._piece_bytes):
            self._free_at = max(self._free_at, loop.time()) + len(piece) * 8 / self._bits_per_second
            await asyncio.sleep(self._free_at - loop.time())
            writer.write(piece)
            await writer.drain()
        writer.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    """Pass on what is read, each piece that long after it came, and then the end."""
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def take() -> None:
        piece = b"-"
        while piece:
            piece = await reader.read(_PIECE_BYTES)
            waiting.put_nowait((loop.time() + seconds, piece))

    async def give() -> None:
        while True:
            due, piece = await waiting.get()
            await asyncio.sleep(due - loop.time())
            if not piece:
                break
            writer.write(piece)
            await writer.drain()
        writer.close()

    await asyncio.gather(take(), give())


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), *map(float, sys.argv[2:])))
