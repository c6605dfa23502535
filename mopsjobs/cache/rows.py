"""Convert records to rows of the cache. What views need is computed once, at mirroring, so that reading is cheap."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mopsjobs.cache import counters, pruning, totals
from mopsjobs.cache.job_json import COLUMNS, job_json
from mopsjobs.cache.job_row import JobRow
from mopsjobs.engines.base import kubernetes_name
from mopsjobs.errors import MAX_REASON, RecordError, shorten
from mopsjobs.registry.calibration_counts import best_of
from mopsjobs.registry.job_columns import job_columns, read_remarks
from mopsjobs.registry.job_state import MAX_BYTES_BESIDES_OUTPUTS, OUTPUT_LISTS, JobState
from mopsjobs.registry.notes import all_notes
from mopsjobs.registry.status import SWEEP, TRANSITIONS
from mopsjobs.store.base import VersionToken
from mopsjobs.utils.text import cut_to_length, error_line
from mopsjobs.utils.times import parse_time

UNREADABLE = "unreadable"
"""Problem: the bytes are not a record. The last good row, if there is one, stays."""
UNKNOWN_STATUS = "unknown_status"
"""Problem: the record is mirrored as it is, but this version does not know its status."""
FOREIGN_VALUE = "foreign_value"
"""Problem: the record is mirrored, and a value of another form is shown as near to it as possible."""
UNLISTED = "unlisted"
"""Kind of problem: a listing lacked the record, and it was not found to be gone. Also the version of such a problem."""
NOT_A_RECORD = "not_a_record"
"""Problem: a foreign key beside the records. It is left unchanged."""

MAX_TEXT = 200
"""Characters of a study or an error in a row: what a line of a table shows, and what is searched."""

SHOWN_OUTPUTS = 5
"""Outputs that each list of a large record shows: views hold one record at a time in memory."""

ROUNDING_SECONDS = 1.0
"""By how much a program may change a time that it only writes again: some drop fractions of a second."""

# Created once: json.dumps creates an encoder for each call with options, and a sync makes one call per record.
_ENCODER = json.JSONEncoder(separators=(",", ":"), check_circular=False)

_COLUMNS = COLUMNS.split(", ")

_INSERT = f"INSERT INTO job ({', '.join(JobRow._fields)}) VALUES ({', '.join('?' * len(JobRow._fields))})"  # noqa: S608 - constant names

_UPSERT = (
    f"{_INSERT} ON CONFLICT (job_id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in JobRow._fields)}"
)

_INSERT_LABEL = "INSERT INTO job_label (label, value, job_id) VALUES (?, ?, ?)"


class Problem(NamedTuple):
    """A key under the registry's prefix without a valid record: where it lies, its kind, and the reason."""

    key: str
    kind: str
    reason: str
    version: str


class MirroredJob(NamedTuple):
    """A record ready to be written to the cache: its row, its labels, and its problem, if any."""

    row: JobRow
    labels: tuple[tuple[str, str, str], ...]
    problem: Problem | None


def to_row(key: str, job_id: str, value: bytes, version: VersionToken, generation: int) -> MirroredJob | Problem:
    """Convert a record to a row; return the problem if the bytes are not a valid record.

    Args:
        key: the key of the record.
        job_id: the id in the key; the record must have the same.
        value: the record.
        version: its version.
        generation: that of the sync, or of the write of this machine, that brings the row.
    """
    try:
        state = JobState.from_json(value)
        if state.job_id != job_id:
            raise RecordError(f"the record is that of job {state.job_id[:80]!r}")
        remarks = read_remarks(state)
        row_state = state
        if len(value) > MAX_BYTES_BESIDES_OUTPUTS:
            row_state = state.evolve(**{name: getattr(state, name)[:SHOWN_OUTPUTS] for name in OUTPUT_LISTS})
            remarks.append(f"has {len(value):,} bytes; of its outputs, {SHOWN_OUTPUTS} per list are shown")
    except RecordError as error:
        return Problem(key, UNREADABLE, error.reason, version.value)
    columns: dict[str, Any] = dict(zip(_COLUMNS, job_columns(row_state), strict=True))
    row = JobRow(
        **columns,
        key=key,
        job_id=job_id,
        version=version.value,
        generation=generation,
        status=str(state.status),
        changed_ts=max(columns["created_ts"], parse_time(state.updated_at).timestamp()),
        name=kubernetes_name({"k8s_name": state.k8s_name, "metadata": state.metadata}),
        namespace=state.k8s_namespace,
        owner=state.owner,
        tasks_total=state.tasks_total,
        tasks_completed=state.tasks_completed,
        # If a record does not list its outputs, each task counts as one output.
        outputs_expected=len(state.expected_outputs) or state.tasks_total,
        outputs_verified=len(state.verified_outputs) or state.tasks_verified,
        is_validated=int(state.validation_completed_at is not None),
        parent_job_id=state.parent_job_id,
        study=study_of(state.metadata),
        sweep=state.labels.get(SWEEP) or None,
        best=best_of(state.metadata),
        error=error_of(state.error_code, state.error_message),
        note=all_notes(state.metadata),
    )
    labels = tuple((label, text, job_id) for label, text in state.labels.items())
    kind = FOREIGN_VALUE if state.status in TRANSITIONS else UNKNOWN_STATUS
    reason = shorten(". ".join(remarks), MAX_REASON)
    return MirroredJob(row, labels, Problem(key, kind, reason, version.value) if remarks else None)


def study_of(metadata: Mapping[str, object]) -> str | None:
    """Return what a job computes, `model/scenario`; None if its metadata names neither."""
    parts = [text for name in ("model", "scenario") if isinstance(text := metadata.get(name), str) and text]
    return cut_to_length("/".join(parts), MAX_TEXT) or None


def error_of(code: str | None, message: str | None) -> str | None:
    """Return the code of an error and the first line of its message, `OOM: exit code 137`; None if there is neither."""
    lines = (message or "").strip().splitlines()
    return cut_to_length(error_line(code, "".join(lines[:1])) or "", MAX_TEXT) or None


def replace_problems(connection: sqlite3.Connection, keys: Iterable[str], problems: Iterable[Problem]) -> None:
    """Remove the problems of these keys and write other problems. The caller holds the transaction."""
    connection.executemany("DELETE FROM problem WHERE key = ?", [(key,) for key in keys])
    connection.executemany(
        "INSERT OR REPLACE INTO problem (key, kind, reason, version) VALUES (?, ?, ?, ?)",
        [(problem.key, problem.kind, problem.reason, problem.version) for problem in problems],
    )


def job_json_from_state(state: JobState, *, now: float) -> dict[str, object]:
    """Return a record as scripts get it, the same as if it had gone through the cache; see `job_json`."""
    return job_json(job_columns(state), now=now)


def write_rows(connection: sqlite3.Connection, records: Iterable[MirroredJob]) -> None:
    """Insert or replace rows and their labels, and update counters and sums. The caller holds the transaction."""
    records = sorted(records, key=lambda record: record.row.key)
    rows = [record.row for record in records]
    keys = [row.key for row in rows]
    labels = [label for record in records for label in record.labels]
    _update_ledgers(connection, rows)
    counters.count_rows(connection, rows)
    pruning.unmark_pruned(connection, keys)
    with totals.track_changes(connection, keys):
        connection.executemany(_UPSERT, rows)
    connection.executemany("DELETE FROM job_label WHERE job_id = ?", [(row.job_id,) for row in rows])
    connection.executemany(_INSERT_LABEL, labels)


def _update_ledgers(connection: sqlite3.Connection, rows: Iterable[JobRow]) -> None:
    """Delete the ledgers of earlier jobs whose ids were registered again. Those of changed jobs are to be listed again.

    Attempts of a job that has ended may still be delivered, which changes its record.
    Without a row, as of a pruned job, the first look at the ledger tells whether it was before the registration.
    """
    if connection.execute("SELECT 1 FROM ledger LIMIT 1").fetchone() is None:
        return
    found = connection.execute(
        "SELECT ledger.job_id, iif(job.job_id IS NULL, looked_at < json_extract(new.value, '$[1]'),"
        " abs(created_ts - json_extract(new.value, '$[1]')) >= ?), version IS NOT json_extract(new.value, '$[2]')"
        " FROM json_each(?) AS new CROSS JOIN ledger LEFT JOIN job USING (job_id)"
        " WHERE ledger.job_id = json_extract(new.value, '$[0]')",
        (ROUNDING_SECONDS, _ENCODER.encode([(row.job_id, row.created_ts, row.version) for row in rows])),
    ).fetchall()
    pruning.delete_ledgers(connection, [job_id for job_id, is_earlier, _ in found if is_earlier])
    changed = [(job_id,) for job_id, _, is_changed in found if is_changed]
    connection.executemany("UPDATE ledger SET is_complete = 0 WHERE job_id = ?", changed)
