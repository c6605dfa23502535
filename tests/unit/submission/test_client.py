"""The fields of a record that another launch sets."""

from __future__ import annotations

from datetime import timedelta

from mopsjobs.cache.rows import job_json_from_state
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.submission.client import relaunched_fields
from mopsjobs.submission.offline import record_launch
from mopsjobs.utils.times import record_time
from support.cli import START

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


def test_a_launch_is_none_of_a_job_whose_runner_never_reported() -> None:
    """It need not report before it runs."""
    registry = JobRegistry(InMemoryVersionedStore())
    state = registry.register_job("job")
    assert relaunched_fields(LAUNCHED, state, START) == {"metadata": {"local_workers": "2"}}
