"""Firefox for Playwright, which starts this program in its place: `python firefox.py FIREFOX FLAG...`.

Playwright speaks WebDriver BiDi with a Firefox that has no patches. It sets the colour scheme of each tab, by a command
that Debian's Firefox does not know yet. So the messages go through this program, which replaces that command by one
without an effect.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys

UNKNOWN = b'"emulation.setMediaFeaturesOverride"'

MASK = b"mops"
"""With what the bytes of messages to Firefox are changed, as RFC 6455 demands of a client; it refuses zeros."""


def _masked(body: bytes, mask: bytes) -> bytes:
    return bytes(byte ^ mask[place % 4] for place, byte in enumerate(body))


async def _read_frame(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Return the first byte of a frame of a client, and what is in it."""
    first, size = await reader.readexactly(1), (await reader.readexactly(1))[0] & 0x7F
    if size > 125:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
    mask = await reader.readexactly(4)
    return first, _masked(await reader.readexactly(size), mask)


def _frame(first: bytes, body: bytes) -> bytes:
    size = len(body)
    if size < 126:
        head = bytes([0x80 | size])
    else:
        head = b"\xfe" + size.to_bytes(2, "big") if size < 65536 else b"\xff" + size.to_bytes(8, "big")
    return first + head + MASK + _masked(body, MASK)


def _known(body: bytes) -> bytes:
    """Return a message, or one without an effect in the place of the command that Firefox does not know."""
    if UNKNOWN not in body:
        return body
    return json.dumps({"id": json.loads(body)["id"], "method": "session.status", "params": {}}).encode()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    """Pass on the messages of one connection, of which Firefox's own are left as they are."""
    answers, commands = await asyncio.open_connection("127.0.0.1", port)
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    head = re.sub(r"(?im)^sec-websocket-extensions:.*\r\n", "", head)  # without compression
    commands.write(re.sub(r"(?im)^host:.*\r\n", f"Host: 127.0.0.1:{port}\r\n", head).encode())
    back = asyncio.create_task(_copy(answers, writer))
    try:
        while True:
            first, body = await _read_frame(reader)
            commands.write(_frame(first, _known(body)))
            await commands.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        commands.close()
    await back


async def main() -> int:
    """Start Firefox, and name a port of this program as the one at which it listens."""
    process = await asyncio.create_subprocess_exec(*sys.argv[1:], stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    async for line in process.stderr:
        shown = line
        if match := re.match(rb"(WebDriver BiDi listening on ws://127\.0\.0\.1:)(\d+)", line):
            port = int(match[2])
            server = await asyncio.start_server(lambda *ends, to=port: _relay(*ends, to), "127.0.0.1", 0)
            shown = match[1] + str(server.sockets[0].getsockname()[1]).encode() + b"\n"
        sys.stderr.buffer.write(shown)
        sys.stderr.flush()
    return await process.wait()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
