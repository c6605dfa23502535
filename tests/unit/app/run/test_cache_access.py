"""The access to the cache: one repair, wherever the damage is found, and its place without a writable home."""

from __future__ import annotations

import contextlib
import io
import os
import pwd
import shutil
import sqlite3
import tempfile
from functools import partial
from pathlib import Path

import pytest

from mopsjobs.app.run import config
from mopsjobs.app.run.cache_access import CacheAccess
from mopsjobs.app.run.embedded_registry import CacheLocation, EmbeddedRegistry
from mopsjobs.app.run.freshness import Freshness, FreshnessPolicy
from mopsjobs.console.printer import Printer
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.utils.times import utc_now
from support.cli import REMOTE_URL, Cli, Remote, add, sentences, unprivileged

REFRESH = FreshnessPolicy(refresh=True)


class Access(CacheAccess):
    """The access to a cache of a remote registry with one job; it counts syncs."""

    def __init__(self, directory: Path) -> None:
        env = {"HOME": str(directory), "MOPS_JOBS_REGISTRY": REMOTE_URL}
        settings = config.load({}, env, str(directory))
        self.err = io.StringIO()
        self.opened_registries = 0
        self.job_registry = JobRegistry(InMemoryVersionedStore())
        self.job_registry.register_job("a")
        out = Printer(None, self.err, env)
        location = CacheLocation(settings, out)
        embedded = EmbeddedRegistry(settings, location, out)
        super().__init__(
            settings, out, location=location, embedded=embedded, open_registry=self.open_registry, now=utc_now
        )

    def open_registry(self) -> JobRegistry:
        self.opened_registries += 1
        return self.job_registry

    def damage(self) -> None:
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            connection.execute("DROP TABLE job")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@pytest.fixture
def access(tmp_path: Path) -> Access:
    """Return the access to a cache that was synced once."""
    made = Access(tmp_path)
    made.sync(wait=None)
    made.opened_registries = 0
    return made


def count(connection: sqlite3.Connection, _: Freshness | None = None) -> int:
    return int(connection.execute("SELECT count(*) FROM job").fetchone()[0])


def test_a_view_that_finds_the_damage_is_called_again(access: Access) -> None:
    """Damage may be found in the middle of a query; the view is then called again over the rebuilt cache."""
    calls = []

    def view(connection: sqlite3.Connection, freshness: Freshness) -> int:
        calls.append(freshness.synced_at)
        if len(calls) == 1:
            access.damage()
        return count(connection)

    assert access.read(view, FreshnessPolicy()) == 1
    assert len(calls) == 2
    assert access.err.getvalue().count("Set aside as") == 1


def test_a_view_of_a_damaged_cache_repairs_once(access: Access) -> None:
    """A sync for a view that finds the damage leaves the repair to the view: two attempts, two syncs, one line."""
    access.damage()
    assert access.read(count, REFRESH) == 1
    assert access.opened_registries == 2
    assert len(access.err.getvalue().splitlines()) == 1


def test_a_read_of_the_damaged_cache_as_it_is_finds_none(access: Access) -> None:
    """Without a sync nothing rebuilds the cache: it is set aside, and there is none."""
    access.damage()
    assert access.read_cached(count) is None
    assert access.write(count) == 0


def test_a_cache_in_a_home_that_cannot_be_written_is_read(
    cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing shows what it has, without the network; `sync` says that it cannot write it, and makes no other."""
    add(remote.jobs, "a", "running")
    home, temporary = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    del cli.env["MOPS_JOBS_CACHE"]
    cli.ok("sync", "-q", HOME=str(home))
    add(remote.jobs, "b", "running")
    for path in [home, *home.rglob("*")]:
        if os.geteuid() == 0:
            os.chown(path, 65534, -1)
        path.chmod(0o555 if path.is_dir() else 0o444)
    monkeypatch.chdir(home)
    with unprivileged():
        monkeypatch.setattr(os, "getuid", os.geteuid)
        monkeypatch.setattr(os, "access", partial(os.access, effective_ids=True))
        listed = cli("list", "-q", HOME=str(home))
        synced = cli("sync", HOME=str(home))
    assert (listed.code, listed.lines, listed.err) == (0, ["a"], "")
    assert (synced.code, synced.out) == (1, "")
    assert f"Cannot write the cache {home}/" in synced.err
    assert not list(temporary.iterdir())
    shutil.rmtree(home)
    temporary.rmdir()


@pytest.mark.claim("Without a home directory nothing is below `./~`")
def test_without_a_home_the_cache_is_in_a_private_directory(
    cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """HOME is not set, and the user has no entry: a listing works, says where its cache is, and makes no `./~`."""
    add(remote.jobs, "a", "running")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    for name in ("HOME", "MOPS_JOBS_CACHE"):
        del cli.env[name]
    before = sorted(Path.cwd().rglob("*"))
    ran = cli("list", "-q")
    private = temporary / f"mops-jobs-{os.getuid()}"
    assert (ran.code, ran.lines) == (0, ["a"])
    assert sentences(ran.err) == [f"There is no writable home; the cache is {next(private.glob('*.db'))}"]
    assert JobDir.for_job("a", cli.env).path == private / "jobs" / "a"
    assert sorted(Path.cwd().rglob("*")) == before
    temporary.chmod(0o777)
    refused = cli("list", "-q")
    assert (refused.code, refused.out) == (1, "")
    assert f"Other users can replace {private}" in refused.err


def no_entry(uid: int) -> None:
    """Answer as the password database does for a user that it does not have."""
    raise KeyError(uid)


@pytest.mark.claim("A temporary directory that others may enter is not used")
def test_a_temporary_directory_that_others_may_enter_is_not_trusted(
    cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The user who made it first could read or replace the cache: refused in one sentence."""
    place = tmp_path / f"mops-jobs-{os.getuid()}"
    place.mkdir()
    place.chmod(0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("mopsjobs.utils.user_dirs.can_be_created", lambda directory: False)
    del cli.env["MOPS_JOBS_CACHE"]
    assert f"Other users may have access to {place}." in cli.fails(1, "list")
