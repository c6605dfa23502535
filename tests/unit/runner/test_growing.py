"""The tasks of a shard of a growing job: as they are asked for, in shards, repeated, and until nothing is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from threading import Event, current_thread

import pytest

from mopsjobs.errors import RecordError, StoreUnavailableError
from mopsjobs.ledger.attempt import Outcome
from mopsjobs.runner.growing import GrowingFeed, shards_left_to
from mopsjobs.runner.pools.base import TaskResult
from mopsjobs.runner.reporter import Counts
from mopsjobs.store.base import Versioned
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.outputs import Completeness
from mopsjobs.studies.rounds import END, as_sets, encode_round, round_key
from mopsjobs.studies.study import Task
from mopsjobs.studies.study_parser import parse_study
from support.runs import until


class Rounds(InMemoryVersionedStore):
    """The store of a growing job, which may be away, and feeds of its shards."""

    def __init__(self, stack: ExitStack) -> None:
        super().__init__()
        self.store = self
        self.is_away = False
        self.looks, self.failed = Event(), Event()
        self.now, self.count, self.counts = 0.0, 0, Counts()
        self._stack = stack

    def get(self, key: str) -> Versioned | None:
        if self.is_away:
            self.failed.set()
            raise StoreUnavailableError("no answer")
        found = super().get(key)
        if current_thread().name == "rounds" and found is None:
            self.looks.set()
        return found

    def add(self, *values: int) -> None:
        self.count += 1
        sets = encode_round(as_sets([{"x": value} for value in values]))
        assert self.store.create_if_absent(round_key("job", self.count), sets)

    def look_twice(self, feed: GrowingFeed) -> None:
        """Return when the feed has looked for a round, and has decided what follows that there is none."""
        for _ in range(2):
            self.looks.clear()
            feed.rounds.poke()
            until(self.looks.is_set, "a look for a round")

    def feed(self, shard: int = 0, shards: int = 1, *, others: bool = True) -> GrowingFeed:
        study = parse_study({"model": "m:f", "parameter_sets": []}, may_grow=True)
        manifest = Manifest(job_id="job", study=study, bundle="", grows=60.0)
        feed = GrowingFeed(
            manifest, shard, shards, Completeness(0), self.counts, self.store, lambda _total: others, lambda: self.now
        )
        self._stack.callback(feed.rounds.close)
        return feed


@pytest.fixture
def rounds() -> Iterator[Rounds]:
    with ExitStack() as stack:
        yield Rounds(stack)


def taken(feed: GrowingFeed, count: int) -> list[Task]:
    """Return the next tasks, once they were asked for."""
    found: list[Task] = []

    def take() -> bool:
        if (following := next(feed)) is not None:
            found.append(following[1])
        return len(found) == count

    until(take, f"{count} tasks")
    return found


def end(feed: GrowingFeed, task: Task, *, has_failed: bool = False) -> None:
    result = TaskResult(task.number, task, None if has_failed else {}, None, Outcome.SUCCEEDED)
    feed.note(result, has_failed=has_failed)


def test_tasks_come_as_they_are_asked_for(rounds: Rounds) -> None:
    """Without one, the shard waits. It is over with the end mark."""
    feed = rounds.feed()
    assert next(feed) is None
    assert feed.is_idle
    rounds.add(1, 2)
    first, second = taken(feed, 2)
    assert (first.params, second.number, feed.is_idle) == ({"x": 1}, 1, False)
    end(feed, first)
    end(feed, second, has_failed=True)
    assert feed.is_idle
    rounds.store.create_if_absent(round_key("job", 2), END)
    with pytest.raises(StopIteration):
        until(lambda: next(feed) is not None)
    assert feed.growth == (2, 2, 2, 0)


def test_a_task_that_repeats_another_ends_with_it(rounds: Rounds) -> None:
    """While that is at work, it counts with it. After, it is counted as that has ended."""
    feed = rounds.feed()
    rounds.add(1, 2)
    first, second = taken(feed, 2)
    rounds.add(1, 3)
    (third,) = taken(feed, 1)
    assert (third.number, feed.count_of(0), feed.count_of(1)) == (3, 2, 1)
    end(feed, first)
    end(feed, second, has_failed=True)
    end(feed, third)
    rounds.add(2, 1, 3, 4)
    assert [task.number for task in taken(feed, 1)] == [7]
    assert rounds.counts.snapshot() == (2, 1)  # the handler of results counts the others
    assert (feed.total, feed.growth.duplicates) == (8, 4)


def test_shards_have_each_their_tasks(rounds: Rounds) -> None:
    """By number; one that repeats another belongs to the shard of that."""
    feeds = [rounds.feed(shard, 2) for shard in range(2)]
    rounds.add(1, 2, 3, 1)
    assert [[task.number for task in taken(feed, count)] for feed, count in zip(feeds, (2, 1), strict=True)] == [
        [0, 2], [1]
    ]  # fmt: skip
    assert [feed.total for feed in feeds] == [3, 1]
    assert feeds[0].count_of(0) == 2


def test_the_tasks_of_a_shard_that_has_ended_are_taken_over(rounds: Rounds) -> None:
    """Those so far that left no outputs, and all later ones. Its failed tasks are tried again, as by a new run."""
    feed = rounds.feed(0, 3)
    rounds.add(1, 2, 3, 4, 2)
    assert [task.number for task in taken(feed, 2)] == [0, 3]
    found = Completeness(5)
    found.complete[:] = bytes([0, 1, 1, 0, 1])
    feed.take_over(frozenset([2]), found)
    assert next(feed) is None
    assert rounds.counts.snapshot() == (1, 0)
    feed.take_over(frozenset([1]), Completeness(5))
    assert [task.number for task in taken(feed, 1)] == [1]
    assert (feed.total, feed.count_of(1)) == (5, 2)
    rounds.add(5, 6)
    assert [task.number for task in taken(feed, 2)] == [5, 6]


@pytest.mark.parametrize(
    ("lost", "left"),
    [
        ([], [[], [], [], []]),
        ([1], [[], [], [1], []]),
        ([1, 2], [[], [], [], [1, 2]]),
        ([0, 3], [[], [0, 3], [], []]),
        ([0, 1, 2], [[], [], [], [0, 1, 2]]),
        ([0, 1, 2, 3], [[], [], [], []]),
    ],
)
def test_one_shard_alone_runs_the_tasks_of_each_that_has_ended(lost: list[int], left: list[list[int]]) -> None:
    """A further end moves no others: each shard would count them."""
    assert [sorted(shards_left_to(shard, 4, lost)) for shard in range(4)] == left


def test_nothing_asked_for_during_the_idle_time_ends_the_job(rounds: Rounds) -> None:
    """No time counts as idle in which a task is at work, here or in another shard."""
    feed = rounds.feed()
    rounds.add(1)
    (task,) = taken(feed, 1)
    rounds.now = 100.0
    feed.rounds.poke()
    assert next(feed) is None
    end(feed, task)
    rounds.now = 159.0
    feed.rounds.poke()
    assert next(feed) is None
    rounds.now = 160.0
    with pytest.raises(StopIteration):
        until(lambda: next(feed) is not None)
    found = rounds.store.get(round_key("job", 2))
    assert found is not None
    assert found.value == END


def test_a_round_that_comes_at_the_end_of_the_idle_time_begins_it_anew(rounds: Rounds) -> None:
    """Also while the pool has not taken it yet: its client has just asked."""
    feed = rounds.feed()
    rounds.add(1)
    rounds.now = 60.0
    feed.rounds.poke()
    until(lambda: feed.rounds._number == 1, "the round to be read")
    rounds.look_twice(feed)
    assert rounds.get(round_key("job", 2)) is None
    assert [task.number for task in taken(feed, 1)] == [0]


def test_an_outage_is_no_idle_time(rounds: Rounds) -> None:
    """A client waits for the registry meanwhile, and may have sets to ask for."""
    rounds.is_away = True
    feed = rounds.feed()
    rounds.now = 100.0
    for _ in range(2):  # the first one may have begun before
        rounds.failed.clear()
        feed.rounds.poke()
        until(rounds.failed.is_set, "a look that fails")
    rounds.is_away = False
    rounds.look_twice(feed)
    assert rounds.get(round_key("job", 1)) is None


def test_an_invalid_round_is_an_error_of_the_run(rounds: Rounds) -> None:
    """Nothing after it has known numbers."""
    feed = rounds.feed()
    rounds.store.create_if_absent(round_key("job", 1), b"[]")
    with pytest.raises(RecordError, match="not a round"):
        until(lambda: next(feed) is not None)


def test_the_idle_time_waits_for_other_shards(rounds: Rounds) -> None:
    """What they have at work is of the same job."""
    feed = rounds.feed(others=False)
    rounds.now = 1000.0
    rounds.add(1)
    assert [task.number for task in taken(feed, 1)] == [0]
    assert rounds.store.get(round_key("job", 2)) is None
