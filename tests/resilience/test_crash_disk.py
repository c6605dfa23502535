"""A disk that is full, or read-only: views still show what is there, writes say one clear sentence, nothing is torn."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from mopsjobs.cache.database import open_to_write
from mopsjobs.errors import StoreError
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from mopsjobs.utils.files import SUFFIX
from support.cli import Cli, Remote, add, command, environment, sentences
from support.runs import PATIENCE


class Disk:
    """A small file system of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> None:
        """Take all the room that there is."""
        with (self.path / "filler").open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1024))
            except OSError:
                pass

    def empty(self) -> None:
        """Give the room back."""
        (self.path / "filler").unlink()

    def remount(self, *options: str) -> None:
        subprocess.run(["mount", "-o", ",".join(("remount", *options)), str(self.path)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Yield a tmpfs of 600 KiB, where this process may mount one."""
    path = tmp_path / "disk"
    path.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(path)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", str(path)], check=True)


def one_sentence(err: str, *words: str) -> None:
    """Check that the error is one sentence with these words in it."""
    (said,) = sentences(err)
    assert said.startswith("error: ")
    assert all(word in said for word in words), said
    assert "Unexpected" not in said


# --- full -----------------------------------------------------------------------------------------------------------


def test_a_cache_on_a_full_disk_shows_what_it_has(cli: Cli, remote: Remote, disk: Disk) -> None:
    """The sync says so, and listings go on. With room again, the next sync repairs it."""
    cli.env["MOPS_JOBS_CACHE"] = str(disk.path / "cache.db")
    add(remote.jobs, "old", "running")
    cli.ok("sync")
    disk.fill()
    for number in range(60):
        add(remote.jobs, f"new-{number}", "running", metadata={"note": "x" * 3000})
    one_sentence(cli.fails(1, "sync"), "full")
    assert cli.ids() == ["old"]
    ran = cli("list", "--refresh")
    assert (ran.code, "full" in ran.err) == (5, True)
    disk.empty()
    disk.remount("size=8m")
    assert "60 added" in cli.ok("sync").out


def test_a_registry_on_a_full_disk_refuses_and_loses_nothing(cli: Cli, disk: Disk) -> None:
    """A write that does not fit is refused with 5; what was acknowledged is there, and with room all goes on."""
    cli.env["MOPS_JOBS_REGISTRY"] = f"sqlite://{disk.path}/registry.db"
    cli.ok("register", "job")
    disk.fill()
    for argv in (["register", "other"], ["progress", "job", "1/2"]):
        one_sentence(cli.fails(5, *argv), "disk")
    disk.empty()
    cli.ok("progress", "job", "1/2")
    assert cli.ids() == ["job"]
    assert not [path for path in disk.path.iterdir() if SUFFIX in path.name]


@pytest.mark.parametrize("kilobytes", range(8, 112, 16))
def test_a_registry_is_made_whole_or_not_at_all(disk: Disk, kilobytes: int) -> None:
    """Wherever the disk is full: with room again it can be used, and is not what closing left unwritten."""
    disk.remount(f"size={kilobytes}k")
    path = disk.path / "registry.db"
    with contextlib.closing(SQLiteVersionedStore(path)) as store, contextlib.suppress(StoreError):
        store.create_if_absent("a", b"")
    disk.remount("size=600k")
    with contextlib.closing(SQLiteVersionedStore(path)) as store:
        assert store.create_if_absent("b", b"") is not None
        assert "b" in list(store.list_keys())
    assert [one.name for one in disk.path.iterdir()] == ["registry.db"]


def test_what_is_written_as_a_whole_stays_whole(cli: Cli, disk: Disk) -> None:
    """A textfile on a full disk keeps what it says."""
    cli.ok("register", "job")
    cli.ok("list")
    path = disk.path / "m.prom"
    cli.ok("metrics", "--textfile", str(path))
    before = path.read_bytes()
    disk.fill()
    one_sentence(cli.fails(1, "metrics", "--textfile", str(path)), "No space left")
    assert path.read_bytes() == before
    assert sorted(os.listdir(disk.path)) == ["filler", "m.prom"]


@pytest.mark.parametrize("argv", [["register", "new", "--json"], ["update", "job", "failed", "--json"]])
def test_a_report_whose_output_finds_no_room_says_that_it_was_made(cli: Cli, argv: list[str]) -> None:
    """Else a script would do it again; which job it was stands there too."""
    cli.ok("register", "job")
    with open("/dev/full", "wb") as full:
        ran = subprocess.run(command(*argv), env=environment(cli), stdout=full, stderr=subprocess.PIPE, text=True)
    assert ran.returncode == 1
    one_sentence(ran.stderr, "No space left")
    assert "The command was completed." in ran.stderr
    assert sorted(cli.ids()) == sorted({"job", argv[1]})


@pytest.mark.parametrize(("argv", "code"), [(["wait", "job"], 100), (["status", "no"], 3)])
def test_a_log_that_finds_no_room_changes_nothing(cli: Cli, argv: list[str], code: int) -> None:
    """With `2>> full.log`, the exit code, by which scripts go, and the output are the same."""
    cli.ok("register", "job")
    cli.ok("update", "job", "failed")
    whole = cli(*argv)
    with open("/dev/full", "wb") as full:
        ran = subprocess.run(command(*argv), env=environment(cli), stdout=subprocess.PIPE, stderr=full, text=True)
    assert (ran.returncode, ran.stdout, bool(whole.err)) == (code, whole.out, True)


# --- read-only ------------------------------------------------------------------------------------------------------

VIEWS = (
    ["list"],
    ["status", "job"],
    ["summary"],
    ["query", "SELECT job_id FROM jobs"],
    ["events", "job"],
    ["metrics"],
    ["list", "--offline"],
)
WRITES = ((["sync"], 1), (["register", "other"], 4), (["update", "job", "running"], 4), (["progress", "job", "1/2"], 4))


def views_answer(cli: Cli) -> None:
    for argv in VIEWS:
        ran = cli(*argv)
        assert ran.code == 0, (argv, ran)
        assert "job" in ran.out, argv
        assert "error" not in ran.err, argv
    for argv, code in WRITES:
        one_sentence(cli.fails(code, *argv))


def test_a_read_only_disk_can_be_looked_at(cli: Cli, disk: Disk) -> None:
    """Views show what is there, and writes are refused in one sentence each."""
    cli.env["MOPS_JOBS_REGISTRY"] = f"sqlite://{disk.path}/registry.db"
    cli.env["MOPS_JOBS_CACHE"] = str(disk.path / "cache.db")
    cli.ok("register", "job")
    cli.ok("events", "job")
    cli.ok("list")
    disk.remount("ro")
    try:
        views_answer(cli)
        told = cli.ends(1, "doctor")
        assert re.search(r"^fail +cache ", told.out, re.MULTILINE), told
    finally:
        disk.remount("rw")


# --- What is acknowledged has been brought to disk before, as the system saw it: strace tells in which order ---------

CALLS = "write,pwrite64,writev,pwritev,fsync,fdatasync,rename,renameat,renameat2,link,linkat"
_CALL = re.compile(r"^(?:\d+ +)?(?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>-?\d+)")
_PATH = re.compile(r'^\d+<(?P<path>[^>]*)>|"(?P<from>[^"]*)", (?:AT_FDCWD(?:<[^>]*>)?, )?"(?P<to>[^"]*)"')


class Call(NamedTuple):
    """A request of the process to the system: writing to, or syncing, a path; or putting it into a place (`to`)."""

    name: str
    path: str
    to: str
    text: str


def calls(trace: str) -> list[Call]:
    """Return the calls of a trace by `strace -y` that succeeded, in order."""
    found = []
    for line in trace.splitlines():
        if (call := _CALL.match(line)) and int(call["result"]) >= 0:
            arguments = re.sub(r"^AT_FDCWD(<[^>]*>)?, ", "", call["arguments"])
            if named := _PATH.match(arguments):
                path, to = named["path"] or named["from"], named["to"] or ""
                found.append(Call(call["name"], path, to, arguments))
    return found


def is_synced_before(made: list[Call], path: str, end: int) -> bool:
    """Return True if the path was synced after the last write to it, before the call of that number."""
    last = [(number, call.name) for number, call in enumerate(made[:end]) if call.path == path]
    writes = [number for number, name in last if "write" in name]
    syncs = [number for number, name in last if "sync" in name]
    return bool(writes) and bool(syncs) and max(syncs) > max(writes)


def traced(cli: Cli, tmp_path: Path, *argv: str) -> list[Call]:
    """Run the command under strace."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("there is no strace: on Debian, apt-get install strace")
    trace = tmp_path / "trace"
    words = [strace, "-f", "-y", "-s", "200", "-o", str(trace), "-e", f"trace={CALLS}", *command(*argv)]
    ran = subprocess.run(words, env=environment(cli), capture_output=True, text=True, timeout=PATIENCE)
    if ran.returncode and "ptrace" in ran.stderr:
        pytest.skip(f"strace may not trace here: {ran.stderr.splitlines()[0]}")
    assert ran.returncode == 0, ran
    return calls(trace.read_text())


def acknowledged(made: list[Call], text: str) -> int:
    """Return the number of the call that printed that."""
    return next(number for number, call in enumerate(made) if call.name == "write" and text in call.text)


@pytest.mark.parametrize("new", [True, False])
def test_a_write_is_on_disk_before_it_is_acknowledged(cli: Cli, tmp_path: Path, new: bool) -> None:
    """The WAL of the embedded registry is synced before the line is printed; a new file's directory, too."""
    if not new:
        cli.ok("register", "other")
    registry = cli.env["MOPS_JOBS_REGISTRY"].removeprefix("sqlite://")
    made = traced(cli, tmp_path, "register", "job")
    end = acknowledged(made, "job: pending")
    assert is_synced_before(made, f"{registry}-wal", end)
    assert is_synced_before(made, registry, end)  # by the checkpoint at its end
    if new:
        placed = next(number for number, call in enumerate(made) if call.to == registry)
        assert is_synced_before(made, f"{registry}.part", placed)
        directory = [number for number, call in enumerate(made) if call.path == str(Path(registry).parent)]
        assert any(placed < number < end for number in directory)


def test_a_textfile_is_on_disk_before_it_takes_its_place(cli: Cli, tmp_path: Path) -> None:
    """First its content, then its name, then the directory."""
    cli.ok("register", "job")
    cli.ok("list")
    path = str(tmp_path / "m.prom")
    made = traced(cli, tmp_path, "metrics", "--textfile", path)
    placed = next(number for number, call in enumerate(made) if call.to == path)
    assert is_synced_before(made, f"{path}.part", placed)
    assert any(call.name == "fsync" and call.path == str(tmp_path) for call in made[placed:])


def test_the_levels_of_durability_are_those_of_the_design(tmp_path: Path) -> None:
    """FULL for what is the truth, NORMAL for the mirror of it; both in WAL."""
    store = SQLiteVersionedStore(tmp_path / "registry.db")
    store.create_if_absent("key", b"value")
    cache = open_to_write(str(tmp_path / "cache.db"), "memory:")
    with store._write_transaction() as registry:
        for connection, level in ((registry, 2), (cache, 1)):
            assert connection.execute("PRAGMA synchronous").fetchone() == (level,)
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    cache.close()
    store.close()
