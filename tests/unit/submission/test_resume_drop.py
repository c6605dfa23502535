"""`resume` of a job whose shards report by files: what they left is read before tasks run again."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from mopsjobs.engines.base import EngineState, EngineTimes
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.errors import JobBusyError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.transitions import ShardReport
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies.manifest import load_manifest
from mopsjobs.submission import shard_drop
from mopsjobs.submission.resume import Resumable, ResumeRequest, ResumeResult, prepare_resume
from mopsjobs.submission.session import Session
from mopsjobs.submission.shard_drop import ShardDrop, fill_drop
from support.engines import COMPLETE, FAILED, GONE, PENDING, RUNNING, UNKNOWN, Cluster, state_of
from support.runs import code, place, results, sets_of, study

REQUEST = ResumeRequest(job_id="job")


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """Return a session whose registry has a running job of two tasks, each in a shard of its own."""
    registry = JobRegistry(InMemoryVersionedStore())
    env = {"XDG_STATE_HOME": str(tmp_path / "state"), "HOME": str(tmp_path)}
    session = Session(registry_url="memory:", open_registry=lambda: registry, env=env)
    manifest = place(registry.store, "job", study(sets_of(2)), code(tmp_path / "code"))
    metadata = {"slurm_file_drop": "yes", "slurm_shards": "2"}
    registry.register_job("job", engine="slurm", tasks_total=2, metadata=metadata)
    registry.update_status("job", "running")
    fill_drop(JobDir.for_job("job", env), manifest, registry.store)
    return session


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Return the Slurm of the tests, on a network file system."""
    cluster = Cluster(COMPLETE)
    for module in ("resume", "offline"):
        monkeypatch.setattr(f"mopsjobs.submission.{module}.open_engine", lambda name, env: cluster)
    monkeypatch.setattr(shard_drop, "network_file_system", lambda path: "nfs4")
    return cluster


def _leave(session: Session, shard: int) -> None:
    """Leave the output and the report of a shard, as its runner does."""
    drop = ShardDrop(JobDir.for_job("job", session.env).drop, shard)
    task = [task for _, task in load_manifest(drop, "job").tasks()][shard]
    drop.create_if_absent(f"results/job/{task.param_id}/{task.seed}/result.json", b"{}")
    registry = JobRegistry(drop)
    registry.register_job("job", engine="slurm", tasks_total=2)
    registry.report_shard("job", shard, 2, ShardReport(1, 0, is_done=True))


@pytest.mark.parametrize("says", [PENDING, RUNNING, UNKNOWN])
def test_a_cancelled_job_is_not_resumed_before_its_shards_have_stopped(
    session: Session, cluster: Cluster, says: EngineState
) -> None:
    """They store outputs until then, whose tasks would run twice."""
    session.registry.cancel_job("job")
    cluster.says = says
    with pytest.raises(JobBusyError, match="Shards of job job may still be at work"):
        prepare_resume(REQUEST, session)
    cluster.says = COMPLETE
    _leave(session, 0)
    job = prepare_resume(REQUEST, session)
    assert isinstance(job, Resumable)
    assert job.tasks == (1,)


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_no_job_is_resumed_while_files_of_its_shards_may_be_unseen(
    session: Session, cluster: Cluster, is_cancelled: bool
) -> None:
    """A directory with a file that is unseen here cannot be removed."""
    if is_cancelled:
        session.registry.cancel_job("job")
    _leave(session, 0)
    (JobDir.for_job("job", session.env).drop / "1").mkdir()
    (JobDir.for_job("job", session.env).drop / "1" / ".unseen").touch()
    cluster.ran = EngineTimes(None, session.now() - timedelta(seconds=10))
    with pytest.raises(JobBusyError, match="Files of job job may be unseen here"):
        prepare_resume(REQUEST, session)
    cluster.ran = EngineTimes(None, session.now() - timedelta(seconds=100))
    job = prepare_resume(REQUEST, session)
    assert isinstance(job, Resumable)
    assert job.tasks == (1,)


@pytest.mark.parametrize("says", [COMPLETE, FAILED, GONE])
def test_a_job_that_lacks_nothing_is_ended_and_not_launched(
    session: Session, cluster: Cluster, says: EngineState
) -> None:
    """No shard ends a job with a drop, so a launch would have nothing to do. Nothing stays in the drop."""
    _leave(session, 0)
    _leave(session, 1)
    cluster.says = says
    assert prepare_resume(REQUEST, session) == ResumeResult(None)
    state = state_of(session.registry, "job")
    assert (state.status, state.tasks_completed) == ("succeeded", 2)
    assert len(results(session.store)) == 2
    assert not JobDir.for_job("job", session.env).drop.exists()
