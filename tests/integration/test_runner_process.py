"""The runner as a process that is stopped, killed and started again, and what views show of it."""

from __future__ import annotations

import functools
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.engines.job_dir import JobDir
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.usage import total_usage
from mopsjobs.store import open_store
from mopsjobs.store.base import VersionedStore
from support.cli import Cli, Spawn, copied_program, environment
from support.runs import PATIENCE, callers, calls, code, is_alive, place, record, results, sets_of, study, until, work
from support.servers import Azurite


@pytest.fixture
def submitted(
    local_store: VersionedStore, local_registry: JobRegistry, tmp_path: Path
) -> Callable[[list[dict[str, Any]]], None]:
    """Submit a job over some parameter sets, without launching it."""

    def submit(sets: list[dict[str, Any]]) -> None:
        manifest = place(local_store, "job", study(sets), code(tmp_path / "code"))
        local_registry.register_job("job", tasks_total=manifest.tasks_total)

    return submit


@pytest.fixture
def start(spawn: Spawn) -> Spawn:
    """Start the runner as a process."""
    return functools.partial(spawn, "run", "job", "--workers", "2")


def _ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=PATIENCE)
    return process.returncode, err


def _in_the_middle(
    submitted: Any, start: Spawn, local_store: VersionedStore, noted: Path, gate: Path
) -> subprocess.Popen[str]:
    """Return a runner that has stored four of ten tasks, and whose two workers wait for the gate."""
    sets = sets_of(10, calls=str(noted))
    for one in sets[4:]:
        one["gate"] = str(gate)
    submitted(sets)
    runner = start()
    until(lambda: sum(calls(noted).values()) == 6, "two tasks that wait", runner)
    until(lambda: len(results(local_store)) == 4, "what is done to be stored", runner)
    return runner


def test_sigterm_keeps_what_is_done_and_a_restart_does_the_rest(
    submitted: Any, start: Spawn, local_store: VersionedStore, local_registry: JobRegistry, tmp_path: Path
) -> None:
    gate, noted = tmp_path / "gate", tmp_path / "calls"
    first = _in_the_middle(submitted, start, local_store, noted, gate)
    first.send_signal(signal.SIGTERM)
    code_, err = _ended(first)
    assert code_ == 143
    assert "Stopping (SIGTERM); finished tasks are kept." in err
    assert "4 tasks done, 0 failed; running" in err
    state = record(local_registry)
    assert (state.status, state.tasks_completed, state.tasks_failed) == ("running", 4, 0)
    assert not [pid for pid in callers(noted) if is_alive(pid)]
    gate.touch()
    assert _ended(start())[0] == 0
    made = calls(noted)
    assert made.keys() == set(range(10))
    assert {number: made[number] for number in range(4)} == dict.fromkeys(range(4), 1)
    assert record(local_registry).status == "succeeded"
    assert record(local_registry).tasks_verified == 10


def test_a_runner_outlives_its_program_files(
    cli: Cli, submitted: Any, local_store: VersionedStore, local_registry: JobRegistry, tmp_path: Path
) -> None:
    """The program is unpacked below ~/.cache: where that is cleared, workers that die are started again."""
    program, gate = tmp_path / "program", tmp_path / "gate"
    noted = tmp_path / "calls"
    submitted([{"x": 0, "calls": str(noted), "gate": str(gate), "die": str(tmp_path / "died")}, {"x": 1}])
    words = [*copied_program(program), "run", "job", "--workers", "1"]
    runner = subprocess.Popen(words, env=environment(cli), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with runner:
        until(lambda: calls(noted), "a task at work", runner)
        shutil.rmtree(program)
        gate.touch()
        code_, err = _ended(runner)
    assert (code_, err) == (0, "job: succeeded, 2 tasks done, 0 failed\n")
    assert calls(noted) == {0: 2}
    assert record(local_registry).tasks_verified == len(results(local_store)) == 2


def test_sigterm_ends_the_wait_for_a_store_that_is_gone_and_all_is_kept(
    cli: Cli, start: Spawn, private_azurite: Azurite, tmp_path: Path
) -> None:
    """It would wait for an hour; Kubernetes grants it 30 s."""
    gate, noted = tmp_path / "gate", tmp_path / "calls"
    env = {"AZURE_STORAGE_CONNECTION_STRING": private_azurite.connection_string}
    env["MOPS_JOBS_REGISTRY"] = f"{private_azurite.endpoint}/{private_azurite.new_container()}"
    with closing(open_store(env["MOPS_JOBS_REGISTRY"], env)) as store:
        manifest = place(store, "job", study(sets_of(4, calls=str(noted), gate=str(gate))), code(tmp_path / "code"))
        JobRegistry(store).register_job("job", tasks_total=manifest.tasks_total)
    running = start(**env)
    until(lambda: sum(calls(noted).values()) == 2, "both workers at work", running)
    private_azurite.stop()
    gate.touch()
    until(lambda: len(callers(noted)) == 4 and not [pid for pid in callers(noted) if is_alive(pid)], "the work to end")
    running.send_signal(signal.SIGTERM)
    _, err = running.communicate(timeout=PATIENCE)
    assert running.returncode == 143, err
    assert "Stopping (SIGTERM); finished tasks are kept." in err
    with closing(open_store(f"sqlite://{JobDir.for_job('job', cli.env).path}/outbox.db", {})) as kept:
        assert len(results(kept)) == 4


def test_a_cancelled_job_is_left_within_seconds(
    submitted: Any, start: Spawn, local_registry: JobRegistry, tmp_path: Path
) -> None:
    noted = tmp_path / "calls"
    submitted(sets_of(6, calls=str(noted), gate=str(tmp_path / "never")))
    running = start()
    until(lambda: sum(calls(noted).values()) == 2, "both workers at work", running)
    local_registry.cancel_job("job")
    code_, err = _ended(running)
    assert code_ == 0
    assert err.rstrip().endswith("job: stopped, 0 tasks done, 0 failed; cancelled")
    assert sum(calls(noted).values()) == 2
    assert not [pid for pid in callers(noted) if is_alive(pid)]


def test_shards_as_processes_end_the_job_once(
    submitted: Any, start: Spawn, local_registry: JobRegistry, tmp_path: Path
) -> None:
    """As Kubernetes starts them, all at once."""
    noted = tmp_path / "calls"
    submitted(sets_of(12, calls=str(noted)))
    started = [
        start("--shards", "3", JOB_COMPLETION_INDEX=str(index), XDG_STATE_HOME=str(tmp_path / f"pod-{index}"))
        for index in range(3)
    ]
    assert [_ended(one)[0] for one in started] == [0, 0, 0]
    assert calls(noted) == dict.fromkeys(range(12), 1)
    state = record(local_registry)
    assert (state.status, state.tasks_completed, state.tasks_verified) == ("succeeded", 12, 12)
    assert [step["status"] for step in state.transitions].count("succeeded") == 1


@pytest.mark.parametrize(
    ("argv", "env"),
    [
        (["--shard", "2/2"], {}),
        (["--shards", "3"], {"JOB_COMPLETION_INDEX": "3"}),
    ],
)
def test_what_is_no_shard_is_refused(cli: Cli, argv: list[str], env: dict[str, str]) -> None:
    ran = cli.ends(2, "run", "job", *argv, **env)
    assert len([line for line in ran.err.splitlines() if line.startswith("error: ")]) == 1
    assert not os.path.exists(cli.env["MOPS_JOBS_REGISTRY"].removeprefix("sqlite://"))


def test_a_node_without_the_registry_of_its_job_makes_none(cli: Cli) -> None:
    """It would wait for the manifest in an empty registry of its own."""
    assert "has no registry" in cli.ends(2, "run", "job", "--shards", "1", JOB_COMPLETION_INDEX="0").err
    assert not os.path.exists(cli.env["MOPS_JOBS_REGISTRY"].removeprefix("sqlite://"))


def test_the_first_process_of_a_container_ends_on_sigterm() -> None:
    """Also before it works: for process 1, the kernel drops signals without a handler, and a pod waited 60 s."""
    code = "import mops_jobs, os, signal; print(os.getpid()); os.kill(1, signal.SIGTERM)"
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "--pid", "--fork", "true"], check=False).returncode:
        pytest.skip("this machine makes no PID namespaces")
    words = [unshare, "--pid", "--fork", sys.executable, "-u", "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, "1\n")


SHARDS = 4


def test_a_limit_ends_four_shards_within_their_workers(
    cli: Cli, azurite: Azurite, spawn: Spawn, model: Path, tmp_path: Path
) -> None:
    """The job is partial, each view says why, and no pod is tried again."""
    noted, mended = tmp_path / "calls", tmp_path / "mended"
    url = azurite.url(azurite.new_container())
    env = {"AZURE_STORAGE_CONNECTION_STRING": azurite.connection_string, "MOPS_JOBS_REGISTRY": url}
    with closing(open_store(url, env)) as store:
        jobs = JobRegistry(store)
        sets = [*sets_of(8), *sets_of(200, calls=str(noted), needs=str(mended))[8:]]
        jobs.register_job("job", **place(store, "job", study(sets), model).record_fields())
        words = ("run", "job", "--shards", str(SHARDS), "--workers", "1", "--max-failures", "10")
        pods = [
            spawn(*words, JOB_COMPLETION_INDEX=str(index), XDG_STATE_HOME=str(tmp_path / f"pod-{index}"), **env)
            for index in range(SHARDS)
        ]
        for pod in pods:
            pod.communicate(timeout=PATIENCE)
        assert [pod.returncode for pod in pods] == [6] * SHARDS
        state = record(jobs)
    assert (state.status, state.error_code) == ("partial", "FAILURES")
    assert 11 <= state.tasks_failed <= 10 + SHARDS
    assert sum(calls(noted).values()) <= 10 + SHARDS
    reason = "Ended by --max-failures 10: "
    assert cli("status", "job", "--json", **env).json["error_message"].startswith(reason)
    assert cli("list", "--json", **env).json["jobs"][0]["error_message"].startswith(reason)
    assert f"FAILURES: {reason}" in cli("status", "job", **env).out
    assert reason in cli("events", "job", **env).out


BURNING = """
import os, time
def simulate(params, seed):
    file = os.open(params["calls"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, b"%d %d\\n" % (params["x"], os.getpid()))
    while "gate" in params and not os.path.exists(params["gate"]):
        time.sleep(0.005)
    began = time.process_time()
    while time.process_time() < began + 0.11:
        pass
    return {"x": params["x"]}
"""
"""Each task uses 0.11 s of processor time."""


@pytest.mark.parametrize("backend_of_job", ["embedded", "azurite"])
def test_a_budget_ends_racing_shards_though_one_is_killed(
    cli: Cli, spawn: Spawn, tmp_path: Path, backend_of_job: str, request: pytest.FixtureRequest
) -> None:
    """At most the tasks at work come too many: one per worker, and the killed one, of which nothing is known.

    The job ends when the restart of the killed shard has seen the budget.
    """
    noted, env, budget = tmp_path / "calls", {}, 2.0
    if backend_of_job == "azurite":
        azurite = request.getfixturevalue("azurite")
        env["AZURE_STORAGE_CONNECTION_STRING"] = azurite.connection_string
        env["MOPS_JOBS_REGISTRY"] = azurite.url(azurite.new_container())
    with closing(open_store(env.get("MOPS_JOBS_REGISTRY", cli.env["MOPS_JOBS_REGISTRY"]), env)) as store:
        jobs = JobRegistry(store)
        sets = sets_of(80, calls=str(noted))
        sets[7]["gate"] = str(tmp_path / "gate")
        manifest = place(store, "job", study(sets), code(tmp_path / "code", BURNING))
        jobs.register_job("job", **manifest.record_fields())
        words = ("run", "job", "--shards", str(SHARDS), "--workers", "1", "--max-cpu-hours", str(budget / 3600))
        start = [
            functools.partial(
                spawn, *words, JOB_COMPLETION_INDEX=str(index), XDG_STATE_HOME=str(tmp_path / f"pod-{index}"), **env
            )
            for index in range(SHARDS)
        ]
        killed = start[3]()
        until(lambda: calls(noted)[7], "the second task of the shard that is killed", killed)
        pods = [start[index]() for index in range(3)]
        killed.kill()
        killed.communicate(timeout=PATIENCE)
        assert [_ended(pod)[0] for pod in pods] == [0] * 3
        assert record(jobs).status == "running"
        (tmp_path / "gate").touch()
        _ended(start[3]())
        state = record(jobs)
    assert (state.status, state.error_code, state.tasks_verified) == ("partial", "BUDGET", state.tasks_completed)
    ran = sum(calls(noted).values())
    used = total_usage(state).cpu_seconds or 0.0
    too_many = state.tasks_completed - math.ceil(budget / (used / state.tasks_completed))
    print(f"{backend_of_job}: budget {budget} s, used {used:.2f} s by {ran} tasks, {too_many} too many, 1 killed")
    assert used >= budget
    assert too_many <= SHARDS - 1
    assert ran <= math.ceil(budget / 0.11) + SHARDS - 1 + 1


def test_tasks_shows_what_a_runner_measured(cli: Cli, jobs: JobRegistry, model: Path, tmp_path: Path) -> None:
    """Each attempt is there, of tasks that succeeded and of those that failed, and status names the reason at once."""
    sets = [*sets_of(3), {"x": 3, "fail": True}, {"x": 4, "always_die": True}]
    manifest = place(jobs.store, "job", study(sets), model)
    jobs.register_job("job", **manifest.record_fields())
    work(jobs.store, jobs, tmp_path / "work")
    (line,) = [line for line in cli.ok("status", "job").lines if line.startswith("Failed ")]
    assert line.startswith("Failed     2: 1 died, 1 ValueError in model.py:")
    tasks = cli.ok("tasks", "job", "--jsonl").objects
    assert [task["outcome"] for task in tasks] == ["succeeded", "succeeded", "succeeded", "failed", "died"]
    assert [task["params"]["x"] for task in tasks] == [0, 1, 2, 3, 4]
    assert all(task["attempt"] >= 1 and task["host"] for task in tasks)
    assert all(task["seconds"] >= 0 and task["max_rss_bytes"] > 0 for task in tasks[:4])
    assert all(task["output_bytes"] > 0 and task["error_key"] is None for task in tasks[:3])
    assert (tasks[3]["error_type"], tasks[3]["error_message"]) == ("ValueError", "as asked")
    assert cli.ok("tasks", "job", "-q", "--status", "failed,died").lines == ["3", "4"]
