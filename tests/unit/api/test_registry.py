"""A registry and its jobs as a Python program reads and changes them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

import mopsjobs as mj
from mopsjobs.api.calibration import Calibration
from mopsjobs.app.following.calibrate import Calibrated
from support.calibrated import journal_of
from support.cli import Cli, Remote, add, during_sleeps, put_foreign
from support.kubernetes import kubeconfig
from support.ledgers import add_job, attempt
from support.runs import sets_of


def test_settings_are_those_of_the_command(cli: Cli, tmp_path: Path) -> None:
    """Arguments win over the environment, and errors name them."""
    with mj.connect(env=cli.env) as reg:
        assert (reg.url, reg.app.cache.path) == (cli.env["MOPS_JOBS_REGISTRY"], str(cli.cache))
    with mj.connect(f"sqlite://{tmp_path}/x.db", cache=tmp_path / "c.db", env=cli.env) as reg:
        assert (reg.url, reg.app.cache.path) == (f"sqlite://{tmp_path}/x.db", f"{tmp_path}/c.db")
        assert reg.app.settings.registry.origin == "argument registry"
    with pytest.raises(mj.UsageError, match="from argument registry"):
        mj.connect("ftp://x", env=cli.env)


def test_a_closed_registry_says_so(cli: Cli) -> None:
    """Handles on its jobs say so too."""
    with mj.connect(env=cli.env) as reg:
        job = mj.Job(reg, "a")
    assert repr(reg).endswith(", closed>")
    with pytest.raises(mj.UsageError, match="The registry is closed"):
        job.status()
    assert job._repr_html_() is None, "a notebook then shows the text, and no traceback"


def test_jobs_are_those_of_the_listing(cli: Cli, reg: mj.Registry) -> None:
    """The same filters give the same documents."""
    for job_id, status, labels in (("a", "running", {"exp": "7"}), ("b", "failed", {"exp": "7"}), ("c", "pending", {})):
        add(reg.app.registry, job_id, status, labels=labels)
    assert reg.jobs().rows == cli.ok("list", "--json").json["jobs"]
    assert [row["job_id"] for row in reg.jobs(status="active", label={"exp": 7}, hours=2)] == ["a"]
    assert [row["job_id"] for row in reg.jobs(label="exp", sort="name", limit=1)] == ["a"]
    assert [row["job_id"] for row in reg.jobs(status=["failed", "pending"], sort="name")] == ["b", "c"]
    with pytest.raises(mj.UsageError, match="hours and since contradict"):
        reg.jobs(hours=2, since="2h")


def test_a_handle_is_found_by_its_full_id(reg: mj.Registry) -> None:
    """A handle equals another one on the same job. A text that only begins an id is an error, and so is `@latest`."""
    add(reg.app.registry, "nightly-1")
    assert reg.job("nightly-1") == mj.Job(reg, "nightly-1")
    with pytest.raises(mj.UsageError, match="invalid job '@latest': expected a full id"):
        reg.job("@latest")
    put_foreign(reg.app.store, "@latest")
    assert [reg.job(f"./{one}").id for one in ("@latest", "nightly-1")] == ["@latest", "nightly-1"]
    with pytest.raises(KeyError) as caught:
        reg.job("night")
    assert isinstance(caught.value, mj.JobNotFoundError)
    assert caught.value.candidates == ("nightly-1",)


def test_a_query_returns_all_rows(cli: Cli, reg: mj.Registry) -> None:
    """Rows are those of `query --json`, and two columns of one name are refused."""
    add(reg.app.registry, "a")
    sql = "SELECT job_id, status FROM jobs"
    assert reg.query(sql).rows == cli.ok("query", "--json", sql).json["rows"]
    with pytest.raises(mj.UsageError, match="Two columns have the name 'a'"):
        reg.query("SELECT 1 AS a, 2 AS a")


def test_an_outage_is_logged_and_the_cache_read(
    cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A view with `refresh` warns by the logger `mopsjobs`, and prints nothing. Offline, it asks for nothing."""
    add(remote.jobs, "a", "running")
    with mj.connect(env=cli.env) as reg:
        assert len(reg.jobs()) == 1
        remote.store.down = True
        caplog.set_level(logging.INFO, "mopsjobs")
        assert reg.jobs(offline=True).age.startswith("synced")
        assert not caplog.records
        assert [row["job_id"] for row in reg.jobs(refresh=True)] == ["a"]
        assert "Cannot reach the registry" in caplog.records[0].getMessage()
        with pytest.raises(mj.StoreUnavailableError):
            reg.sync()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("freshness", [{"refresh": True, "offline": True}, {"offlin": True}, {"max_age": -1}])
def test_unknown_and_contradicting_arguments_are_refused(reg: mj.Registry, freshness: dict[str, bool]) -> None:
    """A type checker finds unknown names; others are told when they run."""
    with pytest.raises(mj.UsageError):
        reg.jobs(**freshness)  # type: ignore[arg-type]


def test_an_unknown_argument_is_told_the_nearest(reg: mj.Registry) -> None:
    """Among all arguments of the method, and not only those that several methods have."""
    add(reg.app.registry, "a")
    study = mj.Study("model:simulate", [{}])
    calls = {"label": (reg.jobs, "lable"), "labels": (reg.submit, "lables"), "status": (reg.job("a").tasks, "stauts")}
    for right, (method, wrong) in calls.items():
        with pytest.raises(mj.UsageError, match=f"invalid argument '{wrong}'.* Did you mean '{right}'"):
            method(*[study] * (method == reg.submit), **{wrong: "x"})  # type: ignore[operator]


def test_a_job_of_another_registry_is_refused(cli: Cli, reg: mj.Registry, tmp_path: Path) -> None:
    """This registry may have another job of that id, whose end would be taken for that of the job."""
    add(reg.app.registry, "a", "succeeded")
    with mj.connect(f"sqlite://{tmp_path}/other.db", cache=tmp_path / "other-cache.db", env=cli.env) as other:
        add(other.app.registry, "a", "running")
        with pytest.raises(mj.UsageError, match="Job a is in another registry"):
            reg.as_completed([other.job("a")])
        assert reg.job("a") != other.job("a")
    with mj.connect(reg.url.replace("sqlite:///", "sqlite:////"), env=cli.env) as again:
        job = again.job("a")
    assert list(reg.as_completed([job])) == [job] == [reg.job("a")], "by another URL, and closed since"


def test_the_names_are_there_when_they_are_asked_for() -> None:
    """Each name of `__all__` exists, and completion knows it."""
    assert all(getattr(mj, name) is not None for name in mj.__all__)
    assert set(mj.__all__) <= set(dir(mj))
    with pytest.raises(AttributeError, match="no attribute 'conect'") as raised:
        mj.conect  # type: ignore[attr-defined]  # noqa: B018
    assert (raised.value.name, raised.value.obj) == ("conect", mj), "by them, Python suggests the nearest name"


@pytest.fixture
def job(reg: mj.Registry) -> mj.Job:
    """Return a job of four tasks, of which the last has failed."""
    add_job(reg.app.registry, "job", sets_of(4), attempts=[attempt(0), attempt(1), attempt(2), attempt(3, "failed")])
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
    failures = job.failures()
    assert failures["groups"] == cli.ok("failures", "job", "--json").json["groups"]
    assert [row["count"] for row in failures.table] == [group["count"] for group in failures["groups"]]
    assert failures._repr_html_().startswith("<table><thead><tr><th>count</th>")
    with pytest.raises(mj.UsageError, match="status of a task"):
        job.tasks(status="bad")


STUDY = mj.Study("model:simulate", [{"x": 1}])


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        (lambda job: job.tasks(limit="3"), "invalid limit '3': expected a whole number, or 0 for all."),
        (lambda job: job.tasks(status=3), "invalid choice 3: expected a text, or a list of texts."),
        (lambda job: job.registry.submit("study.json"), "invalid study of type str: expected a Study."),
        (lambda job: job.registry.as_completed(["a"]), "invalid job 'a': expected a handle"),
        (lambda job: job.logs(tail="x"), "invalid tail 'x': expected a number of lines."),
        (lambda job: job.label("exp=7"), r"invalid labels 'exp=7': expected a dict, like \{'exp': 7\}\."),
        (lambda job: job.registry.submit(STUDY, workers="two"), "invalid workers 'two': expected a whole number."),
        (lambda job: job.registry.submit(STUDY, code=3), "invalid code 3: expected the path of a directory."),
        (lambda job: job.registry.submit(STUDY, engine="dask", scheduler=3), "invalid scheduler '3': expected"),
    ],
)
def test_an_argument_of_another_type_is_named(job: mj.Job, ask: Callable[[mj.Job], object], expected: str) -> None:
    """Such a call ended with a TypeError from within."""
    with pytest.raises(mj.UsageError, match=expected):
        ask(job)


def test_results_that_were_read_are_there_offline(cli: Cli, remote: Remote, reg: mj.Registry) -> None:
    """The table has the same rows, and its age. Without a read before, there is none."""
    add_job(remote.jobs, "job", sets_of(2), attempts=[attempt(0), attempt(1)], scalars={0: {"peak": 1}, 1: {"peak": 2}})
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
    assert reg.job("a").cancel("wrong seed").error_message == "Cancelled: wrong seed"
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


def test_html_is_escaped_and_has_no_script(job: mj.Job) -> None:
    """A notebook shows status, bar, counts, failures, error and the age of the data."""
    shown = job._repr_html_()
    assert '<b>job</b> partial<br><progress value="0.75" max="1"></progress> 3/4 tasks, 75 %, 1 failed' in shown
    assert "Failed: 1 ValueError in model.py:21" in shown
    assert "X: 1 &lt; 2" in shown
    assert "<small>Data: live; shown at 2026-03-01 12:00:00 UTC</small></div>" in shown
    assert "<script" not in shown


def test_html_never_takes_the_cache_for_the_registry(cli: Cli, remote: Remote, reg: mj.Registry) -> None:
    """The registry was not asked, so only the cache lacks the job, as after a submission during an outage."""
    add(remote.jobs, "a")
    cli.ok("sync")
    expected = "<div><b>&lt;b&gt;</b> Job &lt;b&gt; is not in the cache. Its status() asks the registry.</div>"
    assert mj.Job(reg, "<b>")._repr_html_() == expected


def test_jobs_come_as_they_end(cli: Cli, remote: Remote, reg: mj.Registry) -> None:
    """Each once, however it ends; the time ends the iteration."""
    for job_id in ("a", "b", "c", "d"):
        add(remote.jobs, job_id, "running")
    remote.jobs.finalize_job("c", "failed")
    during_sleeps(
        cli, _1=lambda: remote.jobs.finalize_job("b", "succeeded"), _3=lambda: remote.jobs.finalize_job("a", "partial")
    )
    jobs = [mj.Job(reg, job_id) for job_id in ("a", "b", "c", "a")]
    found = [(job, len(cli.clock.slept)) for job in reg.as_completed(jobs)]
    assert found == [(jobs[2], 0), (jobs[1], 1), (jobs[0], 3)]
    assert list(reg.as_completed([mj.Job(reg, "d"), jobs[0]], "1m")) == [jobs[0]]
    assert list(reg.as_completed([])) == []


@pytest.mark.parametrize(("mode", "said"), [("synchronous", "1 round"), ("asynchronous", "1 set")])
def test_it_counts_what_its_mode_tells(mode: str, said: str) -> None:
    """As the command does: in asynchronous mode, a round is a set."""
    done = Calibrated("fit", journal_of("fit", 1, mode=mode), "succeeded")
    assert repr(Calibration(None, done, lambda _: [])) == f"<Calibration fit: {said}>"
