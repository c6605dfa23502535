"""`cas.update` and `cas.create`: bounded, jittered, and never fooled by an own write whose reply was lost."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from mopsjobs.errors import (
    EXIT_REFUSED,
    JobNotFoundError,
    RecordError,
    StoreAccessError,
    StoreError,
    StoreUnavailableError,
    TooManyRetriesError,
    ValueTooLargeError,
)
from mopsjobs.modelops import create_with_retry, update_with_retry
from mopsjobs.store import cas
from mopsjobs.store.base import Versioned, VersionToken
from mopsjobs.store.memory import InMemoryVersionedStore
from support.doubles import FaultyStore, RecordingSleep
from support.existing import existing
from support.marks import KEY, Marking, create, mark, marked, marking, marks, rival, update

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
    outcome = existing(create(store))
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


# --- `cas.update` and `cas.create` over silence, refusals and unexpected answers: doubt is reported if there is any --

DOUBT = "may or may not have landed"
WRITES: dict[str, tuple[Callable[..., object], dict[str, int]]] = {
    "put": (update, {"get": 1, "put": 1}),
    "create_if_absent": (create, {"create_if_absent": 1}),
}
"""By the method of the store: the write, and the calls of one attempt."""


@pytest.mark.parametrize("method", WRITES)
def test_a_write_of_which_nothing_was_sent_is_reported_as_it_is(store: FaultyStore, method: str) -> None:
    """Connection refused: nothing was written, so there is no doubt to be told, and no second attempt."""
    write, calls = WRITES[method]
    store.sent = False
    store.fail_next(100, method)
    with pytest.raises(StoreUnavailableError) as caught:
        write(store)
    assert (str(caught.value), caught.value.hint) == (f"No connection for {method}.", None)
    assert store.calls == calls


@pytest.mark.parametrize("landed", [True, False])
@pytest.mark.parametrize("method", WRITES)
def test_a_write_that_met_silence_is_an_unknown_outcome_at_once(store: FaultyStore, method: str, landed: bool) -> None:
    """A second request would wait as long as the first: it is not made, and the doubt is told."""
    write, calls = WRITES[method]
    store.silent = True
    store.lose_reply_next() if landed else store.fail_next(100, method)
    sleep = RecordingSleep()
    with pytest.raises(StoreUnavailableError) as caught:
        write(store, sleep=sleep)
    assert DOUBT in (caught.value.hint or "")
    assert store.calls == calls
    assert sleep.requested == []
    assert marks(store) == (["mine"] if landed and method == "put" else [])


def test_a_refused_connection_after_a_lost_reply_leaves_the_doubt(store: FaultyStore) -> None:
    """The first write may have landed, whatever became of the second: its doubt is not forgotten."""
    store.fail_next(1, "put")

    class Sleep(RecordingSleep):
        def __call__(self, seconds: float) -> None:
            super().__call__(seconds)
            store.sent = False
            store.fail_next(100, "put")

    with pytest.raises(StoreUnavailableError) as caught:
        update(store, sleep=Sleep())
    assert "may or may not have landed" in (caught.value.hint or "")


# --- unexpected answers, and refusals -------------------------------------------------------------------------------


class Answering(FaultyStore):
    """A store whose calls of a kind do what they should and then raise, from the given one on."""

    def __init__(self, error: StoreError, *, puts: bool = True, gets_from: int = 10**9) -> None:
        super().__init__(InMemoryVersionedStore())
        self.inner.create_if_absent(KEY, b"[]")
        self._error = error
        self._puts = puts
        self._gets_from = gets_from

    def _write(self, write: Callable[[], VersionToken | None]) -> VersionToken | None:
        written = super()._write(write)
        if self._puts:
            raise self._error
        return written

    def get(self, key: str) -> Versioned | None:
        found = super().get(key)
        if self.calls["get"] >= self._gets_from:
            raise self._error
        return found


def nonsense() -> StoreError:
    return StoreError("sent an unexpected answer.", hint="Check the URL.")


def test_an_unexpected_answer_to_a_write_reports_the_doubt() -> None:
    """The write may have been stored. What answers may have done it before: here it has. The error stays what it is."""
    store = Answering(nonsense())
    with pytest.raises(StoreError) as caught:
        update(store)
    assert type(caught.value) is StoreError
    assert str(caught.value.hint).startswith("Check the URL. ")
    assert DOUBT in str(caught.value.hint)
    assert marks(store) == ["mine"]
    with pytest.raises(StoreError) as caught:
        cas.create(Answering(nonsense()), "jobs/j-2/state.json", b"[]")
    assert DOUBT in str(caught.value.hint)


@pytest.mark.parametrize("error", [StoreAccessError("No permission."), ValueTooLargeError("Too large.")], ids=repr)
def test_a_refusal_leaves_no_doubt(error: StoreError) -> None:
    for write in (update, lambda store: cas.create(store, "jobs/j-2/state.json", b"[]")):
        with pytest.raises(type(error)) as caught:
            write(Answering(error))
        assert caught.value.hint is None


@pytest.mark.parametrize("error", [nonsense(), StoreAccessError("No permission.")], ids=repr)
def test_whatever_the_read_after_a_lost_reply_meets_the_doubt_is_told(error: StoreError) -> None:
    """The write has landed, and the read that would have shown it got another answer."""
    store = Answering(error, puts=False, gets_from=2)
    store.lose_reply_next()
    with pytest.raises(type(error)) as caught:
        update(store)
    assert DOUBT in str(caught.value.hint)
    assert marks(store) == ["mine"]
    creating = Answering(error, puts=False, gets_from=1)
    creating.lose_reply_next()
    with pytest.raises(StoreUnavailableError) as unknown:
        cas.create(creating, "jobs/j-2/state.json", b"[]", marking("mine"))
    assert DOUBT in str(unknown.value.hint)


class LandingLate(FaultyStore):
    """A store whose first creation is answered by an outage, and lands after a reader has looked for it."""

    def __init__(self, error: StoreError | None = None) -> None:
        super().__init__(InMemoryVersionedStore())
        self._late: tuple[str, bytes] | None = None
        self._error = error

    def create_if_absent(self, key: str, value: bytes) -> VersionToken | None:
        if self.calls["create_if_absent"]:
            return super().create_if_absent(key, value)
        self.calls["create_if_absent"] += 1
        self._late = (key, value)
        raise self.outage("The reply was lost.")

    def get(self, key: str) -> Versioned | None:
        if self.calls["get"] and self._error is not None:
            raise self._error
        found = super().get(key)
        if self._late is not None:
            self.inner.create_if_absent(*self._late)
        return found


def test_a_creation_that_lands_late_is_recognised() -> None:
    """The second attempt finds the key there, and it is an own one."""
    assert existing(create(LandingLate(), sleep=RecordingSleep())).written


def test_a_creation_that_lands_late_is_never_taken_for_somebody_elses() -> None:
    """If no trace tells whose it is, or the store does not answer, the error reports the doubt."""
    with pytest.raises(StoreUnavailableError) as caught:
        create(LandingLate(), callbacks=None, sleep=RecordingSleep())
    assert DOUBT in str(caught.value.hint)
    for error in (nonsense(), StoreUnavailableError("away", sent=True)):
        with pytest.raises(StoreError) as failed:
            create(LandingLate(error), sleep=RecordingSleep())
        assert DOUBT in str(failed.value.hint)


def test_an_announcement_without_a_meaning_leaves_no_doubt() -> None:
    """The write itself was not sent."""

    def announce() -> None:
        raise nonsense()

    for write in (update, create):
        store = FaultyStore(InMemoryVersionedStore())
        store.inner.create_if_absent(KEY, b"[]")
        with pytest.raises(StoreError) as caught:
            write(store, callbacks=Marking(marked("mine"), announce))
        assert caught.value.hint == "Check the URL."
        assert not store.calls["put"] + store.calls["create_if_absent"]


def test_the_trace_of_one_lost_write_clears_no_doubt_about_another() -> None:
    """The first write leaves no trace that lasts. Whatever is found of the second, the first may have landed."""

    class Traced(Marking):
        def leaves_permanent_trace(self, value: bytes) -> bool:
            return value == b"second"

    first, second, third = (VersionToken(text) for text in "123")
    replies, lost = cas.LostReplyTracker(KEY), StoreUnavailableError("The reply was lost.")
    replies.add(lost, Versioned(b"first", first))
    replies.settle(Versioned(b"of another", second), Traced(marked("mine")))
    replies.add(lost, Versioned(b"second", second))
    replies.settle(Versioned(b"of another", third), Traced(marked("mine")))
    assert replies.may_have_landed


# --- Plain JSON values that change by compare-and-swap, as in ModelOps -----------------------------------------------


def test_a_dict_is_created_once_and_updated_by_a_function() -> None:
    """The second create changes nothing and says so; the update returns what it wrote."""
    store = InMemoryVersionedStore()
    assert create_with_retry(store, "k", {"a": 1})
    assert not create_with_retry(store, "k", {"a": 2})
    assert update_with_retry(store, "k", lambda found: {**found, "b": found["a"]}) == {"a": 1, "b": 1}
    assert json.loads(store.get("k").value) == {"a": 1, "b": 1}  # type: ignore[union-attr]


def test_a_dict_update_of_a_missing_key_is_a_key_error() -> None:
    """And one of a value that is not a sound JSON object is a RecordError, and it stays. As in ModelOps, but named."""
    store = InMemoryVersionedStore()
    with pytest.raises(KeyError):
        update_with_retry(store, "k", dict)
    for key, value in [("list", b"[]"), ("html", b"<html>"), ("bytes", b"\xff"), ("twice", b'{"a":1,"a":2}')]:
        store.create_if_absent(key, value)
        with pytest.raises(RecordError, match=f"^{key}: not "):
            update_with_retry(store, key, dict)
        assert store.get(key).value == value  # type: ignore[union-attr]


def test_a_dict_update_whose_reply_was_lost_is_reported_as_unknown() -> None:
    """It is never applied twice.

    A plain dict has no room for a write id: so the error neither says that nothing was written, nor guesses.
    """
    for attempts in (1, 2):
        line = FaultyStore(InMemoryVersionedStore())
        create_with_retry(line, "k", {"n": 1})
        line.lose_reply_next()
        with pytest.raises(StoreUnavailableError, match="reply to the write of k was lost"):
            update_with_retry(line, "k", lambda found: {"n": int(str(found["n"])) + 1}, attempts)
        assert json.loads(line.inner.get("k").value) == {"n": 2}  # type: ignore[union-attr]
