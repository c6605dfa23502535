"""`run_here` for a Python program: what it refuses before a runner starts."""

from __future__ import annotations

import pytest

from mopsjobs.app.app import App
from mopsjobs.app.foreground import run_here, show_progress_on
from mopsjobs.console.progress_line import ProgressLine
from mopsjobs.errors import JobNotFoundError, NoManifestError, OptionError
from mopsjobs.runner.shard import Shard, TaskProgress
from support.cli import Clock
from support.terminal import TerminalStream


def test_workers_of_a_scheduler_are_refused(app: App) -> None:
    """The workers of a Dask cluster are its own. The error names the field of the shard."""
    with pytest.raises(OptionError, match=r"^workers has no effect with a scheduler: the cluster has its own\.$"):
        run_here(Shard("job", workers=2, scheduler="tcp://127.0.0.1:1"), app)


def test_an_unknown_job_is_not_found(app: App) -> None:
    """A job that was only reported has no manifest; one without a record does not exist."""
    with pytest.raises(JobNotFoundError, match=r"Job job not found\."):
        run_here(Shard("job"), app)
    app.registry.register_job("job")
    with pytest.raises(NoManifestError):
        run_here(Shard("job"), app)


def test_the_time_left_begins_with_the_first_task() -> None:
    """While workers start the line says so, and no time is left to tell. Then the rate counts from there."""
    clock, stream = Clock(), TerminalStream()
    on_progress = show_progress_on(ProgressLine(stream, "tasks", None, clock=clock.monotonic))
    for seconds, done, has_begun in ((30, 0, False), (30, 0, True), (10, 1, True), (10, 2, True)):
        clock.advance(seconds=seconds)
        on_progress(TaskProgress(done, 10, 1, has_begun=has_begun))
    assert [text.partition(" %, ")[2].rstrip() for text in stream.getvalue().split("\r")[1:]] == [
        "0:30, starting workers", "1:00", "1:10", "1:20, about 1m 20s left",
    ]  # fmt: skip
