"""A shard of an adaptive study: which tasks it runs, what the record says, and how a restart goes on."""

from __future__ import annotations

import json
import random
from pathlib import Path
from unittest import mock

import pytest

from mopsjobs.registry.notes import PRECISION
from mopsjobs.runner import sharing
from mopsjobs.runner.adaptive import AdaptiveFeed
from mopsjobs.runner.pools.base import TaskResult
from mopsjobs.runner.reporter import Counts
from mopsjobs.runner.shard import TaskProgress
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.outputs import find_complete_tasks
from mopsjobs.studies.packed_store import PackedStore
from mopsjobs.studies.study import Study, Task
from support.adaptive import MARKS, MODEL, adaptive_study, counts_by_set, seeds
from support.runs import Bench, code, place, results

pytestmark = pytest.mark.usefixtures("quick_runner")


@pytest.fixture(autouse=True)
def _marks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(MARKS, str(tmp_path))


def given(bench: Bench, study: Study) -> Study:
    code(bench.model, MODEL)
    manifest = place(bench.line, "job", study, bench.model)
    bench.registry.register_job("job", **manifest.record_fields())
    return study


def test_sets_stop_at_different_looks_with_any_number_of_workers(bench: Bench) -> None:
    study = given(bench, adaptive_study())
    ran, _ = bench.work(workers=3)
    stopped = counts_by_set(bench.line, study)
    assert ran[:4] == ("succeeded", sum(stopped), 0, True)
    assert (stopped[0], stopped[-1]) == (4, 40)
    assert len(set(stopped)) > 3
    state = bench.record()
    assert (state.tasks_total, state.tasks_completed, state.tasks_verified) == (sum(stopped),) * 3
    assert state.metadata[PRECISION] == {
        "sets": 6, "precise": 5, "failed": 0, "at_max": 1, "needed": sum(stopped), "at_most": sum(stopped),
        "widest": "sd=50.0 (peak ± 15, goal 2)",
    }  # fmt: skip


def test_shards_have_whole_sets_and_the_record_sums_their_precision(bench: Bench) -> None:
    """Until a shard has reported, its sets count as before their first look."""
    study = given(bench, adaptive_study())
    assert bench.record().tasks_total == 24
    with mock.patch.object(sharing, "START_SECONDS", 0.0):  # the other one does not begin meanwhile
        bench.work("shard-0", number=0, shards=2)
    stopped = counts_by_set(bench.line, study)
    assert [bool(count) for count in stopped] == [True, False] * 3
    state = bench.record()
    assert (state.status, state.tasks_completed, state.tasks_total) == ("running", sum(stopped), sum(stopped) + 12)
    ran, _ = bench.work("shard-1", number=1, shards=2)
    assert ran.status == "succeeded"
    state, stopped = bench.record(), counts_by_set(bench.line, study)
    assert (state.tasks_completed, state.tasks_total, state.metadata[PRECISION]["precise"]) == (*(sum(stopped),) * 2, 5)


def test_a_restart_goes_on_from_the_outputs_alone(bench: Bench) -> None:
    """Of the undisturbed run, each third output is there: the restart runs the others, and no further one."""
    study = given(bench, adaptive_study())
    bench.work("first")
    whole = results(bench.line)
    keys = [key for key in bench.line.list_keys("results/job/") if "/.packs/" not in key]
    assert len(keys) == len(whole)
    for key in keys[::3] + keys[1::3]:
        bench.line.delete(key)
    bench.line.delete("jobs/job/state.json")
    bench.registry.register_job("job", tasks_total=24)
    ran, _ = bench.work("second", workers=1)
    assert results(bench.line) == whole
    assert ran[:3] == ("succeeded", len(whole), 0)
    assert bench.record().tasks_total == sum(counts_by_set(bench.line, study)) == len(whole)


def test_outputs_beyond_a_look_that_is_open_again_are_not_run_twice(bench: Bench) -> None:
    """A runner that was killed had sent later outputs, and not yet an earlier one."""
    study = given(bench, adaptive_study([{"sd": 50.0}]))
    bench.work("first")
    whole = results(bench.line)
    lost = [f"results/job/{name}" for name in whole if name.split("/")[1] == str(seeds(study, 0)[2])]
    bench.line.delete(lost[0])
    bench.line.delete("jobs/job/state.json")
    bench.registry.register_job("job", tasks_total=4)
    ended: list[tuple[int, int]] = []
    ran, _ = bench.work("second", on_progress=lambda one: ended.append((one.done, one.total)))
    assert results(bench.line) == whole
    assert ran[:3] == ("succeeded", 40, 0)
    assert ended[0] == (39, 40)


def test_values_in_packs_decide_too(bench: Bench) -> None:
    """A second runner finds all that is needed in the packs of the first, so it runs nothing."""
    study = given(bench, adaptive_study())
    first, _ = bench.work("first", store=PackedStore(bench.line))
    packs = list(bench.line.list_keys("results/job/"))
    assert all("/.packs/" in key for key in packs)
    bench.line.delete("jobs/job/state.json")
    bench.registry.register_job("job", tasks_total=24)
    seen: list[TaskProgress] = []
    ran, _ = bench.work("second", store=PackedStore(bench.line), on_progress=seen.append)
    assert ran[:3] == first[:3] == ("succeeded", sum(counts_by_set(bench.line, study)), 0)
    assert list(bench.line.list_keys("results/job/")) == packs
    assert seen == []
    assert bench.record().tasks_total == ran.completed


@pytest.mark.parametrize("cause", ["fails", "nan"])
def test_a_failed_replicate_ends_its_set(bench: Bench, cause: str) -> None:
    """The other replicates of its look run, and none after them. One without a number fails the set, not the job."""
    path = bench.path / cause
    study = given(bench, adaptive_study([{"sd": 50.0, cause: True}, {"sd": 3.0}]))
    path.write_text(str(seeds(study, 0)[5]))
    ran, _ = bench.work("first")
    state, missing = bench.record(), int(cause == "fails")
    total = state.tasks_total
    assert (ran.status, ran.failed) == ("partial" if missing else "succeeded", missing)
    assert (state.tasks_completed, state.tasks_failed, state.tasks_verified) == (
        total - missing,
        missing,
        total - missing,
    )
    precision = state.metadata[PRECISION]
    assert (precision["precise"], precision["failed"], precision["needed"]) == (1, 1, total)
    stopped = counts_by_set(bench.line, study, is_prefix=False)
    assert 5 < total - stopped[1] == stopped[0] + missing < 40


def test_the_first_tasks_run_before_others_and_none_is_left_out(bench: Bench) -> None:
    """All tasks of the first set fail, so that `--first` tries some further on, of other sets."""
    path = bench.path / "fails"
    study = given(bench, adaptive_study([{"sd": 0.1, "fails": True}, *({"sd": sd} for sd in (0.1, 0.2, 2.0))]))
    path.write_text(" ".join(map(str, seeds(study, 0))))
    ran, _ = bench.work(first=2)
    stopped = counts_by_set(bench.line, study)
    assert stopped[:3] == [0, 4, 4]
    assert ran[:3] == ("partial", sum(stopped), 4)


def test_a_limit_of_failures_ends_the_job_with_what_is_known(bench: Bench) -> None:
    path = bench.path / "fails"
    study = given(bench, adaptive_study([{"sd": 50.0, "fails": True}, {"sd": 0.1}]))
    path.write_text(" ".join(map(str, seeds(study, 0)[4:])))
    ran, _ = bench.work(max_failures="0")
    state = bench.record()
    assert (ran.status, state.error_code) == ("partial", "FAILURES")
    assert state.metadata[PRECISION]["failed"] == 1
    assert state.tasks_completed == sum(counts_by_set(bench.line, study, is_prefix=False)) <= state.tasks_total


def test_a_target_that_no_task_leaves_ends_the_job(bench: Bench) -> None:
    """Its name may be misspelt."""
    until = {"peek": {"absolute": 2.0}}
    given(bench, adaptive_study(n_replicates={"min": 4, "max": 40, "until": until}))
    ran, _ = bench.work()
    state = bench.record()
    assert (ran.status, state.error_code) == ("partial", "TARGET")
    assert 3 * 4 <= state.tasks_completed < 6 * 4
    why = "Ended early: 3 sets failed, since no task has left peek; they left result.json/peak, result.json/seed;"
    assert state.error_message.startswith(why)


def test_a_target_that_some_tasks_leave_does_not_end_the_job(bench: Bench) -> None:
    path = bench.path / "nan"
    study = given(bench, adaptive_study([{"sd": 0.1, "nan": True, "no": no} for no in range(5)]))
    path.write_text(" ".join(str(seed) for place in range(4) for seed in seeds(study, place)))
    ran, _ = bench.work()
    assert (ran.status, bench.record().metadata[PRECISION]["failed"]) == ("succeeded", 4)


def test_sets_that_repeat_or_name_a_seed_have_their_tasks_too(bench: Bench) -> None:
    """The second set repeats the first, and is decided with it. The third one has a seed of its own, and one task."""
    given(bench, adaptive_study([{"sd": 2.0}, {"sd": 2.0}, {"params": {"sd": 9.0}, "seed": 5}]))
    ran, _ = bench.work()
    outputs = len(results(bench.line))
    state = bench.record()
    assert state.tasks_total == state.tasks_completed == 2 * (outputs - 1) + 1 == ran.completed
    assert (state.status, state.metadata[PRECISION]["sets"]) == ("succeeded", 1)


def test_no_order_of_ends_and_no_number_of_workers_changes_what_runs() -> None:
    """Workers idle only while all that is needed is at work, and the record's counts never contradict each other."""
    study = adaptive_study()
    manifest = Manifest(job_id="job", study=study, bundle="sha256:" + "0" * 64)
    runs = [_simulate(manifest, workers, random.Random(seed)) for workers in (1, 2, 16) for seed in range(5)]
    assert all(run == runs[0] for run in runs)
    assert len(runs[0]) < study.tasks_total


def _simulate(manifest: Manifest, workers: int, chance: random.Random) -> dict[int, bytes]:
    """Return what a pool whose tasks end in a random order leaves, by the numbers of the tasks."""
    counts = Counts()
    feed = AdaptiveFeed(manifest, 0, 1, find_complete_tasks(InMemoryVersionedStore(), manifest), counts)
    ended: dict[int, bytes] = {}
    hand: list[Task] = []
    while True:
        is_open = True
        while is_open and len(hand) < workers:
            following = next(feed, "over")
            is_open = isinstance(following, tuple)
            if isinstance(following, tuple):
                hand.append(following[1])
            elif following is None:
                assert hand, "the feed waits for nothing"
        if not hand:
            assert next(feed, "over") == "over"
            return ended
        task = hand.pop(chance.randrange(len(hand)))
        value = 100 + task.params["sd"] * random.Random(task.seed).gauss(0, 1)
        outputs = {"result.json": json.dumps({"peak": value}).encode()}
        counts.add(completed=feed.count_of(task.number))
        assert task.number not in ended
        ended[task.number] = outputs["result.json"]
        feed.note(TaskResult(task.number, task, outputs, None), has_failed=False)
        completed, failed = counts.snapshot()
        assert completed + failed + len(hand) <= feed.needed
        assert feed.precision().first["needed"] + feed.precision().added["needed"] == feed.needed
