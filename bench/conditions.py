"""A bad server, or a bad way to it: a proxy to Azurite that refuses, delays, breaks and stalls requests.

It understands HTTP as far as needed to tell requests apart. `python -m bench.conditions PORT` prints the port that it
listens on. It takes `Conditions` as JSON in each line of its standard input, prints the `Traffic` so far, and ends with
that input.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from bench import proxy

POISONS = {
    "forbidden": (403, "AuthorizationFailure"),
    "not_found": (404, "ResourceNotFound"),
    "conflict": (409, "BlobUsesCustomerSpecifiedEncryption"),
    "gone": (410, "Gone"),
    "precondition": (412, "ConditionNotMet"),
    "internal": (500, "InternalError"),
    "no_etag": (200, ""),
}
"""What the server answers for ever to a read of one key: status and code."""


class Conditions(NamedTuple):
    """The faults of the proxy."""

    poisons: Mapping[str, str] = MappingProxyType({})
    """Kind of poison of each key."""
    busy: float = 0.0
    """Share of requests that are answered with 503 ServerBusy."""
    burst_seconds: float = 0.0
    """How long all requests are answered in that way, in each ten such times; 0 for no bursts."""
    retry_after: int = 0
    """Seconds that a 503 asks clients to wait."""
    serial_seconds: float = 0.0
    """The server takes one request at a time, and so long for it; 0 for as many as there are."""
    resets: float = 0.0
    """Share of requests at which the connection is reset."""
    stall_at: int = 0
    """Number of the request at which all stop for `stall_seconds`; 0 for none."""
    stall_seconds: float = 0.0
    away_at: int = 0
    """Number of the request from which on each connection is reset; 0 for none."""
    seed: int = 1


class Traffic(NamedTuple):
    """Requests and bytes that passed the proxy."""

    requests: int
    request_bytes: int
    reply_bytes: int


class BadServer(proxy.ControlledProxy):
    """A proxy that runs: see `imposed`."""

    def impose(self, conditions: Conditions) -> int:
        """Change the conditions. Return the number of requests so far."""
        return self.change(conditions).requests

    def change(self, conditions: Conditions) -> Traffic:
        """Change the conditions. Return the traffic so far."""
        return Traffic(*self.send(conditions._asdict()))


@contextlib.contextmanager
def imposed(port: int, conditions: Conditions) -> Iterator[BadServer]:
    """Yield such a proxy to a port of this machine, while the block runs.

    Raises:
        RuntimeError: if it does not start.
    """
    with proxy.started("bench.conditions", str(port)) as (process, listening):
        server = BadServer(process, listening)
        server.impose(conditions)
        yield server


class _Server:
    def __init__(self, port: int) -> None:
        self._port = port
        self._conditions = Conditions()
        self._random = random.Random()
        self._one_at_a_time = asyncio.Lock()
        self._requests = 0
        self._request_bytes = 0
        self._reply_bytes = 0
        self._stalled_until = 0.0

    async def obey(self) -> None:
        """Take conditions from the standard input, until it ends."""
        while line := await asyncio.to_thread(sys.stdin.readline):
            self._conditions = Conditions(**json.loads(line))
            self._random.seed(self._conditions.seed)
            print(json.dumps(Traffic(self._requests, self._request_bytes, self._reply_bytes)), flush=True)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            above = await asyncio.open_connection("127.0.0.1", self._port)
            while await self._exchange(await proxy.read_message(reader), above, writer):
                await writer.drain()
        writer.transport.abort()

    async def _exchange(
        self, request: bytes, above: tuple[asyncio.StreamReader, asyncio.StreamWriter], writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request. Return whether the connection goes on."""
        conditions, loop = self._conditions, asyncio.get_running_loop()
        self._requests += 1
        self._request_bytes += len(request)
        if self._requests == conditions.stall_at:
            self._stalled_until = loop.time() + conditions.stall_seconds
        await asyncio.sleep(self._stalled_until - loop.time())
        is_away = 0 < conditions.away_at <= self._requests
        if is_away or self._random.random() < conditions.resets:
            return False
        is_burst = conditions.burst_seconds and loop.time() // conditions.burst_seconds % 10 == 1
        if is_burst or self._random.random() < conditions.busy:
            after = [f"Retry-After: {conditions.retry_after}"] if conditions.retry_after else []
            writer.write(proxy.azure_refusal("503 Refused", "ServerBusy", *after))
            return True
        if conditions.serial_seconds:
            async with self._one_at_a_time:
                await asyncio.sleep(conditions.serial_seconds)
        kind = self._poison(request)
        if kind is not None and kind != "no_etag":
            status, code = POISONS[kind]
            writer.write(proxy.azure_refusal(f"{status} Refused", code))
            return True
        above[1].write(request)
        reply = await proxy.read_message(above[0], has_body=not request.startswith(b"HEAD "))
        if kind is not None:
            head, _, body = reply.partition(b"\r\n\r\n")
            lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"etag:")]
            reply = b"\r\n".join(lines) + b"\r\n\r\n" + body
        self._reply_bytes += len(reply)
        writer.write(reply)
        return True

    def _poison(self, request: bytes) -> str | None:
        method, target, _ = request.partition(b"\r\n")[0].decode().split(" ")
        path = target.partition("?")[0]
        is_read = method == "GET" and "comp=list" not in target
        keys = self._conditions.poisons if is_read else {}
        return next((kind for key, kind in keys.items() if path.endswith(f"/{key}")), None)


async def _serve(port: int) -> None:
    server = _Server(port)
    await proxy.serve(server.connected, server.obey())


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
