"""A registry whose clock, ids, sleep and line the test holds in its hands."""

from __future__ import annotations

import pytest

from mopsjobs.registry.job_registry import JobRegistry
from support.bench import Bench


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def registry(bench: Bench) -> JobRegistry:
    return bench.registry
