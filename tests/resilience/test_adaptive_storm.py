"""An adaptive study under kills. That with 20 kills in each case is `./build.sh reliability --only adaptive`."""

from __future__ import annotations

from pathlib import Path

import pytest

from reliability import adaptive
from reliability.trial import Trial
from support.slurm import missing_programs

QUICK = 0.2


@pytest.mark.long
@pytest.mark.parametrize("name", ["local, workers: 2", "Dask, workers: 2", "Slurm with a drop of files, workers: 2"])
def test_kills_change_neither_counts_nor_outputs(tmp_path: Path, name: str) -> None:
    """Of runners, workers and shards, with a replicate that fails at first, and after it was repaired."""
    if name.startswith("Slurm") and missing_programs():
        pytest.skip("there is no Slurm")
    lab = adaptive.make_lab(tmp_path / "bench", 1)
    expected = adaptive.calm(lab)
    assert expected[0].precision["failed"] == expected[1].precision["at_max"] == 1
    assert list(adaptive.over(Trial(tmp_path, 1, QUICK), name, lab, expected))
