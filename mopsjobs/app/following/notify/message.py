"""What is told of a job: one document for programs, with a title and a text for people."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from mopsjobs.app.jobs.job_card import job_card, stragglers_text
from mopsjobs.app.jobs.job_tasks import mirror_failures
from mopsjobs.app.jobs.next_steps import is_runner_dead, next_command
from mopsjobs.app.run.app import App
from mopsjobs.app.run.notify_rules import FAILURES, SUSPECT, SWEEP_END
from mopsjobs.app.tasks.failures import describe_condition
from mopsjobs.cache.queries.failures import FailureGroup, JobFailures, read_failures
from mopsjobs.cache.queries.sweeps import Sweep
from mopsjobs.errors import MopsJobsError, command_line
from mopsjobs.registry.notes import TASK_HANGS
from mopsjobs.registry.status import SWEEP
from mopsjobs.utils.text import cut_to_length, error_line, out_of, pluralize, strip_control_characters
from mopsjobs.utils.times import human_duration, json_time

SCHEMA_VERSION = 1

SHOWN_GROUPS = 5

SHOWN_CONDITIONS = 2

MAX_LINE = 300
"""Characters of a line. A record may hold a text of any length."""

SHOWN = (
    "Status", "Progress", "Rounds", "Best set", "Owner", "Labels",
    "Running", "Ran", "Used", "Budget", "Error",
)  # fmt: skip
"""Sections of the job that the text has."""


def notification(job: Mapping[str, Any], occasion: str, app: App) -> dict[str, Any]:
    """Return the message about a job.

    Args:
        job: the job in its JSON form.
        occasion: `END`, `FAILURES` or `SUSPECT`.
        app: the run. If its cache can have the failed tasks, they are brought into it.
    """
    failures = _failures(job, app)
    groups = [] if failures is None else failures.groups
    following = next_command(job, stale=False, is_dead=occasion == SUSPECT and is_runner_dead(job, app.env))
    sweep = None if occasion == SUSPECT else (job["labels"] or {}).get(SWEEP)
    others = [] if sweep is None else [f"Further failures in the sweep {sweep}: at its end"]
    lines = [*_lines(job, groups, app), *others, f"Next: {following}"]
    return {
        **_head(occasion, _title(job, occasion), lines, following, app),
        "failures": [_group_json(group) for group in groups[:SHOWN_GROUPS]],
        "more_groups": 0 if failures is None else max(len(groups) - SHOWN_GROUPS, 0) + failures.more_groups,
        "job": job,
        "sweep": None,
    }


def sweep_notification(sweep: Sweep, job: Mapping[str, Any], app: App) -> dict[str, Any]:
    """Return the message about a sweep that has ended.

    Args:
        sweep: the sweep.
        job: the job that ended last, in its JSON form.
        app: the run.
    """
    following = command_line("list --label", f"{SWEEP}={sweep.name}")
    took = human_duration((sweep.ended or sweep.changed) - sweep.created)
    tasks = f", {out_of(sweep.tasks_completed, sweep.tasks_total)} tasks done" if sweep.tasks_total else ""
    owner = [] if sweep.owner is None else [f"Owner: {sweep.owner}"]
    lines = [f"Jobs: {sweep.counts_text()}{tasks}", *owner, f"Took: {took}", f"Next: {following}"]
    return {
        **_head(SWEEP_END, f"sweep {sweep.name} has ended: {sweep.counts_text()}", lines, following, app),
        "failures": [],
        "more_groups": 0,
        "job": job,
        "sweep": {"name": sweep.name, "jobs": sweep.jobs, "statuses": dict(sweep.statuses)},
    }


def _head(event: str, title: str, lines: Sequence[str], following: str, app: App) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "event": event,
        "generated_at": json_time(app.now()),
        "registry": app.settings.registry_id,
        "title": _line(title),
        "text": "\n".join(map(_line, lines)),
        "next": following,
    }


def _failures(job: Mapping[str, Any], app: App) -> JobFailures | None:
    """Return the failed tasks; None if there are none, or if they are not known."""
    job_id = str(job["job_id"])
    if not job["tasks_failed"]:
        return None
    with contextlib.suppress(MopsJobsError, OSError):  # the end is known all the same
        if not os.path.exists(app.cache.path):  # a machine may run jobs, and never list any
            app.cache.write(lambda _cache: None)
            app.registry.require_job(job_id)  # brings it into the cache
        mirror_failures(job, app)
        found = app.cache.read_cached(lambda connection: read_failures(connection, job_id))
        return None if found is None else found[0]
    return None


def _group_json(group: FailureGroup) -> dict[str, Any]:
    return {
        "count": group.size,
        "type": group.type,
        "where": group.where,
        "message": group.message,
        "tasks": group.tasks,
        "separates": group.separates,
    }


def _title(job: Mapping[str, Any], occasion: str) -> str:
    job_id, total = job["job_id"], job["tasks_total"]
    done, failed = job["tasks_completed"] or 0, job["tasks_failed"] or 0
    if occasion == SUSPECT:
        why = stragglers_text(job) if job["suspect"] == TASK_HANGS else None
        return f"{job_id} may be stuck: {why or job['suspect']}"
    if occasion == FAILURES:
        return f"{job_id}: {failed:,} of {pluralize(done + failed, 'ended task')} failed"
    counts = f": {done:,} of {pluralize(total, 'task')} done" if total else ""
    return f"{job_id} is {job['status']}{counts}{f', {failed:,} failed' if failed else ''}"


def _lines(job: Mapping[str, Any], groups: list[FailureGroup], app: App) -> list[str]:
    """Return the lines for people."""
    card = job_card(job, app.now())
    lines = [f"{title}: {section.text}" for title, section in card.items() if title in SHOWN]
    for group in groups[:SHOWN_GROUPS]:
        lines.append(f"{group.size:,} x {error_line(group.type, group.message, group.where)}")
        lines += [f"  {describe_condition(one)}" for one in group.separates[:SHOWN_CONDITIONS]]
    if len(groups) > SHOWN_GROUPS:
        lines.append(f"and {pluralize(len(groups) - SHOWN_GROUPS, 'more reason')}")
    return lines


def _line(text: str) -> str:
    return cut_to_length(strip_control_characters(text), MAX_LINE)
