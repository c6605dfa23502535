"""What the runner takes of the checkpoints that tasks leave, and what it begins the next attempt with."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.api.checkpoint import Checkpoint
from mopsjobs.engines import model_process
from mopsjobs.errors import StoreUnavailableError
from mopsjobs.ledger.attempt import Resumed
from mopsjobs.ledger.environment import EnvironmentNotes
from mopsjobs.ledger.retry_policy import RetryPolicy
from mopsjobs.runner import checkpoints
from mopsjobs.runner.checkpoints import Checkpoints, Origin, directory_name
from mopsjobs.runner.pools.base import Assignment, TaskQueue
from mopsjobs.store.base import Versioned, VersionedStore, VersionToken
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies.study import Task
from support.existing import existing
from support.runs import PATIENCE, sets_of, study

(TASK,) = study(sets_of(1)).tasks()
PACKAGES = "p" * 16


class _Run:
    """The checkpoints of a run on a machine, and the directory of the task there."""

    def __init__(self, root: Path, store: VersionedStore | None = None) -> None:
        self.told: list[str] = []
        origin = Origin("job", "b" * 64, root, PACKAGES)
        self.checkpoints = Checkpoints([origin], store, lambda: PACKAGES, self.told.append)
        self.path = root / directory_name((TASK.param_id, TASK.seed))

    def begin(self) -> Resumed | None:
        while (resumed := self.checkpoints.prepare(TASK, may_have=True)) is False:
            pass
        return resumed


def _save_elsewhere(root: Path, store: VersionedStore, *tasks: Task) -> None:
    """Have tasks save on another machine, and their checkpoints stored."""
    run = _Run(root / "here", store)
    for task in tasks:
        Checkpoint(run.path.with_name(directory_name((task.param_id, task.seed))), 600.0).save({}, at=1)
        run.checkpoints.end(task, 0.0)
    run.checkpoints.close(PATIENCE)


def _names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_a_save_of_the_same_name_never_shows_half_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner may take what is in `new/` at any time. So nothing is removed in there."""
    ck = Checkpoint(tmp_path, 600.0)
    ck.save({"x": 1}, at=1)
    removed: list[Path] = []
    monkeypatch.setattr("mopsjobs.api.checkpoint.shutil.rmtree", lambda path, **_options: removed.append(path))
    ck.save({"x": 2}, at=1)
    assert [path for path in removed if path.parent != tmp_path] == []
    assert b'"x": 2' in (tmp_path / "new" / "1" / "state.json").read_bytes()


def test_a_save_that_fails_leaves_nothing_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    ck = Checkpoint(tmp_path, 600.0)
    monkeypatch.setattr("mopsjobs.api.checkpoint.os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        ck.save(b"x", at=1)
    assert (_names(tmp_path), _names(tmp_path / "new")) == (["new"], [])


def test_a_model_that_saves_often_leaves_the_last_ones(tmp_path: Path) -> None:
    """To remove thousands would keep it from the results of other tasks."""
    ck = Checkpoint(tmp_path, 600.0)
    for step in range(100):
        ck.save({}, at=step)
    assert {path.name for path in (tmp_path / "new").iterdir()} == {str(step) for step in range(90, 100)}
    assert _names(tmp_path) == ["new"]


@pytest.mark.parametrize("kind", ["loose link", "link outside", "pipe", "only a link", "name"])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, kind: str) -> None:
    """A link outside would copy what is there, a pipe would stop the runner."""
    run = _Run(tmp_path / "root")
    Checkpoint(run.path, 600.0).save({"x": 1}, at=1)
    for name in ("22", "333"):
        bad = run.path / "new" / (name if kind != "name" else name + "a" * 100)
        if kind == "only a link":
            bad.symlink_to("/")
            continue
        bad.mkdir()
        if kind == "loose link":
            (bad / "x").symlink_to("nowhere")
        elif kind == "link outside":
            (bad / "x").symlink_to("/")
        elif kind == "pipe":
            os.mkfifo(bad / "x")
    assert run.checkpoints.end(TASK, 0.0)
    assert _names(run.path / "new") == []
    assert [line.partition("'")[0] for line in run.told] == ["Not kept: checkpoint "] * 2
    assert existing(run.begin())[:2] == (1, "1")


def test_a_runner_killed_while_it_removes_one_leaves_no_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of it would be newer than the last one, and tasks would go on from an empty directory."""
    ck = Checkpoint(tmp_path / directory_name((TASK.param_id, TASK.seed)), 600.0)
    ck.save({}, at=16)
    new = tmp_path / directory_name((TASK.param_id, TASK.seed)) / "new"
    while not (new / "8").exists() or (new / "8").stat().st_ctime_ns == (new / "16").stat().st_ctime_ns:
        ck.save({"x": 1}, at=8)  # until the clock of the disk has ticked

    def be_killed(path: Path, **_options: object) -> None:
        (path / "state.json").unlink()
        raise KeyboardInterrupt

    run = _Run(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints.shutil, "rmtree", be_killed)
        with pytest.raises(KeyboardInterrupt):
            run.checkpoints.end(TASK, 0.0)
    run = _Run(tmp_path)
    assert run.begin() == Resumed(1, "8", 0.0)
    assert Checkpoint(run.path, 600.0).load() == {"x": 1}


def test_links_to_files_inside_are_copied_as_files(tmp_path: Path) -> None:
    """As models do that name their last file."""
    store = InMemoryVersionedStore()
    run = _Run(tmp_path / "here", store)
    (run.path / "new").mkdir(parents=True)
    (run.path / "new" / "7").mkdir()
    (run.path / "new" / "7" / "restart.7").write_text("x")
    (run.path / "new" / "7" / "restart.last").symlink_to("restart.7")
    run.checkpoints.end(TASK, 0.0)
    run.checkpoints.close(PATIENCE)
    for again in (_Run(tmp_path / "here"), _Run(tmp_path / "there", store)):
        assert (existing(again.begin()).at, again.told) == ("7", [])
        assert (again.path / "last" / "7" / "restart.last").read_text() == "x"


def test_a_full_disk_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is superseded goes before anything is written."""

    def fail(_path: str, _content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run = _Run(tmp_path / "root")
    ck = Checkpoint(run.path, 600.0)
    ck.save({}, at=1)
    ck.save({}, at=22)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "replace_file", fail)
        for _ in range(3):
            assert not run.checkpoints.end(TASK, 0.0)
    assert run.told == ["A checkpoint is not kept: No space left on device."]
    assert _names(run.path / "new") == ["22"]
    assert run.checkpoints.end(TASK, 0.0)


def test_what_is_told_of_many_tasks_is_bounded(tmp_path: Path) -> None:
    run = _Run(tmp_path / "root")
    for number in range(100):
        (run.path / "new" / ("a" * 101)).mkdir(parents=True, exist_ok=True)
        (run.path / "new" / ("a" * 101)).rename(run.path / "new" / (f"{number:02}" + "b" * 100))
        run.checkpoints.end(TASK, 0.0)
    assert len(run.told) == checkpoints.MAX_TOLD


def test_an_attempt_without_its_checkpoint_did_not_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing says that it went on: its limit of time would count what it did not keep."""
    run = _Run(tmp_path / "root")
    Checkpoint(run.path, 600.0).save({}, at=1)
    run.checkpoints.end(TASK, 0.0)
    real = Path.mkdir

    def mkdir(path: Path, *arguments: Any, **options: Any) -> None:
        if path.name == "new":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert run.begin() is None
    assert not (run.path / "last").exists()


class _Slow(InMemoryVersionedStore):
    """A store in which reads of pieces wait for `gate`."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def get(self, key: str) -> Versioned | None:
        if key.startswith("checkpoints/"):
            self.gate.wait()
        return super().get(key)


class _Away(InMemoryVersionedStore):
    """A store that does not answer some requests for checkpoints."""

    failures = 0

    def get(self, key: str) -> Versioned | None:
        if key.startswith("checkpoints/") and self.failures:
            self.failures -= 1
            raise StoreUnavailableError("The store does not answer.")
        return super().get(key)


def test_the_runner_does_not_wait_for_a_large_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "BEGIN_SECONDS", 0.0)
    store = _Slow()
    _save_elsewhere(tmp_path, store, TASK)
    run = _Run(tmp_path / "there", store)
    assert [run.checkpoints.prepare(TASK, may_have=False) for _ in range(3)] == [False] * 3
    store.gate.set()
    assert existing(run.begin())[:2] == (1, "1")
    assert _names(run.path / "last") == ["1"]


def test_an_outage_while_a_checkpoint_is_fetched_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that begins at its start instead would lose hours. What is told says so once."""
    monkeypatch.setattr(checkpoints, "FETCH_PAUSE", 0.0)
    store = _Away()
    _save_elsewhere(tmp_path, store, TASK)
    store.failures = 5
    run = _Run(tmp_path / "there", store)
    resumed = run.begin()
    assert (resumed is not None and resumed.at, store.failures) == ("1", 0)
    assert run.told == ["Tasks wait for their checkpoints: The store does not answer."]


def test_the_end_of_a_run_waits_for_a_slow_store(tmp_path: Path) -> None:
    """A large checkpoint of a task that has failed is under way. On a node that goes, it is nowhere else."""
    gate = threading.Event()

    class Slow(InMemoryVersionedStore):
        def create_if_absent(self, key: str, value: bytes) -> VersionToken | None:
            gate.wait(PATIENCE)
            return super().create_if_absent(key, value)

    store = Slow()
    run = _Run(tmp_path / "here", store)
    Checkpoint(run.path, 600.0).save({}, at=1)
    run.checkpoints.end(TASK, 0.0)
    with ThreadPoolExecutor(1) as threads:
        closing = threads.submit(run.checkpoints.close, 0.0, PATIENCE)
        assert not wait([closing], 0.05).done
        gate.set()
    resumed = _Run(tmp_path / "there", store).begin()
    assert (resumed and resumed.at) == "1"


def test_a_task_that_comes_from_another_shard_goes_on_where_that_was(tmp_path: Path) -> None:
    """The other one has saved since this one began."""
    store = InMemoryVersionedStore()
    run, other = _Run(tmp_path / "here", store), _Run(tmp_path / "there", store)
    Checkpoint(other.path, 600.0).save({}, at=7)
    other.checkpoints.end(TASK, 0.0)
    other.checkpoints.close(PATIENCE)
    assert run.checkpoints.prepare(TASK, may_have=False) is None
    run.checkpoints.find_stored()
    resumed = run.checkpoints.prepare(TASK, may_have=False)
    while resumed is False:
        resumed = run.checkpoints.prepare(TASK, may_have=False)
    assert resumed is not None
    assert resumed.at == "7"


def test_few_checkpoints_are_fetched_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a task without one never waits for them, however many there are."""
    monkeypatch.setattr(checkpoints, "BEGIN_SECONDS", 0.0)
    *saved, fresh = study(sets_of(8)).tasks()
    store = _Slow()
    _save_elsewhere(tmp_path, store, *saved)
    run = _Run(tmp_path / "there", store)

    def prepare(assignment: Assignment) -> Assignment | None:
        resumed = run.checkpoints.prepare(assignment.task, may_have=False)
        return None if resumed is False else assignment._replace(resumed=resumed, is_prepared=True)

    others = set(threading.enumerate())
    queue = TaskQueue(enumerate([*saved, fresh]), RetryPolicy(0), 0)
    begun = queue.next_prepared(prepare)
    assert (begun is not None and begun.task, queue.next_prepared(prepare)) == (fresh, None)
    begun_threads = [thread for thread in {*threading.enumerate()} - others if thread.name == "checkpoint"]
    assert len(begun_threads) == checkpoints.MAX_BEGINNING
    store.gate.set()
    found = []
    while not queue.is_over:
        if (begun := queue.next_prepared(prepare)) is not None:
            found.append((begun.task, begun.resumed is not None))
    assert sorted(found) == sorted((task, True) for task in saved)


def test_the_digest_of_packages_waits_as_long_as_an_interpreter_may_take() -> None:
    """Without it, the checkpoints of a machine that reads from a slow drive would be those of other packages."""
    gate, waits = threading.Event(), list[float | None]()

    class Described(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout)
            gate.set()
            return super().wait(PATIENCE)

    notes = EnvironmentNotes("job", InMemoryVersionedStore(), InMemoryVersionedStore())
    notes._is_described = Described()
    notes.describe(lambda: gate.wait(PATIENCE) and {"python": "3.12"})
    assert notes.packages() is not None
    assert min(seconds for seconds in waits if seconds) > model_process.SECONDS
    notes.close()


def test_the_digest_of_packages_does_not_wait_for_the_store() -> None:
    """The runner asks for it in its loop."""
    gate = threading.Event()

    class Hanging(InMemoryVersionedStore):
        def create_if_absent(self, key: str, value: bytes) -> VersionToken | None:
            gate.wait(PATIENCE)
            return super().create_if_absent(key, value)

    notes = EnvironmentNotes("job", Hanging(), InMemoryVersionedStore())
    notes.note({"python": "3.12"})
    assert notes.packages() is not None
    assert notes._threads[0].is_alive()
    gate.set()
    notes.close()


def test_the_directories_of_a_task_are_for_its_owner_alone(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "checkpoints" / "task", 600.0)
    for path in ("checkpoints", "checkpoints/task", "checkpoints/task/new"):
        assert (tmp_path / path).stat().st_mode & 0o777 == 0o700
