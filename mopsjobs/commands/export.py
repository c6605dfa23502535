"""`export`: all jobs with all their fields, for a spreadsheet or another program."""

from __future__ import annotations

import argparse
import contextlib
import sqlite3
from collections.abc import Iterator

from mopsjobs.cache import queries
from mopsjobs.commands.arguments import add_command, add_filters, add_freshness, chosen_jobs, wanted
from mopsjobs.context import Context
from mopsjobs.freshness import Freshness
from mopsjobs.output import Csv, Result, Verbatim, counted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mopsjobs.commands import Commands

BATCH = 500
BATCH_BYTES = 4_000_000
"""Of jobs printed at once: so many, or of so many bytes."""

EXAMPLES = """examples:
  mops-jobs export --format csv --status done > jobs.csv
  mops-jobs export | gzip > jobs.ndjson.gz
"""


def add_parser(name: str, commands: Commands, parents: list[argparse.ArgumentParser]) -> None:
    """Declare `export`."""
    parser = add_command(
        commands,
        name,
        parents,
        help="all jobs with all their fields, as CSV or NDJSON",
        description="Print all jobs, or those that the filters choose, with all their fields, from the local cache. In "
        "CSV, lists and objects are JSON, and a text that a spreadsheet would take for a formula gets a ' in front.",
        epilog=EXAMPLES,
    )
    parser.add_argument("--format", choices=("csv", "ndjson"), default="ndjson", help="csv or ndjson (default)")
    add_filters(parser)
    add_freshness(parser)


def run(args: argparse.Namespace, context: Context) -> Result:
    """Print jobs as they are read."""
    now = context.now()
    chosen = chosen_jobs(args, now)

    def view(cache: sqlite3.Connection, freshness: Freshness) -> Result:
        from mopsjobs.cache import streaming

        fields = queries.job_fields()
        count = 0
        if args.format == "csv":
            context.out.show(Result(Csv([fields])))
        # Closed before the cache is, also where nobody reads on: its rows come from there.
        with contextlib.closing(streaming.jobs(cache, chosen)) as jobs:
            while batch := _batch(jobs):
                if args.format == "csv":
                    views = (queries.job_view(facts, now=now.timestamp()) for facts in batch)
                    context.out.show(Result(Csv([view[name] for name in fields] for view in views)))
                else:
                    lines = (f"{queries.job_text(facts, now=now.timestamp())}\n" for facts in batch)
                    context.out.show(Result(Verbatim(lines)))
                count += len(batch)
        warnings = [] if freshness.problem is None else [f"{freshness.problem} Exported what was {freshness.said()}."]
        return Result(warnings=warnings, notes=[f"{counted(count, 'job')}, {freshness.said()}"])

    return context.read(view, wanted(args))


def _batch(jobs: Iterator[queries.Facts]) -> list[queries.Facts]:
    """The next ones: none at the end."""
    batch: list[queries.Facts] = []
    size = 0
    while len(batch) < BATCH and size < BATCH_BYTES and (facts := next(jobs, None)) is not None:
        batch.append(facts)
        size += len(facts[0])
    return batch
