"""A calibration under kills. That with 100 kills, on an Azurite that goes away, is in `./build.sh reliability`."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path

from mopsjobs.store import open_store
from reliability import calibrations


def test_kills_do_not_change_the_journal(tmp_path: Path) -> None:
    """Of coordinators, workers and the runner: it is that of another number of workers undisturbed, byte for byte."""
    url = f"sqlite://{tmp_path}/registry.db"
    storm = calibrations.Storm(tmp_path, url, {}, seed=1, rounds=6)
    found = {calibrations.CALM: storm.finish(storm.begin(calibrations.CALM, 1))}
    with closing(open_store(url, {})) as store:
        wanted = Counter(coordinators=2, workers=2, runners=1)
        found[calibrations.STORM] = storm.suffer(wanted, store, None)
        assert list(calibrations.compare(storm, store, found, 6))
    assert storm.kills["coordinators"] > 0
