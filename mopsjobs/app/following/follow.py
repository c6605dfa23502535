"""Stay with a submitted job until it ends: as its runner, or by looking at its record."""

from __future__ import annotations

from typing import NamedTuple

from mopsjobs.app.following.foreground import run_here, stopped_code
from mopsjobs.app.following.wait import StopCondition, describe_ended, wait_for
from mopsjobs.app.run.app import App
from mopsjobs.app.run.exit_codes import exit_code_of
from mopsjobs.bundles.extraction import BundleError
from mopsjobs.engines.base import Launch
from mopsjobs.engines.model_errors import ModelError
from mopsjobs.errors import (
    EXIT_JOB_FAILED,
    EXIT_NOT_FINISHED,
    EXIT_UNREACHABLE,
    EngineError,
    MopsJobsError,
    command_line,
)
from mopsjobs.ledger.retry_policy import retry_policy
from mopsjobs.registry.status import TERMINAL
from mopsjobs.runner.shard import Shard
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
    shard = Shard(
        launch.job_id,
        workers=launch.workers,
        python=launch.python,
        task_timeout=launch.task_timeout,
        task_memory=launch.task_memory,
        policy=retry_policy(launch.retries, launch.retry_on),
        first=launch.first,
        max_failures=launch.max_failures,
        scheduler=launch.options.get("scheduler"),
    )
    try:
        result = run_here(shard, app)
    except (ModelError, BundleError, EngineError) as error:
        # The record has this error too. It is `partial` if tasks were complete before.
        app.out.error(error)
        return FollowResult("failed", EXIT_JOB_FAILED, _describe_end(launch.job_id, app))
    done = pluralize(result.completed, "task")
    note = f"{launch.job_id}: {result.status or 'state unknown'}, {done} done, {result.failed} failed"
    code = EXIT_UNREACHABLE if result.status is None else exit_code_of({"status": result.status})
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
