"""`sync`: the cache becomes what the registry is, at a cost that follows what changed, and never by losing anything."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import jsonschema
import pytest
from filelock import FileLock

from mopsjobs.cache import database as cache_database
from mopsjobs.cache.sync.lock import sync_lock
from mopsjobs.registry.transitions import ShardReport
from mopsjobs.registry.usage import ShardUsage
from mopsjobs.store.base import Versioned, VersionedStore, VersionToken
from mopsjobs.store.dynamodb.store import DynamoDBVersionedStore
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.submission.infer_end import RunnerEnd, infer_end
from mopsjobs.submission.session import Session
from support.cli import REMOTE_URL, Cli, Remote, add, foreign, key, put, put_foreign, sentences
from support.events import Writer
from support.ledgers import Ledger, add_job, attempt, leave_outputs
from support.runs import sets_of
from support.servers import Azurite

MEGABYTES_9 = b"x" * 9_000_000

BAD_BLOBS = {
    "jobs/bad-array/state.json": (b"[1, 2]", "unreadable", "not a JSON object but a list"),
    "jobs/bad-empty/state.json": (b"", "unreadable", "not JSON"),
    "jobs/bad-field/state.json": (b'{"job_id": "bad-field"}', "unreadable", "no field status"),
    "jobs/bad-huge/state.json": (MEGABYTES_9, "unreadable", "9,000,000 bytes"),
    "jobs/bad-id/state.json": (foreign("another"), "unreadable", "the record is that of job 'another'"),
    "jobs/bad-json/state.json": (b'{"job_id": "bad-j', "unreadable", "not JSON"),
    "jobs/bad-number/state.json": (
        foreign("bad-number", metadata=0).replace("0\n", "NaN\n"),
        "unreadable",
        "field metadata",
    ),
    "jobs/bad-status/state.json": (foreign("bad-status").replace('"running"', "7"), "unreadable", "field status"),
    "jobs/bad-time/state.json": (foreign("bad-time", created_at="yesterday"), "unreadable", "field created_at"),
    "jobs/bad-type/state.json": (foreign("bad-type", tasks_total="ten"), "unreadable", "expected a whole number"),
    "jobs/bad-utf8/state.json": (b"\xff\xfe\x00", "unreadable", "not UTF-8"),
    "jobs/good-1/notes.txt": (b"by hand", "not_a_record", "not a job record"),
    "jobs/odd-code/state.json": (foreign("odd-code", error_code=137), "foreign_value", "shown as 137"),
    "jobs/odd-loss/state.json": (foreign("odd-loss").replace("{}", '{"loss": NaN}'), "foreign_value", "shown as null"),
    "jobs/odd-progress/state.json": (
        foreign("odd-progress", tasks_completed=2.5),
        "foreign_value",
        "a whole number, not 2.5; shown as 2",
    ),
    "jobs/odd-status/state.json": (foreign("odd-status", "hibernating"), "unknown_status", "'hibernating'"),
}
"""What may lie under the registry's prefix: the bytes, and how each is to be reported."""


def _problems(document: dict[str, list[dict[str, str]]]) -> dict[str, tuple[str, str]]:
    return {problem["key"]: (problem["kind"], problem["reason"]) for problem in document["problems"]}


def test_sync_mirrors_every_record(cli: Cli, anywhere: VersionedStore) -> None:
    """After a sync of records that another program wrote, the cache has all of them, and says so in one line."""
    put_foreign(anywhere, "a b c d e")
    ran = cli.ok("sync")
    assert ran.err == ""
    (line,) = ran.lines
    assert line.startswith("Synced 5 jobs in ")
    assert line.endswith(": 5 added")
    assert cli.held() == ["a", "b", "c", "d", "e"]


def test_a_second_sync_writes_only_what_changed(cli: Cli, anywhere: VersionedStore) -> None:
    """Rows whose version is the listed one are left alone; a changed, a new and a vanished record are counted."""
    put_foreign(anywhere, "a b c d e")
    cli.ok("sync")
    put(anywhere, key("b"), foreign("b", "succeeded"))
    put(anywhere, key("f"), foreign("f"))
    anywhere.delete(key("c"))
    report = cli.ok("sync", "--json").json
    counts = {name: report[name] for name in ("seen", "added", "changed", "unchanged", "removed")}
    assert counts == {"seen": 5, "added": 1, "changed": 1, "unchanged": 3, "removed": 1}
    assert cli.held() == ["a", "b", "d", "e", "f"]
    assert cli.ok("sync").lines[0].endswith(": nothing new")


def test_every_kind_of_bad_blob_is_reported_and_stops_nothing(cli: Cli, anywhere: VersionedStore) -> None:
    """Each is named with its key and reason, the exit code is 7, and the good records are all there.

    All that can lie there: DynamoDB takes nothing huge.
    """
    bad_blobs = dict(BAD_BLOBS)
    if isinstance(anywhere, DynamoDBVersionedStore):
        del bad_blobs["jobs/bad-huge/state.json"]
    for place, (value, _, _) in bad_blobs.items():
        put(anywhere, place, value)
    put_foreign(anywhere, "good-1 good-2 good-3")
    ran = cli.ends(7, "sync", "--json")
    told = _problems(ran.json)
    assert {place: kind for place, (kind, _) in told.items()} == {at: kind for at, (_, kind, _) in bad_blobs.items()}
    for place, (_, _, reason) in bad_blobs.items():
        assert reason in told[place][1]
    assert cli.held() == ["good-1", "good-2", "good-3", "odd-code", "odd-loss", "odd-progress", "odd-status"]
    again = cli("sync", "--json")
    assert (again.code, _problems(again.json)) == (7, told)
    doctor = cli("doctor", "--json")
    assert _problems(doctor.json) == told
    assert doctor.code == 7


def test_a_record_of_many_outputs_is_listed_in_part(cli: Cli, remote: Remote) -> None:
    """ModelOps lists every output of a job. Views show five of a list, and a later write keeps all."""
    outputs = [{"param_id": "p" * 200, "seed": number} for number in range(8_000)]
    remote.put(key("large"), foreign("large", expected_outputs=outputs))
    ran = cli("sync")
    assert (ran.code, ran.err.count("of its outputs, 5 per list are shown")) == (0, 1)
    assert cli.ok("status", "large", "--json").json["expected_outputs"] == outputs[:5]
    cli.ok("update", "large", "running", "--label", "exp=7")
    found = remote.store.get(key("large"))
    assert found is not None
    assert json.loads(found.value)["expected_outputs"] == outputs


def test_a_huge_blob_is_never_fetched(cli: Cli, remote: Remote) -> None:
    """Nine megabytes of text are refused by what the listing tells of their size."""
    remote.store.hides_values = True
    remote.put(key("huge"), MEGABYTES_9)
    assert cli("sync").code == 7
    assert remote.store.calls["get"] == 0


def test_bad_records_are_named_on_stderr(cli: Cli, remote: Remote) -> None:
    """Without `--json` each of the first ten is one warning, and the summary line counts them."""
    for number in range(30):
        remote.put(key(f"bad-{number:02}"), "{")
    remote.put(key("good"), foreign("good"))
    ran = cli.ends(7, "sync")
    assert ran.err.startswith("warning: jobs/bad-00/state.json: not JSON")
    assert ran.err.count("not JSON") == 10
    assert "and 20 more; all of them: mops-jobs doctor --json" in ran.err
    assert ran.lines[0].endswith("; 30 unreadable")
    assert cli("sync", "-q")[:2] == (7, "")


def test_a_value_read_differently_is_named_once(cli: Cli, remote: Remote) -> None:
    """A sync names it when the record has changed, and `--full` again. `status`, also from the registry, shows it."""
    remote.put(key("odd"), foreign("odd", error_code=137))
    assert "shown as 137" in cli("sync").err
    assert cli("sync").err == ""
    assert "shown as 137" in cli("sync", "--full").err
    remote.put(key("odd"), foreign("odd", error_code=138))
    for flags in (("--refresh",), ("--offline",)):
        (line,) = [line for line in cli.ok("status", "odd", *flags).lines if line.startswith("Remark")]
        assert line.endswith("shown as 138")
    assert "shown as 138" in str(cli.ok("sync", "--json").json["problems"])
    remote.put(key("odd"), foreign("odd", error_code=139))
    assert "shown as 139" in cli("sync").err


def test_an_unreadable_record_keeps_its_last_good_row(cli: Cli, anywhere: VersionedStore) -> None:
    """A record that turns bad is shown as it last was, until it is repaired; then the problem is gone."""
    put_foreign(anywhere, "a b")
    cli.ok("sync")
    put(anywhere, key("a"), "not JSON at all")
    put(anywhere, key("b"), foreign("b", "failed"))
    assert cli("sync").code == 7
    assert _status(cli, "a") == "running"
    assert _status(cli, "b") == "failed"
    put(anywhere, key("a"), foreign("a", "succeeded"))
    report = cli.ok("sync", "--json").json
    assert (report["problems"], report["changed"]) == ([], 1)
    assert _status(cli, "a") == "succeeded"


def test_a_record_is_restored_with_its_earlier_version(cli: Cli, remote: Remote) -> None:
    """Versions of S3 are digests: a record from a backup has the version of the last good row."""
    remote.store.inner = _DigestVersions()
    remote.put(key("a"), foreign("a"))
    cli.ok("sync")
    remote.put(key("a"), "not JSON at all")
    assert cli("sync").code == 7
    remote.put(key("a"), foreign("a"))
    assert cli.ok("sync", "--json").json["problems"] == []
    assert "cannot be read" not in cli.ok("status", "a").err


class _DigestVersions(InMemoryVersionedStore):
    def _write(self, key: str, value: bytes) -> VersionToken:
        self._objects[key] = Versioned(value, VersionToken(hashlib.sha256(value).hexdigest()))
        return self._objects[key].version


def test_a_problem_goes_away_with_its_blob(cli: Cli, remote: Remote) -> None:
    """What was reported and is deleted is reported no more, and `doctor` is content again. A manifest never is."""
    remote.put("jobs/a/manifest.json", "{}")
    remote.put(key("bad"), "{")
    remote.put("jobs/x/other", "")
    assert cli("sync").code == 7
    remote.store.delete(key("bad"))
    remote.store.delete("jobs/x/other")
    assert cli.ok("sync", "--json").json["problems"] == []
    assert cli.ok("doctor", "--json").json["problems"] == []


def test_a_name_that_no_key_may_have_stops_nothing(cli: Cli, azurite: Azurite) -> None:
    """A blob whose name has a bidirectional mark or an empty segment is reported, and the others are mirrored."""
    container = azurite.new_container()
    with azurite.client(container) as client:
        client.create_container()
        for name in ("good", "txt\u202eexe", "other"):
            client.upload_blob(key(name), foreign(name))
        client.upload_blob("jobs//state.json", foreign("none"))
    cli.env["MOPS_JOBS_REGISTRY"] = f"{azurite.endpoint}/{container}"
    ran = cli("sync", "--json")
    assert ran.code in (0, 7), ran.err
    assert {key("txt\u202eexe"), "jobs//state.json"} <= set(_problems(ran.json))
    assert cli.held() == ["good", "other"]
    assert "\u202e" not in cli("sync").err + cli("doctor").out


@pytest.mark.parametrize("field", ["updated_at", "created_at", "heartbeat_at"])
def test_a_time_at_the_end_of_the_calendar_spoils_no_listing(cli: Cli, remote: Remote, field: str) -> None:
    """The largest time that other programs know is shown or reported, and the other jobs are listed."""
    remote.put(key("a"), foreign("a"))
    remote.put(key("far"), foreign("far", "failed", **{field: "9999-12-31T23:59:59.999999+00:00"}))
    assert cli("sync").code in (0, 7)
    assert "a" in cli.ids("--offline")
    assert "a" in [job["job_id"] for job in cli.ok("list", "--offline", "--json").json["jobs"]]


@pytest.mark.parametrize("metadata", ["1e999", "[" * 480 + "]" * 480, "[" * 900 + "]" * 900, "1" * 4200])
def test_metadata_that_json_barely_allows_spoil_no_listing(cli: Cli, remote: Remote, metadata: str) -> None:
    """Numbers beyond all bounds and endless nesting are reported or shown, and the other jobs are listed."""
    remote.put(key("a"), foreign("a"))
    remote.put(key("odd"), foreign("odd").replace('"metadata": {}', f'"metadata": {{"x": {metadata}}}'))
    assert cli("sync").code in (0, 7)
    for flags in (("list",), ("list", "--json"), ("list", "--tsv", "--fields", "job_id,metadata")):
        assert "a" in cli.ok(*flags, "--offline").out
    with closing(cache_database.open_to_read(str(cli.cache), REMOTE_URL)) as connection:  # type: ignore[type-var]
        assert ("a",) in connection.execute("SELECT job_id FROM jobs WHERE metadata IS NOT NULL").fetchall()


def test_inline_values_are_used_and_others_fetched(cli: Cli, remote: Remote) -> None:
    """A value that the listing carries costs no request; one that it lacks costs one, and only if it changed.

    One more finds that this is the registry that the cache mirrors.
    """
    put_foreign(remote.store.inner, "a b c")
    assert cli.ok("sync", "--json").json["fetched"] == 0
    assert remote.store.calls["get"] == 0
    put(remote.store.inner, key("b"), foreign("b", "failed"))
    remote.store.hides_values = True
    assert cli.ok("sync", "--json").json["fetched"] == 1
    assert remote.store.calls["get"] == 2
    assert _status(cli, "b") == "failed"


def test_full_reads_everything_again(cli: Cli, remote: Remote) -> None:
    """`--full` replaces even rows whose version has not changed, and counts by the version."""
    put_foreign(remote.store.inner, "a b")
    cli.ok("sync")
    with closing(cache_database.open_to_write(str(cli.cache), REMOTE_URL)) as connection:
        connection.execute("UPDATE job SET status = 'wrong' WHERE job_id = 'a'")
    cli.ok("sync")
    assert cli.ids("--offline", "--status", "running") == ["b"]
    report = cli.ok("sync", "--full", "--json").json
    assert (report["added"], report["changed"], report["unchanged"]) == (0, 0, 2)
    assert sorted(cli.ids("--offline", "--status", "running")) == ["a", "b"]
    put(remote.store.inner, key("b"), foreign("b", "succeeded"))
    assert cli.ok("sync", "--full", "--json").json["changed"] == 1


def test_the_registry_is_opened_before_the_lock_is_taken(
    cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an SDK starts then would inherit the lock: a sync that was killed would seem to be running."""
    free: list[bool] = []

    def opened(url: str, env: dict[str, str], **_: object) -> object:
        with FileLock(f"{cli.cache}.lock", timeout=0):
            free.append(True)
        return remote.store

    monkeypatch.setattr("mopsjobs.store.open_store", opened)
    cli.ok("sync")
    assert free == [True]


def _status(cli: Cli, job_id: str) -> str:
    return json.loads(cli.ok("status", job_id, "--json", "--offline").out)["status"]  # type: ignore[no-any-return]


def _outcomes(cli: Cli) -> list[list[str]]:
    ran = cli.ok("query", "--tsv", "SELECT task, outcome, basis FROM tasks ORDER BY task")
    return [line.split("\t") for line in ran.lines]


def test_sync_refreshes_what_was_looked_at_until_it_is_complete(
    cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ledger is complete a minute after the end of its job. A job that no view looked at costs nothing."""
    for name in ("looked", "other"):
        add_job(remote.jobs, name, sets_of(3), attempts=[attempt(0)])
    cli.ok("tasks", "looked")
    runner = Ledger(remote.store.inner, "looked", run="cd")
    runner(attempt(1, "failed"))
    assert cli.ok("sync", "--json").json["attempts_added"] == 1
    remote.jobs.update_status("looked", "failed")
    runner(attempt(2))
    assert "1 new attempt" in cli.ok("sync").out
    cli.clock.advance(seconds=120)
    cli.ok("sync")
    assert _outcomes(cli) == [["0", "succeeded", "ledger"], ["1", "failed", "ledger"], ["2", "succeeded", "ledger"]]
    listed: list[str] = []
    list_keys = remote.store.list_keys
    monkeypatch.setattr(remote.store, "list_keys", lambda prefix="": listed.append(prefix) or list_keys(prefix))
    assert cli.ok("sync", "--json").json["attempts_added"] == 0
    assert listed != []
    assert not any(prefix.startswith("ledger/") for prefix in listed)


@pytest.mark.parametrize("has_counted", [False, True])
@pytest.mark.parametrize("command", ["sync", "validate job"])
def test_attempts_that_are_delivered_late_reach_a_complete_ledger(
    cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch, command: str, *, has_counted: bool
) -> None:
    """What a killed runner kept changes the record of its cancelled job, also while its ledger is listed.

    Its last report may have counted it.
    """
    add_job(remote.jobs, "job", sets_of(3))
    if has_counted:
        remote.jobs.report_shard("job", 0, 1, ShardReport(0, 1, usage=ShardUsage(9.0, 9.0, 9.0, 2**30)))
    remote.jobs.cancel_job("job")
    cli.ok("sync")
    cli.clock.advance(seconds=120)
    assert cli.ok("tasks", "job", "--json").json["complete"]
    deliver = Ledger(remote.store.inner)
    deliver(attempt(0, "failed"))
    session = Session(registry_url="", open_registry=lambda: remote.jobs, env={})
    if command == "sync":
        infer_end(remote.jobs.require_job("job"), RunnerEnd(), session)
    cli.ok(*command.split())
    assert "ValueError" in cli.ok("failures", "job").out
    assert cli.ok("tasks", "job", "--json", "--offline").json["complete"]

    list_keys = remote.store.list_keys

    def list_before_delivery(prefix: str = "") -> Iterator[str]:
        listed = list(list_keys(prefix))
        if not prefix.startswith("ledger/"):
            return iter(listed)
        monkeypatch.setattr(remote.store, "list_keys", list_keys)
        deliver(attempt(1, "failed"))
        infer_end(remote.jobs.require_job("job"), RunnerEnd(), session)
        cli.ok("status", "job", "--refresh")
        return iter(listed)

    monkeypatch.setattr(remote.store, "list_keys", list_before_delivery)
    cli.ok("tasks", "job", "--refresh")
    assert cli.ok("failures", "job", "--json").json["failed"] == 2


def test_tasks_without_an_attempt_are_told_by_outputs_at_the_end(cli: Cli, remote: Remote) -> None:
    """The disk of a runner, and its last attempts with it, may be lost; the outputs are there."""
    manifest = add_job(remote.jobs, "job", sets_of(4), attempts=[attempt(0), attempt(1, "lost")])
    leave_outputs(remote.store.inner, manifest, 0, 1, 2)
    cli.ok("tasks", "job")
    assert _outcomes(cli) == [["0", "succeeded", "ledger"], ["1", "lost", "ledger"]]
    remote.jobs.update_status("job", "partial")
    cli.ok("sync")
    assert _outcomes(cli) == [["0", "succeeded", "ledger"], ["1", "succeeded", "ledger"], ["2", "succeeded", "outputs"]]


def test_a_manifest_that_is_gone_does_not_stop_a_sync(cli: Cli, remote: Remote) -> None:
    """The ledger gets a problem, and those of other jobs go on."""
    for name in ("a", "b"):
        add_job(remote.jobs, name, sets_of(2))
        cli.ok("tasks", name)
    Ledger(remote.store.inner, "b")(attempt(1))
    remote.store.inner.delete("jobs/a/manifest.json")
    assert cli.ok("sync", "--json").json["attempts_added"] == 1
    (problem,) = cli.ok("query", "--tsv", "SELECT problem FROM ledgers WHERE job_id = 'a'").lines
    assert "has no manifest" in problem


def test_pruned_and_removed_jobs_take_their_ledgers_along(cli: Cli, remote: Remote) -> None:
    """The cache keeps nothing of the tasks of a job that it no longer has."""
    for name in ("pruned", "deleted"):
        add_job(remote.jobs, name, sets_of(2), attempts=[attempt(0), attempt(1, "failed")])
        remote.jobs.update_status(name, "failed")
        cli.ok("tasks", name)
    remote.store.inner.delete("jobs/deleted/state.json")
    cli.ok("sync", "--full")
    cli.clock.advance(days=40)
    cli.ok("prune", "--older-than", "30d", "--yes")
    with closing(sqlite3.connect(cli.cache)) as connection:
        for table in ("ledger", "ledger_chunk", "attempt", "task", "parameter_set"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table


def test_each_write_of_the_command_leaves_a_state_event(cli: Cli, anywhere: VersionedStore) -> None:
    """On every backend: register, progress and update leave what the record said afterwards, for others to see."""
    cli.ok("register", "job", "--total", "4")
    cli.ok("progress", "job", "1/4")
    cli.ok("update", "job", "failed", "--error", "no")
    told = cli.ok("events", "job", "--json").objects
    states = sorted((event["revision"], event["status"], event["tasks_completed"]) for event in told)
    assert states == [(1, "pending", 0), (2, "running", 1), (3, "failed", 1)]
    assert {event["kind"] for event in told} == {"state"}


def test_a_write_succeeds_without_its_event(cli: Cli, remote: Remote) -> None:
    """A registry that takes the record and then goes away has the record: the command ends with 0, quietly."""
    cli.ok("register", "job")
    remote.store.before_put = lambda _key: remote.store.fail_next(1, "create_if_absent")
    assert "warning" not in cli.ok("update", "job", "running").err
    assert remote.jobs.get_job("job").status == "running"  # type: ignore[union-attr]
    assert len(cli.ok("events", "job").lines) == 1


def test_a_sync_lists_only_the_hours_since_the_last(cli: Cli, remote: Remote, write: Writer) -> None:
    """The first sync lists everything, later ones the hours since, less 15 minutes. Nothing is fetched twice."""
    listed: list[str] = []
    list_keys = remote.store.list_keys

    def noting(prefix: str = "") -> Iterator[str]:
        listed.append(prefix)
        return list_keys(prefix)

    remote.store.list_keys = noting  # type: ignore[method-assign]
    write("a")
    cli.ok("sync")
    assert listed == ["events/"]
    cli.clock.advance(minutes=30)
    write("b")
    fetched = remote.store.calls["get"]
    cli.ok("sync")
    assert listed[1:] == ["events/20260301T11/", "events/20260301T12/"]
    assert remote.store.calls["get"] == fetched + 1
    cli.clock.advance(hours=1)
    cli.ok("sync")
    assert listed[3:] == ["events/20260301T12/", "events/20260301T13/"]
    listed.clear()
    cli.ok("sync", "--full")
    assert listed == ["events/"]


def test_jobs_are_mirrored_though_events_are_not(cli: Cli, remote: Remote, write: Writer) -> None:
    """If the line is cut after the jobs, they are there, a warning says what is not, and the exit code is 7."""
    add(remote.jobs, "job")
    write("a")
    remote.store.fail_next(1, "list_keys")
    ran = cli("sync", "--json")
    assert (ran.code, ran.json["events_added"], len(sentences(ran.err))) == (7, None, 1)
    assert cli.ids("--offline") == ["job"]
    assert cli.ok("sync", "--json").json["events_added"] == 1


def test_the_mirror_of_jobs_leaves_events_alone(cli: Cli, remote: Remote, write: Writer) -> None:
    """Syncs of jobs, full ones and after a deletion too, take no event away: history outlives the record."""
    add(remote.jobs, "job", "succeeded")
    write("a")
    cli.ok("sync")
    remote.store.inner.delete(key("job"))
    cli.ok("sync", "--full")
    assert cli.ids() == []
    assert cli.ok("logs", "job", "--offline").lines == ["a"]
    assert cli.ok("logs", "job").lines == ["a"]


def test_a_second_sync_at_the_same_time_says_so(cli: Cli, remote: Remote) -> None:
    """While another sync has the cache, `sync` ends at once with 0, in words or in JSON."""
    unknown = {"running_since": None, "running_pid": None, "progress_at": None, "stalled": False}
    with FileLock(f"{cli.cache}.lock"):
        ran = cli.ok("sync")
        assert (ran.out, ran.err) == ("", "Another sync is running; nothing to do.\n")
        assert cli.ok("sync", "-q")[1:] == ("", "")
        assert cli.ok("sync", "--json").json == {"schema_version": 1, "already_running": True, **unknown}
    assert remote.store.calls["scan"] == 0


def test_a_sync_at_work_is_told_with_its_age(cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """Since when it runs, and its process; `-q` says nothing.

    Ten minutes after its last progress each other sync warns, also with `-q`, and ends with 0 as ever.
    """
    monkeypatch.setattr("mopsjobs.app.run.cache_access.MAX_LOCK_WAIT", 0.0)
    remote.put(key("a"), foreign("a"))
    cli.ok("sync")
    with sync_lock(str(cli.cache), 0, cli.clock.now) as progressed:
        assert progressed is not None
        cli.clock.advance(seconds=125)
        told = f"is running for 2m 5s (process {os.getpid()})"
        assert cli.ok("sync").err == f"Another sync {told}; nothing to do.\n"
        cli.clock.advance(hours=1, seconds=-125)
        progressed()
        cli.clock.advance(seconds=599)
        assert cli.ok("sync", "-q")[1:] == ("", "")
        cli.clock.advance(seconds=1)
        told = f"is running for 1h 10m (process {os.getpid()}), without progress for 10m"
        fix = f"continue it (kill -CONT {os.getpid()}), or end it (kill -KILL {os.getpid()})"
        warning = f"warning: Another sync {told}; the cache is not updated. To go on, {fix}.\n"
        assert cli.ok("sync", "-q")[1:] == ("", warning)
        document = cli.ok("sync", "--json", "-q").json
        assert document == {
            "schema_version": 1,
            "already_running": True,
            "running_since": "2026-03-01T12:00:00Z",
            "running_pid": os.getpid(),
            "progress_at": "2026-03-01T13:00:00Z",
            "stalled": True,
        }
        jsonschema.Draft202012Validator(cli.ok("schema", "sync").json).validate(document)
        assert f"Another sync {told}." in cli("list", "--refresh", "-q").err
    assert cli.ok("sync", "-q")[1:] == ("", "")


def test_what_a_killed_sync_left_is_told_of_no_other(cli: Cli, remote: Remote) -> None:
    """The note of a process that is gone says nothing of the one that holds the lock now, and has no note yet."""
    remote.put(key("a"), foreign("a"))
    cli.ok("sync")
    gone = subprocess.Popen(["true"])
    gone.wait()
    Path(f"{cli.cache}.lock").write_text(f'{{"pid": {gone.pid}, "since": "2026-02-01T00:00:00Z"}}')
    with FileLock(f"{cli.cache}.lock"):
        assert cli.ok("sync").err == "Another sync is running; nothing to do.\n"
    assert cli.ok("sync", "-q")[1:] == ("", "")
