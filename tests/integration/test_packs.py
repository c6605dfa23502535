"""A shard whose small outputs go into packs: what it stores, and what outages, full disks and rivals leave of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.engines.job_dir import JobDir
from mopsjobs.errors import StoreUnavailableError
from mopsjobs.registry.keys import NAMES_NAME, PACK
from mopsjobs.runner.results import MAX_PACK_SECONDS, SOON_SECONDS, OutputSender
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from mopsjobs.studies.outputs import find_complete_tasks, output_key
from mopsjobs.studies.packed_store import PackedStore
from mopsjobs.studies.packs import MAX_PACKED_BYTES, MIN_OUTPUTS
from support.doubles import FaultyStore
from support.ledgers import attempts_in
from support.runs import Bench, calls, code, place, results, sets_of, study, until

pytestmark = pytest.mark.usefixtures("quick_runner")


def objects_in(store: Any) -> list[str]:
    """Return the objects below the results of the job, by their names."""
    return [key.removeprefix("results/job/") for key in store.list_keys("results/job/")]


def of_tasks(sets: list[dict[str, Any]]) -> dict[str, bytes]:
    """Return the outputs that the tasks of these sets leave."""
    return {
        output_key("job", task, "result.json").removeprefix("results/job/"): json.dumps(
            {"x": task.params["x"], "seed": task.seed}, sort_keys=True
        ).encode()
        for task in study(sets).tasks()
    }


def outbox_of(bench: Bench, name: str = "job") -> list[str]:
    """Return the keys in the outbox of a runner."""
    store = SQLiteVersionedStore(JobDir(bench.path / name).outbox)
    keys = list(store.list_keys())
    store.close()
    return keys


def test_the_outputs_of_a_shard_are_one_pack(bench: Bench) -> None:
    """Each task is there byte for byte, and counted. The outbox is empty, and a second run calls nothing."""
    noted = bench.path / "calls"
    sets = sets_of(9, calls=str(noted))
    bench.given(sets)
    ran, said = bench.work(store=PackedStore(bench.line))
    assert (ran[:4], said) == (("succeeded", 9, 0, True), [])
    assert bench.counts() == ("succeeded", 9, 0, 9)
    assert objects_in(bench.line) == [".packs/0-000000"]
    assert results(bench.line) == of_tasks(sets)
    assert outbox_of(bench) == []
    assert [str(one.outcome) for one in attempts_in(bench.line)] == ["succeeded"] * 9
    assert bench.work("other", store=PackedStore(bench.line))[0][:2] == ("succeeded", 9)
    assert sum(calls(noted).values()) == 9


def test_large_outputs_and_a_study_without_packs_stay_plain(bench: Bench) -> None:
    """A large output is an object of its own, and so are the others of its task: all are of one run."""
    size = MAX_PACKED_BYTES + 1
    code(bench.model, f"def simulate(params, seed):\n    return {{'a': bytes({size}), 'b': b'2'}}\n")
    bench.given(sets_of(1), outputs=None)
    bench.work(store=PackedStore(bench.line))
    assert [name.rpartition("/")[2] for name in objects_in(bench.line)] == [NAMES_NAME, "a", "b"]
    assert sorted(map(len, results(bench.line).values())) == [1, len(b'["a", "b"]'), size]


def test_a_study_may_ask_for_plain_objects(bench: Bench) -> None:
    """For programs that read the outputs by their keys."""
    sets = sets_of(3)
    bench.given(sets, packs=False)
    assert bench.work(store=PackedStore(bench.line))[0].status == "succeeded"
    assert objects_in(bench.line) == sorted(of_tasks(sets))


@pytest.mark.usefixtures("quick_end")
def test_an_outage_until_the_end_leaves_the_outputs_to_the_next_run(bench: Bench) -> None:
    """They are counted and kept. The next run packs them, and calls no task again."""
    noted = bench.path / "calls"
    sets = sets_of(5, calls=str(noted))
    bench.given(sets)
    faulty = FaultyStore(bench.line)
    faulty.fail_next(10_000, "create_if_absent")
    ran, said = bench.work(store=PackedStore(faulty), outage_seconds=0.0)
    assert (ran.completed, ran.is_done) == (5, False)
    assert any("Outputs are kept" in line for line in said)
    assert objects_in(bench.line) == []
    assert len([key for key in outbox_of(bench) if key.startswith("results/")]) == 5
    ran, _ = bench.work(store=PackedStore(bench.line))
    assert ran[:4] == ("succeeded", 5, 0, True)
    assert results(bench.line) == of_tasks(sets)
    assert outbox_of(bench) == []
    assert sum(calls(noted).values()) == 5


@pytest.mark.usefixtures("quick_end")
def test_a_disk_that_ends_with_its_pod_has_its_tasks_run_again(bench: Bench) -> None:
    """What it counted is not promised for good: each task counts once in the end."""
    noted = bench.path / "calls"
    sets = sets_of(4, calls=str(noted))
    bench.given([*sets, {"x": 9, "needs": str(bench.path / "later")}])
    faulty = FaultyStore(bench.line)
    faulty.fail_next(10_000, "create_if_absent")
    assert bench.work("pod", store=PackedStore(faulty), outage_seconds=0.0)[0].completed == 4
    ran, _ = bench.work("another pod", store=PackedStore(bench.line))
    assert (ran.completed, ran.failed) == (4, 1)
    assert bench.counts() == ("partial", 4, 1, 4)
    assert calls(noted) == dict.fromkeys(range(4), 2)
    assert len(results(bench.line)) == 4


def test_two_runners_of_one_shard_leave_each_task_once(bench: Bench) -> None:
    """Both run tasks until the job has ended. What readers see is of the first pack that has it, and stays."""
    code(bench.model, "import os\ndef simulate(params, seed):\n    return {'result.json': os.getpid()}\n")
    sets = sets_of(40)
    bench.given(sets)
    seen: list[dict[str, bytes]] = []

    class Watched(PackedStore):
        """Notes what readers see after each pack."""

        def __init__(self) -> None:
            super().__init__(bench.line)
            create = self.create_if_absent

            def create_and_look(key: str, value: bytes) -> Any:
                created = create(key, value)
                if PACK.parse(key) is not None:
                    seen.append(results(bench.line))
                return created

            self.create_if_absent = create_and_look

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda name: bench.work(name, store=Watched()), ["a", "b"]))
    assert bench.counts() == ("succeeded", 40, 0, 40)
    last = results(bench.line)
    assert last.keys() == of_tasks(sets).keys()
    assert seen
    assert all(earlier.items() <= last.items() for earlier in seen)
    assert outbox_of(bench, "a") == outbox_of(bench, "b") == []


RUNNER = """
import sys, time
from pathlib import Path
from support.runs import work
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.runner import results
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from mopsjobs.studies.packed_store import PackedStore
results.PACK_SECONDS = float(sys.argv[2])
store = SQLiteVersionedStore(Path(sys.argv[1]) / "store.db")
print(work(PackedStore(store), JobRegistry(store), Path(sys.argv[1]) / "job")[0].status, flush=True)
"""


def test_a_runner_that_is_killed_before_its_pack_loses_no_task(tmp_path: Path) -> None:
    """Kill -9 between journal and pack: the next run packs what was counted, and runs the rest."""
    store = SQLiteVersionedStore(tmp_path / "store.db")
    from mopsjobs.registry.job_registry import JobRegistry

    registry = JobRegistry(store)
    noted, gate = tmp_path / "calls", tmp_path / "gate"
    sets = sets_of(6, calls=str(noted))
    for one in sets[3:]:
        one["gate"] = str(gate)
    manifest = place(store, "job", study(sets), code(tmp_path / "code"))
    registry.register_job("job", **manifest.record_fields())
    start = [sys.executable, "-c", RUNNER, str(tmp_path), "10000"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    outbox = SQLiteVersionedStore(JobDir(tmp_path / "job").outbox)
    with subprocess.Popen(start, stdout=subprocess.PIPE, env=env) as process:
        until(lambda: find_complete_tasks(outbox, manifest).count == 3 and len(calls(noted)) == 5, "three are kept")
        process.send_signal(signal.SIGKILL)
    assert objects_in(store) == []
    gate.touch()
    assert subprocess.check_output(start, env=env) == b"succeeded\n"
    assert results(store) == of_tasks(sets)
    assert not list(outbox.list_keys())
    called = calls(noted)
    assert (called[0], called[1], called[2], sum(called.values())) == (1, 1, 1, 8)
    state = registry.get_job("job")
    assert state is not None
    assert (state.tasks_completed, state.tasks_verified) == (6, 6)


def test_a_full_disk_costs_no_task_and_does_not_keep_the_job(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal takes some outputs and no more, and cannot remove them either. The others are plain objects."""
    sets = sets_of(6)
    bench.given(sets)
    left, create = [3], SQLiteVersionedStore.create_all_if_absent

    def create_some(store: SQLiteVersionedStore, values: Any) -> None:
        left[0] -= len(values)
        if left[0] < 0:
            raise StoreUnavailableError("The disk has no room.", sent=False)
        create(store, values)

    def refuse(*_: object) -> None:
        raise StoreUnavailableError("The disk has no room.", sent=False)

    monkeypatch.setattr(SQLiteVersionedStore, "create_all_if_absent", create_some)
    monkeypatch.setattr(SQLiteVersionedStore, "delete_all", refuse)
    assert bench.work(store=PackedStore(bench.line))[0][:4] == ("succeeded", 6, 0, True)
    assert results(bench.line) == of_tasks(sets)
    monkeypatch.undo()
    before = objects_in(bench.line)
    assert bench.work(store=PackedStore(bench.line))[0].status == "succeeded"
    assert (objects_in(bench.line), outbox_of(bench)) == (before, [])


# --- the sender alone ------------------------------------------------------------------------------------------------


def send(sender: OutputSender, *names: str) -> tuple[list[str], list[str]]:
    """Send outputs, wait until they are done, and return what was called when: done, and stored."""
    done, stored = list[str](), list[str]()
    for name in names:
        key = f"results/job/{'0' * 64}/1/{name}"
        sender.put(
            [(key, name.encode())],
            lambda name=name: done.append(name),
            pytest.fail,  # type: ignore[misc]
            on_stored=lambda name=name: stored.append(name),
        )  # type: ignore[misc]
    until(lambda: len(done) == len(names), "the tasks to count")
    return done, stored


def test_a_task_counts_when_the_journal_has_it_and_is_settled_by_its_pack() -> None:
    """So the ledger never tells of a task before its outputs can be read."""
    outbox, packing = InMemoryVersionedStore(), threading.Event()
    sender = OutputSender(InMemoryVersionedStore(), outbox, packing.set)
    done, stored = send(sender, "a", "b")
    assert (sorted(done), stored, packing.is_set()) == (["a", "b"], [], False)
    sender.finish()
    assert (sorted(stored), packing.is_set()) == (["a", "b"], True)


def test_on_a_full_disk_outputs_go_to_the_store_alone() -> None:
    """A run does not need the journal."""
    store, outbox = InMemoryVersionedStore(), FaultyStore(InMemoryVersionedStore())
    outbox.fail_next(100, "create_if_absent")
    sender = OutputSender(store, outbox, pytest.fail)
    done, stored = send(sender, "a", "b")
    sender.finish()
    assert sorted(done) == sorted(stored) == ["a", "b"]
    assert len(list(store.list_keys("results/"))) == 2


@pytest.mark.parametrize(
    ("start", "seconds", "is_asked"),
    [(0.0, 5.0, False), (86_400.0, MAX_PACK_SECONDS, False), (0.0, SOON_SECONDS, True)],
)
def test_a_pack_is_written_when_some_seconds_have_passed(start: float, seconds: float, *, is_asked: bool) -> None:
    """Also while tasks go on: results of a running job are seconds behind.

    However long the run is, here for a day, it waits for a minute at most. When a chunk of the ledger is cut, it
    follows soon: so the chunk does not wait for the next one.
    """
    now, packed = [0.0], threading.Event()
    sender = OutputSender(InMemoryVersionedStore(), InMemoryVersionedStore(), packed.set, clock=lambda: now[0])
    now[0] = start
    send(sender, "a")
    if is_asked:
        sender.pack_soon()
    if start:
        now[0] += seconds - 1
        send(sender, "b")
    assert not packed.is_set()
    now[0] = start + seconds
    send(sender, "c")
    assert packed.wait(300)
    sender.finish()


def test_slow_tasks_leave_objects_and_no_packs(bench: Bench) -> None:
    """A few outputs at once are written as objects. A rerun finds them, and calls no task again."""
    noted = bench.path / "calls"
    sets = sets_of(MIN_OUTPUTS - 1, calls=str(noted))
    bench.given(sets)
    assert bench.work(store=PackedStore(bench.line))[0][:4] == ("succeeded", len(sets), 0, True)
    assert objects_in(bench.line) == sorted(of_tasks(sets))
    assert outbox_of(bench) == []
    bench.work("other", store=PackedStore(bench.line))
    assert sum(calls(noted).values()) == len(sets)


def test_in_an_outage_tasks_are_settled_though_they_are_not_packed() -> None:
    """The outbox has them, which goes to the store with the ledger."""

    def away() -> None:
        raise StoreUnavailableError("as asked")

    sender = OutputSender(InMemoryVersionedStore(), InMemoryVersionedStore(), away)
    done, stored = send(sender, "a", "b")
    sender.finish()
    assert sorted(done) == sorted(stored) == ["a", "b"]
