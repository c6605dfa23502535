"""A cache of 60 jobs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mopsjobs.cache.database import open_to_write
from support.cli import Cli, Remote, add


@pytest.fixture
def filled(cli: Cli, remote: Remote) -> Path:
    """Return a cache of 60 jobs of a registry across the network."""
    for number in range(60):
        add(remote.jobs, f"job-{number:02}", "running", owner="ada", labels={"exp": str(number % 3)}, tasks_total=4)
    cli.ok("sync")
    return cli.cache


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    """Yield a cache without jobs, to be filled anew by each example."""
    with closing(open_to_write(str(tmp_path_factory.mktemp("cache") / "cache.db"), "memory://")) as connection:
        yield connection
