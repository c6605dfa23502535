"""Delays between attempts grow, stay below their cap, and spread as the jitter says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@given(failures=st.integers(1, 10_000), drawn=st.floats(0, 1), jitter=st.floats(0, 1), factor=st.floats(1, 10))
def test_no_delay_is_negative_or_above_the_cap(failures: int, drawn: float, jitter: float, factor: float) -> None:
    """Neither rounding nor a large power leads out of the bounds."""
    backoff = Backoff(0.05, 3.0, factor=factor, jitter=jitter, random=lambda: drawn)
    assert 0 <= backoff.delay(failures) <= 3.0


def test_wait_sleeps_for_the_next_delay() -> None:
    """`wait` counts a failure and hands its delay to the given sleep."""
    sleep = RecordingSleep()
    backoff = Backoff(1.0, 9.0, random=lambda: 0.25, sleep=sleep)
    backoff.wait()
    backoff.wait()
    assert sleep.requested == [0.25, 0.5]


def test_a_sleep_in_steps_ends_with_its_time_or_its_flag() -> None:
    """The last step is the rest of the time; no step begins once the flag is set."""
    sleep = RecordingSleep()
    sleep_unless(lambda: False, 0.5, sleep, 0.2)
    assert sleep.requested == [0.2, 0.2, pytest.approx(0.1)]
    sleep = RecordingSleep()
    sleep_unless(lambda: len(sleep.requested) == 1, 10.0, sleep, 0.2)
    assert sleep.requested == [0.2]
