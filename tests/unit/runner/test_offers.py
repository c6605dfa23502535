"""The rules by which shards share tasks, and what both sides do with the document of offers."""

from __future__ import annotations

import random

import pytest

from mopsjobs.runner.offers import (
    BEAT_SECONDS,
    LOST_SECONDS,
    MAX_OFFERED,
    Document,
    HelperSide,
    OwnerSide,
    Taken,
    count_to_offer,
    count_to_take,
    parse,
)


@pytest.mark.parametrize(
    ("waiting", "offered", "taken", "free", "workers", "seconds", "expected"),
    [
        pytest.param(25, 0, 0, 0, 4, 60.0, 0, id="no worker is free"),
        pytest.param(25, 0, 0, 12, 4, 60.0, 12 + 12 * 12 // 16, id="idle workers first, the rest by workers"),
        pytest.param(3, 0, 0, 12, 4, 60.0, 2, id="one is kept, which begins soon"),
        pytest.param(25, 0, 0, 12, 4, 0.01, 0, id="short tasks are done before others could begin"),
        pytest.param(25, 18, 0, 12, 4, 60.0, 16, id="what is offered counts"),
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
    [(0, 4, 60.0, 4), (3, 4, 60.0, 1), (9, 4, 60.0, 0), (0, 4, 0.5, 16), (0, 4, 1e-310, MAX_OFFERED)],
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


def test_an_owner_that_ends_takes_the_ends_that_are_told() -> None:
    """So its last report counts them. It offers nothing any more, and helpers learn that their tasks are not theirs."""
    owner = OwnerSide("r")
    owner.away = {1, 2, 3}
    turn = owner.turn(Document("r", 0.0, (3,), {"1.a": Taken(1, (2,))}, {1: [0.5]}), 0.0, leaves=True)
    assert turn.document == Document("r")
    assert (turn.ended, turn.returned) == ({1: [0.5]}, [2, 3])


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
    owner.confirm(turn)
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
                owner.confirm(turn)
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
        turn_of_helper = helper.turn(stored[0], now, 3, helper.n_open, lambda _number: chance.random() < 0.7)
        if write(turn_of_helper.document):
            helper.confirm(turn_of_helper, now)
    assert ended.keys() == tasks
    assert all(end in ("own", "ValueError: as asked", [number / 7]) for number, end in ended.items())
