"""What shards on Slurm kept while the registry did not answer is delivered, once none is at work."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from mopsjobs.app.jobs.reconcile import reconcile
from mopsjobs.engines.base import EngineState
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.ledger.writer import Entry, JournalFile, journal_path
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from mopsjobs.studies.manifest import Manifest, manifest_key
from mopsjobs.studies.study_parser import parse_study
from mopsjobs.submission.offline import deliver_shards
from mopsjobs.submission.resume import Resumable, ResumeRequest, prepare_resume
from mopsjobs.submission.session import Session
from support.cli import add
from support.engines import COMPLETE, FAILED, GONE, PENDING, RUNNING, UNKNOWN, Cluster, state_of
from support.ledgers import attempt, attempts_in

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
        job = prepare_resume(ResumeRequest(job_id="job"), session)
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
    job = prepare_resume(ResumeRequest(job_id="job"), session)
    assert isinstance(job, Resumable)
    assert (job.tasks, notes) == ((1,), [])


def test_a_job_of_another_engine_has_no_shards_here(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """No engine is asked."""
    monkeypatch.setattr("mopsjobs.submission.offline.open_engine", lambda name, env: pytest.fail("It asks."))
    _submit(session, "dask")
    assert isinstance(prepare_resume(ResumeRequest(job_id="job"), session), Resumable)
