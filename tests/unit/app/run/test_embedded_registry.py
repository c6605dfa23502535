"""The file of an embedded registry: lost is not the same as new."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mopsjobs.app.run import config, embedded_registry
from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import Freshness, FreshnessPolicy
from mopsjobs.cache import sync_state
from mopsjobs.cache.sync import mirror
from mopsjobs.console.printer import Printer
from mopsjobs.errors import StoreUnavailableError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from mopsjobs.utils.times import parse_time, utc_now
from support.runs import PATIENCE


@pytest.fixture
def app(tmp_path: Path) -> App:
    """Return a run over an embedded registry with one job, which the cache knows."""
    env = {"HOME": str(tmp_path), "MOPS_JOBS_REGISTRY": f"sqlite://{tmp_path}/disk/registry.db"}
    made = App(config.load({}, env, str(tmp_path)), Printer(None, None, env), env)
    made.registry.register_job("a")
    made.cache.sync(wait=None)
    return made


def test_a_registry_that_is_lost_during_a_run_is_not_created_again(app: App, tmp_path: Path) -> None:
    """The page, `wait` and `submit --follow` have it open for hours; its disk may go away meanwhile."""
    disk = tmp_path / "disk"
    disk.rename(tmp_path / "away")
    for action in (lambda: app.registry.register_job("b"), lambda: app.cache.sync(wait=None)):
        with pytest.raises(StoreUnavailableError, match="is gone: it had 1 job"):
            action()
    assert not disk.exists()
    (tmp_path / "away").rename(disk)
    app.registry.register_job("b")
    assert {state.job_id for state in app.registry.list_jobs()} == {"a", "b"}


# --- whether it has changed -----------------------------------------------------------------------------------------


def _job_ids(cache: sqlite3.Connection) -> list[str]:
    return [job_id for (job_id,) in cache.execute("SELECT job_id FROM job ORDER BY job_id")]


def _view(app: App, **policy: bool) -> tuple[list[str], int, Freshness]:
    """Return the jobs and the age that a view shows, and how many syncs there were."""

    def view(cache: sqlite3.Connection, freshness: Freshness) -> tuple[list[str], int, Freshness]:
        return _job_ids(cache), sync_state.last_generation(cache), freshness

    return app.cache.read(view, FreshnessPolicy(**policy))


def _age_file(app: App) -> None:
    """Let the last write be a minute ago."""
    assert app.embedded.path is not None
    then = time.time() - 60
    for path in (app.embedded.path, app.embedded.path + "-wal"):
        with contextlib.suppress(FileNotFoundError):
            os.utime(path, (then, then))


def _syncs(app: App, **policy: bool) -> int:
    """Return how many syncs a view makes."""
    with contextlib.closing(sqlite3.connect(app.cache.path)) as cache:
        before = sync_state.last_generation(cache)
    return (_view(app, **policy)[1] - before) // 2


def test_an_unchanged_file_is_not_synced_again(app: App) -> None:
    """What the cache has is what the registry has now, and its age says so."""
    _age_file(app)
    assert [_syncs(app) for _ in range(3)] == [1, 0, 0]
    began = utc_now()
    jobs, _, freshness = _view(app)
    assert (jobs, freshness.describe()) == (["a"], "live")
    assert parse_time(freshness.synced_at) >= began
    assert _syncs(app, refresh=True) == _syncs(app, sync=True) == 1


@pytest.mark.parametrize(
    ("write", "jobs"),
    [
        (lambda theirs: theirs.register_job("c"), ["a", "b", "c"]),
        (lambda theirs: theirs.update_fields("a", labels={"x": "1"}), ["a", "b"]),
        (lambda theirs: theirs.store.delete(theirs.key_of("a")), ["b"]),
    ],
    ids=["create", "put", "delete"],
)
def test_each_write_of_another_program_is_shown(
    app: App, write: Callable[[JobRegistry], object], jobs: list[str]
) -> None:
    """Also by the view that comes next, at once; and by those after it."""
    app.registry.register_job("b")
    _age_file(app)
    assert [_syncs(app), _syncs(app)] == [1, 0]
    assert app.embedded.path is not None
    with contextlib.closing(SQLiteVersionedStore(app.embedded.path)) as store:
        write(JobRegistry(store))
        assert _view(app)[0] == jobs
    assert _view(app)[0] == jobs


def test_after_a_write_just_now_each_view_syncs(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of the file system is coarse: another write may leave the same time behind."""
    monkeypatch.setattr(embedded_registry, "FILE_CLOCK_SECONDS", PATIENCE)
    assert [_syncs(app) for _ in range(3)] == [1, 1, 1]


def test_a_write_that_the_disk_has_not_confirmed_keeps_views_syncing(app: App) -> None:
    """It is in the WAL already. Readers see it seconds later, and then the files do not change again."""
    _age_file(app)
    assert app.embedded.path is not None
    with contextlib.closing(sqlite3.connect(app.embedded.path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert [_syncs(app) for _ in range(2)] == [1, 1]
        writer.rollback()
        assert [_syncs(app) for _ in range(2)] == [1, 0]


def test_a_delta_sync_does_not_end_the_search_for_foreign_writes(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a scan finds what other programs have written without an announcement; `--max-age` asks for one."""
    monkeypatch.setattr(mirror, "SMALL_REGISTRY", 0)
    monkeypatch.setattr(mirror, "MAX_SHARE_READ", 1e6)  # a delta, however few jobs there are
    app.cache.sync(wait=None, scan=True)
    record = app.store.get(app.registry.key_of("a"))
    assert record is not None
    app.store.create_if_absent(app.registry.key_of("foreign"), record.value.replace(b'"a"', b'"foreign"'))
    _age_file(app)
    assert "foreign" not in _view(app)[0]  # a delta
    assert [_syncs(app), _syncs(app)] == [1, 1]
    assert "foreign" in app.cache.read(lambda cache, _: _job_ids(cache), FreshnessPolicy(max_age=0.0))


def _unread_write(app: App) -> Callable[[], None]:
    """Return a call by which a slow command shows a job that it has read, and that was removed since."""
    key = app.registry.key_of("b")
    take = app.cache.observe(key)
    with contextlib.closing(SQLiteVersionedStore(str(app.embedded.path))) as store:
        JobRegistry(store).register_job("b")
        record = store.get(key)
        store.delete(key)
    assert record is not None
    _age_file(app)
    return lambda: take(record)


def test_a_view_syncs_after_a_command_that_read_before_the_last_sync(app: App) -> None:
    take = _unread_write(app)
    assert [_syncs(app), _syncs(app)] == [1, 0]
    take()
    assert _view(app)[0] == ["a"]


def test_a_registry_that_is_lost_after_the_last_view_is_missed(app: App, tmp_path: Path) -> None:
    _age_file(app)
    assert [_syncs(app), _syncs(app)] == [1, 0]
    (tmp_path / "disk").rename(tmp_path / "away")
    assert "is gone: it had 1 job" in str(_view(app)[2].problem)


def test_a_view_syncs_after_a_command_that_wrote_during_the_last_sync(app: App) -> None:
    """The sync leaves the row of that command, which may be the older one."""
    take = _unread_write(app)
    app.cache.sync(wait=None, on_progress=lambda _: take())
    assert _view(app)[0] == ["a"]
    assert _syncs(app) == 0


@pytest.mark.parametrize("what", ["its time was set back", "another of its size and time", "its sync failed"])
def test_a_file_that_may_have_changed_is_read_again(app: App, tmp_path: Path, what: str) -> None:
    """Tools that restore a copy give it the time of the original."""
    _age_file(app)
    assert [_syncs(app), _syncs(app)] == [1, 0]
    path = app.embedded.path
    assert path is not None
    if what == "its sync failed":
        app.cache.write(lambda cache: sync_state.set_meta(cache, {"last_error": "no"}))
    elif what == "its time was set back":
        found = os.stat(path)
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    else:
        app.close()  # with the last connection, the WAL goes
        shutil.copy2(path, tmp_path / "copy")
        os.replace(tmp_path / "copy", path)
    assert _syncs(app) == 1
