"""A simulated day leaves nothing behind that grows; and the trial that says so can fail.

The whole of it, also over Azurite, is `./build.sh reliability --only life`.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest

from mopsjobs.registry.announcements import slot_of
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.memory import InMemoryVersionedStore
from reliability.life import day as life
from reliability.life.writers import Writer, announcements, lives, reports
from reliability.trial import Figure, Trial
from support.cli import START, Clock

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Open files and memory are read as Linux tells them.")


def _counts(figures: list[Figure]) -> dict[str, str]:
    return {figure.what.partition(": ")[2]: str(figure.count) for figure in figures}


def test_a_day_over_one_file_leaves_nothing_behind(tmp_path: Path) -> None:
    """Few writers, a sync each hour: nothing grows, no event is missing, and the caches equal the registry."""
    counts = _counts(life.embedded(Trial(tmp_path, seed=1, scale=life.SHORT)))
    assert int(counts["syncs, delta"]) > 0
    assert int(counts["syncs, full"]) > 0
    assert int(counts["syncs of the page by itself"]) > 1
    assert int(counts["events that had to be there in the end, and were"]) > 0
    assert int(counts["pages"]) > 0


def test_writers_announce_what_the_day_before_is_said_to_have_announced() -> None:
    """The plan of a day, from which the announcements of the day before are made, is what writers do."""
    store, clock = InMemoryVersionedStore(), Clock()
    clock.moment = START
    minutes = range(300)
    writer = Writer(0, lambda: store, random.Random(1), minutes, clock.now)
    store.close = lambda: None  # type: ignore[method-assign] - of all jobs the same one
    for minute in minutes:
        clock.moment = START + timedelta(minutes=minute)
        writer.work(minute)
    writer.close()
    planned = announcements(1, random.Random(1), minutes, lambda at: START + timedelta(minutes=at))
    assert set(store.list_keys("changes/")) == planned
    assert all(key >= slot_of(START) for key in planned)
    jobs = Counter(job.status for job in JobRegistry(store).list_jobs())
    assert sum(jobs.values()) == len(writer.done) == len(list(lives(0, random.Random(1), minutes)))
    assert sum(one.emitted for one in writer.done) == sum(
        len(set(reports(one, minutes))) for one in lives(0, random.Random(1), minutes)
    )
