"""`status`: show one job, and what to type next."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from mopsjobs.app.jobs.find_job import FoundJob, Job, find_job
from mopsjobs.app.jobs.job_texts import (
    UNKNOWN,
    annotations_of,
    deferred_text,
    end_text,
    failed_tasks_text,
    kubernetes_text,
    metadata_text,
    note_text,
    queued_text,
    run_text,
    slurm_text,
    step_time,
    stragglers_text,
    usage_text,
    waits_for_text,
)
from mopsjobs.app.jobs.next_steps import is_runner_dead, next_command
from mopsjobs.app.run.app import App
from mopsjobs.app.run.exit_codes import exit_code_of
from mopsjobs.cache.job_json import count_outputs, missing_text, reused_tasks, reused_text
from mopsjobs.cache.queries.families import Family, Member
from mopsjobs.cli.flags import add_freshness_flags, add_job_names, freshness_policy
from mopsjobs.console.printer import status_style
from mopsjobs.console.result import Document, Result, Text
from mopsjobs.console.terminal import TITLE_WIDTH, style_text, title_text
from mopsjobs.errors import EXIT_UNREACHABLE
from mopsjobs.utils.text import describe_duplicates, pluralize
from mopsjobs.utils.times import human_age, human_duration, parse_time, whole_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mopsjobs.cache.queries.task_ends import MemoryEnds
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

SHOWN_OUTPUTS = 5

SHOWN_MEMBERS = 10
"""The newest jobs of a family."""

_LONG_ID = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{56}\b")

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
    found = find_job(args.job, app, freshness_policy(args))
    exit_code = 0 if found.freshness is None else found.freshness.exit_code
    if found.engine is not None and args.refresh:
        exit_code = EXIT_UNREACHABLE
    if args.exit_status and not exit_code:
        exit_code = exit_code_of(found.job)
    if args.json:
        return Result(Document(found.job), warnings=found.warnings, exit_code=exit_code)
    lines, notes = _engine_text(found.job, found.engine) if found.engine is not None else _text(found, app)
    return Result(Text(lines, indent=TITLE_WIDTH), warnings=found.warnings, notes=notes, exit_code=exit_code)


def _engine_text(job: Job, answer: EngineAnswer) -> tuple[list[Line], list[str]]:
    """Return lines and notes for a job whose record could not be read."""
    phase, reason, detail, *_ = answer.state
    why = ": ".join(word for word in (reason, detail) if word)
    lines: list[Line] = [
        [title_text("Job"), str(job["job_id"])],
        [title_text("Engine"), f"{answer.engine} says: {phase}{f' ({why})' if why else ''}"],
    ]
    return lines, [f"Next: {answer.show_command}"]


def _text(found: FoundJob, app: App) -> tuple[list[Line], list[str]]:
    """Return lines and notes for a job."""
    job, freshness = found.job, found.freshness
    age = "live, from the registry" if freshness is None else freshness.describe_with_staleness()
    is_stale = freshness is not None and freshness.stale
    last = job if found.newest is None else found.newest
    ends = _memory_ends(last, app) if last["tasks_failed"] else None
    following = next_command(last, stale=is_stale, is_dead=is_runner_dead(last, app.env), ends=ends)
    return _lines(found, app), [f"Data: {age}", f"Next: {following}"]


def _memory_ends(job: Job, app: App) -> MemoryEnds | None:
    from mopsjobs.cache.queries.task_ends import memory_ends  # here: few jobs have failed tasks

    return app.cache.read_cached(lambda connection: memory_ends(connection, str(job["job_id"])))


def _lines(found: FoundJob, app: App) -> list[Line]:
    job, family, now = found.job, found.family, app.now()
    lines: list[Line] = []

    def add(title: str, *pieces: object) -> None:
        texts = [piece if isinstance(piece, str) else str(piece) for piece in pieces if piece is not None]
        if texts:
            lines.append([title_text(title), *texts])

    add("Job", job["job_id"])
    since = None if job["status_since"] is None else f", since {_time_text(job['status_since'], app)}"
    unknown = found.freshness.unknown_since if found.freshness is not None and job["is_active"] else None
    add("Status", status_style(job["status"], job["suspect"], unknown), since)
    add("Waits for", waits_for_text(job))
    add("Progress", _progress(job))
    add("Reused", reused_text(job))
    add("Deferred", deferred_text(job))
    add("Failed", failed_tasks_text(job, app))
    add("Done", end_text(job, now))
    add("Stragglers", stragglers_text(job))
    add("Created", _time_text(job["created_at"], app))
    add("Updated", _time_text(job["updated_at"], app))
    add("Queued", queued_text(job))
    add("Running" if job["is_active"] else "Ran", run_text(job))
    add("Used", usage_text(job))
    if job["heartbeat_at"] is not None and job["is_active"]:
        add("Heartbeat", human_age((now - parse_time(str(job["heartbeat_at"]))).total_seconds()))
    add("Owner", job["owner"])
    labels: dict[str, str] = job["labels"]  # type: ignore[assignment]
    add("Labels", ", ".join(f"{label}={value}" for label, value in sorted(labels.items())) or None)
    add("Note", note_text(job))
    add("Engine", job["engine"])
    if (place := kubernetes_text(job)) is not None:
        add("Kubernetes", place, None if job["k8s_uid"] is None else f", uid {job['k8s_uid']}")
    add("Slurm", slurm_text(job))
    add("Metadata", metadata_text(job))
    add("Parent", job["parent_job_id"])
    if family is not None:
        add("Children", ", ".join(family.children[:SHOWN_MEMBERS]) or None)
        add("Family", _family(family))
        lines += [_member(member) for member in family.members[-SHOWN_MEMBERS:]]
    add("Results", job["results_path"])
    add("Outputs", _outputs(job), _lost_text(job, app))
    if job["error_code"] is not None or job["error_message"] is not None:
        words = ": ".join(str(job[name]) for name in ("error_code", "error_message") if job[name] is not None)
        add("Error", style_text(words, "red"))
    add("Validation", job["last_validation_error"])
    add("Remark", ". ".join(found.remarks) or None)
    return [*lines, *_annotations(job), *_timeline(job)]


def _progress(job: Job) -> str | None:
    total: int = job["tasks_total"]  # type: ignore[assignment]
    done: int = job["tasks_completed"]  # type: ignore[assignment]
    failed = job["tasks_failed"]
    failures = f", {failed} failed" if failed else ""
    if not total:
        return f"{pluralize(done, 'task')} done{failures}" if done or failed else None
    metadata: Mapping[str, object] = job["metadata"]  # type: ignore[assignment]
    return _bar(done, total, describe_duplicates(metadata.get("n_duplicate_tasks"))) + failures


def _bar(done: int, total: int, duplicates: str = "") -> str:
    """Return a bar with the counts of the tasks, those of them that are duplicates, and the share that is done."""
    share = min(1.0, done / total)
    full = int(share * BAR_WIDTH)
    return f"[{'#' * full}{'-' * (BAR_WIDTH - full)}] {done}/{total} tasks{duplicates}, {int(share * 100)} %"


def _family(family: Family) -> str:
    """Return how many tasks of the whole study are done, and by how many jobs."""
    jobs = pluralize(len(family.members), "job")
    used = usage_text(family.usage)
    used = "" if used is None else f", {used}"
    if family.tasks_total is None or family.tasks_completed is None:
        return jobs + used
    return f"{_bar(family.tasks_completed, family.tasks_total)}, in {jobs}{used}"


def _member(member: Member) -> Line:
    tasks = f", {member.tasks_completed}/{member.tasks_total} tasks" if member.tasks_total else ""
    return [f"  {member.job_id}  ", status_style(member.status), tasks]


def _lost_text(job: Job, app: App) -> str | None:
    """Return how many reused tasks of an ended job have lost their outputs, as a later view has found."""
    if job["is_active"] or not reused_tasks(job)[0]:
        return None
    from mopsjobs.cache.queries.task_ends import count_lost  # here: few jobs reuse tasks

    lost = app.cache.read_cached(lambda connection: count_lost(connection, str(job["job_id"])))
    return f"; {pluralize(lost, 'task')} lost outputs since" if lost else None


def _outputs(job: Job) -> str | None:
    counts = count_outputs(job)
    if counts is None:
        return None
    missing: list[object] = job["missing_outputs"]  # type: ignore[assignment]
    missing_count = missing_text(job, counts[1])
    when = "" if job["is_active"] else "when it ended, "
    counted = f"{when}{counts[0]} verified, {missing_count}"
    if not missing:
        return counted
    more = ", …" if max(counts[1], len(missing)) > SHOWN_OUTPUTS or "more" in missing_count else ""
    # The id of a parameter set fills a line, and its beginning is unique within a job.
    names = (_LONG_ID.sub(r"\1…", str(name)) for name in missing[:SHOWN_OUTPUTS])
    return f"{counted}: {', '.join(names)}{more}"


def _timeline(job: Job) -> list[Line]:
    """Return each status that a program reported, with its time, and how long after the one before it."""
    steps: list[dict[str, object]] = job["transitions"]  # type: ignore[assignment]
    lines: list[Line] = []
    before = None
    for step in steps:
        at = step_time(step)
        if at is not None:
            remark = "" if before is None else f"  (+{human_duration((at - before).total_seconds())})"
            lines.append([f"  {at:%Y-%m-%d %H:%M:%SZ}  ", status_style(step["status"]), remark])
        before = at
    return [[style_text("Timeline", "bold")], *lines] if lines else []


def _annotations(job: Job) -> list[Line]:
    """Return the notes and the changes of labels, each with its time and its author."""
    rows = annotations_of(job)
    lines: list[Line] = [[style_text("Notes and labels", "bold")]] if rows else []
    for one in rows:
        when = UNKNOWN if one.at is None else f"{one.at:%Y-%m-%d %H:%M:%SZ}"
        lines.append([f"  {when:<20}  ", "" if one.by is None else f"{one.by}: ", one.text])
    return lines


def _time_text(text: object, app: App) -> str:
    """Format a time: on a terminal with how long ago it was, in a pipe alone."""
    moment = parse_time(str(text))
    if not app.out.is_terminal:
        return whole_seconds(str(text))
    return f"{human_age((app.now() - moment).total_seconds())} ({moment:%Y-%m-%d %H:%M:%SZ})"
