"""A store behind a line that fails on demand."""

from __future__ import annotations

import pytest

from mopsjobs.store.memory import InMemoryVersionedStore
from support.doubles import FaultyStore
from support.marks import KEY


@pytest.fixture
def store() -> FaultyStore:
    """Return a record with no marks, behind a line that fails on demand."""
    faulty = FaultyStore(InMemoryVersionedStore())
    faulty.create_if_absent(KEY, b"[]")
    faulty.calls.clear()
    return faulty
