"""What `doctor` says of a Slurm."""

from __future__ import annotations

from pathlib import Path

import pytest

from mopsjobs.app.care.checks import describe_slurm
from support.slurm_commands import FakeSlurm


@pytest.mark.parametrize(("size", "limit"), [("1001", "up to 1,000 shards per job"), ("(null)", "MaxArraySize (null)")])
def test_the_largest_job_array_is_said_in_shards(tmp_path: Path, size: str, limit: str) -> None:
    """The shards of an array are counted from 0, and Slurm's limit is the first number that none of them has."""
    slurm = FakeSlurm(tmp_path / "slurm")
    slurm.says("scontrol", f"slurm 24.11.5\nClusterName = lab\nMaxArraySize = {size}\n")
    assert describe_slurm(slurm.env).endswith(f", {limit}")
