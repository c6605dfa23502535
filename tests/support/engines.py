"""An engine of tests, and what it may say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mopsjobs.engines.base import EngineState, EngineTimes, LaunchResult
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import JobState
from support.cli import add

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import pytest

    from mopsjobs.engines.base import Launch

COMPLETE = EngineState("succeeded")
FAILED = EngineState("failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
GONE = EngineState("gone", "K8sJobMissing", "Job a was not found in namespace models")
RUNNING = EngineState("running")
PENDING = EngineState("pending")
SUSPENDED = EngineState("pending", "Suspended", "the Job is suspended by kubectl-patch")
NO_IMAGE = EngineState("pending", "ImagePullBackOff", "no such image", is_stuck=True)
EVICTED = EngineState("pending", "Evicted", "1 of its pods were evicted", is_stuck=True)
UNKNOWN = EngineState("unknown")


class Cluster:
    """An engine that says what it is told to; `meanwhile` happens while it is asked."""

    name = "kubernetes"

    def __init__(self, says: EngineState | Exception) -> None:
        self.says = says
        self.ran = EngineTimes()
        self.asked: list[object] = []
        self.meanwhile: Callable[[], object] = lambda: None

    def state(self, job: Mapping[str, object]) -> EngineState:
        self.asked.append(job["job_id"])
        self.meanwhile()
        if isinstance(self.says, Exception):
            raise self.says
        return self.says

    def times(self, job: Mapping[str, object]) -> EngineTimes:
        return self.ran

    def launch(self, launch: Launch) -> LaunchResult:
        raise NotImplementedError

    def logs(self, job: Mapping[str, object], **how: Any) -> Iterator[str]:
        raise NotImplementedError

    def cancel(self, job: Mapping[str, object]) -> bool:
        return True


class Nowhere:
    """An engine that launches nothing."""

    name = "local"

    def launch(self, launch: Launch) -> LaunchResult:
        return LaunchResult(show_command="", metadata={})


def add_kubernetes_job(registry: JobRegistry, status: str, job_id: str = "a", **fields: Any) -> JobState:
    """Register a job of the kubernetes engine, bring it to a status, and return its state."""
    add(registry, job_id, status, **{"engine": "kubernetes", "k8s_name": job_id, "namespace": "models", **fields})
    return state_of(registry, job_id)


def answer_for_all(monkeypatch: pytest.MonkeyPatch, cluster: Cluster) -> Cluster:
    """Make this the engine that commands ask, whatever its name. Return it."""
    for module in ("following.log_source", "jobs.reconcile"):
        monkeypatch.setattr(f"mopsjobs.app.{module}.open_engine", lambda name, env, trust=None: cluster)
    return cluster


def state_of(registry: JobRegistry, job_id: str = "a") -> JobState:
    """Return the state of a job, which has to be there."""
    state = registry.get_job(job_id)
    assert state is not None
    return state
