"""`resume`: run what a job has left undone."""

from __future__ import annotations

import argparse
import functools

from mopsjobs.app.following.follow import follow_record
from mopsjobs.app.jobs.job_tasks import ledger_sizes
from mopsjobs.app.run.app import App
from mopsjobs.app.run.user_trust import agreed_trust, user_trust
from mopsjobs.app.tasks.resume_choice import tasks_that_ended
from mopsjobs.cli.flags import add_full_ids, add_trust
from mopsjobs.cli.launch_flags import AS_BEFORE, add_launch_flags, code_to_pack
from mopsjobs.console.result import Document, Result, Text
from mopsjobs.engines import ENGINES
from mopsjobs.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_PARTLY_DONE, JobBusyError, command_line
from mopsjobs.submission.resume import ResumeRequest, ResumeResult, prepare_resume, resume_job
from mopsjobs.utils.text import pluralize

HELP = "run the missing tasks of a job"

DESCRIPTION = (
    "Submit the missing tasks of an ended job as a child job: JOB.2, JOB.3 and so on. Restart a job that has not"
    " ended but lost its runner, under its own id. First, deliver what this machine kept while the registry did not"
    " answer. The tasks run as those of the job did, unless flags say otherwise."
)

EXAMPLES = (
    "mops-jobs resume seir-20260301-120000-1a2b",
    "mops-jobs resume seir-20260301-120000-1a2b --auto --workers 4",
    "mops-jobs resume seir-20260301-120000-1a2b --only oom --memory x2",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_full_ids(parser)
    parser.add_argument(
        "--auto",
        action="store_true",
        help="pack the current directory as the child's code (default: the job's own code)",
    )
    parser.add_argument(
        "--only",
        metavar="ENDS",
        help="run only missing tasks that ended so, separated by commas: failed, timeout, oom, died, lost, preempted,"
        " or keys of errors from failures --json; a later resume runs the others (default: all missing tasks)",
    )
    parser.add_argument(
        "--engine",
        metavar="ENGINE",
        choices=ENGINES,
        help=f"where the child runs: {', '.join(ENGINES)} (default: where the job ran)",
    )
    parser.add_argument(
        "--yes",
        action="store_true",
        help="start a runner also if that of another machine may be at work (default: ask; refuse without a terminal)",
    )
    add_launch_flags(parser, "for a job on", AS_BEFORE)
    add_trust(parser)
    parser.add_argument("--wait", action="store_true", help="wait until the job has ended, and exit as wait does")
    parser.add_argument(
        "--json", action="store_true", help="print the id of the job that runs in one JSON object; null if none does"
    )


def run(args: argparse.Namespace, app: App) -> Result:
    """Resume a job."""
    session, trust = app.session(), user_trust(args.trust, app)
    request = ResumeRequest(
        job_id=args.job,
        options=app.launch_options(vars(args), may_grow=True),
        engine=args.engine,
        code=code_to_pack(args, app),
        only=tasks_that_ended(args.job, args.only, app),
        sizes_of=functools.partial(ledger_sizes, app=app),
    )
    job = prepare_resume(request, session)
    if isinstance(job, ResumeResult):
        return _result(args, job)
    found = {choice: [args.job] for choice in job.choices if not trust.allows(choice)}
    agreed = agreed_trust(trust, found, app, "nothing was launched")
    if agreed is None:
        return Result(notes=["Nothing was done."], exit_code=EXIT_INTERRUPTED)
    try:
        resumed = resume_job(job, session, agreed, yes=args.yes)
    except JobBusyError as busy:
        answer = app.out.ask(f"{busy} Has it died?") if busy.is_question else None
        if answer is None:
            raise
        if not answer:
            return Result(notes=["Nothing was done."], exit_code=EXIT_INTERRUPTED)
        resumed = resume_job(job, session, agreed, yes=True)
    if not args.wait:
        return _result(args, resumed)
    app.out.warn_each(resumed.warnings)
    app.out.note(_describe(args, resumed))
    ended = follow_record(str(resumed.job_id), app)
    return Result(_body(args, resumed), notes=ended.notes, exit_code=ended.exit_code)


def _result(args: argparse.Namespace, resumed: ResumeResult) -> Result:
    if resumed.job_id is None:
        how = "is known to have" if resumed.warnings else "has"
        what = "nothing is missing" if args.only is None else f"no missing task {how} the outcome {args.only}"
        exit_code = EXIT_PARTLY_DONE if resumed.warnings else EXIT_DONE
        return Result(
            _body(args, resumed), notes=[f"{args.job}: {what}"], warnings=resumed.warnings, exit_code=exit_code
        )
    following = f"Next: {command_line('wait', resumed.job_id)}"
    return Result(_body(args, resumed), notes=[_describe(args, resumed), following], warnings=resumed.warnings)


def _body(args: argparse.Namespace, resumed: ResumeResult) -> Document | Text | None:
    job_id = resumed.job_id
    if args.json:
        return Document({"job_id": job_id, "parent_job_id": None if job_id in (None, args.job) else args.job})
    return None if job_id is None else Text([job_id])


def _describe(args: argparse.Namespace, resumed: ResumeResult) -> str:
    """Return how many tasks the job has to do, and whether it is another job than the resumed one."""
    is_same = resumed.job_id == args.job
    which = f"a child of {args.job}, which has ended"
    if is_same:
        which = "restarted under its own id, since it had not ended"
    to_do = f"{pluralize(resumed.tasks, 'task')} to do"
    if resumed.tasks == 0:
        to_do = "no task is left to run" if is_same else "only the reduce function to run"
    return f"{resumed.job_id}: {to_do}; {which}"
