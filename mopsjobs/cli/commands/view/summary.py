"""`summary`: count jobs by status, owner and day; failure rate, waiting and running times, the oldest active job."""

from __future__ import annotations

import argparse
import copy
import sqlite3
from collections.abc import Sequence
from typing import Any

from mopsjobs.app.jobs.job_card import UNKNOWN, usage_text
from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import Freshness
from mopsjobs.cache.queries import filters, statistics
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cli.flags import add_filter_flags, add_freshness_flags, filter_of, freshness_policy
from mopsjobs.console.printer import status_style
from mopsjobs.console.result import Document, Result, Table, Text
from mopsjobs.console.terminal import title_text
from mopsjobs.registry.cpu_budget import budget_text
from mopsjobs.registry.status import ACTIVE, JobStatus
from mopsjobs.utils.text import pluralize
from mopsjobs.utils.times import human_duration, parse_time

HELP = "count jobs by status, owner and day"

DESCRIPTION = (
    "Summarise jobs from the local cache: counts by status, owner and day, the failure rate, waiting and running"
    " times, usage, and the oldest active job. Filters select the jobs (default: all)."
)

EXAMPLES = (
    "mops-jobs summary --hours 168",
    "mops-jobs summary --owner me --json | jq .failure_rate",
)

SCHEMA_VERSION = 1

SHOWN_OWNERS = 10

TITLE_WIDTH = 13

DAY_COLUMNS = ("day", "created", "succeeded", "partial", "failed", "cancelled")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_filter_flags(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    add_freshness_flags(parser)


def run(args: argparse.Namespace, app: App) -> Result:
    """Summarise jobs."""
    job_filter = filter_of(args, app.now())

    def view(cache: sqlite3.Connection, freshness: Freshness) -> Result:
        warnings = freshness.warnings("Counting")
        summary = _document(cache, job_filter, app, freshness)
        if args.json:
            return Result(Document(summary), warnings=warnings, exit_code=freshness.exit_code)
        _show(summary, app)
        notes = [*job_queries.pruned_note(cache, job_filter), f"Data: {freshness.describe_with_staleness()}"]
        return Result(warnings=warnings, notes=notes, exit_code=freshness.exit_code)

    return app.cache.read(view, freshness_policy(args))


def _document(cache: sqlite3.Connection, job_filter: filters.Filter, app: App, freshness: Freshness) -> dict[str, Any]:
    """Return the document of `summary --json`."""
    now = app.now()
    counts = statistics.by_status(cache, job_filter)
    ended = sum(counts.get(status, 0) for status in ("succeeded", "partial", "failed"))
    active = copy.copy(job_filter)
    active.statuses = ACTIVE if job_filter.statuses is None else job_filter.statuses & ACTIVE
    order = filters.parse_sort("created")
    budget, used = statistics.budget(cache, job_filter), statistics.usage(cache, job_filter)
    oldest = job_queries.page_of_jobs(cache, active, order=order, limit=1, offset=0, now=now.timestamp())
    return {
        **app.document_head(SCHEMA_VERSION, freshness.to_json()),
        "total": sum(counts.values()),
        "by_status": {**{str(status): 0 for status in JobStatus}, **counts},
        "by_owner": [one._asdict() for one in statistics.by_owner(cache, job_filter)],
        "by_day": [one._asdict() for one in statistics.by_day(cache, job_filter, now)],
        "failure_rate": round(counts.get("failed", 0) / ended, 6) if ended else None,
        "queue_seconds": statistics.spread(cache, job_filter, statistics.QUEUE)._asdict(),
        "run_seconds": statistics.spread(cache, job_filter, statistics.RUN)._asdict(),
        "oldest_active": next(oldest, None),
        "usage": used and {name: _rounded(value) for name, value in used._asdict().items() if name != "group"},
        "budget": budget and dict(zip(("jobs", "cpu_seconds", "max_cpu_hours"), budget, strict=True)),
    }


def _rounded(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value


def _show(summary: dict[str, Any], app: App) -> None:
    """Print it for people: numbers first, then a table of owners and one of days."""
    counts = ", ".join(f"{count:,} {status}" for status, count in summary["by_status"].items() if count)
    rate, oldest = summary["failure_rate"], summary["oldest_active"]
    share = "" if rate is None else f"{100 * rate:.1f} % of the jobs that ended, without cancelled ones"
    lines = [
        _line("Jobs", f"{summary['total']:,}{': ' if counts else ''}{counts}"),
        _line("Failure rate", share or "n/a (no job has ended)"),
        _line("Queued", _spread(summary["queue_seconds"])),
        _line("Ran", _spread(summary["run_seconds"])),
    ]
    if summary["usage"] is not None:
        jobs = pluralize(summary["usage"]["jobs"], "job")
        lines.append(_line("Used", f"{usage_text(summary['usage']) or UNKNOWN} ({jobs})"))
    if (budget := summary["budget"]) is not None:
        text = budget_text(budget["cpu_seconds"], budget["max_cpu_hours"])
        lines.append(_line("Budget", f"{text} ({pluralize(budget['jobs'], 'job')})"))
    if oldest is not None:
        age = human_duration((app.now() - parse_time(oldest["created_at"])).total_seconds())
        lines.append([*_line("Oldest", f"{oldest['job_id']}, {age} old, "), status_style(oldest["status"])])
    app.out.show(Result(Text(lines, indent=TITLE_WIDTH)))
    owners = [[one["owner"] or "-", one["jobs"], one["active"], one["failed"]] for one in summary["by_owner"]]
    _show_table(app, ("OWNER", "JOBS", "ACTIVE", "FAILED"), owners, SHOWN_OWNERS)
    rows = [[day[name] for name in DAY_COLUMNS] for day in summary["by_day"] if any([*day.values()][1:])]
    _show_table(app, [name.upper() for name in DAY_COLUMNS], rows)


def _show_table(app: App, headers: Sequence[str], rows: list[list[Any]], limit: int | None = None) -> None:
    """Print the first rows of a table, after an empty line, and how many more there are."""
    if rows:
        app.out.show(Result(Text([""])))
        app.out.show(Result(Table(headers, rows[:limit])))
    if limit is not None and len(rows) > limit:
        app.out.note(f"and {len(rows) - limit:,} more; --json lists all")


def _line(title: str, text: str) -> list[str]:
    return [title_text(title, TITLE_WIDTH), text]


def _spread(seconds: dict[str, Any]) -> str:
    if not seconds["jobs"]:
        return "n/a (not known for any job)"
    median, p90 = human_duration(seconds["median"]), human_duration(seconds["p90"])
    return f"median {median}, 90 % within {p90} ({pluralize(seconds['jobs'], 'job')})"
