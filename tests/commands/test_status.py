"""`status JOB`: everything known about one job, how old that is, what its engine says, and what to type next."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

from mopsjobs.api.live_view import html_of
from mopsjobs.cache.job_json import job_fields
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.errors import EngineAccessError, EngineUnavailableError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.transitions import ShardReport
from mopsjobs.registry.usage import ShardForecast, ShardUsage, Stragglers
from mopsjobs.submission.shard_drop import ShardDrop
from support.cli import Cli, Remote, add, foreign, key
from support.engines import FAILED, GONE, NO_IMAGE, RUNNING, SUSPENDED, Cluster, add_kubernetes_job, answer_for_all
from support.kubernetes import Api, kubeconfig
from support.ledgers import Ledger, add_job, attempt
from support.runs import sets_of
from support.web import Web

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
@pytest.mark.parametrize("name", ["--yes", "a; id", "it's", "@latest"])
def test_a_printed_command_names_the_job_whatever_its_id(cli: Cli, remote: Remote, name: str) -> None:
    """An id is quoted for the shell and never read as a flag: typed as it stands, the command does what it says."""
    remote.put(key(name), foreign(name, "failed", k8s_name=None))
    cli.ok("sync")
    told = next(line for line in cli.ok("status", f"./{name}").err.splitlines() if line.startswith("Next: "))
    program, *words = shlex.split(told.removeprefix("Next: "))
    assert (program, words[0]) == ("mops-jobs", "status")
    assert cli.ok(*words).json["job_id"] == name


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


def test_an_ambiguous_prefix_is_refused_with_its_candidates(cli: Cli, jobs: JobRegistry) -> None:
    """Several jobs that begin so: exit code 3, and at most five of them are named."""
    for number in range(7):
        add(jobs, f"alpha-{number}")
    said = cli.fails(3, "status", "alpha")
    assert said == (
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


@pytest.mark.parametrize("job_id", ["@latest", "@other", "-q"])
def test_an_id_that_reads_as_another_word_is_typed_after_dot_slash(
    cli: Cli, remote: Remote, jobs: JobRegistry, job_id: str
) -> None:
    """Another program gave it. Commands that read and commands that change the job take it, also offline."""
    remote.put(key(job_id), foreign(job_id, k8s_name=None))
    cli.clock.advance(minutes=1)
    add(jobs, "newest")
    for words in ((), ("--refresh",), ("--offline",)):
        assert cli.ok("status", f"./{job_id}", "--json", *words).json["job_id"] == job_id
    assert cli.ok("status", "@latest", "--json").json["job_id"] == "newest"
    assert f"{job_id}: labels paper=fig2" in cli.ok("label", f"./{job_id}", "paper=fig2").err
    assert cli("results", f"./{job_id}").err == f"Job {job_id} has no outputs yet.\n"
    assert cli.ok("logs", f"./{job_id}").out == ""
    assert cli.ok("events", f"./{job_id}", "--json").out
    assert f"{job_id}: cancelled" in cli.ok("cancel", f"./{job_id}").err
    assert cli("wait", f"./{job_id}").code == 103


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


def test_a_job_that_only_exists_as_an_unreadable_record_is_not_missing(cli: Cli, remote: Remote) -> None:
    """Once a sync has met it, the cache knows: exit code 6 with the reason, not 3, and offline too."""
    remote.put(key("bad"), "{")
    assert cli("sync", "-q").code == 7
    for flags in ((), ("--offline",), ("--json",), ("--refresh",)):
        said = cli.fails(6, "status", "bad", *flags)
        assert said.startswith(f"error: {key('bad')}: not JSON")
        assert said.splitlines()[-1] == "hint: See: mops-jobs doctor"
    assert cli("wait", "bad", "-q").code == 6


@pytest.mark.parametrize("name", ["a_c", "A-C"])
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
    assert cli.fails(5, "status", "a", "--refresh").startswith("error: Cannot reach the registry")
    assert remote.store.calls == {"get": 1}
    remote.store.down = False
    remote.put(key("a"), foreign("a"))
    cli.ok("sync")
    remote.store.down = True
    for name in ("a", "b"):
        remote.store.calls.clear()
        assert cli("status", name, "--refresh", "--json").code == 5
        assert remote.store.calls == {"get": 1}


def _line(cli: Cli) -> str | None:
    lines = [line for line in cli.ok("status", "job", "--offline").lines if line.startswith("Failed")]
    return lines[0].removeprefix("Failed").strip() if lines else None


def test_status_says_which_tasks_failed_and_why(cli: Cli, remote: Remote) -> None:
    """Before the first look, it counts them as the record does; then it names the three most frequent reasons."""
    add_job(remote.jobs, "job", sets_of(50))
    runner = Ledger(remote.store.inner)
    cli.ok("sync")
    assert _line(cli) is None
    remote.jobs.report_shard("job", 0, 1, ShardReport(1, 40))
    runner(*(attempt(number, "failed") for number in range(38)), attempt(38, "oom"), attempt(39, "oom"), attempt(40))
    cli.ok("sync")
    assert _line(cli) == "40; to see why: mops-jobs failures job"
    cli.ok("tasks", "job")
    assert _line(cli) == "40: 38 ValueError in model.py:21, 2 out of memory"
    runner(attempt(41, "timeout"), attempt(42, "died"), attempt(43, "lost"), attempt(44, "cancelled"))
    cli.ok("sync")
    remote.jobs.report_shard("job", 0, 1, ShardReport(1, 43))
    cli.ok("sync")
    assert _line(cli) == "43: 38 ValueError in model.py:21, 2 out of memory, 1 died, 2 for other reasons"


def test_failed_tasks_that_only_the_record_counts_are_told(cli: Cli, remote: Remote) -> None:
    """The record is newer than what was read of the ledger. Two lines of one view name the same number."""
    add_job(remote.jobs, "job", sets_of(50), attempts=[attempt(0, "failed"), attempt(1, "oom")])
    cli.ok("tasks", "job")
    remote.jobs.report_shard("job", 0, 1, ShardReport(30, 5))
    cli.ok("sync")
    assert "30/50 tasks, 60 %, 5 failed" in cli.ok("status", "job", "--offline").out
    assert _line(cli) == "5: 1 ValueError in model.py:21, 1 out of memory, 3 not read"


def test_a_task_that_is_tried_again_has_not_failed(cli: Cli, remote: Remote) -> None:
    """The record counts those that failed for good. After the end of the job, no task is tried again."""
    add_job(remote.jobs, "job", sets_of(3))
    runner = Ledger(remote.store.inner)
    runner(attempt(0, "died"))
    cli.ok("tasks", "job")
    assert _line(cli) == "1 died, tried again"
    remote.jobs.report_shard("job", 0, 1, ShardReport(0, 1))
    runner(attempt(1, "failed"))
    cli.ok("tasks", "job")
    cli.ok("sync")
    assert _line(cli) == "2: 1 died, 1 ValueError in model.py:21; 1 of them tried again"
    remote.jobs.update_status("job", "failed")
    cli.ok("sync")
    assert _line(cli) == "2: 1 died, 1 ValueError in model.py:21"


def test_repeated_tasks_share_the_failure_and_are_counted(cli: Cli, remote: Remote) -> None:
    """`status`, `tasks` and `failures` count alike: each of the tasks with the same parameters and seed is a task."""
    one, other = {"params": {"beta": 1}, "seed": 7}, {"params": {"beta": 2}, "seed": 7}
    manifest = add_job(remote.jobs, "job", [one, other, one, one, other])
    assert manifest.record_fields()["metadata"]["n_duplicate_tasks"] == 3
    Ledger(remote.store.inner)(attempt(0, "failed"), attempt(1, "oom"))
    remote.jobs.report_shard("job", 0, 1, ShardReport(0, 5))
    assert len(cli.ok("tasks", "job", "--status", "failed,oom", "-q").lines) == 5
    assert _line(cli) == "5: 3 ValueError in model.py:21, 2 out of memory"
    assert cli.ok("failures", "job").lines[0] == "5 of 5 tasks of job failed, for 2 reasons."
    groups = cli.ok("failures", "job", "--json").json["groups"]
    assert [(group["count"], group["tasks"]) for group in groups] == [(3, [0, 2, 3]), (2, [1, 4])]


def _add_family(cli: Cli, jobs: JobRegistry, newest: str = "failed") -> None:
    """Add `nightly-1` with 14 tasks, of which 9 were done, and the two jobs that it was resumed as."""
    bundle = {"bundle": "sha256:0"}
    add(jobs, "nightly-1", "running", tasks_total=14, metadata=bundle)
    jobs.update_progress("nightly-1", 9, tasks_failed=5)
    jobs.update_status("nightly-1", "partial")
    for number, parent, status in ((2, "nightly-1", "failed"), (3, "nightly-1.2", newest)):
        cli.clock.advance(minutes=1)
        add(jobs, f"nightly-1.{number}", status, tasks_total=5, metadata=bundle, parent_job_id=parent)


def test_each_job_shows_its_family_and_the_sum_of_it(cli: Cli, jobs: JobRegistry) -> None:
    """The third job did none of its five tasks; the family has 9 of 14."""
    _add_family(cli, jobs)
    members = [
        "  nightly-1  partial, 9/14 tasks",
        "  nightly-1.2  failed, 0/5 tasks",
        "  nightly-1.3  failed, 0/5 tasks",
    ]
    family = "Family     [###############---------] 9/14 tasks, 64 %, in 3 jobs"
    for name, relatives in (
        ("nightly-1", ["Children   nightly-1.2"]),
        ("nightly-1.2", ["Parent     nightly-1", "Children   nightly-1.3"]),
        ("nightly-1.3", ["Parent     nightly-1.2"]),
    ):
        lines = cli.ok("status", name).lines
        begin = lines.index(relatives[0])
        assert lines[begin : begin + len(relatives) + 4] == [*relatives, family, *members]


def test_a_refresh_finds_children_that_the_cache_lacks(cli: Cli, remote: Remote) -> None:
    """Another machine has resumed the job since the last sync: the registry knows its children, by their ids."""
    _add_family(cli, remote.jobs)
    cli.ok("sync")
    remote.jobs.register_job("nightly-1.4", parent_job_id="nightly-1.3", tasks_total=5, metadata={"bundle": "sha256:0"})
    ran = cli.ok("status", "nightly-1", "--refresh")
    assert "Next: mops-jobs wait nightly-1.4\n" in ran.err
    assert "  nightly-1.4  pending, 0/5 tasks" in ran.lines


@pytest.mark.parametrize("name", ["night", "nightly-1."])
def test_a_prefix_of_one_family_means_its_newest_job(cli: Cli, jobs: JobRegistry, name: str) -> None:
    """It stays usable after a resume, and a note names the job; the full id of the first job still means that."""
    _add_family(cli, jobs)
    ran = cli.ok("status", name)
    assert ran.lines[0].split() == ["Job", "nightly-1.3"]
    assert f"{name} is short for nightly-1.3, the newest of its family\n" in ran.err
    assert cli.ok("status", "nightly-1", "--json").json["job_id"] == "nightly-1"
    ran = cli("wait", name)
    assert (ran.code, ran.err.splitlines()[0]) == (100, f"{name} is short for nightly-1.3, the newest of its family")
    for argv in (("events", name), ("logs", name)):
        assert f"{name} is short for nightly-1.3, the newest of its family\n" in cli.ok(*argv).err
    assert f"{name} is short for nightly-1.3, the newest of its family\n" in cli("results", name).err
    ran = cli("validate", name)
    assert (ran.code, ran.err.splitlines()[0]) == (3, f"error: Job {name} not found.")


def test_the_metadata_of_modelops_are_shown(cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    """Image and type, as `mops jobs status` shows them; on the page too. Those of mops-jobs have lines of their own."""
    metadata = {
        "type": "SimJob",
        "blob_key": "sim/1.json",
        "image": "ghcr.io/runner:1",
        "note": "mine",
        "suspect": None,
    }
    remote.put(key("job-1a"), foreign("job-1a", metadata=metadata))
    remote.put(key("ours"), foreign("ours", metadata={"bundle": "sha256:0", "study": "m/s"}))
    shown = "type: SimJob, blob_key: sim/1.json, image: ghcr.io/runner:1"
    assert f"Metadata   {shown}" in cli.ok("status", "job-1a").lines
    assert "Metadata" not in cli.ok("status", "ours").out
    assert shown in Web(cli, capsys).ok("/jobs/job-1a")


@pytest.mark.parametrize("status", ["scheduled", "running"])
def test_a_start_that_nothing_reported_has_no_time(cli: Cli, remote: Remote, status: str) -> None:
    """`update` ends a job of another program: neither its last write nor that of the end is its start."""
    remote.put(key("theirs"), foreign("theirs", status))
    cli.clock.advance(hours=10)
    job = cli.ok("update", "theirs", "succeeded", "--json").json
    assert [step["at"] for step in job["transitions"][:-1]] == [None] * (len(job["transitions"]) - 1)
    assert (job["started_at"], job["queued_seconds"], job["run_seconds"]) == (None, None, None)
    assert job["ended_at"] == job["status_since"] == "2026-03-01T22:00:00Z"
    assert cli.ok("status", "theirs", "--json").json == job
    lines = cli.ok("status", "theirs").lines
    assert not [line for line in lines if line.startswith(("Queued", "Ran"))]
    assert lines[-2:] == ["Timeline", "  2026-03-01 22:00:00Z  succeeded"]


USED = ShardUsage(5400.0, 6000.0, 7200.0, 300 * 2**20)


def _report(
    cli: Cli, remote: Remote, job_id: str, *, late: bool = False, usage: ShardUsage = USED, **more: bool
) -> None:
    """Report one shard, which should end in 20 to 50 minutes."""
    now = cli.clock.now().timestamp()
    stragglers = Stragglers(2, 17, now - 900, 110.0) if late else None
    forecast = ShardForecast(now + 1200, now + 3000, 8, stragglers)
    remote.jobs.report_shard(job_id, 0, 1, ShardReport(318, 2, usage=usage, forecast=forecast, **more))


@pytest.fixture
def job(cli: Cli, remote: Remote) -> Remote:
    """Report a job that runs."""
    add(remote.jobs, "a", "running", owner="ada", labels={"team": "red"}, tasks_total=1000)
    _report(cli, remote, "a", late=True)
    cli.ok("sync", "-q")
    return remote


@pytest.mark.usefixtures("job")
def test_status_tells_when_a_job_should_end(cli: Cli) -> None:
    """As a range, with the tasks that it follows from; then stragglers, and what the tasks used."""
    lines = cli.ok("status", "a").out.splitlines()
    assert [line for line in lines if line.startswith(("Done", "Stragglers", "Used"))] == [
        "Done       in 20m to 50m, 12:20 to 12:50 UTC (320 of 1,000 tasks ended, 8 at work)",
        "Stragglers task 17, of 2 such tasks: at work for 15m; 95 % of the finished tasks took at most 1m 50s",
        "Used       CPU 1h 30m of 2h held (75 %), tasks 1h 40m, peak memory 300 MiB",
    ]
    cli.clock.advance(hours=0, seconds=30)
    later = cli.ok("status", "a", "--json").json
    assert (later["eta_earliest"], later["eta_latest"]) == ("2026-03-01T12:20:00Z", "2026-03-01T12:50:00Z")
    assert later["eta_basis"] == {"tasks_done": 320, "at_work": 8}
    assert later["stragglers"] == {
        "tasks": 2, "oldest": 17, "since": "2026-03-01T11:45:00Z", "usual_seconds": 110.0, "seconds": 900.0,
    }  # fmt: skip
    used = ("cpu_seconds", "task_seconds", "held_core_seconds", "cpu_efficiency", "max_rss_bytes")
    assert [later[name] for name in used] == [5400.0, 6000.0, 7200.0, 0.75, 300 * 2**20]


def test_a_range_that_has_passed_is_not_shown(cli: Cli, remote: Remote) -> None:
    """The runner reports at least every 30 s. In between, its range may pass."""
    add(remote.jobs, "a", "running", tasks_total=10)
    now = cli.clock.now().timestamp()
    remote.jobs.report_shard("a", 0, 1, ShardReport(9, 0, forecast=ShardForecast(now + 5, now + 20, 1)))
    cli.ok("sync", "-q")
    cli.clock.advance(seconds=10)
    found = cli.ok("status", "a", "--json").json
    assert (found["eta_earliest"], found["eta_latest"]) == ("2026-03-01T12:00:10Z", "2026-03-01T12:00:20Z")
    cli.clock.advance(seconds=11)
    assert cli.ok("status", "a", "--json").json["eta_latest"] is None


def test_each_view_tells_budget_and_use(cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    """Also of a job that has not begun. `summary` adds them up."""
    web = Web(cli, capsys)
    for job_id, hours in (("a", "5"), ("b", "2.5")):
        add(remote.jobs, job_id, engine="local", metadata={"local_max_cpu_hours": hours}, tasks_total=1000)
    add(remote.jobs, "c", tasks_total=1000)
    remote.jobs.report_shard("a", 0, 1, ShardReport(318, 0, usage=USED))
    cli.ok("sync", "-q")
    assert "Budget     1.50 of 5 CPU-hours" in cli.ok("status", "a").lines
    assert "Budget     0.00 of 2.5 CPU-hours" in cli.ok("status", "b").lines
    assert "1.50 of 5 CPU-hours" in web.ok("/jobs/a")
    jobs = cli.ok("list", "--json").json["jobs"]
    assert {job["job_id"]: job["max_cpu_hours"] for job in jobs} == {"a": 5.0, "b": 2.5, "c": None}
    assert "Budget       1.50 of 7.5 CPU-hours (2 jobs)" in cli.ok("summary").lines
    budget = {"jobs": 2, "cpu_seconds": 5400.0, "max_cpu_hours": 7.5}
    assert cli.ok("summary", "--json").json["budget"] == budget
    assert cli.ok("summary", "--json", "--name", "c").json["budget"] is None


def test_each_view_tells_that_a_time_limit_comes_first(
    cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what to type, as long as the limit is ahead. `wait` warns once."""
    web = Web(cli, capsys)
    add(remote.jobs, "a", "running", tasks_total=1000)
    now = cli.clock.now().timestamp()
    forecast = ShardForecast(None, None, 8, time_limit=now + 20)
    remote.jobs.report_shard("a", 0, 1, ShardReport(318, 0, forecast=forecast))
    cli.ok("sync", "-q")
    text = "will not finish before its time limit in 20s. Then run what is missing: mops-jobs resume a --time MINUTES"
    assert f"Done       {text}" in cli.ok("status", "a").lines
    assert f"a: {text}" in cli.ok("list").err.splitlines()
    assert text in web.ok("/jobs")
    assert text in web.ok("/jobs/a")
    assert text in html_of(cli.ok("status", "a", "--json").json, cli.app(), "live")
    found = cli.ok("status", "a", "--json").json
    assert (found["time_limit_at"], found["eta_latest"]) == ("2026-03-01T12:00:20Z", None)
    assert cli.ok("list", "--json").json["jobs"] == [found]
    ran = cli("wait", "a", "--timeout", "20s")
    assert ran.err.count(f"a: {text}") == ran.err.count("time limit") == 1
    assert cli.ok("status", "a", "--json").json["time_limit_at"] is None
    assert "time limit" not in cli.ok("list").err + cli.ok("status", "a").out


def test_summary_sums_up_what_jobs_used(cli: Cli, job: Remote) -> None:
    """Over the jobs that tell what they used; the peak is the largest one. Others are not counted."""
    add(job.jobs, "b", "running", tasks_total=1000)
    add(job.jobs, "c", "running", tasks_total=1000)
    add(job.jobs, "d", "running")
    _report(cli, job, "b", usage=ShardUsage(None, 60.0, 60.0, None))
    _report(cli, job, "c", usage=ShardUsage(600.0, 600.0, 600.0, 2**30))
    cli.ok("sync", "-q")
    both = {"cpu_seconds": 6000.0, "task_seconds": 6660.0, "held_core_seconds": 7860.0, "max_rss_bytes": 2**30}
    assert cli.ok("summary", "--json").json["usage"] == {"jobs": 3, **both, "cpu_efficiency": 0.7692}
    assert "Used         CPU 1h 30m of 2h held (75 %)" in cli.ok("summary", "--owner", "ada").out


def test_the_family_has_the_sum_of_its_jobs(cli: Cli, job: Remote) -> None:
    """In text and in JSON."""
    add(job.jobs, "b", "running", parent_job_id="a", tasks_total=680)
    _report(cli, job, "b")
    cli.ok("sync", "-q")
    found = cli.ok("status", "b", "--json").json["family"]
    assert found["usage"]["cpu_seconds"] == 10800.0
    assert found["usage"]["max_rss_bytes"] == 300 * 2**20
    family = next(line for line in cli.ok("status", "b").out.splitlines() if line.startswith("Family"))
    assert family.endswith("in 2 jobs, CPU 3h of 4h held (75 %), tasks 3h 20m, peak memory 300 MiB")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Return what `status` takes for the kubernetes engine."""
    return answer_for_all(monkeypatch, Cluster(NO_IMAGE))


def test_status_says_why_a_job_has_not_begun(cli: Cli, jobs: JobRegistry, cluster: Cluster) -> None:
    """Once it is silent for ten seconds; after a minute it is suspect. Other views have it from the record."""
    add_kubernetes_job(jobs, "scheduled")
    cli.ok("status", "a")
    assert cluster.asked == []
    cli.clock.advance(seconds=15)
    assert "Waits for  ImagePullBackOff: no such image" in cli.ok("status", "a").lines
    assert cli.ok("list", "--stuck", "-q").lines == []
    cli.clock.advance(minutes=1)
    ran = cli.ok("status", "a")
    assert any("scheduled (suspect: ImagePullBackOff)" in line for line in ran.lines)
    assert "Next: kubectl -n models describe job a" in ran.err
    assert "(suspect: ImagePullBackOff)" in cli.ok("list", "--stuck").out
    cluster.says = RUNNING
    job = cli.ok("status", "a", "--json").json
    assert (job["status"], job["suspect"], job["metadata"]) == ("running", None, {"suspect": None, "waits_for": None})
    cluster.asked.clear()
    cli.ok("status", "a")
    assert cluster.asked == []


def test_status_shows_the_end_that_the_cluster_knows(cli: Cli, remote: Remote, cluster: Cluster) -> None:
    """Also if the cache is old. Offline, no cluster is asked."""
    add_kubernetes_job(remote.jobs, "scheduled")
    cli.ok("sync")
    cluster.says = FAILED
    cli.clock.advance(minutes=5)
    assert cli.ok("status", "a", "--offline", "--json").json["status"] == "scheduled"
    assert cli("status", "a", "--exit-status").code == 100


def test_status_shows_the_counts_that_it_delivers(cli: Cli, remote: Remote, cluster: Cluster) -> None:
    """Shards that report by files. If the files are not here, a warning says that the counts may be old."""
    add_job(remote.jobs, "job", sets_of(3))
    remote.jobs.update_fields("job", engine="slurm", metadata={"slurm_file_drop": "yes"})
    cli.ok("sync")
    drop = JobDir.for_job("job", cli.env).drop
    shard = JobRegistry(ShardDrop(drop, 0))
    add(shard, "job", "running", tasks_total=3)
    shard.report_shard("job", 0, 1, ShardReport(2, 0))
    cluster.says = RUNNING
    cli.clock.advance(minutes=1)
    ran = cli.ok("status", "job", "--json")
    assert (ran.json["tasks_completed"], ran.err) == (2, "")
    shutil.rmtree(drop)
    assert "cannot be asked about job: The shards of job report by files, and" in cli.ok("status", "job").err


@pytest.mark.parametrize(
    ("error", "flags", "is_told"),
    [
        (EngineUnavailableError("Cannot reach the cluster."), (), True),
        (EngineAccessError("There is no cluster to talk to."), (), False),
        (EngineAccessError("There is no cluster to talk to."), ("--refresh",), True),
    ],
)
def test_without_an_answer_status_shows_the_record(
    cli: Cli, jobs: JobRegistry, cluster: Cluster, *, error: Exception, flags: tuple[str, ...], is_told: bool
) -> None:
    """A user without access to the cluster is told of it only on demand."""
    add_kubernetes_job(jobs, "scheduled")
    cli.clock.advance(minutes=5)
    cluster.says = error
    ran = cli.ok("status", "a", *flags)
    assert (str(error) in ran.err) == is_told
    assert any("scheduled" in line for line in ran.lines)


def test_status_says_that_the_cluster_refuses(cli: Cli, jobs: JobRegistry, cluster: Cluster) -> None:
    """A token that is not accepted, or a role that lacks a verb: the words, and the state of the record."""
    add_kubernetes_job(jobs, "scheduled")
    cli.clock.advance(minutes=5)
    cli.env["KUBECONFIG"] = "config"
    cluster.says = EngineAccessError("The cluster at https://k does not accept the credentials: Unauthorized.")
    ran = cli.ok("status", "a")
    assert f"The kubernetes engine cannot be asked about a: {cluster.says} See: mops-jobs reconcile a" in ran.err
    assert any("scheduled" in line for line in ran.lines)


def test_a_job_that_its_cluster_suspended_is_not_taken_for_silent(
    cli: Cli, jobs: JobRegistry, cluster: Cluster
) -> None:
    """`status` asks, as long as the job waits, and no view advises to resume it."""
    add_kubernetes_job(jobs, "running")
    jobs.report_shard("a", 0, 1, ShardReport(0, 0))
    cluster.says = SUSPENDED
    cli.clock.advance(minutes=3)
    waited = cli("wait", "a", "--timeout", "2m").err
    assert "a: running, waits for Suspended: the Job is suspended by kubectl-patch" in waited
    assert "resume" not in waited
    ran = cli.ok("status", "a")
    assert "Waits for  Suspended: the Job is suspended by kubectl-patch" in ran.lines
    assert "suspect" not in ran.out
    assert cli.ok("list", "--stuck", "-q").lines == []
    cluster.says = GONE
    assert "suspect: k8s_job_missing" in cli.ok("status", "a").out


def test_an_outage_names_kubectl_for_a_job_that_is_not_known_here(cli: Cli, remote: Remote) -> None:
    """By the name that mops-jobs gives its Job, and by that of ModelOps. No cluster is asked: none is configured."""
    remote.store.down = True
    ran = cli("status", "job-1a")
    theirs = "If instead ModelOps submitted it: kubectl -n modelops-dask-dev get job job-1a"
    by_hand = f"By hand: kubectl get job job-1a. {theirs}"
    assert (ran.code, ran.out) == (5, "")
    assert ran.err == f"error: Cannot reach the registry: connection refused.\nhint: {by_hand}\n"
    assert by_hand.replace("get job", "delete job") in cli("cancel", "job-1a").err


@pytest.fixture
def far_cluster(cli: Cli, remote: Remote, api: Api, tmp_path: Path) -> Api:
    """Return a cluster, and a registry that is away."""
    cli.env["KUBECONFIG"] = str(kubeconfig(tmp_path, api.url))
    remote.store.down = True
    return api


def _put(api: Api, **status: object) -> None:
    metadata = {
        "name": "seir-1",
        "namespace": "from-kubeconfig",
        "uid": "u",
        "annotations": {"mops-jobs/job-id": "seir-1"},
    }
    api.mock.objects["batch/v1/jobs", "from-kubeconfig", "seir-1"] = {
        "metadata": metadata,
        "spec": {"template": {}},
        "status": status,
    }


def test_the_cluster_is_asked_and_its_word_marked(cli: Cli, far_cluster: Api) -> None:
    _put(far_cluster, active=1, ready=1)
    ran = cli.ok("status", "seir-1")
    assert ran.lines == ["Job        seir-1", "Engine     kubernetes says: running"]
    assert "Showing what the kubernetes engine says, not the job's record." in ran.err
    assert "Next: kubectl -n from-kubeconfig get job seir-1" in ran.err


def test_scripts_get_the_job_with_what_is_known(cli: Cli, far_cluster: Api) -> None:
    """Every field of a job is there, and the mark."""
    _put(far_cluster, conditions=[{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}])
    ran = cli.ends(100, "status", "seir-1", "--json", "--exit-status")
    assert list(ran.json) == [*job_fields(), "engine_says"]
    assert (ran.json["status"], ran.json["engine"], ran.json["created_at"]) == ("failed", "kubernetes", None)
    assert ran.json["engine_says"]["look"] == "kubectl -n from-kubeconfig get job seir-1"


def test_an_unknown_job_leaves_the_outage(cli: Cli, far_cluster: Api) -> None:
    """Exit code 5: the record may well be there."""
    said = cli.fails(5, "status", "seir-1")
    gone = "hint: In the cluster, Job seir-1 was not found in namespace from-kubeconfig."
    assert f"{gone} If ModelOps submitted it: kubectl -n modelops-dask-dev get job seir-1\n" in said
