"""Fixtures that several files of this folder use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from support.cli import Cli

if TYPE_CHECKING:
    from mopsjobs.store.base import VersionedStore


@pytest.fixture
def local_store(cli: Cli) -> Iterator[VersionedStore]:
    """Open the store of the embedded registry of `cli`."""
    with closing(open_store(cli.env["MOPS_JOBS_REGISTRY"], {})) as opened:
        yield opened


@pytest.fixture
def local_registry(local_store: VersionedStore) -> JobRegistry:
    """Return the embedded registry of `cli`, by the real clock, as its runners use it."""
    return JobRegistry(local_store)
