"""What people would use instead of a cache, as processes of their own: `python -m bench.clients WHAT CONTAINER`.

The account comes from AZURE_STORAGE_CONNECTION_STRING.
Each prints how many records it has seen; `update` the seconds that its updates took, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

PREFIX = "jobs/"
THREADS = 16
UPDATES = 100
"""Updates of one record that are timed together."""


def timer() -> Callable[[], dict[str, float]]:
    """Start the clock; calling what comes back tells the seconds since then, by the clock and of the processor."""
    start, cpu_start = time.perf_counter(), time.process_time()
    return lambda: {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu_start}


def _container(name: str):
    import logging

    from azure.storage.blob import ContainerClient

    logging.disable(logging.WARNING)  # more threads than pooled connections: true, and no news
    return ContainerClient.from_connection_string(os.environ["AZURE_STORAGE_CONNECTION_STRING"], name)


def get_each(name: str, threads: int) -> int:
    """List the names and read each record by a GET, as the registry does that people have today."""
    with _container(name) as container, ThreadPoolExecutor(threads) as pool:
        names = [blob.name for blob in container.list_blobs(name_starts_with=PREFIX)]

        def size_of(blob: str) -> int:
            return len(container.download_blob(blob).readall())

        return sum(size > 0 for size in (pool.map(size_of, names) if threads > 1 else map(size_of, names)))


def listing(name: str, include: list[str]) -> int:
    """List the names and no more: what any mirror has to do at the least."""
    with _container(name) as container:
        return sum(1 for _ in container.list_blobs(name_starts_with=PREFIX, include=include))


def one_request(name: str) -> int:
    """Import the SDK, and ask once for nothing: what any sync by the SDK has to do at the least."""
    with _container(name) as container:
        return sum(1 for _ in container.list_blob_names(name_starts_with="nothing/"))


def update(name: str) -> str:
    """Read one record and write it back on the condition that no other writer has, over and over."""
    from azure.core import MatchConditions

    with _container(name) as container:
        path = next(iter(container.list_blob_names(name_starts_with=PREFIX)))
        stop = timer()
        for _ in range(UPDATES):
            reply = container.download_blob(path)
            value, etag = reply.readall(), reply.properties.etag
            container.upload_blob(path, value, overwrite=True, etag=etag, match_condition=MatchConditions.IfNotModified)
        return json.dumps(stop())


CLIENTS = {
    "get-1": lambda name: get_each(name, 1),
    "get-16": lambda name: get_each(name, THREADS),
    "list": lambda name: listing(name, []),
    "list-metadata": lambda name: listing(name, ["metadata"]),
    "one-request": one_request,
    "update": update,
}


def main() -> None:
    what, name = sys.argv[1:]
    print(CLIENTS[what](name))


if __name__ == "__main__":
    main()
