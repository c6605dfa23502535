"""`query`: run an SQL query over the documented views of the local cache."""

from __future__ import annotations

import argparse
import itertools
import sqlite3

from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import Freshness, query_document
from mopsjobs.cache.queries import user_sql
from mopsjobs.cli.flags import add_form_flags, add_freshness_flags, freshness_policy, limit_of, row_limit
from mopsjobs.cli.job_table import fields_table
from mopsjobs.console.result import Document, RawText, Result, Table, Tsv
from mopsjobs.utils.csv_safe import csv_text
from mopsjobs.utils.text import pluralize
from mopsjobs.utils.times import parse_duration

HELP = "run an SQL query over the local cache"

DESCRIPTION = (
    "Run one SELECT over the views of the local cache, in SQLite's dialect. Without one, list the views and their"
    " columns. Queries cannot change anything."
)

EXAMPLES = (
    "mops-jobs query",
    'mops-jobs query "SELECT owner, count(*) AS jobs FROM jobs WHERE is_active GROUP BY owner"',
    'mops-jobs query --csv "SELECT job_id, key, value FROM jobs, json_each(jobs.metadata)" > metadata.csv',
)

DEFAULT_LIMIT = 1000

BATCH = 500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("sql", metavar="SELECT", nargs="?", help="the query (default: list the views)")
    parser.add_argument(
        "--limit",
        metavar="N",
        type=row_limit,
        help=f"print at most N rows, 0 for all (default: {DEFAULT_LIMIT}; all with --csv and --tsv)",
    )
    parser.add_argument(
        "--timeout", metavar="DURATION", default="30s", help="stop the query after this time (default: 30s)"
    )
    add_form_flags(parser, {"csv": "print CSV with a header"}, ("json", "tsv"))
    add_freshness_flags(parser)


def run(args: argparse.Namespace, app: App) -> Result:
    """Run the query."""
    seconds = parse_duration(args.timeout)

    def view(cache: sqlite3.Connection, freshness: Freshness) -> Result:
        if args.sql is None:
            rows = [(name, column) for name, columns in user_sql.views(cache).items() for column in columns]
            return Result(Table(("VIEW", "COLUMN"), rows))
        answer = user_sql.run_user_query(cache, args.sql, seconds=seconds, monotonic=app.monotonic)
        result = _show_rows(args, app, answer, freshness)
        result.warnings = [*result.warnings, *freshness.warnings("Querying")]
        result.exit_code = freshness.exit_code
        return result

    return app.cache.read(view, freshness_policy(args))


def _show_rows(args: argparse.Namespace, app: App, answer: user_sql.QueryResult, freshness: Freshness) -> Result:
    """Return the rows in the requested form, and a note if there are more."""
    limit = limit_of(args, DEFAULT_LIMIT)
    rows = itertools.islice(answer.rows, limit) if limit else answer.rows
    if args.form in ("csv", "tsv"):
        if args.form == "csv":
            app.out.show(Result(RawText(csv_text([answer.columns]))))
        while batch := list(itertools.islice(rows, BATCH)):
            app.out.show(Result(RawText(csv_text(batch)) if args.form == "csv" else Tsv(batch)))
        return Result(notes=_truncation_notes(limit, answer))
    found = list(rows)
    truncation = _truncation_notes(limit, answer)
    if args.form == "json":
        user_sql.check_distinct(answer.columns)
        document = query_document(answer.columns, found, freshness, is_cut=bool(truncation))
        return Result(Document(document), notes=truncation)
    count_and_age = f"{pluralize(len(found), 'row')}, {freshness.describe()}"
    return Result(fields_table(answer.columns, found) if found else None, notes=[*truncation, count_and_age])


def _truncation_notes(limit: int, answer: user_sql.QueryResult) -> list[str]:
    """Return the note for rows above the limit."""
    if limit == 0 or next(answer.rows, None) is None:
        return []
    return [f"Only the first {limit:,} rows (--limit 0 shows all)."]
