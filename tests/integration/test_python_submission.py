"""Submit, resume and cancel as a Python program does it: without a command line, a terminal and a cache."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mopsjobs.engines.local import LocalEngine, runner_pid
from mopsjobs.engines.trust import NotTrustedError, Trust
from mopsjobs.errors import JobNotFoundError, UsageError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from mopsjobs.submission.cancel import CancelRequest, cancel
from mopsjobs.submission.launch_options import LaunchOptions
from mopsjobs.submission.resume import ResumeRequest, ResumeResult, resume
from mopsjobs.submission.session import Session
from mopsjobs.submission.submit import Code, SubmitRequest, submit
from support.runs import code, sets_of, study, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mopsjobs.studies.study import Study

pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

OPTIONS = LaunchOptions(workers=1, python=sys.executable)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """Yield a session with the three fields that a program needs."""
    url = f"sqlite://{tmp_path}/registry.db"
    store = open_store(url, {})
    registry = JobRegistry(store)
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "USER": "ada"}
    yield Session(registry_url=url, open_registry=lambda: registry, env=env)
    store.close()


def _submit(session: Session, tmp_path: Path, studied: Study) -> None:
    directory = Code(directory=code(tmp_path / "code"))
    submit(SubmitRequest(study=studied, code=directory, options=OPTIONS, job_id="job", labels={"exp": "7"}), session)


def _ended(session: Session, job_id: str) -> str:
    until(lambda: (state := session.registry.get_job(job_id)) and state.is_terminal, "the job to end")
    until(lambda: runner_pid(job_id, session.env) is None, "its runner to end")
    state = session.registry.get_job(job_id)
    assert state is not None
    return state.status


def test_a_job_is_submitted_and_resumed(session: Session, tmp_path: Path) -> None:
    """The missing tasks become a child; a job without missing tasks is not launched."""
    needed = tmp_path / "needed"
    sets = sets_of(2)
    sets[1]["needs"] = str(needed)
    _submit(session, tmp_path, study(sets))
    assert _ended(session, "job") == "partial"
    record = session.registry.get_job("job")
    assert record is not None
    assert (record.owner, record.labels, record.metadata["local_workers"]) == ("ada", {"exp": "7"}, "1")
    needed.touch()
    assert resume(ResumeRequest(job_id="job", options=OPTIONS), session, Trust()) == ResumeResult("job.2", 1)
    assert _ended(session, "job.2") == "succeeded"
    assert resume(ResumeRequest(job_id="job.2"), session, Trust()) == ResumeResult(None)


def test_a_job_is_cancelled(session: Session, tmp_path: Path) -> None:
    """The record is cancelled and the runner stopped. A job that does not exist is among the refused."""
    _submit(session, tmp_path, study(sets_of(1, gate=str(tmp_path / "never"))))
    done = cancel(CancelRequest(job_ids=["none", "job"], reason="wrong seed"), session, Trust())
    assert [(job.state.status, job.engine, job.problem) for job in done.jobs] == [("cancelled", "stopped", None)]
    assert [type(error) for error in done.refused] == [JobNotFoundError]
    assert done.jobs[0].state.error_message == "Cancelled: wrong seed"
    until(lambda: runner_pid("job", session.env) is None, "its runner to end")


def test_a_choice_of_a_record_is_refused_without_a_question(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below the command line there are no questions: the error names the choice."""
    monkeypatch.setattr(LocalEngine, "_start", lambda *_: os.getpid())
    _submit(session, tmp_path, study(sets_of(1)))
    session.registry.update_fields("job", engine="kubernetes", metadata={"k8s_image": "evil"})
    session.registry.finalize_job("job", "failed")
    with pytest.raises(NotTrustedError, match=r"Only the record of job names engine:kubernetes, image:evil"):
        resume(ResumeRequest(job_id="job"), session, Trust())


def test_a_request_without_code_is_refused(session: Session) -> None:
    """A study alone cannot run."""
    with pytest.raises(UsageError, match="missing code of the model"):
        submit(SubmitRequest(study=study(sets_of(1))), session)
