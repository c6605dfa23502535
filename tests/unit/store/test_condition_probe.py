"""The probe of conditional writes, over sound stores, stores that lie, and stores that do not answer or refuse."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mopsjobs.errors import EXIT_USAGE, StoreAccessError, StoreUnavailableError, UnusableStoreError
from mopsjobs.store.base import VersionedStore, VersionToken
from mopsjobs.store.bulk import pacer_of
from mopsjobs.store.condition_probe import NOTE_AGE, NOTES, PROBES, ProbedStore, ProbeResult, probe_conditions
from mopsjobs.store.memory import InMemoryVersionedStore
from support.doubles import FaultyStore
from support.existing import existing
from support.lying_stores import (
    LIARS,
    SECOND_CREATION,
    SERVER,
    STALE_UPDATE,
    IgnoresAll,
    IgnoresVersions,
    KeepsBelow,
    KeepsDeleted,
    RefusingStore,
)

PROBE = {"create_if_absent": 2, "put": 3, "get": 1, "delete": 1}
"""The requests of a probe that passes."""


class Breaking(FaultyStore):
    """A store behind a line that breaks at one request, the `at`-th, after which it holds."""

    def __init__(self, inner: VersionedStore, at: int) -> None:
        super().__init__(inner)
        self._left = at

    def _enter(self, method: str) -> None:
        super()._enter(method)
        self._left -= 1
        if self._left == 0:
            raise self.outage("The line broke.")


def keys(store: VersionedStore) -> list[str]:
    return list(store.list_keys())


def probed(store: VersionedStore, server: str | None = SERVER) -> ProbedStore:
    return ProbedStore(store, lambda: server)


def test_a_sound_store_passes_in_seven_requests_and_keeps_no_key() -> None:
    store = FaultyStore(InMemoryVersionedStore())
    assert probe_conditions(store) == ProbeResult(())
    assert store.calls == PROBE
    assert keys(store.inner) == []


@pytest.mark.parametrize("liar", LIARS, ids=lambda liar: liar.__name__)
def test_each_lie_is_named_and_the_key_is_removed(liar: type[InMemoryVersionedStore]) -> None:
    """A server that ignores several conditions has each of them named."""
    store = liar()
    assert probe_conditions(store).flaws == LIARS[liar]
    assert (keys(store) == []) == (liar is not KeepsDeleted)


@pytest.mark.parametrize("at", range(1, 8))
def test_a_line_that_breaks_says_nothing_of_conditions(at: int) -> None:
    """At whichever request it breaks: the outage is raised as such, also before a liar, and the key is removed."""
    store = Breaking(IgnoresVersions(), at)
    with pytest.raises(StoreUnavailableError, match="broke"):
        probe_conditions(store)
    assert keys(store.inner) == []


@pytest.mark.parametrize(("sent", "silent"), [(False, False), (True, True)])
def test_a_store_that_is_silent_is_not_asked_to_remove_the_key(sent: bool, silent: bool) -> None:
    """It would be silent for as long once more, and a command ends within seconds."""
    store = Breaking(InMemoryVersionedStore(), 3)
    store.sent, store.silent = sent, silent
    with pytest.raises(StoreUnavailableError):
        probe_conditions(store)
    assert store.calls == {"create_if_absent": 2, "put": 1}


def test_credentials_that_may_not_delete_leave_a_key_that_is_named() -> None:
    """That says nothing of conditions."""
    store = RefusingStore(InMemoryVersionedStore(), "delete")
    flaws, left_key = probe_conditions(store)
    assert flaws == ()
    assert [left_key] == keys(store.inner)
    assert store.calls["delete"] == 1


@pytest.mark.parametrize("method", ["create_if_absent", "put", "get"])
def test_credentials_that_may_not_write_are_refused_as_such(method: str) -> None:
    store = RefusingStore(InMemoryVersionedStore(), method)
    with pytest.raises(StoreAccessError, match=method):
        probe_conditions(store)
    assert keys(store.inner) == []


def test_only_the_first_write_of_a_process_costs_a_request() -> None:
    """The first process probes and leaves a note; later ones read it once, before their first write."""
    inner = FaultyStore(InMemoryVersionedStore())
    first = probed(inner)
    created = existing(first.create_if_absent("a", b"1"))
    assert inner.calls == {"create_if_absent": PROBE["create_if_absent"] + 2, "put": 3, "get": 3, "delete": 1}
    assert [key for key in keys(inner.inner) if not key.startswith(NOTES)] == ["a"]
    inner.calls.clear()
    second = probed(inner)
    assert second.put("a", b"2", created) is not None
    second.create_if_absent("b", b"1")
    assert inner.calls == {"get": 1, "put": 1, "create_if_absent": 1}


def test_a_process_that_reads_or_deletes_does_not_probe() -> None:
    """Neither needs a condition. What only some stores have is found as well."""
    inner = FaultyStore(IgnoresAll())
    store = probed(inner)
    assert store.get("a") is None
    assert [*store.list_keys(), *store.scan()] == []
    assert not store.delete("a")
    assert inner.calls == {"get": 1, "list_keys": 1, "scan": 1, "delete": 1}
    assert store.calls is inner.calls
    assert pacer_of(store) is None
    store.close()


def test_a_server_of_the_vendor_is_trusted() -> None:
    """Without an address to prove, no request is added, by a check neither."""
    inner = FaultyStore(InMemoryVersionedStore())
    store = probed(inner, None)
    store.create_if_absent("a", b"1")
    assert store.check_conditions() is None
    assert inner.calls == {"create_if_absent": 1}


def test_a_liar_takes_no_write() -> None:
    """The error names store and conditions, and ends a command as a wrong setting does."""
    inner = IgnoresAll()
    store = probed(inner)
    with pytest.raises(UnusableStoreError) as caught:
        store.create_if_absent("a", b"1")
    assert str(caught.value).startswith(f"The store {SECOND_CREATION}; it {STALE_UPDATE}; it ")
    assert caught.value.exit_code == EXIT_USAGE
    assert caught.value.hint
    version = existing(inner.create_if_absent("a", b"1"))
    with pytest.raises(UnusableStoreError):
        store.put("a", b"2", version)
    assert keys(inner) == ["a"]


def test_a_liar_is_probed_once_by_a_process() -> None:
    """A retry is refused as the first write was, and sends nothing. A check probes again."""
    inner = FaultyStore(IgnoresVersions())
    store = probed(inner)
    errors = []
    for _ in range(2):
        with pytest.raises(UnusableStoreError) as caught:
            store.create_if_absent("a", b"1")
        errors.append((str(caught.value), caught.value.hint))
        sent = inner.calls["create_if_absent"]
    assert errors[0] == errors[1]
    assert sent == PROBE["create_if_absent"]
    inner.inner = InMemoryVersionedStore()
    assert store.check_conditions() == ProbeResult(())
    assert store.create_if_absent("a", b"1")


@pytest.mark.parametrize("method", ["get", "create_if_absent", "put", "delete"])
def test_an_outage_before_the_write_of_the_caller_is_no_lost_reply_of_it(method: str) -> None:
    """Nothing of that write was sent, so its outcome is known."""
    inner = FaultyStore(InMemoryVersionedStore())
    inner.fail_next(1, method)
    with pytest.raises(StoreUnavailableError) as caught:
        probed(inner).create_if_absent("a", b"1")
    assert not caught.value.sent
    assert keys(inner.inner) == []


def test_a_note_counts_for_the_address_of_one_server() -> None:
    """A copy of a registry on another server is probed there, also after an outage. The copy has the notes too."""
    inner = FaultyStore(InMemoryVersionedStore())
    probed(inner).create_if_absent("a", b"1")
    copied = IgnoresVersions()
    for entry in inner.inner.scan():
        copied.create_if_absent(entry.key, entry.value or b"")
    with pytest.raises(UnusableStoreError):
        probed(copied, "http://other.example").create_if_absent("b", b"1")
    other = probed(inner, "http://other.example")
    inner.fail_next(1, "put")
    with pytest.raises(StoreUnavailableError):
        other.create_if_absent("b", b"1")
    inner.calls.clear()
    other.create_if_absent("b", b"1")
    assert inner.calls["put"] == PROBE["put"]


def test_a_check_probes_again_and_removes_the_note_of_a_liar() -> None:
    """A server that was replaced at its address is found by `doctor`, and from then on by writers too."""
    store = IgnoresVersions()
    before = probed(InMemoryVersionedStore())
    before.check_conditions()
    for entry in before.scan():
        store.create_if_absent(entry.key, entry.value or b"")
    probed(store).create_if_absent("a", b"1")  # nothing tells it
    with pytest.raises(UnusableStoreError):
        probed(store).check_conditions()
    with pytest.raises(UnusableStoreError):
        probed(store).create_if_absent("b", b"1")
    assert keys(store) == ["a"]


def test_a_server_that_keeps_conditions_under_other_keys_alone_is_found() -> None:
    """The probe works beside the records, where updates would get lost."""
    store = KeepsBelow("conditions/")
    with pytest.raises(UnusableStoreError, match="ignores If-None-Match"):
        probed(store).create_if_absent("jobs/a/state.json", b"1")
    assert keys(store) == []


@pytest.mark.parametrize("write", ["create", "update"])
def test_a_writer_finds_that_conditions_of_probes_alone_are_kept(write: str) -> None:
    """By its first creation and its first update of a record. It writes no more, and the note is gone."""
    store = KeepsBelow(PROBES)
    version = existing(store.create_if_absent("jobs/b/state.json", b"1"))
    writer = probed(store)

    def write_record() -> object:
        if write == "create":
            return writer.create_if_absent("jobs/a/state.json", b"1")
        return writer.put("jobs/b/state.json", b"2", version)

    with pytest.raises(UnusableStoreError, match="If-None-Match" if write == "create" else "If-Match"):
        write_record()
    with pytest.raises(UnusableStoreError):
        writer.create_if_absent("jobs/c/state.json", b"1")
    assert keys(store) == (["jobs/a/state.json"] if write == "create" else []) + ["jobs/b/state.json"]


def test_writes_beside_the_records_are_verified_more_and_more_rarely() -> None:
    """The 1st, the 10th and the 100th of each kind, by one write more. Others and large ones are not."""
    inner = FaultyStore(InMemoryVersionedStore())
    probed(inner).create_if_absent("changes/a", b"-")
    inner.calls.clear()
    writer = probed(inner)
    for number in range(100):
        version = existing(writer.create_if_absent(f"jobs/{number}/state.json", b"1"))
        assert writer.put(f"jobs/{number}/state.json", b"2", version)
        writer.create_if_absent(f"results/{number}", b"1")
    writer.create_if_absent("jobs/a/manifest.json", b"1" * 2**20)
    assert inner.calls == {"get": 1, "create_if_absent": 201 + 3, "put": 100 + 3}
    assert {entry.value for entry in inner.inner.scan("jobs/") if "state" in entry.key} == {b"2"}


def test_a_verification_that_is_not_answered_is_made_up_for_later() -> None:
    """The write itself is confirmed."""
    inner = FaultyStore(InMemoryVersionedStore())
    writer = probed(inner)
    writer.create_if_absent("changes/a", b"-")
    inner.calls.clear()
    create, answers = inner.inner.create_if_absent, [True, False, True, True]

    def answer_at_times(key: str, value: bytes) -> VersionToken | None:
        if not answers.pop(0):
            raise StoreUnavailableError("The line broke.")
        return create(key, value)

    inner.inner.create_if_absent = answer_at_times  # type: ignore[method-assign]
    assert writer.create_if_absent("jobs/a/state.json", b"1")
    assert writer.create_if_absent("jobs/b/state.json", b"1")
    assert answers == []


@pytest.mark.parametrize(
    "note", [b"http://127.0.0.1:9000", b"2026-02-28T11:59:59+00:00 x", b"2126-01-01T00:00:00Z x", b"\xff"]
)
def test_a_note_expires(note: bytes) -> None:
    """Another server may have taken over the address. So does one that is not a note of today, or from the future."""
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    inner = FaultyStore(InMemoryVersionedStore())
    first = ProbedStore(inner, lambda: SERVER, lambda: now - NOTE_AGE / 2)
    first.create_if_absent("a", b"1")
    inner.calls.clear()
    ProbedStore(inner, lambda: SERVER, lambda: now).create_if_absent("b", b"1")
    assert inner.calls == {"get": 1, "create_if_absent": 1}
    (key,) = inner.inner.list_keys(NOTES)
    found = existing(inner.inner.get(key))
    inner.inner.put(key, note, found.version)
    inner.calls.clear()
    ProbedStore(inner, lambda: SERVER, lambda: now).create_if_absent("c", b"1")
    assert inner.calls["put"] == PROBE["put"] + 1
    assert existing(inner.inner.get(key)).value.startswith(b"2026-03-01T12:00:00")
