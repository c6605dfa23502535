"""Fixtures that several files of this folder use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from support.machines import Machines


@pytest.fixture
def machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Machines:
    """Return what makes machines, each with a home of its own."""
    from support.machines import Machines

    return Machines(tmp_path, capsys)
