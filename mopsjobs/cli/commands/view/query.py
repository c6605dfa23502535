"""`query`: run an SQL query over the documented views of the local cache."""

from __future__ import annotations

import argparse
import sqlite3
from typing import Any

from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import Freshness, query_document
from mopsjobs.cache.queries import user_sql
from mopsjobs.cli.flags import JOB_HELP, add_form_flags, add_freshness_flags, freshness_policy
from mopsjobs.cli.sql_rows import CSV, add_limit_flags, show_rows
from mopsjobs.console.result import Result, Table
from mopsjobs.errors import EXIT_DONE, EXIT_PARTLY_DONE, read_job_name
from mopsjobs.utils.times import parse_duration

HELP = "run an SQL query over the local cache"

DESCRIPTION = (
    "Run one SELECT over the views of the local cache, in SQLite's dialect. Without one, list the views and their"
    " columns. With --job, there are two more: results has a row per task of these jobs and their ancestors,"
    " result_sets one per parameter set."
)

EXAMPLES = (
    'mops-jobs query "SELECT owner, count(*) AS jobs FROM jobs WHERE is_active GROUP BY owner"',
    'mops-jobs query --job nightly-1 "SELECT beta, avg(peak) FROM results GROUP BY beta"',
    'mops-jobs query --csv "SELECT job_id, key, value FROM jobs, json_each(jobs.metadata)" > metadata.csv',
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("sql", metavar="SELECT", nargs="?", help="the query (default: list the views)")
    parser.add_argument(
        "--job", metavar="JOB", action="append", default=[], type=read_job_name,
        help=f"{JOB_HELP}: a job whose results it reads; repeat for more",
    )  # fmt: skip
    add_limit_flags(parser)
    add_form_flags(parser, CSV, ("json", "tsv"))
    add_freshness_flags(parser)


def run(args: argparse.Namespace, app: App) -> Result:
    """Run the query."""
    seconds = parse_duration(args.timeout)

    policy = freshness_policy(args)

    def show(cache: sqlite3.Connection, freshness: Freshness, has: dict[str, Any] | None = None) -> Result:
        if args.sql is None:
            rows = [(name, column) for name, columns in user_sql.views(cache).items() for column in columns]
            return Result(Table(("VIEW", "COLUMN"), rows))
        answer = user_sql.run_user_query(cache, args.sql, seconds=seconds, monotonic=app.monotonic)
        result = show_rows(
            args,
            app,
            answer,
            lambda rows, is_cut: query_document(
                answer.columns,
                rows,
                freshness,
                is_cut=is_cut,
                results=has,
            ),
            freshness.describe(),
        )
        result.warnings = [*result.warnings, *freshness.warnings("Querying")]
        result.exit_code = freshness.exit_code
        if has is not None:
            result.notes = [*result.notes, *has["notes"]]
            result.warnings = [*result.warnings, *has["problems"]]
            result.exit_code = result.exit_code or (EXIT_DONE if has["complete"] else EXIT_PARTLY_DONE)
        return result

    def view(cache: sqlite3.Connection, freshness: Freshness) -> Result:
        if not args.job:
            return show(cache, freshness)
        from mopsjobs.app.tasks.result_sets import query_results  # here: other queries answer as a listing does

        return query_results(args.job, app, lambda results, has: show(results, freshness, has), policy)

    return app.cache.read(view, policy)
