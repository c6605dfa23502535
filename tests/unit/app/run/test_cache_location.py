"""Where the cache is without a home, or in a home that cannot be written."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import tempfile
from functools import partial
from pathlib import Path

import pytest

from mopsjobs.engines.job_dir import JobDir
from support.cli import Cli, Remote, add, sentences, unprivileged


def test_without_a_writable_home_the_cache_is_a_private_temporary_one(
    cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is below the temporary directory.

    The listing works, a note says where the cache is, and no other user can enter its directory.
    """
    add(remote.jobs, "a", "running")
    temporary, home = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())
    temporary.chmod(0o1777)
    home.chmod(0o555)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    del cli.env["MOPS_JOBS_CACHE"]
    monkeypatch.chdir(home)
    with unprivileged():
        monkeypatch.setattr(os, "getuid", os.geteuid)  # as for every user but root
        monkeypatch.setattr(os, "access", partial(os.access, effective_ids=True))
        ran = cli("list", "-q", HOME=str(home))
        again = cli("list", "-q", "--offline", HOME=str(home))
        private = temporary / f"mops-jobs-{os.geteuid()}"
    assert (ran.code, ran.lines, again.lines) == (0, ["a"], ["a"])
    assert sentences(ran.err) == [f"There is no writable home; the cache is {next(private.glob('*.db'))}"]
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert not list(home.iterdir())
    shutil.rmtree(temporary)
    home.rmdir()


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
@pytest.mark.parametrize("trap", ["open to others", "a link"])
def test_a_temporary_directory_that_others_may_enter_is_not_trusted(
    cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trap: str
) -> None:
    """The user who made it first could read or replace the cache: refused in one sentence."""
    place = tmp_path / f"mops-jobs-{os.getuid()}"
    if trap == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        place.symlink_to(tmp_path / "elsewhere")
    else:
        place.mkdir()
        place.chmod(0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("mopsjobs.utils.user_dirs.can_be_created", lambda directory: False)
    del cli.env["MOPS_JOBS_CACHE"]
    ran = cli("list")
    assert (ran.code, ran.out, len(sentences(ran.err))) == (1, "", 1)
    assert f"Other users may have access to {place}." in ran.err
