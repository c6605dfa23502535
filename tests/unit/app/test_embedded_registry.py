"""The file of an embedded registry: lost is not the same as new."""

from __future__ import annotations

from pathlib import Path

import pytest

from mopsjobs.app import config
from mopsjobs.app.app import App
from mopsjobs.console.printer import Printer
from mopsjobs.errors import StoreUnavailableError


@pytest.fixture
def app(tmp_path: Path) -> App:
    """Return a run over an embedded registry with one job, which the cache knows."""
    env = {"HOME": str(tmp_path), "MOPS_JOBS_REGISTRY": f"sqlite://{tmp_path}/disk/registry.db"}
    made = App(config.load({}, env, str(tmp_path)), Printer(None, None, env), env)
    made.registry.register_job("a")
    made.cache.sync(wait=None)
    return made


def test_a_registry_that_is_lost_during_a_run_is_not_created_again(app: App, tmp_path: Path) -> None:
    """The page, `wait` and `submit --follow` have it open for hours; its disk may go away meanwhile."""
    disk = tmp_path / "disk"
    disk.rename(tmp_path / "away")
    for action in (lambda: app.registry.register_job("b"), lambda: app.cache.sync(wait=None)):
        with pytest.raises(StoreUnavailableError, match="is gone: it had 1 job"):
            action()
    assert not disk.exists()
    (tmp_path / "away").rename(disk)
    app.registry.register_job("b")
    assert {state.job_id for state in app.registry.list_jobs()} == {"a", "b"}
