"""Fixtures of the tests of engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.model_worker import Worker


@pytest.fixture
def run(tmp_path: Path) -> Worker:
    """Return what runs a worker on a model to its end."""
    return Worker(tmp_path)
