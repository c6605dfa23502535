"""Waiting for jobs, as a Python program calls it."""

from __future__ import annotations

import pytest

from mopsjobs.app.following.wait import StopCondition, wait_for
from mopsjobs.app.run.app import App
from mopsjobs.errors import OptionError


@pytest.mark.parametrize("interval", [0, -1.0])
def test_a_wait_without_pauses_is_refused(app: App, interval: float) -> None:
    """It would read the registry as fast as it can, and each read may be billed."""
    with pytest.raises(OptionError, match="invalid interval") as caught:
        wait_for(["a"], app, StopCondition(), interval=interval)
    assert caught.value.fields == ("interval",)
