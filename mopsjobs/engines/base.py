"""The contract of an engine: launch a job, say how it is, pass on its log lines, stop it. It never writes a record."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol

Phase = Literal["pending", "running", "succeeded", "failed", "gone", "unknown"]
"""What an engine says of a job. `gone`: it knows of none by that name; `unknown`: it cannot say."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """What is to be launched: the runner, on so many shards of a job."""

    job_id: str
    registry_url: str
    """What the runner is to open; never with a secret in it."""
    shards: int = 1
    workers: int | None = None
    """Worker processes a shard; None: the cores it finds."""
    python: str | None = None
    """The model's interpreter; None: the active environment's."""
    task_timeout: float | None = None
    """Seconds a task may take; None: no limit."""
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Environment of the runner, besides what the engine brings. Not for secrets: it is stored in the cluster."""
    foreground: bool = False
    """Whether whoever launches it will be the runner itself. Only for an engine whose runner is a process of this
    machine; it then notes that, and starts nothing."""
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What only one engine understands; each says what it takes."""


class Launched(NamedTuple):
    """What a launch gave. The names go into the record; `look` is what to type to see the job without mops-jobs."""

    look: str
    k8s_name: str | None = None
    k8s_namespace: str | None = None
    k8s_uid: str | None = None
    metadata: Mapping[str, str] = MappingProxyType({})
    """What else of it the record keeps, in its metadata."""


class EngineState(NamedTuple):
    """How an engine says a job is: its phase, in one word why (`Evicted`, `DeadlineExceeded`), and in a sentence."""

    phase: Phase
    reason: str | None = None
    detail: str | None = None


NOTE_PREFIXES = {"local": "local_", "kubernetes": "k8s_", "dask": "dask_"}
"""The metadata of a record hold under it, an engine each, what its launch was told: `local_python`, `k8s_image`,
`k8s_secret` (its name), ... A launch for the same tasks is told the same."""


def launch_notes(launch: Launch, engine: str) -> dict[str, str]:
    """What the record keeps of a launch on that engine; `noted` reads it."""
    told = {
        "workers": None if launch.workers is None else str(launch.workers),
        "python": launch.python,
        "task_timeout": None if launch.task_timeout is None else f"{launch.task_timeout:g}",
        **launch.options,
    }
    return {NOTE_PREFIXES[engine] + name: value for name, value in told.items() if value is not None}


def recorded_launch(metadata: Mapping[str, object], engine: str) -> dict[str, str]:
    """What an earlier launch on that engine was told, as far as the metadata of its record tell."""
    prefix = NOTE_PREFIXES[engine]
    return {
        name.removeprefix(prefix): value
        for name, value in metadata.items()
        if name.startswith(prefix) and isinstance(value, str) and value
    }


def engine_of(job: Mapping[str, object]) -> str | None:
    """The engine that runs a job, by its record. One of another program names none, but its Kubernetes Job."""
    return str(job["engine"]) if job.get("engine") else "kubernetes" if job.get("k8s_name") else None


class Engine(Protocol):
    """One kind of place where tasks run.

    Raises, from every method: `EngineUnavailableError` when it cannot be reached, `EngineAccessError` when it refuses
    our credentials or there are none, `EnginePlaceError` when a record says that its job is where none can be,
    `EngineError` for anything else it answers.
    """

    name: str

    def launch(self, launch: Launch) -> Launched:
        """Start the runner of a job. Launching the same job again is an `EngineError`, and starts nothing."""

    def state(self, job: Mapping[str, object]) -> EngineState:
        """How the job is, whose record (as JSON types) this is."""

    def logs(
        self, job: Mapping[str, object], *, follow: bool = False, tail: int | None = None, since: float | None = None
    ) -> Iterator[str]:
        """Its log lines, oldest first; with `follow`, from before it has started until it has ended.

        An engine that keeps no lines of the model's, since they are the job's events, gives its runner's own messages:
        those that are there, as many as `tail` says. They have no times, and nobody follows them.

        Args:
            job: its record.
            follow: wait for more.
            tail: only the last so many of those that are there.
            since: only those of the last so many seconds.
        """

    def cancel(self, job: Mapping[str, object]) -> bool:
        """Stop it. False when there was nothing to stop."""
