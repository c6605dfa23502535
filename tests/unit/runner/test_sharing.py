"""Shards that share tasks: what runs, when one stays for tasks of others, and what its reports say of sharing."""

from __future__ import annotations

import json
import random
import select
import threading
from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack
from typing import Any
from unittest import mock

import pytest

from mopsjobs.ledger.attempt import NO_USAGE
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.precision_counts import COUNTS
from mopsjobs.runner.adaptive import AdaptiveFeed
from mopsjobs.runner.pools.base import TaskResult
from mopsjobs.runner.reporter import Counts
from mopsjobs.runner.sharing import (
    BEAT_SECONDS,
    IDLE_SECONDS,
    LOST_SECONDS,
    MAX_OFFERED,
    PACK_PAUSE,
    START_SECONDS,
    Document,
    HelperSide,
    OwnerSide,
    SharedFeed,
    Taken,
    count_to_offer,
    count_to_take,
    parse,
)
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.outputs import find_complete_tasks
from mopsjobs.studies.study import Study, Task
from support.adaptive import REPLICATES, adaptive_study
from support.runs import PATIENCE


class Job:
    """The shards of a job, which share a clock, a store and a record. Nothing runs by itself."""

    def __init__(self, study: Study, shards: int, workers: int = 1) -> None:
        self.manifest = Manifest(job_id="job", study=study, bundle="sha256:" + "0" * 64)
        self.store, self.now = InMemoryVersionedStore(), 0.0
        self.told: dict[str, dict[str, int]] = {}
        """What each shard has reported of sharing."""
        self.done: set[int] = set()
        self.begun: Container[int] = range(shards)
        self.shards = [Shard(self, number, shards, workers) for number in range(shards)]

    @property
    def record(self) -> JobState:
        """Return the record."""
        at = "2026-01-01T00:00:00Z"
        begun = (one.number for one in self.shards if one.number in self.begun)
        shards = {str(number): [0, 0, int(number in self.done)] for number in begun}
        counts = dict.fromkeys(COUNTS, 0)
        metadata = {"precision": {"shards": {name: {**counts, **told} for name, told in self.told.items()}}}
        return JobState(job_id="job", status="running", created_at=at, updated_at=at, metadata=metadata, shards=shards)


class Shard:
    """A shard, in place of its reporter, with a pool whose tasks end when the test says so."""

    def __init__(self, job: Job, number: int, shards: int, workers: int) -> None:
        self.job, self.number, self.shards, self.workers = job, number, shards, workers
        self.counts, self.hand, self.is_over = Counts(), list[tuple[int, Task]](), False
        self.ended, self.was_last = threading.Event(), None
        self.after_done: Callable[[], object] = lambda: None
        found = find_complete_tasks(job.store, job.manifest)
        self.own = AdaptiveFeed(job.manifest, number, shards, found, self.counts)
        reporter: Any = self
        self.feed = SharedFeed(
            self.own, job.manifest, number, shards, job.store, reporter, f"r{number}", lambda _key: True,
            clock=lambda: job.now,
        )  # fmt: skip
        self.feed.workers = workers
        self.feed.on_moved = self._note_moved
        self.moved = 0
        """How often it was told that tasks come which others may have begun."""

    def _note_moved(self) -> None:
        self.moved += 1

    @property
    def state(self) -> JobState:
        return self.job.record

    def note_done(self) -> None:
        self.job.done.add(self.number)
        self.was_last = len(self.job.done) == self.shards
        self.after_done()

    def report(self) -> None:
        self.job.told[str(self.number)] = dict(self.feed.precision().sharing)

    def begin(self) -> None:
        """Begin a task, if there is one."""
        try:
            following = next(self.feed)
        except StopIteration:
            self.is_over = not self.hand
            return
        if following is not None:
            self.hand.append(following)

    def end(self, place: int = 0) -> tuple[int, float]:
        """End a task. Return its number and its value."""
        position, task = self.hand.pop(place)
        value = 100 + task.params["sd"] * random.Random(task.seed).gauss(0, 1)
        outputs = {"result.json": json.dumps({"peak": value}).encode()}
        self.counts.add(completed=self.feed.count_of(task.number))
        usage = NO_USAGE._replace(seconds=10.0)
        self.feed.note(TaskResult(position, task, outputs, None, usage=usage), has_failed=False)
        self.feed.note_stored(task, outputs)
        return task.number, value

    def take(self) -> None:
        for task, end in self.feed.take_ended():
            self.counts.add(completed=self.own.count_of(task.number))
            self.own.end(task.number, self.own.named(end))


@pytest.fixture
def jobs() -> Iterator[Any]:
    """Return `Job`, whose shards are closed at the end."""
    with ExitStack() as after:

        def make(*args: Any) -> Job:
            job = Job(*args)
            for shard in job.shards:
                after.callback(shard.feed.close)
            return job

        yield make


@pytest.mark.parametrize("shards", [1, 2, 4])
@pytest.mark.parametrize("workers", [1, 2, 16])
def test_no_number_of_shards_and_no_order_changes_what_runs(jobs: Any, shards: int, workers: int) -> None:
    """All hard sets are in the first shard. Its helpers run some of their tasks, and each task runs once."""
    easy = [{"sd": 0.1 + place / 100} for place in range(3)]
    study = adaptive_study([{"sd": 50.0}, *easy, {"sd": 3.0}, *({"sd": one["sd"] / 2} for one in easy)])
    alone = _run(jobs(study, 1, 1), random.Random(0))
    job = jobs(study, shards, workers)
    assert _run(job, random.Random(shards * workers)) == alone
    assert sum(shard.counts.completed for shard in job.shards) == len(alone)
    assert any(shard.feed.has_helped for shard in job.shards) == (shards > 1)
    assert all(shard.moved and shard.feed.has_shared for shard in job.shards if shard.feed.has_helped)
    assert job.shards[0].feed.has_shared == (shards > 1)


def _run(job: Job, chance: random.Random) -> dict[int, float]:
    """Return the values of the tasks, by their numbers. What happens next is drawn."""
    values: dict[int, float] = {}
    while not all(shard.is_over for shard in job.shards):
        job.now += 1.0
        shard = chance.choice(job.shards)
        shard.report()
        shard.take()
        if chance.random() < 0.5 and not shard.is_over:
            shard.feed.look()
        if shard.hand and chance.random() < 0.3:
            number, value = shard.end(chance.randrange(len(shard.hand)))
            assert number not in values, "no task runs twice"
            values[number] = value
        elif len(shard.hand) < shard.workers and not shard.is_over:
            shard.begin()
    return values


def _helper(
    jobs: Any, told: dict[str, int], *, begun: Container[int] = frozenset((0, 1)), **attributes: Callable[[], object]
) -> Shard:
    """Return a shard that has just run its own four tasks, when another one has reported this of sharing.

    Args:
        jobs: the fixture.
        told: what the other one has reported.
        begun: the shards that have reported.
        attributes: of the feed of the shard.
    """
    job = jobs(adaptive_study([{"sd": 50.0}, {"sd": 0.1}]), 2)
    job.told["0"], job.begun = told, begun
    shard: Shard = job.shards[1]
    for name, value in attributes.items():
        setattr(shard.feed, name, value)
    for _ in range(4):
        shard.begin()
        shard.end()
    shard.begin()
    return shard


def test_a_thread_that_fails_ends_its_run(jobs: Any) -> None:
    """Tasks that are away would never come back."""
    feed = jobs(adaptive_study([{"sd": 50.0}, {"sd": 0.1}]), 2).shards[0].feed
    with mock.patch.object(feed, "look", side_effect=ArithmeticError("of no store")):
        feed.start()
        assert select.select([feed.waker], [], [])[0]
    with pytest.raises(ArithmeticError, match="of no store"):
        next(feed)


def test_a_thread_that_is_closed_before_it_looks_ends(jobs: Any) -> None:
    """It forgets then what it was woken for, and without offers it would wait for ever."""
    feed = jobs(adaptive_study([{"sd": 50.0}, {"sd": 0.1}]), 2).shards[0].feed
    feed.look()  # nothing is left of an earlier run
    clear = feed._poked.clear

    def close_before() -> None:
        feed._is_closing = True
        feed._ends.set()
        feed._poked.set()
        clear()

    with mock.patch.object(feed._poked, "clear", close_before):
        feed.start()
        feed._thread.join(PATIENCE)
    assert not feed._thread.is_alive()


def test_a_task_may_end_while_the_thread_looks(jobs: Any) -> None:
    """A thread that sends outputs notes the end of a task while that of another is about to be told."""
    feed = jobs(adaptive_study([{"sd": 50.0}, {"sd": 0.1}]), 2).shards[1].feed
    ended = HelperSide("1.r1", lambda _number: True)
    ended.ends = {0: [0.5], 1: [0.5]}
    feed._helps[0] = ended

    def end_another(_key: str) -> bool:
        ended.ends[2] = [0.5]
        return True

    with mock.patch.object(feed, "_is_stored", end_another):
        assert not feed._look_at_other(0)


def test_a_shard_to_which_none_gives_ends_at_once(jobs: Any) -> None:
    assert _helper(jobs, {}).is_over


def test_a_shard_ends_when_the_others_have_ended(jobs: Any) -> None:
    shard = _helper(jobs, {"gives": 40})
    assert not shard.is_over
    assert shard.feed.precision().sharing == {"free": 1}
    shard.job.done.add(0)
    shard.begin()
    assert (shard.is_over, shard.feed.stays, dict(shard.feed.precision().sharing)) == (True, True, {})


def test_a_shard_is_done_when_the_store_has_its_outputs(jobs: Any) -> None:
    """Else another one could end the job without them. Meanwhile it asks for their pack."""
    unsent, packs = [1], list[int]()
    shard = _helper(jobs, {"gives": 40}, has_stored_own=lambda: not unsent, pack_soon=lambda: packs.append(1))
    shard.job.now += PACK_PAUSE
    shard.take()
    assert (shard.job.done, dict(shard.feed.precision().sharing), packs, shard.is_over) == (set(), {}, [1], False)
    unsent.clear()
    shard.begin()
    assert (shard.job.done, dict(shard.feed.precision().sharing)) == ({1}, {"free": 1})
    shard.job.now += PACK_PAUSE
    shard.take()
    assert packs == [1]


def test_one_of_two_shards_that_end_together_ends_the_job(jobs: Any) -> None:
    """It is the one whose report came last."""
    job = jobs(adaptive_study([{"sd": 0.2}, {"sd": 0.1}]), 2)
    first, last = job.shards
    first.after_done = lambda: job.done.add(1)
    for shard in (first, last):
        for _ in range(4):
            shard.begin()
            shard.end()
        shard.begin()
    assert [(shard.is_over, shard.feed.stays) for shard in job.shards] == [(True, True), (True, False)]


@pytest.mark.parametrize(
    ("told", "begun", "seconds"),
    [
        pytest.param({"gives": 40}, {0, 1}, IDLE_SECONDS, id="another may be lost"),
        pytest.param({}, {1}, START_SECONDS, id="another has not begun"),
    ],
)
def test_a_shard_that_gets_nothing_ends_in_time(
    jobs: Any, told: dict[str, int], begun: set[int], seconds: float
) -> None:
    """A minute after its last task, since the record tells of no lost shard; sooner for one that has not begun."""
    shard = _helper(jobs, told, begun=begun)
    shard.job.now += seconds - 1
    shard.begin()
    assert not shard.is_over
    shard.job.now += 1
    shard.begin()
    assert shard.is_over


def _long_tasks(jobs: Any) -> tuple[Shard, Shard]:
    """Return the owner of one set, whose tasks take hours, and a helper."""
    job = jobs(adaptive_study([{"sd": 50.0}], n_replicates={**REPLICATES, "min": 40}), 2)
    owner, helper = job.shards
    for shard in job.shards:
        shard.begin()
        shard.report()
    return owner, helper


def _pass(*shards: Shard) -> None:
    """Let ten minutes pass."""
    for _ in range(60):
        shards[0].job.now += 10.0
        for shard in shards:
            shard.report()
            shard.take()
            shard.feed.look()
            if len(shard.hand) < shard.workers:
                shard.begin()


def test_tasks_are_offered_before_any_has_ended(jobs: Any) -> None:
    """Else the workers of other shards idle as long as the first one takes; but not while the model is loaded."""
    owner, helper = _long_tasks(jobs)
    owner.feed.is_ready = lambda: False
    owner.job.now += 10.0
    owner.take()
    assert owner.feed.away == 0
    owner.feed.is_ready = lambda: True
    _pass(owner, helper)
    assert (len(owner.hand), len(helper.hand)) == (1, 1)
    assert owner.feed.away > 1, "the next one waits for the helper"


def test_a_helper_waits_while_the_tasks_of_an_owner_are_at_work(jobs: Any) -> None:
    """None may be offered before the first has ended. A lost owner writes nothing, and holds no helper for ever."""
    owner, helper = _long_tasks(jobs)
    owner.feed.may_offer = lambda: False
    _pass(owner, helper)
    assert (helper.hand, helper.is_over) == ([], False)
    _pass(helper)
    assert helper.is_over


def test_a_helper_waits_while_another_one_is_at_work(jobs: Any) -> None:
    """The next look of the set may need many workers, when its last task has ended."""
    job = jobs(adaptive_study([{"sd": 50.0}], n_replicates={**REPLICATES, "min": 3}), 3)
    owner, busy, idle = job.shards
    _pass(owner, busy, idle)
    owner.end()
    idle.end()
    _pass(owner, busy, idle)
    assert [len(shard.hand) for shard in job.shards] == [0, 1, 0]
    assert not idle.is_over
    busy.end()
    _pass(owner, busy, idle)
    assert idle.hand or busy.hand


def test_a_shard_without_tasks_waits_longer_for_others_to_begin(jobs: Any) -> None:
    job = jobs(adaptive_study([{"sd": 50.0}]), 2)
    job.begun = {1}
    helper = job.shards[1]
    helper.begin()
    job.now += IDLE_SECONDS - 1
    helper.begin()
    assert not helper.is_over
    job.now += 1
    helper.begin()
    assert helper.is_over


def test_a_shard_tells_how_many_tasks_it_may_give(jobs: Any) -> None:
    """Those that its sets may need, less those that its workers run."""
    job = jobs(adaptive_study([{"sd": 50.0}, {"sd": 0.1}]), 2, 4)
    assert [dict(shard.feed.precision().sharing) for shard in job.shards] == [{"gives": 36}] * 2


@pytest.mark.parametrize(
    ("waiting", "offered", "taken", "free", "workers", "seconds", "expected"),
    [
        pytest.param(25, 0, 0, 0, 4, 60.0, 0, id="no worker is free"),
        pytest.param(25, 0, 0, 12, 4, 60.0, 12 + 12 * 12 // 16, id="idle workers first, the rest by workers"),
        pytest.param(3, 0, 0, 12, 4, 60.0, 3, id="none of long tasks is kept"),
        pytest.param(3, 0, 0, 12, 4, 6.0, 2, id="one is kept, which begins soon"),
        pytest.param(25, 0, 0, 12, 4, 0.01, 0, id="short tasks are done before others could begin"),
        pytest.param(25, 18, 0, 12, 4, 60.0, 17, id="what is offered counts"),
        pytest.param(25, 0, 12, 12, 4, 60.0, 24 * 12 // 16, id="helpers are busy"),
        pytest.param(9999, 0, 0, 12, 4, 60.0, MAX_OFFERED, id="the document is bounded"),
        pytest.param(25, 0, 0, 12, 4, 0.0, 0, id="no task has begun"),
        pytest.param(25, 0, 0, 12, 4, 1e-310, 0, id="tasks take no time"),
    ],
)
def test_a_shard_offers_what_helpers_can_begin_sooner(
    waiting: int, offered: int, taken: int, free: int, workers: int, seconds: float, expected: int
) -> None:
    assert count_to_offer(waiting, offered, taken, free, workers, seconds) == expected


@pytest.mark.parametrize(
    ("in_hand", "workers", "seconds", "expected"),
    [(0, 4, 60.0, 4), (3, 4, 60.0, 1), (9, 4, 60.0, 0), (0, 4, 1.5, 9), (0, 4, 0.5, 20), (0, 4, 1e-310, MAX_OFFERED)],
)
def test_a_helper_takes_what_it_runs_until_its_next_look(
    in_hand: int, workers: int, seconds: float, expected: int
) -> None:
    assert count_to_take(in_hand, workers, seconds) == expected


def test_a_document_is_read_as_it_was_written() -> None:
    document = Document("r", 1.5, (3, 4), {"1.a": Taken(2, (5,))}, {6: [0.25], 7: "ValueError: as asked"})
    assert parse(document.encode()) == document
    assert document.encode() != document.encode(), "no two documents are equal"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"[]",
        b'{"version":2}',
        b'{"version":1,"run":"r","seconds":1,"offered":[-1],"taken":{},"ended":{}}',
        b'{"version":1,"run":"r","seconds":1,"offered":[],"taken":{"1.a":["x",[1]]},"ended":{}}',
        b'{"version":1,"run":"r","seconds":1,"offered":[],"taken":{},"ended":{"1":["much"]}}',
    ],
)
def test_another_value_is_no_document(value: bytes) -> None:
    assert parse(value) is None


def test_a_time_beyond_every_float_is_not_known() -> None:
    found = parse(b'{"version":1,"run":"r","seconds":1%s,"offered":[1],"taken":{},"ended":{}}' % (b"0" * 400))
    assert found == Document("r", 0.0, (1,))


def test_a_silent_helper_is_lost_but_not_in_an_outage() -> None:
    owner = OwnerSide("r")
    owner.away = {1, 2}
    taken = Document("r", 0.0, (2,), {"1.a": Taken(1, (1,))})
    assert owner.turn(taken, 0.0).document is None
    owner.forgive()
    assert owner.turn(taken, LOST_SECONDS).document is None
    turn = owner.turn(taken, 2 * LOST_SECONDS)
    assert turn.returned == [1]
    assert turn.document == Document("r", 0.0, (2,))
    owner.confirm(turn, 2 * LOST_SECONDS)
    assert owner.away == {2}


def test_a_helper_at_work_tells_that_it_lives() -> None:
    helper = HelperSide("1.a", lambda _number: True)
    turn = helper.turn(Document("r", 60.0, (1, 2)), 0.0, 1, 0, lambda _number: False)
    assert turn.document == Document("r", 60.0, (2,), {"1.a": Taken(1, (1,))})
    helper.confirm(turn, 0.0)
    assert helper.turn(turn.document, BEAT_SECONDS - 1, 1, 1, lambda _number: False).document is None
    beat = helper.turn(turn.document, BEAT_SECONDS, 1, 1, lambda _number: False).document
    assert beat is not None
    assert beat.taken == {"1.a": Taken(2, (1,))}


def test_the_next_run_of_a_killed_helper_gives_its_tasks_back() -> None:
    helper = HelperSide("1.b", lambda _number: True)
    left = Document("r", 60.0, (), {"1.a": Taken(7, (1, 2)), "10.a": Taken(1, (3,))})
    turn = helper.turn(left, 0.0, 1, 0, lambda _number: False)
    assert turn.document == Document("r", 60.0, (1, 2), {"10.a": Taken(1, (3,))})


def test_a_helper_that_stops_tells_what_has_ended_and_gives_the_rest_back() -> None:
    helper = HelperSide("1.a", lambda _number: True)
    helper.confirm(helper.turn(Document("r", 60.0, (1, 2, 3)), 0.0, 2, 0, lambda _number: False), 0.0)
    helper.ends[1] = [0.5]
    left = Document("r", 60.0, (3,), {"1.a": Taken(1, (1, 2))})
    turn = helper.turn(left, 1.0, 0, 1, lambda _number: True, leaves=True)
    assert turn.document == Document("r", 60.0, (2, 3), {}, {1: [0.5]})
    helper.confirm(turn, 1.0)
    assert (helper.hand, turn.taken) == (set(), [])


def test_a_shard_that_stops_gives_its_task_of_another_back_at_once(jobs: Any) -> None:
    """Its owner runs it, and does not wait until the shard counts as lost."""
    job = jobs(adaptive_study([{"sd": 50.0}, {"sd": 0.1}]), 2)
    owner, helper = job.shards
    while not helper.feed.has_helped:
        for shard in job.shards:
            job.now += 1.0
            shard.report()
            shard.take()
            shard.feed.look()
            if shard.hand and not shard.feed.is_done:
                shard.end()
            shard.begin()
    helper.feed.start()
    helper.feed.close()
    owner.feed.look()
    document = parse(job.store.get("offers/job/0.json").value)
    assert (document.taken, helper.feed._helps[0].hand) == ({}, set())


def test_tasks_of_an_earlier_run_of_the_owner_are_forgotten() -> None:
    helper = HelperSide("1.a", lambda _number: True)
    helper.confirm(helper.turn(Document("r", 60.0, (1,)), 0.0, 1, 0, lambda _number: False), 0.0)
    helper.ends[1] = [0.5]
    turn = helper.turn(Document("s", 60.0), 1.0, 0, 0, lambda _number: True)
    assert (turn.document, helper.hand, helper.ends) == (None, set(), {})


def test_only_tasks_of_the_owner_are_taken() -> None:
    helper = HelperSide("1.a", lambda number: number < 10)
    assert helper.turn(Document("r", 60.0, (99, 3)), 0.0, 4, 0, lambda _number: False).taken == [3]


@pytest.mark.parametrize("seed", range(40))
def test_each_task_ends_once_whatever_is_lost(seed: int) -> None:
    """Writes are lost or their replies are, helpers die and come again, tasks fail, and some are wanted back."""
    chance = random.Random(seed)
    owner, stored = OwnerSide("r"), [None]
    tasks = set(range(30))
    owner.away = tasks.copy()
    ended: dict[int, object] = {}
    helpers = [HelperSide(f"{number}.a", tasks.__contains__) for number in (1, 2)]
    now = 0.0

    def write(document: Document | None) -> bool:
        """Return whether the side learns that it has written."""
        if document is not None and chance.random() < 0.8:
            stored[0] = parse(document.encode())
            return chance.random() < 0.8
        return document is None

    while owner.away:
        now += 1.0
        place = chance.randrange(3)
        if place == 2:
            owner.wanted = chance.choice([0, 0, 1])
            turn = owner.turn(stored[0], now)
            for number, end in turn.ended.items():
                assert number not in ended
                ended[number] = end
            if write(turn.document):
                owner.confirm(turn, now)
                for number in turn.returned:
                    assert number not in ended
                    ended[number] = "own"
            continue
        helper = helpers[place]
        if chance.random() < 0.02:
            helpers[place] = HelperSide(f"{place + 1}.{now}", tasks.__contains__)
            continue
        for number in sorted(helper.hand - helper.ends.keys()):
            if chance.random() < 0.5:
                helper.ends[number] = chance.choice([[number / 7], "ValueError: as asked"])
        turn_of_helper = helper.turn(stored[0], now, 3, len(helper.open), lambda _number: chance.random() < 0.7)
        if write(turn_of_helper.document):
            helper.confirm(turn_of_helper, now)
    assert ended.keys() == tasks
    assert all(end in ("own", "ValueError: as asked", [number / 7]) for number, end in ended.items())
