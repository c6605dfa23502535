"""A store over a container, without a server."""

from __future__ import annotations

import gc
import weakref

from mopsjobs.store import open_store

CONNECTION = "AccountName=acme;AccountKey=a2V5;BlobEndpoint=http://127.0.0.1:1/acme;"


def test_a_dropped_store_is_freed_without_a_garbage_collection() -> None:
    """Its connections end with it. A process that opens many stores would else run out of open files."""
    gc.collect()
    gc.disable()
    try:
        store = open_store("azure://jobs", {"AZURE_STORAGE_CONNECTION_STRING": CONNECTION})
        freed = weakref.ref(store)
        del store
        assert freed() is None
    finally:
        gc.enable()
