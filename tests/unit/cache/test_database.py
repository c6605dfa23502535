"""The cache file: private, shared by many, and never a reason to lose anything."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from mopsjobs.cache import database as cache_database
from mopsjobs.errors import CacheError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.sqlite.store import APPLICATION_ID
from mopsjobs.utils.sqlite_file import WAL_BYTES
from support.cli import REMOTE_URL, Cli, Remote, add, key, sentences, unprivileged


@pytest.mark.claim("What mops-jobs keeps is 0600, its directories 0700")
def test_the_cache_is_private(cli: Cli, filled: Path) -> None:
    """Names and errors of jobs are private: the file has mode 0600, what lies beside it too, its directory 0700."""
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in filled.parent.glob("cache.db*")}
    assert set(modes.values()) == {0o600}, modes
    place = filled.parent / "made" / "cache.db"
    cli.ok("sync", "--cache", str(place))
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700


FOREIGN = {
    "text": b"My notes.\n" * 100,
    "long text": b"no database at all\n" * 1000,
    "binary": bytes(range(256)) * 64,
    "database": "CREATE TABLE job (job_id TEXT)",
    "marked database": "PRAGMA application_id = 7; PRAGMA user_version = 1",
}
"""Files that are not caches: bytes, or statements of SQLite."""


def _write_foreign(path: Path, kind: str) -> None:
    content = FOREIGN[kind]
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(content)


COMMANDS = [
    ("list",),
    ("list", "--json", "--offline"),
    ("sync",),
    ("status", "job-07"),
    ("wait", "no", "--timeout", "1s"),
]


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("named_by", ["--cache", "MOPS_JOBS_CACHE"])
def test_what_is_no_cache_is_refused_and_left_byte_for_byte(
    cli: Cli, remote: Remote, kind: str, argv: tuple[str, ...], named_by: str
) -> None:
    """A file that the user named and that has never been a cache: exit code 2, one sentence, and it stays as it is."""
    place = cli.cache.parent / "precious"
    _write_foreign(place, kind)
    before = place.read_bytes()
    ran = cli(*argv, "--cache", str(place)) if named_by == "--cache" else cli(*argv, MOPS_JOBS_CACHE=str(place))
    assert (ran.code, ran.out, len(sentences(ran.err))) == (2, "", 1)
    assert f"{place} is not a cache of mops-jobs; it is left unchanged." in ran.err
    assert place.read_bytes() == before
    assert not list(place.parent.glob("precious.damaged-*"))


@pytest.mark.parametrize("argv", [("list",), ("sync",), ("status", "a"), ("register", "b"), ("doctor",)])
def test_the_registry_itself_is_no_cache(cli: Cli, jobs: JobRegistry, argv: tuple[str, ...]) -> None:
    """`--cache` that names the file of the registry harms nothing in it; a report goes to the registry as ever."""
    add(jobs, "a", "running")
    registry = cli.cache.parent / "registry.db"
    before = list(jobs.store.scan("jobs/"))
    ran = cli(*argv, "--cache", str(registry))
    if argv == ("register", "b"):
        assert ran.code == 0
        jobs.store.delete(key("b"))
    else:
        assert ran.code == 2
        assert (ran.out + ran.err).count("is not a cache of mops-jobs; it is left unchanged.") == 1
    assert list(jobs.store.scan("jobs/")) == before
    assert not list(registry.parent.glob("registry.db.*"))
    with closing(sqlite3.connect(registry)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master WHERE name = 'meta'").fetchone() is None


@pytest.mark.parametrize("mark", [7, APPLICATION_ID])
def test_a_damaged_database_of_another_program_is_left_alone(cli: Cli, remote: Remote, mark: int) -> None:
    """Whether it is a registry or anything else of SQLite's: its header says that it is not a cache."""
    place = cli.cache.parent / "precious"
    with closing(sqlite3.connect(place)) as connection:
        connection.execute(f"PRAGMA application_id = {mark}")
        connection.executescript("CREATE TABLE objects (x); INSERT INTO objects VALUES (randomblob(99999));")
    os.truncate(place, 20_000)
    before = place.read_bytes()
    ran = cli("list", "--cache", str(place))
    assert (ran.code, len(sentences(ran.err))) == (2, 1)
    assert place.read_bytes() == before
    assert not list(place.parent.glob("precious.*"))


def test_the_cache_bears_its_mark(filled: Path) -> None:
    """`file` and SQLite tell it from others by the application id in its header. In WAL mode, readers never wait."""
    with closing(sqlite3.connect(filled)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA application_id").fetchone() == (cache_database.APPLICATION_ID,)
    assert filled.read_bytes()[68:72] == b"mopc"


def test_an_empty_file_is_a_cache_not_begun(cli: Cli, filled: Path) -> None:
    """An empty file, as a full disk or a `touch` leaves it, is filled without a word."""
    filled.write_bytes(b"")
    ran = cli.ok("list", "--json", "--limit", "0")
    assert (ran.json["total"], ran.err) == (60, "")


@pytest.mark.parametrize("argv", [("list",), ("list", "--json"), ("status", "job-07"), ("sync",), ("doctor",)])
def test_a_cache_from_a_newer_version_is_refused_untouched(cli: Cli, filled: Path, argv: tuple[str, ...]) -> None:
    """What a newer version has made is refused in one sentence, and not one byte of it changes."""
    with closing(sqlite3.connect(filled)) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = filled.read_bytes()
    ran = cli.ends(1, *argv)
    said = ran.out + ran.err if argv == ("doctor",) else ran.err
    assert said.count("newer mops-jobs (schema 99") == 1
    if argv != ("doctor",):
        assert ran.out == ""
        assert len(sentences(ran.err)) == 1
    assert filled.read_bytes() == before
    assert not list(filled.parent.glob("*.damaged-*"))


def test_a_write_does_not_fail_over_a_cache_it_cannot_use(cli: Cli, remote: Remote, filled: Path) -> None:
    """Reporting a job works with a cache from a newer version: the record is what counts."""
    with closing(sqlite3.connect(filled)) as connection:
        connection.execute("PRAGMA user_version = 99")
    cli.ok("register", "new-1", "-q")
    assert remote.jobs.get_job("new-1") is not None


@pytest.mark.parametrize("argv", [("list",), ("sync",), ("status", "job-07")])
def test_the_cache_of_another_registry_is_refused(cli: Cli, filled: Path, argv: tuple[str, ...]) -> None:
    """A cache mirrors one registry; under another one's URL it is refused with exit code 2, naming both."""
    other = "https://example.blob.core.windows.net/other"
    assert f"mirrors {cli.env['MOPS_JOBS_REGISTRY']}, not {other}" in cli.fails(2, *argv, "--registry", other)


@pytest.fixture
def read_only(filled: Path) -> object:
    """Yield a copy of the filled cache that every user may read and none may write, beside its directory."""
    directory = Path(tempfile.mkdtemp())
    shutil.copy(filled, directory / "cache.db")
    (directory / "cache.db").chmod(0o444)
    directory.chmod(0o555)
    yield directory / "cache.db"
    directory.chmod(0o700)
    shutil.rmtree(directory)


def test_a_cache_that_cannot_be_written_can_be_read(cli: Cli, remote: Remote, read_only: Path) -> None:
    """`list` and `status` answer from a cache in a directory that they may not write."""
    with unprivileged():
        listed = cli("list", "--json", "--limit", "0", "--cache", str(read_only))
        shown = cli("status", "job-07", "--json", "--cache", str(read_only))
    assert (listed.code, listed.json["total"], listed.err) == (0, 60, "")
    assert (shown.code, shown.json["job_id"]) == (0, "job-07")


def test_a_sync_into_a_read_only_place_is_refused_in_one_sentence(cli: Cli, read_only: Path) -> None:
    """A sync that may not write its cache says which file, and what to do."""
    with unprivileged():
        ran = cli("sync", "--cache", str(read_only))
    assert (ran.code, ran.out) == (1, "")
    assert len(sentences(ran.err)) == 1
    assert f"Cannot write the cache {read_only}" in ran.err
    assert "--cache PATH" in ran.err


def test_a_cache_that_is_held_is_not_taken_for_damaged(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be looked at just now; it is not moved away."""
    connect = cache_database.connect
    monkeypatch.setattr(cache_database, "connect", lambda *args, **more: connect(*args, **more | {"busy_seconds": 0}))
    with closing(sqlite3.connect(filled)) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(CacheError, match="locked"):
            cache_database.quarantine(str(filled), "now")


@pytest.mark.skipif(os.name == "nt", reason="Locks of files work in another way there.")
def test_a_writer_does_not_release_the_locks_of_a_reader_in_its_process(tmp_path: Path) -> None:
    """As in `serve`: another process that leaves meanwhile does not take the WAL away from who is still there."""
    path = str(tmp_path / "cache.db")
    with closing(cache_database.open_to_write(path, REMOTE_URL)) as first:
        first.execute("INSERT INTO meta VALUES ('a', '1')")
        cache_database.open_to_write(path, REMOTE_URL).close()
        script = f"from mopsjobs.cache.database import open_to_write; open_to_write({path!r}, {REMOTE_URL!r}).close()"
        subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[3], check=True)
        assert os.path.exists(f"{path}-wal")


def test_a_large_write_leaves_no_large_wal(tmp_path: Path) -> None:
    """While others have the cache open, SQLite would keep the WAL as large as it ever was."""
    path = str(tmp_path / "cache.db")
    with (
        closing(cache_database.open_to_write(path, REMOTE_URL)) as writer,
        closing(cache_database.open_to_write(path, REMOTE_URL)),
    ):
        writer.execute("INSERT INTO meta VALUES ('large', zeroblob(?))", (3 * WAL_BYTES,))
        assert os.path.getsize(f"{path}-wal") > 3 * WAL_BYTES
        for number in range(2):
            writer.execute("INSERT INTO meta VALUES (?, '')", (f"small {number}",))
        assert os.path.getsize(f"{path}-wal") <= WAL_BYTES


@pytest.mark.parametrize("has_links", [True, False])
def test_a_new_cache_comes_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_links: bool) -> None:
    """A reader that looks before it is whole finds none, also on a file system without hard links. Nothing is left."""
    path = tmp_path / "cache.db"
    seen: list[bool] = []

    def connected(*args: object, **named: object) -> sqlite3.Connection:
        seen.append(path.exists())
        return connect(*args, **named)  # type: ignore[call-overload,no-any-return]

    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", connected)
    if not has_links:
        monkeypatch.setattr(os, "link", refused)
    cache_database.open_to_write(str(path), "registry").close()
    assert seen == [False, True]
    assert [one.name for one in tmp_path.iterdir()] == ["cache.db"]
    assert path.stat().st_mode & 0o777 == 0o600


def _middle(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as opened:
        opened.seek(4096)
        opened.write(b"\xff" * (size - 4096))


def _truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _dropped(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE job")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _assert_rebuilt(cli: Cli, path: Path, argv: tuple[str, ...], broken: bytes) -> None:
    ran = cli.ok(*argv)
    assert len(sentences(ran.err)) == 1
    assert "damaged" in ran.err
    assert "Set aside as" in ran.err
    asides = path.parent.glob(f"{path.name}.damaged-*")
    (aside,) = (found for found in asides if not found.name.endswith(("wal", "shm")))
    assert aside.name in ran.err
    assert aside.read_bytes() == broken
    assert len(cli.ids("--offline", "--limit", "0")) == 60


READERS = [("list", "--json", "--limit", "0"), ("sync", "-q"), ("status", "job-07", "--json")]


@pytest.mark.parametrize("damage", [lambda path: _write_foreign(path, "long text"), _truncated, _middle, _dropped])
@pytest.mark.parametrize("argv", READERS)
def test_at_the_default_path_anything_damaged_is_set_aside_and_rebuilt(
    cli: Cli, at_default: Path, damage: object, argv: tuple[str, ...]
) -> None:
    """What lies at the path of our own choosing was ours, even if it is no longer a SQLite file."""
    damage(at_default)  # type: ignore[operator]
    _assert_rebuilt(cli, at_default, argv, at_default.read_bytes())


def test_a_damaged_cache_behind_a_link_is_set_aside_where_it_lies(cli: Cli, filled: Path, tmp_path: Path) -> None:
    """With its WAL, which lies there too; the link leads to the new one."""
    real = tmp_path / "elsewhere" / "real.db"
    real.parent.mkdir()
    filled.rename(real)
    filled.symlink_to(real)
    _middle(real)
    _assert_rebuilt(cli, real, ("list", "--json"), real.read_bytes())
    assert filled.is_symlink()


def test_what_a_link_leads_to_is_moved_only_if_it_was_a_cache(cli: Cli, at_default: Path, tmp_path: Path) -> None:
    """At the path of our own choosing too: a user has put the link there, and the file is elsewhere."""
    victim = tmp_path / "victim.txt"
    victim.write_text("precious\n")
    at_default.unlink()
    at_default.symlink_to(victim)
    ran = cli("list")
    assert (ran.code, len(sentences(ran.err))) == (2, 1)
    assert "is not a cache of mops-jobs; it is left unchanged." in ran.err
    assert victim.read_text() == "precious\n"
    assert [path.name for path in tmp_path.glob("victim*")] == ["victim.txt"]


@pytest.mark.parametrize("argv", [("list",), ("list", "--offline"), ("sync",), ("register", "b")], ids=" ".join)
def test_a_pipe_in_the_place_of_a_cache_is_not_waited_at(cli: Cli, remote: Remote, argv: tuple[str, ...]) -> None:
    """No process writes to it, so a reader that opens it waits for ever."""
    os.mkfifo(cli.cache)
    ran = cli(*argv)
    if argv[0] == "register":
        assert ran.code == 0
    else:
        assert (ran.code, len(sentences(ran.err))) == (2, 1)
        assert "is not a cache of mops-jobs" in ran.err


def test_who_finds_a_cache_mended_takes_no_lock_away(filled: Path) -> None:
    """Two threads of a page find it damaged at once: what the second looks at is in use, and stays as it is."""
    with closing(sqlite3.connect(filled)) as connection:
        connection.execute("UPDATE meta SET value = value")
        connection.commit()
        cache_database.check_is_cache(str(filled))
        assert cache_database.quarantine(str(filled), "now") is None
        # Another process is the last to leave by its own lights if ours has lost its locks, and takes the WAL along.
        code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM meta'); c.close()"
        subprocess.run([sys.executable, "-c", code, str(filled)], check=True)
        assert Path(f"{filled}-wal").exists()
    assert sorted(path.name for path in filled.parent.glob("cache.db*")) == ["cache.db", "cache.db.lock"]


@pytest.fixture
def at_default(cli: Cli, filled: Path) -> Path:
    """Return the same cache at the path of our own choosing, with the settings that lead there."""
    del cli.env["MOPS_JOBS_CACHE"]
    place = Path(cli.ok("config", "show", "--json").json["cache"]["value"])
    cli.ok("sync")
    return place


@pytest.mark.parametrize("words", ["list", "status job-07", "tasks job-07", "failures job-07", "summary", "list --csv"])
def test_offline_a_damaged_cache_is_told_and_left(cli: Cli, remote: Remote, filled: Path, words: str) -> None:
    """Nothing fills a new one, so each view says the same until a sync does."""
    _middle(filled)
    for _ in range(2):
        ran = cli(*words.split(), "--offline")
        error, hint = ran.err.splitlines()
        assert ran.code == 1
        assert error.startswith(f"error: The cache {filled} is damaged: ")
        assert hint == "hint: To fill a new one from the registry, run: mops-jobs sync"
    assert not list(filled.parent.glob("cache.db.damaged-*"))
    assert "Set aside as" in cli.ok("sync", "-q").err
    assert cli.ok("list", "--offline", "-q").lines


def test_a_damaged_cache_without_a_registry_is_told_as_such(cli: Cli, remote: Remote, filled: Path) -> None:
    """With the registry gone as well, the damaged file is still set aside, and the exit code is 5."""
    _middle(filled)
    remote.store.down = True
    ran = cli("list", "--json")
    assert (ran.code, ran.out) == (5, "")
    assert "Set aside as" in ran.err
    assert list(filled.parent.glob("cache.db.damaged-*"))
