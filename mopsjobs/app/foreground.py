"""The runner in this process, as commands run it: where it keeps things, what it shows, how its end is told."""

from __future__ import annotations

import contextlib

from mopsjobs.app.app import App
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.local import disk_errors, shard_lock
from mopsjobs.runner.run_shard import run_shard
from mopsjobs.runner.shard import Shard, ShardResult
from mopsjobs.utils.files import make_directory

EXIT_STOPPED = 143
"""As a shell says it of a program that SIGTERM ended: Kubernetes then starts the shard again."""


def run_here(shard: Shard, app: App, *, total: int | None = None) -> ShardResult:
    """Work through a shard in this process, with a progress bar if a person is there to see it.

    Args:
        shard: what to do.
        app: whose registry it is in.
        total: how many tasks the shard has, if somebody knows.

    Raises:
        UsageError: the job's id is none.
        JobBusyError: another process of this machine is at work on the shard.
        EngineError: this machine's disk takes nothing.
        JobNotFoundError, ModelError, StoreError: see `run_shard`.
    """
    app.registry.key_of(shard.job_id)  # refuses what is no id, before it becomes a path
    directory = JobDir.of(shard.job_id, app.env)
    with contextlib.ExitStack() as stack:
        with disk_errors(directory):
            make_directory(directory.path)
            stack.enter_context(shard_lock(directory, shard.job_id, shard.number))
        on_progress = stack.enter_context(app.out.progress("tasks", total))
        return run_shard(
            shard,
            app.store,
            app.registry,
            directory,
            on_log=app.out.note,
            on_progress=on_progress,
            sleep=app.sleep,
        )


def stopped_code(ran: ShardResult) -> int:
    """The exit code of a run that has left something to a restart."""
    return EXIT_STOPPED if ran.signal is None else 128 + ran.signal
