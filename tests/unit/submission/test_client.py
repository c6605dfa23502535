"""The fields of a record that another launch sets, and when."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest

from mopsjobs.cache.rows import job_json_from_state
from mopsjobs.engines.base import Engine, Launch, LaunchResult
from mopsjobs.errors import EngineError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.submission.client import launch_again, relaunched_fields
from mopsjobs.submission.offline import record_launch
from mopsjobs.submission.session import Session
from mopsjobs.utils.times import record_time
from support.cli import START, LineStore

LAUNCHED = {"metadata": {"local_workers": "2"}}


def test_a_launch_is_a_sign_of_life_of_a_silent_job() -> None:
    """Its mark as suspect goes. If its runner stays silent too, the job is suspect again after the usual time."""
    registry, began_at = JobRegistry(InMemoryVersionedStore()), START + timedelta(hours=2)
    registry.register_job("job", metadata={"suspect": {"reason": "pod_gone"}, "local_workers": "1"})
    silent = registry.update_status("job", "running", heartbeat_at=record_time(START))
    assert job_json_from_state(silent, now=began_at.timestamp())["suspect"] == "pod_gone"
    record_launch(registry, "job", relaunched_fields(LAUNCHED, silent, began_at))
    state = registry.require_job("job")
    assert state.metadata == {"suspect": None, "local_workers": "2"}
    for seconds, suspect in ((60, None), (61, "no_update")):
        assert job_json_from_state(state, now=began_at.timestamp() + seconds)["suspect"] == suspect


def test_a_launch_on_a_cluster_is_none_of_a_job_that_never_reported() -> None:
    """A shard need not report before it runs."""
    registry = JobRegistry(InMemoryVersionedStore())
    state = registry.register_job("job", engine="slurm")
    assert relaunched_fields(LAUNCHED, state, START) == {"metadata": {"local_workers": "2"}}


def test_a_launch_is_a_sign_of_life_of_a_job_that_was_delivered_late() -> None:
    """It was submitted without the registry, hours ago by its record. Its new runner may take a minute to report."""
    registry = JobRegistry(InMemoryVersionedStore())
    late, now = registry.backdated_to(START), START + timedelta(hours=2)
    late.register_job("job", engine="local", metadata={"bundle": "sha256:0"})
    silent = late.update_status("job", "scheduled")
    assert job_json_from_state(silent, now=now.timestamp())["suspect"] == "no_update"
    record_launch(registry, "job", relaunched_fields(LAUNCHED, silent, now))
    for seconds, suspect in ((60, None), (61, "no_update")):
        state = registry.require_job("job")
        assert job_json_from_state(state, now=now.timestamp() + seconds)["suspect"] == suspect


BEGAN = START + timedelta(hours=2)
REPORTED = BEGAN + timedelta(seconds=3)


class Launching:
    """An engine that notes the record as it is during a launch, after which the line is up."""

    name = "slurm"

    def __init__(self, line: LineStore, registry: JobRegistry) -> None:
        self._line = line
        self._registry = registry
        self.is_reporting = True
        """Whether the runner reports before the launch returns."""
        self.seen: tuple[object, object] = (None, None)

    def launch(self, launch: Launch) -> LaunchResult:
        self._line.down = False
        self.seen = seen(self._registry)
        if self.is_reporting:
            self._registry.update_fields("job", heartbeat_at=record_time(REPORTED))
        return LaunchResult("squeue", metadata={"slurm_job_id": launch.job_id})


def seen(registry: JobRegistry) -> tuple[object, object]:
    """Return the mark as suspect, and the heartbeat."""
    state = registry.require_job("job")
    return state.metadata["suspect"], state.heartbeat_at


@pytest.mark.parametrize("is_down", [False, True])
def test_a_job_that_is_launched_again_is_not_silent_meanwhile(tmp_path: Path, is_down: bool) -> None:
    """A launch may take seconds. What a runner reports meanwhile stays. After an outage, the launch is noted later.

    The job stays suspect until its engine has taken the launch.
    """
    line = LineStore(InMemoryVersionedStore())
    registry = JobRegistry(line)
    registry.register_job("job", metadata={"suspect": {"reason": "pod_gone"}})
    silent = registry.update_status("job", "running", heartbeat_at=record_time(START))
    engine = Launching(line, registry)
    line.down, engine.is_reporting = is_down, not is_down
    env = {"XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    session = Session(registry_url="memory:", open_registry=lambda: registry, env=env, now=lambda: BEGAN)
    launch = Launch(job_id="job", registry_url="memory:")
    assert launch_again(silent, cast("Engine", engine), launch, None, session) == ()
    assert engine.seen == ({"reason": "pod_gone"}, record_time(START if is_down else BEGAN))
    assert seen(registry) == (None, record_time(BEGAN if is_down else REPORTED))
    assert registry.require_job("job").metadata["slurm_job_id"] == "job"


class Refusing(Launching):
    """An engine that refuses each launch."""

    def launch(self, launch: Launch) -> LaunchResult:
        raise EngineError(f"{launch.job_id} is refused.")


def test_a_refused_launch_leaves_a_job_suspect(tmp_path: Path) -> None:
    line = LineStore(InMemoryVersionedStore())
    registry = JobRegistry(line)
    registry.register_job("job", metadata={"suspect": {"reason": "pod_gone"}})
    silent = registry.update_status("job", "running", heartbeat_at=record_time(START))
    env = {"XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    session = Session(registry_url="memory:", open_registry=lambda: registry, env=env, now=lambda: BEGAN)
    launch = Launch(job_id="job", registry_url="memory:")
    with pytest.raises(EngineError):
        launch_again(silent, cast("Engine", Refusing(line, registry)), launch, None, session)
    assert seen(registry) == ({"reason": "pod_gone"}, record_time(BEGAN))
