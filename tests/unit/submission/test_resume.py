"""What shards on Slurm left is delivered before a job is resumed: their outboxes, journals and drops of files."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from pathlib import Path

import pytest

from mopsjobs.app.jobs.reconcile import reconcile
from mopsjobs.engines.base import EngineState, EngineTimes
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.errors import JobBusyError
from mopsjobs.ledger.writer import Entry, JournalFile, journal_path
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.transitions import ShardReport
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from mopsjobs.studies.manifest import Manifest, load_manifest, manifest_key
from mopsjobs.studies.study_parser import parse_study
from mopsjobs.submission import shard_drop
from mopsjobs.submission.offline import deliver_shards
from mopsjobs.submission.resume import Resumable, ResumeRequest, ResumeResult, prepare_resume
from mopsjobs.submission.session import Session
from mopsjobs.submission.shard_drop import ShardDrop, fill_drop
from support.cli import add
from support.engines import COMPLETE, FAILED, GONE, PENDING, RUNNING, UNKNOWN, Cluster, state_of
from support.ledgers import attempt, attempts_in
from support.runs import code, place, results, sets_of, study

REQUEST = ResumeRequest(job_id="job")


@pytest.fixture
def dropping(tmp_path: Path) -> Session:
    """Return a session whose registry has a running job of two tasks, each in a shard of its own."""
    registry = JobRegistry(InMemoryVersionedStore())
    env = {"XDG_STATE_HOME": str(tmp_path / "state"), "HOME": str(tmp_path)}
    dropping = Session(registry_url="memory:", open_registry=lambda: registry, env=env)
    manifest = place(registry.store, "job", study(sets_of(2)), code(tmp_path / "code"))
    metadata = {"slurm_file_drop": "yes", "slurm_shards": "2"}
    registry.register_job("job", engine="slurm", tasks_total=2, metadata=metadata)
    registry.update_status("job", "running")
    fill_drop(JobDir.for_job("job", env), manifest, registry.store)
    return dropping


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Return the Slurm of the tests, on a network file system."""
    cluster = Cluster(COMPLETE)
    for module in ("resume", "offline"):
        monkeypatch.setattr(f"mopsjobs.submission.{module}.open_engine", lambda name, env: cluster)
    monkeypatch.setattr(shard_drop, "network_file_system", lambda path: "nfs4")
    return cluster


def _leave(dropping: Session, shard: int) -> None:
    """Leave the output and the report of a shard, as its runner does."""
    drop = ShardDrop(JobDir.for_job("job", dropping.env).drop, shard)
    task = [task for _, task in load_manifest(drop, "job").tasks()][shard]
    drop.create_if_absent(f"results/job/{task.param_id}/{task.seed}/result.json", b"{}")
    registry = JobRegistry(drop)
    registry.register_job("job", engine="slurm", tasks_total=2)
    registry.report_shard("job", shard, 2, ShardReport(1, 0, is_done=True))


@pytest.mark.parametrize("says", [PENDING, RUNNING, UNKNOWN])
def test_a_cancelled_job_is_not_resumed_before_its_shards_have_stopped(
    dropping: Session, cluster: Cluster, says: EngineState
) -> None:
    """They store outputs until then, whose tasks would run twice."""
    dropping.registry.cancel_job("job")
    cluster.says = says
    with pytest.raises(JobBusyError, match="Shards of job job may still be at work"):
        prepare_resume(REQUEST, dropping)
    cluster.says = COMPLETE
    _leave(dropping, 0)
    job = prepare_resume(REQUEST, dropping)
    assert isinstance(job, Resumable)
    assert job.tasks == (1,)


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_no_job_is_resumed_while_files_of_its_shards_may_be_unseen(
    dropping: Session, cluster: Cluster, is_cancelled: bool
) -> None:
    """A directory with a file that is unseen here cannot be removed."""
    if is_cancelled:
        dropping.registry.cancel_job("job")
    _leave(dropping, 0)
    (JobDir.for_job("job", dropping.env).drop / "1").mkdir()
    (JobDir.for_job("job", dropping.env).drop / "1" / ".unseen").touch()
    cluster.ran = EngineTimes(None, dropping.now() - timedelta(seconds=10))
    with pytest.raises(JobBusyError, match="Files of job job may be unseen here"):
        prepare_resume(REQUEST, dropping)
    cluster.ran = EngineTimes(None, dropping.now() - timedelta(seconds=100))
    job = prepare_resume(REQUEST, dropping)
    assert isinstance(job, Resumable)
    assert job.tasks == (1,)


@pytest.mark.parametrize("says", [COMPLETE, FAILED, GONE])
def test_a_job_that_lacks_nothing_is_ended_and_not_launched(
    dropping: Session, cluster: Cluster, says: EngineState
) -> None:
    """No shard ends a job with a drop, so a launch would have nothing to do. Nothing stays in the drop."""
    _leave(dropping, 0)
    _leave(dropping, 1)
    cluster.says = says
    assert prepare_resume(REQUEST, dropping) == ResumeResult(None)
    state = state_of(dropping.registry, "job")
    assert (state.status, state.tasks_completed) == ("succeeded", 2)
    assert len(results(dropping.store)) == 2
    assert not JobDir.for_job("job", dropping.env).drop.exists()


def test_a_job_whose_shards_are_at_work_is_not_ended(dropping: Session, cluster: Cluster) -> None:
    """`resume_job` then says that it is still running."""
    _leave(dropping, 0)
    _leave(dropping, 1)
    cluster.says = RUNNING
    assert isinstance(prepare_resume(REQUEST, dropping), Resumable)
    assert state_of(dropping.registry, "job").status == "validating"


STUDY = {"model": "m", "scenario": "s", "parameter_sets": [{"x": 1}, {"x": 2}], "n_replicates": 1, "outputs": ["o"]}


def _submit(session: Session, engine: str = "slurm", status: str = "partial") -> None:
    """Leave a job whose first task is complete, and the output of the second one in the outbox of shard 1.

    The attempt at that task is in the journal of the shard, beside one that was lost with its runner.
    """
    study = parse_study(STUDY, "in the test")
    manifest = Manifest(job_id="job", study=study, bundle="sha256:" + "0" * 64, only=None, parent_job_id=None)
    session.store.create_if_absent(manifest_key("job"), manifest.to_json())
    add(session.registry, "job", status, engine=engine)
    first, second = (f"results/job/{task.param_id}/{task.seed}/o" for _, task in manifest.tasks())
    session.store.create_if_absent(first, b"x")
    shards = Path(session.env["XDG_STATE_HOME"]) / "mops-jobs/jobs/job/shards"
    for number, key in ((0, None), (1, second)):
        directory = JobDir.for_job("job", {"XDG_STATE_HOME": str(shards / str(number))})
        directory.path.mkdir(parents=True)
        with contextlib.closing(SQLiteVersionedStore(directory.outbox)) as outbox:
            if key is not None:
                outbox.create_if_absent(key, b"x")
            else:
                outbox.get("any")  # as a runner that kept nothing leaves it
    file = JournalFile(journal_path(directory.ledger(1), "a1", 0))
    file.append([Entry(attempt(1, output_bytes=1)), Entry(attempt(0, output_bytes=1))])
    file.close()
    (shards / "2").mkdir()  # a shard that has not begun


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def session(tmp_path: Path, notes: list[str]) -> Session:
    registry = JobRegistry(InMemoryVersionedStore())
    env = {"XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    return Session(registry_url="memory:", open_registry=lambda: registry, env=env, note=notes.append)


@pytest.mark.parametrize("says", [COMPLETE, FAILED, GONE])
def test_what_shards_kept_is_no_longer_missing(
    session: Session, notes: list[str], monkeypatch: pytest.MonkeyPatch, says: EngineState
) -> None:
    """Their tasks are not run again. A second resume has nothing to deliver."""
    monkeypatch.setattr("mopsjobs.submission.offline.open_engine", lambda name, env: Cluster(says))
    _submit(session)
    for _ in range(2):
        job = prepare_resume(REQUEST, session)
        assert not isinstance(job, Resumable)
        assert job.job_id is None
    assert notes == ["job: delivered what its shards kept"]


def test_reconcile_delivers_too_so_that_the_outputs_decide(session: Session, notes: list[str]) -> None:
    """The job is whole although a shard was killed. An engine that was asked is not asked again."""
    _submit(session, status="running")
    cluster = Cluster(FAILED)
    (done,) = reconcile(session, {"slurm": cluster}, [state_of(session.registry, "job")])
    assert (done.after, done.problem, len(cluster.asked)) == ("succeeded", None, 1)
    assert notes == ["job: delivered what its shards kept"]
    assert [(one.task, str(one.outcome)) for one in attempts_in(session.store)] == [(1, "succeeded"), (0, "succeeded")]


def test_the_journal_of_a_killed_runner_is_delivered_once(session: Session) -> None:
    """An attempt whose outputs are nowhere is lost. The key of the chunk is that of the run, so nothing is twice."""
    _submit(session)
    session.store.delete(next(iter(session.store.list_keys("results/"))))
    state = state_of(session.registry, "job")
    deliver_shards(state, session, FAILED)
    kept = attempts_in(session.store)
    assert [(one.task, str(one.outcome)) for one in kept] == [(1, "succeeded"), (0, "lost")]
    assert deliver_shards(state, session, FAILED) == state
    assert attempts_in(session.store) == kept


@pytest.mark.parametrize("says", [PENDING, RUNNING, UNKNOWN])
def test_the_outbox_of_a_shard_that_may_be_at_work_is_left_alone(
    session: Session, notes: list[str], monkeypatch: pytest.MonkeyPatch, says: EngineState
) -> None:
    """SQLite cannot share a file among nodes."""
    monkeypatch.setattr("mopsjobs.submission.offline.open_engine", lambda name, env: Cluster(says))
    _submit(session)
    job = prepare_resume(REQUEST, session)
    assert isinstance(job, Resumable)
    assert (job.tasks, notes) == ((1,), [])
