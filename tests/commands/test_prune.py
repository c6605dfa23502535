"""Pruned jobs leave the cache and stay away; what has been counted stays counted."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing

import pytest

from mopsjobs.app.following.notify.claims import PREFIX, claim_key, failure_key
from mopsjobs.cache import counters
from mopsjobs.cache import database as cache_database
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.studies.manifest import Reuse
from support.cli import REMOTE_URL, Cli, Remote, add, foreign, key, sentences
from support.events import Writer
from support.ledgers import BUNDLE, add_job, attempt
from support.runs import sets_of


def _counted(cli: Cli) -> dict[str, dict[counters.Labels, float]]:
    connection = cache_database.open_to_read(str(cli.cache), REMOTE_URL)
    assert connection is not None
    with closing(connection):
        return counters.read(connection)


def _asked(cli: Cli, sql: str) -> int:
    """Return the one number that a question to the cache gives."""
    ((number,),) = (row.values() for row in cli.ok("query", "--offline", "--json", sql).json["rows"])
    return int(number)


@pytest.fixture
def aged(cli: Cli, remote: Remote) -> Remote:
    """Return a cache that has seen two jobs end 100 days ago, one ten days ago, and one that is at work since then."""
    cli.ok("sync", "-q")
    for name, status in (("old-1", "succeeded"), ("old-2", "failed"), ("old-active", "running")):
        add(remote.jobs, name, status, labels={"exp": "1"})
    cli.clock.advance(days=90)
    add(remote.jobs, "new", "failed")
    cli.ok("sync", "-q")
    cli.clock.advance(days=10)
    return remote


def test_pruned_jobs_stay_away_until_their_records_change(
    cli: Cli, aged: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ended long ago goes, with its labels; active jobs stay. No sync brings it back, not even a full one.

    Nor does one read its events again. Empty lists and counts that lack them say so, and so do its events.
    A record that changes brings its job back. A key that the registry has lost is forgotten. No counter goes back.
    """
    Writer(aged.store.inner, cli.clock, "old-1")("started", "ended")
    cli.ok("sync", "-q")
    counted = _counted(cli)
    assert counted[counters.FINISHED] == {("succeeded", ""): 1, ("failed", ""): 2}
    ran = cli.ok("prune", "--older-than", "90d", "--yes")
    assert ran.err == "Removed 2 jobs and 2 events from the cache.\n"
    note = "Jobs that were pruned from this cache are left out.\n"
    views = (
        "list --label no=such",
        "summary",
        "failures",
        "list",
        "list --status active",
        "list --json",
        "summary --json",
    )
    assert [note in cli.ok(*view.split()).err for view in views] == [True] * 3 + [False] * 4
    for flags in ((), ("--kind", "log")):
        assert cli.ok("events", "old-1", *flags).err.endswith(". It was pruned from this cache.\n")
    read: list[str] = []
    get = aged.store.get
    monkeypatch.setattr(aged.store, "get", lambda key: read.append(key) or get(key))
    for words in ((), ("--full",)):
        report = cli.ok("sync", "--json", *words).json
        assert report["added"] == 0
        assert cli.ids("--limit", "0") == ["new", "old-active"]
    assert not [key for key in read if key.startswith("events/")]
    assert _asked(cli, "SELECT count(DISTINCT job_id) FROM job_labels") == 1
    aged.put(key("old-2"), foreign("old-2", "failed"))
    aged.store.delete(key("new"))
    cli.ok("sync", "-q")
    assert sorted(cli.ids("--limit", "0")) == ["old-2", "old-active"]
    assert _asked(cli, "SELECT count(*) FROM pruned_jobs") == 1
    aged.store.delete(key("old-1"))
    cli.ok("sync", "-q")
    assert _asked(cli, "SELECT count(*) FROM pruned_jobs") == 0
    assert note not in cli.ok("list").err
    assert _counted(cli) == counted


def test_old_checkpoints_on_this_machine_go_with_the_jobs(cli: Cli, aged: Remote) -> None:
    """A job that was killed here and went on elsewhere leaves some. Those of jobs that stay, and younger ones, stay.

    A dry run says the same as the run. If no job goes, they are asked for, too.
    """
    names = ("old-1", "old-active", "elsewhere", "young", "at-work")
    places = [JobDir.for_job(job_id, cli.env).checkpoints for job_id in names]
    for place in places:
        (place / "task" / "new").mkdir(parents=True)
        for path in (place / "task" / "new", place / "task", place):
            os.utime(path, (0, 0))
    os.utime(places[3])
    os.utime(places[4] / "task" / "new")  # a task has saved
    prune = ("prune", "--older-than", "90d")
    planned = cli.ok(*prune, "--dry-run", "--json")
    assert planned.err.startswith("Would remove 2 jobs and 0 events, of jobs that ended before ")
    assert planned.err.endswith(" and checkpoints of 2 jobs from this machine.\n")
    ran = cli.ok(*prune, "--yes", "--json")
    assert ran.err == "Removed 2 jobs and 0 events from the cache and checkpoints of 2 jobs from this machine.\n"
    assert ran.json == {**planned.json, "dry_run": False}
    assert (ran.json["jobs"], ran.json["local_checkpoints"]) == (2, 2)
    assert [place.exists() for place in places] == [False, True, False, True, True]
    os.utime(places[3], (0, 0))
    assert cli(*prune).code == 2
    assert places[3].exists()
    assert cli.ok(*prune, "--yes").err == "Removed checkpoints of 1 job from this machine.\n"
    assert cli.ok(*prune, "--yes").err.endswith("; nothing was removed.\n")


def test_a_family_is_pruned_as_one(cli: Cli, remote: Remote) -> None:
    """It stays while one of its jobs is active or ended later, and goes when all have ended long ago."""
    add_job(remote.jobs, "job", sets_of(3), status="failed")
    for name, parent in (("job.2", "job"), ("job.3", "job.2"), ("single", None)):
        cli.clock.advance(days=30)
        add_job(remote.jobs, name, sets_of(3), status="failed", only=parent and [1], parent=parent)
    cli.clock.advance(days=30)
    cli.ok("sync", "-q")
    kept = "Kept 2 jobs of families that have not all ended by then.\n"
    limit = ("--older-than", "75d")
    assert cli.ok("prune", *limit, "--yes").err.endswith(f"; nothing was removed.\n{kept}")
    assert cli.ids() == ["single", "job.3", "job.2", "job"]
    assert [one["job_id"] for one in cli.ok("status", "job.3", "--json").json["family"]["jobs"]] == [
        "job", "job.2", "job.3",
    ]  # fmt: skip
    cli.clock.advance(days=20)
    assert cli.ok("prune", *limit, "--yes").err == "Removed 3 jobs and 0 events from the cache.\n"
    assert cli.ids() == ["single"]


def test_a_family_whose_parent_was_removed_is_pruned(cli: Cli, remote: Remote) -> None:
    """It stayed for good, as one that has not all ended."""
    for name, parent in (("job", None), ("job.2", "job")):
        add_job(remote.jobs, name, sets_of(3), status="failed", only=parent and [1], parent=parent)
    remote.store.delete(key("job"))
    cli.ok("sync", "-q")
    cli.clock.advance(days=30)
    assert cli.ok("prune", "--older-than", "20d", "--yes").err == "Removed 1 job and 0 events from the cache.\n"


@pytest.mark.parametrize("words", ["update job.3 running", "status job.3", "sync", "sync --full"])
def test_a_late_resume_brings_its_pruned_parents_back(cli: Cli, remote: Remote, words: str) -> None:
    """So does whatever puts it into the cache, and no end counts twice. Others stay away."""
    cli.ok("sync", "-q")
    for name in ("job", "other"):
        add_job(remote.jobs, name, sets_of(3), status="failed")
    add_job(remote.jobs, "job.2", sets_of(3), status="failed", only=[1])
    cli.ok("sync", "-q")
    cli.clock.advance(days=90)
    cli.ok("prune", "--older-than", "60d", "--yes")
    assert cli.ids() == []
    counted = _counted(cli)[counters.FINISHED]
    add_job(remote.jobs, "job.3", sets_of(3), only=[1], parent="job.2")
    cli.ok(*words.split())
    assert sorted(cli.ids("--offline")) == ["job", "job.2", "job.3"]
    family = cli.ok("status", "job.3", "--offline", "--json").json["family"]
    assert [one["job_id"] for one in family["jobs"]] == ["job", "job.2", "job.3"]
    assert _counted(cli)[counters.FINISHED] == counted
    assert cli.ok("sync", "--json").json["added"] == 0


@pytest.mark.parametrize("words", ["label job.2 paper=fig2", "note job said", "sync", "sync --full"])
def test_a_family_comes_back_as_one(cli: Cli, remote: Remote, words: str) -> None:
    """A parent alone would show failures that its children have taken up. Jobs that are only named alike stay away."""
    add_job(remote.jobs, "job", sets_of(3), status="failed")
    add_job(remote.jobs, "job.2", sets_of(3), status="failed", only=[1], parent="job")
    add_job(remote.jobs, "job.3", sets_of(3), status="succeeded", only=[1], parent="job.2")
    add_job(remote.jobs, "job.4", sets_of(3), status="failed")
    cli.ok("sync", "-q")
    cli.clock.advance(days=90)
    cli.ok("prune", "--older-than", "60d", "--yes")
    assert cli.ids() == []
    if words.startswith("sync"):
        remote.jobs.update_fields("job", labels={"paper": "fig2"})
    cli.ok(*words.split())
    assert sorted(cli.ids("--offline")) == ["job", "job.2", "job.3"]
    assert cli.ok("sync", "--json").json["added"] == 0


@pytest.mark.usefixtures("aged")
def test_who_reads_meanwhile_reads_on(cli: Cli) -> None:
    """A reader in the middle of its work keeps what it sees, and holds nothing up. `status` asks the registry."""
    reader = cache_database.open_to_read(str(cli.cache), REMOTE_URL)
    assert reader is not None
    with closing(reader):
        reader.execute("BEGIN")
        seen = reader.execute("SELECT job_id FROM job ORDER BY job_id")
        assert seen.fetchone() == ("new",)
        cli.ok("prune", "--older-than", "90d", "--yes")
        assert [job_id for (job_id,) in seen] == ["old-1", "old-2", "old-active"]
        reader.rollback()
        assert reader.execute("SELECT count(*) FROM job").fetchone() == (2,)
    assert cli.ids("--limit", "0") == ["new", "old-active"]
    assert cli.ok("status", "old-1", "--json").json["status"] == "succeeded"


@pytest.mark.usefixtures("aged")
def test_who_writes_meanwhile_only_keeps_the_file_large(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """When another process has begun to write as the file is to be made smaller: a sentence, and the jobs are gone."""
    opened = cache_database.open_to_write
    writer = opened(str(cli.cache), REMOTE_URL)

    def begin(statement: str) -> None:
        if statement == "VACUUM":
            writer.execute("BEGIN IMMEDIATE")

    def traced(path: str, registry_id: str) -> sqlite3.Connection:
        connection = opened(path, registry_id)
        connection.execute("PRAGMA busy_timeout = 10")
        connection.set_trace_callback(begin)
        return connection

    monkeypatch.setattr("mopsjobs.app.run.cache_access.open_to_write", traced)
    with closing(writer):
        ran = cli.ok("prune", "--older-than", "90d", "--yes")
        writer.rollback()
    assert sentences(ran.err) == [
        "warning: The cache file could not shrink yet: database is locked.",
        "Removed 2 jobs and 0 events from the cache.",
    ]
    assert cli.ids("--offline", "--limit", "0") == ["new", "old-active"]


def test_tasks_and_failures_of_a_pruned_job_are_read_again(cli: Cli, remote: Remote) -> None:
    """They are those of a new cache, and are read for a minute. The next pruning removes them."""
    for name in ("old", "new"):
        add_job(remote.jobs, name, sets_of(3), attempts=[attempt(0), attempt(1, "failed")])
        remote.jobs.update_status(name, "partial")
        cli.ok("tasks", name)
        cli.clock.advance(days=40)
    shown = [cli.ok("tasks", "old").out, *cli.ok("failures", "old").lines[:5]]
    cli.ok("prune", "--older-than", "60d", "--yes")
    assert [cli.ok("tasks", "old").out, *cli.ok("failures", "old").lines[:5]] == shown
    assert not cli.ok("tasks", "old", "--json").json["complete"]
    cli.clock.advance(seconds=60)
    assert cli.ok("tasks", "old", "--json").json["complete"]
    assert cli.ids() == ["new"]
    cli.ok("prune", "--older-than", "30d", "--yes")
    assert _asked(cli, "SELECT count(*) FROM ledgers") == 0


@pytest.mark.parametrize("is_removed_first", [True, False], ids=["after a sync", "between two syncs"])
def test_a_pruned_job_that_is_registered_again_has_its_own_tasks(
    cli: Cli, remote: Remote, *, is_removed_first: bool
) -> None:
    """A look after the pruning left the ledger of the earlier job in the cache."""
    add(remote.jobs, "other")
    add_job(remote.jobs, "job", sets_of(3), attempts=[attempt(0, "failed")])
    remote.jobs.update_status("job", "failed")
    cli.ok("sync", "-q")
    cli.clock.advance(days=40)
    cli.ok("prune", "--older-than", "30d", "--yes")
    assert cli.ok("tasks", "job", "--json").json["tasks_total"] == 3
    for name in [*remote.store.inner.list_keys("jobs/job/"), *remote.store.inner.list_keys("ledger/")]:
        remote.store.inner.delete(name)
    if is_removed_first:
        cli.ok("sync", "--full", "-q")
        assert _asked(cli, "SELECT count(*) FROM ledgers") == 0
    cli.clock.advance(seconds=60)
    add_job(remote.jobs, "job", sets_of(5))
    cli.ok("sync", "--full", "-q")
    assert cli.ok("tasks", "job", "--json").json["tasks_total"] == 5
    assert cli.ok("failures", "job", "--json").json["failed"] == 0


def test_a_registry_whose_jobs_were_all_pruned_is_not_empty(cli: Cli) -> None:
    """The listing is empty then, and does not call the default registry one with 0 jobs: it keeps them."""
    del cli.env["MOPS_JOBS_REGISTRY"]
    cli.ok("register", "old")
    cli.ok("cancel", "old")
    cli.ok("sync", "-q")
    cli.clock.advance(days=100)
    cli.ok("prune", "--older-than", "90d", "--yes")
    assert cli.ok("list").err == "0 jobs, live\nJobs that were pruned from this cache are left out.\n"


def test_pruning_a_ledger_names_the_jobs_that_reuse_it(cli: Cli, remote: Remote) -> None:
    """Before anything is removed. Outputs stay, so nothing is lost."""
    for name, reused in (("source", ()), ("user", (Reuse("source", BUNDLE, ((0, 1),)),))):
        add_job(remote.jobs, name, sets_of(2), reused=reused, attempts=[attempt(1)])
        cli.ok("update", name, "succeeded")
        cli.clock.advance(days=20)
    cli.ok("sync", "-q")
    told = "Reused by user: outputs of source, which stay. Their ledgers go.\n"
    assert told in cli.ok("prune", "--store", "--older-than", "30d", "--dry-run").err
    assert cli.ok("prune", "--store", "--older-than", "30d", "--yes").err.startswith(told)
    assert "Reused" not in cli.ok("prune", "--store", "--older-than", "10d", "--dry-run").err


def test_a_pruned_job_that_comes_back_has_its_events(cli: Cli) -> None:
    """A note brings the job back, and a look at it what the registry has of it."""
    cli.ok("register", "old")
    cli.ok("update", "old", "failed")
    cli.ok("sync", "-q")
    cli.clock.advance(days=100)
    cli.ok("prune", "--older-than", "90d", "--yes")
    assert "Prune may have removed some." in cli.ok("logs", "old").err
    cli.ok("note", "old", "used in figure 2")
    assert len(cli.ok("events", "old").lines) == 3


@pytest.mark.usefixtures("aged")
def test_nothing_is_pruned_unless_it_is_meant(cli: Cli) -> None:
    """`--dry-run` says what it would be; without `--yes` and a terminal, the command refuses."""
    assert cli.ok("prune", "--older-than", "90d", "--dry-run").err.startswith("Would remove 2 jobs and 0 events")
    cli.fails(2, "prune", "--older-than", "90d")
    assert len(cli.ids("--limit", "0")) == 4
    assert cli.ok("prune", "--older-than", "300d").err.startswith("No job in the cache ended before ")
    assert cli("prune", "--older-than", "soon").code == 2
    assert cli("prune").code == 2


# --- counters --------------------------------------------------------------------------------------------------------


def test_what_ended_before_the_first_sync_is_not_counted(cli: Cli, remote: Remote) -> None:
    """A new cache starts at nothing: what it finds has not happened now. What ends from then on counts, also unseen."""
    add(remote.jobs, "before", "failed")
    add(remote.jobs, "at-work", "running")
    cli.ok("sync", "-q")
    assert counters.FINISHED not in _counted(cli)
    remote.jobs.update_status("at-work", "succeeded")
    add(remote.jobs, "between", "failed")
    cli.ok("sync", "-q")
    cli.ok("sync", "-q", "--full")
    assert _counted(cli)[counters.FINISHED] == {("succeeded", ""): 1, ("failed", ""): 1}


def test_durations_are_counted_once(cli: Cli, remote: Remote) -> None:
    """Waiting counts when the first task runs, running when the job ends; each into the bucket of its length."""
    cli.ok("sync", "-q")
    add(remote.jobs, "a")
    steps: list[Callable[[], object]] = [
        lambda: remote.jobs.update_status("a", "running"),
        lambda: remote.jobs.update_progress("a", 1),
        lambda: remote.jobs.update_status("a", "failed"),
    ]
    for step in steps:
        cli.clock.advance(seconds=100)
        step()
        cli.ok("sync", "-q")
    counted = _counted(cli)
    assert counted[counters.QUEUE] == {(300,): 1}
    assert counted[counters.QUEUE + counters.SUM] == {(): 100}
    assert counted[counters.RUN] == {("failed", 300): 1}
    assert counted[counters.RUN + counters.SUM] == {("failed",): 200}


def test_claims_of_notifications_go_with_their_jobs(cli: Cli, aged: Remote) -> None:
    """Of jobs that ended long enough ago. An end of the last day may be told still, unless there is a claim.

    Those of a sweep, which has no record, go by the day of the failure.
    """
    names = ("old-1", "old-1", "old-active", "new", "no-record")
    claims = [claim_key(name, f"end{number}", "digest") for number, name in enumerate(names)]
    claims.append(claim_key("x" * 600, "end", "of another program"))
    claims.append(failure_key("night", f"{cli.clock.now():%Y-%m-%d}", "end", "digest"))
    aged.put(failure_key("night", "2024-02-29", "end", "digest"), b"{}")
    for one in claims:
        aged.put(one, b"{}")
    assert cli.ok("prune", "--store", "--older-than", "24h", "--yes", "--json").json["claims"] == 0
    ran = cli.ok("prune", "--store", "--older-than", "30d", "--yes")
    assert "3 claims of notifications" in ran.err.splitlines()[-1]
    assert list(aged.store.inner.list_keys(PREFIX)) == sorted(claims[2:])


@pytest.mark.parametrize("age", ["1s", "0.5h", "59m59s"])
@pytest.mark.usefixtures("aged")
def test_events_that_followers_may_not_have_read_stay(cli: Cli, age: str) -> None:
    """The error has the value as it was typed."""
    ran = cli("prune", "--store", "--older-than", age, "--yes")
    sentence = f"invalid duration '{age}': expected an hour or more, as followers may not have read younger events yet."
    assert (ran.code, ran.err) == (2, f"error: {sentence}\n")
