"""`export`: print jobs with all their fields, for a spreadsheet or another program."""

from __future__ import annotations

import argparse
import contextlib
import sqlite3
from collections.abc import Iterator

from mopsjobs.app.app import App
from mopsjobs.app.freshness import Freshness
from mopsjobs.cache import job_json
from mopsjobs.cache.sync_state import known_to
from mopsjobs.cli.flags import add_filter_flags, add_freshness_flags, filter_of, freshness_policy
from mopsjobs.console.result import Csv, RawText, Result
from mopsjobs.utils.text import pluralize

HELP = "print jobs with all their fields, as CSV or NDJSON"

DESCRIPTION = (
    "Print jobs from the local cache with all their fields. Filters select the jobs (default: all). In CSV, lists and"
    " objects are JSON. A text that a spreadsheet would take for a formula gets a leading '."
)

EXAMPLES = (
    "mops-jobs export --format csv --status done > jobs.csv",
    "mops-jobs export | gzip > jobs.ndjson.gz",
)

BATCH = 500
"""Jobs printed at once, at most."""

BATCH_BYTES = 4_000_000
"""Bytes after which a batch is printed before it is full."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--format",
        metavar="FORMAT",
        choices=("csv", "ndjson"),
        default="ndjson",
        help="output format: csv or ndjson (default: ndjson)",
    )
    add_filter_flags(parser)
    add_freshness_flags(parser)


def run(args: argparse.Namespace, app: App) -> Result:
    """Print jobs as they are read."""
    at = app.now()
    job_filter, now = filter_of(args, at), at.timestamp()

    def view(cache: sqlite3.Connection, freshness: Freshness) -> Result:
        from mopsjobs.cache.queries import changes

        fields = job_json.job_fields()
        count, known = 0, known_to(cache, now)
        if args.format == "csv":
            app.out.show(Result(Csv([fields])))
        # Closed before the cache, also if the reader of a pipe has left: the rows come from the cache.
        with contextlib.closing(changes.stream_jobs(cache, job_filter)) as jobs:
            while batch := _batch(jobs):
                if args.format == "csv":
                    views = (job_json.job_json(facts, now=now, known_to=known) for facts in batch)
                    app.out.show(Result(Csv([view[name] for name in fields] for view in views)))
                else:
                    lines = (f"{job_json.job_text(facts, now=now, known_to=known)}\n" for facts in batch)
                    app.out.show(Result(RawText(lines)))
                count += len(batch)
        notes = [f"{pluralize(count, 'job')}, {freshness.describe()}"]
        return Result(warnings=freshness.warnings("Exported"), notes=notes, exit_code=freshness.exit_code)

    return app.cache.read(view, freshness_policy(args))


def _batch(jobs: Iterator[job_json.JobColumns]) -> list[job_json.JobColumns]:
    """Return the next jobs; none at the end."""
    batch: list[job_json.JobColumns] = []
    size = 0
    while len(batch) < BATCH and size < BATCH_BYTES and (facts := next(jobs, None)) is not None:
        batch.append(facts)
        size += len(facts[0])
    return batch
