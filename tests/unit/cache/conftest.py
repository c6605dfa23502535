"""A cache of 60 jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.cli import Cli, Remote, add


@pytest.fixture
def filled(cli: Cli, remote: Remote) -> Path:
    """Return a cache of 60 jobs of a registry across the network."""
    for number in range(60):
        add(remote.jobs, f"job-{number:02}", "running", owner="ada", labels={"exp": str(number % 3)}, tasks_total=4)
    cli.ok("sync")
    return cli.cache
