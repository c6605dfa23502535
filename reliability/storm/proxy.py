"""A bad line to an HTTP server on this machine: a proxy that by a seeded plan does to requests what networks do.

It understands HTTP just so far that it can tell where a message ends. So a reply can be lost after the write has
landed, or be cut in the middle. Its refusals look like those of Azure, DynamoDB and S3.
`python -m reliability.storm.proxy PORT SERVICE` says on which port it listens. It takes a `Plan` as JSON in each line
of its standard input, and answers with what it has done so far. It ends with that input.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from bench import proxy as line

FAULTS = {
    "delay": "the reply comes up to a second late",
    "throttle": "the reply comes in pieces of a few bytes",
    "cut": "the connection breaks in mid-reply",
    "lost": "the connection breaks when the server has done what was asked, without a reply",
    "late": "the connection breaks, and the server gets the request up to half a second afterwards",
    "busy": "503, in the service's own form",
    "gateway": "503, with a page of HTML; every other time the server has done what was asked",
    "throttled": "Azure's 429, with Retry-After; DynamoDB's 400, by either of its names for that; S3's 503",
    "internal": "500, in the service's own form; every other time the server has done what was asked",
    "half_page": "a listing, with DynamoDB also an item, of which half has come, and which says that this was all",
    "stall": "silence for ever: before the server has the request, after it, or in mid-reply",
}
"""What can go wrong with a request."""

MAX_DELAY = 1.0
"""Seconds by which a reply may be late."""

MAX_LATE = 0.5
"""Seconds after the end of its connection at which the server may get a request."""

MAX_THROTTLED = 4.0
"""Seconds that a throttled reply takes in all, whatever its size."""

RETRY_AFTER = 1
"""Seconds that a 429 asks for."""

POISONS = {
    "forbidden": (403, "AuthorizationFailure"),
    "not_found": (404, "ResourceNotFound"),
    "conflict": (409, "BlobUsesCustomerSpecifiedEncryption"),
    "gone": (410, "Gone"),
    "precondition": (412, "ConditionNotMet"),
    "internal": (500, "InternalError"),
    "no_etag": (200, ""),
}
"""What Azure answers for ever to a read of one key: status and code."""

THROTTLED_CODES = ("ProvisionedThroughputExceededException", "ThrottlingException")
"""What DynamoDB says instead of 429: the limit of a table or partition, and that of an account."""

_PIECES = 20
_JSON = '{{"__type":"com.amazonaws.dynamodb.v20120810#{code}","message":"As asked."}}'
_S3_XML = "<Error><Code>{code}</Code><Message>As asked.</Message></Error>"
_AZURE_XML = '<?xml version="1.0" encoding="utf-8"?>' + _S3_XML
_CHECKSUM = b"x-amz-crc32"
_AMZ = "application/x-amz-json-1.0"
_HTML = "<html><body><h1>503 Service Unavailable</h1></body></html>"


class Plan(NamedTuple):
    """The faults from now on."""

    rate: float
    """The part of the requests to which something happens: 0 to 1."""
    kinds: tuple[str, ...] = tuple(FAULTS)
    """What may happen, each as often as the others."""
    seed: int = 1
    """Where the proxy's chance comes from. Which request comes when is up to the clients."""
    poisons: Mapping[str, str] = MappingProxyType({})
    """Kind of poison of each key."""
    serial_seconds: float = 0.0
    """The server takes one request at a time, and so long for it; 0 for as many as there are."""
    stall_at: int = 0
    """Number of the request at which all stop for `stall_seconds`; 0 for none."""
    stall_seconds: float = 0.0


class Proxy(line.ControlledProxy):
    """A proxy that runs: see `faulty`."""

    def follow(self, plan: Plan) -> Counter[str]:
        """Follow that plan from now on. Returns what has happened so far: requests, and faults by kind.

        When it returns, no request of before is on its way any more, apart from those at which the server works.
        """
        return Counter(self.send(plan._asdict()))

    def calm(self) -> Counter[str]:
        """Let everything pass from now on, and return as `follow`."""
        return self.follow(Plan(0.0))


@contextlib.contextmanager
def faulty(port: int, plan: Plan, service: str = "azure") -> Iterator[Proxy]:
    """Yield a proxy to that port of this machine, where that service answers, while the block runs.

    Raises:
        RuntimeError: if it does not start.
    """
    with line.started("reliability.storm.proxy", str(port), service) as (process, listening):
        proxy = Proxy(process, listening)
        proxy.follow(plan)
        yield proxy


class _Exchange(NamedTuple):
    """One request on its way. The method of each fault returns whether the connection goes on."""

    request: bytes
    ask: Callable[[], Awaitable[bytes]]
    """Have the server do it, and read its whole reply."""
    client: asyncio.StreamWriter
    gone: Callable[[], Awaitable[bytes]]
    """Wait until the client hangs up."""
    random: random.Random
    service: str

    @property
    def is_halved(self) -> bool:
        """Return True if half of the reply could be taken for a whole one."""
        if self.service == "azure":
            return b"comp=list" in self.request.partition(b"\r\n")[0]
        if self.service == "s3":
            return b"list-type=2" in self.request.partition(b"\r\n")[0]
        return any(target in self.request for target in (b"DynamoDB_20120810.Query", b"DynamoDB_20120810.GetItem"))

    async def give(self, reply: bytes) -> bool:
        self.client.write(reply)
        await self.client.drain()
        return True

    async def refuse(self, status: str, code: str) -> bool:
        """Give a refusal as the service words it."""
        if self.service == "azure":
            return await self.give(line.reply(status, _AZURE_XML.format(code=code), f"x-ms-error-code: {code}"))
        if self.service == "s3":
            return await self.give(line.reply(status, _S3_XML.format(code=code)))
        body = _JSON.format(code=code)
        checksum = f"{_CHECKSUM.decode()}: {zlib.crc32(body.encode())}"
        return await self.give(line.reply(status, body, checksum, media_type=_AMZ))

    def hang_up(self) -> None:
        """End the connection: as if it was unplugged, or, as often, in good order."""
        if self.random.random() < 0.5:
            self.client.transport.abort()
        else:
            self.client.close()

    async def ask_or_not(self) -> None:
        """Have the server do it every other time."""
        if self.random.random() < 0.5:
            await self.ask()

    async def delay(self) -> bool:
        reply = await self.ask()
        await asyncio.sleep(self.random.random() * MAX_DELAY)
        return await self.give(reply)

    async def throttle(self) -> bool:
        reply = await self.ask()
        pause = self.random.random() * MAX_THROTTLED / _PIECES
        size = len(reply) // _PIECES + 1
        for start in range(0, len(reply), size):
            await self.give(reply[start : start + size])
            await asyncio.sleep(pause)
        return True

    async def cut(self) -> bool:
        reply = await self.ask()
        await self.give(reply[: self.random.randrange(1, len(reply))])
        self.client.close()  # in good order: a reset would take back what has been sent, and be as `lost`
        return False

    async def lost(self) -> bool:
        await self.ask()
        self.hang_up()
        return False

    async def busy(self) -> bool:
        return await self.refuse("503 Busy", "ServerBusy" if self.service == "azure" else "ServiceUnavailable")

    async def gateway(self) -> bool:
        await self.ask_or_not()
        return await self.give(line.reply("503 Service Unavailable", _HTML, media_type="text/html"))

    async def throttled(self) -> bool:
        if self.service == "azure":
            return await self.give(line.reply("429 Too Many Requests", "", f"Retry-After: {RETRY_AFTER}"))
        if self.service == "s3":
            return await self.refuse("503 Slow Down", "SlowDown")
        return await self.refuse("400 Bad Request", self.random.choice(THROTTLED_CODES))

    async def internal(self) -> bool:
        await self.ask_or_not()
        code = "InternalServerError" if self.service == "dynamodb" else "InternalError"
        return await self.refuse("500 Internal Server Error", code)

    async def half_page(self) -> bool:
        reply = await self.ask()
        if self.service != "dynamodb":
            _, mark, rest = reply.partition(b"<?xml")  # what is before it may be the length of a chunk
            return await self.give(line.reply("200 OK", (mark + rest[: len(rest) // 2]).decode("utf-8", "ignore")))
        head, _, body = reply.partition(b"\r\n\r\n")
        checksums = [one.decode() for one in head.split(b"\r\n") if one.lower().startswith(_CHECKSUM)]
        # A proxy that shortens a reply may leave the checksum of the whole, or not know it.
        headers = checksums if self.random.random() < 0.5 else []
        half = body[: len(body) // 2].decode("utf-8", "ignore")
        return await self.give(line.reply("200 OK", half, *headers, media_type=_AMZ))

    async def stall(self) -> bool:
        where = self.random.randrange(3)
        reply = b"" if where == 0 else await self.ask()
        await self.give(reply[: len(reply) // 2] if where == 2 else b"")
        await self.gone()
        return False

    async def poison(self, kind: str) -> bool:
        """Answer a read as `POISONS` says."""
        status, code = POISONS[kind]
        if code:
            return await self.refuse(f"{status} Refused", code)
        head, _, body = (await self.ask()).partition(b"\r\n\r\n")
        lines = [one for one in head.split(b"\r\n") if not one.lower().startswith(b"etag:")]
        return await self.give(b"\r\n".join(lines) + b"\r\n\r\n" + body)


class _Faults:
    """The proxy, inside its process."""

    def __init__(self, port: int, service: str) -> None:
        self._port = port
        self._service = service
        self._plan = Plan(0.0)
        self._random = random.Random()
        self._late: set[asyncio.Task[None]] = set()
        self._serving: set[asyncio.Task[Any] | None] = set()
        """Kept here, since asyncio drops a task whose client has gone, and with it what the server is asked for."""
        self._one_at_a_time = asyncio.Lock()
        self._stalled_until = 0.0
        self.counts: Counter[str] = Counter()

    async def follow(self, plan: Plan) -> None:
        self._plan, self._random = plan, random.Random(plan.seed)
        await asyncio.gather(*self._late)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._serving.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            goes_on = True
            while goes_on:
                goes_on = await self._exchange(await line.read_message(reader), reader, writer)
        writer.close()
        self._serving.discard(task)

    async def _exchange(self, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request, well or badly. Returns whether the connection goes on."""
        self.counts["requests"] += 1
        plan, now = self._plan, asyncio.get_running_loop().time
        if self.counts["requests"] == plan.stall_at:
            self._stalled_until = now() + plan.stall_seconds
        await asyncio.sleep(self._stalled_until - now())
        chance = random.Random(self._random.random())
        exchange = _Exchange(request, lambda: self._ask(request), writer, reader.read, chance, self._service)
        if (poison := self._poison(request)) is not None:
            return await exchange.poison(poison)
        kind = chance.choice(plan.kinds) if chance.random() < plan.rate else None
        if kind is None or (kind == "half_page" and not exchange.is_halved):
            return await exchange.give(await exchange.ask())
        self.counts[kind] += 1
        if kind == "late":
            exchange.hang_up()
            task = asyncio.create_task(self._ask_late(request, chance.random() * MAX_LATE))
            self._late.add(task)
            task.add_done_callback(self._late.discard)
            return False
        return bool(await getattr(exchange, kind)())

    def _poison(self, request: bytes) -> str | None:
        method, target, _ = request.partition(b"\r\n")[0].decode().split(" ")
        path = target.partition("?")[0]
        keys = self._plan.poisons if method == "GET" and "comp=list" not in target else {}
        return next((kind for key, kind in keys.items() if path.endswith(f"/{key}")), None)

    async def _ask(self, request: bytes) -> bytes:
        if self._plan.serial_seconds:
            async with self._one_at_a_time:
                await asyncio.sleep(self._plan.serial_seconds)
        # By a connection of its own: one that is kept may have been closed by the server meanwhile, a fault unplanned.
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(request)
            reply = b"HTTP/1.1 100"
            while reply.startswith(b"HTTP/1.1 100"):  # a consent to send the value, which it has
                reply = await line.read_message(reader, has_body=not request.startswith(b"HEAD "))
            return reply
        finally:
            writer.close()

    async def _ask_late(self, request: bytes, seconds: float) -> None:
        await asyncio.sleep(seconds)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self._ask(request)


async def _serve(port: int, service: str) -> None:
    faults = _Faults(port, service)

    async def obey() -> None:
        while text := await asyncio.to_thread(sys.stdin.readline):
            await faults.follow(Plan(**json.loads(text)))
            print(json.dumps(faults.counts), flush=True)

    await line.serve(faults.connected, obey())


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), sys.argv[2]))
