"""Stay with a submitted job until it ends: as its runner, or by looking at its record."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from mopsjobs.app.following.wait import StopCondition, describe_ended, wait_for
from mopsjobs.app.run.app import App
from mopsjobs.bundles.extraction import BundleError
from mopsjobs.console.progress_line import ProgressLine
from mopsjobs.engines import check_runner
from mopsjobs.engines.base import Launch
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.local import cores_directory, disk_errors, shard_lock
from mopsjobs.engines.model_errors import ModelError
from mopsjobs.errors import (
    EXIT_JOB_FAILED,
    EXIT_NOT_FINISHED,
    EXIT_UNREACHABLE,
    EngineError,
    MopsJobsError,
    NoManifestError,
    OptionError,
    command_line,
    exit_code_of,
)
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.status import TERMINAL
from mopsjobs.runner.pools.shared_cores import SharedCores
from mopsjobs.runner.run_shard import run_shard
from mopsjobs.runner.shard import Shard, ShardResult, TaskProgress
from mopsjobs.submission.launching import check_on_node
from mopsjobs.submission.shard_drop import ShardDrop
from mopsjobs.utils.files import make_directory
from mopsjobs.utils.text import pluralize


class FollowResult(NamedTuple):
    """The end of a job, or the reason why this process left it earlier."""

    status: str | None
    """The status of its record; None if the registry did not answer."""
    exit_code: int
    notes: tuple[str, ...] = ()
    """Lines for the user."""


def follow(launch: Launch, app: App) -> FollowResult:
    """Stay with a job until its end. A job that was launched in the foreground runs in this process.

    Args:
        launch: the launch of the job.
        app: the command.

    Raises:
        StoreUnavailableError: if the registry does not answer.
    """
    return _run(launch, app) if launch.foreground else follow_record(launch.job_id, app)


def follow_record(job_id: str, app: App) -> FollowResult:
    """Stay with a job that another process runs, until its end.

    Raises:
        StoreUnavailableError: if the registry does not answer.
    """
    waited = wait_for([job_id], app, StopCondition())
    return FollowResult(waited.states[0].status, waited.exit_code, waited.notes)


def _run(launch: Launch, app: App) -> FollowResult:
    shard = Shard(job_id=launch.job_id, scheduler=launch.options.get("scheduler"), **launch.of_tasks())
    try:
        result = run_here(shard, app)
    except (ModelError, BundleError, EngineError) as error:
        # The record has this error too. It is `partial` if tasks were complete before.
        app.out.error(error)
        return FollowResult("failed", EXIT_JOB_FAILED, _describe_end(launch.job_id, app))
    done = pluralize(result.completed, "task")
    note = f"{launch.job_id}: {result.status or 'state unknown'}, {done} done, {result.failed} failed"
    code = EXIT_UNREACHABLE if result.status is None else exit_code_of(result.status)
    # `cancel` ends the record, and then this process. The record says how the job ended.
    if code == EXIT_NOT_FINISHED or (result.signal is not None and result.status not in TERMINAL):
        note = f"{note}. To continue: {command_line('resume', launch.job_id)}"
        return FollowResult(result.status, stopped_code(result), (note,))
    return FollowResult(result.status, code, (note, *_describe_end(launch.job_id, app)))


def _describe_end(job_id: str, app: App) -> tuple[str, ...]:
    """Return the notes on the end of a job; none if the registry does not answer."""
    try:
        return describe_ended([app.registry.require_job(job_id)], app, has_said_why=True)
    except MopsJobsError:
        return ()


EXIT_STOPPED = 143
"""The exit code of a program that SIGTERM ended, as shells have it. Kubernetes then starts the shard again."""


def run_here(shard: Shard, app: App) -> ShardResult:
    """Work through a shard in this process, with a line about progress if a person is there to see it.

    Args:
        shard: the shard to run.
        app: the run, whose registry has the job.

    Raises:
        UsageError: if the job's id is invalid, or if this node of a cluster does not share the registry.
        OptionError: if the shard has workers and a scheduler.
        JobBusyError: if another process of this machine runs the shard.
        EngineError: if this machine's disk cannot be written, or its system runs no tasks.
        JobNotFoundError: if the job does not exist.
        NoManifestError: if the job was reported, not submitted.
        ModelError, StoreError: if `run_shard` raises them.
    """
    check_runner()
    if shard.workers is not None and shard.scheduler is not None:
        raise OptionError("workers has no effect with a scheduler: the cluster has its own.", "workers")
    if not shard.wait_for_manifest and shard.scheduler is None:  # a pod has its cores for itself
        shard = dataclasses.replace(shard, cores=SharedCores(cores_directory(app.env), app.settings.local_workers))
    if shard.drop is None and shard.wait_for_manifest:
        check_on_node(app.settings.registry.value)
    registry = app.registry if shard.drop is None else JobRegistry(ShardDrop(shard.drop, shard.number), now=app.now)
    registry.key_of(shard.job_id)  # refuses an invalid id before it becomes a path
    directory = JobDir.for_job(shard.job_id, app.env)
    with contextlib.ExitStack() as stack:
        if app.settings.rules and shard.drop is None:
            # Also notifies if the block raises an error, and when the lock is free again.
            from mopsjobs.app.following.notify.notifier import telling_of_run

            stack.enter_context(telling_of_run(shard.job_id, app))
        with disk_errors(directory):
            make_directory(directory.path)
            stack.enter_context(shard_lock(directory, shard.job_id, shard.number))
        line = stack.enter_context(app.out.progress("tasks"))
        try:
            return run_shard(
                shard,
                registry.store,
                registry,
                directory,
                on_log=app.out.note,
                on_progress=None if line is None else show_progress_on(line),
                sleep=app.sleep,
            )
        except NoManifestError:
            registry.require_job(shard.job_id)
            raise


def show_progress_on(line: ProgressLine) -> Callable[[TaskProgress], None]:
    """Return the function that shows the progress of a shard."""

    def on_progress(progress: TaskProgress) -> None:
        note = "waiting for a core" if progress.is_waiting else "" if progress.has_begun else "starting workers"
        line.show(progress.done, progress.total, note=note, left=progress.left)

    return on_progress


def stopped_code(result: ShardResult) -> int:
    """Return the exit code of a run that was stopped and leaves the rest to a restart."""
    return EXIT_STOPPED if result.signal is None else 128 + result.signal
