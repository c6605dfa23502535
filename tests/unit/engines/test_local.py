"""The lock of a shard, which tells whether its runner is at work on this machine."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from mopsjobs.engines import local
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.local import LocalEngine, shard_lock
from mopsjobs.errors import JobBusyError


def test_a_process_that_looks_for_a_runner_is_not_taken_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the lock meanwhile. On a busy machine that may take seconds, for which a new runner waits."""
    monkeypatch.setattr(local, "PROBE_SECONDS", 0.01)
    env = {"XDG_STATE_HOME": str(tmp_path)}
    directory = JobDir.for_job("job", env)
    directory.path.mkdir(parents=True)
    looks, is_held = list[bool](), local._is_held
    with open(directory.lock_file(0), "wb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert LocalEngine(env).state({"job_id": "job"}).phase == "gone"

        def look(path: Path) -> bool:
            looks.append(is_held(path))
            if len(looks) == 3:
                fcntl.flock(other, fcntl.LOCK_UN)
            return looks[-1]

        monkeypatch.setattr(local, "_is_held", look)
        with shard_lock(directory, "job", 0):
            assert looks == [False] * 3
            assert LocalEngine(env).state({"job_id": "job"}).phase == "running"
            with pytest.raises(JobBusyError), shard_lock(directory, "job", 0):
                pass
