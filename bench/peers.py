"""What people would use instead, as processes of their own: `python -m bench.peers WHAT CONTAINER`.

The account comes from AZURE_STORAGE_CONNECTION_STRING; the `plain` ones take a container's URL with a token instead.
Each prints how many records it has seen; `update` the seconds that its updates took.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from urllib3 import PoolManager

PREFIX = "jobs/"
THREADS = 16
PLAIN_READERS = {"plain-8": 8, "plain-32": 32}
"""Readers by plain HTTP: GETs at once."""

PLAIN_LISTERS = ("plain-list",)
"""Readers of values that the listing has, by plain HTTP."""

OK = 200
UPDATES = 100
"""Updates of one record that are timed together."""


def timer() -> Callable[[], str]:
    """Start the clock; calling what comes back tells the seconds since then, by the clock and of the processor."""
    start, cpu_start = time.perf_counter(), time.process_time()
    return lambda: f"{time.perf_counter() - start} {time.process_time() - cpu_start}"


def _container(name: str):
    import logging

    from azure.storage.blob import ContainerClient

    logging.disable(logging.WARNING)  # more threads than pooled connections: true, and no news
    return ContainerClient.from_connection_string(os.environ["AZURE_STORAGE_CONNECTION_STRING"], name)


def get_each(name: str, threads: int) -> int:
    """List the names and read each record by a GET, as the registry does that people have today."""
    with _container(name) as container:
        names = [blob.name for blob in container.list_blobs(name_starts_with=PREFIX)]

        def size_of(blob: str) -> int:
            return len(container.download_blob(blob).readall())

        if threads == 1:
            return sum(size_of(blob) > 0 for blob in names)
        with ThreadPoolExecutor(threads) as pool:
            return sum(size > 0 for size in pool.map(size_of, names))


def get_each_by_obstore(name: str) -> int:
    """Return the same by obstore, a library in Rust."""
    from obstore.store import AzureStore

    fields = dict(field.split("=", 1) for field in os.environ["AZURE_STORAGE_CONNECTION_STRING"].split(";") if field)
    store = AzureStore(
        name,
        account_name=fields["AccountName"],
        account_key=fields["AccountKey"],
        endpoint=fields["BlobEndpoint"],
        client_options={"allow_http": True},
    )
    names = [meta["path"] for page in store.list(PREFIX) for meta in page]
    with ThreadPoolExecutor(THREADS) as pool:
        return sum(size > 0 for size in pool.map(lambda path: len(store.get(path).bytes()), names))


def get_each_plainly(url: str, threads: int) -> int:
    """Return the same by plain HTTP, without an SDK.

    Args:
        url: of the container, with a token.
        threads: GETs at once.
    """
    from urllib.parse import quote

    import urllib3

    container, _, token = url.partition("?")
    with urllib3.PoolManager(maxsize=threads) as pool:
        names = [str(blob.findtext("Name")) for page in _plain_pages(pool, url, "") for blob in page.iter("Blob")]

        def size_of(name: str) -> int:
            reply = pool.request("GET", f"{container}/{quote(name)}?{token}")
            return len(reply.data) if reply.status == OK else 0

        with ThreadPoolExecutor(threads) as workers:
            return sum(size > 0 for size in workers.map(size_of, names))


def list_plainly(url: str) -> int:
    """List the names with the metadata, which hold the values that mops-jobs writes, by plain HTTP."""
    import urllib3

    with urllib3.PoolManager() as pool:
        pages = _plain_pages(pool, url, "&include=metadata")
        return sum(blob.find("Metadata") is not None for page in pages for blob in page.iter("Blob"))


def _plain_pages(pool: PoolManager, url: str, options: str) -> Iterator[Element]:
    from urllib.parse import quote
    from xml.etree import ElementTree as ET

    marker = ""
    while True:
        query = f"restype=container&comp=list&prefix={PREFIX}&marker={quote(marker)}{options}"
        page = ET.fromstring(pool.request("GET", f"{url}&{query}").data)
        yield page
        marker = page.findtext("NextMarker") or ""
        if not marker:
            return


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
        return stop()


PEERS = {
    "get-1": lambda name: get_each(name, 1),
    "get-16": lambda name: get_each(name, THREADS),
    "obstore-16": get_each_by_obstore,
    **{reader: functools.partial(get_each_plainly, threads=threads) for reader, threads in PLAIN_READERS.items()},
    **dict.fromkeys(PLAIN_LISTERS, list_plainly),
    "list": lambda name: listing(name, []),
    "list-metadata": lambda name: listing(name, ["metadata"]),
    "one-request": one_request,
    "update": update,
}


def main() -> None:
    what, name = sys.argv[1:]
    print(PEERS[what](name))


if __name__ == "__main__":
    main()
