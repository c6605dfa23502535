"""`serve` under abuse: how long `/healthz` takes meanwhile, and the memory that large answers take.

Some 2,900 half-open connections send a byte each 7 seconds and are opened again when they are closed.
Then five clients at once ask for 200 records of 1 MB.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import resource
import selectors
import socket
import sqlite3
import statistics
import threading
import time
from pathlib import Path

from bench import registry_data
from bench.listing import REGISTRY
from bench.machine import Setup
from bench.measure import progress
from bench.report import Line, at_most
from bench.serving import Server, serving

HALF_OPEN = 2900
OPENED_PER_SECOND = 500
BYTE_SECONDS = 7.0
ABUSED_SECONDS = 45.0
PROBE_SECONDS = 0.1

LARGE_JOBS, LARGE_BYTES, CLIENTS = 200, 1_000_000, 5


def run(setup: Setup) -> list[Line]:
    """Measure."""
    cache = setup.directory / "abusing.db"
    registry_data.fill_cache(cache, REGISTRY, setup.jobs)
    with serving(setup, str(cache)) as server:
        progress(f"{HALF_OPEN:,} half-open connections for {ABUSED_SECONDS:.0f} s")
        seconds = _abused(server)
    large = setup.directory / "large.db"
    registry_data.fill_cache(large, REGISTRY, LARGE_JOBS)
    _enlarge(large)
    with serving(setup, str(large)) as server:
        progress(f"{CLIENTS} clients ask for {LARGE_JOBS} records of 1 MB")
        clients = [threading.Thread(target=_read_all, args=(server,)) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        peak = server.peak_mb
    median, worst = statistics.median(seconds) * 1000, max(seconds) * 1000
    what = f"serve: /healthz under {HALF_OPEN:,} half-open connections"
    return [
        Line(f"{what}: median", f"{median:.1f} ms", f"worst {worst:.0f} ms", None, goal=at_most(50.0, median, " ms")),
        Line(
            f"serve: {CLIENTS} clients ask for {LARGE_JOBS} records of 1 MB: memory",
            f"{peak:.0f} MB",
            "",
            None,
            goal=at_most(300.0, peak, " MB"),
        ),
    ]


def _abused(server: Server) -> list[float]:
    """Return seconds of each look at `/healthz`, each over a new connection."""
    abuse = multiprocessing.get_context("spawn").Process(target=_hold_open, args=(server.port,), daemon=True)
    abuse.start()
    seconds = []
    end = time.monotonic() + ABUSED_SECONDS
    while time.monotonic() < end:
        begun = time.perf_counter()
        try:
            with contextlib.closing(server.connect()) as line:
                line.request("GET", "/healthz")
                line.getresponse().read()
        except OSError as error:
            progress(f"/healthz: {error}")
        seconds.append(time.perf_counter() - begun)
        time.sleep(PROBE_SECONDS)
    abuse.kill()
    abuse.join()
    return seconds


def _hold_open(port: int) -> None:
    """Keep connections open on which a request never ends."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    selector = selectors.DefaultSelector()
    next_byte = time.monotonic() + BYTE_SECONDS
    while True:
        for _ in range(min(OPENED_PER_SECOND // 10, HALF_OPEN - len(selector.get_map()))):
            line = socket.socket()
            line.setblocking(False)
            line.connect_ex(("127.0.0.1", port))
            selector.register(line, selectors.EVENT_READ)
        for key, _ in selector.select(0):  # an end, or an error
            selector.unregister(key.fileobj)
            key.fileobj.close()  # type: ignore[union-attr]
        if time.monotonic() >= next_byte:
            next_byte += BYTE_SECONDS
            for key in list(selector.get_map().values()):
                with contextlib.suppress(OSError):
                    key.fileobj.send(b"G")  # type: ignore[union-attr]
        time.sleep(0.1)


def _enlarge(cache: Path) -> None:
    filler = json.dumps("x" * LARGE_BYTES)
    with contextlib.closing(sqlite3.connect(cache, isolation_level=None)) as connection:
        connection.execute("UPDATE job SET record = substr(record, 1, length(record) - 1) || ?", (f',"f":{filler}}}',))


def _read_all(server: Server) -> None:
    with contextlib.closing(server.connect()) as line:
        line.request("GET", "/api/v1/jobs?limit=1000")
        response = line.getresponse()
        while response.read(1 << 16):
            pass
