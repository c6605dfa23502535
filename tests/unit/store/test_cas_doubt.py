"""`cas.update` and `cas.create` over silence, refusals and unexpected answers: doubt is reported if there is any."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mopsjobs.errors import StoreAccessError, StoreError, StoreUnavailableError, ValueTooLargeError
from mopsjobs.store import cas
from mopsjobs.store.base import Versioned, VersionToken
from mopsjobs.store.memory import InMemoryVersionedStore
from support.doubles import FaultyStore, RecordingSleep
from support.marks import KEY, Marking, create, marked, marking, marks, update

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
    outcome = create(LandingLate(), sleep=RecordingSleep())
    assert outcome is not None
    assert outcome.written


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
