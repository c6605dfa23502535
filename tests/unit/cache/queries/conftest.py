"""A cache without jobs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from mopsjobs.cache.database import open_to_write


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    """Yield a cache, to be filled anew by each example."""
    with closing(open_to_write(str(tmp_path_factory.mktemp("queries") / "cache.db"), "memory://")) as connection:
        yield connection
