"""A calibration under kills. That with 100 kills, on an Azurite that goes away, is in `./build.sh reliability`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from reliability.calibrations import CALM, STORM, Storm, compare


def test_kills_do_not_change_the_journal(tmp_path: Path) -> None:
    """Of coordinators, workers and the runner: it is that of another number of workers undisturbed, byte for byte."""
    storm = Storm(tmp_path, seed=1, rounds=6)
    found = {CALM: storm.finish(storm.begin(CALM, 1))}
    found[STORM] = storm.suffer(Counter(coordinators=2, workers=2, runners=1), None)
    assert list(compare(storm, found, 6))
    assert storm.kills["coordinators"] > 0
