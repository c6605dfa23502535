"""Which files of a directory were opened or written, by whatever process."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mopsjobs.utils import file_watch
from mopsjobs.utils.file_watch import FileWatch
from support.runs import tree

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has inotify")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a directory with a module and some data."""
    names = ("model.py", "plots.py", "README.md", "data/a.csv", "data/b.csv", "data/c.h5")
    tree(tmp_path / "code", dict.fromkeys(names, ""))
    (tmp_path / "code" / "link.csv").symlink_to("data/a.csv")
    return tmp_path / "code"


@pytest.fixture
def watch(root: Path) -> Iterator[FileWatch]:
    with closing(FileWatch(str(root))) as found:
        yield found


def test_files_are_seen_that_python_programs_and_libraries_open(root: Path, watch: FileWatch) -> None:
    """By their own names, also if they were opened through a link. A question whether a file exists opens none."""
    (root / "link.csv").read_text()
    subprocess.run(["cat", "b.csv"], cwd=root / "data", check=True)
    ctypes.CDLL(None).fopen(bytes(root / "data" / "c.h5"), b"r")
    assert (root / "README.md").exists()
    assert watch.opened() == {"data/a.csv", "data/b.csv", "data/c.h5"}


def test_a_module_is_seen_also_where_python_reads_its_cache(root: Path) -> None:
    for _ in range(2):
        with closing(FileWatch(str(root))) as watch:
            subprocess.run([sys.executable, "-c", "import model"], cwd=root, env={}, check=True)
        assert watch.opened() == {"model.py"}  # also after the end
        assert watch.written() is None
    assert list(root.glob("__pycache__/*"))


def test_nothing_is_known_where_modules_are_cached_elsewhere(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python reads a cache outside of the directory, and only asks for the times of the module."""
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(root.with_name("caches")))
    with closing(FileWatch(str(root))) as watch:
        assert watch.opened() is None


@pytest.mark.parametrize("name", ["trace.csv", "README.md", "data/b.csv", "out/trace.csv"])
def test_the_first_file_that_was_written_is_named(root: Path, watch: FileWatch, name: str) -> None:
    """Of a new directory, the directory."""
    assert watch.written() is None
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text("1")
    (root / "later.csv").write_text("1")
    assert watch.written() == name.removesuffix("/trace.csv")


def test_what_the_system_does_not_tell_is_not_known(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It limits what one user watches."""
    monkeypatch.setattr(file_watch, "MAX_FILES", 3)
    with closing(FileWatch(str(root))) as watch:
        assert watch.opened() is None
