"""The dask engine, on a real scheduler with real workers, which cannot import mops-jobs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from mopsjobs.bundles.packing import pack
from mopsjobs.engines import dask as dask_engine
from mopsjobs.engines.base import Launch
from mopsjobs.engines.dask import DaskEngine, connect
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.model_env import SECRET_VARIABLES
from mopsjobs.engines.model_errors import ModelError
from mopsjobs.errors import IF_PIP_REFUSES, EngineError, UsageError
from mopsjobs.ledger.attempt import Attempt, Outcome
from mopsjobs.ledger.environment import Environment, environments_prefix, parse_environment
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.runner.checkpoints import Checkpoints, Origin
from mopsjobs.runner.pools import dask, dask_task
from mopsjobs.runner.pools.base import TaskResult
from mopsjobs.runner.pools.dask import FUTURES_PER_THREAD, DaskProcess
from mopsjobs.runner.shard import ShardResult, TaskProgress
from mopsjobs.store.base import VersionedStore
from mopsjobs.studies.study import FIELDS
from support.checkpoints import IN_VAIN, STEPS, steps_of, undisturbed
from support.cli import Cli, Spawn, sentences
from support.dask import Cluster
from support.docs import ROOT
from support.ledgers import attempts_in
from support.runs import (
    HOG,
    MIB,
    PATIENCE,
    Bench,
    all_of,
    callers,
    calls,
    code,
    ends,
    is_alive,
    limits_of,
    place,
    record,
    results,
    sets_of,
    study,
    tree,
    until,
    work,
)

# A runner outlives the one who launched it: that is what it is for.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
FINDS_MOPS_JOBS = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
NO_SCHEDULER = "tcp://127.0.0.1:1"
NO_HELP = {
    "DASK_DISTRIBUTED__SCHEDULER__WORK_STEALING": "False",
    "DASK_DISTRIBUTED__SCHEDULER__ACTIVE_MEMORY_MANAGER__INTERVAL": "20ms",
}
"""A scheduler that moves no task to an idle worker, and drops copies soon that no task waits for."""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def dask_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Yield a scheduler and two workers for all tests that leave them alive."""
    with closing(Cluster(tmp_path_factory.mktemp("dask"), 2)) as made:
        with _client(made) as client:
            made.wait(client, 2)
        yield made


@pytest.fixture
def private_dask_cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Make a cluster of the test's own, with this many workers, for it to kill."""
    with ExitStack() as stack:
        (tmp_path / "dask").mkdir()
        yield lambda workers, **env: stack.enter_context(closing(Cluster(tmp_path / "dask", workers, **env)))


@contextlib.contextmanager
def _client(cluster: Cluster) -> Iterator[Client]:
    with Client(cluster.url, timeout=PATIENCE, set_as_default=False) as client:
        yield client


def _is_empty(cluster: Cluster) -> bool:
    """Return True if nothing waits on the cluster, and nothing is kept there."""
    with _client(cluster) as client:
        kept = [*client.has_what().values(), *client.processing().values()]
    return not any(kept)


@pytest.fixture
def start(spawn: Spawn, local_store: VersionedStore, local_registry: JobRegistry, tmp_path: Path) -> Start:
    """Start a runner as a process, on a job over parameter sets that is submitted if it is not there yet."""

    def started(cluster: Cluster, sets: list[dict[str, Any]], *argv: str) -> subprocess.Popen[str]:
        if local_registry.get_job("job") is None:
            manifest = place(local_store, "job", study(sets), code(tmp_path / "code"))
            local_registry.register_job("job", tasks_total=manifest.tasks_total)
        return spawn("run", "job", "--scheduler", cluster.url, *argv)

    return started


def _ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=PATIENCE)
    return process.returncode, err


def _end(local_registry: JobRegistry, job_id: str) -> str:
    state = until(lambda: (found := record(local_registry, job_id)).is_terminal and found, f"the end of {job_id}")
    return str(state.status)


def _checkpoints(directory: Path) -> Checkpoints:
    return Checkpoints([Origin("job", "", directory / "checkpoints", None)], None, lambda: None)


def _pool(cluster: Cluster, directory: Path, entrypoint: str = "model:simulate/baseline", **more: Any) -> DaskProcess:
    """Return a pool. `more` may have fields of the study, and what `limits_of` takes."""
    setup = {"entrypoint": entrypoint, **{name: more.pop(name) for name in FIELDS if name in more}}
    with pack(directory) as packed:
        packed.archive.seek(0)
        archive = packed.archive.read()
        return DaskProcess(
            cluster.url, archive, setup, os.environ, _checkpoints(directory), limits=limits_of(more), **more
        )


# --- the same as the local engine ---------------------------------------------------------------------------------


def test_the_same_study_gives_the_same_bytes_on_dask_and_here(
    cli: Cli, dask_cluster: Cluster, local_store: VersionedStore, local_registry: JobRegistry, seir: list[str]
) -> None:
    """Also of its reduce function, which runs beside the runner."""
    Path("study.json").write_text(json.dumps(json.loads(Path("study.json").read_text()) | {"reduce": "sizes:total"}))
    Path("sizes.py").write_text("def total(params, tasks): return [len(task.outputs) for task in tasks]\n")
    cli.ok(*seir, "--job-id", "there", "--engine", "dask", "--scheduler", dask_cluster.url)
    cli.ok(*seir, "--job-id", "here", "--workers", "2")
    assert [_end(local_registry, job) for job in ("there", "here")] == ["succeeded", "succeeded"]
    there = results(local_store, "there")
    assert len([name for name in there if "/reduced-" not in name]) == 20
    assert there["all/reduced-20/result.json"] == json.dumps([1] * 20).encode()
    assert there == results(local_store, "here")
    state = record(local_registry, "there")
    assert (state.engine, state.metadata["dask_scheduler"], state.tasks_verified) == ("dask", dask_cluster.url, 20)
    tasks = cli.ok("tasks", "there", "--jsonl").objects
    assert [task["outcome"] for task in tasks] == ["succeeded"] * 20
    assert all(task["cpu_seconds"] >= 0 and task["max_rss_bytes"] > 0 and task["host"] for task in tasks)
    assert state.usage["0"][0] > 0  # type: ignore[index]
    until(lambda: _is_empty(dask_cluster), "the cluster to be empty")
    (note,), (noted_here,) = (_notes(local_store, job) for job in ("there", "here"))
    assert note == noted_here
    assert "distributed" in note.packages


def test_numbers_that_are_not_finite_are_results_or_errors_on_dask_too(dask_cluster: Cluster, tmp_path: Path) -> None:
    directory = code(tmp_path / "code", "def simulate(params, seed): return {'loss': float('nan')}\n")
    (kept,) = all_of(_pool(dask_cluster, directory), sets_of(1))
    assert kept.outputs == {"result.json": b'{"$not_finite": {"/loss": "nan"}, "loss": null}'}
    (refused,) = all_of(_pool(dask_cluster, directory, allow_nan=False), sets_of(1))
    assert refused.error is not None
    assert refused.error["message"] == "key 'loss' is nan, and the study says allow_nan: false"


def _notes(store: VersionedStore, job_id: str) -> list[Environment]:
    """Return what the runners of a job have noted of its environment."""
    return [parse_environment(entry.value or b"") for entry in store.scan(environments_prefix(job_id))]


def test_the_workers_have_no_mops_jobs(dask_cluster: Cluster) -> None:
    with _client(dask_cluster) as client:
        found = client.run(eval, "__import__('importlib.util').util.find_spec('mopsjobs')")
    assert list(found.values()) == [None, None]


def test_each_task_comes_to_its_own_end(dask_cluster: Cluster, tmp_path: Path) -> None:
    """One raises, one dies once, one always, one prints, one leaves much: each as it would here."""
    said: list[tuple[int | None, str]] = []
    sets = sets_of(5)
    sets[0]["fail"] = True
    sets[1]["die"] = str(tmp_path / "died")
    sets[2]["always_die"] = True
    sets[3]["say"] = "one\ntwo"
    sets[4]["x"] = "long" * 200_000
    pool = _pool(dask_cluster, code(tmp_path / "code"), timeout=PATIENCE, on_log=lambda *line: said.append(line))
    finished = all_of(pool, sets)
    errors = [None if one.error is None else (one.error["type"], one.error["message"]) for one in finished]
    assert errors == [("ValueError", "as asked"), None, ("WorkerDied", "its worker died (SIGKILL)"), None, None]
    assert finished[0].error is not None
    assert "model.py" in finished[0].error["traceback"]
    assert finished[0].error["at"].startswith("model.py:")
    assert [str(one.outcome) for one in finished] == ["failed", "succeeded", "died", "succeeded", "succeeded"]
    assert [one.attempt for one in finished] == [1, 2, 2, 1, 1]
    for one in finished:
        assert one.started_at is not None
        assert None not in (one.usage.seconds, one.usage.user_seconds, one.usage.host, one.usage.python)
    assert said == [(3, "one"), (3, "two")]
    assert [json.loads(finished[number].outputs["result.json"])["x"] for number in (1, 3, 4)] == [  # type: ignore[index]
        1,
        3,
        sets[4]["x"],
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which files are opened")
def test_workers_tell_which_files_tasks_read_and_write(dask_cluster: Cluster, tmp_path: Path) -> None:
    """With the result of a task comes what its worker has seen, and each task has a directory of its own."""
    source = (
        "import os\n"
        "def simulate(params, seed):\n"
        "    open('trace.csv', 'w').close()\n"
        "    return [open('data.csv').read(), os.getcwd() == os.environ['MOPS_JOBS_TASK_DIR']]\n"
    )
    tree(code(tmp_path / "code", source), {"data.csv": "1", "README.md": ""})
    pool = _pool(dask_cluster, tmp_path / "code")
    assert [one.outputs for one in all_of(pool, sets_of(3))] == [{"result.json": b'["1", false]'}] * 3
    assert (pool.files.opened(), pool.files.written()) == ({"data.csv", "model.py"}, "trace.csv")
    code(tmp_path / "code", source.replace("open('data.csv').read()", "1"))
    (one,) = all_of(_pool(dask_cluster, tmp_path / "code", scratch=True), sets_of(1))
    assert one.outputs == {"result.json": b"[1, true]"}


def test_a_late_task_ends_and_its_worker_goes_on(dask_cluster: Cluster, tmp_path: Path) -> None:
    """All are late, more than there are workers: a busy machine makes any task late that is not meant to be."""
    finished = all_of(
        _pool(dask_cluster, code(tmp_path / "code"), timeout=1.0), sets_of(3, gate=str(tmp_path / "never"))
    )
    for one in finished:
        assert one.error == {"type": "Timeout", "message": "it took longer than 1 s"}
        assert (str(one.outcome), one.attempt) == ("timeout", 1)
        assert one.started_at is not None
        assert None not in (one.usage.seconds, one.usage.user_seconds, one.usage.max_rss_bytes, one.usage.host)


def test_a_hog_ends_as_oom_and_has_more_memory_at_its_second_attempt(dask_cluster: Cluster, tmp_path: Path) -> None:
    """Its neighbours run once. Processes that a task starts count for it, and end with it."""
    noted = tmp_path / "calls"
    sets = sets_of(6, calls=str(noted))
    sets[0] |= {"bytes": 300 * MIB, "gate": str(tmp_path / "gate")}
    sets[1] |= {"child": 500 * MIB}
    pool = _pool(dask_cluster, code(tmp_path / "hog", HOG), memory=200 * MIB, retries=1, retry_on="oom")
    results: list[TaskResult] = []
    for one in ends(pool, sets):
        results.append(one)
        if (one.position, one.attempt) == (0, 1):
            (tmp_path / "gate").touch()
    shown = sorted((one.position, one.attempt, str(one.outcome), one.is_final) for one in results)
    assert shown == [
        (0, 1, "oom", False),
        (0, 2, "succeeded", True),
        (1, 1, "oom", False),
        (1, 2, "oom", True),
        *((number, 1, "succeeded", True) for number in range(2, 6)),
    ]
    messages = {(one.position, one.attempt): (one.error or {}).get("message") for one in results}
    assert messages[0, 1] == "it used more memory than its limit of 200MiB"
    assert messages[1, 2] == "it used more memory than its limit of 400MiB"
    assert all((one.usage.max_rss_bytes or 0) > 200 * MIB for one in results if one.error is not None)
    assert {number: count for number, count in calls(noted).items() if number > 1} == dict.fromkeys(range(2, 6), 1)


def test_a_kill_by_a_nanny_for_memory_is_named_so(private_dask_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    """The Dask worker itself exceeds its limit, since it holds the outputs of the task."""
    cluster = private_dask_cluster(0, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0")
    cluster.add_worker("--nanny", "--memory-limit", "350MiB")
    source = "def simulate(params, seed):\n    return {f'{number}.bin': bytes(2**20) for number in range(400)}\n"
    (one,) = all_of(_pool(cluster, code(tmp_path / "code", source)), sets_of(1))
    assert one.error == {
        "type": "OutOfMemory",
        "message": "Dask ended the workers that had it for their memory, as often as the scheduler allows",
    }
    assert str(one.outcome) == "oom"


@pytest.mark.parametrize("tasks", [2, 4, 12])
def test_the_first_tasks_come_to_all_workers_without_stealing(
    private_dask_cluster: Callable[..., Cluster], start: Start, tmp_path: Path, tasks: int
) -> None:
    """A scheduler that was left by a dead client may take a worker with two tasks for idle. None steals from it."""
    cluster = private_dask_cluster(2, **NO_HELP)
    with _client(cluster) as client:
        cluster.wait(client, 2)
    noted = tmp_path / "calls"
    running = start(cluster, sets_of(tasks, calls=str(noted), gate=str(tmp_path / "gate")))
    until(lambda: sum(calls(noted).values()) == 2, "both workers at work", running)
    (tmp_path / "gate").touch()
    assert _ended(running)[0] == 0


def test_a_hung_worker_takes_nothing_from_the_other_one(
    private_dask_cluster: Callable[..., Cluster], start: Start, tmp_path: Path
) -> None:
    """The other one has a task at work and one that waits. Once the hung worker goes on, it has tasks too."""
    cluster = private_dask_cluster(2, **NO_HELP)
    noted = tmp_path / "calls"
    with _client(cluster) as client:
        cluster.wait(client, 2)
        (other, _), (_, hung) = sorted(client.run(os.getpid).items())  # of two idle ones, the first gets the code
        os.kill(hung, signal.SIGSTOP)
        running = start(cluster, sets_of(8, calls=str(noted), gate=str(tmp_path / "gate")))
        until(lambda: sum(calls(noted).values()) == 1, "the first task at work", running)
        until(lambda: len(client.processing()[other]) == FUTURES_PER_THREAD, "the task that waits", running)
    os.kill(hung, signal.SIGCONT)
    until(lambda: sum(calls(noted).values()) == 2, "both workers at work", running)
    (tmp_path / "gate").touch()
    assert _ended(running)[0] == 0


def test_code_that_takes_all_workers_along_fails_its_tasks(
    private_dask_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    """As a bundle does that is too large for their memory. The run does not wait for another worker."""
    preload = tmp_path / "preload.py"
    preload.write_text(
        "import os\ndef dask_setup(worker):\n    real = worker.execute\n"
        "    worker.execute = lambda key, **names: os._exit(1) if 'code' in key else real(key, **names)\n"
    )
    more = {"DASK_DISTRIBUTED__WORKER__PRELOAD": json.dumps([str(preload)])}
    cluster = private_dask_cluster(1, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0", **more)
    finished = all_of(_pool(cluster, code(tmp_path / "code")), sets_of(3))
    assert [str(one.outcome) for one in finished] == ["died"] * 3


def test_a_model_that_cannot_be_loaded_fails_the_job(dask_cluster: Cluster, tmp_path: Path) -> None:
    pool = _pool(dask_cluster, code(tmp_path / "code"), "nothing:here/baseline")
    with pytest.raises(ModelError, match="cannot be loaded: ModuleNotFoundError"):
        all_of(pool, sets_of(3))
    pool = _pool(dask_cluster, code(tmp_path / "code"), python="/no/python")
    with pytest.raises(ModelError, match="cannot be loaded: FileNotFoundError"):
        all_of(pool, sets_of(3))


# --- what dies ------------------------------------------------------------------------------------------------------


def test_a_dask_worker_killed_costs_its_tasks_a_retry(
    private_dask_cluster: Callable[..., Cluster], start: Start, local_registry: JobRegistry, tmp_path: Path
) -> None:
    """Also: workers may come when the job has begun."""
    gate, noted = tmp_path / "gate", tmp_path / "calls"
    cluster = private_dask_cluster(0)
    running = start(cluster, sets_of(8, calls=str(noted), gate=str(gate)))
    cluster.add_worker()
    until(lambda: sum(calls(noted).values()) == 1, "the first worker at work", running)
    cluster.add_worker()
    until(lambda: sum(calls(noted).values()) == 2, "the second worker at work", running)
    cluster.kill(1)
    gate.touch()
    assert _ended(running)[0] == 0
    state = record(local_registry)
    assert (state.status, state.tasks_completed, state.tasks_failed) == ("succeeded", 8, 0)
    assert sum(calls(noted).values()) <= 10


def test_a_task_that_takes_its_dask_workers_along_fails_and_not_the_job(
    private_dask_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    """As often as the scheduler allows, here not once."""
    source = "import os\ndef simulate(params, seed):\n    if params['x'] == 1:\n        os.kill(os.getppid(), 9)\n"
    source += "    return params['x']\n"
    cluster = private_dask_cluster(2, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0")
    directory = code(tmp_path / "code", source)
    (failed,) = all_of(_pool(cluster, directory), [{"x": 1}])
    assert failed.error is not None
    assert failed.error["type"] == "WorkerDied"
    assert "Dask workers that had it died" in failed.error["message"]
    (done,) = all_of(_pool(cluster, directory), [{"x": 0}])
    assert done.outputs == {"result.json": b"0"}


def test_a_scheduler_that_goes_away_ends_the_run_and_another_goes_on(
    private_dask_cluster: Callable[..., Cluster],
    dask_cluster: Cluster,
    start: Start,
    local_store: VersionedStore,
    local_registry: JobRegistry,
    tmp_path: Path,
) -> None:
    gate, noted = tmp_path / "gate", tmp_path / "calls"
    sets = sets_of(8, calls=str(noted))
    for one in sets[4:]:
        one["gate"] = str(gate)
    lost = private_dask_cluster(1)
    running = start(lost, sets)
    until(lambda: len(results(local_store)) == 4, "what is done to be stored", running)
    lost.kill(0)
    code_, err = _ended(running)
    assert code_ == 143
    assert f"The Dask scheduler {lost.url} is gone, or has dropped the tasks of this run." in err
    assert "4 tasks done, 0 failed; running" in err
    gate.touch()
    assert _ended(start(dask_cluster, sets))[0] == 0
    assert {number: calls(noted)[number] for number in range(4)} == dict.fromkeys(range(4), 1)
    assert (record(local_registry).status, record(local_registry).tasks_verified) == ("succeeded", 8)


@pytest.mark.usefixtures("hour_each")
def test_a_budget_ends_a_job_on_dask_with_what_is_on_the_cluster(bench: Bench, dask_cluster: Cluster) -> None:
    """Its two threads have two tasks each, and all of these count."""
    noted = bench.path / "calls"
    code(bench.model)
    bench.given(sets_of(60, calls=str(noted)))
    ran, _ = bench.work(scheduler=dask_cluster.url, max_cpu_hours=10.0, first=0)
    assert (ran.status, bench.record().error_code) == ("partial", "BUDGET")
    assert 10 <= sum(calls(noted).values()) == ran.completed <= 10 + 2 * FUTURES_PER_THREAD - 1


@pytest.mark.usefixtures("quick_runner")
def test_a_scheduler_that_says_nothing_holds_nobody_up(
    private_dask_cluster: Callable[..., Cluster],
    local_store: VersionedStore,
    local_registry: JobRegistry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The process of its client is given a time to end, which is shortened here, and then killed."""
    monkeypatch.setattr(dask_engine, "GRACE_SECONDS", 0.5)
    noted = tmp_path / "calls"
    cluster = private_dask_cluster(1)
    sets = sets_of(4, calls=str(noted), gate=str(tmp_path / "never"))
    place(local_store, "job", study(sets), code(tmp_path / "code"))
    local_registry.register_job("job", tasks_total=len(sets))
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(work, local_store, local_registry, tmp_path / "job", scheduler=cluster.url)
        until(lambda: sum(calls(noted).values()) == 1, "the worker at work", running)
        cluster.halt_scheduler()
        local_registry.cancel_job("job")
        ran, _ = running.result(PATIENCE)
    assert (ran.status, ran.is_done) == ("cancelled", False)


@pytest.mark.parametrize("how", ["cancelled", "SIGTERM", "SIGKILL"])
def test_a_job_that_is_stopped_leaves_nothing_on_the_cluster(
    dask_cluster: Cluster, start: Start, local_registry: JobRegistry, tmp_path: Path, how: str
) -> None:
    noted = tmp_path / "calls"
    kept = "dask-scratch-space/*/mops-jobs-*"
    others = set(dask_cluster.directory.glob(kept))  # of runners that were killed in other tests: for a minute
    running = start(dask_cluster, sets_of(12, calls=str(noted), gate=str(tmp_path / "never")))
    until(lambda: sum(calls(noted).values()) == 2, "both workers at work", running)
    assert set(dask_cluster.directory.glob(kept)) - others
    if how == "cancelled":
        local_registry.cancel_job("job")
    else:
        running.send_signal(signal.Signals[how])
    code_, err = _ended(running)
    assert code_ == {"cancelled": 0, "SIGTERM": 143, "SIGKILL": -signal.SIGKILL}[how], err
    until(lambda: not [pid for pid in callers(noted) if is_alive(pid)], "the model's processes to end")
    until(lambda: _is_empty(dask_cluster), "the cluster to be empty")
    until(lambda: not set(dask_cluster.directory.glob(kept)) - others, "the code to be taken away")
    assert sum(calls(noted).values()) == 2


def test_a_runner_that_is_lost_with_its_machine_leaves_no_task_at_work(
    dask_cluster: Cluster, start: Start, tmp_path: Path
) -> None:
    """Nothing tells its attempts to stop. They see that the scheduler has released them: others need their threads."""
    noted = tmp_path / "calls"
    running = start(dask_cluster, sets_of(2, calls=str(noted), gate=str(tmp_path / "never")))
    until(lambda: sum(calls(noted).values()) == 2, "both workers at work", running)
    for pid in (*_children(running.pid), running.pid):
        os.kill(pid, signal.SIGKILL)
    _ended(running)
    until(lambda: not [pid for pid in callers(noted) if is_alive(pid)], "the model's processes to end")


def test_a_task_that_comes_after_its_job_was_stopped_begins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was on its way when the runner left: no runner would end it. A bounded number of jobs is remembered."""
    monkeypatch.setattr(dask_task, "MAX_STOPPED", 2)
    for job_id in ("a", "b", "c"):
        dask_task.stop(job_id)
    assert dask_task.run({}, "c", {}, None, {}) == {"stopped": True, "lines": []}
    assert not dask_task._jobs
    assert list(dask_task._stopped) == ["b", "c"]


# --- what a scheduler may say -----------------------------------------------------------------------------------------

HELD = {name: f"held-{name}" for name in sorted(SECRET_VARIABLES)}


def _children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.claim("A Dask client does not see it either")
def test_the_client_of_a_runner_has_none_of_its_secrets(
    dask_cluster: Cluster, start: Start, cli: Cli, local_registry: JobRegistry, tmp_path: Path
) -> None:
    """It unpickles what the scheduler says, which may be any code. Not those either that models may have."""
    cli.env |= {**HELD, "MOPS_JOBS_MODEL_ENV": ",".join(HELD)}
    noted = tmp_path / "calls"
    running = start(dask_cluster, sets_of(2, calls=str(noted), gate=str(tmp_path / "gate")))
    until(lambda: sum(calls(noted).values()) == 2, "both workers at work", running)
    (child,) = _children(running.pid)
    held = Path(f"/proc/{running.pid}/environ").read_bytes()
    assert all(f"{name}=held-{name}".encode() in held for name in HELD)
    assert b"held-" not in Path(f"/proc/{child}/environ").read_bytes()
    (tmp_path / "gate").touch()
    assert _ended(running)[0] == 0
    assert record(local_registry).status == "succeeded"


@pytest.mark.claim("A Dask client does not see it either")
def test_code_that_a_cluster_sends_finds_no_secret(
    private_dask_cluster: Callable[..., Cluster], start: Start, cli: Cli, tmp_path: Path
) -> None:
    """A worker answers with a pickle that runs code where it is read. Nothing reads it in the runner."""
    found = tmp_path / "found"
    harm = f"import os; open({str(found)!r}, 'a').write(f'{{os.getpid()}} {{dict(os.environ)}}')"
    preload = tmp_path / "preload.py"
    preload.write_text(
        f"import builtins\nclass Harm:\n    def __reduce__(self):\n        return exec, ({harm!r},)\n"
        "builtins.real = real = getattr(builtins, 'real', eval)\n"  # it is imported twice
        "builtins.eval = lambda *a: Harm() if len(a) > 1 and 'job_id' in a[1] else real(*a)\n"
    )
    cluster = private_dask_cluster(1, DASK_DISTRIBUTED__WORKER__PRELOAD=json.dumps([str(preload)]))
    cli.env |= HELD
    running = start(cluster, sets_of(1))
    _, err = _ended(running)
    assert "The process that talks to Dask has ended" in err
    text = found.read_text()
    assert "held-" not in text
    assert not text.startswith(f"{running.pid} ")


@pytest.mark.claim("A Dask client does not see it either")
def test_a_client_refuses_a_process_that_holds_secrets(
    cli: Cli, dask_cluster: Cluster, local_registry: JobRegistry, seir: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a submission with secrets, which asks the scheduler before it launches, shows that it asks from another."""
    for name, value in HELD.items():
        monkeypatch.setenv(name, value)
        cli.env[name] = value
    with pytest.raises(EngineError, match="may not run in a process that holds secrets"):
        connect(dask_cluster.url, PATIENCE)
    cli.ok(*seir, "--job-id", "job", "--engine", "dask", "--scheduler", dask_cluster.url)
    assert _end(local_registry, "job") == "succeeded"


NEXT = '{"next": true}'
MESSAGES = [
    ("[7]", "unexpected response"),
    ("[" * 100_000, "unexpected response"),
    ("{}", "sent an invalid message about a task"),
    ('{"finished": [0, {}, null]}', "sent an invalid message about a task"),
    *(
        (json.dumps({"finished": [*finished, True]}), "sent an invalid message about a task")
        for finished in (
            [7, {}, None, "succeeded", 1, None, [None] * 6],
            [0, {"result.json": "?"}, None, "succeeded", 1, None, [None] * 6],
            [0, {}, None, "unheard of", 1, None, [None] * 6],
            [0, {}, None, "succeeded", "one", None, [None] * 6],
            [0, {}, None, "succeeded", 1, "now", [None] * 6],
            [0, {}, None, "succeeded", 1, None, [-1.0, None, None, None, None, None]],
        )
    ),
    ('{"log": [7, "line"]}', "sent an invalid message about a task"),
    ('{"model": 7}', "sent an invalid message about a task"),
    ('{"failed": {"message": "no", "hint": 7}}', "^no\nhint: 7$"),
    (None, r"has ended \(exit code 3\)"),
]


@pytest.mark.claim("A Dask client does not see it either")
@pytest.mark.parametrize(("message", "told"), MESSAGES)
def test_what_the_client_says_is_read_strictly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str | None, told: str
) -> None:
    """A scheduler may make it say anything. The runner then ends with one sentence, and has run none of it."""
    said = [NEXT, *([] if message is None else [message])]
    text = "import os, sys\nfrom multiprocessing.connection import Connection\ndef main():\n"
    text += (
        f"    pipe = Connection(int(sys.argv[3]))\n    for line in {said!r}:\n        pipe.send_bytes(line.encode())\n"
    )
    text += f"    for _ in {said!r}:\n        pipe.recv_bytes()\n    os._exit(3)\n"
    (tmp_path / "astray.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(dask, "CHILD", "astray")
    pool = DaskProcess(NO_SCHEDULER, b"", {"entrypoint": "model:simulate/baseline"}, os.environ, _checkpoints(tmp_path))
    with pytest.raises(EngineError, match=told):
        all_of(pool, sets_of(1))


def test_what_is_missing_is_resumed_on_the_same_scheduler(
    cli: Cli,
    dask_cluster: Cluster,
    local_store: VersionedStore,
    local_registry: JobRegistry,
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    needed = tmp_path / "needed"
    here = code(tmp_path / "code")
    sets = [{"x": 1}, {"x": 2, "needs": str(needed)}]
    (here / "study.json").write_text(json.dumps(study(sets).to_dict()))
    monkeypatch.chdir(here)
    words = ["submit", "study.json", "--auto", "--job-id", "job", "--engine", "dask"]
    cli.ok(*words, DASK_SCHEDULER_ADDRESS=dask_cluster.url)
    assert _end(local_registry, "job") == "partial"
    assert record(local_registry).tasks_failed == 1
    assert "ValueError: as asked" in str(record(local_registry).error_message)
    needed.touch()
    child = cli.ok("resume", "job").out.strip()
    assert _end(local_registry, child) == "succeeded"
    assert (record(local_registry, child).engine, record(local_registry, child).metadata["dask_scheduler"]) == (
        "dask",
        dask_cluster.url,
    )
    assert len(results(local_store, child)) == 1


# --- the commands ---------------------------------------------------------------------------------------------------


def test_a_scheduler_that_does_not_answer_is_told_at_once(
    cli: Cli, local_registry: JobRegistry, seir: list[str]
) -> None:
    ran = cli.ends(5, *seir, "--job-id", "job", "--engine", "dask", "--scheduler", NO_SCHEDULER)
    assert len(sentences(ran.err)) == 1
    assert ran.err.startswith(f"error: The Dask scheduler {NO_SCHEDULER} does not answer: ")
    assert (record(local_registry).status, record(local_registry).error_code) == ("failed", "LAUNCH")
    assert not (JobDir.for_job("job", cli.env).path / "runner.json").exists()


def test_a_launch_checks_the_address_that_the_environment_names(tmp_path: Path) -> None:
    """A launch from Python finds and checks the scheduler as `submit` does."""
    env = {"HOME": str(tmp_path), "DASK_SCHEDULER_ADDRESS": "here"}
    with pytest.raises(UsageError, match="invalid scheduler 'here': expected"):
        DaskEngine(env).launch(Launch(job_id="job", registry_url="u"))


def test_without_the_library_one_sentence_says_how_to_get_it(
    cli: Cli, local_registry: JobRegistry, seir: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)  # as the interpreter notes what cannot be imported
    ran = cli.ends(2, *seir, "--job-id", "job", "--engine", "dask", "--scheduler", NO_SCHEDULER)
    assert ran.err.splitlines() == [
        "error: The dask engine needs the package distributed, which this Python does not have.",
        f"hint: Install the version of the cluster: {sys.executable} -m pip install distributed. {IF_PIP_REFUSES}",
    ]
    assert local_registry.get_job("job") is None


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "The dask engine needs a scheduler."),
        (
            ["--scheduler", "here"],
            "invalid scheduler 'here': expected an address like tcp://HOST:8786, without a password.",
        ),
        (
            ["--scheduler", "tcp://me:secret@h:1"],
            "invalid scheduler: expected an address like tcp://HOST:8786, without a password.",
        ),
        (
            ["--scheduler", NO_SCHEDULER, "--workers", "2"],
            "--workers has no effect with the dask engine: the cluster has its own.",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(cli: Cli, seir: list[str], argv: list[str], said: str) -> None:
    ran = cli(*seir, "--engine", "dask", *argv)
    assert (ran.code, sentences(ran.err)) == (2, [f"error: {said}"])


# --- Tasks on Dask workers, which have no access to the store, go on from their checkpoints on other workers ---------


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Yield a cluster of one worker, for the test to kill."""
    (tmp_path / "dask").mkdir()
    with closing(Cluster(tmp_path / "dask", 1)) as made:
        yield made


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a model of steps, which finds mops-jobs on a Dask worker."""
    return code(tmp_path / "code", f"{FINDS_MOPS_JOBS}{STEPS}")


@pytest.fixture
def begin() -> Iterator[Callable[..., Future[tuple[ShardResult, list[str]]]]]:
    """Return a function that begins a run in a thread."""
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(1))
        yield pool.submit


def _attempts(bench: Bench) -> list[Attempt]:
    return sorted(attempts_in(bench.line), key=lambda one: one.attempt)


def _saved(directory: Path) -> set[str]:
    """Return the names of the checkpoints on the machine of the runner."""
    return {json.loads(path.read_text())["at"] for path in directory.glob("checkpoints/*/.kept/*/header.json")}


def test_a_task_whose_dask_worker_dies_goes_on_from_its_last_checkpoint(
    bench: Bench, cluster: Cluster, begin: Callable[..., Future[tuple[ShardResult, list[str]]]], tmp_path: Path
) -> None:
    """On another one, without a retry: it had come on. Dask alone would begin it at its start."""
    gate = tmp_path / "gate"
    sets = bench.given(sets_of(1, steps=str(tmp_path / "steps"), steps_total=50, gates={"34": str(gate)}))
    run = begin(bench.work, scheduler=cluster.url, retries=0)
    until(lambda: "30" in _saved(tmp_path / "job"), "its checkpoint", run)
    cluster.add_worker()
    cluster.kill(1)
    until(lambda: steps_of(tmp_path / "steps")[0].count(34) > 1, "its next attempt", run)
    gate.touch()
    ran, _ = run.result()
    assert ran.status == "succeeded"
    assert steps_of(tmp_path / "steps") == {0: [*range(35), *range(30, 50)]}
    assert results(bench.line) == undisturbed(sets)
    first, second = _attempts(bench)
    assert (first.outcome, first.resumed, second.outcome) == (Outcome.DIED, None, Outcome.SUCCEEDED)
    assert second.resumed is not None
    assert second.resumed.at == "30"
    assert not (tmp_path / "job" / "checkpoints").exists()


def test_a_task_whose_process_dies_goes_on_on_the_same_worker(bench: Bench, cluster: Cluster, tmp_path: Path) -> None:
    """It loses the steps since its last checkpoint, and no others."""
    sets = bench.given(sets_of(2, steps=str(tmp_path / "steps"), steps_total=50, die=[34]))
    ran, said = bench.work(scheduler=cluster.url)
    assert (ran.status, said) == ("succeeded", [])
    assert steps_of(tmp_path / "steps") == {x: [*range(35), *range(30, 50)] for x in range(2)}
    assert results(bench.line) == undisturbed(sets)


def test_a_program_on_dask_that_saves_what_it_began_from_has_failed(
    bench: Bench, cluster: Cluster, tmp_path: Path
) -> None:
    """As on this machine: it would do the same steps for ever."""
    code(tmp_path / "code", f"{FINDS_MOPS_JOBS}{IN_VAIN}")
    bench.given([{"saves": 1}])
    ran, said = bench.work(scheduler=cluster.url, retries=0)
    assert ran.status == "failed"
    assert "NoCheckpoint" in said[0]
    assert [one.outcome for one in _attempts(bench)] == [Outcome.PREEMPTED, Outcome.FAILED]


def test_a_checkpoint_that_is_read_stays_while_later_ones_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a Dask worker. Else a fetch that is slower than the model saves would never come to its end."""
    job, told = dask_task._Job(), []
    monkeypatch.setitem(dask_task._jobs, "job", job)
    saves = dask_task._Saves(job, "job", {}, "key", {})
    monkeypatch.setattr(saves, "_tell", lambda **what: told.append(what) or what)
    monkeypatch.setattr(job, "begin_saves", lambda _code: None)
    monkeypatch.setattr(dask_task, "_is_released", lambda _key: False)
    saves.path = str(tmp_path)
    job.attempts["key"] = saves
    (tmp_path / "new").mkdir()
    for number in range(1, 7):
        (tmp_path / "new" / str(number)).write_text("x")
        saves.look()
        if number == 2:
            assert dask_task.read("job", "key", told[-1]["path"], 0, 1) is not None
    kept = [what["number"] for what in told[1:] if dask_task.read("job", "key", what["path"], 1, 1) is not None]
    assert kept == [2, 5, 6]


def test_a_runner_that_is_told_to_stop_lets_tasks_on_dask_save(bench: Bench, cluster: Cluster, tmp_path: Path) -> None:
    """The next run goes on from there, and no step is made twice."""
    gate = tmp_path / "gate"
    sets = bench.given(sets_of(1, steps=str(tmp_path / "steps"), steps_total=20, every=1000, gates={"5": str(gate)}))

    def stop(_progress: TaskProgress) -> None:
        if list((tmp_path / "job").glob("checkpoints/*")):
            os.kill(os.getpid(), signal.SIGTERM)

    ran, said = bench.work(scheduler=cluster.url, on_progress=stop, grace=PATIENCE)
    assert (ran.is_done, ran.signal, ran.failed) == (False, signal.SIGTERM, 0)
    assert "1 task may save, up to 5m." in said
    gate.touch()
    ran, said = bench.work(scheduler=cluster.url, retries=0)
    assert (ran.status, said) == ("succeeded", [])
    assert steps_of(tmp_path / "steps") == {0: [*range(20)]}
    assert results(bench.line) == undisturbed(sets)
    assert sorted(str(one.outcome) for one in _attempts(bench)) == ["preempted", "succeeded"]
