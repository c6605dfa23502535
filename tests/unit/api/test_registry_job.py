"""A job as a Python program reads and changes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import mopsjobs as mj
from mopsjobs.engines.job_dir import JobDir
from support.cli import add, during_sleeps
from support.engines import RUNNING, Cluster
from support.kubernetes import kubeconfig
from support.ledgers import Ledger, add_job, attempt, leave_scalars
from support.runs import sets_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.cli import Cli, Remote


@pytest.fixture
def job(reg: mj.Registry) -> mj.Job:
    """Return a job of four tasks, of which the last has failed."""
    add_job(reg.app.registry, "job", sets_of(4))
    Ledger(reg.app.store)(attempt(0), attempt(1), attempt(2), attempt(3, "failed"))
    reg.app.registry.update_progress("job", 3, 4, tasks_failed=1)
    reg.app.registry.finalize_job("job", "partial", error_info={"code": "X", "message": "1 < 2"})
    return reg.job("job")


def test_the_status_is_that_of_the_command(cli: Cli, job: mj.Job) -> None:
    """Fields are members and attributes."""
    info = job.status()
    assert dict(info) == cli.ok("status", "job", "--json").json
    assert (info.status, info["status"], info.age) == ("partial", "partial", "live")
    assert repr(info) == "<job: partial, 3/4 tasks; live>"
    with pytest.raises(AttributeError, match="a job has no field 'stats'"):
        _ = info.stats


def test_notes_and_labels_are_those_of_the_commands(cli: Cli, job: mj.Job, reg: mj.Registry) -> None:
    """Each returns the job as `status --json` then shows it. An archived job is not in `jobs`, unless asked for."""
    info = job.note("wrong prior")
    assert info.metadata["note_history"][-1]["text"] == "wrong prior"
    assert dict(job.label({"paper": 2, "archived": "true"})) == cli.ok("status", "job", "--json").json
    assert len(reg.jobs()) == 0
    assert [row["job_id"] for row in reg.jobs(label="archived").rows] == ["job"]
    assert job.label(remove=["archived"]).labels == {"paper": "2"}
    assert len(reg.jobs()) == 1
    with pytest.raises(mj.UsageError, match="invalid note"):
        job.note(" ")


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        ("failed", mj.JobFailedError, 100),
        ("cancelled", mj.JobCancelledError, 103),
        ("partial", mj.JobPartialError, 104),
        ("running", mj.JobNotFinishedError, 8),
    ],
)
def test_errors_mirror_the_exit_codes(reg: mj.Registry, status: str, error: type[mj.JobEndError], code: int) -> None:
    """Each error has the exit code of `status --exit-status`, the id and the status."""
    add(reg.app.registry, "a", status)
    with pytest.raises(error, match=f"Job a is {status}") as raised:
        reg.job("a").raise_for_status()
    assert (raised.value.exit_code, raised.value.job_id, raised.value.status) == (code, "a", status)


def test_a_job_that_succeeded_raises_nothing(reg: mj.Registry) -> None:
    """Neither does waiting for one that failed."""
    add(reg.app.registry, "a", "succeeded")
    add(reg.app.registry, "b", "failed")
    reg.job("a").raise_for_status()
    assert reg.job("b").wait().status == "failed"


def test_the_registry_decides_whether_a_job_has_ended(cli: Cli, remote: Remote) -> None:
    """A cache that lags does not make an error of a job that has succeeded meanwhile."""
    add(remote.jobs, "a", "running")
    with mj.connect(env=cli.env) as reg:
        job = reg.job("a")
        remote.jobs.finalize_job("a", "succeeded")
        assert job.status().status == "running"
        job.raise_for_status()


def test_a_wait_ends_with_the_job_or_the_time(cli: Cli, reg: mj.Registry) -> None:
    """The time may be a text. What a wait tells is logged."""
    add(reg.app.registry, "a", "running")
    job = reg.job("a")
    assert job.wait("1m").status == "running"
    during_sleeps(cli, **{f"_{len(cli.clock.slept) + 1}": lambda: reg.app.registry.finalize_job("a", "failed")})
    assert job.wait().status == "failed"
    with pytest.raises(mj.UsageError, match="invalid duration"):
        job.wait(-1)


def test_an_end_that_the_cache_tells_has_its_age(cli: Cli, remote: Remote, reg: mj.Registry) -> None:
    """While the registry does not answer, the end of a wait is as old as the cache, and not live."""
    add(remote.jobs, "a", "failed")
    cli.ok("sync")
    remote.store.down = True
    ended = reg.job("a").wait()
    assert (ended.status, ended.age) == ("failed", "synced just now")


def test_an_interrupt_leaves_the_job(cli: Cli, reg: mj.Registry) -> None:
    """The traceback says that the job goes on."""
    add(reg.app.registry, "a", "running")

    def interrupt() -> None:
        raise KeyboardInterrupt

    during_sleeps(cli, _1=interrupt)
    with pytest.raises(KeyboardInterrupt) as stopped:
        reg.job("a").wait()
    assert stopped.value.__notes__ == ["Job a goes on; only the wait was interrupted."]
    assert reg.job("a").status().status == "running"


def test_tasks_and_failures_are_those_of_the_commands(cli: Cli, job: mj.Job) -> None:
    """Filters are the same; a condition may stand alone."""
    tasks = cli.ok("tasks", "job", "--json").json["tasks"]
    assert job.tasks().rows == tasks
    assert job.tasks("failed").rows == job.tasks(param="x>2").rows == tasks[3:]
    assert [row["task"] for row in job.tasks(param=["x>0", "x<3"], sort="-task", limit=1)] == [2]
    assert job.failures()["groups"] == cli.ok("failures", "job", "--json").json["groups"]
    with pytest.raises(mj.UsageError, match="status of a task"):
        job.tasks(status="bad")


def test_failures_are_a_table_in_a_notebook(job: mj.Job) -> None:
    """They were an untyped dict, which a notebook printed."""
    failures = job.failures()
    assert failures.table.columns == ["count", "type", "message", "where", "tasks", "condition"]
    assert [row["count"] for row in failures.table] == [group["count"] for group in failures["groups"]]
    assert failures._repr_html_().startswith("<table><thead><tr><th>count</th>")


STUDY = mj.Study("model:simulate", [{"x": 1}])


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        (lambda job: job.tasks(limit="3"), "invalid limit '3': expected a whole number, or 0 for all."),
        (lambda job: job.tasks(limit=-1), "invalid limit -1: expected a whole number, or 0 for all."),
        (lambda job: job.tasks(status=3), "invalid choice 3: expected a text, or a list of texts."),
        (lambda job: job.registry.jobs(limit="3"), "invalid limit '3': expected a whole number, or 0 for all."),
        (lambda job: job.registry.jobs(status=[3]), r"invalid choice \[3\]: expected a text, or a list of texts."),
        (lambda job: job.tasks(param=3), "invalid param 3: expected a text, or a list of texts."),
        (lambda job: job.logs(tail="x"), "invalid tail 'x': expected a number of lines."),
        (lambda job: job.note(3), "invalid note 3: expected a text."),
        (lambda job: job.registry.jobs(name=4), "invalid name 4: expected a text."),
        (lambda job: job.registry.jobs(since=4), "invalid since 4: expected a text."),
        (lambda job: job.results(quantiles=5), "invalid quantiles 5: expected numbers between 0 and 1"),
        (lambda job: job.results(quantiles="0.5"), "invalid quantiles '0.5': expected numbers between 0 and 1"),
        (lambda job: job.results(quantiles=["a"]), "invalid quantiles .'a'.: expected numbers between 0 and 1"),
        (lambda job: job.registry.submit(STUDY, workers="two"), "invalid workers 'two': expected a whole number."),
        (lambda job: job.registry.submit(STUDY, engine=["local"]), r"invalid engine \['local'\]: expected a text."),
        (lambda job: job.registry.submit(STUDY, job_id=3), "invalid job_id 3: expected a text."),
        (lambda job: job.registry.submit(STUDY, bundle=3), "invalid bundle 3: expected a text."),
        (lambda job: job.registry.submit(STUDY, code=3), "invalid code 3: expected the path of a directory."),
        (lambda job: job.resume(code=3), "invalid code 3: expected the path of a directory."),
        (lambda job: job.registry.submit(STUDY, extend=3), "invalid extend 3: expected a job, or its id."),
        (lambda job: job.registry.submit(STUDY, engine="dask", scheduler=3), "invalid scheduler '3': expected"),
    ],
)
def test_an_argument_of_another_type_is_named(job: mj.Job, ask: Callable[[mj.Job], object], expected: str) -> None:
    """Such a call ended with a TypeError from within."""
    with pytest.raises(mj.UsageError, match=expected):
        ask(job)


def test_a_chunk_that_cannot_be_read_is_told(
    remote: Remote, reg: mj.Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """As by the command: a table that lacks tasks must not look complete."""
    add_job(remote.jobs, "job", sets_of(2))
    Ledger(remote.store.inner)(attempt(1))
    remote.put("ledger/job/0.ff-000001.attempts.gz", b"")
    assert [row["task"] for row in reg.job("job").tasks("succeeded")] == [1]
    (told,) = caplog.messages
    assert told.startswith("1 chunk of the ledger has a problem. See: mops-jobs query")


def test_results_that_were_read_are_there_offline(cli: Cli, remote: Remote, reg: mj.Registry) -> None:
    """The table has the same rows, and its age. Without a read before, there is none."""
    add_job(remote.jobs, "job", sets_of(2))
    Ledger(remote.store.inner)(attempt(0), attempt(1))
    leave_scalars(remote.jobs, "job", {0: {"peak": 1}, 1: {"peak": 2}})
    job = reg.job("job")
    job.tasks()
    with pytest.raises(mj.StoreUnavailableError, match="have never been read"):
        _ = job.results(offline=True).rows
    expected = job.results()
    assert [row["peak"] for row in expected] == [1, 2]
    remote.store.down = True
    cli.clock.advance(minutes=5)
    found = job.results(offline=True)
    assert (found.rows, found.age, expected.age) == (expected.rows, "synced 5m ago", "live")
    with pytest.raises(mj.StoreUnavailableError):
        job.results()


def test_events_are_those_of_the_command(cli: Cli, job: mj.Job) -> None:
    """They can be selected by kind."""
    lines = cli.ok("events", "job", "--json").lines
    assert len(job.events()) == len(lines)
    assert {event["kind"] for event in job.events("state")} == {"state"}
    assert job.logs(task=3) == job.logs(task=range(4)) == []
    with pytest.raises(mj.UsageError, match="invalid task '17': expected the number of a task"):
        job.logs(task="17")  # type: ignore[arg-type]


def test_a_job_is_cancelled(reg: mj.Registry) -> None:
    """A job that has ended otherwise is refused."""
    add(reg.app.registry, "a", "running")
    job = reg.job("a")
    assert job.cancel("wrong seed").error_message == "Cancelled: wrong seed"
    add(reg.app.registry, "b", "failed")
    with pytest.raises(mj.MopsJobsError, match="has ended"):
        reg.job("b").cancel()


def test_a_cluster_that_only_the_record_names_is_not_touched(cli: Cli, reg: mj.Registry, tmp_path: Path) -> None:
    """A program is not asked, so nothing is cancelled."""
    cli.env["KUBECONFIG"] = str(kubeconfig(tmp_path, "http://127.0.0.1:1"))
    add(reg.app.registry, "a", "running", engine="kubernetes", metadata={"k8s_context": "userless"})
    with pytest.raises(mj.NotTrustedError, match="names context:userless; nothing was cancelled"):
        reg.job("a").cancel()
    assert reg.job("a").status().status == "running"


def test_a_cancelled_job_whose_shards_report_by_files_names_its_delivery(
    reg: mj.Registry, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the command does, in a note."""
    monkeypatch.setattr("mopsjobs.submission.cancel.open_engine", lambda name, env, trust: Cluster(RUNNING))
    add(reg.app.registry, "a", "running", engine="slurm", metadata={"slurm_file_drop": "yes"})
    JobDir.for_job("a", reg.app.env).drop.mkdir(parents=True)
    with caplog.at_level("INFO", "mopsjobs"):
        reg.job("a").cancel()
    assert caplog.messages[-1].endswith("When they have stopped, run: mops-jobs validate a")


def test_html_is_escaped_and_has_no_script(job: mj.Job) -> None:
    """A notebook shows status, bar, counts, failures, error and the age of the data."""
    shown = job._repr_html_()
    assert '<b>job</b> partial<br><progress value="0.75" max="1"></progress> 3/4 tasks, 75 %, 1 failed' in shown
    assert "Failed: 1 ValueError in model.py:21" in shown
    assert "X: 1 &lt; 2" in shown
    assert "<small>Data: live; shown at 2026-03-01 12:00:00 UTC</small></div>" in shown
    assert "<script" not in shown


def test_html_uses_no_network(cli: Cli, remote: Remote) -> None:
    """A job that was never synced is named with the reason."""
    with mj.connect(env=cli.env) as reg:
        remote.store.down = True
        shown = mj.Job(reg, "<a>")._repr_html_()
    why = "The registry has never been synced to this machine. Its status() asks the registry."
    assert shown == f"<div><b>&lt;a&gt;</b> {why}</div>"


def test_html_never_takes_the_cache_for_the_registry(cli: Cli, remote: Remote, reg: mj.Registry) -> None:
    """The registry was not asked, so only the cache lacks the job, as after a submission during an outage."""
    add(remote.jobs, "a")
    cli.ok("sync")
    expected = "<div><b>&lt;b&gt;</b> Job &lt;b&gt; is not in the cache. Its status() asks the registry.</div>"
    assert mj.Job(reg, "<b>")._repr_html_() == expected


def test_html_knows_that_a_local_registry_has_no_such_job(reg: mj.Registry) -> None:
    """It was mirrored whole just before."""
    assert mj.Job(reg, "b")._repr_html_() == "<div><b>b</b> Job b not found.</div>"


def test_a_handle_names_its_registry(reg: mj.Registry) -> None:
    """Nothing is read for it."""
    assert repr(mj.Job(reg, "a")) == f"<Job a in {reg.url}>"
    assert len({mj.Job(reg, "a"), mj.Job(reg, "a")}) == 1
