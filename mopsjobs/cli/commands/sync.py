"""`sync`: make the local cache equal the registry. What cron runs."""

from __future__ import annotations

import argparse

from mopsjobs.app.app import App
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.sync.batch import SyncReport
from mopsjobs.cache.sync.events import EventsReport
from mopsjobs.cli.flags import add_command
from mopsjobs.console.result import Document, Result, Text
from mopsjobs.errors import EXIT_DONE, EXIT_PARTLY_DONE, StoreError
from mopsjobs.utils.text import pluralize
from mopsjobs.utils.times import json_time

TYPE_CHECKING = False

if TYPE_CHECKING:
    from mopsjobs.cli.commands import Commands


SCHEMA_VERSION = 1


SHOWN_PROBLEMS = 10


def add_parser(name: str, commands: Commands, parents: list[argparse.ArgumentParser]) -> None:
    """Declare `sync`."""
    parser = add_command(
        commands,
        name,
        parents,
        help="mirror the registry into the local cache",
        description="Mirror the registry into the local cache. Records that cannot be read are named and left out; "
        "then the exit code is 7. A second sync at the same time says so and ends with 0; it warns of one without "
        "progress.",
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="read every record again, also the unchanged ones; and believe a registry that has become empty",
    )
    parser.add_argument("--json", action="store_true", help="what it did, as one JSON document")


def run(args: argparse.Namespace, app: App) -> Result:
    """Mirror the registry."""
    with app.out.progress("jobs", _cached(app)) as on_progress:
        report = app.cache.sync(wait=0, full=args.full, on_progress=on_progress)
    if report is None:
        return _already_running(args, app)
    events, warnings = _sync_events(app, full=args.full)
    exit_code = EXIT_PARTLY_DONE if report.unreadable or warnings else EXIT_DONE
    if args.json:
        return Result(Document(_document(report, events)), warnings=warnings, exit_code=exit_code)
    problems = report.unreadable if app.out.quiet else report.problems
    told = [f"{problem.key}: {problem.reason}" for problem in problems[:SHOWN_PROBLEMS]]
    if len(problems) > SHOWN_PROBLEMS:
        told.append(f"and {len(problems) - SHOWN_PROBLEMS} more: mops-jobs doctor --json lists them all")
    text = None if app.out.quiet else Text([_summary(report, events)])
    return Result(text, warnings=[*told, *warnings], exit_code=exit_code)


def _already_running(args: argparse.Namespace, app: App) -> Result:
    """What another sync is at; a warning, also with `-q`, if it has made no progress for long."""
    holder, now = app.cache.sync_holder(), app.now()
    is_stalled = holder is not None and holder.is_stalled(now)
    told = f"Another sync is running{holder.describe(now) if holder else ''}; "
    if holder is not None and is_stalled:
        warnings, notes = [f"{told}nothing is mirrored meanwhile. To go on, {holder.fix()}."], []
    else:
        warnings, notes = [], [f"{told}nothing to do."]
    document = {
        "schema_version": SCHEMA_VERSION,
        "already_running": True,
        "running_since": json_time(holder.since) if holder and holder.since else None,
        "running_pid": holder.pid if holder else None,
        "progress_at": json_time(holder.progress_at) if holder and holder.progress_at else None,
        "stalled": is_stalled,
    }
    return Result(Document(document) if args.json else None, notes=notes, warnings=warnings)


def _sync_events(app: App, *, full: bool) -> tuple[EventsReport | None, list[str]]:
    """Mirror the events, after the jobs, which count more: a failure here takes nothing away. What to warn of, too."""
    try:
        events = app.cache.sync_events(full=full)
    except StoreError as error:
        return None, [f"{error} The jobs are mirrored, their events not all."]
    warnings = [f"{key}: {reason}" for key, reason in events.problems[:SHOWN_PROBLEMS]]
    if len(events.problems) > SHOWN_PROBLEMS:
        warnings.append(f"and {len(events.problems) - SHOWN_PROBLEMS} more: see the view event_problems of the cache")
    return events, warnings


def _cached(app: App) -> int | None:
    """How many jobs the cache has: what a progress bar may expect. Heals a damaged cache on the way."""
    try:
        return app.cache.read_cached(job_queries.count_jobs)
    except StoreError:  # a registry that is gone: the sync tells of it, unless it is to believe that
        return None


def _summary(report: SyncReport, events: EventsReport | None) -> str:
    counts = ", ".join(
        f"{getattr(report, name):,} {name}" for name in ("added", "changed", "removed") if getattr(report, name)
    )
    jobs = pluralize(report.seen, "job" if report.is_full else "announced job")
    trouble = f"; {len(report.unreadable)} unreadable" if report.unreadable else ""
    happened = f"; {pluralize(events.events, 'new event')}" if events and events.events else ""
    return f"Synced {jobs} in {report.seconds:.1f} s: {counts or 'nothing new'}{trouble}{happened}"


def _document(report: SyncReport, events: EventsReport | None) -> dict[str, object]:
    names = ("seen", "added", "changed", "unchanged", "removed", "fetched")
    return {
        "schema_version": SCHEMA_VERSION,
        "already_running": False,
        "mode": "full" if report.is_full else "delta",
        "synced_at": report.synced_at,
        "seconds": round(report.seconds, 3),
        **{name: getattr(report, name) for name in names},
        "problems": [
            {"key": problem.key, "kind": problem.kind, "reason": problem.reason} for problem in report.problems
        ],
        "events_added": None if events is None else events.events,
    }
