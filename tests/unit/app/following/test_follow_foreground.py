"""`run_here` for a Python program: what it refuses before a runner starts."""

from __future__ import annotations

import pytest

from mopsjobs.app.following.follow import run_here, show_progress_on
from mopsjobs.app.run.app import App
from mopsjobs.console.progress_line import ProgressLine
from mopsjobs.errors import JobNotFoundError, NoManifestError, OptionError
from mopsjobs.runner.shard import Shard, TaskProgress
from mopsjobs.utils.forecast import Forecast
from support.cli import Clock
from support.terminal import TerminalStream


def test_workers_of_a_scheduler_are_refused(app: App) -> None:
    """The workers of a Dask cluster are its own. The error names the field of the shard."""
    with pytest.raises(OptionError, match=r"^workers has no effect with a scheduler: the cluster has its own\.$"):
        run_here(Shard(job_id="job", workers=2, scheduler="tcp://127.0.0.1:1"), app)


def test_an_unknown_job_is_not_found(app: App) -> None:
    """A job that was only reported has no manifest; one without a record does not exist."""
    with pytest.raises(JobNotFoundError, match=r"Job job not found\."):
        run_here(Shard(job_id="job"), app)
    app.registry.register_job("job")
    with pytest.raises(NoManifestError):
        run_here(Shard(job_id="job"), app)


def test_the_line_shows_the_range_of_the_runner() -> None:
    """While workers start the line says so, and no time is left to tell."""
    clock, stream = Clock(), TerminalStream()
    on_progress = show_progress_on(ProgressLine(stream, "tasks", None, clock=clock.monotonic))
    for progress in (
        TaskProgress(0, 10, has_begun=False),
        TaskProgress(0, 10, has_begun=True),
        TaskProgress(4, 10, has_begun=True, left=Forecast(65.0, 118.0)),
    ):
        clock.advance(seconds=30)
        on_progress(progress)
    assert [text.partition(" %, ")[2].rstrip() for text in stream.getvalue().split("\r")[1:]] == [
        "0:30, starting workers", "1:00", "1:30, 1m to 2m left",
    ]  # fmt: skip
