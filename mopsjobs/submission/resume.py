"""Resume a job: run the tasks that have no complete outputs.

A job that has ended gets a child job with the missing tasks. A job whose runner has died is launched again. What this
machine keeps of a job that was submitted without the registry is delivered first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shlex
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mopsjobs.bundles.packing import read_archive
from mopsjobs.engines import ENGINES, LOCAL_ENGINES, open_engine
from mopsjobs.engines.base import Launch, recorded_launch
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.local import PROBE_SECONDS
from mopsjobs.engines.model_env import active_python
from mopsjobs.engines.slurm.options import SETUP_VARIABLE
from mopsjobs.engines.trust import Trust, choices_of, choices_of_last_launch, not_trusted_error, remembered_names
from mopsjobs.errors import (
    EngineError,
    EnginePlaceError,
    JobBusyError,
    JobExistsError,
    NoManifestError,
    UsageError,
    command_line,
    shorten,
)
from mopsjobs.registry.job_id import check_new_job_id
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.status import ARCHIVED, JobStatus
from mopsjobs.registry.transitions import is_correctable
from mopsjobs.studies.adaptive import reusable_tasks
from mopsjobs.studies.lineage import read_later_jobs
from mopsjobs.studies.manifest import Manifest, Origin, Reuse, load_manifest
from mopsjobs.studies.outputs import Completeness, SizesOf, find_complete_tasks, missing_tasks
from mopsjobs.studies.reductions import lacks_reductions
from mopsjobs.submission.client import launch_again, submit_job
from mopsjobs.submission.infer_end import RunnerEnd, infer_end
from mopsjobs.submission.launch_options import RECORDED, LaunchOptions
from mopsjobs.submission.launching import grown_options, make_launch, recorded_options
from mopsjobs.submission.model_check import check_functions
from mopsjobs.submission.offline import complete_end, deliver_offline, deliver_shards
from mopsjobs.submission.session import Session
from mopsjobs.submission.shard_drop import find_drop, may_lack_files
from mopsjobs.submission.submit import Code, pack_code
from mopsjobs.utils.text import pluralize
from mopsjobs.version import __version__

OF_TASKS = frozenset(RECORDED) - {"workers", "shards"}
"""Options of a launch that hold on another engine, too."""

DEFAULT_ENGINE = "local"
"""Of a record that names no engine."""


class TaskChoice(NamedTuple):
    """Tasks that were chosen by how they ended, by their numbers in the study."""

    tasks: frozenset[int]
    known: frozenset[int] | None = None
    """Those of which a ledger tells how they ended; None: all."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ResumeRequest:
    """A job to resume, and how."""

    job_id: str
    """The full id."""
    options: LaunchOptions = dataclasses.field(default_factory=LaunchOptions)
    """How its runner works. What is None here is as the record says."""
    engine: str | None = None
    """Where the child job runs; None: where the job ran."""
    code: Code | None = None
    """Other code for the child job; None: the job's own."""
    only: TaskChoice | None = None
    """The tasks to run, if they are missing. The child leaves the others to a later resume. None: all that are
    missing."""
    sizes_of: SizesOf | None = None
    """Tells the sizes that outputs are to have; None: any."""


class ResumeResult(NamedTuple):
    """The result of resuming a job."""

    job_id: str | None
    """The job that runs: the job itself or its child; None: no task is missing, and nothing was launched."""
    tasks: int = 0
    """Its tasks to do."""
    warnings: tuple[str, ...] = ()


class Resumable(NamedTuple):
    """A job that is ready for `resume_job`."""

    request: ResumeRequest
    state: JobState
    manifest: Manifest
    tasks: tuple[int, ...]
    """The tasks to run, by their numbers in the study."""
    deferred: tuple[int, ...]
    """The other tasks without complete outputs, which the child leaves to a later resume."""
    is_delivered: bool
    """Whether this machine has just delivered what it kept of the job."""
    choices: tuple[str, ...]
    """The choices that only the record makes; see `engines.trust`. `resume_job` needs trust in each."""
    found: Completeness
    """The tasks with complete outputs."""


def resume(request: ResumeRequest, session: Session, trust: Trust, *, yes: bool = False) -> ResumeResult:
    """Resume a job.

    Args:
        request: the job, and how.
        session: the registry, the environment, the clocks and the messages.
        trust: the choices that the user has named.
        yes: whether the user knows that a runner elsewhere has died.

    Raises:
        NotTrustedError: if the record makes a choice that the user has not named. Nothing was launched.
        MopsJobsError: if the job cannot be resumed; see `prepare_resume` and `resume_job`.
    """
    job = prepare_resume(request, session)
    return job if isinstance(job, ResumeResult) else resume_job(job, session, trust, yes=yes)


def prepare_resume(request: ResumeRequest, session: Session) -> Resumable | ResumeResult:
    """Deliver what this machine keeps of a job, and find out what is missing.

    A job that lacks nothing is settled here.

    Raises:
        JobNotFoundError: if the job does not exist.
        NoManifestError: if the job was reported, not submitted.
        UsageError: if the choice of tasks is not possible, or if the job is a calibration that has ended.
        StoreError: if the registry cannot be read.
        JobBusyError: if its runner is at work, or if shards of a job that has ended may still leave outputs.
        EnginePlaceError: if the record names an unknown engine.
        EngineError: if Slurm does not answer, and shards may have kept outputs; or see `find_drop`.
    """
    job_id, registry = request.job_id, session.registry
    registry.key_of(job_id)  # refuses an invalid id, before it becomes a path
    is_delivered = _deliver(job_id, session)
    state = registry.get_job(job_id) or _register(job_id, session)
    if not state.is_terminal and _await_end_of_runner(_engine_name(state), state.fields(), session):
        state = registry.get_job(job_id) or state
    state = complete_end(deliver_shards(state, session), session, is_delivered=is_delivered)
    manifest = load_manifest(session.store, job_id)
    sizes = None
    if request.sizes_of is not None and state.is_terminal:  # else its runner goes on, and takes any size
        sizes = request.sizes_of([manifest])
    found = find_complete_tasks(session.store, manifest, sizes, keeps_all=True)
    missing = missing_tasks(manifest, found)
    deferred: tuple[int, ...] = ()
    tasks = missing
    _refuse_choice(request, manifest)
    if state.is_terminal:
        missing = tuple(sorted({*missing, *manifest.deferred}))
        tasks, deferred = _choose(request.only, manifest, missing)
    else:
        _refuse_change(request, state)
    is_whole = not tasks
    if state.is_terminal and is_whole and (request.only is not None or not lacks_reductions(session.store, manifest)):
        if not missing and is_correctable(state):
            infer_end(state, RunnerEnd(), session, request.sizes_of)
        return ResumeResult(None, warnings=_unknown_ends(request, manifest, missing))
    if state.is_terminal and manifest.calibration is not None:
        raise UsageError(
            f"Job {job_id} is a calibration that has ended: its sampler would not be told of further tasks.",
            hint=f"Go on with it in another job: {command_line('calibrate', job_id, '--rounds N')}",
        )
    if find_drop(state, session) is not None and _has_left_all(state, session, is_whole=is_whole):
        deliver_shards(infer_end(state, RunnerEnd(), session).state, session)  # no shard ends such a job
        return ResumeResult(None)
    engine = _engine_name(state)
    is_elsewhere = request.engine not in (None, engine)  # then the user makes all choices
    choices = () if is_elsewhere else record_choices(state, engine, request.options, session.env)
    return Resumable(request, state, manifest, tasks, deferred, is_delivered, choices, found)


def _choose(only: TaskChoice | None, manifest: Manifest, missing: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Return the missing tasks that are to run, and the others. A task that repeats another one is as that."""
    if only is None:
        return missing, ()
    first_of = manifest.study.duplicate_tasks()
    chosen = {task for task in missing if first_of.get(task, task) in only.tasks}
    return tuple(sorted(chosen)), tuple(task for task in missing if task not in chosen)


def _reused_by_child(job: Resumable) -> tuple[Reuse, ...]:
    """Return the tasks of an adaptive study that the child of a job has without running them.

    It has all tasks of the study, since decisions may need any of them. Their values up to here are those of its
    parent, or of a source of that.
    """
    manifest, found, by_source = job.manifest, job.found, dict[tuple[str, str], list[int]]()
    if manifest.study.precision is not None:
        is_worth = reusable_tasks(manifest.study, found.values)
        for number in filter(is_worth.__getitem__, found.values):
            source = (manifest.source_of(number) if found.reused[number] else None) or manifest
            by_source.setdefault((source.job_id, source.bundle), []).append(number)
    return tuple(Reuse.of(*source, sorted(numbers)) for source, numbers in by_source.items())


def _unknown_ends(request: ResumeRequest, manifest: Manifest, missing: tuple[int, ...]) -> tuple[str, ...]:
    """Return the warning that missing tasks could not be chosen, since how they ended is not known."""
    if request.only is None or request.only.known is None:
        return ()
    first_of = manifest.study.duplicate_tasks()
    unknown = sum(first_of.get(task, task) not in request.only.known for task in missing)
    if not unknown:
        return ()
    return (f"How {pluralize(unknown, 'missing task')} ended is not known: no ledger tells it.",)


def _has_left_all(state: JobState, session: Session, *, is_whole: bool) -> bool:
    """Return whether the shards of a job, which report by files, have stopped and have left all that it needs.

    Raises:
        JobBusyError: if tasks would run twice: shards of an ended job have not stopped, or their files may be unseen.
        EngineError: if Slurm does not answer.
    """
    engine, job = open_engine("slurm", session.env), state.fields()
    hint = f"Resume it in a minute or two: {command_line('resume', state.job_id)}"
    if engine.state(job).may_be_at_work:
        if not state.is_terminal:
            return False  # which `resume_job` looks at
        problem = f"Shards of job {state.job_id} may still be at work, and leave outputs until they stop."
        raise JobBusyError(problem, job_id=state.job_id, hint=hint)
    if may_lack_files(state, session, engine.times(job).ended_at):
        problem = f"Files of job {state.job_id} may be unseen here: its shards ended lately on a network file system."
        raise JobBusyError(problem, job_id=state.job_id, hint=hint)
    return is_whole


def resume_job(job: Resumable, session: Session, trust: Trust, *, yes: bool = False) -> ResumeResult:
    """Launch the child of a job that has ended, or a job that has not ended again. See `resume`.

    Raises:
        NotTrustedError: if the record makes a choice that the user has not named. Nothing was launched.
        JobBusyError: if its runner is at work, or may be elsewhere, or if the job has been resumed before.
        UsageError: if an option is not valid, or if a job that has not ended is to get other code.
        EngineError: if the launch failed.
        StoreError: if the registry cannot be read.
    """
    untrusted = [choice for choice in job.choices if not trust.allows(choice)]
    if untrusted:
        raise not_trusted_error({choice: [job.state.job_id] for choice in untrusted}, "nothing was launched")
    return _submit_child(job, session, trust) if job.state.is_terminal else _launch_again(job, session, trust, yes=yes)


def _deliver(job_id: str, session: Session) -> bool:
    directory = JobDir.for_job(job_id, session.env)
    is_delivered = deliver_offline(directory, job_id, session)
    if is_delivered:
        session.note(f"{job_id}: delivered what this machine kept of it while the registry did not answer")
    return is_delivered


def _register(job_id: str, session: Session) -> JobState:
    """Register a job whose submission, or whose runner, stored a manifest and died before it wrote a record.

    Raises:
        JobNotFoundError: if the job does not exist.
    """
    try:
        manifest = load_manifest(session.store, job_id)
    except NoManifestError:
        raise session.registry.not_found(job_id) from None
    with contextlib.suppress(JobExistsError):
        return session.registry.register_job(job_id, **manifest.record_fields())
    return session.registry.get_job(job_id) or _register(job_id, session)


def _submit_child(job: Resumable, session: Session, trust: Trust) -> ResumeResult:
    """Submit the missing tasks as a new job.

    Raises:
        JobBusyError: if the job has been resumed before, or is being resumed by another process.
    """
    request, state = job.request, job.state
    later, next_id = read_later_jobs(session.registry, state)
    if later:
        raise _resumed_error(state, later)
    job_id = check_new_job_id(next_id)
    # The launch is made before anything of the child is stored: it may be invalid.
    engine = request.engine or _engine_name(state)
    opened = open_engine(engine, session.env)
    launch = _make_launch(job_id, engine, request, state, session, trust)
    origin, named = job.manifest.origin, request.options.notify
    with contextlib.nullcontext(None) if request.code is None else pack_code(request.code, session) as packed:
        manifest = Manifest(
            job_id=job_id,
            study=job.manifest.study,
            bundle=job.manifest.bundle if packed is None else packed.digest,
            only=job.tasks if job.manifest.study.precision is None else None,
            deferred=job.deferred,
            parent_job_id=state.job_id,
            reused=_reused_by_child(job),
            engine=engine,
            owner=state.owner,
            labels={label: value for label, value in state.labels.items() if label != ARCHIVED},
            origin=Origin(__version__, packed.git if packed is not None else origin and origin.git),
        )
        notify = named if named is not None else remembered_names(JobDir.for_job(state.job_id, session.env))
        if packed is not None:
            check_functions(job.manifest.study, engine, launch, functools.partial(read_archive, packed), session)
        unknown = _unknown_ends(request, job.manifest, (*job.tasks, *job.deferred))
        try:
            warnings = submit_job(opened, session, manifest, launch, packed, notify).warnings
        except JobExistsError:
            if later := read_later_jobs(session.registry, state).jobs:  # another process was faster
                raise _resumed_error(state, later) from None
            raise
        return ResumeResult(job_id, len(job.tasks), (*unknown, *warnings))


def _resumed_error(state: JobState, later: Sequence[JobState]) -> JobBusyError:
    newest, names = later[-1], " and ".join(job.job_id for job in later)  # only the newest can be resumed
    verb = "wait" if not newest.is_terminal else "results" if newest.status == JobStatus.SUCCEEDED else "resume"
    problem = f"Job {state.job_id} was resumed as {names}, which is {newest.status}."
    return JobBusyError(problem, job_id=state.job_id, hint=f"Run: {command_line(verb, newest.job_id)}")


def _launch_again(job: Resumable, session: Session, trust: Trust, *, yes: bool) -> ResumeResult:
    """Launch a job whose runner has died.

    Raises:
        JobBusyError: if its runner is at work, or may be on another cluster or, unless `yes`, on another machine.
        UsageError: if the engine knows its end, and the record does not.
    """
    request, state = job.request, job.state
    engine = open_engine(_engine_name(state), session.env, trust)
    phase, reason, detail, *_ = engine.state(state.fields())
    resumed = ResumeResult(state.job_id, len(job.tasks))
    if phase in ("pending", "running"):
        if job.is_delivered:  # its runner was waiting for the delivery
            return resumed
        raise _still_running_error(state.job_id)
    if phase in ("succeeded", "failed"):
        raise UsageError(
            f"The {engine.name} engine says that job {state.job_id} has {phase}; its record does not know it yet.",
            hint=f"Run: {command_line('reconcile')}, then resume it.",
        )
    if reason == "OtherCluster":
        problem, hint = f"Job {state.job_id} may be running: {detail}.", "Resume it on a login node of that cluster."
        raise JobBusyError(problem, job_id=state.job_id, hint=hint)
    was_launched = state.status not in (JobStatus.PENDING, JobStatus.SUBMITTING)
    if was_launched and reason in ("NotHere", "OtherMachine") and not yes:
        problem = (
            f"The runner of job {state.job_id} was not launched here. If it is at work, its tasks would run twice."
        )
        error = JobBusyError(problem, job_id=state.job_id, hint="If it has died, add --yes (yes=True in Python).")
        error.is_question = True
        raise error
    launch = _make_launch(state.job_id, engine.name, request, state, session, trust)
    return resumed._replace(warnings=launch_again(state, engine, launch, request.options.notify, session))


def _still_running_error(job_id: str) -> JobBusyError:
    return JobBusyError(f"Job {job_id} is still running: nothing to resume.", job_id=job_id)


def _await_end_of_runner(engine: str, job: Mapping[str, object], session: Session) -> bool:
    """Wait up to `PROBE_SECONDS` for the end of a runner of this machine that may be dead already.

    A killed runner may have left a worker that is just being started, and holds the runner's lock for an instant.

    Returns:
        True if this has waited: the job may have ended meanwhile.
    """
    end = session.monotonic() + PROBE_SECONDS
    has_waited = False
    while engine in LOCAL_ENGINES and open_engine(engine, session.env).state(job).phase == "running":
        if session.monotonic() >= end:
            break
        session.sleep(PROBE_SECONDS / 20)
        has_waited = True
    return has_waited


def _refuse_choice(request: ResumeRequest, manifest: Manifest) -> None:
    """Refuse a choice of tasks of an adaptive study: a decision needs all replicates up to a look."""
    if request.only is not None and manifest.study.precision is not None:
        problem = f"Tasks of job {request.job_id} cannot be chosen: its study has a precision, which decides them."
        raise UsageError(problem, hint="Resume it without a choice of tasks.")


def _refuse_change(request: ResumeRequest, state: JobState) -> None:
    """Refuse what a job that has not ended cannot have: it has a manifest, and a place where it runs."""
    own = _engine_name(state)
    changes = (
        (request.engine not in (None, own), f"on the {own} engine", "change the engine"),
        (request.code is not None, "with its own code", "use other code"),
        (request.only is not None, "with all its tasks", "choose tasks"),
    )
    for is_asked, how, change in changes:
        if is_asked:
            problem = f"Job {request.job_id} has not ended: it continues {how}."
            raise UsageError(problem, hint=f"To {change}, end it first: {command_line('cancel', request.job_id)}")


def _engine_name(state: JobState) -> str:
    return state.engine or DEFAULT_ENGINE


def _make_launch(
    job_id: str, engine: str, request: ResumeRequest, state: JobState, session: Session, trust: Trust
) -> Launch:
    """Return the next launch of a job, or that of its child. What the request leaves open is as in the earlier launch.

    Args:
        job_id: the job to launch.
        engine: where it runs.
        request: the job to resume, and how.
        state: the record of the job to resume.
        session: the environment.
        trust: the choices that the user has named.

    Raises:
        UsageError, EngineError: see `make_launch`.
    """
    own = _engine_name(state)
    is_elsewhere = engine != own
    recorded = recorded_launch(state.metadata, own) if own in ENGINES else {}
    if is_elsewhere:
        recorded = {name: value for name, value in recorded.items() if name in OF_TASKS}
    if engine == "local" and request.options.python is None:
        recorded = without_unknown_python(recorded, request.job_id, session, trust)
    options = grown_options(request.options, engine, recorded)
    namespace = None if is_elsewhere else state.k8s_namespace or None
    return make_launch(job_id, engine, options, session, recorded=recorded, namespace=namespace)


def record_choices(state: JobState, engine: str, options: LaunchOptions, env: Mapping[str, str]) -> tuple[str, ...]:
    """Return the choices that only the record makes for the next launch; see `engines.trust`.

    What options or defaults say too is left out, and what this machine has launched the job with. The interpreter of
    the local engine is not among them: `without_unknown_python` has a default for it.

    Args:
        state: the record.
        engine: the engine that it names, or the default.
        options: what the user asks for.
        env: the environment.

    Raises:
        EnginePlaceError: if the record names an unknown engine.
    """
    if engine not in ENGINES:
        raise EnginePlaceError(
            f"Job {state.job_id} cannot be resumed: its record names the engine '{shorten(engine, 100)}', expected"
            f" {', '.join(ENGINES)}."
        )
    recorded = recorded_launch(state.metadata, engine)
    known = set(choices_of_last_launch(JobDir.for_job(state.job_id, env)))
    found = [] if engine == "local" else [f"engine:{engine}"]
    if engine == "dask" and options.scheduler is None and "scheduler" in recorded:
        found.append(f"dask:{recorded['scheduler']}")
        known |= set(choices_of({"scheduler": env.get("DASK_SCHEDULER_ADDRESS")}))
    if engine == "kubernetes":
        values = recorded_options(engine, recorded, state.k8s_namespace)
        found += choices_of({name: value for name, value in values.items() if name not in options.cluster})
        known |= _defaults_of_cluster(env, options.cluster.get("context") or recorded.get("context"))
    if engine == "slurm":
        named = {*options.cluster, *(() if options.python is None else ("python",))}
        found += choices_of({name: value for name, value in recorded.items() if name not in named})
        known |= set(choices_of({"python": active_python(env), "setup": env.get(SETUP_VARIABLE)}))
    return tuple(choice for choice in found if choice not in known)


def _defaults_of_cluster(env: Mapping[str, str], context: str | None) -> set[str]:
    """Return the choices that a launch on Kubernetes makes without a record, in a context."""
    from mopsjobs.engines.kubernetes.client import current_place
    from mopsjobs.engines.kubernetes.manifest import CONTEXT_VARIABLE
    from mopsjobs.engines.kubernetes.options import IMAGE_VARIABLE

    image, default_context = env.get(IMAGE_VARIABLE), env.get(CONTEXT_VARIABLE)
    found = choices_of({"image": image, "context": default_context})
    with contextlib.suppress(EngineError):  # the launch raises it again
        found += choices_of({"context": current_place(env)[0]})
    with contextlib.suppress(EngineError):
        found += choices_of({"namespace": current_place(env, context or default_context)[1]})
    return set(found)


def without_unknown_python(recorded: dict[str, str], job_id: str, session: Session, trust: Trust) -> dict[str, str]:
    """Return a recorded launch without its interpreter, if neither the user nor this machine has named that."""
    python = recorded.get("python")
    choice = f"python:{python}"
    if python is None or trust.allows(choice) or choice in choices_of_last_launch(JobDir.for_job(job_id, session.env)):
        return recorded
    default = active_python(session.env)
    if python != default:
        session.warn(
            f"Only the record of {job_id} names the interpreter {python}; the tasks run in"
            f" {default or 'the Python of mops-jobs'}. To use it: --python {shlex.quote(python)}"
        )
    return {name: value for name, value in recorded.items() if name != "python"}
