"""`status`: show one job, and what to type next."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mopsjobs.app.jobs.current_jobs import find_current_job
from mopsjobs.app.jobs.find_job import FoundJob, Job
from mopsjobs.app.jobs.job_card import (
    ABOUT_STUDY,
    SHOWN_MEMBERS,
    UNKNOWN,
    annotations_of,
    describe_lost_outputs,
    failed_tasks_text,
    job_card,
    step_time,
)
from mopsjobs.app.jobs.next_steps import next_of_family
from mopsjobs.app.run.app import App
from mopsjobs.cache.queries.families import Member
from mopsjobs.cli.flags import add_freshness_flags, add_job_names, freshness_policy
from mopsjobs.console.printer import status_style
from mopsjobs.console.result import Document, Result, Text
from mopsjobs.console.terminal import TITLE_WIDTH, style_text, title_text
from mopsjobs.errors import EXIT_UNREACHABLE, exit_code_of
from mopsjobs.utils.text import out_of
from mopsjobs.utils.times import human_age, human_duration, parse_time, whole_seconds

if TYPE_CHECKING:
    from mopsjobs.engines.lookup import EngineAnswer

HELP = "show one job: state, progress, times, error, history"

DESCRIPTION = (
    "Show one job from the local cache, and what to type next. A job that the cache lacks is read from the registry."
)

EXAMPLES = (
    "mops-jobs status @latest",
    "mops-jobs status nightly-1 --refresh --json | jq .transitions",
    "mops-jobs status nightly-1 --exit-status && mops-jobs results nightly-1 --download out",
)

BAR_WIDTH = 24

NOT_SHOWN = (*ABOUT_STUDY, "Rate")
"""Sections that only the page shows."""

Line = str | list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_job_names(parser)
    parser.add_argument("--json", action="store_true", help="print the job as one JSON object")
    parser.add_argument(
        "--exit-status",
        action="store_true",
        help="exit with the job's state: 0 succeeded, 100 failed, 103 cancelled, 104 partial, 8 not finished",
    )
    add_freshness_flags(parser)


def run(args: argparse.Namespace, app: App) -> Result:
    """Show one job."""
    found = find_current_job(args.job, app, freshness_policy(args))
    exit_code = 0 if found.freshness is None else found.freshness.exit_code
    if found.engine is not None and args.refresh:
        exit_code = EXIT_UNREACHABLE
    if args.exit_status and not exit_code:
        exit_code = exit_code_of(found.job["status"])
    if args.json:
        return Result(Document(found.job), warnings=found.warnings, exit_code=exit_code)
    lines, notes = _engine_text(found.job, found.engine) if found.engine is not None else _text(found, app)
    return Result(Text(lines, indent=TITLE_WIDTH), warnings=found.warnings, notes=notes, exit_code=exit_code)


def _engine_text(job: Job, answer: EngineAnswer) -> tuple[list[Line], list[str]]:
    """Return lines and notes for a job whose record could not be read."""
    phase, reason, detail, *_ = answer.state
    why = ": ".join(word for word in (reason, detail) if word)
    says = f"{answer.engine} says: {phase}{f' ({why})' if why else ''}"
    lines: list[Line] = [[title_text("Job"), str(job["job_id"])], [title_text("Engine"), says]]
    return lines, [f"Next: {answer.show_command}"]


def _text(found: FoundJob, app: App) -> tuple[list[Line], list[str]]:
    """Return lines and notes for a job."""
    freshness = found.freshness
    age = "live, from the registry" if freshness is None else freshness.describe_with_staleness()
    is_stale = freshness is not None and freshness.stale
    return _lines(found, app), [f"Data: {age}", f"Next: {next_of_family(found, app, stale=is_stale)}"]


def _lines(found: FoundJob, app: App) -> list[Line]:
    job, family = found.job, found.family
    card = job_card(
        job,
        app.now(),
        failed=failed_tasks_text(job, app),
        lost=app.cache.read_cached(lambda cache: describe_lost_outputs(cache, job)) or "",
        family=family,
        remarks=found.remarks,
    )
    since = [] if job["status_since"] is None else [", since ", _time_text(str(job["status_since"]), app)]
    unknown = found.freshness.unknown_since if found.freshness is not None and job["is_active"] else None
    lines: list[Line] = [[title_text("Job"), str(job["job_id"])]]
    for title, section in card.items():
        if title == "Status":
            lines.append([title_text(title), status_style(job["status"], job["suspect"], unknown), *since])
        elif title == "Error":
            lines.append([title_text(title), style_text(section.text, "red")])
        elif title not in NOT_SHOWN:
            full = int((section.share or 0) * BAR_WIDTH)
            bar = [] if section.share is None else [f"[{'#' * full}{'-' * (BAR_WIDTH - full)}] "]
            pieces = [_time_text(part.text, app) if part.is_time else part.text for part in section.parts]
            lines.append([title_text(title), *bar, *pieces])
        if title == "Family" and family is not None:
            lines += [_member(member) for member in family.members[-SHOWN_MEMBERS:]]
    return [*lines, *_annotations(job), *_timeline(job)]


def _member(member: Member) -> Line:
    tasks = f", {out_of(member.tasks_completed, member.tasks_total)} tasks" if member.tasks_total else ""
    return [f"  {member.job_id}  ", status_style(member.status), tasks]


def _timeline(job: Job) -> list[Line]:
    """Return each status that a program reported, with its time, and how long after the one before it."""
    steps: list[dict[str, object]] = job["transitions"]  # type: ignore[assignment]
    lines: list[Line] = []
    times = [step_time(step) for step in steps]
    for step, before, at in zip(steps, [None, *times], times, strict=False):
        if at is not None:
            remark = "" if before is None else f"  (+{human_duration((at - before).total_seconds())})"
            lines.append([f"  {at:%Y-%m-%d %H:%M:%SZ}  ", status_style(step["status"]), remark])
    return [[style_text("Timeline", "bold")], *lines] if lines else []


def _annotations(job: Job) -> list[Line]:
    """Return the notes and the changes of labels, each with its time and its author."""
    rows = annotations_of(job)
    lines: list[Line] = [[style_text("Notes and labels", "bold")]] if rows else []
    for one in rows:
        when = UNKNOWN if one.at is None else f"{one.at:%Y-%m-%d %H:%M:%SZ}"
        lines.append([f"  {when:<20}  ", "" if one.by is None else f"{one.by}: ", one.text])
    return lines


def _time_text(text: str, app: App) -> str:
    """Format a time: on a terminal with how long ago it was, in a pipe alone."""
    if not app.out.is_terminal:
        return whole_seconds(text)
    moment = parse_time(text)
    return f"{human_age((app.now() - moment).total_seconds())} ({moment:%Y-%m-%d %H:%M:%SZ})"
