"""`prune`: old jobs leave the local cache, or, with --store, what nobody needs any more leaves the registry's store."""

from __future__ import annotations

import argparse
import sqlite3
from datetime import timedelta

from mopsjobs.app.app import App
from mopsjobs.cli.flags import add_command
from mopsjobs.console.result import Document, Result
from mopsjobs.errors import EXIT_DONE, EXIT_PARTLY_DONE, StoreError, UsageError
from mopsjobs.utils.text import pluralize
from mopsjobs.utils.times import from_timestamp, json_time, parse_duration, whole_seconds

TYPE_CHECKING = False

if TYPE_CHECKING:
    from mopsjobs.cache.pruning import PrunePlan, PruneResult
    from mopsjobs.cli.commands import Commands
    from mopsjobs.events.retention import KeyCounts, KeySpan, Retention


SCHEMA_VERSION = 1


EXAMPLES = """examples, for cron:
  mops-jobs prune --older-than 90d --yes -q
  mops-jobs prune --store --older-than 30d --yes -q
"""


def add_parser(name: str, commands: Commands, parents: list[argparse.ArgumentParser]) -> None:
    """Declare `prune`."""
    parser = add_command(
        commands,
        name,
        parents,
        help="remove old jobs from the local cache, or old events from the registry",
        description="Remove jobs that ended long ago from the local cache, with their events. The registry keeps them: "
        "a sync leaves them out until their records change, and `status JOB` still asks for one. With --store, remove "
        "from the registry, for everybody, the events of jobs that ended long ago, and announcements of writes that no "
        "sync needs any more: those of more than a day ago. Records, manifests, outputs and bundles are never removed.",
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "--older-than", metavar="DURATION", required=True, help="that ended longer ago than this, like 90d"
    )
    parser.add_argument("--store", action="store_true", help="from the registry's store instead of the cache")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--dry-run", action="store_true", help="say what it would remove, and remove nothing")
    parser.add_argument("--json", action="store_true", help="with --store: what was removed, as one JSON document")


def run(args: argparse.Namespace, app: App) -> Result:
    """Remove old jobs from the cache, or what is old from the store."""
    if args.store:
        return _prune_store(args, app)
    if args.json:
        raise UsageError("prune --json goes with --store alone.")
    return _prune_cache(args, app)


def _prune_cache(args: argparse.Namespace, app: App) -> Result:
    from mopsjobs.cache import pruning
    from mopsjobs.cache.sync.events import forget_chunks

    before = app.now().timestamp() - parse_duration(args.older_than)
    found = app.cache.read_cached(lambda cache: pruning.plan_prune(cache, before))
    if found is None or not found.jobs:
        if found is not None and not args.dry_run:
            app.cache.write(lambda cache: forget_chunks(cache, from_timestamp(before)))
        return Result(notes=["No job in the cache ended so long ago; nothing was removed."])
    limit = whole_seconds(json_time(from_timestamp(before)))
    if args.dry_run:
        return Result(notes=[f"Would remove {_counted(found)}, of jobs that ended before {limit}."])
    question = f"Remove {_counted(found)} from the cache, of jobs that ended before {limit}?"
    declined = app.out.confirm(question, yes=args.yes)
    if declined is not None:
        return declined

    def prune(cache: sqlite3.Connection) -> PruneResult:
        forget_chunks(cache, from_timestamp(before))
        return pruning.prune(cache, before)

    pruned = app.cache.write(prune)
    notes = [f"Removed {_counted(pruned)} from the cache."]
    if pruned.problem is not None:
        return Result(notes=notes, warnings=[f"The file stays as large as it was for now: {pruned.problem}."])
    return Result(notes=notes)


def _counted(found: PrunePlan | PruneResult) -> str:
    return f"{pluralize(found.jobs, 'job')} and {pluralize(found.events, 'event')}"


def _prune_store(args: argparse.Namespace, app: App) -> Result:
    from mopsjobs.events.retention import Retention

    age = timedelta(seconds=parse_duration(args.older_than))
    retention = Retention(app.registry, age, now=app.now(), sleep=app.sleep)
    found = retention.plan()
    if (missing := app.embedded.missing_path()) is not None:
        body = Document(_document(retention, retention.removed, args)) if args.json else None
        return Result(body, notes=[f"There is no registry at {missing} yet; nothing was removed."])
    if args.dry_run or not found.keys:
        told = f"Would remove {_told(retention, found)}." if found.keys else "Nothing there is so old."
        body = Document(_document(retention, found, args)) if args.json else None
        return Result(body, notes=[told, *_unknown(retention)])
    question = f"Remove {_told(retention, found)} from the registry, for everybody?"
    declined = app.out.confirm(question, yes=args.yes)
    if declined is not None:
        return declined
    if args.yes:
        app.out.note(f"Removing {_told(retention, found)}.")
    try:
        with app.out.progress("keys", found.keys) as on_progress:
            retention.remove(on_progress)
    except (StoreError, KeyboardInterrupt):
        if retention.removed.keys:
            app.out.warn(f"Removed {_told(retention, retention.removed)}, and then no more.")
        raise
    body = Document(_document(retention, retention.removed, args)) if args.json else None
    return _done(retention, body)


def _done(retention: Retention, body: Document | None) -> Result:
    removed, more = retention.removed, retention.refused - len(retention.refusals)
    told = f"Removed {_told(retention, removed)}." if removed.keys else "Nothing of it was removed from here."
    warnings = [*retention.refusals, *([f"and {more:,} more"] if more else [])]
    notes = [told, *_unknown(retention)]
    return Result(body, notes=notes, warnings=warnings, exit_code=EXIT_PARTLY_DONE if warnings else EXIT_DONE)


def _unknown(retention: Retention) -> list[str]:
    """What to say of chunks that stay since nobody here knows whether their jobs have ended."""
    unknown = retention.unknown
    if not unknown.keys:
        return []
    return [f"Left {pluralize(unknown.keys, 'old chunk')} of events of {_jobs(unknown)} without a record here."]


def _jobs(counts: KeyCounts) -> str:
    return pluralize(counts.jobs, "job") if counts.is_exact else f"more than {pluralize(counts.jobs, 'job')}"


def _told(retention: Retention, counts: KeyCounts) -> str:
    parts = []
    if counts.chunks.count:
        limit = whole_seconds(json_time(retention.events_before))
        span = _span(counts.chunks)
        parts.append(
            f"{pluralize(counts.chunks.count, 'chunk')} of events ({span}) of {_jobs(counts)} that ended before {limit}"
        )
    if counts.announcements.count:
        parts.append(
            f"{pluralize(counts.announcements.count, 'announcement')} of writes ({_span(counts.announcements)})"
        )
    return " and ".join(parts)


def _span(span: KeySpan) -> str:
    first, last = _time(span.first), _time(span.last)
    return f"of {first}" if first == last else f"of {first} to {last}"


def _time(when: str) -> str:
    """An hour or a slot as its key has it, `20260301T12` or `20260301T1210`, in the form of other times."""
    return f"{when[:4]}-{when[4:6]}-{when[6:8]}T{when[9:11]}:{when[11:13] or '00'}:00Z"


def _document(retention: Retention, counts: KeyCounts, args: argparse.Namespace) -> dict[str, object]:
    def span(one: KeySpan) -> dict[str, object]:
        first, last = (_time(when) if when else None for when in (one.first, one.last))
        return {"count": one.count, "first": first, "last": last}

    return {
        "schema_version": SCHEMA_VERSION,
        "dry_run": args.dry_run,
        "ended_before": json_time(retention.events_before),
        "jobs": counts.jobs,
        "chunks": span(counts.chunks),
        "announcements": span(counts.announcements),
        "refused": retention.refused,
        "without_record": {"jobs": retention.unknown.jobs, "chunks": retention.unknown.keys},
    }
