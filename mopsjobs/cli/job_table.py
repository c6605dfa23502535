"""Jobs as rows of a table, the same wherever jobs are listed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import Freshness
from mopsjobs.console.printer import status_style
from mopsjobs.console.result import Table
from mopsjobs.console.terminal import style_text
from mopsjobs.errors import command_line
from mopsjobs.registry.status import SWEEP
from mopsjobs.utils.text import out_of, strip_control_characters
from mopsjobs.utils.times import from_timestamp, human_age, human_duration, json_time, parse_time, whole_seconds

TYPE_CHECKING = False

if TYPE_CHECKING:
    from mopsjobs.cache.queries.sweeps import Sweep

JOB_HEADERS = ("JOB", "STATUS", "PROGRESS", "OWNER", "CREATED", "UPDATED", "DURATION")

ID_HEADERS = ("JOB", "job_id", "parent_job_id")
"""Columns of ids, which are copied: a table never cuts them."""

DROP_ORDER = ("CREATED", "OWNER", "DURATION", "UPDATED", "PROGRESS")
"""The columns that a narrow terminal may lack, the least important first."""

NOTED_LATE = 3
"""Jobs that will not finish before their time limit, and that a note names."""


def job_table(
    jobs: Iterable[dict[str, object]], app: App, freshness: Freshness, sweeps: Sequence[Sweep | None] = ()
) -> Table:
    """Return a table of jobs, for people. Where there is a sweep for a row, it is in place of the job."""
    unknown = freshness.unknown_since if app.out.is_terminal else None  # in a pipe, the last line says it
    rows = [
        job_row(job, app, unknown) if sweep is None else sweep_row(sweep, app, unknown)
        for job, sweep in itertools.zip_longest(jobs, sweeps)
    ]
    return Table(JOB_HEADERS, rows, never_cut=ID_HEADERS, drop_order=DROP_ORDER)


def note_late(jobs: Iterable[dict[str, object]], notes: list[str], app: App) -> Iterator[dict[str, object]]:
    """Yield the jobs, and add notes on the first ones that will not finish before their time limit."""
    for job in jobs:
        if job["time_limit_at"] is not None and len(notes) < NOTED_LATE:
            from mopsjobs.app.jobs.job_card import late_end_text  # here: few jobs are late

            notes.append(f"{job['job_id']}: {late_end_text(job, app.now())}")
        yield job


def sweep_row(sweep: Sweep, app: App, unknown_since: str | None = None) -> list[object]:
    """Return a sweep as a row under `JOB_HEADERS`."""
    now = app.now().timestamp()
    created, changed = (
        human_age(now - at) if app.out.is_terminal else whole_seconds(json_time(from_timestamp(at)))
        for at in (sweep.created, sweep.changed)
    )
    style = status_style(sweep.status, None, unknown_since if sweep.active else None).style
    total, done = sweep.tasks_total, sweep.tasks_completed
    return [
        f"{SWEEP}={sweep.name}",
        style_text(strip_control_characters(sweep.counts_text()), "yellow" if sweep.suspect else style),
        out_of(done, total) if total else (done or None),
        sweep.owner,
        created,
        changed,
        human_duration((now if sweep.ended is None else sweep.ended) - sweep.created),
    ]


def sweep_notes(sweeps: Sequence[Sweep | None]) -> list[str]:
    """Return how to see the jobs of the first sweep, if there is one."""
    names = [sweep.name for sweep in sweeps if sweep is not None]
    return [f"To see the jobs of a sweep: {command_line('list --label', f'{SWEEP}={names[0]}')}"] if names else []


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
    total, done, rounds = job["tasks_total"], job["tasks_completed"], job["calibration"]
    progress = out_of(done, total) if total else (done or None)  # type: ignore[arg-type]
    if isinstance(rounds, Mapping):
        from mopsjobs.registry.calibration_counts import round_word  # here: few jobs are a calibration

        progress = f"{out_of(rounds['rounds'], rounds['at_most'])} {round_word(rounds)}s"
    return [
        job["job_id"],
        status_style(job["status"], job["suspect"], unknown_since if job["is_active"] else None),
        progress,
        job["owner"],
        created,
        updated,
        human_duration(job["duration_seconds"]),  # type: ignore[arg-type]
    ]
