"""A slow network: a TCP proxy on this machine through which each reply takes a while longer.

It delays what comes back and leaves the bandwidth alone: bytes wait in line for their time, not for each other.
`python -m bench.proxy PORT SECONDS` says on which port it listens, and ends with its standard input.

How such a proxy is started and serves is here for others too: reliability/storm/proxy.py is one that breaks things.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator

from bench.machine import ROOT

_PIECE_BYTES = 2**18

Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.contextmanager
def delayed(port: int, seconds: float) -> Iterator[int]:
    """The port of a proxy to a port of this machine, while the block runs.

    Raises:
        RuntimeError: it does not start.
    """
    with started("bench.proxy", str(port), str(seconds)) as (_, listening):
        yield listening


@contextlib.contextmanager
def started(module: str, *argv: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A proxy as a process of its own, and the port that it says it listens on, while the block runs.

    Raises:
        RuntimeError: it does not start.
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


async def serve(connected: Connected, until: Awaitable[object]) -> None:
    """Serve connections to a free port of this machine, which is printed, until that has happened."""
    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await until
    server.close()


async def _serve(port: int, seconds: float) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        above_reader, above_writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(_pass(reader, above_writer, 0), _pass(above_reader, writer, seconds))

    await serve(connected, asyncio.to_thread(sys.stdin.read))


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
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2])))
