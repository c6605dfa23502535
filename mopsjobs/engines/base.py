"""The contract of an engine: launch a job, return its state and log lines, stop it. It never writes a record."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

from mopsjobs.engines import CLUSTER_ENGINES
from mopsjobs.errors import EXIT_REFUSED, EngineError
from mopsjobs.utils.sizes import format_size

Phase = Literal["pending", "running", "succeeded", "failed", "gone", "unknown"]
"""The phase of a job on an engine. `gone`: the engine does not know it; `unknown`: the engine cannot tell."""


class RefusedError(EngineError):
    """A cluster answers, and refuses the request as it is."""

    exit_code = EXIT_REFUSED


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TaskOptions:
    """Options of the tasks of a shard. None: the default of the runner."""

    workers: int | None = None
    """Worker processes per shard; None: one per core."""
    python: str | None = None
    """The model's interpreter: a path, or a name to look up on the PATH. With dask, a path on the workers."""
    task_timeout: float | None = None
    """Seconds a task may take, in all attempts that went on from each other; None: no limit."""
    attempt_timeout: float | None = None
    """Seconds an attempt at a task may take; None: no limit."""
    checkpoint_every: float | None = None
    """Seconds between two checkpoints of a task."""
    grace: float | None = None
    """Seconds that tasks with checkpoints may take to save, when the runner is told to stop."""
    allow_old_checkpoints: bool | None = None
    """Whether tasks may go on from checkpoints of other code."""
    task_memory: int | None = None
    """Bytes of memory a task may have; None: no limit."""
    retries: int | None = None
    """Attempts at a task after the first one, at most."""
    retry_on: str | None = None
    """The causes of further attempts, separated by commas; see `ledger.retry_policy.parse_causes`."""
    first: int | None = None
    """Tasks that run before the others; 0 for none."""
    max_failures: str | None = None
    """The limit of failed tasks: `10`, or `10%`; None: no limit."""
    max_cpu_hours: float | None = None
    """The processor time that the tasks of the job may use, in hours; None: no limit."""

    def of_tasks(self) -> dict[str, Any]:
        """Return these options alone, by their names."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(TaskOptions)}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Launch(TaskOptions):
    """A launch of the runner, on the shards of a job."""

    job_id: str
    registry_url: str
    """The registry of the runner, without secrets."""
    registry_id: str = ""
    """The identity of the registry; see `store.urls.identity`."""
    shards: int = 1
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Further environment of the runner. Not for secrets: it is stored in the cluster."""
    foreground: bool = False
    """Whether this process becomes the runner. The engine then only notes its process id. Only for engines whose runner
    is a process of this machine."""
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Options of the engine; see each engine."""


class LaunchResult(NamedTuple):
    """The result of a launch. The names go into the record; `show_command` shows the job without mops-jobs."""

    show_command: str
    k8s_name: str | None = None
    k8s_namespace: str | None = None
    k8s_uid: str | None = None
    metadata: Mapping[str, str] = MappingProxyType({})
    """Further fields for the metadata of the record, which only the launch knows. `launch_notes` has its options."""


class ShardEnd(NamedTuple):
    """The end of a shard that left tasks behind, as its engine saw it."""

    shard: int
    reason: str
    """The engine's word for it: `OOMKilled`, `Error`."""
    exit_code: int | None = None
    is_out_of_memory: bool = False
    message: str | None = None
    """The engine's sentence for it, if it has one."""

    def describe(self) -> str:
        """Return the end in words, such as `shard 3 OOMKilled (exit code 137)`."""
        code = None if self.exit_code is None else f"exit code {self.exit_code}"
        words = ": ".join(filter(None, (code, self.message)))
        return f"shard {self.shard} {self.reason}{f' ({words})' if words else ''}"


class EngineState(NamedTuple):
    """The state of a job on an engine: its phase, the reason in a word (`Evicted`), and in a sentence."""

    phase: Phase
    reason: str | None = None
    detail: str | None = None
    is_stuck: bool = False
    """Whether a pending job needs help. A job that only waits for its turn needs none."""
    lost: tuple[ShardEnd, ...] = ()
    """The shards that ended before their tasks; of a running job, those that are not tried again."""
    started_at: datetime | None = None
    """When the newest runner of a running job began, if the engine was asked; it need not have reported yet."""

    @property
    def may_be_at_work(self) -> bool:
        """Return whether the job may still run: the engine has it, or does not say."""
        return self.phase in ("pending", "running", "unknown")


class EngineTimes(NamedTuple):
    """The times of a job on its engine; None: the engine does not know."""

    started_at: datetime | None = None
    """When its first task may have begun."""
    ended_at: datetime | None = None


KUBERNETES_JOB = "kubernetes_job"
"""The member of metadata with the name of the Kubernetes Job that mops-jobs launched. It is not in `k8s_name`, since
ModelOps ends a record by the Job that it finds under that name. See docs/decisions/0094-names-of-kubernetes-jobs.md."""

PATCH = "pod_patch"
"""The option of the kubernetes engine with a patch of the pods. A record keeps its digest alone: a patch can mount and
run anything, so each launch takes it from its user."""

STOPS_AT = "MOPS_JOBS_STOPS_AT"
"""The variable of a runner with the time at which its engine stops it, in seconds since 1970."""

NOTE_PREFIXES = {"local": "local_", "kubernetes": "k8s_", "dask": "dask_", "slurm": "slurm_"}
"""Prefixes of the metadata that keep the options of a launch, for each engine: `local_python`, `k8s_image`, ... A later
launch of the job repeats these options."""


def shard_prefix(shard: int, *, several: bool) -> str:
    """Return what stands in front of a log line of a shard; an empty text if the job has only one.

    A number in brackets is a task.
    """
    return f"shard {shard}: " if several else ""


def launch_fields(launch: Launch, engine: str) -> dict[str, Any]:
    """Return what a record keeps of a launch. It is written before the launch, which may fail."""
    fields: dict[str, Any] = {"metadata": launch_notes(launch, engine)}
    if engine == "kubernetes":
        # Without the uid of an earlier Job. The name follows from the job's id: a Job of that name may be another's.
        fields |= {"k8s_namespace": launch.options.get("namespace"), "k8s_name": None, "k8s_uid": None}
    return fields


def launch_notes(launch: Launch, engine: str) -> dict[str, str]:
    """Return the metadata that keep the options of a launch; `recorded_launch` reads them."""
    workers = {} if launch.workers is None else {"workers": str(launch.workers)}
    options = {**workers, **_limits(launch), **launch.options}
    if engine in CLUSTER_ENGINES:
        options["shards"] = str(launch.shards)
        options.pop("namespace", None)  # which is a field of its own
        if PATCH in options:
            import hashlib  # here: few launches have one

            options[PATCH] = f"sha256:{hashlib.sha256(str(options[PATCH]).encode()).hexdigest()}"
    return {NOTE_PREFIXES[engine] + name: value for name, value in options.items()}


SECONDS = ("task_timeout", "attempt_timeout", "checkpoint_every", "grace")
"""The options that a record keeps as numbers of seconds."""


def _limits(launch: Launch) -> dict[str, str]:
    """Return the interpreter of the model and the limits of its tasks, times in seconds."""
    limits = {
        "python": launch.python,
        **{name: None if (seconds := getattr(launch, name)) is None else f"{seconds:g}" for name in SECONDS},
        "allow_old_checkpoints": "yes" if launch.allow_old_checkpoints else None,
        "task_memory": None if launch.task_memory is None else format_size(launch.task_memory),
        "retries": launch.retries,
        "retry_on": launch.retry_on,
        "first": launch.first,
        "max_failures": launch.max_failures,
        "max_cpu_hours": None if launch.max_cpu_hours is None else f"{launch.max_cpu_hours:.12g}",
    }
    return {name: str(value) for name, value in limits.items() if value is not None}


def runner_flags(launch: Launch) -> list[str]:
    """Return the flags of `mops-jobs run` for the model and the limits of its tasks, as every engine gives them."""
    limits = {name: value + "s" if name in SECONDS else value for name, value in _limits(launch).items()}
    is_switched = limits.pop("allow_old_checkpoints", None) is not None
    flags = [word for name, value in limits.items() for word in (f"--{name.replace('_', '-')}", value)]
    return [*flags, "--allow-old-checkpoints"] if is_switched else flags


RUNNER_MEMORY = 256 * 2**20
"""Bytes for the runner of a shard, beside its tasks."""


def shard_memory(launch: Launch, workers: int) -> int | None:
    """Return the MiB of a shard whose tasks have a limit: one of them may be at its last, doubled limit."""
    if launch.task_memory is None:
        return None
    doublings = (launch.retries or 0) if "oom" in (launch.retry_on or "").split(",") else 0
    needed = (launch.task_memory << doublings) + (workers - 1) * launch.task_memory + RUNNER_MEMORY
    return math.ceil(needed / 2**20)


def shard_arguments(launch: Launch, where: Sequence[str], workers: int) -> list[str]:
    """Return the arguments of `mops-jobs` on a cluster, which sets the index of the shard in JOB_COMPLETION_INDEX."""
    arguments = ["run", launch.job_id, *where, "--shards", str(launch.shards), "--echo"]
    return [*arguments, "--workers", str(workers), *runner_flags(launch)]


def recorded_launch(metadata: Mapping[str, object], engine: str) -> dict[str, str]:
    """Return the options of the last launch on that engine, as far as the metadata of the record have them."""
    prefix = NOTE_PREFIXES[engine]
    return {
        name.removeprefix(prefix): value
        for name, value in metadata.items()
        if name.startswith(prefix) and isinstance(value, str) and value
    }


def last_launch(job: Mapping[str, object]) -> dict[str, str]:
    """Return the options of the last launch of a job, as far as its record has them."""
    engine, metadata = engine_of(job), job.get("metadata")
    return recorded_launch(metadata, engine) if engine in NOTE_PREFIXES and isinstance(metadata, Mapping) else {}


def kubernetes_name(job: Mapping[str, object]) -> str | None:
    """Return the name of the Kubernetes Job of a record, which another program or a launch of mops-jobs has noted."""
    metadata = job.get("metadata")
    name = job.get("k8s_name") or (metadata.get(KUBERNETES_JOB) if isinstance(metadata, Mapping) else None)
    return name if isinstance(name, str) and name else None


def engine_of(job: Mapping[str, object]) -> str | None:
    """Return the engine of a job. A record by another program may only name its Kubernetes Job."""
    return str(job["engine"]) if job.get("engine") else "kubernetes" if job.get("k8s_name") else None


class Engine(Protocol):
    """A place where tasks run.

    Every method may raise `EngineUnavailableError` if the engine cannot be reached, and `EngineAccessError` if it
    refuses the credentials or there are none. `EnginePlaceError` means that no job can be at the place that the record
    names, and `EngineError` stands for any other failure.
    """

    name: str

    def launch(self, launch: Launch) -> LaunchResult:
        """Start the runner of a job. A second launch of the same job starts nothing and raises `EngineError`."""

    def state(self, job: Mapping[str, object]) -> EngineState:
        """Return the state of the job with this record (as JSON types)."""

    def times(self, job: Mapping[str, object]) -> EngineTimes:
        """Return when the job with this record ran. It costs more than `state`."""

    def logs(
        self, job: Mapping[str, object], *, follow: bool = False, tail: int | None = None, since: float | None = None
    ) -> Iterator[str]:
        """Yield the log lines of a job, oldest first.

        An engine that does not have the model's lines (they are events of the job) yields the messages of its runner.
        These have no times and cannot be followed: only `tail` has an effect.

        Args:
            job: the record.
            follow: wait for further lines until the job ends, also before it starts.
            tail: only the last lines of those that exist, this many.
            since: only lines of the last seconds, this many.
        """

    def cancel(self, job: Mapping[str, object]) -> bool:
        """Stop the job. Return False if there was nothing to stop."""
