"""`status JOB`: everything known about one job, how old that is, and what to type next."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import pytest

from mopsjobs.app.jobs.next_steps import next_command, next_commands
from mopsjobs.registry.job_registry import JobRegistry
from support.cli import Cli, Remote, add, foreign, key, sentences

if TYPE_CHECKING:
    pass

SUBMITTED = {"metadata": {"bundle": "sha256:" + "0" * 64}}
"""What the record of a job that mops-jobs submitted has."""

REPORTED = {"metadata": {}}
"""What the record of any other job has."""


@pytest.fixture
def nightly(cli: Cli, jobs: JobRegistry) -> None:
    """Add `nightly-1`, which was queued for ten minutes, ran for an hour, and failed an hour ago."""
    cli.clock.advance(hours=-3)
    jobs.register_job(
        "nightly-1", k8s_name="sim-1", namespace="modelops", k8s_uid="u-1", owner="ada", labels={"exp": "7"},
        tasks_total=10, engine="kubernetes", parent_job_id="nightly-0",
    )  # fmt: skip
    cli.clock.advance(minutes=50)
    jobs.update_status("nightly-1", "running")
    jobs.update_progress("nightly-1", 5, tasks_failed=1)
    cli.clock.advance(minutes=70)
    jobs.update_status(
        "nightly-1", "failed", error_code="OOM", error_message="killed at 12 GiB", results_path="results/nightly-1",
        missing_outputs=[f"out-{number}" for number in range(7)], verified_outputs=["out-9"],
        last_validation_error="no out-3",
    )  # fmt: skip
    cli.clock.advance(hours=1)


@pytest.mark.usefixtures("nightly")
def test_status_shows_all_there_is(cli: Cli) -> None:
    """Status and since when, progress with a bar, queue and run time apart, names, error, results, timeline."""
    assert cli.ok("status", "nightly-1").lines == [
        "Job        nightly-1",
        "Status     failed, since 2026-03-01T11:00:00Z",
        "Progress   [############------------] 5/10 tasks, 50 %, 1 failed",
        "Created    2026-03-01T09:00:00Z",
        "Updated    2026-03-01T11:00:00Z",
        "Queued     50m",
        "Ran        1h 10m",
        "Owner      ada",
        "Labels     exp=7",
        "Engine     kubernetes",
        "Kubernetes modelops/sim-1, uid u-1",
        "Parent     nightly-0",
        "Results    results/nightly-1",
        "Outputs    when it ended, 1 verified, 7 missing: out-0, out-1, out-2, out-3, out-4, …",
        "Error      OOM: killed at 12 GiB",
        "Validation no out-3",
        "Timeline",
        "  2026-03-01 09:00:00Z  pending",
        "  2026-03-01 09:50:00Z  running",
        "  2026-03-01 11:00:00Z  failed  (+1h 10m)",
    ]


@pytest.mark.usefixtures("nightly")
def test_status_says_how_old_it_is_and_what_comes_next(cli: Cli) -> None:
    """The age of the data and the next command stand on stderr, since they are not the data."""
    assert cli.ok("status", "nightly-1").err.splitlines() == [
        "Data: live",
        "Next: kubectl -n modelops describe job sim-1",
    ]


def test_the_next_command_follows_the_state(cli: Cli, jobs: JobRegistry) -> None:
    """An active job is waited for; an ended one is looked at in full."""
    add(jobs, "active", "running")
    add(jobs, "done", "succeeded")
    assert "Next: mops-jobs wait active" in cli.ok("status", "active").err
    assert "Next: mops-jobs status done --json" in cli.ok("status", "done").err


@pytest.mark.claim("Printed commands quote what records say")
@pytest.mark.parametrize(
    ("namespace", "name"),
    [("modelops", "--all"), ("a;id", "sim-1"), ("modelops", "../pods/x")],
)
def test_a_name_that_no_job_can_have_is_not_typed(cli: Cli, remote: Remote, namespace: str, name: str) -> None:
    """A record's name and namespace stand in a command line only where a cluster can have a Job there."""
    remote.put(key("a"), foreign("a", "failed", k8s_namespace=namespace, k8s_name=name))
    cli.ok("sync")
    err = cli.ok("status", "a").err
    assert "Next: mops-jobs status a --json" in err
    assert "kubectl" not in err


@pytest.mark.claim("Printed commands quote what records say")
@pytest.mark.parametrize("name", ["--yes", "a; id", "it's"])
def test_a_printed_command_names_the_job_whatever_its_id(cli: Cli, remote: Remote, name: str) -> None:
    """An id is quoted for the shell and never read as a flag: typed as it stands, the command does what it says."""
    remote.put(key(name), foreign(name, "failed", k8s_name=None))
    cli.ok("sync")
    told = next(line for line in cli.ok("status", "--", name).err.splitlines() if line.startswith("Next: "))
    program, *words = shlex.split(told.removeprefix("Next: "))
    assert (program, words[0]) == ("mops-jobs", "status")
    assert cli.ok(*words).json["job_id"] == name


def test_each_command_of_a_job_names_it_and_nothing_else() -> None:
    """Whatever the id, what the page shows to copy has it as one word behind the flags."""
    job = {
        "job_id": "--a b",
        "is_active": False,
        "results_path": "results/x",
        "status": "failed",
        **SUBMITTED,
    }
    told = [shlex.split(line) for _, line in [*next_commands(job), *next_commands({**job, "is_active": True})]]
    assert [words[-2:] for words in told] == [["--", "--a b"]] * 6
    assert [words[1] for words in told] == ["logs", "results", "resume", "logs", "status", "cancel"]


def test_a_job_that_was_only_reported_is_not_to_be_resumed() -> None:
    """`resume` refuses a job without a manifest, so neither `status` nor the page suggests it."""
    job = {
        "job_id": "a",
        "is_active": False,
        "results_path": None,
        "status": "failed",
        "k8s_name": None,
        **REPORTED,
    }
    assert next_commands(job) == [("Read its log", "mops-jobs logs a")]
    assert next_command(job, stale=False) == "mops-jobs status a --json"


@pytest.mark.parametrize("is_active", [True, False])
def test_a_job_with_failed_tasks_leads_to_their_reasons(is_active: bool) -> None:
    """While it runs and afterwards, if mops-jobs knows its tasks."""
    job = {"job_id": "a", "is_active": is_active, "status": "failed", "results_path": None, "tasks_failed": 2}
    command = ("See why tasks failed", "mops-jobs failures a")
    assert command in next_commands({**job, **SUBMITTED})
    assert command not in next_commands({**job, **SUBMITTED, "tasks_failed": 0})
    assert command not in next_commands({**job, **REPORTED})


def test_no_command_is_suggested_twice() -> None:
    """The page leaves out what it already advises: the two commands for the results of a job are the same text."""
    job = {"job_id": "a", "is_active": False, "status": "succeeded", "results_path": "results/a", **SUBMITTED}
    assert next_command(job, stale=False) in [command for _, command in next_commands(job)]


def test_duplicates_are_counted_among_the_tasks_not_among_the_failures(cli: Cli, jobs: JobRegistry) -> None:
    """`3 failed, 2 of which repeat an earlier one` said something about failures."""
    jobs.register_job("a", tasks_total=5, metadata={"n_duplicate_tasks": 2})
    jobs.update_status("a", "running")
    jobs.update_progress("a", 1, tasks_failed=3)
    words = "1/5 tasks, 2 of which repeat an earlier one and share its outputs, 20 %, 3 failed"
    assert words in cli.ok("status", "a").out


@pytest.mark.usefixtures("nightly")
def test_the_json_is_the_job_itself(cli: Cli) -> None:
    """`status --json` prints the job object, the same as in `list --json`, and nothing else."""
    ran = cli.ok("status", "nightly-1", "--json")
    assert ran.json == cli.ok("list", "--json").json["jobs"][0]
    assert (ran.json["queued_seconds"], ran.json["run_seconds"], ran.json["duration_seconds"]) == (3000, 4200, 7200)
    assert ran.err == ""


def test_a_unique_prefix_will_do(cli: Cli, jobs: JobRegistry) -> None:
    """The beginning of an id names the job if no other begins so; it is said which one it is."""
    for name in ("alpha-1", "alpha-10", "beta"):
        add(jobs, name)
    ran = cli.ok("status", "b")
    assert ran.lines[0].split() == ["Job", "beta"]
    assert "b is short for beta" in ran.err
    assert cli.ok("status", "alpha-1", "--json").json["job_id"] == "alpha-1"


def test_an_ambiguous_prefix_is_refused_with_its_candidates(cli: Cli, jobs: JobRegistry) -> None:
    """Several jobs that begin so: exit code 3, and at most five of them are named."""
    for number in range(7):
        add(jobs, f"alpha-{number}")
    ran = cli("status", "alpha")
    assert (ran.code, ran.out) == (3, "")
    assert ran.err == (
        "error: Several jobs begin with alpha.\n"
        "hint: Use a longer prefix, or one of: alpha-0, alpha-1, alpha-2, alpha-3, alpha-4, …\n"
    )


@pytest.mark.parametrize("name", ["100%", "a_b", "[a]"])
def test_a_prefix_is_taken_literally(cli: Cli, jobs: JobRegistry, remote: Remote, name: str) -> None:
    """Characters that mean something to SQL or a shell mean themselves."""
    remote.put(key(f"{name}-1"), foreign(f"{name}-1"))
    remote.put(key("axb-1"), foreign("axb-1"))
    assert cli.ok("status", name, "--json").json["job_id"] == f"{name}-1"


def test_latest_is_the_job_created_last(cli: Cli, jobs: JobRegistry) -> None:
    """`@latest` is the newest job, not the one that changed last."""
    add(jobs, "first")
    cli.clock.advance(minutes=1)
    add(jobs, "second")
    cli.clock.advance(minutes=1)
    jobs.update_status("first", "running")
    assert cli.ok("status", "@latest", "--json").json["job_id"] == "second"


@pytest.mark.parametrize("name", ["nothing", "@latest"])
def test_no_such_job(cli: Cli, remote: Remote, name: str) -> None:
    """A job that is not there: exit code 3, one sentence that names it, a hint, nothing on stdout."""
    said = f"error: Job {name} not found.\nhint: To see the ids, run: mops-jobs list\n"
    assert cli("status", name, "--json") == (3, "", said)


@pytest.mark.parametrize(
    ("status", "code"), [("succeeded", 0), ("failed", 100), ("cancelled", 103), ("partial", 104), ("running", 8)]
)
def test_exit_status_tells_the_state(cli: Cli, jobs: JobRegistry, status: str, code: int) -> None:
    """`--exit-status` tells how the job stands; without it, a job that was found is a success."""
    add(jobs, "job", status)
    assert cli("status", "job", "--exit-status", "--json").code == code
    assert cli("status", "job", "--json").code == 0


def test_a_job_that_ended_before_its_first_task_has_waited(cli: Cli, remote: Remote) -> None:
    """Its record tells of every step, and none of them is a run."""
    add(remote.jobs, "a")
    cli.clock.advance(minutes=5)
    remote.jobs.cancel_job("a")
    lines = cli.ok("status", "a", "--refresh").lines
    assert "Queued     5m" in lines
    assert not any(line.startswith("Ran") for line in lines)


def test_the_cache_answers_and_says_how_old_it_is(cli: Cli, remote: Remote) -> None:
    """With the registry out of reach, `status` answers from the cache, with its age, and asks no engine."""
    remote.put(key("a"), foreign("a"))
    cli.ok("sync")
    cli.clock.advance(hours=2)
    remote.store.down = True
    remote.store.calls.clear()
    ran = cli.ok("status", "a")
    assert ran.err.splitlines() == ["Data: synced 2h ago, stale", "Next: mops-jobs sync"]
    assert not remote.store.calls


def test_refresh_reads_the_one_record(cli: Cli, remote: Remote) -> None:
    """`--refresh` costs one request for one job, and never shows the old state."""
    remote.put(key("a"), foreign("a"))
    cli.ok("sync")
    remote.put(key("a"), foreign("a", "failed"))
    remote.store.calls.clear()
    ran = cli.ok("status", "a", "--refresh", "--json")
    assert ran.json["status"] == "failed"
    assert remote.store.calls == {"get": 1}


def test_a_failed_refresh_shows_the_old_state(cli: Cli, remote: Remote) -> None:
    """With the registry out of reach, `--refresh` warns and shows what the cache has."""
    remote.put(key("a"), foreign("a"))
    cli.ok("sync")
    remote.store.down = True
    ran = cli("status", "a", "--refresh", "--json")
    assert ran.code == 5
    assert ran.json["status"] == "running"
    assert ran.err.startswith("warning: Cannot reach the registry")


def test_a_job_that_the_cache_lacks_is_looked_up(cli: Cli, remote: Remote) -> None:
    """A job newer than the last sync is read from the registry; offline, it is no such job."""
    cli.ok("sync")
    remote.put(key("new"), foreign("new"))
    assert cli("status", "new", "--offline").code == 3
    ran = cli.ok("status", "new")
    assert "Data: live, from the registry" in ran.err
    remote.store.down = True
    ran = cli("status", "other")
    assert (ran.code, ran.out, len(sentences(ran.err))) == (5, "", 1)


def test_an_unreadable_record_is_told_in_one_sentence(cli: Cli, remote: Remote) -> None:
    """A record that is none is named with its reason."""
    cli.ok("sync")
    remote.put(key("bad"), json.dumps({"job_id": "bad", "status": 3}))
    ran = cli("status", "bad")
    assert (ran.code, ran.out, len(sentences(ran.err))) == (6, "", 1)
    assert key("bad") in ran.err
    assert ran.err.splitlines()[-1] == "hint: See: mops-jobs doctor"


def test_a_job_that_only_exists_as_an_unreadable_record_is_not_missing(cli: Cli, remote: Remote) -> None:
    """Once a sync has met it, the cache knows: exit code 6 with the reason, not 3, and offline too."""
    remote.put(key("bad"), "{")
    assert cli("sync", "-q").code == 7
    for flags in ((), ("--offline",), ("--json",), ("--refresh",)):
        ran = cli("status", "bad", *flags)
        assert (ran.code, ran.out, len(sentences(ran.err))) == (6, "", 1)
        assert ran.err.startswith(f"error: {key('bad')}: not JSON")
        assert ran.err.splitlines()[-1] == "hint: See: mops-jobs doctor"
    assert cli("wait", "bad", "-q").code == 6


def test_a_record_that_became_unreadable_shows_its_last_state(cli: Cli, remote: Remote) -> None:
    """With a warning. The last good state is better than none, and never passes for the present one."""
    remote.put(key("a"), foreign("a"))
    cli.ok("sync")
    remote.put(key("a"), "{")
    assert cli("sync", "-q").code == 7
    ran = cli.ok("status", "a", "--json")
    assert ran.json["status"] == "running"
    assert ran.err.startswith(f"warning: {key('a')} cannot be read any more (not JSON")
    assert ran.err.endswith("); this is its last good state.\n")


@pytest.mark.parametrize("name", ["a_c", "A-C", "%", "c"])
def test_an_unreadable_record_of_another_job_is_not_blamed_on_this_one(cli: Cli, remote: Remote, name: str) -> None:
    """Names are compared as they are: `_` and `%` stand for themselves, and case counts."""
    remote.put(key("a-c"), "{")
    remote.put(key("other"), foreign("other"))
    assert cli("sync", "-q").code == 7
    assert cli("status", name, "--offline").code == 3
    remote.put(key("a_c"), foreign("a_c"))
    cli("sync", "-q")
    assert cli.ok("status", "a_c", "--json").err == ""


def test_a_refresh_during_an_outage_asks_once(cli: Cli, remote: Remote) -> None:
    """After the one request has failed, nothing else is sent: not for a job in the cache, nor for another, nor ever."""
    remote.store.down = True
    ran = cli("status", "a", "--refresh")
    assert (ran.code, ran.out, len(sentences(ran.err))) == (5, "", 1)
    assert ran.err.startswith("error: Cannot reach the registry")
    assert remote.store.calls == {"get": 1}
    remote.store.down = False
    remote.put(key("a"), foreign("a"))
    cli.ok("sync")
    remote.store.down = True
    for name in ("a", "b"):
        remote.store.calls.clear()
        assert cli("status", name, "--refresh", "--json").code == 5
        assert remote.store.calls == {"get": 1}
