"""The page of a job: what it is, how it stands, what failed and why, its history and its events."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode

from flask import Response, request

from mopsjobs.app.jobs.find_job import with_family
from mopsjobs.app.jobs.job_card import (
    MAX_TITLE,
    Section,
    annotations_of,
    describe_lost_outputs,
    job_card,
    step_time,
)
from mopsjobs.app.jobs.next_steps import next_steps
from mopsjobs.app.run.freshness import Freshness
from mopsjobs.app.tasks.failures import describe_condition
from mopsjobs.app.tasks.journals import stored_journal, value_name
from mopsjobs.cache.queries import events as event_queries
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.queries.failures import FailureGroup, JobFailures, last_failures
from mopsjobs.cache.queries.families import Family
from mopsjobs.cache.queries.ledgers import describe_failures, memory_ends, read_ledger
from mopsjobs.cache.queries.overview import jobs_of_study
from mopsjobs.cache.rows import study_of
from mopsjobs.cache.sync_state import known_to
from mopsjobs.registry.calibration_counts import round_word
from mopsjobs.registry.notes import metadata_of
from mopsjobs.studies.journal import Journal
from mopsjobs.utils.text import cut_to_length, pluralize
from mopsjobs.utils.times import from_timestamp, human_duration, whole_seconds
from mopsjobs.web.drawings.axes import Axis
from mopsjobs.web.drawings.plots import Plot, Series, draw, plotted
from mopsjobs.web.pages.readings import ask
from mopsjobs.web.queries.query_params import parse_query
from mopsjobs.web.queries.view_models import (
    Bar,
    Job,
    Moment,
    compare_path,
    event,
    event_time,
    job_path,
    moment,
    row,
    status,
)
from mopsjobs.web.site.job_reads import FAILURES, JOURNAL
from mopsjobs.web.site.rendering import Page
from mopsjobs.web.site.site import Site

SHOWN_EVENTS = 200
"""The last events on the page of a job when it is opened; the script adds later ones."""

SHOWN_FAILURES = 20

SHOWN_PARAMETERS = 12
"""Parameters of a calibration that are drawn."""

SHOWN_MEMBERS = 20

MAX_MESSAGE = 1000

MAX_RUNS = 50
"""The last changed jobs of a study, among which another run is looked for."""

ICONS = ("succeeded", "partial", "failed")
"""Ends of a job whose tab has an icon of its own."""

STANDING = (
    "Waits for", "Warning", "Precision", "Rounds", "Best set",
    "Deferred", "Done", "Rate", "Used", "Budget",
)  # fmt: skip

ELSEWHERE = (*STANDING, "Status", "Progress", "Failed", "Stragglers", "Error", "Family")


class JobPage(Page):
    """The handler of `/jobs/JOB`."""

    def answer(self, job_id: str) -> Response:
        """Return the page of a job."""
        parse_query({}, request.args.items(multi=True))

        def view(connection: sqlite3.Connection, freshness: Freshness) -> dict[str, Any]:
            now = self._site.app.now().timestamp()
            found = job_queries.find_job(connection, job_id, now=now)
            job, family, last = with_family(connection, found, now=now)
            whole_id = str(job["job_id"])
            ends = memory_ends(connection, str((last or job)["job_id"]))
            card = job_card(
                job,
                from_timestamp(now),
                failed=describe_failures(connection, whole_id, job["tasks_failed"], is_active=bool(job["is_active"])),
                lost=describe_lost_outputs(connection, job),
                family=family,
                remarks=job_queries.remarks(connection, whole_id),
            )
            title = metadata_of(job).get("title")
            events = event_queries.last_events(connection, whole_id, limit=SHOWN_EVENTS)
            others = {name: section for name, section in card.items() if name not in ELSEWHERE}
            return {
                "row": row(job, now, known_to(connection, now)),
                "job": job,
                "icon": "-active" if job["is_active"] else f"-{job['status']}" if job["status"] in ICONS else "",
                "unknown": freshness.unknown_since if job["is_active"] else None,
                "title": cut_to_length(title, MAX_TITLE) if isinstance(title, str) and title else None,
                "card": card,
                "standing": _sections({name: card[name] for name in card if name in STANDING}, now),
                "about": _sections(others, now),
                "family": None if family is None else _family(family, card["Family"]),
                "comparisons": _comparisons(connection, job, family),
                "notes": annotations_of(job),
                "timeline": _timeline(job, now),
                "commands": next_steps(job, last, stale=freshness.stale, ends=ends),
                "unreadable": job_queries.unreadable_records(connection, whole_id),
                "events": [event(one) for one in sorted(events, key=event_time)],
                "calibration": _draw_calibration(self._site, connection, job),
                **self._tasks(connection, job),
            }

        return self._renderer.page("job.html", view)

    def _tasks(self, connection: sqlite3.Connection, job: Job) -> dict[str, Any]:
        """Return what the cache knows of the failed tasks, and whether more is being read."""
        job_id = str(job["job_id"])
        ledger, summary = read_ledger(connection, job_id), last_failures(connection, job_id)
        failures, is_current = (None, False) if summary is None else summary
        reading = None if ledger and is_current else ask(self._site, FAILURES, job, "failures")
        if failures is not None and reading is not None and reading.is_waiting:
            reading = None  # the groups of a running job are some seconds old
        return {"failures": None if failures is None else _failures(failures), "reading": reading}


class Piece(NamedTuple):
    """A part of a text, with where it leads to or, of a time, how long ago it was."""

    text: str
    to: str | None
    moment: Moment | None


def _sections(card: Mapping[str, Section], now: float) -> list[tuple[str, list[Piece]]]:
    """Return sections about a job, with the page of a job or of jobs that a part leads to."""
    found = []
    for name, section in card.items():
        pieces = []
        for part in section.parts:
            kind, value = part.link or ("", "")
            to = job_path(value) if kind == "job" else f"/jobs?{urlencode({kind: value})}" if part.link else None
            pieces.append(Piece(part.text, to, moment(part.text, now) if part.is_time else None))
        found.append((name, pieces))
    return found


def _family(family: Family, section: Section) -> dict[str, Any]:
    """Return the family of a job: its sum, and its members, each after its parent."""
    newest = next(member for member in family.members if member.job_id == family.newest)
    return {
        "text": section.text,
        "bar": None if section.share is None else Bar(round(100 * section.share, 1), 0, section.text),
        "kind": status(newest.status).kind,
        "members": family.members[-SHOWN_MEMBERS:],
    }


def _comparisons(connection: sqlite3.Connection, job: Job, family: Family | None) -> list[tuple[str, str]]:
    """Return with which jobs to compare a job, each with the address of that: its parent, and another run."""
    job_id, parent = str(job["job_id"]), job["parent_job_id"]
    members = [] if family is None else [member.job_id for member in family.members]
    found = [("its parent", [str(parent), job_id])] if parent in members else []
    study = study_of(job["metadata"])
    runs = [] if study is None else jobs_of_study(connection, study, MAX_RUNS)
    other = next((one for one in runs if one != job_id and one not in members), None)
    if other is not None:
        found.append(("another run of this study", [other, job_id]))
    return [(text, compare_path(ids)) for text, ids in found]


def _failures(found: JobFailures) -> dict[str, Any]:
    """Return the failed tasks of a job by their errors."""
    groups = len(found.groups) + found.more_groups
    return {
        "failed": found.failed,
        "total": found.total,
        "reasons": pluralize(groups, "reason"),
        "groups": [_group(group) for group in found.groups[:SHOWN_FAILURES]],
        "more": groups - min(len(found.groups), SHOWN_FAILURES),
    }


def _group(group: FailureGroup) -> dict[str, Any]:
    example = None if group.example in (None, group.message) else group.example
    return {
        **group._asdict(),
        "message": cut_to_length(group.message, MAX_MESSAGE),
        "example": example and cut_to_length(example, MAX_MESSAGE),
        "conditions": [describe_condition(one) for one in group.separates],
        "times": [at for at in (group.first_ts, group.last_ts) if at is not None],
    }


def _timeline(job: Job, now: float) -> list[dict[str, Any]]:
    """Return each reported status of a job with its duration. One that no program reported has no time and no row."""
    steps = job["transitions"]
    times = [None if (at := step_time(step)) is None else at.timestamp() for step in steps]
    ends = [*times[1:], now if job["is_active"] else None]
    rows = []
    for step, begin, end in zip(steps, times, ends, strict=False):
        if begin is not None:
            is_end = step is steps[-1] and not job["is_active"]
            took = "" if end is None or is_end else human_duration(max(0.0, end - begin))
            rows.append({"status": status(step["status"]), "at": whole_seconds(str(step["at"])), "took": took})
    return rows


def _draw_calibration(site: Site, connection: sqlite3.Connection, job: Job) -> dict[str, Any] | None:
    """Return the drawings of a calibration, and what to say if they lack rounds; None for any other job."""
    if job["calibration"] is None:
        return None
    journal = stored_journal(connection, str(job["job_id"]))
    reading = None
    if (journal.rounds_done if journal else 0) < job["calibration"]["rounds"]:
        reading = ask(site, JOURNAL, job, "results", "--best")
    names = (
        []
        if journal is None
        else [*plotted([*journal.calibration.parameters], [one.params for one in journal.evaluations()])]
    )
    return {
        "reading": reading,
        "over_time": None if journal is None else _over_time(journal, round_word(job["calibration"])),
        "by_parameter": [] if journal is None else _by_parameter(journal, names[:SHOWN_PARAMETERS]),
        "more": max(0, len(names) - SHOWN_PARAMETERS),
        "value": None if journal is None else value_name(journal),
    }


def _over_time(journal: Journal, word: str) -> Plot | None:
    """Return the best value up to each round, which is called so; None without two of them."""
    values = [math.nan if value is None else value for value in journal.best_by_round()]
    sets = [{word: number} for number in range(1, len(values) + 1)]
    if len(values) < 2:
        return None
    return draw(f"best {value_name(journal)}", Axis(word, sets), Series(sets, range(len(sets)), values))


def _by_parameter(journal: Journal, names: list[str]) -> list[tuple[str, Plot]]:
    evaluations = [*journal.evaluations()]
    sets = [one.params for one in evaluations]
    values = [math.nan if one.told.value is None else one.told.value for one in evaluations]
    failed = [one.told.value is None for one in evaluations]
    numbers = range(len(sets))
    drawn = ((name, draw(value_name(journal), Axis(name, sets), Series(sets, numbers, values, numbers, failed)))
             for name in names)  # fmt: skip
    return [(name, plot) for name, plot in drawn if plot is not None]
