"""`logs`: lines of a job, from its cluster while pods live, else from events, and lines of several jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from mopsjobs.engines.job_dir import JobDir
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.base import VersionedStore
from support.cli import Cli, Remote, add, during_sleeps, sentences
from support.engines import GONE, Cluster, add_kubernetes_job, answer_for_all
from support.events import Writer
from support.kubernetes import Api, kubeconfig, lines, log_path
from support.ledgers import Ledger, add_job, attempt


@pytest.fixture
def cluster(cli: Cli, remote: Remote, api: Api, tmp_path: Path) -> Api:
    """Return a cluster with the Job of `seir-1`, which runs in one pod that has written three lines."""
    cli.env["KUBECONFIG"] = str(kubeconfig(tmp_path, api.url))
    add(remote.jobs, "seir-1", "running", engine="kubernetes", k8s_name="seir-1", namespace="models")
    api.put_job(status={"active": 1, "ready": 1})
    pod = api.put_pod(0, "Running")
    api.answer(log_path(pod), lines("[0] one", "[1] two", "[2] three"))
    return api


@pytest.fixture
def write_seir(remote: Remote, cli: Cli) -> Writer:
    """Return what the runner has sent as events of the job."""
    return Writer(remote.store.inner, cli.clock, "seir-1")


def test_a_running_job_tells_its_lines_from_the_cluster(cli: Cli, cluster: Api, write_seir: Writer) -> None:
    """One source at a time: what has come as an event already is not shown twice."""
    write_seir("one", task=0)
    assert cli.ok("logs", "seir-1").lines == ["[0] one", "[1] two", "[2] three"]


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        (("--tail", "1"), ["[2] three"]),
        (("--grep", "t"), ["[1] two", "[2] three"]),
        (("--grep", "tw", "--tail", "1"), ["[1] two"]),
    ],
)
def test_lines_are_chosen_in_the_cluster_too(cli: Cli, cluster: Api, flags: tuple[str, ...], shown: list[str]) -> None:
    """`--tail` counts the lines that fit `--grep`, as it does with events."""
    assert cli.ok("logs", "seir-1", *flags).lines == shown


def test_a_job_that_has_ended_tells_them_from_its_events(
    cli: Cli, remote: Remote, cluster: Api, write_seir: Writer
) -> None:
    write_seir("from the event", task=0)
    remote.jobs.update_status("seir-1", "succeeded")
    assert cli.ok("logs", "seir-1").lines == ["[0] from the event"]
    assert cluster.requests("get", log_path("seir-1-0-0")) == []


def test_a_cluster_that_is_away_leaves_the_events(cli: Cli, cluster: Api, write_seir: Writer) -> None:
    write_seir("from the event", task=0)
    cluster.refuse(503, "not now")
    ran = cli.ok("logs", "seir-1")
    assert ran.lines == ["[0] from the event"]
    assert "Showing the events instead." in ran.err


@pytest.mark.parametrize(("status", "code"), [("succeeded", 0), ("failed", 100), ("cancelled", 103)])
def test_following_ends_with_the_job_and_tells_how(
    cli: Cli, remote: Remote, cluster: Api, write_seir: Writer, status: str, code: int
) -> None:
    """The cluster's lines until its Job has ended, nothing twice, then what the events tell of afterwards."""
    write_seir("one", task=0)
    cli.clock.advance(seconds=1)
    cluster.put_pod(0, "Succeeded")
    cluster.put_job(status={"conditions": [{"type": "Complete", "status": "True"}]})

    def end(count: int) -> None:
        if count == 1:
            write_seir("late", task=7)
            remote.jobs.update_status("seir-1", status)

    cli.clock.on_sleep = end
    ran = cli("logs", "seir-1", "-f")
    assert (ran.code, ran.lines) == (code, ["[0] one", "[1] two", "[2] three", "[7] late"])


def test_the_log_of_a_runner_is_named_for_a_job_that_the_cache_knows(cli: Cli, remote: Remote, write: Writer) -> None:
    """With the lines that the cache has: logs have one source at a time."""
    add(remote.jobs, "job", "running", engine="local")
    cli.ok("sync")
    directory = JobDir.for_job("job", cli.env)
    directory.path.mkdir(parents=True)
    directory.log.write_text("first\nsecond\n")
    hint = f"The log of its runner on this machine: tail -f {directory.log}"
    remote.store.down = True
    ran = cli.ok("logs", "job", "--grep", "nowhere")
    assert ran.err.splitlines()[-2:] == [hint, "There are no log lines of job job that match."]
    remote.store.down = False
    write("from an event")
    cli.ok("sync")
    remote.store.down = True
    ran = cli.ok("logs", "job")
    assert (ran.lines, ran.err.splitlines()[-1]) == (["from an event"], hint)
    during_sleeps(
        cli, _2=lambda: setattr(remote.store, "down", False), _3=lambda: remote.jobs.update_status("job", "succeeded")
    )
    assert cli.ok("logs", "job", "-f").err.splitlines()[-1] == hint


def test_logs_follow_from_before_the_start_to_the_end(cli: Cli, anywhere: VersionedStore) -> None:
    """On every backend: `logs -f` of a job that has not started waits, prints, and ends with the job's outcome."""
    clock = cli.clock
    registry, write = JobRegistry(anywhere, now=clock.now, sleep=clock.sleep), Writer(anywhere, clock)
    add(registry, "job")
    during_sleeps(
        cli,
        _2=lambda: (registry.update_status("job", "running"), write("a", "b", task=1)),
        _3=lambda: write("c"),
        _4=lambda: registry.update_status("job", "failed"),
    )
    ran = cli("logs", "job", "-f")
    assert (ran.code, ran.lines, ran.err) == (100, ["[1] a", "[1] b", "c"], "")


def test_logs_choose_lines(cli: Cli, remote: Remote, write: Writer) -> None:
    """`--grep`, `--tail` and `--since` choose among the log lines, alone and together; other kinds are none."""
    add(remote.jobs, "job", "running")
    write("one", "two", task=1)
    write("three", kind="runner")
    cli.clock.advance(minutes=10)
    write("four", "one more")
    assert cli.ok("logs", "job").lines == ["[1] one", "[1] two", "four", "one more"]
    assert cli.ok("logs", "job", "--grep", "^one").lines == ["[1] one", "one more"]
    assert cli.ok("logs", "job", "--tail", "2").lines == ["four", "one more"]
    assert cli.ok("logs", "job", "--tail", "1", "--grep", "o$").lines == ["[1] two"]
    assert cli.ok("logs", "job", "--tail", "0").lines == []
    assert cli.ok("logs", "job", "--since", "5m").lines == ["four", "one more"]


def test_tail_and_follow_go_together(cli: Cli, remote: Remote, write: Writer) -> None:
    """`-f --tail N`: the last N lines that are there, then all new ones."""
    add(remote.jobs, "job", "running")
    write("a", "b", "c")
    during_sleeps(cli, _1=lambda: (write("d"), remote.jobs.update_status("job", "succeeded")))
    assert cli("logs", "job", "-f", "--tail", "1").lines == ["c", "d"]


PRUNED = " Prune may have removed some."


@pytest.mark.parametrize(
    ("status", "flags", "note"),
    [
        ("running", (), "There are no log lines of job job yet."),
        ("running", ("--tail", "0"), ""),
        ("succeeded", ("-f",), f"There are no log lines of job job.{PRUNED}"),
        ("succeeded", ("--grep", "x"), f"There are no log lines of job job that match.{PRUNED}"),
        ("running", ("--task", "7"), "There are no log lines of job job that match."),
        ("running", ("--failed",), "No task of job job is known to have failed yet."),
    ],
)
def test_a_job_without_log_lines_says_so(
    cli: Cli, remote: Remote, write: Writer, status: str, flags: tuple[str, ...], note: str
) -> None:
    """A job whose tasks print nothing, or nothing that matches: a note on stderr, and exit code 0."""
    add(remote.jobs, "job", status)
    write("", kind="runner")
    ran = cli.ok("logs", "job", *flags)
    assert (ran.out, ran.err.strip()) == ("", note)


def test_missing_lines_are_told(cli: Cli, remote: Remote, write: Writer) -> None:
    """Where a writer had to drop lines, a warning says how many; stdout holds lines alone."""
    add(remote.jobs, "job", "running")
    write("", kind="dropped", count=12)
    write("a")
    ran = cli.ok("logs", "job")
    assert ran.lines == ["a"]
    assert "12 events are missing" in ran.err
    assert "12 events of job job are missing" in cli.ok("logs", "--grep", "x").err


def test_a_job_that_its_engine_does_not_know_is_not_waited_for(
    cli: Cli, jobs: JobRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`logs -f` reads what the cluster has left, says so once, and goes on with the events."""
    add_kubernetes_job(jobs, "scheduled")
    cluster = answer_for_all(monkeypatch, Cluster(GONE))
    monkeypatch.setattr(cluster, "logs", lambda job, **how: iter(["the last line"]))
    during_sleeps(cli, _300=lambda: jobs.update_status("a", "failed"))
    ran = cli("logs", "a", "-f")
    assert (ran.code, ran.lines) == (100, ["the last line"])
    assert ran.err.count("a: suspect (k8s_job_missing). If its runner is gone: mops-jobs resume a") == 1


@pytest.fixture
def three_jobs(cli: Cli, remote: Remote) -> None:
    """Leave three jobs with lines, the last an hour older than the others."""
    for name, owner in (("old", "ann"), ("night-1", "ann"), ("night-2", "bob")):
        add(remote.jobs, name, "running", owner=owner)
        write = Writer(remote.store.inner, cli.clock, name, name)
        write(f"start of {name}")
        write("singular matrix", task=4)
        write("", kind="task_failed", task=4, error={"type": "E", "message": "singular"})
        remote.jobs.update_status(name, "partial")
        cli.clock.advance(minutes=60 if name == "old" else 1)


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        (("--grep", "singular matrix"), ["night-2", "night-1", "old"]),
        (("--grep", "singular matrix", "--hours", "1"), ["night-2", "night-1"]),
        (("--grep", "singular matrix", "--owner", "ann"), ["night-1", "old"]),
        (("--grep", "singular matrix", "--limit", "1"), ["night-2"]),
        (("old", "old", "night-1", "--grep", "singular matrix"), ["old", "night-1"]),
    ],
)
def test_each_line_begins_with_its_job(cli: Cli, three_jobs: None, argv: tuple[str, ...], names: list[str]) -> None:
    """In the order of `list`, or as the ids are given."""
    assert cli.ok("logs", *argv).lines == [f"{name}  [4] singular matrix" for name in names]


def test_failed_tasks_of_several_jobs(cli: Cli, three_jobs: None) -> None:
    """Their lines and errors; `--tail` counts for each job."""
    assert cli.ok("logs", "--failed", "--owner", "bob").lines == [
        "night-2  [4] singular matrix",
        "night-2  [4] E: singular",
    ]
    assert cli.ok("logs", "--failed", "--tail", "1", "--owner", "ann").lines == [
        "night-1  [4] E: singular",
        "old  [4] E: singular",
    ]


def test_jobs_that_are_left_out_are_counted(cli: Cli, three_jobs: None) -> None:
    """On stderr, with the flag that reads them. That no line of those that were read matches, too."""
    assert "2 older jobs left out (--limit 0 reads all)." in cli.ok("logs", "--grep", "start", "--limit", "1").err
    ran = cli.ok("logs", "--grep", "nowhere")
    assert (ran.out, ran.err.strip()) == ("", "No log line of 3 jobs matches.")


def test_an_outage_leaves_the_cache(cli: Cli, remote: Remote, three_jobs: None) -> None:
    """With a warning; a cache that was never filled is an error (5)."""
    remote.store.down = True
    assert cli("logs", "--grep", "start").code == 5
    remote.store.down = False
    cli.ok("sync")
    remote.store.down = True
    for flags in ((), ("--offline",)):
        ran = cli.ok("logs", "--grep", "start of n", *flags)
        assert ran.lines == ["night-2  start of night-2", "night-1  start of night-1"]
        assert ran.err.startswith("warning: ") is not bool(flags)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), "logs needs a JOB; without one, --grep or --failed."),
        (("old", "--hours", "4"), "A JOB contradicts filters and --limit, which select jobs."),
        (("old", "night-1", "-f"), "--follow needs one JOB."),
        (("old", "-f", "--offline"), "--follow and --offline contradict each other."),
        (("--grep", "("), "invalid regular expression '('"),
        (("old", "--task", "x"), "invalid task 'x': expected the number of a task"),
        (("old", "--failed", "-f"), "--failed and --follow contradict each other"),
    ],
)
def test_requests_that_contradict_are_refused(cli: Cli, three_jobs: None, argv: tuple[str, ...], words: str) -> None:
    """Exit code 2, one sentence."""
    ran = cli("logs", *argv)
    assert (ran.code, ran.out, len(sentences(ran.err.partition("hint:")[0]))) == (2, "", 1)
    assert words in ran.err


def test_an_unknown_job_prints_nothing_of_others(cli: Cli, three_jobs: None) -> None:
    """All jobs are found before the first line is printed."""
    cli.fails(3, "logs", "old", "none")


ERROR = {"type": "ValueError", "message": "no", "traceback": "Traceback\nValueError: no"}


@pytest.fixture
def job(remote: Remote, write: Writer) -> None:
    """Leave the lines of a job of four tasks, of which task 2 failed."""
    add(remote.jobs, "job", "running")
    write("loading")
    write("a", task=0)
    write("b", "c", task=2)
    write("d", task=12)
    write("", kind="task_failed", task=2, error=ERROR)
    write("", kind="runner", error={"type": "E", "message": "of no task"})


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        (("--task", "0"), ["[0] a"]),
        (("--task", "0, 12"), ["[0] a", "[12] d"]),
        (("--task", "2", "--grep", "^b"), ["[2] b"]),
        (("--task", "0,2", "--tail", "2"), ["[2] c", "[2] Traceback", "[2] ValueError: no"]),
        (("--failed",), ["[2] b", "[2] c", "[2] Traceback", "[2] ValueError: no"]),
        (("--failed", "--grep", "^Val"), ["[2] Traceback", "[2] ValueError: no"]),
        (("--failed", "--task", "2,12", "--tail", "1"), ["[2] Traceback", "[2] ValueError: no"]),
    ],
)
def test_lines_are_chosen_by_their_task(cli: Cli, job: None, flags: tuple[str, ...], shown: list[str]) -> None:
    """By number, or since it failed; lines of no task are not among them."""
    assert cli.ok("logs", "job", *flags).lines == shown


def test_the_ledger_tells_of_tasks_without_an_event(cli: Cli, remote: Remote) -> None:
    """As a worker that was lost: its attempt is known, once the ledger was read. Before, the record counts it."""
    add_job(remote.jobs, "job", [{"params": {"x": number}} for number in range(3)], status="running")
    Writer(remote.store.inner, cli.clock)("a", task=1)
    remote.jobs.update_progress("job", tasks_failed=1)
    Ledger(remote.store.inner, "job")(attempt(0), attempt(1, "oom"))
    ran = cli.ok("logs", "job", "--failed")
    assert (ran.out, ran.err.partition(":")[0]) == ("", "Which 1 task of job job failed is not known")
    assert "or prune has removed them. Run: mops-jobs tasks job\n" in ran.err
    cli.ok("tasks", "job")
    assert cli.ok("logs", "job", "--failed").lines == ["[1] a"]


@pytest.mark.parametrize("flags", [("--task", "1"), ("--failed",)])
def test_a_cluster_is_not_asked_for_a_task(
    cli: Cli, remote: Remote, api: Api, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    """The lines of a pod name their task in their text only. The events have them too; a note says so."""
    cli.env["KUBECONFIG"] = str(kubeconfig(tmp_path, api.url))
    add(remote.jobs, "seir-1", "running", engine="kubernetes", k8s_name="seir-1", namespace="models")
    api.put_job(status={"active": 1, "ready": 1})
    api.answer(log_path(api.put_pod(0, "Running")), lines("[1] of the pod"))
    write = Writer(remote.store.inner, cli.clock, "seir-1")
    write("of the event", task=1)
    write("", kind="task_failed", task=1, error={"type": "E", "message": "m"})
    ran = cli.ok("logs", "seir-1", *flags)
    assert ran.lines == ["[1] of the event", "[1] E: m"]
    assert ran.err.strip() == "The cluster cannot select lines by task. Showing the events instead."
    assert api.requests("get", log_path("seir-1-0-0")) == []


def test_odd_tasks_of_an_event_are_no_numbers(cli: Cli, remote: Remote, write: Writer) -> None:
    """Another writer may have put anything there."""
    add(remote.jobs, "job", "running")
    for task in (True, "2", 2.0, [2], None, {"a": 2}):
        write("a", task=task)
        write("", kind="task_failed", task=task, error=ERROR)
    for flags in (("--task", "1,2"), ("--failed",)):
        assert cli.ok("logs", "job", *flags).out == ""
