"""`resume`: run what a job has left undone."""

from __future__ import annotations

import argparse

from mopsjobs.app.app import App
from mopsjobs.app.job_arguments import positive_number
from mopsjobs.app.submission_session import submission_session
from mopsjobs.cli.flags import add_command
from mopsjobs.cli.launch_flags import (
    SCHEDULER_HELP,
    add_cluster_options,
    add_runner_flags,
    code_to_pack,
    launch_options,
)
from mopsjobs.cli.trust_flags import add_trust, agreed_trust, trust_of
from mopsjobs.console.command_line import command_line
from mopsjobs.console.result import Document, Result, Text
from mopsjobs.errors import EXIT_INTERRUPTED
from mopsjobs.submission.resume import Resumed, ResumeRequest, examine, resume_job
from mopsjobs.utils.text import pluralize

TYPE_CHECKING = False

if TYPE_CHECKING:
    from mopsjobs.cli.commands import Commands


def add_parser(name: str, commands: Commands, parents: list[argparse.ArgumentParser]) -> None:
    """Declare `resume`."""
    parser = add_command(
        commands,
        name,
        parents,
        help="run what a job has left undone",
        description="Of a job that has ended, submit the missing tasks as a new job, its child. A job that has not "
        "ended, but whose runner has, goes on itself. What this machine keeps of it since the registry was away is "
        "delivered first: pods wait for it. It runs where and as the job did, on the code that was submitted, unless "
        "flags say otherwise.",
    )
    parser.add_argument("job", metavar="JOB", help="its whole id")
    parser.add_argument(
        "--auto",
        action="store_true",
        help="pack the current directory as the child's code (default: the job's own code)",
    )
    add_runner_flags(parser)
    parser.add_argument("--scheduler", metavar="URL", help=SCHEDULER_HELP + "; default: the one it had")
    cluster = parser.add_argument_group("of a job on kubernetes, instead of what it had")
    cluster.add_argument("--shards", metavar="N", type=positive_number, help="parts, each a pod of its own")
    add_cluster_options(cluster)
    add_trust(parser)
    parser.add_argument(
        "--json", action="store_true", help="the id of the job that runs, null where nothing is missing, in one object"
    )


def run(args: argparse.Namespace, app: App) -> Result:
    """Resume a job."""
    session = submission_session(app)
    request = ResumeRequest(job_id=args.job, options=launch_options(args), code=code_to_pack(args, app))
    job = examine(request, session)
    if isinstance(job, Resumed):
        return _result(args.job, job, as_json=args.json)
    trust = trust_of(args, app)
    found = {choice: [args.job] for choice in job.choices if not trust.allows(choice)}
    agreed = agreed_trust(trust, found, app, "nothing was launched")
    if agreed is None:
        return Result(notes=["Nothing was done."], exit_code=EXIT_INTERRUPTED)
    return _result(args.job, resume_job(job, session, agreed), as_json=args.json)


def _result(resumed_id: str, resumed: Resumed, *, as_json: bool) -> Result:
    job_id = resumed.job_id
    parent = None if job_id in (None, resumed_id) else resumed_id
    document = Document({"job_id": job_id, "parent_job_id": parent})
    if job_id is None:
        return Result(document if as_json else None, notes=[f"{resumed_id}: nothing is missing"])
    tasks = [] if resumed.tasks is None else [f"{job_id}: {pluralize(resumed.tasks, 'task')} to do"]
    return Result(
        document if as_json else Text([job_id]),
        notes=[*tasks, f"Next: {command_line('wait', job_id)}"],
        warnings=resumed.warnings,
    )
