"""`resume`: run what a job has left undone."""

from __future__ import annotations

import argparse
import contextlib
import shlex
from collections.abc import Mapping

from mopsjobs.app.app import App
from mopsjobs.app.job_arguments import positive_number
from mopsjobs.cli.flags import add_command
from mopsjobs.cli.launch_flags import (
    SCHEDULER_HELP,
    add_cluster_options,
    add_runner_flags,
    cluster_options,
    dask_options,
    launched_as,
    packed_here,
    recorded_options,
    recorded_shards,
)
from mopsjobs.cli.trust_flags import add_trust, is_agreed, refusal, trust_of
from mopsjobs.console.command_line import command_line
from mopsjobs.console.result import Document, Result, Text
from mopsjobs.engines import ENGINES, open_engine
from mopsjobs.engines.base import Launch, recorded_launch
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.local import HERE, PROBE_SECONDS
from mopsjobs.engines.trust import Trust, choices_of, launched_here
from mopsjobs.errors import (
    EXIT_INTERRUPTED,
    EngineError,
    EnginePlaceError,
    JobBusyError,
    JobExistsError,
    JobNotFoundError,
    NoManifestError,
    StoreError,
    StoreUnavailableError,
    TooManyRetriesError,
    UsageError,
    shortened,
)
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.status import JobStatus
from mopsjobs.runner.pools import active_python
from mopsjobs.studies.lineage import child_id, last_child
from mopsjobs.studies.manifest import Manifest, load_manifest
from mopsjobs.studies.outputs import find_complete_tasks, missing_tasks
from mopsjobs.submission.client import JobSubmissionClient, Submission, launched_fields
from mopsjobs.submission.offline import deliver_offline, load_offline, record_launch
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
    app.registry.key_of(args.job)  # refuses what is no id, before it becomes a path
    try:
        is_delivered = _deliver(args.job, app)
        state = app.registry.get_job(args.job) or _registered(args.job, app)
        if not state.is_terminal and _let_go(_engine(state.engine), state.fields(), app):
            state = app.registry.get_job(args.job) or state
        manifest = load_manifest(app.store, args.job)
        todo = missing_tasks(manifest, find_complete_tasks(app.store, manifest).complete)
    except StoreUnavailableError as outage:
        return _told(args, *_without_registry(args, app, outage), None)
    if state.is_terminal and not todo:
        body = Document({"job_id": None, "parent_job_id": None}) if args.json else None
        return Result(body, notes=[f"{args.job}: nothing is missing"])
    trust = trust_of(args, app)
    found = {choice: [args.job] for choice in _choices(args, app, state) if not trust.allows(choice)}
    if found:
        is_meant = is_agreed(app, found)
        if is_meant is None:
            raise refusal(found, "nothing was launched")
        if not is_meant:
            return Result(notes=["Nothing was done."], exit_code=EXIT_INTERRUPTED)
    trust = trust.plus(found)
    if not state.is_terminal:
        return _told(args, *_again(args, app, state, trust, is_delivered=is_delivered), len(todo))
    job_id, warnings = _child(args, app, state, trust, manifest, todo)
    return _told(args, job_id, warnings, len(todo))


def _choices(args: argparse.Namespace, app: App, state: JobState) -> list[str]:
    """What only the record says of where and as what the job is to run.

    Not what flags or defaults say too, nor what this machine launched the job with. The interpreter of the local engine
    is not among them: `_without_unknown_python` has the default.

    Raises:
        EnginePlaceError: if the record names an engine that does not exist.
    """
    engine, metadata = _engine(state.engine), state.metadata
    if engine not in ENGINES:
        raise EnginePlaceError(
            f"Job {args.job} cannot be resumed: its record names the engine '{shortened(engine, 100)}', expected"
            f" {', '.join(ENGINES)}."
        )
    told = recorded_launch(metadata, engine)
    known = set(launched_here(JobDir.of(args.job, app.env)))
    found = [] if engine == "local" else [f"engine:{engine}"]
    if engine == "dask" and args.scheduler is None and "scheduler" in told:
        found.append(f"dask:{told['scheduler']}")
        known |= set(choices_of({"scheduler": app.env.get("DASK_SCHEDULER_ADDRESS")}))
    if engine == "kubernetes":
        recorded = recorded_options(state.k8s_namespace, told)
        found += choices_of({name: value for name, value in recorded.items() if getattr(args, name) is None})
        known |= _in_force(app, args.context or told.get("context"))
    return [choice for choice in found if choice not in known]


def _in_force(app: App, named: str | None) -> set[str]:
    """The choices that a launch on Kubernetes has without a record; `named` is the context that it will have."""
    from mopsjobs.engines.kubernetes.client import current_place
    from mopsjobs.engines.kubernetes.engine import CONTEXT_VARIABLE
    from mopsjobs.engines.kubernetes.manifest import IMAGE_VARIABLE

    image, chosen = app.env.get(IMAGE_VARIABLE), app.env.get(CONTEXT_VARIABLE)
    found = choices_of({"image": image, "context": chosen})
    with contextlib.suppress(EngineError):  # the launch says so
        found += choices_of({"context": current_place(app.env)[0]})
    with contextlib.suppress(EngineError):
        found += choices_of({"namespace": current_place(app.env, named or chosen)[1]})
    return set(found)


def _without_unknown_python(told: dict[str, str], job_id: str, app: App, trust: Trust) -> dict[str, str]:
    """What a record tells of a launch on this machine, without an interpreter that nobody here has named."""
    python = told.get("python")
    choice = f"python:{python}"
    if python is None or trust.allows(choice) or choice in launched_here(JobDir.of(job_id, app.env)):
        return told
    default = active_python(app.env)
    if python != default:
        app.out.warn(
            f"Only the record of {job_id} names the interpreter {python}; the tasks run in"
            f" {default or 'the Python of mops-jobs'}. To use it: --python {shlex.quote(python)}"
        )
    return {name: value for name, value in told.items() if name != "python"}


def _told(args: argparse.Namespace, job_id: str, warnings: tuple[str, ...], tasks: int | None) -> Result:
    body = Document({"job_id": job_id, "parent_job_id": None if job_id == args.job else args.job})
    launched = [] if tasks is None else [f"{job_id}: {pluralize(tasks, 'task')} to do"]
    return Result(
        body if args.json else Text([job_id]),
        notes=[*launched, f"Next: {command_line('wait', job_id)}"],
        warnings=warnings,
    )


def _deliver(job_id: str, app: App) -> bool:
    """Deliver what this machine keeps of a job since the registry was away, and say so."""

    def refused(key: str, reason: StoreError) -> None:
        app.out.warn(f"{key} is given up: {reason}")

    directory = JobDir.of(job_id, app.env)
    is_delivered = deliver_offline(directory, job_id, app.store, app.registry, refused)
    if is_delivered:
        app.out.note(f"{job_id}: delivered what this machine kept of it since the registry was away")
    return is_delivered


def _registered(job_id: str, app: App) -> JobState:
    """The record of a job whose runner has brought its manifest to the store, and was ended before it wrote one.

    Raises:
        JobNotFoundError: there is no such job.
    """
    try:
        manifest = load_manifest(app.store, job_id)
    except NoManifestError:
        raise JobNotFoundError(f"There is no job {job_id}.", job_id=job_id) from None
    with contextlib.suppress(JobExistsError):
        return app.registry.register_job(job_id, **manifest.record_fields())
    return app.registry.get_job(job_id) or _registered(job_id, app)


def _child(
    args: argparse.Namespace,
    app: App,
    state: JobState,
    trust: Trust,
    manifest: Manifest,
    only: tuple[int, ...],
) -> tuple[str, tuple[str, ...]]:
    """Submit what is missing as a new job: its id, and what did not go well.

    Raises:
        JobBusyError: that was done already; says as which job.
    """
    earlier = last_child(app.registry, state)
    if earlier is not None:
        hint = command_line("wait", earlier.job_id)
        if earlier.is_terminal:
            verb = "results" if earlier.status == JobStatus.SUCCEEDED else "resume"
            hint = command_line(verb, earlier.job_id)
        told = f"Job {state.job_id} was resumed as {earlier.job_id}, which is {earlier.status}."
        raise JobBusyError(told, job_id=state.job_id, hint=f"Run: {hint}")
    job_id = child_id(app.registry, state)
    engine = _engine(state.engine)
    launch = _launch(args, app, engine, job_id, state, trust)  # before anything of the child is stored
    client = JobSubmissionClient(
        app.store,
        app.registry,
        open_engine(engine, app.env),
        directory_of=lambda job: JobDir.of(job, app.env),
    )
    with packed_here(app) if args.auto else contextlib.nullcontext(None) as packed:
        submission = Submission(
            job_id=job_id,
            study=manifest.study,
            bundle=manifest.bundle if packed is None else packed.digest,
            packed=packed,
            only=only,
            parent_job_id=state.job_id,
            owner=state.owner,
            labels=state.labels,
        )
        return job_id, client.submit(submission, launch).warnings


def _again(
    args: argparse.Namespace, app: App, state: JobState, trust: Trust, *, is_delivered: bool
) -> tuple[str, tuple[str, ...]]:
    _refuse_new_code(args)
    engine = open_engine(_engine(state.engine), app.env, trust)
    phase = engine.state(state.fields()).phase
    if phase in ("pending", "running"):
        if is_delivered:  # and its runner, which waits for it, goes on
            return args.job, ()
        raise JobBusyError(f"Job {args.job} is still running: nothing to resume.", job_id=args.job)
    if phase in ("succeeded", "failed"):
        raise UsageError(
            f"The {engine.name} engine says that job {args.job} has {phase}; its record does not know it yet.",
            hint="Run: mops-jobs reconcile, then resume it.",
        )
    launched = engine.launch(_launch(args, app, engine.name, args.job, state, trust))
    try:
        record_launch(app.registry, args.job, launched_fields(launched))
    except (StoreError, TooManyRetriesError) as error:
        return args.job, (f"{error} The job is launched; its record follows.",)
    return args.job, ()


def _without_registry(args: argparse.Namespace, app: App, outage: StoreUnavailableError) -> tuple[str, tuple[str, ...]]:
    """Let a job go on that this machine knows of by itself, since it was submitted into the same outage.

    Raises:
        StoreUnavailableError: it is none of these.
        JobBusyError: it is at work.
    """
    manifest, fields = load_offline(JobDir.of(args.job, app.env), args.job)
    if manifest is None or manifest.engine not in HERE:
        raise outage
    _refuse_new_code(args)
    engine = open_engine(manifest.engine, app.env)
    _let_go(engine.name, {"job_id": args.job}, app)
    if engine.state({"job_id": args.job}).phase == "running":
        raise JobBusyError(f"Job {args.job} is still running: nothing to resume.", job_id=args.job)
    engine.launch(_launch(args, app, engine.name, args.job, fields, None))
    return args.job, (f"{outage} The job goes on without it.",)


def _let_go(engine: str, job: Mapping[str, object], app: App) -> bool:
    """Wait a moment, at most a second, for a runner of this machine that seems to be at work, but may be none.

    One that was killed may have left a worker that is just being started, which holds the runner's lock for some
    hundredths of a second, until it has begun. Tells whether something was waited for: the job may have ended by then.
    """
    end = app.monotonic() + PROBE_SECONDS
    has_waited = False
    while engine in HERE and open_engine(engine, app.env).state(job).phase == "running":
        if app.monotonic() >= end:
            break
        app.sleep(PROBE_SECONDS / 20)
        has_waited = True
    return has_waited


def _refuse_new_code(args: argparse.Namespace) -> None:
    if args.auto:
        raise UsageError(
            f"Job {args.job} has not ended: it goes on with the code that it has.",
            hint=f"For other code end it first: {command_line('cancel', args.job)}",
        )


def _engine(name: str | None) -> str:
    return name or "local"


def _launch(
    args: argparse.Namespace,
    app: App,
    engine: str,
    job_id: str,
    state: JobState | Mapping[str, object],
    trust: Trust | None,
) -> Launch:
    """The launch that a record tells of, or what is to become one, with what the flags say instead.

    Args:
        args: the flags.
        app: the run.
        engine: where it will be.
        job_id: of the job that is launched.
        state: its record, or that of its parent; or the fields that this machine keeps for one.
        trust: what the user has named of that which records choose; None: the fields are of this machine.

    Raises:
        UsageError: it makes no sense; or nobody has said what a cluster is to run.
    """
    fields = state.fields() if isinstance(state, JobState) else state
    metadata, namespace = fields.get("metadata"), fields.get("k8s_namespace")
    told = recorded_launch(metadata, engine) if isinstance(metadata, Mapping) else {}
    if engine == "local" and trust is not None and args.python is None:
        told = _without_unknown_python(told, args.job, app, trust)
    options = cluster_options(args, engine)
    shards = args.shards
    if engine == "dask":
        options = dask_options(args, app, told.get("scheduler"))
    elif args.scheduler is not None:
        raise UsageError(f"--scheduler has no effect with the {engine} engine.")
    if engine == "kubernetes":
        options = {**recorded_options(str(namespace) if namespace else None, told), **options}
        shards = shards or recorded_shards(told)
    launch = Launch(
        job_id=job_id,
        registry_url=app.settings.registry.value,
        shards=shards or 1,
        options=options,
        **launched_as(args, engine, app.env, told)._asdict(),
    )
    if engine == "kubernetes":
        from mopsjobs.engines.kubernetes.manifest import check_launch

        check_launch(launch, app.env)
    return launch
