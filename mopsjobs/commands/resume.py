"""`resume`: run what a job has left undone."""

from __future__ import annotations

import argparse

from mopsjobs.commands.arguments import add_command
from mopsjobs.commands.cluster import add_cluster_options, cluster_options, recorded_options, recorded_shards
from mopsjobs.commands.launching import SCHEDULER_HELP, add_runner_flags, dask_options, interpreter, positive
from mopsjobs.context import Context
from mopsjobs.engines import open_engine
from mopsjobs.engines.base import Launch
from mopsjobs.engines.dask import SCHEDULER
from mopsjobs.engines.local import job_directory
from mopsjobs.errors import JobNotFoundError, StoreError, UsageError
from mopsjobs.job import JobState, check_new_job_id
from mopsjobs.output import Document, Result, Text
from mopsjobs.outputs import Manifest, examine
from mopsjobs.submit.client import JobSubmissionClient, Submission, launched_fields, new_job_id
from mopsjobs.submit.kept import deliver_kept, note_launched
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
        "ended, but whose runner has, goes on itself. What this machine keeps of it since the registry was away is "
        "delivered first: pods wait for it. It runs where and as the job did, unless flags say otherwise.",
    )
    parser.add_argument("job", metavar="JOB", help="its whole id")
    add_runner_flags(parser)
    parser.add_argument("--scheduler", metavar="URL", help=SCHEDULER_HELP + "; default: the one it had")
    cluster = parser.add_argument_group("of a job on kubernetes, instead of what it had")
    cluster.add_argument("--shards", metavar="N", type=positive, help="parts, each a pod of its own")
    add_cluster_options(cluster)
    parser.add_argument("--json", action="store_true", help="the id of the job that runs, as one JSON object")


def run(args: argparse.Namespace, context: Context) -> Result:
    """Resume a job."""
    context.registry.key_of(args.job)  # refuses what is no id, before it becomes a path
    is_delivered = _deliver(args.job, context)
    state = context.registry.get_job(args.job)
    if state is None:
        raise JobNotFoundError(f"There is no job {args.job}.", job_id=args.job)
    manifest = load_manifest(context.store, args.job)
    if state.is_terminal:
        job_id = _child(args, context, state, manifest)
    else:
        job_id = _again(args, context, state, is_delivered=is_delivered)
    if job_id is None:
        return Result(notes=[f"{args.job}: nothing is missing"])
    body = Document({"job_id": job_id, "parent_job_id": None if job_id == args.job else args.job})
    return Result(body if args.json else Text([job_id]), notes=[f"Next: mops-jobs wait {job_id}"])


def _deliver(job_id: str, context: Context) -> bool:
    """Deliver what this machine keeps of a job since the registry was away, and say so."""

    def refused(key: str, reason: StoreError) -> None:
        context.out.warn(f"{key} is given up: {reason}")

    directory = job_directory(job_id, context.env)
    is_delivered = deliver_kept(directory, job_id, context.store, context.registry, refused)
    if is_delivered:
        context.out.note(f"{job_id}: delivered what this machine kept of it since the registry was away")
    return is_delivered


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
    launch = _launch(args, context, state, job_id)  # before anything of the child is stored
    submission = Submission(
        job_id=job_id,
        study=manifest.study,
        bundle=manifest.bundle,
        only=tuple(task.number for task in missing),
        parent_job_id=state.job_id,
        owner=state.owner,
        labels=state.labels,
    )
    for warning in client.submit(submission, launch).warnings:
        context.out.warn(warning)
    return job_id


def _again(args: argparse.Namespace, context: Context, state: JobState, *, is_delivered: bool) -> str:
    engine = open_engine(_engine(state), context.env)
    phase = engine.state(state.fields()).phase
    if phase in ("pending", "running"):
        if is_delivered:  # and its runner, which waits for it, goes on
            return str(args.job)
        raise UsageError(f"Job {args.job} is still running: nothing to resume.")
    if phase in ("succeeded", "failed"):
        raise UsageError(
            f"The {engine.name} engine says that job {args.job} has {phase}; its record does not know it yet.",
            hint="Run: mops-jobs reconcile, then resume it.",
        )
    launched = engine.launch(_launch(args, context, state, args.job))
    note_launched(context.registry, args.job, launched_fields(launched))
    return str(args.job)


def _engine(state: JobState) -> str:
    return state.engine or "local"


def _launch(args: argparse.Namespace, context: Context, state: JobState, job_id: str) -> Launch:
    """The launch that the record tells of, with what the flags say instead.

    Raises:
        UsageError: it makes no sense; or nobody has said what a cluster is to run.
    """
    engine = _engine(state)
    options = cluster_options(args, engine)
    shards = args.shards
    if engine == "dask":
        options = dask_options(args, context, state.metadata.get(SCHEDULER))
    elif args.scheduler is not None:
        raise UsageError(f"--scheduler has no effect with the {engine} engine.")
    if engine == "kubernetes":
        options = {**recorded_options(state.k8s_namespace, state.metadata), **options}
        shards = shards or recorded_shards(state.metadata)
    launch = Launch(
        job_id=job_id,
        registry_url=context.settings.registry.value,
        shards=shards or 1,
        workers=args.workers,
        python=interpreter(args.python, context.env) if engine == "local" else args.python,
        task_timeout=None if args.task_timeout is None else parse_duration(args.task_timeout),
        options=options,
    )
    if engine == "kubernetes":
        from mopsjobs.engines.k8s_manifest import check_launch

        check_launch(launch, context.env)
    return launch
