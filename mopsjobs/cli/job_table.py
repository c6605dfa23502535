"""Jobs as rows of a table, the same wherever jobs are listed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import Freshness
from mopsjobs.console.printer import status_style
from mopsjobs.console.result import Table
from mopsjobs.utils.text import out_of
from mopsjobs.utils.times import human_age, human_duration, parse_time, whole_seconds

JOB_HEADERS = ("JOB", "STATUS", "PROGRESS", "OWNER", "CREATED", "UPDATED", "DURATION")

ID_HEADERS = ("JOB", "job_id", "parent_job_id")
"""Columns of ids, which are copied: a table never cuts them."""

DROP_ORDER = ("CREATED", "OWNER", "DURATION", "UPDATED", "PROGRESS")
"""The columns that a narrow terminal may lack, the least important first."""

NOTED_LATE = 3
"""Jobs that will not finish before their time limit, and that a note names."""


def job_table(jobs: Iterable[dict[str, object]], app: App, freshness: Freshness) -> Table:
    """Return a table of jobs, for people."""
    unknown = freshness.unknown_since if app.out.is_terminal else None  # in a pipe, the last line says it
    rows = [job_row(job, app, unknown) for job in jobs]
    return Table(JOB_HEADERS, rows, never_cut=ID_HEADERS, drop_order=DROP_ORDER)


def note_late(jobs: Iterable[dict[str, object]], notes: list[str], app: App) -> Iterator[dict[str, object]]:
    """Yield the jobs, and add notes on the first ones that will not finish before their time limit."""
    for job in jobs:
        if job["time_limit_at"] is not None and len(notes) < NOTED_LATE:
            from mopsjobs.app.jobs.job_card import late_end_text  # here: few jobs are late

            notes.append(f"{job['job_id']}: {late_end_text(job, app.now())}")
        yield job


def fields_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """Return a table of the columns that the user chose, in the order of their importance."""
    return Table(headers, rows, never_cut=ID_HEADERS, drop_order=tuple(headers[:0:-1]), names_dropped=True)


def job_row(job: dict[str, object], app: App, unknown_since: str | None = None) -> list[object]:
    """Return a job as a row under `JOB_HEADERS`: with ages on a terminal, else with times."""
    now = app.now() if app.out.is_terminal else None
    created, updated = (
        whole_seconds(str(job[name])) if now is None else human_age((now - parse_time(str(job[name]))).total_seconds())
        for name in ("created_at", "updated_at")
    )
    total, done = job["tasks_total"], job["tasks_completed"]
    return [
        job["job_id"],
        status_style(job["status"], job["suspect"], unknown_since if job["is_active"] else None),
        out_of(done, total) if total else (done or None),  # type: ignore[arg-type]
        job["owner"],
        created,
        updated,
        human_duration(job["duration_seconds"]),  # type: ignore[arg-type]
    ]
