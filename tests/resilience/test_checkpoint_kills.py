"""Tasks with checkpoints lose little when their workers and their runner are killed: a quick part of `reliability`."""

from __future__ import annotations

from pathlib import Path

from reliability import checkpoints
from reliability.trial import Trial


def test_kills_at_random_steps_cost_one_interval_each(tmp_path: Path) -> None:
    """And the outputs are those of tasks that nothing has disturbed."""
    assert list(checkpoints.over(Trial(tmp_path, seed=1, scale=0.08), "local"))
