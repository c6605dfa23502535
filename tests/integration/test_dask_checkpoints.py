"""Tasks on Dask workers, which have no access to the store, go on from their checkpoints on other workers."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from mopsjobs.ledger.attempt import Attempt, Outcome
from mopsjobs.ledger.retry_policy import RetryPolicy
from mopsjobs.runner.pools import dask_task
from mopsjobs.runner.shard import ShardResult, TaskProgress
from support.checkpoints import STEPS, steps_of, undisturbed
from support.dask import Cluster
from support.docs import ROOT
from support.ledgers import attempts_in
from support.runs import PATIENCE, Bench, code, results, sets_of, until

pytestmark = [
    pytest.mark.usefixtures("quick_runner"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Yield a cluster of one worker, for the test to kill."""
    (tmp_path / "dask").mkdir()
    with closing(Cluster(tmp_path / "dask", 1)) as made:
        yield made


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a model of steps, which finds mops-jobs on a Dask worker."""
    return code(tmp_path / "code", f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{STEPS}")


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
    sets = sets_of(1, steps=str(tmp_path / "steps"), steps_total=50, gates={"34": str(gate)})
    bench.given(sets)
    run = begin(bench.work, scheduler=cluster.url, policy=RetryPolicy(0))
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
    sets = sets_of(2, steps=str(tmp_path / "steps"), steps_total=50, die=[34])
    bench.given(sets)
    ran, said = bench.work(scheduler=cluster.url)
    assert (ran.status, said) == ("succeeded", [])
    assert steps_of(tmp_path / "steps") == {x: [*range(35), *range(30, 50)] for x in range(2)}
    assert results(bench.line) == undisturbed(sets)


def test_a_program_on_dask_that_saves_what_it_began_from_has_failed(
    bench: Bench, cluster: Cluster, tmp_path: Path
) -> None:
    """As on this machine: it would do the same steps for ever."""
    code(
        tmp_path / "code",
        f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import mopsjobs

def simulate(params, seed):
    mopsjobs.checkpoint().save({{"step": 0}}, at="0")
    raise SystemExit(85)
""",
    )
    bench.given([{}])
    ran, said = bench.work(scheduler=cluster.url, policy=RetryPolicy(0))
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
    sets = sets_of(1, steps=str(tmp_path / "steps"), steps_total=20, every=1000, gates={"5": str(gate)})
    bench.given(sets)

    def stop(_progress: TaskProgress) -> None:
        if list((tmp_path / "job").glob("checkpoints/*")):
            os.kill(os.getpid(), signal.SIGTERM)

    ran, said = bench.work(scheduler=cluster.url, on_progress=stop, grace=PATIENCE)
    assert (ran.is_done, ran.signal, ran.failed) == (False, signal.SIGTERM, 0)
    assert "1 task may save, up to 5m." in said
    gate.touch()
    ran, said = bench.work(scheduler=cluster.url, policy=RetryPolicy(0))
    assert (ran.status, said) == ("succeeded", [])
    assert steps_of(tmp_path / "steps") == {0: [*range(20)]}
    assert results(bench.line) == undisturbed(sets)
    assert sorted(str(one.outcome) for one in _attempts(bench)) == ["preempted", "succeeded"]
