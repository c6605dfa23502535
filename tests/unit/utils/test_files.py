"""Files that come whole or not at all, and what a killed process leaves of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from mopsjobs.utils import files
from mopsjobs.utils.scratch import PREFIX, scratch_directory
from support.docs import ROOT
from support.runs import PATIENCE, at_once


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def killed_in_a_draft(path: Path) -> None:
    """Let a process be killed after it has written half of a file."""
    source = f"""
import os, signal
from mopsjobs.utils.files import atomic_file
with atomic_file({str(path)!r}, 0o600) as beside:
    with open(beside, "w") as file:
        file.write("half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
"""
    root = Path(files.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", source], cwd=root).returncode == -signal.SIGKILL


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """It has the new content, its mode, and nothing lies beside it."""
    path = tmp_path / "file"
    files.replace_file(str(path), b"one")
    files.replace_file(str(path), b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert names(tmp_path) == ["file"]


def test_who_was_killed_leaves_one_file_and_the_next_takes_it_over(tmp_path: Path) -> None:
    """However often it happens, what was there is there still, and a single other file."""
    path = tmp_path / "file"
    files.replace_file(str(path), b"whole")
    for _ in range(2):
        killed_in_a_draft(path)
        assert path.read_bytes() == b"whole"
        assert names(tmp_path) == ["file", "file.part"]
    files.replace_file(str(path), b"-")
    assert path.read_bytes() == b"-"
    assert names(tmp_path) == ["file"]


def test_many_at_once_write_one_after_the_other(tmp_path: Path) -> None:
    """What is there in the end is the whole of one of them."""
    path = tmp_path / "file"
    contents = [bytes([number]) * 100_000 for number in range(8)]
    at_once(lambda content: files.replace_file(str(path), content), contents)
    assert path.read_bytes() in contents
    assert names(tmp_path) == ["file"]


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    """A user who may write the directory cannot have another file overwritten by it."""
    (tmp_path / "file.part").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic link"):
        files.replace_file(str(tmp_path / "file"), b"new")
    assert not (tmp_path / "precious").exists()


def test_a_registry_whose_creator_was_killed_is_made_by_the_next(tmp_path: Path) -> None:
    """What was left, a journal included, does not get into it, and is gone afterwards."""
    path = tmp_path / "registry.db"
    killed_in_a_draft(path)
    for suffix in ("-wal", "-journal", "-shm"):
        Path(f"{path}.part{suffix}").write_bytes(os.urandom(4096))
    store = SQLiteVersionedStore(path)
    assert store.create_if_absent("key", b"value")
    store.close()
    assert names(tmp_path) == ["registry.db"]


def test_a_draft_that_is_done_does_not_stay_locked_by_a_forked_child(tmp_path: Path) -> None:
    """The child lives on with all that its parent had open; who waited for the draft has it as soon as it is done."""
    source = f"""
import fcntl, os
from mopsjobs.utils.files import atomic_file
reading, writing = os.pipe()
with atomic_file({str(tmp_path / "file")!r}, 0o600) as beside:
    waiting = os.open(beside, os.O_RDWR)
    child = os.fork()
    if child == 0:
        os.read(reading, 1)
        os._exit(0)
fcntl.flock(waiting, fcntl.LOCK_EX | fcntl.LOCK_NB)
os.write(writing, b".")
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", source], cwd=Path(files.__file__).parents[2], check=True, timeout=PATIENCE)


def test_who_is_stopped_half_way_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by Ctrl-Z: the lock is held and nothing moves. That is an error of its own kind, and what was there stays."""
    path = tmp_path / "file"
    files.replace_file(str(path), b"whole")
    now = iter(range(1000))
    monkeypatch.setattr("mopsjobs.utils.files.time", SimpleNamespace(monotonic=lambda: next(now), sleep=lambda _: None))
    with files.atomic_file(str(path), 0o600), pytest.raises(TimeoutError, match="another process is making it"):
        files.replace_file(str(path), b"-")
    assert path.read_bytes() == b"whole"


# --- Directories for a while: those of killed processes are removed, those in use stay -------------------------------

HOLDER = """
import sys
from mopsjobs.utils.scratch import scratch_directory
with scratch_directory(sys.argv[1]) as path:
    print(path, flush=True)
    sys.stdin.read()
"""


def test_the_directory_of_a_killed_process_is_removed_by_the_next(tmp_path: Path) -> None:
    """Not while the process lives. What has another name, or leads elsewhere, stays."""
    other = tmp_path / "mops-jobs-other"
    other.mkdir()
    (tmp_path / f"{PREFIX}link").symlink_to(other)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    with holder:
        assert holder.stdout is not None
        held = Path(os.fsdecode(holder.stdout.readline().rstrip(b"\n")))
        with scratch_directory(str(tmp_path)) as mine:
            (Path(mine) / "file").touch()
            assert held.is_dir()
        assert not Path(mine).exists()
        holder.kill()
    with scratch_directory(str(tmp_path)):
        assert not held.exists()
    assert sorted(tmp_path.iterdir()) == sorted([other, tmp_path / f"{PREFIX}link"])
