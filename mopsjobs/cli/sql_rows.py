"""The rows of a user's SQL: the flags for their number and time, and their forms."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence

from mopsjobs.app.run.app import App
from mopsjobs.cache.queries.user_sql import QueryResult, check_distinct
from mopsjobs.cli.flags import limit_of, row_limit
from mopsjobs.cli.job_table import fields_table
from mopsjobs.console.result import Document, RawText, Result, Tsv
from mopsjobs.utils.csv_safe import csv_text
from mopsjobs.utils.text import pluralize

DEFAULT_LIMIT = 1000

BATCH = 500

CSV = {"csv": "print CSV with a header"}
"""The form of rows besides those of most lists, and its help."""


def add_limit_flags(group: argparse._ActionsContainer) -> None:
    """Declare the flags that limit a query."""
    group.add_argument(
        "--limit",
        metavar="N",
        type=row_limit,
        help=f"print at most N rows, 0 for all (default: {DEFAULT_LIMIT}; all with --csv and --tsv)",
    )
    add_timeout_flag(group)


def add_timeout_flag(group: argparse._ActionsContainer) -> None:
    """Declare the flag that limits the time of a query."""
    group.add_argument(
        "--timeout", metavar="DURATION", default="30s", help="stop the query after this time (default: 30s)"
    )


def show_rows(
    args: argparse.Namespace,
    app: App,
    answer: QueryResult,
    document: Callable[[Sequence[Sequence[object]], bool], dict[str, object]],
    source: str,
) -> Result:
    """Return the rows in the requested form, and a note if there are more.

    Args:
        args: the flags.
        app: the run.
        answer: the rows.
        document: returns the JSON document of rows, and of whether there are more.
        source: how old the rows are, in words.
    """
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
        check_distinct(answer.columns)
        return Result(Document(document(found, bool(truncation))), notes=truncation)
    count_and_age = f"{pluralize(len(found), 'row')}, {source}"
    return Result(fields_table(answer.columns, found) if found else None, notes=[*truncation, count_and_age])


def _truncation_notes(limit: int, answer: QueryResult) -> list[str]:
    """Return the note for rows above the limit."""
    if limit == 0 or next(answer.rows, None) is None:
        return []
    return [f"Only the first {limit:,} rows (--limit 0 shows all)."]
