"""Delays between attempts grow, stay below their cap, and spread as the jitter says."""

from __future__ import annotations

import pytest

from mopsjobs.utils.backoff import FULL_JITTER, HALF_JITTER, NO_JITTER, Backoff, sleep_unless
from support.doubles import RecordingSleep


def test_delays_grow_up_to_the_cap_and_begin_again_after_a_success() -> None:
    """Each delay is `factor` times the one before; `reset` forgets the failures."""
    backoff = Backoff(0.5, 3.0, jitter=NO_JITTER)
    assert [backoff.next_delay() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert backoff.failures == 5
    backoff.reset()
    assert backoff.next_delay() == 0.5
    backoff = Backoff(0.2, 3.0, factor=5.0, jitter=NO_JITTER)
    assert [backoff.next_delay() for _ in range(3)] == [0.2, 1.0, 3.0]


@pytest.mark.parametrize(
    ("jitter", "lowest"), [(FULL_JITTER, 0.0), (HALF_JITTER, 1.0), (NO_JITTER, 2.0)], ids=["full", "half", "none"]
)
def test_jitter_is_the_share_that_is_drawn(jitter: float, lowest: float) -> None:
    """The lowest draw leaves the rest of the delay, the highest draw all of it."""
    assert Backoff(2.0, 9.0, jitter=jitter, random=lambda: 0.0).next_delay() == lowest
    assert Backoff(2.0, 9.0, jitter=jitter, random=lambda: 1.0).next_delay() == 2.0


def test_a_sleep_in_steps_ends_with_its_time_or_its_flag() -> None:
    """The last step is the rest of the time; no step begins once the flag is set."""
    sleep = RecordingSleep()
    sleep_unless(lambda: False, 0.5, sleep, 0.2)
    assert sleep.requested == [0.2, 0.2, pytest.approx(0.1)]
    sleep = RecordingSleep()
    sleep_unless(lambda: len(sleep.requested) == 1, 10.0, sleep, 0.2)
    assert sleep.requested == [0.2]
