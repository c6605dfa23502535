"""The page of a job: what it is, how it stands, what failed and where, its history and its events."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flask import Response, request

from mopsjobs.app.jobs.find_job import Job, with_family
from mopsjobs.app.jobs.job_card import count_lost_outputs, job_card
from mopsjobs.app.jobs.log_selection import MAX_TASK
from mopsjobs.app.jobs.next_steps import next_command, next_commands
from mopsjobs.app.run.freshness import Freshness
from mopsjobs.cache.queries import events as event_queries
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.queries.failures import last_failures
from mopsjobs.cache.queries.families import Family
from mopsjobs.cache.queries.ledgers import read_ledger
from mopsjobs.cache.queries.listed_jobs import listed_job
from mopsjobs.cache.queries.overview import jobs_of_study
from mopsjobs.cache.queries.task_ends import describe_failures, memory_ends
from mopsjobs.cache.rows import study_of
from mopsjobs.errors import command_line
from mopsjobs.events.format import LOG, STRAGGLER
from mopsjobs.utils.times import from_timestamp
from mopsjobs.web.drawings.heat_map import Axes
from mopsjobs.web.pages import job_sections
from mopsjobs.web.pages.map_view import MapView
from mopsjobs.web.queries import view_models
from mopsjobs.web.queries.query_params import Parameter, parse_query
from mopsjobs.web.site.job_reads import FAILURES
from mopsjobs.web.site.rendering import Renderer
from mopsjobs.web.site.site import Site

SHOWN_EVENTS = 200
"""The last events on the page of a job when it is opened; the script adds later ones."""

SHOWN_COLUMNS = ("created", "updated", "duration")
"""Values of the row of a job that its page shows beside the others."""

SHOWN_STRAGGLERS = 20

MAX_RUNS = 50
"""The last changed jobs of a study, among which another run is looked for."""

MAX_READ_TASKS = 500_000
"""Tasks of a job that a page has read: they take some 100 MB of the cache."""

PARAMETERS = {"show": Parameter(""), "x": Parameter(), "y": Parameter()}
"""The query: which events, and the parameters of the map's axes."""

ICONS = ("succeeded", "partial", "failed")
"""Ends of a job whose tab has an icon of its own."""


class JobPage:
    """The handler of `/jobs/JOB`."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._site = renderer.site
        self._maps = MapView(renderer.site)

    def answer(self, job_id: str) -> Response:
        """Return the page of a job."""
        query = parse_query(PARAMETERS, request.args.items(multi=True))
        kind = LOG if query["show"] == LOG else None
        axes = Axes(query["x"], query["y"])

        def view(connection: sqlite3.Connection, freshness: Freshness) -> dict[str, Any]:
            now = self._site.app.now().timestamp()
            found = job_queries.find_job(connection, job_id, now=now)
            job, family, last = with_family(connection, found, now=now)
            whole_id = str(job["job_id"])
            ends = memory_ends(connection, str((last or job)["job_id"]))
            card = job_card(
                job,
                from_timestamp(now),
                failed=describe_failures(connection, whole_id, job["tasks_failed"]),
                lost=count_lost_outputs(connection, job),
                family=family,
                remarks=job_queries.remarks(connection, whole_id),
            )
            first = next_command(last or job, stale=freshness.stale, ends=ends)
            return {
                "row": view_models.row(listed_job(connection, whole_id, now=now), now, SHOWN_COLUMNS),
                "job": job,
                "since": None if job["status_since"] is None else view_models.moment(job["status_since"], now),
                "icon": _icon(job),
                "unknown": freshness.unknown_since if job["is_active"] else None,
                "title": job_sections.title(job),
                "card": card,
                "standing": job_sections.standing(card, now),
                "about": job_sections.about(card, now),
                "family": None if family is None else job_sections.family(family, whole_id, card["Family"]),
                "comparisons": _comparisons(connection, job, family),
                "notes": job_sections.notes(job, now),
                "timeline": job_sections.timeline(job, now),
                "progress": job_sections.progress_chart(
                    event_queries.progress_points(connection, whole_id), job["ended_at"]
                ),
                "next": first,
                "commands": [(why, command) for why, command in next_commands(job, last, ends) if command != first],
                "unreadable": job_queries.unreadable_records(connection, whole_id),
                "stragglers": _stragglers(connection, job),
                **_events(connection, whole_id, kind),
                **self._tasks(connection, job, axes, now),
            }

        return self._renderer.page("job.html", view)

    def _tasks(self, connection: sqlite3.Connection, job: Job, axes: Axes, now: float) -> dict[str, Any]:
        """Return what the cache knows of the tasks: failures, the map, and whether more is being read."""
        job_id = str(job["job_id"])
        ledger, summary = read_ledger(connection, job_id), last_failures(connection, job_id)
        failures, is_current = (None, False) if summary is None else summary
        reading = None if ledger and is_current else ask(self._site, FAILURES, job, "failures")
        if failures is not None and reading is not None and reading.is_waiting:
            reading = None  # the groups of a running job are some seconds old
        return {
            "failures": None if failures is None else job_sections.failures(failures, job_id, now),
            "map": None if ledger is None else self._maps.section(connection, job, ledger, failures, axes),
            "axes": axes,
            "reading": reading,
        }


def _icon(job: Job) -> str:
    """Return the end of the name of the icon for the tab of a job."""
    return "-active" if job["is_active"] else f"-{job['status']}" if job["status"] in ICONS else ""


def _comparisons(connection: sqlite3.Connection, job: Job, family: Family | None) -> list[tuple[str, str]]:
    """Return with which jobs to compare a job, each with the address of that: those of its family, and another run."""
    job_id, parent = str(job["job_id"]), job["parent_job_id"]
    members = [] if family is None else [member.job_id for member in family.members]
    found = [("its parent", [str(parent), job_id])] if parent in members else []
    if len(members) > len(found) + 1:
        others = [one for one in members if one != job_id][1 - view_models.MAX_COMPARED :]
        found.append(("its family", [one for one in members if one == job_id or one in others]))
    study = study_of(job["metadata"])  # type: ignore[arg-type]
    runs = [] if study is None else jobs_of_study(connection, study, MAX_RUNS)
    other = next((one for one in runs if one != job_id and one not in members), None)
    if other is not None:
        found.append(("another run of this study", [other, job_id]))
    return [(text, view_models.compare_path(ids)) for text, ids in found]


class Reading(NamedTuple):
    """A sentence about data that a page lacks."""

    text: str
    is_waiting: bool = False
    """Whether it will be there in a moment."""


def ask(
    site: Site, kind: str, job: view_models.Job, command: str, options: str = "", *, part: Sequence[str] = ()
) -> Reading | None:
    """Ask for what the page of a job lacks, and return what to say of that; None if there is nothing to say.

    Args:
        site: the shared state.
        kind: what to read, as `JobReads.ask` takes it.
        job: the job.
        command: the command that reads the same, for a server that never uses the network.
        options: its flags.
        part: the part of the job that is to be read, as `JobReads.ask` takes it.
    """
    if not is_submitted(job):
        return None
    to_run = f"Run: {command_line(command, job['job_id'], options)}"
    if site.reads is None:
        return Reading(f"Not on this machine yet. {to_run}")
    if job["tasks_total"] > MAX_READ_TASKS:
        return Reading(f"The page does not read more than {MAX_READ_TASKS:,} tasks. {to_run}")
    state = site.reads.ask(kind, str(job["job_id"]), *part, state=str(job["updated_at"]))
    if state.is_waiting:
        return Reading("Being read from the registry.", is_waiting=True)
    return None if state.problem is None else Reading(state.problem)


def is_submitted(job: view_models.Job) -> bool:
    """Return whether mops-jobs submitted a job, so that its tasks are known."""
    metadata = job["metadata"]
    return isinstance(metadata, Mapping) and "bundle" in metadata


def _events(connection: sqlite3.Connection, job_id: str, kind: str | None) -> dict[str, Any]:
    """Return the last events of a job."""
    events = event_queries.last_events(connection, job_id, limit=SHOWN_EVENTS, kind=kind)
    return {
        "events": [view_models.event(event) for event in sorted(events, key=view_models.event_time)],
        "show": kind or "",
    }


def _stragglers(connection: sqlite3.Connection, job: Job) -> list[dict[str, str]]:
    if job["stragglers"] is None:
        return []
    job_id = str(job["job_id"])
    events = event_queries.last_events(connection, job_id, limit=SHOWN_STRAGGLERS, kind=STRAGGLER)
    ended = "SELECT 1 FROM task WHERE job_id = ? AND task = ?"
    texts = [
        one.event
        for one in events
        if type(task := one.event.get("task")) is int
        and 0 <= task <= MAX_TASK
        and connection.execute(ended, (job_id, task)).fetchone() is None
    ]
    return job_sections.stragglers(job, texts)
