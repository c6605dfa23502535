"""What people would use instead, as processes of their own: `python -m bench.peers WHAT CONTAINER`.

The account comes from AZURE_STORAGE_CONNECTION_STRING. Each prints how many records it has seen.
"""

from __future__ import annotations

import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor

from azure.storage.blob import ContainerClient

logging.disable(logging.WARNING)  # more threads than pooled connections: true, and no news


def get_each(container: ContainerClient, threads: int) -> int:
    """List the names and read each record by a GET, as the registry does that people have today."""
    names = [blob.name for blob in container.list_blobs(name_starts_with="jobs/")]

    def size_of(name: str) -> int:
        return len(container.download_blob(name).readall())

    if threads == 1:
        return sum(size_of(name) > 0 for name in names)
    with ThreadPoolExecutor(threads) as pool:
        return sum(size > 0 for size in pool.map(size_of, names))


def listing(container: ContainerClient, include: list[str]) -> int:
    """List the names and no more: what any mirror has to do at the least."""
    return sum(1 for _ in container.list_blobs(name_starts_with="jobs/", include=include))


PEERS = {
    "get-1": lambda container: get_each(container, 1),
    "get-16": lambda container: get_each(container, 16),
    "list": lambda container: listing(container, []),
    "list-metadata": lambda container: listing(container, ["metadata"]),
}


def main() -> None:
    what, name = sys.argv[1:]
    with ContainerClient.from_connection_string(os.environ["AZURE_STORAGE_CONNECTION_STRING"], name) as container:
        print(PEERS[what](container))


if __name__ == "__main__":
    main()
