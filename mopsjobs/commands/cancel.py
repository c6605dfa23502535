"""`cancel`: mark jobs as cancelled. Their runners see it and stop."""

from __future__ import annotations

import argparse

from mopsjobs.cache.rows import view_of
from mopsjobs.commands.arguments import add_command
from mopsjobs.context import Context
from mopsjobs.errors import EXIT_PARTLY_DONE, JobError, MopsJobsError
from mopsjobs.job import JobState
from mopsjobs.output import JsonLines, Result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mopsjobs.commands import Commands


def add_parser(name: str, commands: Commands, parents: list[argparse.ArgumentParser]) -> None:
    """Declare `cancel`."""
    parser = add_command(
        commands,
        name,
        parents,
        help="cancel jobs",
        description="Mark jobs as cancelled. One that is cancelled already stays so; one that has ended is refused.",
    )
    # Whole ids only: what stops a job should not hang on what else happens to be registered.
    parser.add_argument("jobs", metavar="JOB", nargs="+", help="the whole id")
    parser.add_argument("--reason", metavar="TEXT", help="why; kept in the record")
    parser.add_argument("--json", action="store_true", help="each job as a JSON object in a line of its own")


def run(args: argparse.Namespace, context: Context) -> Result:
    """Cancel jobs."""
    cancelled: list[JobState] = []
    refused: list[JobError] = []
    for job_id in dict.fromkeys(args.jobs):
        try:
            cancelled.append(context.registry.cancel_job(job_id, args.reason))
        except JobError as error:
            refused.append(error)
    if refused and not cancelled:
        return _all_refused(refused, context)
    now = context.now().timestamp()
    return Result(
        JsonLines([view_of(state, now=now) for state in cancelled]) if args.json else None,
        notes=[f"{state.job_id}: cancelled" for state in cancelled],
        warnings=[str(error) for error in refused],
        exit_code=EXIT_PARTLY_DONE if refused else 0,
    )


def _all_refused(refused: list[JobError], context: Context) -> Result:
    """None was cancelled: the last reason is the outcome, after the others were told."""
    for error in refused[:-1]:
        context.out.error(error)
    last: MopsJobsError = refused[-1]
    raise last
