"""`list`: list jobs. People and scripts run it most, so it imports as little as possible."""

from __future__ import annotations

import argparse
import itertools
import sqlite3
from collections.abc import Iterator, Sequence

from mopsjobs.app.jobs.current_jobs import read_current
from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import Freshness
from mopsjobs.cache import job_json
from mopsjobs.cache.queries import filters
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.sync_state import known_jobs
from mopsjobs.cli.flags import (
    add_filter_flags,
    add_form_flags,
    add_freshness_flags,
    add_order_flags,
    filter_of,
    freshness_policy,
    limit_of,
)
from mopsjobs.console.result import Body, Document, RawText, Result, Tsv
from mopsjobs.errors import UsageError, command_line
from mopsjobs.utils.text import invalid_choice, pluralize

TYPE_CHECKING = False

if TYPE_CHECKING:
    from mopsjobs.cache.queries.sweeps import Sweep

HELP = "list jobs from the local cache"

DESCRIPTION = (
    "List jobs from the local cache, newest change first. Active jobs are always listed, however old they are and"
    " whatever the limit. The jobs of a sweep are one row of the table; --label sweep=NAME and all other forms have"
    " each job."
)

EXAMPLES = (
    "mops-jobs list --hours 48 --status active,failed --name 'night*' --sort -duration",
    "mops-jobs list --csv --limit 0 --status done > jobs.csv",
    "mops-jobs list --json --limit 0 | jq -r '.jobs[] | select(.status == \"failed\") | .job_id'",
)

HELD_JOBS = 5_000
"""Jobs whose texts are held until the cache is closed: mostly, a damaged cache is found before anything is printed."""

UNREPORTED_FIELDS = ("started_at", "queued_seconds", "run_seconds")
"""Fields whose empty value in a table says that no program has reported it."""

INTRODUCTION = (
    "This is the embedded registry of this machine, with 0 jobs. To use Azure, set AZURE_STORAGE_CONNECTION_STRING or"
    " AZURE_STORAGE_ACCOUNT; for another registry, use --registry URL or MOPS_JOBS_REGISTRY."
)
"""For a user whose jobs are elsewhere: an empty list alone would look like a loss."""

TSV_FIELDS = ("job_id", "status", "progress", "owner", "created_at", "updated_at", "duration_seconds")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_filter_flags(parser)
    how = parser.add_argument_group("output")
    add_order_flags(how)
    how.add_argument(
        "--fields",
        metavar="FIELD[,FIELD]",
        nargs="?",
        const="",
        help="print only these fields; without a value, print the names of all fields",
    )
    csv_help = "print all fields as CSV with a header, safe in spreadsheets"
    add_form_flags(how, {"ids": "print only ids", "csv": csv_help})
    add_freshness_flags(parser)


def run(args: argparse.Namespace, app: App) -> Result:
    """List jobs."""
    if args.fields is not None and args.form == "ids":
        raise UsageError("-q and --fields contradict each other: -q prints only ids.")
    now = app.now()
    job_filter = filter_of(args, now)
    order = filters.parse_sort(args.sort)
    fields = _parse_fields(args.fields)
    if fields == ():
        return Result(Tsv([(name,) for name in job_json.job_fields()]))

    is_default, is_empty = app.settings.is_local and app.settings.registry.origin == "default", False

    def view(connection: sqlite3.Connection, freshness: Freshness) -> Result:
        nonlocal is_empty
        filters.hide_archived(connection, job_filter)
        limit, at = limit_of(args), now.timestamp()
        if args.form is None and fields is None:
            page, sweeps = job_queries.list_rows(connection, job_filter, order=order, limit=limit, now=at)
        else:
            page, sweeps = job_queries.list_jobs(connection, job_filter, order=order, limit=limit, now=at), []
        is_empty = is_default and page.total == 0 and known_jobs(connection) == 0
        archived = filters.count_archived(connection, job_filter) if args.form is None else 0
        result = _result(args, app, page, freshness, fields, sweeps)
        if archived:
            hidden = f"{pluralize(archived, 'archived job')} not shown; to see"
            result.notes = [*result.notes, f"{hidden}: {command_line('list --label archived')}"]
        if args.form is None and page.total == 0:  # a cache that cron prunes would tell it each time
            result.notes = [*result.notes, *job_queries.pruned_note(connection, job_filter)]
        result.warnings = [*result.warnings, *job_queries.unreadable_warning(connection)]
        result.exit_code = freshness.exit_code
        return result

    result = read_current(app, view, freshness_policy(args))
    if is_empty and args.form is None:
        result.notes = [*result.notes, INTRODUCTION]
    return result


def _result(
    args: argparse.Namespace,
    app: App,
    page: job_queries.JobList,
    freshness: Freshness,
    fields: tuple[str, ...] | None,
    sweeps: Sequence[Sweep | None],
) -> Result:
    warnings = freshness.warnings()
    # Most forms have no place for the total, so a note says what was cut.
    cut = [_footer(args, page, freshness)] if len(page) < page.total else []
    if args.form in ("json", "jsonl", "csv"):
        texts = _csv_lines(page, fields) if args.form == "csv" else page.texts(fields)
        body = _body(args.form, texts, app.list_header(page, freshness), app)
        return Result(body, warnings=warnings, notes=[] if args.form == "json" else cut)
    if args.form == "ids":
        return Result(Tsv(page.ids()), warnings=warnings, notes=cut)
    jobs = page.jobs(fields)
    if args.form == "tsv":
        names = fields or TSV_FIELDS
        return Result(Tsv([[job[name] for name in names] for job in jobs]), warnings=warnings, notes=cut)
    from mopsjobs.cli.job_table import fields_table, job_table, note_late, sweep_notes  # here: scripts need no table

    late: list[str] = []
    if fields is not None:
        table = fields_table(fields, [[_cell(name, job[name]) for name in fields] for job in jobs])
    else:
        table = job_table(note_late(jobs, late, app), app, freshness, sweeps)
    footer = _footer(args, page, freshness, sweeps)
    return Result(table if len(page) else None, warnings=warnings, notes=[*late, footer, *sweep_notes(sweeps)])


def _cell(name: str, value: object) -> object:
    return "n/a" if value is None and name in UNREPORTED_FIELDS else value


def _body(form: str, texts: Iterator[str], head: dict[str, object], app: App) -> Body | None:
    """Return what `--json`, `--jsonl` or `--csv` prints; None if that was printed: large output, at once."""
    begin = list(itertools.islice(texts, HELD_JOBS))
    is_whole = len(begin) < HELD_JOBS
    every = begin if is_whole else itertools.chain(begin, texts)
    body = Document(head, items=("jobs", every)) if form == "json" else RawText(f"{text}\n" for text in every)
    if is_whole:
        return body
    app.out.show(Result(body))
    return None


def _csv_lines(page: job_queries.JobList, fields: tuple[str, ...] | None) -> Iterator[str]:
    """Yield the header and the line of each job, without line ends."""
    from mopsjobs.utils.csv_safe import csv_text  # here: only this form needs it

    names = fields or job_json.job_fields()
    yield csv_text([names])[:-1]
    for job in page.jobs(fields):
        yield csv_text([[job[name] for name in names]])[:-1]


def _footer(
    args: argparse.Namespace, page: job_queries.JobList, freshness: Freshness, sweeps: Sequence[Sweep | None] = ()
) -> str:
    counted = pluralize(page.total, "job")
    listed = len(page) + sum(sweep.jobs + sweep.resumed - 1 for sweep in sweeps if sweep is not None)
    if listed < page.total:
        counted = f"{listed:,} of {counted} (--limit 0 shows all; active ones are never cut)"
    window = f", last {args.hours:g} h" if args.hours is not None else ""
    return f"{counted}{window}, {freshness.describe_with_staleness()}"


def _parse_fields(text: str | None) -> tuple[str, ...] | None:
    if not text:
        return None if text is None else ()
    names = tuple(name.strip() for name in text.split(","))
    known = job_json.job_fields()
    for name in names:
        if name not in known:
            raise UsageError(invalid_choice("field", name, known))
    return names
