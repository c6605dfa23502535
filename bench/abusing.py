"""The memory that `serve` takes while five clients at once ask for 200 records of 1 MB."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from pathlib import Path

from bench import registry_data
from bench.listing import REGISTRY
from bench.machine import Setup
from bench.measure import progress
from bench.report import Line, at_most
from bench.serving import Server, serving

LARGE_JOBS, LARGE_BYTES, CLIENTS = 200, 1_000_000, 5


def run(setup: Setup) -> list[Line]:
    """Measure."""
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
    return [
        Line(
            f"serve: {CLIENTS} clients ask for {LARGE_JOBS} records of 1 MB: memory",
            f"{peak:.0f} MB",
            "",
            None,
            goal=at_most(300.0, peak, " MB"),
        ),
    ]


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
