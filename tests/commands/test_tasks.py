"""`tasks`: which tasks are shown, how they ended, and what is fetched for that."""

from __future__ import annotations

import html
from typing import Any

import pytest

from mopsjobs.engines.job_dir import JobDir
from mopsjobs.studies.study_parser import parse_study
from support.cli import Cli, Remote, add, sentences
from support.ledgers import Ledger, add_job, attempt, leave_outputs, put_manifest
from support.runs import sets_of
from support.web import Web

GRID = [{"beta": beta / 10, "mode": mode, "same": 1} for beta in range(10) for mode in ("walk", "exit")]


def _numbers(cli: Cli, *argv: str) -> list[int]:
    return [int(line) for line in cli.ok("tasks", "job", "-q", *argv).lines]


def _outcomes(cli: Cli, *argv: str) -> dict[int, str]:
    lines = cli.ok("tasks", "job", "--jsonl", "--limit", "0", *argv).objects
    return {task["task"]: task["outcome"] for task in lines}


def test_a_table_has_the_parameters_that_vary(cli: Cli, remote: Remote) -> None:
    """Each task is shown with its outcome, what it used, and its error on one line."""
    add_job(remote.jobs, "job", GRID, attempts=[attempt(0), attempt(1, "failed"), attempt(1, "failed", attempt=2)])
    ran = cli.ok("tasks", "job", "--limit", "3")
    assert [line.rstrip() for line in ran.lines] == [
        "TASK  beta  mode  STATUS     TIME   MEMORY  ATTEMPT  ERROR",
        "0     0.0   walk  succeeded  2.5 s  50 MiB  1",
        "1     0.0   exit  failed     2.5 s  50 MiB  2        ValueError in model.py:21: beta is 0.93",
        "2     0.1   walk  waiting",
    ]
    assert ran.err == "3 of 20 tasks (--limit 0 shows all), synced just now\n"


@pytest.mark.parametrize("form", ["--jsonl", "--tsv", "-q"])
def test_forms_for_machines_are_cut_only_on_request(cli: Cli, remote: Remote, form: str) -> None:
    """A script that counts lines counts all tasks. The document tells how many it leaves out."""
    add_job(remote.jobs, "job", sets_of(70))
    assert len(cli.ok("tasks", "job", form).lines) == 70
    assert len(cli.ok("tasks", "job", form, "--limit", "60").lines) == 60
    document = cli.ok("tasks", "job", "--json").json
    assert (document["total"], document["returned"]) == (70, 50)


def test_tasks_of_one_set_are_told_apart_by_their_seeds(cli: Cli, remote: Remote) -> None:
    """A study with one parameter set has replicates, which differ in nothing else."""
    add_job(remote.jobs, "job", [{"x": 1}], n_replicates=2)
    assert cli.ok("tasks", "job").lines[0].split() == ["TASK", "SEED", "STATUS", "TIME", "MEMORY", "ATTEMPT", "ERROR"]


@pytest.mark.parametrize(
    ("argv", "numbers"),
    [
        (("--status", "failed,oom"), [1, 2]),
        (("--status", "succeeded,waiting", "--param", "beta<0.3"), [0, 4, 5]),
        (("--param", "beta>0.75", "--param", "mode=exit"), [17, 19]),
        (("--sort", "-seconds", "--limit", "2"), [3, 2]),
        (("--sort", "-seconds", "--limit", "2", "--param", "mode=walk"), [2, 0]),
        (("--sort", "-task", "--status", "failed,waiting", "--param", "beta<=0.2"), [5, 4, 1]),
    ],
)
def test_filters_and_orders_choose_tasks(cli: Cli, remote: Remote, argv: tuple[str, ...], numbers: list[int]) -> None:
    """By status, by parameters and by what was measured, in one pass over rows and study."""
    add_job(remote.jobs, "job", GRID)
    ends = ("succeeded", "failed", "oom", "timeout")
    Ledger(remote.store.inner)(*(attempt(number, end, seconds=number + 0.5) for number, end in enumerate(ends)))
    assert _numbers(cli, *argv) == numbers


def test_after_the_end_a_task_without_an_attempt_is_missing(cli: Cli, remote: Remote) -> None:
    """While the job is active, it is waiting."""
    add_job(remote.jobs, "job", sets_of(2), attempts=[attempt(0)])
    assert _outcomes(cli) == {0: "succeeded", 1: "waiting"}
    remote.jobs.update_status("job", "partial")
    cli.ok("sync")
    assert _outcomes(cli) == {0: "succeeded", 1: "missing"}
    assert _numbers(cli, "--status", "missing") == [1]


def test_no_task_is_missing_before_the_ledger_is_read_after_the_end(cli: Cli, remote: Remote) -> None:
    """The record is read before the ledger. Until then, tasks without an attempt wait, and the view is stale."""
    add_job(remote.jobs, "job", sets_of(3))
    runner = Ledger(remote.store.inner)
    runner(attempt(0))
    assert cli.ok("tasks", "job", "--json").json["stale"] is False
    cli.clock.advance(seconds=5)
    runner(attempt(1))
    remote.jobs.update_status("job", "partial")
    assert cli.ok("status", "job", "--refresh", "--json").json["status"] == "partial"
    document = cli.ok("tasks", "job", "--json", "--offline").json
    assert (document["status"], document["complete"], document["stale"]) == ("partial", False, True)
    assert _outcomes(cli, "--offline") == {0: "succeeded", 1: "waiting", 2: "waiting"}
    assert _outcomes(cli) == {0: "succeeded", 1: "succeeded", 2: "missing"}
    assert cli.ok("tasks", "job", "--json", "--offline").json["stale"] is False


def test_tasks_are_those_of_the_last_registration_of_an_id(cli: Cli, remote: Remote) -> None:
    """A job is removed from the store, and another study is submitted under its id, between two looks."""
    add(remote.jobs, "other", "running")
    add_job(remote.jobs, "job", sets_of(3), attempts=[attempt(0), attempt(1, "failed")])
    assert cli.ok("failures", "job", "--json").json["failed"] == 1
    for key in [*remote.store.inner.list_keys("jobs/job/"), *remote.store.inner.list_keys("ledger/job/")]:
        remote.store.inner.delete(key)
    cli.clock.advance(seconds=60)
    add_job(remote.jobs, "job", [{"y": 5}])
    cli.ok("sync")
    (task,) = cli.ok("tasks", "job", "--json").json["tasks"]
    assert (task["params"], task["outcome"]) == ({"y": 5}, "waiting")
    assert cli.ok("failures", "job", "--json").json["failed"] == 0


def test_a_job_without_a_ledger_is_told_by_its_outputs(cli: Cli, remote: Remote) -> None:
    """A note says that nothing was measured."""
    manifest = add_job(remote.jobs, "job", sets_of(3), status="partial")
    leave_outputs(remote.store.inner, manifest, 1)
    ran = cli.ok("tasks", "job", "-q", "--status", "succeeded")
    assert ran.lines == ["1"]
    assert "job has no ledger: its outputs tell which tasks succeeded" in ran.err
    assert cli.ok("tasks", "job", "--json").json["basis"] == "outputs"


def test_a_job_that_only_reduces_is_said_to_have_no_tasks(cli: Cli, remote: Remote) -> None:
    """Its parent has all outputs. A missing ledger is not worth a word."""
    add_job(remote.jobs, "job", sets_of(3), reduce="model:summarise", status="partial")
    add_job(remote.jobs, "job.2", sets_of(3), reduce="model:summarise", only=(), status="succeeded")
    ran = cli.ok("tasks", "job.2")
    assert (ran.out, "job.2 has no tasks: it only runs the reduce function.\n" in ran.err) == ("", True)
    assert "has no ledger" not in ran.err
    assert cli.ok("tasks", "job.2", "--json").json["tasks_total"] == 0


def test_a_task_that_repeats_an_earlier_one_has_its_outcome(cli: Cli, remote: Remote) -> None:
    """It never runs. With a set named twice, and with a drawn seed that is named too."""
    sets: list[Any] = [{"x": 1}, {"x": 2}, {"x": 1}]
    (seed, *_) = [task.seed for task in parse_study({"model": "m:f", "parameter_sets": sets}).tasks()]
    add_job(remote.jobs, "job", [*sets, {"params": {"x": 1}, "seed": seed}])
    Ledger(remote.store.inner)(attempt(0, "failed"), attempt(1))
    assert _outcomes(cli) == {0: "failed", 1: "succeeded", 2: "failed", 3: "failed"}
    assert _numbers(cli, "--status", "failed") == [0, 2, 3]
    assert _numbers(cli, "--status", "waiting") == []
    assert cli.ok("tasks", "job", "--json", "--status", "failed").json["total"] == 3


def test_a_child_has_its_own_tasks_and_names_its_family(cli: Cli, remote: Remote) -> None:
    """Its tasks have the numbers of the study, which its parent has too."""
    add_job(remote.jobs, "job", sets_of(6), status="partial")
    add_job(remote.jobs, "job.2", sets_of(6), only=[1, 4, 5], attempts=[attempt(4, "died")])
    ran = cli.ok("tasks", "job.2", "--tsv")
    assert [line.split("\t")[:2] for line in ran.lines] == [["1", "waiting"], ["4", "died"], ["5", "waiting"]]
    assert "These are the tasks of job.2 alone. Its family: job\n" in cli.ok("tasks", "job.2").err
    assert cli.ok("tasks", "job.2", "-q", "--sort", "-task").lines == ["5", "4", "1"]


def test_ten_million_tasks_are_shown_in_part_at_once(cli: Cli, remote: Remote) -> None:
    """A manifest of a hundred bytes names them; what is not shown is neither made nor counted."""
    put_manifest(remote.store.inner, "job", [{"x": 1}], n_replicates=10**7)
    add(remote.jobs, "job", "running", tasks_total=10**7, metadata={"bundle": "b", "n_duplicate_tasks": 11_000})
    Ledger(remote.store.inner)(attempt(3), attempt(9_999_999, "failed"))
    assert _numbers(cli, "--limit", "4") == [0, 1, 2, 3]
    assert _numbers(cli, "--sort", "-task", "--limit", "2") == [9_999_999, 9_999_998]
    assert _numbers(cli, "--sort", "-seconds", "--limit", "2") == [3, 9_999_999]
    document = cli.ok("tasks", "job", "--json", "--limit", "2", "--param", "x=1").json
    assert (document["total"], document["returned"]) == (None, 2)
    assert "2 tasks of more (--limit 0 shows all)" in cli.ok("tasks", "job", "--limit", "2", "--param", "x=1").err


# --- what is fetched ------------------------------------------------------------------------------------------------


def test_a_second_look_needs_no_network(cli: Cli, remote: Remote) -> None:
    """Offline, the cache answers with what was looked at, and says how old it is."""
    add_job(remote.jobs, "job", sets_of(2), attempts=[attempt(0)])
    cli.ok("sync")
    assert "never been synced to this machine" in cli.fails(5, "tasks", "job", "--offline")
    cli.ok("tasks", "job")
    cli.clock.advance(hours=1)
    remote.store.down = True
    assert "2 tasks, synced 1h ago" in cli.ok("tasks", "job", "--offline").err
    cut_off = cli.ok("tasks", "job", "-q")
    assert cut_off.lines == ["0", "1"]
    assert "connection refused. Showing what the cache has." in cut_off.err


@pytest.mark.parametrize("command", ["tasks", "failures"])
def test_an_outage_is_all_that_is_said_of_a_job_that_only_an_engine_knows(
    cli: Cli, remote: Remote, command: str
) -> None:
    """`status` shows what the engine says. An engine knows no tasks, so nothing is shown here."""
    launched = JobDir.for_job("mine", cli.env).path
    launched.mkdir(parents=True)
    (launched / "runner.json").write_text("{}")
    remote.store.down = True
    said = cli.fails(5, command, "mine")
    assert sentences(said) == ["error: Cannot reach the registry: connection refused."]
    assert "hint: Try again when the registry answers.\n" in said


def test_tasks_of_an_ended_job_are_not_stale_for_an_old_mirror(cli: Cli, remote: Remote) -> None:
    """Its record stays as it is, and its ledger was read now. The mirror of the other jobs does not matter."""
    add_job(remote.jobs, "job", sets_of(1), status="failed", attempts=[attempt(0, "failed")])
    cli.ok("sync")
    for _ in range(2):
        cli.clock.advance(hours=1)
        assert cli.ok("list").err.endswith("stale\n")
        assert "stale" not in cli.ok("tasks", "job").err
        assert cli.ok("tasks", "job", "--json").json["stale"] is False


def test_a_complete_ledger_is_listed_no_more(cli: Cli, remote: Remote) -> None:
    """A minute after the end of a job, only --refresh looks again."""
    add_job(remote.jobs, "job", sets_of(1), status="succeeded")
    cli.clock.advance(seconds=90)
    Ledger(remote.store.inner)(attempt(0))
    assert cli.ok("tasks", "job", "--json").json["complete"] is True
    Ledger(remote.store.inner, run="cd")(attempt(0, attempt=2))
    assert cli.ok("tasks", "job", "--json").json["tasks"][0]["attempt"] == 1
    assert cli.ok("tasks", "job", "--json", "--refresh").json["tasks"][0]["attempt"] == 2


def test_a_job_that_was_only_reported_has_no_tasks(cli: Cli, remote: Remote) -> None:
    """Nothing says which tasks it has. Nor does `failures` suggest to run them."""
    add(remote.jobs, "job", "running")
    why = "another program reported it, and mops-jobs did not submit it."
    for command in ("tasks", "failures"):
        ran = cli(command, "job")
        assert (ran.code, sentences(ran.err)) == (6, [f"error: Job job has no ledger of its tasks: {why}"])
        assert ran.err.endswith("hint: See what was reported of it: mops-jobs status job\n")


def test_a_chunk_that_cannot_be_read_is_told(cli: Cli, remote: Remote) -> None:
    """The tasks of the other chunks are shown."""
    add_job(remote.jobs, "job", sets_of(2), attempts=[attempt(1)])
    remote.put("ledger/job/0.ff-000001.attempts.gz", b"")
    ran = cli.ok("tasks", "job", "-q", "--status", "succeeded")
    assert ran.lines == ["1"]
    assert "1 chunk of the ledger has a problem. See: mops-jobs query" in ran.err
    assert "the gzip is incomplete" in cli.ok("query", "SELECT * FROM ledger_problems").out


def test_an_embedded_registry_is_always_live(cli: Cli, jobs: Any) -> None:
    """Its ledgers are read for each view, also with --offline."""
    add_job(jobs, "job", sets_of(2))
    assert _outcomes(cli, "--offline") == {0: "waiting", 1: "waiting"}
    Ledger(jobs.store)(attempt(1))
    assert _outcomes(cli, "--offline") == {0: "waiting", 1: "succeeded"}
    assert cli.ok("tasks", "job").err == "2 tasks, live\n"


# --- hostile and contradicting input --------------------------------------------------------------------------------


def test_numbers_that_an_equality_misses_by_their_computation_are_told(
    cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr in all forms, and on the page, with conditions that take both. What is far from it is not named."""
    add_job(remote.jobs, "job", [{"beta": beta, "flag": beta > 0.3} for beta in (0.1, 0.1 + 0.2, 0.3000001)])
    cli.ok("sync", "-q")
    for form in ((), ("--json",), ("-q",)):
        ran = cli.ok("tasks", "job", "--param", "beta=0.3", *form)
        both = "--param 'beta>=0.3' --param 'beta<=0.30000000000000004'"
        told = f"beta=0.3 does not take 0.30000000000000004 as 0.3. To take both: {both}"
        assert f"warning: {told}" in ran.err
    assert cli.ok("tasks", "job", "-q", "--param", "beta>=0.3", "--param", "beta<=0.30000000000000004").lines == ["1"]
    assert "does not take" not in cli.ok("tasks", "job", "--param", "beta=0.1", "--param", "flag=False").err
    assert told in html.unescape(Web(cli, capsys).ok("/jobs/job/results?rows=tasks&param=beta%3D0.3"))
    assert cli.ok("tasks", "job", "-q", "--param", "flag=True").lines == ["1", "2"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--status", "done"), "invalid status of a task 'done'"),
        (("--param", "btea=1"), "Did you mean 'beta'?"),
        (("--param", "beta>abc"), "expected a number after >, since all values of beta are numbers."),
        (("--sort", "owner"), "invalid sort column 'owner'"),
        (tuple(["--param", "beta=1"] * 101), "too many conditions (101)"),
    ],
)
def test_wrong_requests_are_refused_with_the_form(
    cli: Cli, remote: Remote, argv: tuple[str, ...], message: str
) -> None:
    """Each is an error of usage, with what was expected."""
    add_job(remote.jobs, "job", GRID)
    assert message in cli.fails(2, "tasks", "job", *argv)
