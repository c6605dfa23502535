"""What people would use instead, as processes of their own: `python -m bench.peers WHAT CONTAINER`.

The account comes from AZURE_STORAGE_CONNECTION_STRING.
Each prints how many records it has seen.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor

PREFIX = "jobs/"
THREADS = 16


def _container(name: str):
    import logging

    from azure.storage.blob import ContainerClient

    logging.disable(logging.WARNING)  # more threads than pooled connections: true, and no news
    return ContainerClient.from_connection_string(os.environ["AZURE_STORAGE_CONNECTION_STRING"], name)


def get_each(name: str) -> int:
    """List the names and read each record by a GET, as the registry does that people have today, but at once."""
    with _container(name) as container:
        names = [blob.name for blob in container.list_blobs(name_starts_with=PREFIX)]

        def size_of(blob: str) -> int:
            return len(container.download_blob(blob).readall())

        with ThreadPoolExecutor(THREADS) as pool:
            return sum(size > 0 for size in pool.map(size_of, names))


def listing(name: str) -> int:
    """List the names and no more: what any mirror has to do at the least."""
    with _container(name) as container:
        return sum(1 for _ in container.list_blobs(name_starts_with=PREFIX))


def one_request(name: str) -> int:
    """Import the SDK, and ask once for nothing: what any sync by the SDK has to do at the least."""
    with _container(name) as container:
        return sum(1 for _ in container.list_blob_names(name_starts_with="nothing/"))


PEERS = {"get-16": get_each, "list": listing, "one-request": one_request}


def main() -> None:
    what, name = sys.argv[1:]
    print(PEERS[what](name))


if __name__ == "__main__":
    main()
