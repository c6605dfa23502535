"""How often a follower looks for events."""

from __future__ import annotations

import pytest

from mopsjobs.app.following.event_feed import pause_after


@pytest.mark.parametrize(
    ("listed", "seconds"), [(0, 2.0), (4999, 2.0), (5000, 2.0), (25_000, 10.0), (150_000, 60.0), (10**7, 60.0)]
)
def test_the_pause_grows_with_what_was_listed(listed: int, seconds: float) -> None:
    assert pause_after(listed) == pytest.approx(seconds)
