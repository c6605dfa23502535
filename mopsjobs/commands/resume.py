"""`resume`: run what a job has left undone."""

from __future__ import annotations

import argparse

from mopsjobs.commands.arguments import add_command
from mopsjobs.commands.launching import SCHEDULER_HELP, add_runner_flags, dask_options, interpreter
from mopsjobs.context import Context
from mopsjobs.engines import open_engine
from mopsjobs.engines.base import Launch
from mopsjobs.engines.dask import SCHEDULER
from mopsjobs.engines.local import job_directory
from mopsjobs.errors import JobNotFoundError, UsageError
from mopsjobs.job import JobState, check_new_job_id
from mopsjobs.output import Document, Result, Text
from mopsjobs.outputs import Manifest, examine
from mopsjobs.submit.client import JobSubmissionClient, Submission, new_job_id
from mopsjobs.times import parse_duration
from mopsjobs.validation import load_manifest, missing_tasks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mopsjobs.commands import Commands


def add_parser(name: str, commands: Commands, parents: list[argparse.ArgumentParser]) -> None:
    """Declare `resume`."""
    parser = add_command(
        commands,
        name,
        parents,
        help="run what a job has left undone",
        description="Of a job that has ended, submit the missing tasks as a new job, its child. A job that has not "
        "ended, but whose runner has, goes on itself.",
    )
    parser.add_argument("job", metavar="JOB", help="its whole id")
    add_runner_flags(parser)
    parser.add_argument("--scheduler", metavar="URL", help=SCHEDULER_HELP + "; default: the one it had")
    parser.add_argument("--json", action="store_true", help="the id of the job that runs, as one JSON object")


def run(args: argparse.Namespace, context: Context) -> Result:
    """Resume a job."""
    state = context.registry.get_job(args.job)
    if state is None:
        raise JobNotFoundError(f"There is no job {args.job}.", job_id=args.job)
    manifest = load_manifest(context.store, args.job)
    job_id = _child(args, context, state, manifest) if state.is_terminal else _again(args, context, state)
    if job_id is None:
        return Result(notes=[f"{args.job}: nothing is missing"])
    body = Document({"job_id": job_id, "parent_job_id": None if job_id == args.job else args.job})
    return Result(body if args.json else Text([job_id]), notes=[f"Next: mops-jobs wait {job_id}"])


def _child(args: argparse.Namespace, context: Context, state: JobState, manifest: Manifest) -> str | None:
    missing = missing_tasks(manifest, examine(context.store, manifest).complete)
    if not missing:
        return None
    job_id = check_new_job_id(new_job_id(manifest.study, context.now()))
    client = JobSubmissionClient(
        context.store,
        context.registry,
        open_engine(_engine(state), context.env),
        kept_at=lambda job: job_directory(job, context.env),
    )
    submission = Submission(
        job_id=job_id,
        study=manifest.study,
        bundle=manifest.bundle,
        only=tuple(task.number for task in missing),
        parent_job_id=state.job_id,
        owner=state.owner,
        labels=state.labels,
    )
    client.submit(submission, _launch(args, context, state, job_id))
    return job_id


def _again(args: argparse.Namespace, context: Context, state: JobState) -> str:
    engine = open_engine(_engine(state), context.env)
    if engine.state(state.fields()).phase == "running":
        raise UsageError(f"Job {args.job} is still running: nothing to resume.")
    engine.launch(_launch(args, context, state, args.job))
    return str(args.job)


def _engine(state: JobState) -> str:
    return state.engine or "local"


def _launch(args: argparse.Namespace, context: Context, state: JobState, job_id: str) -> Launch:
    options = {}
    if _engine(state) == "dask":
        options = dask_options(args, context, state.metadata.get(SCHEDULER))
    elif args.scheduler is not None:
        raise UsageError(f"--scheduler has no effect with the {_engine(state)} engine.")
    return Launch(
        job_id=job_id,
        registry_url=context.settings.registry.value,
        workers=args.workers,
        python=interpreter(args.python, context.env) if _engine(state) == "local" else args.python,
        task_timeout=None if args.task_timeout is None else parse_duration(args.task_timeout),
        options=options,
    )
