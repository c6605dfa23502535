"""Which hours of events a sync lists."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest

from mopsjobs.cache.sync import events as mirror
from mopsjobs.events.format import chunk_key
from support.cli import START


@pytest.mark.parametrize(
    ("hours", "count", "first"),
    [(0, 2, "events/20260301T11/"), (5, 7, "events/20260301T11/"), (80, 4, "events/20260301T"), (2000, 1, "events/")],
)
def test_what_is_listed_follows_the_gap(hours: int, count: int, first: str) -> None:
    """Short gaps are listed by the hour, longer ones by the day, very long ones at once."""
    listed = mirror.prefixes_to_list(START, START + timedelta(hours=hours))
    assert (len(listed), listed[0]) == (count, first)


def test_a_clock_that_was_set_back_overlooks_nothing() -> None:
    """If the last sync lies ahead, everything is listed."""
    assert mirror.prefixes_to_list(START, START - timedelta(hours=1)) == ["events/"]


def test_every_moment_of_a_gap_is_covered() -> None:
    """Whatever the gap, a chunk written in it, or up to 15 minutes aside, lies under a listed prefix."""
    draw = random.Random(1)
    for _ in range(300):
        begin = START + timedelta(minutes=draw.randrange(10**6))
        until = begin + timedelta(minutes=int(10 ** (draw.random() * 5.2)))
        inside = begin - timedelta(minutes=15) + (until - begin + timedelta(minutes=30)) * draw.random()
        for job in (None, "job"):
            listed = mirror.prefixes_to_list(begin, until, job)
            assert sum(chunk_key(inside, "job", "w", 1).startswith(prefix) for prefix in listed) == 1
