"""`cas.update` and `cas.create`: bounded, jittered, and never fooled by an own write whose reply was lost."""

from __future__ import annotations

import json

import pytest

from mopsjobs.errors import EXIT_REFUSED, JobNotFoundError, StoreUnavailableError, TooManyRetriesError
from mopsjobs.store import cas
from support.doubles import FaultyStore, RecordingSleep
from support.marks import KEY, create, mark, marks, rival, update

# --- the plain case -------------------------------------------------------------------------------------------------


def test_an_update_is_one_get_and_one_put(store: FaultyStore) -> None:
    outcome = update(store)
    assert store.calls == {"get": 1, "put": 1}
    assert (outcome.value, outcome.version) == store.inner.get(KEY)
    assert (outcome.written, outcome.attempts, marks(store)) == (True, 1, ["mine"])


def test_no_change_is_no_write(store: FaultyStore) -> None:
    """`fn` returns None when it sees nothing to change; the outcome then holds what it saw."""
    outcome = cas.update(store, KEY, lambda _: None)
    assert store.calls == {"get": 1}
    assert (outcome.value, outcome.written) == (b"[]", False)
    assert outcome.version == store.inner.get(KEY).version  # type: ignore[union-attr]


def test_a_missing_key_is_a_key_error_that_names_it(store: FaultyStore) -> None:
    with pytest.raises(KeyError) as caught:
        cas.update(store, "jobs/none", mark("x"))
    assert "jobs/none" in str(caught.value)
    assert not isinstance(caught.value, JobNotFoundError)  # the store does not know what a job is
    assert store.calls == {"get": 1}


@pytest.mark.parametrize(("rivals", "left"), [(0, []), (1, ["rival"])])
def test_an_error_of_the_function_passes_and_nothing_is_written(
    store: FaultyStore, rivals: int, left: list[str]
) -> None:
    """Also on a later attempt: a rival's write made the update illegal, and its own rule says so, not the loop."""
    store.before_put = lambda _: rival(store)
    error = RuntimeError("refused")

    def refuse(value: bytes) -> bytes:
        if len(json.loads(value)) == rivals:
            raise error
        return mark("mine")(value) or b""

    with pytest.raises(RuntimeError) as caught:
        cas.update(store, KEY, refuse, sleep=RecordingSleep())
    assert caught.value is error
    assert marks(store) == left


# --- lost races -----------------------------------------------------------------------------------------------------


def test_after_a_lost_race_the_function_sees_the_new_value(store: FaultyStore) -> None:
    store.before_put = lambda _: rival(store) if "rival" not in marks(store) else None
    assert update(store).attempts == 2
    assert marks(store) == ["rival", "mine"]


def test_attempts_are_bounded_and_the_error_holds_the_facts(store: FaultyStore) -> None:
    sleep = RecordingSleep()
    store.conflict_next(100)
    with pytest.raises(TooManyRetriesError) as caught:
        update(store, attempts=5, sleep=sleep)
    assert (caught.value.key, caught.value.attempts, caught.value.exit_code) == (KEY, 5, EXIT_REFUSED)
    assert store.calls["put"] == 5
    assert len(sleep.requested) == 4  # none after the last
    assert marks(store) == []


def test_delays_double_up_to_the_cap(store: FaultyStore) -> None:
    """With the highest draw each time, the delays are the bounds themselves."""
    sleep = RecordingSleep()
    store.conflict_next(9)
    update(store, attempts=10, sleep=sleep, random=lambda: 1.0)
    assert sleep.requested == [min(cas.CAP_SECONDS, cas.BASE_SECONDS * 2**n) for n in range(9)]
    assert sleep.requested[-1] == cas.CAP_SECONDS


# --- lost replies ---------------------------------------------------------------------------------------------------


def test_an_own_write_whose_reply_was_lost_is_recognised(store: FaultyStore) -> None:
    """Written once, reported as written, and not taken for another writer's."""
    store.lose_reply_next()
    outcome = update(store)
    assert (marks(store), outcome.written, store.calls["put"]) == (["mine"], True, 1)
    assert (outcome.value, outcome.version) == store.inner.get(KEY)


def test_an_own_write_is_recognised_under_another_writers(store: FaultyStore) -> None:
    """Another writer has built on it: its value is returned, for that is what the record now holds."""
    store.lose_reply_next()

    class Sleep(RecordingSleep):
        def __call__(self, seconds: float) -> None:
            rival(store)

    outcome = update(store, sleep=Sleep())
    assert marks(store) == ["mine", "rival"]
    assert json.loads(outcome.value) == ["mine", "rival"]
    assert (outcome.written, store.calls["put"]) == (True, 1)


def test_an_own_write_that_comes_back_as_a_conflict_is_recognised(store: FaultyStore) -> None:
    """A layer below sent the write twice, and the second one lost against the first."""
    inner_put = store.inner.put

    def twice(key: str, value: bytes, version: object) -> object:
        inner_put(key, value, version)  # type: ignore[arg-type]
        return inner_put(key, value, version)  # type: ignore[arg-type]

    store.inner.put = twice  # type: ignore[method-assign,assignment]
    assert update(store).written
    assert marks(store) == ["mine"]


def test_without_landed_a_write_that_did_not_arrive_is_written_again(store: FaultyStore) -> None:
    """The version is the old one, so nothing was written: no guess is needed."""
    store.fail_next(1, "put")
    assert update(store, callbacks=None).written
    assert marks(store) == ["mine"]


def test_without_landed_an_unknown_outcome_is_reported_and_never_guessed(store: FaultyStore) -> None:
    """Something was written, and only the caller could tell what: neither success nor a second write."""
    store.lose_reply_next()
    with pytest.raises(StoreUnavailableError) as caught:
        update(store, callbacks=None)
    assert "may or may not have landed" in (caught.value.hint or "")
    assert marks(store) == ["mine"]
    assert store.calls["put"] == 1


def test_outages_of_writes_are_bounded(store: FaultyStore) -> None:
    store.fail_next(100, "put")
    with pytest.raises(StoreUnavailableError) as caught:
        update(store)
    assert "may or may not have landed" in (caught.value.hint or "")
    assert store.calls["put"] == cas.OUTAGES


def test_an_outage_of_the_first_read_is_reported_as_it_is(store: FaultyStore) -> None:
    """Nothing was sent that could have landed; the store's reads have retried already."""
    store.fail_next(1, "get")
    with pytest.raises(StoreUnavailableError) as caught:
        update(store)
    assert caught.value.hint is None
    assert store.calls == {"get": 1}


def test_an_outage_of_the_read_after_a_lost_reply_is_an_unknown_outcome(store: FaultyStore) -> None:
    store.lose_reply_next()
    store.before_put = lambda _: store.fail_next(1, "get")
    with pytest.raises(StoreUnavailableError) as caught:
        update(store)
    assert "may or may not have landed" in (caught.value.hint or "")


def test_a_reply_lost_on_the_last_attempt_is_no_lost_race(store: FaultyStore) -> None:
    """`TooManyRetriesError` says that nothing was written; here something was."""
    store.lose_reply_next()
    try:
        assert update(store, attempts=1).written
    except StoreUnavailableError as error:
        assert "may or may not have landed" in (error.hint or "")  # noqa: PT017 - either answer is honest
    assert marks(store) == ["mine"]


def test_create_of_somebody_elses_key_is_none(store: FaultyStore) -> None:
    store.inner.create_if_absent("new", b'["rival"]')
    assert create(store) is None
    assert create(store, callbacks=None) is None
    assert store.inner.get("new").value == b'["rival"]'  # type: ignore[union-attr]


def test_a_lost_reply_does_not_make_somebody_elses_creation_ours(store: FaultyStore) -> None:
    store.fail_next(1, "create_if_absent")
    store.inner.create_if_absent("new", b'["rival"]')
    assert create(store) is None


def test_a_creation_that_did_not_arrive_is_tried_again(store: FaultyStore) -> None:
    store.fail_next(1, "create_if_absent")
    outcome = create(store)
    assert outcome is not None
    assert (outcome.written, outcome.attempts) == (True, 2)


def test_without_landed_the_unknown_outcome_of_a_creation_is_reported(store: FaultyStore) -> None:
    store.lose_reply_next()
    with pytest.raises(StoreUnavailableError) as caught:
        create(store, callbacks=None)
    assert "may or may not have landed" in (caught.value.hint or "")


def test_outages_of_a_creation_are_bounded(store: FaultyStore) -> None:
    store.fail_next(100, "create_if_absent")
    with pytest.raises(StoreUnavailableError):
        create(store)
    assert store.calls["create_if_absent"] == cas.OUTAGES
