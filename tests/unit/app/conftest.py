"""A run of mops-jobs without a command line, and a user's directories."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from mopsjobs.app.run import config
from mopsjobs.app.run.app import App
from mopsjobs.console.printer import Printer
from support.cli import Clock
from support.home import Home


@pytest.fixture
def app(tmp_path: Path, clock: Clock) -> Iterator[App]:
    """Yield a run with an embedded registry, without a stdout."""
    env = {"HOME": str(tmp_path), "MOPS_JOBS_REGISTRY": f"sqlite://{tmp_path}/registry.db"}
    settings = config.load({}, env, str(tmp_path))
    out = Printer(None, io.StringIO(), env)
    made = App(settings, out, env, now=clock.now, sleep=clock.sleep, monotonic=clock.monotonic)
    yield made
    made.close()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)
