"""A registry as a Python program reads it."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import mopsjobs as mj
from support.cli import add

if TYPE_CHECKING:
    from pathlib import Path

    from support.cli import Cli, Remote


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
    with pytest.raises(mj.UsageError, match="hours and since contradict"):
        reg.jobs(hours=2, since="2h")


def test_a_record_that_cannot_be_read_is_told(
    remote: Remote, reg: mj.Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """As by `list`: the last good state is shown."""
    add(remote.jobs, "a", "running")
    reg.sync()
    remote.put("jobs/a/state.json", b"{")
    reg.sync()
    caplog.clear()
    assert [row["status"] for row in reg.jobs()] == ["running"]
    assert caplog.messages == ["1 record cannot be read; the last good state is shown. See: mops-jobs doctor"]


def test_a_handle_is_found_by_its_full_id(reg: mj.Registry) -> None:
    """A handle equals another one on the same job. A text that only begins an id is an error, and so is `@latest`."""
    add(reg.app.registry, "nightly-1")
    assert reg.job("nightly-1") == mj.Job(reg, "nightly-1")
    with pytest.raises(mj.UsageError, match="invalid job '@latest': expected a full id"):
        reg.job("@latest")
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


def test_a_sync_returns_what_it_did(cli: Cli, reg: mj.Registry) -> None:
    """The document is that of `sync --json`."""
    add(reg.app.registry, "a")
    done = reg.sync()
    assert done is not None
    assert done.keys() == cli.ok("sync", "--json").json.keys()
    assert done["seen"] == 1


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


def test_several_choices_are_a_list_or_a_text(reg: mj.Registry) -> None:
    """As of labels and tasks: a program has lists."""
    for job_id, owner in (("a", "ada"), ("b", "grace"), ("c", "emmy")):
        reg.app.registry.register_job(job_id, owner=owner)
    found = [reg.jobs(owner=owner, sort="name") for owner in (["ada", "emmy"], ("ada", "emmy"), "ada,emmy")]
    assert [[row["job_id"] for row in table] for table in found] == [["a", "c"]] * 3
    assert len(reg.jobs(status=["pending", "active"])) == 3
    with pytest.raises(mj.UsageError, match="invalid status"):
        reg.jobs(status=["pending", "paused"])


def test_an_unknown_argument_is_told_the_nearest(reg: mj.Registry) -> None:
    """Among all arguments of the method, and not only those that several methods have."""
    add(reg.app.registry, "a")
    study = mj.Study("model:simulate", [{}])
    calls = {"label": (reg.jobs, "lable"), "labels": (reg.submit, "lables"), "status": (reg.job("a").tasks, "stauts")}
    for right, (method, wrong) in calls.items():
        with pytest.raises(mj.UsageError, match=f"invalid argument '{wrong}'.* Did you mean '{right}'"):
            method(*[study] * (method == reg.submit), **{wrong: "x"})  # type: ignore[operator]


def test_labels_that_are_a_text_are_refused_with_their_form(reg: mj.Registry) -> None:
    """A filter may be a text. A job gets its labels by their keys, wherever they are set."""
    add(reg.app.registry, "a")
    labels: Any = "exp=7"
    study = mj.Study("model:simulate", [{}])
    for refused in (
        lambda: reg.job("a").label(labels),
        lambda: reg.submit(study, code=".", labels=labels),
        lambda: mj.report("b", labels=labels, registry=reg),
    ):
        with pytest.raises(mj.UsageError, match=r"invalid labels 'exp=7': expected a dict, like \{'exp': 7\}\."):
            refused()


def test_a_value_that_is_no_study_or_job_is_named(reg: mj.Registry) -> None:
    """Such as the path of a study, and the id of a job. The hint says how to make the right one."""
    with pytest.raises(mj.UsageError, match="invalid study of type str") as refused:
        reg.submit("study.json")  # type: ignore[arg-type]
    assert "Study.from_file(path)" in str(refused.value.hint)
    with pytest.raises(mj.UsageError, match="invalid job 'a': expected a handle"):
        reg.as_completed(["a"])  # type: ignore[list-item]


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


def test_threads_share_one_connection(cli: Cli) -> None:
    """Threads that ask at the same moment get the same registry: a second one would never be closed."""
    start = threading.Barrier(8)

    def ask(reg: mj.Registry) -> tuple[int, int]:
        start.wait()
        return id(reg.app.registry), len(reg.jobs())

    with mj.connect(env=cli.env) as reg, ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(ask, [reg] * 8))) == 1
