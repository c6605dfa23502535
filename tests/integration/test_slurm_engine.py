"""The slurm engine on a real Slurm: a controller and two nodes on this machine; see support/slurm.py."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mopsjobs as mj
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.slurm.commands import Commands
from mopsjobs.engines.slurm.state import SlurmShards, parse_scontrol
from mopsjobs.errors import EXIT_JOB_PARTIAL
from mopsjobs.ledger.attempt import FAILED_OUTCOMES
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.base import VersionedStore
from mopsjobs.utils.sqlite_file import file_names
from support.checkpoints import STEPS, steps_of, undisturbed
from support.cli import Cli, Spawn
from support.docs import ROOT
from support.runs import PATIENCE, calls, code, kill, record, results, sets_of, until
from support.slurm import Slurm, missing_programs, running

# A runner outlives the one who launched it: that is what it is for.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="session")
def slurm_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """Yield one Slurm for the whole run."""
    if missing := missing_programs():
        pytest.skip(f"There is no {', '.join(missing)}: on Debian as root, ./build.sh servers installs Slurm.")
    with running(tmp_path_factory.mktemp("slurm")) as started:
        yield started


class Lab:
    """The command beside a Slurm, in a directory with a model whose tasks wait for a gate."""

    def __init__(self, cli: Cli, spawn: Spawn, slurm: Slurm, registry: JobRegistry, directory: Path) -> None:
        cli.env |= {"PATH": os.environ["PATH"], **slurm.env}
        self.cli = cli
        self.slurm = slurm
        self.registry = registry
        self.calls = code(directory) / "calls"
        self.gate = directory / "gate"
        self._spawn = spawn

    def submit(self, job_id: str, tasks: int, *words: str) -> None:
        """Submit a job. Its tasks note their calls, and all but the first one wait for the gate."""
        sets = sets_of(tasks, calls=str(self.calls), gate=str(self.gate))
        del sets[0]["gate"]
        study = {"model": "model:simulate", "parameter_sets": sets, "outputs": ["result.json"]}
        Path("study.json").write_text(json.dumps(study))
        self.cli.ok("submit", "study.json", "--auto", "--engine", "slurm", "--job-id", job_id, *words)

    def run(self, *words: str) -> tuple[int, str]:
        """Run the command by the clock of this machine. Return its exit code and what it said."""
        process = self._spawn(*words)
        out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out + err

    def reconcile(self, job_id: str) -> dict[str, Any]:
        """Bring Slurm's word into the record, and return the job as `status` shows it."""
        self.run("reconcile", job_id)
        found: dict[str, Any] = self.cli.ok("status", job_id, "--json").json
        return found

    def array_of(self, job_id: str) -> str:
        """Return the id that Slurm gave to the job array of a job."""
        return str(record(self.registry, job_id).metadata["slurm_job_id"])

    def await_states(self, job_id: str, *states: str) -> None:
        """Wait until all shards of a job are in one of these states, or wait for one of these reasons."""
        array = self.array_of(job_id)

        def are_reached() -> bool:
            return all({*shard} & {*states} for shard in self.states_of(array))

        until(are_reached, f"{job_id} to be {' or '.join(states)}")

    def await_restart(self, job_id: str) -> None:
        """Wait until the one shard of a job was requeued. It may have begun again by then."""
        words = ("--noheader", "--states=all", f"--jobs={self.array_of(job_id)}", "--Format=RestartCnt")
        until(lambda: int(self.slurm.run("squeue", *words)) > 0, f"{job_id} to be requeued")

    def states_of(self, array: str) -> list[list[str]]:
        """Return the state of each shard of a job array, and why it waits."""
        words = ("--noheader", "--states=all", f"--jobs={array}", "--format=%T %r")
        return [shard.replace(",", " ").split() for shard in self.slurm.run("squeue", *words).splitlines()]

    def await_calls(self, count: int) -> None:
        """Wait until this many tasks have begun."""
        until(lambda: sum(calls(self.calls).values()) == count, f"{count} calls")


@pytest.fixture
def lab(
    cli: Cli,
    spawn: Spawn,
    slurm_cluster: Slurm,
    local_registry: JobRegistry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Lab]:
    made = Lab(cli, spawn, slurm_cluster, local_registry, tmp_path / "code")
    monkeypatch.chdir(tmp_path / "code")
    yield made
    made.gate.touch()  # else a task that a failed test has left waits on
    for path in (JobDir.for_job("job", cli.env).path.parent).glob("*/slurm-*.log"):
        print(f"{path}: {path.read_text()[-2000:]}")  # shown if the test fails
    print(slurm_cluster.log())
    slurm_cluster.run("scancel", "--me")  # the next test may give its job the same id
    until(lambda: not slurm_cluster.run("squeue", "--noheader"), "Slurm to have no job left")


def _check_attempts(lab: Lab, job_id: str, begun: int) -> None:
    """Check that the tasks that have begun have attempts, no others do, and that all views count the same failures."""
    tasks = json.loads(lab.run("tasks", job_id, "--json")[1])["tasks"]
    assert sum(bool(task["attempt"]) for task in tasks) <= begun
    assert all(task["started_at"] is not None for task in tasks if task["attempt"])
    failed = sum(task["outcome"] in FAILED_OUTCOMES for task in tasks)
    assert (
        failed == lab.cli.ok("failures", job_id, "--json").json["failed"] == record(lab.registry, job_id).tasks_failed
    )


def _runner_of(worker: int) -> int:
    """Return the process of the runner that has started a worker."""
    while b"\0run\0" not in Path(f"/proc/{worker}/cmdline").read_bytes():
        worker = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
    return worker


def test_the_same_study_gives_the_same_bytes_on_slurm_and_here(
    lab: Lab, seir: list[str], local_store: VersionedStore
) -> None:
    """Two shards on two nodes work through it, and each task has what it used."""
    lab.cli.ok(*seir, "--job-id", "there", "--engine", "slurm", "--shards", "2", "--time", "10")
    lab.cli.ok(*seir, "--job-id", "here", "--workers", "1")
    assert [lab.run("wait", job)[0] for job in ("there", "here")] == [0, 0]
    there = results(local_store, "there")
    assert len(there) == 20
    assert there == results(local_store, "here")
    shown = lab.cli.ok("status", "there").out
    assert f"job {lab.array_of('there')} of lab" in shown
    tasks = lab.cli.ok("tasks", "there", "--jsonl").objects
    assert [task["outcome"] for task in tasks] == ["succeeded"] * 20
    assert all(task["max_rss_bytes"] > 0 and task["host"] for task in tasks)
    lab.await_states("there", "COMPLETED")


def test_a_session_has_workers_on_several_nodes(lab: Lab) -> None:
    """Shards read what is asked for from the registry. While they wait for the client, Slurm's word changes nothing."""
    with (
        mj.connect(env=lab.cli.env) as reg,
        reg.session(
            "model:simulate", lab.calls.parent, engine="slurm", shards=2, time="10", workers=1, job_id="job"
        ) as session,
    ):
        assert [one["x"] for one in session.map([{"x": number} for number in range(4)])] == [0, 1, 2, 3]

        def waits() -> bool:
            job = lab.reconcile("job")
            return job["metadata"].get("waits_for") == "its client" and job["tasks_completed"] == 4

        until(waits, "it to wait for its client")
        job = lab.reconcile("job")
        assert (job["status"], job["suspect"], job["metadata"]["waits_for"]) == ("running", None, "its client")
        assert session.submit({"x": 4}).result()["x"] == 4
    assert lab.run("wait", "job")[0] == 0
    tasks = lab.cli.ok("tasks", "job", "--jsonl").objects
    assert {task["shard"] for task in tasks} == {0, 1}
    lab.await_states("job", "COMPLETED")


def test_the_text_of_a_job_array_has_the_states_of_its_shards(slurm_cluster: Slurm) -> None:
    """Of shards that have succeeded, failed and been killed, that run and that wait. A comment looks like fields."""
    by_shard = "case $SLURM_ARRAY_TASK_ID in 0) exit 0;; 1) exit 3;; 2) kill -9 $$;; *) sleep 600;; esac"
    common = ("--parsable", "--output=/dev/null", "--time=20", f"--wrap={by_shard}", "--comment=x JobState=FAILED")
    mixed = slurm_cluster.run("sbatch", *common, "--array=0-9%1").strip()
    held = slurm_cluster.run("sbatch", *common, "--array=0-8:4", "--hold").strip()
    dependent = slurm_cluster.run("sbatch", *common, "--array=1,3,5-6", f"--dependency=afterok:{held}").strip()

    def states() -> set[tuple[str, ...]]:
        said = slurm_cluster.run("squeue", "--noheader", "--states=all", f"--jobs={mixed}", "--format=%K %T %r")
        return {tuple(line.split()[1:]) for line in said.splitlines()}

    expected = {("COMPLETED", "None"), ("FAILED", "NonZeroExitCode"), ("FAILED", "RaisedSignal:9(Killed)")}
    expected |= {("RUNNING", "None"), ("PENDING", "JobArrayTaskLimit")}
    until(lambda: states() == expected, "the third shard")
    commands = Commands({**os.environ, **slurm_cluster.env})

    def told(array_id: str) -> list[SlurmShards]:
        return parse_scontrol(commands.ask("scontrol", "--oneliner", "show", "job", array_id))

    ended = {one.parts[0].start: (one.state, one.exit_code, one.signal) for one in told(mixed)}
    assert ended == {
        0: ("COMPLETED", 0, 0), 1: ("FAILED", 3, 0), 2: ("FAILED", 0, 9), 3: ("RUNNING", 0, 0), 4: ("PENDING", 0, 0),
    }  # fmt: skip
    waiting = [one for array_id in (held, dependent) for one in told(array_id)]
    assert [([number for part in one.parts for number in part], one.reason) for one in waiting] == [
        ([0, 4, 8], "JobHeldUser"), ([1, 3, 5, 6], "Dependency"),
    ]  # fmt: skip
    slurm_cluster.run("scancel", mixed, held, dependent)


def test_a_killed_runner_costs_its_shard_and_a_resume_runs_the_rest(lab: Lab, local_store: VersionedStore) -> None:
    """What the other shard has done is kept, and the record has the exit code."""
    lab.submit("job", 4, "--shards", "2")
    lab.await_calls(3)  # the first task has ended: its shard has begun another one
    until(lambda: results(local_store, "job"), "its output")
    workers = dict(line.split() for line in lab.calls.read_text().splitlines())
    kill(_runner_of(int(workers["2"])))
    lab.gate.touch()
    lab.await_states("job", "FAILED", "COMPLETED")
    job = lab.reconcile("job")
    assert (job["status"], job["tasks_completed"]) == ("partial", 3)
    assert job["error_code"] == "FAILED"
    assert "1 shard failed with exit code 137" in job["error_message"]
    _check_attempts(lab, "job", 4)
    assert lab.run("resume", "job")[0] == 0
    assert lab.run("wait", "job.2")[0] == 0
    assert len(results(local_store, "job")) + len(results(local_store, "job.2")) == 4
    assert calls(lab.calls) == {0: 1, 1: 1, 2: 2, 3: 1}


def test_a_job_whose_node_goes_down_resumes_when_the_node_is_back(lab: Lab) -> None:
    lab.submit("job", 2, "--sbatch-arg=--nodelist=n2")
    lab.await_calls(2)
    lab.slurm.run("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=test")
    lab.await_states("job", "NODE_FAIL")
    job = lab.reconcile("job")
    assert (job["status"], job["error_code"]) == ("partial", "NODE_FAIL")
    assert "1 shard lost its node" in job["error_message"]
    _check_attempts(lab, "job", 2)
    assert lab.run("resume", "job")[0] == 0
    lab.await_states("job.2", "ReqNodeNotAvail")
    assert "ReqNodeNotAvail" in lab.reconcile("job.2")["metadata"]["waits_for"]
    lab.slurm.run("scontrol", "update", "NodeName=n2", "State=RESUME")
    lab.gate.touch()
    assert lab.run("wait", "job.2")[0] == 0


@pytest.mark.parametrize("way", ["time", "scancel"])
def test_tasks_that_never_began_have_no_attempt(lab: Lab, way: str) -> None:
    """The shard ends at its time limit, or by `scancel`, while one of its six tasks is at work."""
    lab.submit(
        "job", 6, "--shards", "1", "--workers", "1", *(("--time", "1", "--signal", "5") if way == "time" else ())
    )
    lab.await_calls(2)
    if way == "scancel":
        lab.slurm.run("scancel", lab.array_of("job"))
    lab.await_states("job", "TIMEOUT", "CANCELLED", "FAILED", "NonZeroExitCode")
    job = lab.reconcile("job")
    assert (job["status"], job["tasks_completed"]) == ("partial", 1)
    _check_attempts(lab, "job", 2)


def test_each_view_tells_that_a_shard_will_not_finish(lab: Lab) -> None:
    """Tasks of a second for most of an hour, in ten minutes. The record has the time at which the shard is stopped."""
    Path("model.py").write_text("import time\ndef simulate(params, seed):\n    time.sleep(1)\n    return {}\n")
    study = {"model": "model:simulate", "parameter_sets": sets_of(3000), "outputs": ["result.json"]}
    Path("study.json").write_text(json.dumps(study))
    words = ("--engine", "slurm", "--job-id", "job", "--shards", "1", "--workers", "1", "--time", "10")
    lab.cli.ok("submit", "study.json", "--auto", *words)

    def job() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(lab.run("status", "job", "--json")[1])
        return found

    until(lambda: job()["time_limit_at"] is not None, "the forecast")
    assert job()["eta_latest"] is None
    for view in (("status", "job"), ("list",), ("wait", "job", "--timeout", "1s")):
        said = " ".join(lab.run(*view)[1].split())
        assert "will not finish before its time limit in" in said, view
        assert "mops-jobs resume job --time MINUTES" in said, view
    lab.cli.ok("cancel", "job")


def test_a_time_limit_requeues_and_holds_and_cancellations_are_told(lab: Lab) -> None:
    """All that Slurm does to jobs by itself or for others. A requeued shard runs no task again that has ended.

    Slurm looks at time limits twice per minute, so a shard may be warned and requeued more than once.
    """
    lab.submit("long", 4, "--time", "1", "--signal", "5", "--requeue")
    lab.await_calls(2)

    lab.submit("held", 1, "--sbatch-arg=--begin=now+1hour")
    held = lab.array_of("held")
    lab.await_states("held", "BeginTime")
    assert "BeginTime" in lab.reconcile("held")["metadata"]["waits_for"]
    lab.slurm.run("scontrol", "hold", held)
    job = lab.reconcile("held")
    assert job["status"] == "scheduled"
    assert "JobHeld" in job["metadata"]["waits_for"]
    lab.slurm.run("scancel", held)
    lab.await_states("held", "CANCELLED")
    job = lab.reconcile("held")
    assert (job["status"], job["error_code"]) == ("failed", "CANCELLED")

    lab.await_restart("long")
    lab.gate.touch()
    code, said = lab.run("wait", "long")
    assert code == 0, said
    assert calls(lab.calls)[0] == 1
    (log,) = JobDir.for_job("long", lab.cli.env).path.glob("slurm-*.log")
    assert "mops-jobs: stopped ahead of the time limit; finished tasks are kept." in log.read_text()


@contextlib.contextmanager
def _hidden(registry: Path) -> Iterator[None]:
    """Take an embedded registry away during the block. Nothing begins another one there."""
    found = [Path(name) for name in file_names(str(registry)) if os.path.exists(name)]
    for path in found:
        path.rename(f"{path}.hidden")
    try:
        yield
        assert not registry.exists()
    finally:
        for path in found:
            Path(f"{path}.hidden").rename(path)


def test_shards_without_the_registry_report_by_files(lab: Lab, seir: list[str], local_store: VersionedStore) -> None:
    """It is away while they run. What they leave is delivered later: the bytes of a local run, and their attempts.

    Nothing stays in the drop.
    """
    lab.cli.ok(*seir, "--job-id", "here", "--workers", "1")
    assert lab.run("wait", "here")[0] == 0
    words = ("--engine", "slurm", "--shards", "2", "--file-drop", "--sbatch-arg=--hold")
    lab.cli.ok(*seir, "--job-id", "there", *words)
    array = lab.array_of("there")
    with _hidden(Path(lab.cli.env["MOPS_JOBS_REGISTRY"].removeprefix("sqlite://"))):
        lab.slurm.run("scontrol", "release", array)
        until(lambda: [state for state, *_ in lab.states_of(array)] == ["COMPLETED"] * 2, "the shards")
    assert results(local_store, "there") == {}
    lab.reconcile("there")  # `wait` asks an engine after ten seconds of silence
    assert lab.run("wait", "there")[0] == 0
    there = results(local_store, "there")
    assert len(there) == 20
    assert there == results(local_store, "here")
    tasks = lab.cli.ok("tasks", "there", "--jsonl").objects
    assert [task["outcome"] for task in tasks] == ["succeeded"] * 20
    job = lab.cli.ok("status", "there", "--json").json
    assert (job["status"], job["tasks_completed"], job["tasks_failed"]) == ("succeeded", 20, 0)
    assert job["cpu_seconds"] > 0
    assert not JobDir.for_job("there", lab.cli.env).drop.exists()


@pytest.mark.parametrize("way", [[], ["--file-drop"]])
def test_a_budget_ends_the_shards_on_slurm(lab: Lab, way: list[str]) -> None:
    """Each of the two workers has one task at most. With a drop, each has half of the budget, which one task uses."""
    lab.gate.touch()
    lab.submit("job", 8, "--shards", "2", "--workers", "1", "--max-cpu-hours", "1e-9", *way)
    lab.await_states("job", "COMPLETED", "FAILED")
    lab.reconcile("job")
    assert lab.run("wait", "job")[0] == EXIT_JOB_PARTIAL
    job = lab.cli.ok("status", "job", "--json").json
    assert (job["error_code"], job["max_cpu_hours"]) == ("BUDGET", 1e-9)
    ran = sum(calls(lab.calls).values())
    assert job["tasks_completed"] == ran
    assert ran == 2 if way else 1 <= ran <= 2


def test_a_requeued_shard_with_a_drop_runs_no_task_again(lab: Lab, local_store: VersionedStore) -> None:
    """What was delivered before stays in the drop until then, and progress is seen while the job runs."""
    lab.submit("job", 3, "--file-drop", "--requeue")
    lab.await_calls(2)
    until(lambda: lab.reconcile("job")["tasks_completed"] == 1, "the first report")
    assert len(results(local_store, "job")) == 1
    lab.slurm.run("scontrol", "requeue", lab.array_of("job"))
    lab.await_states("job", "PENDING")
    lab.gate.touch()
    assert lab.run("wait", "job")[0] == 0
    assert len(results(local_store, "job")) == 3
    assert calls(lab.calls)[0] == 1


def test_doctor_names_a_wrong_partition_before_a_submission(lab: Lab) -> None:
    """By a test of sbatch, which submits nothing."""
    ran = lab.cli("doctor", "--engine", "slurm", "--partition", "nowhere", "--json")
    partitions, launch = ran.json["checks"][-2:]
    assert (partitions["state"], launch["state"]) == ("ok", "fail")
    assert "invalid partition" in launch["detail"]
    name = partitions["detail"].partition(" ")[0]
    assert name in launch["fix"]
    right = lab.cli("doctor", "--engine", "slurm", "--partition", name, "--json").json["checks"][-1]
    assert (right["state"], right["detail"]) == ("ok", f"Slurm takes a job with --partition={name} (test only)")


@pytest.mark.parametrize("way", ["requeue", "preemption", "time limit"])
def test_a_task_of_a_requeued_shard_goes_on(lab: Lab, local_store: VersionedStore, tmp_path: Path, way: str) -> None:
    """Slurm sends SIGTERM to the runner and to its workers, or the signal ahead of the limit. The task saves.

    So neither a requeue by hand, nor a partition of higher priority, nor a time limit costs a step.
    """
    made, gate = tmp_path / "steps", tmp_path / "gate"
    sets = sets_of(1, steps=str(made), steps_total=50, every=100, gates={"25": str(gate)})
    code(Path.cwd(), STEPS)
    study = {"model": "model:simulate", "parameter_sets": sets, "outputs": ["result.json"]}
    Path("study.json").write_text(json.dumps(study))
    limit = ("--time", "1", "--signal", "25") if way == "time limit" else ()
    flags = ("--requeue", *limit, "--setup", f"export PYTHONPATH={ROOT}")
    lab.cli.ok("submit", "study.json", "--auto", "--engine", "slurm", "--job-id", "job", *flags)
    array = lab.array_of("job")
    until(Path(f"{gate}-reached").exists, "the gate")
    if way == "requeue":
        lab.slurm.run("scontrol", "requeue", array)
    elif way == "preemption":
        lab.slurm.run("sbatch", "--partition=urgent", "--exclusive", "--nodes=2", "--output=/dev/null", "--wrap=true")
    lab.await_restart("job")
    (log,) = JobDir.for_job("job", lab.cli.env).path.glob("slurm-*.log")
    until(lambda: "job: stopped, 0 tasks done, 0 failed" in log.read_text(), "the runner to stop")
    gate.touch()
    until(lambda: record(lab.registry, "job").is_terminal, "the job to end")
    assert record(lab.registry, "job").status == "succeeded"
    assert results(local_store) == undisturbed(sets)
    assert steps_of(made) == {0: [*range(50)]}


def test_a_child_of_shards_with_drops_goes_on_too(lab: Lab, local_store: VersionedStore, tmp_path: Path) -> None:
    """Their checkpoints are on the disk that all nodes share, where a child finds them, also on this machine."""
    made, gate = tmp_path / "steps", tmp_path / "gate"
    sets = sets_of(2, steps=str(made), steps_total=50, every=10, gates={"25": str(gate)})
    code(Path.cwd(), STEPS)
    study = {"model": "model:simulate", "parameter_sets": sets, "outputs": ["result.json"]}
    Path("study.json").write_text(json.dumps(study))
    flags = ("--file-drop", "--shards", "2", "--setup", f"export PYTHONPATH={ROOT}")
    lab.cli.ok("submit", "study.json", "--auto", "--engine", "slurm", "--job-id", "job", *flags)
    until(lambda: made.exists() and all(len(steps) == 26 for steps in steps_of(made).values()), "the gate")
    until(lambda: len(steps_of(made)) == 2 and Path(f"{gate}-reached").exists(), "both tasks")
    lab.cli.ok("cancel", "job")
    lab.await_states("job", "CANCELLED", "COMPLETED", "FAILED")
    lab.run("validate", "job")
    gate.touch()
    lab.cli.env["PYTHONPATH"] = str(ROOT)
    child = lab.cli.ok("resume", "job").out.strip()
    until(lambda: not lab.reconcile(child)["is_active"], "the child to end")
    assert results(local_store, child) == undisturbed(sets)
    assert all(steps[26] >= 20 for steps in steps_of(made).values())
