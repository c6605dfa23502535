"""`snapshot`: publish the jobs of the cache, from which other machines begin theirs. Cron runs it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mopsjobs.app.app import App
from mopsjobs.app.cache_access import MAX_LOCK_WAIT
from mopsjobs.cache.snapshots.publish import publish_snapshot
from mopsjobs.cache.sync import mirror
from mopsjobs.console.result import Document, Result
from mopsjobs.errors import EXIT_DONE, EXIT_PARTLY_DONE, UsageError
from mopsjobs.utils.text import pluralize

if TYPE_CHECKING:
    from mopsjobs.cache.snapshots.publish import PublishReport

HELP = "publish a snapshot of the registry, to speed up first syncs of others"

DESCRIPTION = (
    "Scan the registry, and publish its jobs as a snapshot in its store. The first sync of another cache begins with"
    " it, reads what has changed since, and verifies it by the next scan. Local marks, events and tasks are not"
    " published. Replaced snapshots are removed after an hour. This needs permission to write to the registry, and to"
    " delete old snapshots."
)

EXAMPLES = (
    "mops-jobs snapshot",
    "mops-jobs snapshot -q || echo 'no snapshot was published'",
    "mops-jobs snapshot --json",
)

SCHEMA_VERSION = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="print the result as one JSON document")


def run(args: argparse.Namespace, app: App) -> Result:
    """Scan the registry and publish its jobs."""
    if app.settings.is_local:
        raise UsageError(
            "An embedded registry takes no snapshot: its syncs read a file on this machine.",
            hint="Name the registry of your team by --registry or MOPS_JOBS_REGISTRY.",
        )
    start = app.monotonic()
    with app.out.progress("jobs", None, describe=app.describe_reads) as on_progress:
        if app.cache.sync(wait=MAX_LOCK_WAIT, scan=True, on_progress=on_progress) is None:
            raise app.cache.other_sync_error()
    with app.out.progress("jobs", None) as on_progress:
        done = app.cache.mirror_more(
            lambda store, cache: publish_snapshot(store, cache, now=app.now, on_progress=on_progress)
        )
    seconds = app.monotonic() - start
    warnings = [f"{done.problem} Old snapshots stay until the next one."] if done.problem else []
    return Result(
        Document(_document(done, seconds)) if args.json else None,
        notes=_notes(done, seconds),
        warnings=warnings,
        exit_code=EXIT_PARTLY_DONE if warnings else EXIT_DONE,
    )


def _notes(done: PublishReport, seconds: float) -> list[str]:
    if done.is_overtaken:
        return ["Another machine has published a snapshot meanwhile; this one was given up."]
    jobs = done.manifest.jobs
    notes = [
        f"Published a snapshot of {pluralize(jobs, 'job')}, {done.manifest.bytes / 1e6:.1f} MB, in {seconds:.1f} s."
    ]
    if jobs <= mirror.SMALL_REGISTRY:
        notes.append(f"First syncs use it from {mirror.SMALL_REGISTRY + 1:,} jobs on: fewer are listed by one request.")
    return notes


def _document(done: PublishReport, seconds: float) -> dict[str, object]:
    manifest = done.manifest
    return {
        "schema_version": SCHEMA_VERSION,
        "published": not done.is_overtaken,
        "id": manifest.id,
        "known_to": manifest.known_to,
        "jobs": manifest.jobs,
        "bytes": manifest.bytes,
        "parts": len(manifest.parts),
        "keys_removed": done.removed,
        "seconds": round(seconds, 3),
    }
