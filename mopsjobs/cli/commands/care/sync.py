"""`sync`: mirror the registry into the local cache. Cron runs it."""

from __future__ import annotations

import argparse

from mopsjobs.app.following.notify.notifier import CacheNotifier
from mopsjobs.app.following.sync_more import SCHEMA_VERSION, mirror_events_and_ledgers, problem_texts, sync_json
from mopsjobs.app.run.app import App
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.sync.chunks import ChunkReport
from mopsjobs.cache.sync.records import SyncReport
from mopsjobs.console.result import Document, Result, Text
from mopsjobs.errors import EXIT_DONE, EXIT_PARTLY_DONE, StoreError
from mopsjobs.utils.text import pluralize
from mopsjobs.utils.times import json_time

HELP = "mirror the registry into the local cache"

DESCRIPTION = (
    "Mirror the registry into the local cache. Unreadable records are named and left out, and the exit code is 7."
    " Concurrent syncs are safe: the second one exits with 0, and warns if the first makes no progress."
)

EXAMPLES = (
    "mops-jobs sync",
    "mops-jobs sync -q || echo 'the sync failed'",
    "mops-jobs sync --full --json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--full",
        action="store_true",
        help="read every record, and also accept a registry that is now empty or was replaced",
    )
    parser.add_argument("--json", action="store_true", help="print the result as one JSON document")


def run(args: argparse.Namespace, app: App) -> Result:
    """Mirror the registry."""
    with app.out.progress("jobs", _count_cached_jobs(app), describe=app.describe_reads) as on_progress:
        report = app.cache.sync(wait=0, full=args.full, on_progress=on_progress)
    if report is None:
        return _already_running(args, app)
    events, ledgers, warnings = mirror_events_and_ledgers(app, full=args.full)
    untold = CacheNotifier(app).tell()
    exit_code = EXIT_PARTLY_DONE if report.unreadable or warnings else EXIT_DONE
    if args.json:
        warnings = [*warnings, *untold]
        return Result(Document(sync_json(report, events, ledgers)), warnings=warnings, exit_code=exit_code)
    problems = report.unreadable if app.out.quiet else report.news
    named = problem_texts([(problem.key, problem.reason) for problem in problems], "doctor --json")
    text = None if app.out.quiet else Text([_summary(report, events, ledgers)], indent=2)
    return Result(text, warnings=[*named, *warnings, *untold], exit_code=exit_code)


def _already_running(args: argparse.Namespace, app: App) -> Result:
    """Describe the other sync; warn, also with `-q`, if it has made no progress for long."""
    holder, now = app.cache.sync_holder(), app.now()
    is_stalled = holder is not None and holder.is_stalled(now)
    other = "Another sync has just ended" if holder is None else holder.describe_as_other(now)
    document = {
        "schema_version": SCHEMA_VERSION,
        "already_running": True,
        "running_since": json_time(holder.since) if holder and holder.since else None,
        "running_pid": holder.pid if holder else None,
        "progress_at": json_time(holder.progress_at) if holder and holder.progress_at else None,
        "stalled": is_stalled,
    }
    body = Document(document) if args.json else None
    if holder is not None and is_stalled:
        return Result(body, warnings=[f"{other}; the cache is not updated. To go on, {holder.fix()}."])
    return Result(body, notes=[f"{other}; nothing to do."])


def _count_cached_jobs(app: App) -> int | None:
    """Return the number of jobs in the cache, for the progress bar. Repairs a damaged cache."""
    try:
        return app.cache.read_cached(job_queries.count_jobs)
    except StoreError:  # the registry is gone: the sync reports it, or accepts it with --full
        return None


def _summary(report: SyncReport, events: ChunkReport | None, ledgers: ChunkReport | None) -> str:
    counts = ((getattr(report, name), name) for name in ("added", "changed", "removed"))
    texts = [", ".join(f"{count:,} {name}" for count, name in counts if count) or "nothing new"]
    texts += [f"{len(report.unreadable)} unreadable"] if report.unreadable else []
    for chunks, what in ((events, "new event"), (ledgers, "new attempt")):
        texts += [pluralize(chunks.entries, what)] if chunks and chunks.entries else []
    jobs = pluralize(report.seen, "job" if report.is_full else "announced job")
    return f"Synced {jobs} in {report.seconds:.1f} s: {'; '.join(texts)}"
