"""A damaged cache is set aside and rebuilt; what is not a cache is not moved."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from mopsjobs.cache import database as cache_database
from mopsjobs.errors import CacheError
from support.cli import Cli, Remote, sentences


def _garbage(path: Path) -> None:
    path.write_bytes(b"no database at all\n" * 1000)


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


@pytest.mark.parametrize("damage", [_truncated, _middle, _dropped])
@pytest.mark.parametrize("argv", READERS)
def test_a_damaged_cache_is_set_aside_and_rebuilt(
    cli: Cli, filled: Path, damage: object, argv: tuple[str, ...]
) -> None:
    """A damaged file is set aside whole, the cache rebuilt from the registry, and one line on stderr says so."""
    damage(filled)  # type: ignore[operator]
    _assert_rebuilt(cli, filled, argv, filled.read_bytes())


@pytest.mark.parametrize("damage", [_garbage, _truncated, _middle, _dropped])
@pytest.mark.parametrize("argv", READERS)
def test_at_the_default_path_anything_damaged_is_set_aside_and_rebuilt(
    cli: Cli, at_default: Path, damage: object, argv: tuple[str, ...]
) -> None:
    """What lies at the path of our own choosing was ours, even if it is no longer a SQLite file."""
    damage(at_default)  # type: ignore[operator]
    _assert_rebuilt(cli, at_default, argv, at_default.read_bytes())


def test_two_caches_damaged_in_the_same_second_are_both_kept(cli: Cli, filled: Path) -> None:
    """A second file set aside does not replace the first."""
    for _ in range(2):
        _dropped(filled)
        cli.ok("list", "-q")
    assert len([path for path in filled.parent.glob("cache.db.damaged-*") if path.suffix != "-wal"]) == 2


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


def test_a_cache_that_is_held_is_not_taken_for_damaged(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be looked at just now; it is not moved away."""
    connect = cache_database.connect
    monkeypatch.setattr(cache_database, "connect", lambda *args, **more: connect(*args, **more | {"busy_seconds": 0}))
    with closing(sqlite3.connect(filled)) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(CacheError, match="locked"):
            cache_database.quarantine(str(filled), "now")


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
