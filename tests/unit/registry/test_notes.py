"""Notes and labels: their history, what it keeps of others, and that it stays small."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mopsjobs.errors import UsageError
from mopsjobs.registry import notes
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.notes import MAX_ENTRIES, MAX_NOTE
from mopsjobs.store.memory import InMemoryVersionedStore
from support.bench import Bench
from support.cli import Clock, foreign, key, put


class World:
    """A registry of two users, Ada and Bob."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = InMemoryVersionedStore()
        self.ada, self.bob = (
            JobRegistry(self.store, now=self.clock.now, sleep=self.clock.sleep).with_user(user)
            for user in ("ada", "bob")
        )

    def metadata(self, job_id: str = "a") -> dict[str, Any]:
        found = self.ada.get_job(job_id)
        assert found is not None
        metadata: dict[str, Any] = json.loads(found.to_json())["metadata"]
        return metadata


@pytest.fixture
def world() -> World:
    """Return two users of one registry, with the ended job `a`."""
    world = World()
    world.ada.register_job("a")
    world.ada.update_status("a", "succeeded")
    return world


def test_each_note_is_kept_with_its_author_and_its_time(world: World) -> None:
    """The last one is also `metadata.note`, where version 0.1.0 shows it. Status and history of the job stay."""
    before = world.ada.get_job("a")
    world.clock.advance(hours=1)
    world.ada.add_note("a", " in the draft ")
    world.clock.advance(hours=1)
    state = world.bob.add_note("a", "not any more")
    metadata = world.metadata()
    assert metadata["note"] == "not any more"
    assert [(one["text"], one["by"], one["at"]) for one in metadata["note_history"]] == [
        ("in the draft", "ada", "2026-03-01T13:00:00+00:00"),
        ("not any more", "bob", "2026-03-01T14:00:00+00:00"),
    ]
    assert before is not None
    assert (state.status, state.transitions) == (before.status, before.transitions)


def test_a_note_comes_into_the_history_by_each_way_to_write_it(world: World) -> None:
    """`update --note`, a note beside a status, and one at the registration. The same note again changes nothing."""
    world.ada.register_job("b", metadata={"note": "first"})
    world.ada.update_status("b", "running", metadata={"note": "second"})
    world.ada.update_fields("b", metadata={"note": "third"})
    revision = world.ada.add_note("b", "third").revision
    assert [one["text"] for one in world.metadata("b")["note_history"]] == ["first", "second", "third"]
    assert revision == 3


def test_labels_are_set_and_removed_in_one_write(world: World) -> None:
    """The history has what changed, null for a label that was removed. One that was not there changes nothing."""
    world.ada.change_labels("a", {"paper": "fig2", "draft": "1"})
    state = world.bob.change_labels("a", {"paper": "fig3"}, remove=["draft", "never"])
    assert dict(state.labels) == {"paper": "fig3"}
    assert [(one["labels"], one["by"]) for one in world.metadata()["label_history"]] == [
        ({"draft": "1", "paper": "fig2"}, "ada"),
        ({"draft": None, "paper": "fig3"}, "bob"),
    ]
    assert world.bob.change_labels("a", {"paper": "fig3"}, remove=["draft"]).revision == state.revision


def test_a_note_without_history_is_taken_into_it(world: World) -> None:
    """Version 0.1.0 replaces `metadata.note` and keeps the history, unknown to it. Its note is not lost by the next."""
    world.ada.add_note("a", "one")
    record = json.loads(world.ada.get_job("a").to_json())  # type: ignore[union-attr]
    record["metadata"]["note"] = "by 0.1.0"
    put(world.store, key("a"), json.dumps(record))
    assert notes.has_unrecorded_note(world.metadata())
    assert notes.all_notes(world.metadata()) == "one\nby 0.1.0"
    world.bob.add_note("a", "two")
    assert [(one["text"], one["by"]) for one in world.metadata()["note_history"]] == [
        ("one", "ada"),
        ("by 0.1.0", None),
        ("two", "bob"),
    ]
    assert world.metadata()["note_history"][1]["at"] is None


def test_a_history_has_the_last_entries_alone(world: World) -> None:
    """Records stay small: 20 notes of 1,000 characters, and 20 changes of labels. The history cuts a longer note."""
    for number in range(MAX_ENTRIES + 5):
        world.ada.add_note("a", f"{number} " + "x" * (MAX_NOTE - 3))
        world.ada.change_labels("a", {"n": str(number)})
    state = world.ada.update_fields("a", metadata={"note": "y" * 5000})
    metadata = world.metadata()
    assert len(metadata["note_history"]) == len(metadata["label_history"]) == MAX_ENTRIES
    assert metadata["note_history"][-1]["text"] == "y" * (MAX_NOTE - 1) + "…"
    assert not notes.has_unrecorded_note(metadata)
    assert len(state.to_json()) < 40_000


@pytest.mark.parametrize("text", ["", "  ", "x" * (MAX_NOTE + 1)])
def test_empty_and_long_notes_are_refused(world: World, text: str) -> None:
    """Nothing is written."""
    before = world.ada.get_job("a")
    with pytest.raises(UsageError, match="invalid note"):
        world.ada.add_note("a", text)
    assert world.ada.get_job("a") == before


def test_a_note_whose_reply_was_lost_is_written_once(bench: Bench) -> None:
    """The next attempt finds its own entries, also below what another user has written meanwhile."""
    bench.place()
    for write in (
        lambda: bench.registry.add_note("a", "mine"),
        lambda: bench.registry.change_labels("a", {"mine": "1"}),
    ):
        bench.line.lose_reply_next()
        bench.line.rival = lambda: bench.rival.update_fields("a", metadata={"note": "theirs"}, labels={"mine": "2"})
        state = write()
    assert [one["text"] for one in notes.note_history(state.metadata)] == ["mine", "theirs"]
    assert [one["labels"] for one in notes.label_history(state.metadata)] == [
        {"mine": "2"},
        {"mine": "1"},
        {"mine": "2"},
    ]


@pytest.mark.parametrize(
    "found",
    [
        "text",
        [1, None, "x"],
        [{"text": 1, "at": None, "by": None, "id": None}],
        [{"text": "x", "at": "yesterday", "by": None, "id": None}],
        [{"text": "x", "at": None, "by": 1, "id": None}],
        [{"text": "x"}],
        [{"labels": {"a": 1}, "at": None, "by": None, "id": None}],
    ],
)
def test_what_others_put_in_place_of_a_history_is_left_out(world: World, found: object) -> None:
    """Views show the note, and the next note begins a history."""
    metadata = {"note": "old", "note_history": found, "label_history": found}
    assert notes.note_history(metadata) == notes.label_history(metadata) == []
    put(world.store, key("theirs"), foreign("theirs", "failed", metadata=metadata))
    world.ada.add_note("theirs", "new")
    world.ada.change_labels("theirs", {"a": "1"})
    state = world.ada.get_job("theirs")
    assert isinstance(state, JobState)
    assert [one["text"] for one in notes.note_history(state.metadata)] == ["old", "new"]
    assert [one["labels"] for one in notes.label_history(state.metadata)] == [{"a": "1"}]
