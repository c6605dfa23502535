"""What bundles, notifications and pages need of a store, over each backend."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from mopsjobs.app.following.notify import claims
from mopsjobs.app.tasks import task_outputs
from mopsjobs.app.tasks.results_table import find_cached_results
from mopsjobs.app.tasks.task_outputs import MAX_LISTED, TaskOutput, read_task_output
from mopsjobs.bundles.bundle import extract_bundle, store_bundle
from mopsjobs.bundles.packing import pack
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.keys import NAMES_NAME
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
    for attempt in (1, 2):
        [won] = [found for found in _at_once(store, clock) if isinstance(found, claims.Claim)]
        assert won.attempt == attempt
        clock.moment += claims.LEASE
    claims.mark(store, won, clock.now, is_sent=True)
    assert _at_once(store, clock) == [claims.Settled(is_final=True)] * WATCHERS


def _at_once(store: VersionedStore, clock: Clock) -> list[claims.Claim | claims.Settled]:
    """Return what each of the watchers gets, which begin at once."""
    start = threading.Barrier(WATCHERS)

    def claim(_number: int) -> claims.Claim | claims.Settled:
        start.wait()
        return claims.claim(store, KEY, clock.now)

    with ThreadPoolExecutor(WATCHERS) as watchers:
        return list(watchers.map(claim, range(WATCHERS)))


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
