"""What is acknowledged has been brought to disk before, as the system saw it: strace tells in which order."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from mopsjobs.cache.database import open_to_write
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from support.cli import Cli, command, environment
from support.runs import PATIENCE

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
