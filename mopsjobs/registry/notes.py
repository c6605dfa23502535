"""Notes and labels of a job, and their history: who wrote what, and when. Pure: no clock, no store.

The history lies in `metadata`, beside the note: each version of mops-jobs and the programs of ModelOps keep what is
there, and show it. It is derived from the difference between two records, so each way to change them leaves it. See
docs/decisions/0074-notes-and-labels.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from mopsjobs.errors import UsageError
from mopsjobs.utils.text import cut_to_length
from mopsjobs.utils.times import parse_time

if TYPE_CHECKING:
    from mopsjobs.registry.job_state import JobState

NOTE = "note"
"""The member of metadata that holds the last note."""

NOTE_HISTORY = "note_history"
"""The member of metadata with the last notes: `{text, at, by, id}`, oldest first; `id` is the write that made it."""

LABEL_HISTORY = "label_history"
"""The member of metadata with the last changes of labels: `{labels, at, by, id}`; a removed label is null."""

SUSPECT = "suspect"
"""The member of metadata that says why an active job may be stuck: `{reason, since}`; null if it is not."""

TASK_HANGS = "task_hangs"
"""Why a job is suspect of which a task is at work for many times as long as the others took."""

WAITS_FOR = "waits_for"
"""The member of metadata that says what the tasks of an active job wait for; null if they do not."""

CLIENT_TEXT = "its client"
"""What a growing job waits for when all its tasks have ended. Its runners say so, and give signs of life."""

OWN_WRITE = "own_write"
"""The member of metadata that names a file which the model wrote into its own directory."""

STOP_BY = "stop_by"
"""The member of metadata with the time by which `cancel --grace` ends the job: until then, tasks may save."""

PRECISION = "precision"
"""The member of metadata that counts the parameter sets of an adaptive study by how precise they are, and its tasks."""

ATTEMPTS = "attempts"
"""The member of metadata that counts the attempts in the ledger, as they were when an end was inferred or corrected."""

GROWS = "grows"
"""The member of metadata with the seconds without a task after which a growing job ends; absent for any other job."""

LOST_SHARDS = "lost_shards"
"""The member of metadata that tells how shards of a growing job have ended, by their numbers, in the words of its
engine. Those that are left run their tasks."""

CALIBRATION = "calibration"
"""The member of metadata that counts the rounds and sets of a calibration, with the best one."""

MAX_NOTE = 1000
"""Characters of a note. A longer one of `update` is cut in the history, so that records stay small."""

MAX_ENTRIES = 20
"""Entries of a history. Older ones are among the events."""


def metadata_of(job: Mapping[str, object]) -> Mapping[str, Any]:
    """Return the metadata of a job, in which other programs may have written anything; empty without a mapping."""
    metadata = job["metadata"]
    return metadata if isinstance(metadata, Mapping) else {}


def is_submitted(job: Mapping[str, object]) -> bool:
    """Return whether mops-jobs submitted a job, so that its tasks are known. Other jobs were only reported."""
    return "bundle" in metadata_of(job)


class Author(NamedTuple):
    """The user who changes notes and labels, the time, and the write."""

    by: str | None
    at: str
    write_id: str


def own_write_text(name: str) -> str:
    """Return a warning about a file that the model wrote into its own directory."""
    return f"the model writes {name} into its own directory, which all tasks share: write to MOPS_JOBS_TASK_DIR instead"


def check_note(text: str) -> str:
    """Return a note without space around it.

    Raises:
        UsageError: if it is empty or too long.
    """
    note = text.strip()
    if not note:
        raise UsageError("invalid note '': expected a text.")
    if len(note) > MAX_NOTE:
        raise UsageError(
            f"invalid note of {len(note):,} characters: expected at most {MAX_NOTE:,}.",
            hint="Keep longer texts elsewhere, and note where.",
        )
    return note


def with_history(before: JobState, changed: JobState, author: Author) -> JobState:
    """Return `changed` with an entry for a new note, and one for other labels, if it has them."""
    metadata = dict(changed.metadata)
    note, earlier = _note(changed), _note(before)
    if note is not None and note != earlier:
        notes = note_history(changed.metadata)
        if earlier and not _is_last(notes, earlier):  # a program without a history has written it
            notes.append(_entry("text", cut_to_length(earlier, MAX_NOTE), Author(None, "", "")))
        notes.append(_entry("text", cut_to_length(note, MAX_NOTE), author))
        metadata[NOTE_HISTORY] = notes[-MAX_ENTRIES:]
    labels = {
        label: changed.labels.get(label)
        for label in sorted({**before.labels, **changed.labels})
        if before.labels.get(label) != changed.labels.get(label)
    }
    if labels:
        metadata[LABEL_HISTORY] = [*label_history(changed.metadata), _entry("labels", labels, author)][-MAX_ENTRIES:]
    return changed if metadata == changed.metadata else changed.evolve(metadata=MappingProxyType(metadata))


def attempts_noted(metadata: Mapping[str, object]) -> int:
    """Return how many attempts the record counts; see `ATTEMPTS`."""
    count = metadata.get(ATTEMPTS)
    return count if type(count) is int else 0


def note_history(metadata: Mapping[str, object]) -> list[dict[str, Any]]:
    """Return the entries of the notes, oldest first. What another program has put there is left out."""
    return _entries(metadata.get(NOTE_HISTORY), "text", str)


def label_history(metadata: Mapping[str, object]) -> list[dict[str, Any]]:
    """Return the entries of changes of labels, oldest first. What another program has put there is left out."""
    return _entries(metadata.get(LABEL_HISTORY), "labels", dict)


def all_notes(metadata: Mapping[str, object]) -> str | None:
    """Return the text of all notes, for searches; None if there are none."""
    texts = [entry["text"] for entry in note_history(metadata)]
    if has_unrecorded_note(metadata):
        texts.append(metadata[NOTE])
    return "\n".join(texts) or None


def has_unrecorded_note(metadata: Mapping[str, object]) -> bool:
    """Return whether the last note is not in the history: a program without a history has written it."""
    note = metadata.get(NOTE)
    return isinstance(note, str) and bool(note) and not _is_last(note_history(metadata), note)


def is_annotated_by(state: JobState, write_id: str) -> bool:
    """Return whether a write made an entry in a history. No later write but many removes this trace."""
    entries = (*note_history(state.metadata), *label_history(state.metadata))
    return any(entry["id"] == write_id for entry in entries)


def _note(state: JobState) -> str | None:
    note = state.metadata.get(NOTE)
    return note if isinstance(note, str) else None


def _is_last(notes: list[dict[str, Any]], note: str) -> bool:
    return bool(notes) and notes[-1]["text"] == cut_to_length(note, MAX_NOTE)


def _entry(name: str, value: object, author: Author) -> dict[str, Any]:
    return {name: value, "at": author.at or None, "by": author.by, "id": author.write_id or None}


def _entries(found: object, name: str, kind: type) -> list[dict[str, Any]]:
    """Return those entries that mops-jobs can have written."""
    if not isinstance(found, (list, tuple)):
        return []
    entries = [dict(entry) for entry in found if isinstance(entry, Mapping) and isinstance(entry.get(name), kind)]
    return [entry for entry in entries if _has_texts(entry)]


def _has_texts(entry: Mapping[str, Any]) -> bool:
    """Return whether what has to be a text or null in an entry is one, and its time a time. None may be missing."""
    texts = [*(entry.get(name, 0) for name in ("at", "by", "id")), *dict(entry.get("labels", {})).values()]
    if not all(text is None or isinstance(text, str) for text in texts):
        return False
    try:
        return entry["at"] is None or parse_time(entry["at"]) is not None
    except ValueError:
        return False


def lost_shards(metadata: Mapping[str, object]) -> dict[int, str]:
    """Return how shards of a growing job have ended, by their numbers; see `LOST_SHARDS`."""
    lost = metadata.get(LOST_SHARDS)
    known = lost.items() if isinstance(lost, Mapping) else ()
    return {int(number): str(text) for number, text in known if number.isdecimal()}
