"""A calibration as a Python program gets it."""

from __future__ import annotations

import pytest

from mopsjobs.api.calibration import Calibration
from mopsjobs.app.following.calibrate import Calibrated
from support.calibrated import journal_of


@pytest.mark.parametrize(("mode", "said"), [("synchronous", "1 round"), ("asynchronous", "1 set")])
def test_it_counts_what_its_mode_tells(mode: str, said: str) -> None:
    """As the command does: in asynchronous mode, a round is a set."""
    done = Calibrated("fit", journal_of("fit", 1, mode=mode), "succeeded")
    assert repr(Calibration(None, done, lambda _: [])) == f"<Calibration fit: {said}>"
