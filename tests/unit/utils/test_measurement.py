"""What is read of a machine: control groups of both versions, as files below a directory that stands for the system."""

from __future__ import annotations

import ast
import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest

from mopsjobs.runner.pools import process
from mopsjobs.utils import file_watch, measurement
from mopsjobs.utils.cores import thread_limits, usable_cores
from mopsjobs.utils.file_watch import FileWatch
from mopsjobs.utils.measurement import OomKills, count_oom_kills, cpu_quota, memory_size
from support.runs import tree

System = Callable[[dict[str, str]], None]


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    """Let the files of a system be these."""
    monkeypatch.setattr(measurement, "PROC", str(tmp_path / "proc"))
    monkeypatch.setattr(measurement, "GROUPS", str(tmp_path / "groups"))
    return lambda files: tree(tmp_path, files) and None


def test_quota_and_kills_of_version_2(system: System) -> None:
    """The narrowest quota holds, of the group or of one around it."""
    system(
        {
            "proc/self/cgroup": "0::/a/b\n",
            "groups/a/b/cpu.max": "max 100000\n",
            "groups/a/cpu.max": "150000 100000\n",
            "groups/a/b/memory.events": "low 0\noom 3\noom_kill 2\n",
        }
    )
    assert (cpu_quota(), count_oom_kills()) == (1.5, 2)


def test_quota_and_kills_of_version_1(system: System) -> None:
    system(
        {
            "proc/self/cgroup": "4:memory:/x\n2:cpu,cpuacct:/x\n0::/\n",
            "groups/cpu/x/cpu.cfs_quota_us": "50000\n",
            "groups/cpu/x/cpu.cfs_period_us": "100000\n",
            "groups/memory/x/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        }
    )
    assert (cpu_quota(), count_oom_kills()) == (0.5, 1)


def test_a_container_without_control_groups_counts_no_kills_of_its_host(system: System) -> None:
    """They may be those of another container."""
    system({"proc/self/cgroup": "0::/\n", "proc/vmstat": "pgfault 9\noom_kill 3\n"})
    assert count_oom_kills() is None


@pytest.mark.parametrize(("pid", "code", "is_oom"), [(1, -9, True), (1, -15, False), (7, -9, False)])
def test_a_kill_that_is_not_counted_is_one_for_memory_in_a_container(
    system: System, monkeypatch: pytest.MonkeyPatch, *, pid: int, code: int, is_oom: bool
) -> None:
    """Its first process is the runner, and beside that one only the kernel sends SIGKILL to a worker."""
    system({"proc/self/cgroup": "0::/\n"})
    monkeypatch.setattr("os.getpid", lambda: pid)
    assert OomKills().explain(code) == is_oom


def test_the_memory_of_a_machine_is_that_of_the_narrowest_limit(system: System) -> None:
    system({"proc/meminfo": "MemTotal:       2048 kB\nMemFree: 3 kB\n", "proc/self/cgroup": "0::/a/b\n4:memory:/\n"})
    assert memory_size() == 2 * 2**20
    system({"groups/a/b/memory.max": "max\n", "groups/a/memory.max": "1048576\n"})
    assert memory_size() == 2**20
    system({"groups/memory/memory.limit_in_bytes": "4096\n"})
    assert memory_size() == 4096


def test_a_tree_has_descendants_and_what_is_left_of_the_session(system: System) -> None:
    """Not a process that has ended, and no neighbour. A name may look like other fields."""
    parents = {7: (1, 7), 8: (7, 7), 9: (8, 9), 10: (1, 7), 11: (1, 11), 12: (11, 11)}
    system({f"proc/{pid}/stat": f"{pid} (a) S 1 () S {at} 3 {session} 0\n" for pid, (at, session) in parents.items()})
    system({"proc/13/stat": "13 (dead) Z 7 3 7 0\n", "proc/self/stat": "7 (me) S 1 1 7\n"})
    assert measurement.read_parents() == parents
    assert sorted(measurement.tree_of(7, parents)) == [7, 8, 9, 10]
    assert measurement.tree_of(7, parents)[0] == 7
    assert measurement.tree_of(99, parents) == [99]


def test_shared_memory_counts_once_if_the_system_tells(system: System) -> None:
    """It is only looked at if the sum is too much. A process without that file counts with all it has."""
    page = measurement.PAGE
    system({f"proc/{pid}/statm": "900 100 5 1 0 0 0\n" for pid in (7, 8, 9)})
    system({f"proc/{pid}/smaps_rollup": "Rss: 9 kB\nPss:          8 kB\n" for pid in (7, 8)})
    assert measurement.tree_memory([7, 8, 9], 300 * page) == 300 * page
    assert measurement.tree_memory([7, 8, 9], 299 * page) == 16 * 1024 + 100 * page
    assert measurement.tree_memory([7], 1) == 100 * page
    assert measurement.tree_memory([6], 1) == 0


@pytest.mark.parametrize("quota", ["max 100000", "-1 100000", "0 0", "nonsense", ""])
def test_no_quota(system: System, quota: str) -> None:
    system({"proc/self/cgroup": "0::/\n", "groups/cpu.max": quota})
    assert cpu_quota() is None


@pytest.mark.parametrize(("quota", "cores"), [("50000", 1), ("150000", 2), ("300000", 3), ("6400000", 4), ("max", 4)])
def test_cores_are_those_of_affinity_and_quota(
    system: System, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3}, raising=False)
    system({"proc/self/cgroup": "0::/\n", "groups/cpu.max": f"{quota} 100000"})
    assert usable_cores() == cores


def test_libraries_of_numerics_get_the_share_of_a_worker() -> None:
    """What the user has set stays, and with OMP_NUM_THREADS also that the others follow it."""
    assert set(thread_limits({}, 2).values()) == {"2"}
    assert set(thread_limits({}, 0).values()) == {"1"}
    assert "MKL_NUM_THREADS" not in thread_limits({"MKL_NUM_THREADS": "8"}, 2)
    assert thread_limits({"OMP_NUM_THREADS": "8"}, 2) == {}


@pytest.mark.parametrize("module", [file_watch, measurement, process])
def test_the_text_that_dask_workers_get_needs_nothing_else(module: ModuleType) -> None:
    parsed = ast.parse(Path(str(module.__file__)).read_text(), feature_version=(3, 8))
    imported = [node.module for node in ast.walk(parsed) if isinstance(node, ast.ImportFrom)]
    known = {"__future__", "typing", "collections", "collections.abc"}
    assert set(imported) <= known | {"distributed", "dask.system"}  # which a Dask worker has


# --- Which files of a directory were opened or written, by whatever process ------------------------------------------


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
