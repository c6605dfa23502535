"""`prune`: remove old jobs from the local cache, or, with --store, old events and announcements from the registry."""

from __future__ import annotations

import argparse
import shutil
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

from mopsjobs.app.run.app import App
from mopsjobs.cache import pruning
from mopsjobs.console.result import Document, Result
from mopsjobs.errors import EXIT_DONE, EXIT_PARTLY_DONE, StoreError
from mopsjobs.utils.text import join_first, pluralize
from mopsjobs.utils.times import from_timestamp, json_time, parse_duration, whole_seconds

if TYPE_CHECKING:
    from pathlib import Path

    from mopsjobs.events.retention import KeyCounts, Retention

HELP = "remove old jobs from the local cache, or old events from the registry"

DESCRIPTION = (
    "Remove jobs that ended long ago from the local cache, with their events. A family goes as one. The registry"
    " keeps them, and `status JOB` still reads one. Checkpoints of other jobs that lie on this machine for so long go"
    " too. With --store, remove the events of such jobs from the registry, for all its users, with their ledgers,"
    " checkpoints, claims of notifications, and announcements older than a day. Records, manifests, outputs and bundles"
    " are never removed."
)

EXAMPLES = (
    "mops-jobs prune --older-than 90d --dry-run",
    "mops-jobs prune --older-than 90d --yes -q",
    "mops-jobs prune --store --older-than 30d --yes -q",
)

SCHEMA_VERSION = 1

SHOWN_REFUSALS = 10
"""Keys that the store has refused to remove, and that are named."""

_Left: TypeAlias = "dict[str, list[Path]]"
"""Directories of checkpoints on this machine, by their jobs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--older-than", metavar="DURATION", required=True, help="remove jobs that ended longer ago than this, like 90d"
    )
    parser.add_argument("--store", action="store_true", help="remove from the registry's store, not from the cache")
    parser.add_argument("--yes", action="store_true", help="remove without asking")
    parser.add_argument("--dry-run", action="store_true", help="print what would be removed, and remove nothing")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON document")


def run(args: argparse.Namespace, app: App) -> Result:
    """Remove old jobs from the cache, or old events and announcements from the store."""
    if args.store:
        return _prune_store(args, app)
    return _prune_cache(args, app)


def _prune_cache(args: argparse.Namespace, app: App) -> Result:
    before = app.now().timestamp() - parse_duration(args.older_than)
    limit = whole_seconds(json_time(from_timestamp(before)))
    planned = app.cache.read_cached(lambda cache: pruning.plan_prune(cache, before))  # None: there is no cache
    found = planned or pruning.PrunePlan(0, 0, 0)
    left = _left_checkpoints(before, app)
    kept = f"Kept {pluralize(found.kept, 'job')} of families that have not all ended by then." if found.kept else ""

    def text(counts: pruning.PrunePlan | pruning.PruneResult, left: _Left, more: str) -> str:
        of_cache = [f"{pluralize(counts.jobs, 'job')} and {pluralize(counts.events, 'event')}{more}"] * bool(found.jobs)
        return " and ".join(of_cache + [f"checkpoints of {pluralize(len(left), 'job')} from this machine"] * bool(left))

    def result(counts: pruning.PrunePlan | pruning.PruneResult, left: _Left, note: str, warning: str = "") -> Result:
        fields = {"jobs": counts.jobs, "events": counts.events, "kept": found.kept, "local_checkpoints": len(left)}
        head = {"schema_version": SCHEMA_VERSION, "dry_run": args.dry_run, "ended_before": limit}
        body = Document({**head, **fields}) if args.json else None
        return Result(body, notes=[one for one in (note, kept) if one], warnings=[warning] if warning else ())

    if not (found.jobs or left):
        if planned is not None and not args.dry_run:
            _remove(before, found, app)
        which = f"No {'other job' if kept else 'job'} in the cache"
        return result(found, left, f"{which} ended before {limit}; nothing was removed.")
    if args.dry_run:
        return result(found, left, f"Would remove {text(found, left, f', of jobs that ended before {limit}')}.")
    if (declined := app.out.confirm(f"Remove {text(found, left, ' from the cache')}?", yes=args.yes)) is not None:
        return declined
    pruned = _remove(before, found, app)
    removed = _left_checkpoints(before, app)  # again: a task may have saved meanwhile
    for path in chain.from_iterable(removed.values()):
        shutil.rmtree(path, ignore_errors=True)
    warning = "" if pruned.problem is None else f"The cache file could not shrink yet: {pruned.problem}."
    return result(pruned, removed, f"Removed {text(pruned, removed, ' from the cache')}.", warning)


def _left_checkpoints(before: float, app: App) -> _Left:
    """Return the checkpoints that have lain on this machine since a time, and whose jobs the cache does not keep.

    A job that was killed here and went on elsewhere leaves some.
    """
    from mopsjobs.engines.job_dir import JobDir

    found: _Left = {}
    for job_id, path in JobDir.old_checkpoints(app.env, before):
        found.setdefault(job_id, []).append(path)
    staying = app.cache.read_cached(lambda cache: pruning.staying(cache, before, found)) if found else None
    return {job_id: paths for job_id, paths in found.items() if job_id not in (staying or ())}


def _remove(before: float, plan: pruning.PrunePlan, app: App) -> pruning.PruneResult:
    """Remove what was planned. A plan without jobs removes none, although jobs may have come since it was made."""
    return app.cache.write(lambda cache: pruning.prune(cache, before)) if plan.jobs else pruning.PruneResult(0, 0, None)


def _prune_store(args: argparse.Namespace, app: App) -> Result:
    from mopsjobs.app.following.notify import claims
    from mopsjobs.events.retention import Retention, parse_age

    age = parse_age(args.older_than)
    # With younger claims, an end would be told once more.
    retention = Retention(app.registry, age, now=app.now(), claims=age > claims.WINDOW, sleep=app.sleep)
    found = retention.plan()

    def result(counts: KeyCounts, *notes: str) -> Result:
        body = Document(_document(retention, counts, args)) if args.json else None
        refusals, more = retention.refusals[:SHOWN_REFUSALS], len(retention.refusals) - SHOWN_REFUSALS
        warnings = [*refusals, *([f"and {more:,} more"] if more > 0 else [])]
        return Result(body, notes=notes, warnings=warnings, exit_code=EXIT_PARTLY_DONE if warnings else EXIT_DONE)

    if (missing := app.embedded.missing_path()) is not None:
        return result(retention.removed, f"There is no registry at {missing} yet; nothing was removed.")
    reused, unknown = _notes_on_reused_jobs(found, app), _notes_on_unknown_jobs(retention)
    if not found:
        note = f"The registry has no events or announcements older than {args.older_than} to remove."
        return result(found, note, *reused, *unknown)
    if args.dry_run:
        return result(found, f"Would remove {_removal_text(retention, found)}.", *reused, *unknown)
    for note in reused:
        app.out.note(note)
    question = f"Remove {_removal_text(retention, found)} from the registry, for all its users?"
    if (declined := app.out.confirm(question, yes=args.yes)) is not None:
        return declined
    if args.yes:
        app.out.note(f"Removing {_removal_text(retention, found)}.")
    try:
        with app.out.progress("keys", found.total()) as on_progress:
            retention.remove(on_progress)
    except (StoreError, KeyboardInterrupt):
        if retention.removed:
            app.out.warn(f"Removed {_removal_text(retention, retention.removed)}, then stopped.")
        raise
    removed = retention.removed
    note = f"Removed {_removal_text(retention, removed)}." if removed else "This run removed nothing."
    return result(removed, note, *_notes_on_unknown_jobs(retention))


def _notes_on_reused_jobs(found: KeyCounts, app: App) -> list[str]:
    """Return the note on jobs whose ledgers go, and whose outputs other jobs reuse, as far as the cache knows."""
    from mopsjobs.cache.queries.ledgers import reusing_jobs

    sources = found.job_ids if found["ledger_chunks"] else None
    reused = app.cache.read_cached(lambda cache: reusing_jobs(cache, sources)) if sources else None
    if not reused:
        return []
    users = sorted({job_id for jobs in reused.values() for job_id in jobs})
    return [f"Reused by {join_first(users)}: outputs of {join_first(list(reused))}, which stay. Their ledgers go."]


def _notes_on_unknown_jobs(retention: Retention) -> list[str]:
    """Return the note on chunks that stay, since their jobs have no record that says whether they ended."""
    unknown = retention.unknown
    jobs = pluralize(len(unknown.job_ids), "job")
    return [f"Kept {pluralize(unknown.total(), 'old chunk')} of events of {jobs} without a record."] if unknown else []


def _removal_text(retention: Retention, counts: KeyCounts) -> str:
    limit = whole_seconds(json_time(retention.events_before))
    parts = (
        ("chunks", "chunk", f" of events of {pluralize(len(counts.job_ids), 'job')} that ended before {limit}"),
        ("ledger_chunks", "chunk", " of their ledgers"),
        ("checkpoints", "key", " of their checkpoints"),
        ("offers", "key", " of tasks that their shards shared"),
        ("claims", "claim", " of notifications"),
        ("announcements", "announcement", " of writes"),
    )
    texts = [pluralize(counts[kind], what) + of for kind, what, of in parts if counts[kind]]
    return ", ".join([*texts[:-2], " and ".join(texts[-2:])])


def _document(retention: Retention, counts: KeyCounts, args: argparse.Namespace) -> dict[str, object]:
    unknown = retention.unknown
    return {
        "schema_version": SCHEMA_VERSION,
        "dry_run": args.dry_run,
        "ended_before": json_time(retention.events_before),
        "jobs": len(counts.job_ids),
        "chunks": {"count": counts["chunks"]},
        "ledger_chunks": counts["ledger_chunks"],
        "checkpoints": counts["checkpoints"],
        "announcements": {"count": counts["announcements"]},
        "refused": len(retention.refusals),
        "without_record": {"jobs": len(unknown.job_ids), "chunks": unknown.total()},
        "claims": counts["claims"],
        "offers": counts["offers"],
    }
