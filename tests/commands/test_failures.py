"""`failures` groups failed tasks by their errors, and names what separates them from those that succeeded."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from mopsjobs.errors import EXIT_USAGE
from mopsjobs.ledger.attempt import Attempt, AttemptError, error_signature
from mopsjobs.studies import separating
from mopsjobs.studies.study_parser import parse_study
from support.cli import Cli, Remote, add
from support.ledgers import Ledger, add_job, attempt, leave_scalars

Cause = Callable[[int, dict[str, Any]], tuple[str, str | None, str] | None]

HEAD = [
    "schema_version", "generated_at", "synced_at", "age_seconds", "stale", "foreign_writes_known_to", "registry",
    "registry_from", "jobs", "jobs_without_error", "failed", "failed_without_reason", "more_groups", "groups",
]  # fmt: skip

GROUP = ["key", "count", "type", "where", "message", "jobs", "tasks", "first_at", "last_at", "separates", "suspected"]


def draw_sets(count: int, seed: int = 1) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    return [
        {"params": {"beta": draw.random(), "mode": draw.choice("xyz"), "n": draw.randrange(10), "fast": place % 2 == 0}}
        for place in range(count)
    ]


def failed(task: int, kind: str, where: str | None, message: str, **fields: Any) -> Attempt:
    error = AttemptError(error_signature(kind, where, message), kind, where, message)
    return attempt(task, "failed", error=error, **fields)


def run_job(remote: Remote, job_id: str, sets: list[dict[str, Any]], cause: Cause, status: str = "partial") -> None:
    """Register a job, and write a ledger in which tasks fail for a cause."""
    add_job(remote.jobs, job_id, sets, status="running")
    attempts = []
    for task, one in enumerate(sets):
        error = cause(task, one["params"])
        attempts.append(attempt(task) if error is None else failed(task, *error))
    write = Ledger(remote.store.inner, job_id)
    for first in range(0, len(attempts), 5000):
        write(*attempts[first : first + 5000])
    if status != "running":
        remote.jobs.update_status(job_id, status)


def beta_is_high(task: int, params: dict[str, Any]) -> tuple[str, str, str] | None:
    if params["beta"] > 0.9 and params["mode"] == "x":
        return "ValueError", "model.py:21", f"task {task}: beta is {params['beta']}"
    return None


def test_five_causes_with_numbers_in_their_messages_are_five_groups(cli: Cli, remote: Remote) -> None:
    """10,000 tasks name themselves in their errors. The planted condition is found and printed as planted."""
    draw = random.Random(3)

    def cause(task: int, params: dict[str, Any]) -> tuple[str, str | None, str] | None:
        if params["n"] == 7 and params["fast"]:
            return "KeyError", "model.py:40", f"no compartment {task} of {10 * task}"
        if draw.random() < 0.004:
            return "ConnectionError", "net.py:3", f"host {task} is away"
        if draw.random() < 0.002:
            return "ValueError", "model.py:90", f"{task} is odd"
        if draw.random() < 0.002:
            return "Timeout", None, f"task {task} took longer than {task + 3} s"
        return beta_is_high(task, params)

    run_job(remote, "job", draw_sets(10_000), cause)
    document = cli.ok("failures", "job", "--json").json
    assert list(document) == HEAD
    assert all(list(group) == GROUP for group in document["groups"])
    found = {
        (one["type"], one["where"]): [each["condition"] for each in one["separates"]] for one in document["groups"]
    }
    assert found == {
        ("KeyError", "model.py:40"): ["n == 7 and fast == true"],
        ("ValueError", "model.py:21"): ['beta > 0.9 and mode == "x"'],
        ("ConnectionError", "net.py:3"): [],
        ("ValueError", "model.py:90"): [],
        ("Timeout", None): [],
    }
    assert document["failed"] == sum(group["count"] for group in document["groups"])
    assert 'beta > 0.9 and mode == "x"; no' in cli.ok("failures", "job").out


def test_failures_are_told_in_blocks_with_what_to_type(cli: Cli, remote: Remote) -> None:
    """Count, type and place, message, condition, first tasks; then commands that exist."""
    sets = [{"params": {"beta": number / 100}} for number in range(100)]
    run_job(
        remote, "job", sets, lambda _, params: ("ValueError", "model.py:21", "no") if params["beta"] > 0.9 else None
    )
    cli.clock.advance(hours=2, minutes=5)
    cli.ok("sync", "-q")
    ran = cli.ok("failures", "job")
    assert ran.lines == [
        "9 of 100 tasks of job failed, for 1 reason.",
        "",
        "     9  ValueError in model.py:21",
        "        no",
        "        all 9 have beta > 0.9; no other has",
        "        tasks 91, 92, 93, 94, 95, …; failed 2h ago",
        "",
        "List the tasks: mops-jobs tasks job --status failed,timeout,oom,died,lost",
        "Read the log of one: mops-jobs logs job --task 91",
        "Run what is missing: mops-jobs resume job",
    ]
    assert "Data: synced" in ran.err
    for line in ran.lines[-3:]:
        command = line.partition("mops-jobs ")[2].split()
        assert cli(*command[:1], "--help").code == 0


def test_a_job_without_failures_says_so(cli: Cli, remote: Remote) -> None:
    """It ends with 0, in both forms, and without jobs too."""
    run_job(remote, "job", draw_sets(3), lambda *_: None, status="succeeded")
    assert cli.ok("failures", "job").lines == ["No task of job has failed."]
    assert cli.ok("failures", "job", "--json").json["groups"] == []
    assert cli.ok("failures", "--hours", "1").lines == ["No task has failed."]


def test_a_task_that_succeeds_at_a_later_attempt_has_not_failed(cli: Cli, remote: Remote) -> None:
    """The last outcome of a task counts. Before, the record tells that the task has not failed."""
    add_job(remote.jobs, "job", draw_sets(2))
    write = Ledger(remote.store.inner)
    write(failed(0, "ValueError", "m.py:1", "bad", started_at=1.0))
    assert "job: 1 task may succeed at a further attempt.\n" in cli.ok("failures", "job").err
    write(attempt(0, attempt=2))
    assert cli.ok("failures", "job").lines == ["No task of job has failed."]


def test_a_job_that_has_succeeded_names_no_older_failure(cli: Cli, remote: Remote) -> None:
    """The record counts none, and the cache has the ledger from before the task was run again."""
    add_job(remote.jobs, "job", [{"x": 1}], status="running")
    remote.jobs.update_progress("job", tasks_failed=1)
    Ledger(remote.store.inner)(attempt(0, "lost"))
    cli.ok("sync")
    assert cli.ok("tasks", "job", "--json").json["tasks"][0]["outcome"] == "lost"
    assert "Failed     1 lost" in cli.ok("status", "job").lines
    Ledger(remote.store.inner, run="cd")(attempt(0, attempt=2))
    remote.jobs.update_progress("job", tasks_completed=1, tasks_failed=0)
    remote.jobs.update_status("job", "succeeded")
    cli.ok("sync")
    assert "Failed" not in cli.ok("status", "job").out


def test_failed_tasks_without_a_reason_are_counted(cli: Cli, remote: Remote) -> None:
    """The record of a job tells of them before its ledger, and after `prune --store`."""
    add_job(remote.jobs, "job", draw_sets(4))
    remote.jobs.update_progress("job", tasks_failed=2)
    ran = cli.ok("failures", "job")
    assert ran.lines == ["2 tasks of job failed, for reasons that are not known."]
    assert "job: the reasons of 2 failed tasks are not known: its runner has not written them yet.\n" in ran.err
    Ledger(remote.store.inner)(failed(0, "ValueError", "m.py:1", "bad 0"))
    ran = cli.ok("failures", "job")
    assert ran.lines[0] == "1 of 4 tasks of job failed, for 1 reason. 1 more failed, for reasons that are not known."
    assert cli.ok("failures", "job", "--json").json["failed_without_reason"] == 1
    assert "job: the reasons of 1 failed task are not known: its runner has not" in ran.err
    remote.jobs.update_status("job", "partial")
    assert "are not known: they were not read yet, or prune --store has removed them." in cli.ok("failures", "job").err
    cli.clock.advance(seconds=90)
    assert "are not known: its ledger lacks them, or prune --store has removed it." in cli.ok("failures", "job").err


def test_failed_tasks_of_a_pruned_job_without_a_ledger_are_counted(cli: Cli, remote: Remote) -> None:
    """The cache has neither record nor ledger of the job: its record in the registry counts them."""
    add_job(remote.jobs, "job", draw_sets(4))
    remote.jobs.update_progress("job", tasks_completed=2, tasks_failed=2)
    remote.jobs.update_status("job", "partial")
    cli.ok("sync")
    cli.clock.advance(hours=2)
    cli.ok("prune", "--older-than", "1h", "--yes")
    assert cli.ids() == []
    assert cli.ok("failures", "job").lines == ["2 tasks of job failed, for reasons that are not known."]
    assert cli.ok("failures", "job", "--json").json["failed_without_reason"] == 2


def test_a_running_job_shows_more_failures_at_the_next_look(cli: Cli, remote: Remote) -> None:
    """What was kept from the first look is not shown again when the ledger has grown."""
    add_job(remote.jobs, "job", draw_sets(10))
    write = Ledger(remote.store.inner)
    write(failed(0, "ValueError", "m.py:1", "bad 0"), attempt(1))
    assert cli.ok("failures", "job", "--json").json["groups"][0]["message"] == "bad 0"
    write(failed(2, "ValueError", "m.py:1", "bad 2"))
    [group] = cli.ok("failures", "job", "--json").json["groups"]
    assert (group["count"], group["tasks"]) == (2, [0, 2])
    assert group["message"] not in ("bad 0", "bad 2"), "it has a mark in place of the number"
    assert "resume" not in cli.ok("failures", "job").out


def test_the_second_look_reads_what_the_first_one_found(
    cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search is done once for a ledger that does not change."""
    run_job(remote, "job", draw_sets(200), lambda _, params: ("E", "m.py:1", "bad") if params["n"] > 7 else None)
    cli.clock.advance(hours=1)
    first = cli.ok("failures", "job", "--json").json
    assert first["groups"][0]["separates"][0]["condition"] == "n > 7"
    monkeypatch.setattr(separating, "Separation", None)
    assert cli.ok("failures", "job", "--json").json["groups"] == first["groups"]
    assert cli.ok("failures", "job", "--offline", "--json").json["groups"] == first["groups"]


def test_an_error_of_several_jobs_is_one_group(cli: Cli, remote: Remote) -> None:
    """Its jobs are named, those with the most first; each condition says in which job it holds."""
    sets = [{"params": {"beta": number / 100}} for number in range(100)]
    for job_id, bound in (("small", 0.95), ("large", 0.8)):
        run_job(
            remote,
            job_id,
            sets,
            lambda task, params, bound=bound: ("ValueError", "m.py:1", f"{task}!") if params["beta"] > bound else None,
        )
    cli.ok("sync", "-q")
    for names in (("small", "large"), ("--hours", "48"), ()):
        document = cli.ok("failures", *names, "--json").json
        assert sorted(document["jobs"]) == ["large", "small"]
        [group] = document["groups"]
        assert (group["count"], group["jobs"], group["tasks"]) == (23, ["large", "small"], [81, 82, 83, 84, 85])
        assert [(one["job_id"], one["condition"]) for one in group["separates"]] == [
            ("large", "beta > 0.8"),
            ("small", "beta > 0.95"),
        ]
    out = cli.ok("failures").out
    assert "all 19 have beta > 0.8; no other has (in large)" in out
    assert "of large; also in small" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["job", "--design"], "No design: no condition is suspected of the failed tasks of job."),
        (["job", "--design", "--offline"], "--design does not work with --offline: the cache has no study."),
        (["--design"], "--design needs one JOB."),
        (["job", "job", "--design"], "--design needs one JOB."),
        (["job", "--within", "peak=5%"], "--within needs --design."),
        *(
            (["job", "--design", "--within", text], f"invalid --within '{text}': expected SCALAR=WIDTH or SCALAR=P%")
            for text in ("peak", "peak=", "=5%", "peak=0", "peak=-1", "peak=5 %", "peak=nan", "peak=100%")
        ),
        (["job", "--design", "--within", "a=1", "--within", "a=5%"], "--within names a twice."),
        (["job", "--design", "--within", "peak=5%"], "invalid scalar 'peak': no task has left a number so far."),
    ],
)
def test_a_study_that_cannot_be_designed_is_refused(cli: Cli, remote: Remote, flags: list[str], message: str) -> None:
    """In one sentence, and nothing is printed."""
    run_job(remote, "job", draw_sets(5), lambda *_: None)
    assert message in cli.fails(EXIT_USAGE, "failures", *flags)


def test_a_design_with_more_replicates_follows_from_the_spread_so_far(cli: Cli, remote: Remote) -> None:
    """Set by set: the spreads are 0, 1 and 2, and a half-width of 0.5 takes 2, 18 and 64 replicates."""
    add_job(remote.jobs, "job", [{"x": number} for number in range(3)], n_replicates=4)
    Ledger(remote.store.inner, "job")(*map(attempt, range(12)))
    root = math.sqrt(3 / 4)
    leave_scalars(
        remote.jobs, "job", {task: {"peak": 10 + task // 4 * root * (-1) ** task, "r": task} for task in range(12)}
    )
    remote.jobs.update_status("job", "succeeded")
    ran = cli.ok("failures", "job", "--design", "--within", "peak=5%", "--within", "r=100")
    until = {"peak": {"confidence": 0.95, "relative": 0.05}, "r": {"confidence": 0.95, "absolute": 100.0}}
    assert ran.json["n_replicates"] == {"min": 4, "max": 640, "until": until}
    assert [one["params"] for one in ran.json["parameter_sets"]] == [{"x": 0}, {"x": 1}, {"x": 2}]
    assert "2 of 3 sets need more than 4 replicates, by their spread so far: n = (t sd / width)^2." in ran.err
    assert "About 86 tasks in all, of which 12 are done." in ran.err


def test_a_list_of_seeds_needs_one_for_each_further_replicate(cli: Cli, remote: Remote) -> None:
    """`submit` would refuse the study. With a list that is long enough, it takes it."""
    for job_id, listed in (("few", 4), ("many", 300)):
        add_job(remote.jobs, job_id, [{"x": 1}], n_replicates=4, seeds=list(range(listed)))
        Ledger(remote.store.inner, job_id)(*map(attempt, range(4)))
        leave_scalars(remote.jobs, job_id, {task: {"r": task} for task in range(4)})
        remote.jobs.update_status(job_id, "succeeded")
    said = cli.fails(EXIT_USAGE, "failures", "few", "--design", "--within", "r=1")
    assert "No design: up to 90 replicates need a seed each, and the study lists 4." in said
    assert "Add seeds at the end of its list: tasks with the first ones can be reused." in said
    assert parse_study(cli.ok("failures", "many", "--design", "--within", "r=1").json).max_replicates == 90


def test_a_design_is_the_study_with_further_sets_near_a_corner(cli: Cli, remote: Remote) -> None:
    draw = random.Random(1)
    sets = [{"params": {f"p{number}": round(draw.random(), 4) for number in range(4)}} for _ in range(20)]

    def in_corner(_task: int, params: dict[str, Any]) -> tuple[str, str, str] | None:
        return ("ValueError", "model.py:21", "no bed") if params["p0"] > 0.5 and params["p1"] > 0.5 else None

    run_job(remote, "job", sets, in_corner)
    (group,) = cli.ok("failures", "job", "--json").json["groups"]
    (suspected,) = group["suspected"]
    ran = cli.ok("failures", "job", "--design")
    assert ran.json["parameter_sets"][20:] == [{"params": one} for one in suspected["further_sets"]]
    more = len(suspected["further_sets"])
    assert f"{more} further parameter sets ({more} tasks), inside and beside {suspected['condition']}" in ran.err


def test_a_reported_job_counts_with_the_error_of_its_record(cli: Cli, remote: Remote) -> None:
    """Its tasks are not known. Without an error, it is named; asked for by its name alone, it has no ledger.

    Offline the same: no sync would bring its tasks. Three jobs with unknown reasons are named, and the others counted.
    """
    run_job(remote, "job", draw_sets(5), lambda *_: ("E", None, "bad"), status="failed")
    add(remote.jobs, "silent", "failed")
    for number in range(5):
        add(
            remote.jobs,
            f"theirs-{number}",
            "running",
            error_code="INCOMPLETE",
            error_message=f"{number} of 9 left none",
        )
        remote.jobs.update_progress(f"theirs-{number}", tasks_failed=2)
        remote.jobs.update_status(f"theirs-{number}", "failed")
    cli.ok("sync", "-q")
    document = cli.ok("failures", "--json").json
    assert sorted(document["jobs"]) == ["job", "silent", *(f"theirs-{number}" for number in range(5))]
    assert (document["failed"], document["failed_without_reason"]) == (5, 10)
    assert document["jobs_without_error"] == ["silent"]
    assert [(one["count"], one["type"], one["tasks"]) for one in document["groups"]] == [
        (5, "E", [0, 1, 2, 3, 4]),
        (5, "INCOMPLETE", []),
    ]
    ran = cli.ok("failures")
    head = "5 of 5 tasks of job and 5 jobs without known failed tasks failed, for 2 reasons."
    assert ran.lines[0] == f"{head} 10 more failed, for reasons that are not known."
    assert "1 job failed without a known error: silent.\n" in ran.err
    assert ran.err.count("the reasons of 2 failed tasks are not known: another program reported them.\n") == 3
    assert "another program reported them.\nand 2 more jobs\n" in ran.err
    for flags in ((), ("--offline",)):
        ran = cli.ok("failures", "theirs-1", *flags)
        assert ran.lines[0].startswith("1 job failed, for 1 reason.")
        assert ran.lines[-1] == "See what is known of a job: mops-jobs status theirs-1"
        assert "no ledger" in cli("failures", "silent", *flags).err
    assert cli.ok("failures", "--name", "silent").lines == ["1 job failed without a known error: silent."]


def test_filters_select_the_jobs_and_contradict_a_job(cli: Cli, remote: Remote) -> None:
    """The same filters as those of `list`; the limit counts jobs with failed tasks."""
    for number in range(3):
        run_job(remote, f"job-{number}", draw_sets(4), lambda *_: ("E", None, "bad"), status="failed")
        cli.clock.advance(minutes=1)
    run_job(remote, "good", draw_sets(4), lambda *_: None, status="succeeded")
    cli.ok("sync", "-q")
    assert cli.ok("failures", "--name", "*-1", "--json").json["jobs"] == ["job-1"]
    ran = cli.ok("failures", "--limit", "2", "--json")
    assert ran.json["jobs"] == ["job-2", "job-1"]
    assert "1 older job with failed tasks left out" in ran.err
    assert cli("failures", "job-1", "--hours", "1").code == 2


def test_an_outage_shows_what_the_cache_has(cli: Cli, remote: Remote) -> None:
    """The kept failures stay readable; a warning counts the jobs whose ledgers were never read: their records count."""
    run_job(remote, "seen", draw_sets(5), lambda *_: ("E", None, "bad"), status="failed")
    run_job(remote, "unseen", draw_sets(5), lambda *_: ("E", None, "bad"), status="failed")
    cli.ok("sync", "-q")
    cli.ok("failures", "seen")
    remote.store.down = True
    ran = cli.ok("failures", "--json")
    assert (ran.json["failed"], ran.json["jobs_without_error"]) == (5, ["unseen"])
    assert "The tasks of 1 job were never synced to this machine.\n" in ran.err


def test_more_groups_than_are_shown_are_counted(cli: Cli, remote: Remote) -> None:
    """30 errors: the first 20 are shown, and a note tells how many more there are."""
    run_job(remote, "job", draw_sets(30), lambda task, _: (f"Error{chr(65 + task)}", None, "bad"), status="failed")
    ran = cli.ok("failures", "job")
    assert sum("Error" in line for line in ran.lines) == 20
    assert "and 10 more groups; --json lists them" in ran.err
    assert len(cli.ok("failures", "job", "--json").json["groups"]) == 30


def test_an_example_shows_what_the_marks_stand_for(cli: Cli, remote: Remote) -> None:
    """A key in quotes becomes a mark, which alone says little. One message of all needs no example."""
    causes = [("KeyError", "m.py:1", "'country-7'"), ("KeyError", "m.py:1", "'country-8'"), ("E", None, "bad")]
    run_job(remote, "job", draw_sets(4), lambda task, _: causes[task] if task < 3 else None)
    lines = [line.strip() for line in cli.ok("failures", "job").lines]
    place = lines.index("'<id>'")
    assert lines[place + 1] == "for example: 'country-7'"
    assert sum("for example" in line for line in lines) == 1


def test_failures_of_a_family_say_which_tasks_they_count(cli: Cli, remote: Remote) -> None:
    """A job alone names the others. Of a job and its child, tasks that failed twice count twice, and a note says so."""
    sets = draw_sets(4)
    run_job(remote, "job", sets, lambda *_: ("E", None, "bad"), status="failed")
    add_job(remote.jobs, "job.2", sets, only=[0, 1], attempts=[failed(0, "E", None, "bad"), attempt(1)])
    remote.jobs.update_status("job.2", "partial")
    cli.ok("sync", "-q")
    assert "These are the failures of job alone. Its family: job.2\n" in cli.ok("failures", "job").err
    assert "These are the failures of job.2 alone. Its family: job\n" in cli.ok("failures", "job.2").err
    ran = cli.ok("failures", "job", "job.2")
    assert ran.lines[0] == "5 of 6 tasks of 2 jobs failed, for 1 reason."
    note = "job, job.2 are one family: a task that failed in several of them counts in each.\n"
    assert note in ran.err
    assert note in cli.ok("failures", "--resumed").err.replace("job.2, job", "job, job.2")
    assert cli.ok("failures").lines[0] == "1 of 2 tasks of job.2 failed, for 1 reason."
    ran = cli.ok("failures", "--status", "failed")
    assert ran.lines == ["No task has failed."]
    assert "The failures of 1 job are left out: a resume has taken them up (--resumed).\n" in ran.err
