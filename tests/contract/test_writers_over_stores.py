"""What bundles, notifications and pages need of a store, over each backend."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mopsjobs.app.following.notify import claims
from mopsjobs.app.tasks import task_outputs
from mopsjobs.app.tasks.results_table import find_cached_results
from mopsjobs.app.tasks.task_outputs import MAX_LISTED, TaskOutput, read_task_output
from mopsjobs.bundles.bundle import extract_bundle, store_bundle
from mopsjobs.bundles.packing import pack
from mopsjobs.cache.database import open_to_write
from mopsjobs.cache.sync.ledger import sync_ledger
from mopsjobs.ledger.format import ledger_prefix
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.keys import NAMES_NAME
from mopsjobs.store.base import VersionedStore
from mopsjobs.studies.checkpoints import (
    Saved,
    list_numbers,
    load_checkpoint,
    read_saved,
    remove_checkpoints,
    store_checkpoint,
)
from mopsjobs.studies.outputs import output_key
from support.cli import REMOTE_URL, Cli, Clock
from support.doubles import FaultyStore
from support.ledgers import Ledger, attempt, leave_outputs, put_manifest
from support.runs import at_once, sets_of
from support.study_jobs import run_study

if TYPE_CHECKING:
    from pathlib import Path

    from mopsjobs.store.base import VersionedStore
    from mopsjobs.studies.study import Task
    from support.servers import Backend


def test_a_bundle_is_stored_once(store: VersionedStore, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    (root / "b").mkdir(parents=True)
    (root / "a.py").write_text("x")
    (root / "b" / "c").write_text("y")
    line = FaultyStore(store)
    with pack(root) as packed, pack(root) as again:
        assert store_bundle(line, packed) is True
        assert store_bundle(line, again) is False
    assert list(store.list_keys()) == [f"bundles/sha256/{packed.digest[7:]}"]
    assert line.calls["create_if_absent"] == 1, "the second time it is not sent at all"
    code = extract_bundle(store, packed.digest, tmp_path / "code")
    assert (code / "b" / "c").read_text() == "y"


def test_a_checkpoint_goes_there_and_back_in_pieces(store: VersionedStore, tmp_path: Path) -> None:
    """Pieces fit the store. Older ones are removed, and then all."""
    content, task = tmp_path / "content", ("job", "a" * 64, 7)
    content.write_bytes(random.Random(1).randbytes(2**20))
    for number in (1, 2):
        assert store_checkpoint(store, *task, Saved(number, "40", "b", None, 1.0, 2**20, f"{number:016x}"), content)
    remove_checkpoints(store, *task, before=2)
    assert list(list_numbers(store, "job")) == [(task[1], 7, 2)]
    found = read_saved(store, *task, 2)
    assert found is not None
    load_checkpoint(store, *task, found, tmp_path / "loaded")
    assert (tmp_path / "loaded" / "40").read_bytes() == content.read_bytes()
    remove_checkpoints(store, *task)
    assert list(store.list_keys("checkpoints/")) == []


# --- claims of notifications: of many watchers at once, one sends -----------------------------------------------------

WATCHERS = 16
KEY = claims.claim_key("job", "end", "0123456789abcdef")


def test_one_of_sixteen_watchers_gets_a_claim(backend: Backend) -> None:
    """A new one, and then one whose sender has died. The mark of the winner settles it for all."""
    clock, store = Clock(), backend.open()
    for number in (1, 2):
        [won] = [found for found in _at_once(store, clock) if isinstance(found, claims.Claim)]
        assert won.attempt == number
        clock.moment += claims.LEASE
    claims.mark(store, won, clock.now, is_sent=True)
    assert _at_once(store, clock) == [claims.Settled(is_final=True)] * WATCHERS


def _at_once(store: VersionedStore, clock: Clock) -> list[claims.Claim | claims.Settled]:
    """Return what each of the watchers gets, which begin at once."""
    return at_once(lambda _: claims.claim(store, KEY, clock.now), range(WATCHERS))


# --- the outputs of a task, as a page shows them ---------------------------------------------------------------------

VALUES = {"result.json": b"{}", "b.bin": b"\0" * 150, "a.txt": b"text", NAMES_NAME: b"[]", "odd/name": b"x"}


def test_outputs_of_a_task_are_listed_and_read(
    cli: Cli, store: VersionedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that no output may have are left out, and the results of a task come first. A large value is not kept."""
    monkeypatch.setattr(task_outputs, "MAX_OUTPUT_BYTES", 100)
    monkeypatch.setattr("mopsjobs.store.open_store", lambda _url, _env, **_: store)
    cli.env["MOPS_JOBS_REGISTRY"] = REMOTE_URL
    tasks: list[Task] = []

    def succeed(task: Task) -> str:
        tasks.append(task)
        return "succeeded"

    run_study(JobRegistry(store, now=cli.clock.now), "night", [{"x": one} for one in range(3)], succeed, outputs=None)
    for number, names in ((0, ("a.txt",)), (1, VALUES), (2, [f"{one:03}" for one in range(MAX_LISTED + 1)])):
        for name in names:
            store.create_if_absent(output_key("night", tasks[number], name), VALUES.get(name, b"x"))
    app = cli.app()
    app.cache.sync(wait=None)

    def read(number: int, name: str | None = None) -> TaskOutput:
        return read_task_output(find_cached_results("night", app), number, name, app)

    found = read(1)
    assert list(found.sizes) == ["result.json", "a.txt", "b.bin"]
    assert all(size in (None, len(VALUES[name])) for name, size in found.sizes.items())
    assert (found.name, found.value, found.problem, found.has_more) == ("result.json", b"{}", None, False)
    assert read(1, "a.txt").value == b"text"
    assert read(1, "b.bin").problem == "Too large for a page: 150 bytes, of at most 100."
    assert read(1, "c.bin").problem == "The task has no output 'c.bin'."
    assert (len(read(2).sizes), read(2).has_more) == (MAX_LISTED, True)


# --- The mirror of ledgers, on every backend: each attempt once, the last one of each task, problems by key ----------

TASKS = "SELECT task, outcome, attempt, basis FROM tasks ORDER BY task"


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Return an empty cache, open to write."""
    with closing(open_to_write(str(tmp_path / "cache.db"), "registry")) as connection:
        yield connection


def test_a_second_look_brings_only_what_is_new(store: VersionedStore, cache: sqlite3.Connection) -> None:
    """Each chunk is read once; the row of a task is that of its last attempt, whatever the order of the chunks."""
    put_manifest(store, "job", sets_of(4))
    runner = Ledger(store)
    runner(attempt(0), attempt(1, "failed"))
    report = sync_ledger(store, cache, "job")
    assert (report.listed, report.chunks, report.entries) == (1, 1, 2)
    Ledger(store, run="cd", shard=1)(attempt(1, attempt=1, started_at=attempt(50).started_at), attempt(3, "died"))
    report = sync_ledger(store, cache, "job")
    assert (report.listed, report.chunks, report.entries) == (2, 1, 2)
    assert sync_ledger(store, cache, "job").chunks == 0
    ended = [(0, "succeeded", 1, "ledger"), (1, "succeeded", 2, "ledger"), (3, "died", 1, "ledger")]
    assert cache.execute(TASKS).fetchall() == ended
    assert cache.execute("SELECT count(*) FROM attempts").fetchone() == (4,)


def test_a_chunk_that_is_not_one_is_told_by_key(store: VersionedStore, cache: sqlite3.Connection) -> None:
    """The rest goes on. It is told once, and read again only by a full sync. Other keys are skipped."""
    put_manifest(store, "job", sets_of(2))
    key = f"{ledger_prefix('job')}0.ff-000000.attempts.gz"
    store.create_if_absent(key, b"not gzip")
    store.create_if_absent(f"{ledger_prefix('job')}0.ff-000000.scalars.gz", b"of another kind")
    store.create_if_absent(f"{ledger_prefix('job')}notes.txt", b"of another program")
    strange = Ledger(store)(attempt(0), attempt(7, "failed"))
    assert sorted(sync_ledger(store, cache, "job").problems) == [
        (strange, "it has attempts at tasks that are not of the job, as task 7"),
        (key, "not gzip"),
    ]
    assert cache.execute(TASKS).fetchall() == [(0, "succeeded", 1, "ledger")]
    assert sync_ledger(store, cache, "job").problems == []
    assert len(cache.execute("SELECT * FROM ledger_problems").fetchall()) == 2
    again = sync_ledger(store, cache, "job", full=True)
    assert (len(again.problems), again.entries) == (2, 0)


def test_a_job_without_a_ledger_is_told_by_its_outputs(store: VersionedStore, cache: sqlite3.Connection) -> None:
    """Its complete tasks succeeded, nothing else is known of them, and the views say so."""
    manifest = put_manifest(store, "job", sets_of(3))
    leave_outputs(store, manifest, 0, 2)
    sync_ledger(store, cache, "job")
    assert cache.execute(TASKS).fetchall() == [(0, "succeeded", 0, "outputs"), (2, "succeeded", 0, "outputs")]
    assert cache.execute("SELECT basis, tasks_total FROM ledgers").fetchall() == [("outputs", 3)]


def test_two_looks_at_once_leave_each_attempt_once(store: VersionedStore, tmp_path: Path) -> None:
    """Several processes may look at the same job for the first time."""
    put_manifest(store, "job", sets_of(40))
    runner = Ledger(store)
    for number in range(40):
        runner(attempt(number, "failed"), attempt(number, attempt=2, started_at=attempt(60).started_at))
    path = str(tmp_path / "cache.db")

    def look(_number: int) -> None:
        with closing(open_to_write(path, "registry")) as connection:
            sync_ledger(store, connection, "job")

    at_once(look, range(3))
    with closing(open_to_write(path, "registry")) as connection:
        assert connection.execute("SELECT count(*) FROM attempts").fetchone() == (80,)
        assert connection.execute(TASKS).fetchall() == [(number, "succeeded", 2, "ledger") for number in range(40)]
