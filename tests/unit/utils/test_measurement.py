"""What is read of a machine: control groups of both versions, as files below a directory that stands for the system."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mopsjobs.utils import measurement
from mopsjobs.utils.cores import thread_limits, usable_cores
from mopsjobs.utils.measurement import count_oom_kills, cpu_quota, peak_rss
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


def test_a_container_that_does_not_see_the_path_of_its_host(system: System) -> None:
    system(
        {
            "proc/self/cgroup": "0::/pods/p/c\n",
            "groups/cpu.max": "200000 100000\n",
            "groups/memory.events": "oom_kill 7\n",
        }
    )
    assert (cpu_quota(), count_oom_kills()) == (2.0, 7)


@pytest.mark.parametrize("quota", ["max 100000", "-1 100000", "0 0", "nonsense", ""])
def test_no_quota(system: System, quota: str) -> None:
    system({"proc/self/cgroup": "0::/\n", "groups/cpu.max": quota})
    assert cpu_quota() is None


def test_a_system_that_tells_nothing(system: System) -> None:
    assert (cpu_quota(), count_oom_kills(), peak_rss(os.getpid())) == (None, 0, None)
    assert usable_cores() >= 1


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


def test_the_text_that_dask_workers_get_needs_nothing_else() -> None:
    parsed = ast.parse(Path(measurement.__file__).read_text(), feature_version=(3, 8))
    imported = [node.module for node in ast.walk(parsed) if isinstance(node, ast.ImportFrom)]
    assert set(imported) <= {"__future__", "typing", "collections.abc"}
