"""A registry as a Python program opens it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mopsjobs.api.registry import LogPrinter, Registry
from mopsjobs.app.run.app import App, open_app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.cli import Cli


@pytest.fixture
def reg(cli: Cli) -> Iterator[Registry]:
    """Yield the registry of `cli`, by its clock."""
    clock = cli.clock
    app = open_app(
        {},
        cli.env,
        LogPrinter(cli.env),
        new_app=lambda *run: App(*run, now=clock.now, sleep=clock.sleep, monotonic=clock.monotonic),
    )
    with Registry(app) as opened:
        yield opened
