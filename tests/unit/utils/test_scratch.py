"""Directories for a while: those of killed processes are removed, those in use stay."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mopsjobs.utils.scratch import PREFIX, scratch_directory
from support.docs import ROOT

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
