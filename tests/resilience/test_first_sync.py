"""A first sync creates most indexes after the rows: whatever ends it, the next sync creates them, and views work."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mopsjobs.cache import deferred_indexes
from mopsjobs.cache.database import open_to_write
from mopsjobs.cache.sync import mirror
from mopsjobs.cache.sync import records as record_sync
from mopsjobs.errors import StoreError
from support.cli import REMOTE_URL, Cli, Remote, add

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

JOBS = [f"job-{number:02}" for number in range(12)]
INDEXES = "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = 'job' AND sql IS NOT NULL"
SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY 1, 2"


class Killed(BaseException):
    """Stands for the end of a process."""


class DyingConnection:
    """A connection that its process stops using at a statement: what is not committed is lost."""

    def __init__(self, connection: sqlite3.Connection, statements: int) -> None:
        self._connection = connection
        self.left = statements

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, *words: Any) -> sqlite3.Cursor:
        self._count()
        return self._connection.execute(*words)

    def executemany(self, *words: Any) -> sqlite3.Cursor:
        self._count()
        return self._connection.executemany(*words)

    def commit(self) -> None:
        self._count()
        self._connection.commit()

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed


@pytest.fixture(autouse=True)
def _small_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make batches of three, and let a first sync defer indexes from four jobs on."""
    monkeypatch.setattr(record_sync, "BATCH", 3)
    monkeypatch.setattr(deferred_indexes, "MIN_JOBS", 4)


@pytest.fixture
def new(tmp_path: Path) -> str:
    """Return a new cache, to be copied."""
    path = str(tmp_path / "new.db")
    open_to_write(path, REMOTE_URL).close()
    return path


@pytest.fixture
def filled(remote: Remote) -> Remote:
    """Return a registry with the jobs."""
    for number, name in enumerate(JOBS):
        add(remote.jobs, name, "failed" if number % 3 else "running", owner="ada", labels={"exp": str(number % 2)})
    return remote


def _ask(path: str | Path, sql: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def _sync(cli: Cli, remote: Remote, on_progress: Callable[[int], None] | None = None) -> record_sync.SyncReport:
    return mirror.sync(remote.jobs, str(cli.cache), REMOTE_URL, on_progress=on_progress, now=cli.clock.now)


def _assert_complete(cache: Path, new: str, jobs: Sequence[str] = JOBS) -> None:
    """Assert that the cache has the jobs, and the schema of a new one."""
    assert [name for (name,) in _ask(cache, "SELECT job_id FROM job ORDER BY job_id")] == list(jobs)
    assert _ask(cache, SCHEMA) == _ask(new, SCHEMA)
    assert _ask(cache, "PRAGMA integrity_check(1)") == [("ok",)]


def _is_deferring(cache: Path) -> bool:
    """Return whether only those indexes of jobs are there that a first sync keeps."""
    return set(_ask(cache, INDEXES)) == {(name,) for name in deferred_indexes.NEEDED_INDEXES}


def test_a_first_sync_leaves_the_schema_of_a_new_cache(cli: Cli, filled: Remote, new: str) -> None:
    """While rows come in, only the indexes are there that syncs need; in the end, all are, as in a new cache."""
    deferring: list[bool] = []
    _sync(cli, filled, lambda _: deferring.append(_is_deferring(cli.cache)))
    assert deferring == [False, False, True, True]  # noted after each batch, before the next one defers
    _assert_complete(cli.cache, new)


def test_later_syncs_defer_nothing(cli: Cli, filled: Remote, new: str) -> None:
    """A cache that was synced keeps its indexes, however many jobs are new or read again."""
    _sync(cli, filled)
    added = [f"new-{number:02}" for number in range(12)]
    for name in added:
        add(filled.jobs, name)
    _sync(cli, filled, lambda _: _assert_schema(cli.cache, new))
    report = mirror.sync(filled.jobs, str(cli.cache), REMOTE_URL, full=True, now=cli.clock.now)
    assert report.seen == 24
    _assert_complete(cli.cache, new, [*JOBS, *added])


def _assert_schema(cache: Path, new: str) -> None:
    assert _ask(cache, SCHEMA) == _ask(new, SCHEMA)


def test_a_first_sync_ended_at_any_statement_is_completed(
    cli: Cli, filled: Remote, new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache that counts as synced has all indexes, and the next sync makes each cache equal to the registry."""
    deferring = statements = 0
    is_ended = True
    while is_ended:
        shutil.copy(new, cli.cache)
        with monkeypatch.context() as patched:
            _let_die(patched, statements)
            is_ended = False
            try:
                _sync(cli, filled)
            except Killed:
                is_ended = True
        if _ask(cli.cache, "SELECT 1 FROM meta WHERE name = 'synced_at'"):
            _assert_schema(cli.cache, new)
        deferring += _is_deferring(cli.cache)
        _sync(cli, filled)
        _assert_complete(cli.cache, new)
        statements += 1
    assert 30 < deferring < statements


def _let_die(patched: pytest.MonkeyPatch, statements: int) -> None:
    def open_dying(*words: Any) -> Any:
        return DyingConnection(open_to_write(*words), statements)

    patched.setattr(mirror, "open_to_write", open_dying)


def test_a_first_sync_over_a_bad_line_goes_on_without_indexes(cli: Cli, filled: Remote, new: str) -> None:
    """The rows that came stay, views still wait for a complete sync, and the next sync need not defer again."""
    filled.store.break_scan_at = 9
    with pytest.raises(StoreError):
        mirror.sync(cli.app().registry, str(cli.cache), REMOTE_URL, now=cli.clock.now)
    assert len(_ask(cli.cache, "SELECT 1 FROM job")) == 9
    assert _is_deferring(cli.cache)
    assert cli("list", "--offline").code == 5
    filled.store.break_scan_at = None
    _sync(cli, filled)
    _assert_complete(cli.cache, new)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("list --offline", 5),
        ("query --offline 'SELECT count(*) FROM jobs'", 5),
        ("prune --older-than 30d --dry-run", 0),
        ("completion --words active", 0),
        ("metrics", 5),
        ("doctor", 0),
    ],
)
def test_commands_beside_a_first_sync_do_not_miss_its_indexes(
    cli: Cli, filled: Remote, new: str, words: str, code: int
) -> None:
    """No command takes the cache for damaged; views of jobs say as ever that the registry was never synced."""
    seen: list[tuple[int, str]] = []

    def look(_: int) -> None:
        if _is_deferring(cli.cache):
            ran = cli(*shlex.split(words))
            seen.append((ran.code, ran.err))

    _sync(cli, filled, look)
    assert [code for code, _ in seen] == [code, code], seen
    assert not any("no such index" in text or "damaged" in text for _, text in seen)
    assert not list(cli.cache.parent.glob("*.damaged*"))
    _assert_complete(cli.cache, new)


@pytest.mark.parametrize("at", [3, 6, 9])
def test_a_second_first_sync_leaves_all_indexes_to_its_views(cli: Cli, filled: Remote, new: str, at: int) -> None:
    """Two run at once, as listings of an embedded registry do: once either has ended, the other defers nothing."""
    ended: list[int] = []

    def sync_too(seen: int) -> None:
        if seen == at:
            ended.append(_sync(cli, filled).seen)
        if ended:
            _assert_schema(cli.cache, new)

    _sync(cli, filled, sync_too)
    assert ended == [12]
    _assert_complete(cli.cache, new)


def test_indexes_deferred_at_the_last_moment_are_created_too(
    cli: Cli, filled: Remote, new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another first sync defers them between their creation here and the end of this sync."""
    create = deferred_indexes.create_indexes

    def create_and_lose(connection: sqlite3.Connection) -> None:
        create(connection)
        with contextlib.closing(open_to_write(str(cli.cache), REMOTE_URL)) as other:
            deferred_indexes.defer_indexes(other)
        assert _is_deferring(cli.cache)

    monkeypatch.setattr(deferred_indexes, "create_indexes", create_and_lose)
    _sync(cli, filled)
    _assert_complete(cli.cache, new)
