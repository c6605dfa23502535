"""`summary`: count jobs by status, owner and day; failure rate, waiting and running times, the oldest active job."""

from __future__ import annotations

import argparse
import math
import sqlite3
from typing import Any

from mopsjobs.app.jobs.job_texts import UNKNOWN, duration_text, memory_text, usage_text
from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import Freshness
from mopsjobs.cache.queries import statistics
from mopsjobs.cli.flags import add_filter_flags, add_freshness_flags, filter_of, freshness_policy
from mopsjobs.console.printer import status_style
from mopsjobs.console.result import Document, Result, Table, Text
from mopsjobs.console.terminal import title_text
from mopsjobs.errors import UsageError
from mopsjobs.utils.text import invalid_choice, pluralize
from mopsjobs.utils.times import human_duration, parse_time

HELP = "count jobs by status, owner and day"

DESCRIPTION = (
    "Summarise jobs from the local cache: counts by status, owner and day, the failure rate, waiting and running times,"
    " and the oldest active job. Filters select the jobs (default: all)."
)

EXAMPLES = (
    "mops-jobs summary --hours 168",
    "mops-jobs summary --hours 168 --by label:experiment",
    "mops-jobs summary --owner me --json | jq .failure_rate",
)

SHOWN_OWNERS = 10

SHOWN_GROUPS = 30

TITLE_WIDTH = 13

DAY_COLUMNS = ("day", "created", "succeeded", "partial", "failed", "cancelled")

BARS = "▁▂▃▄▅▆▇█"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_filter_flags(parser)
    parser.add_argument(
        "--by",
        metavar="GROUP",
        help="also sum up processor time and memory: by owner, day (of the registration) or label:KEY",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    add_freshness_flags(parser)


def run(args: argparse.Namespace, app: App) -> Result:
    """Summarise jobs."""
    job_filter = filter_of(args, app.now())
    by = _parse_group(args.by)

    def view(cache: sqlite3.Connection, freshness: Freshness) -> Result:
        warnings = freshness.warnings("Counting")
        from mopsjobs.app.care.summary import summary_document

        summary = summary_document(cache, job_filter, app, freshness, by=by)
        if args.json:
            return Result(Document(summary), warnings=warnings, exit_code=freshness.exit_code)
        _show(summary, app)
        notes = [f"Data: {freshness.describe_with_staleness()}"]
        return Result(warnings=warnings, notes=notes, exit_code=freshness.exit_code)

    return app.cache.read(view, freshness_policy(args))


def _show(summary: dict[str, Any], app: App) -> None:
    """Print it for people: numbers first, then a table of owners and, in a pipe, one of days instead of sparklines."""
    out = app.out
    counts = [f"{count:,} {status}" for status, count in summary["by_status"].items() if count]
    rate = summary["failure_rate"]
    oldest = summary["oldest_active"]
    lines = [
        _line("Jobs", f"{summary['total']:,}{': ' if counts else ''}{', '.join(counts)}"),
        _line(
            "Failure rate",
            "n/a (no job has ended)"
            if rate is None
            else f"{100 * rate:.1f} % of the jobs that ended, without cancelled ones",
        ),
        _line("Queued", _spread(summary["queue_seconds"])),
        _line("Ran", _spread(summary["run_seconds"])),
    ]
    if summary["usage"] is not None:
        jobs = pluralize(summary["usage"]["jobs"], "job")
        lines.append(_line("Used", f"{usage_text(summary['usage']) or UNKNOWN} ({jobs})"))
    if oldest is not None:
        age = human_duration((app.now() - parse_time(oldest["created_at"])).total_seconds())
        lines.append([*_line("Oldest", f"{oldest['job_id']}, {age} old, "), status_style(oldest["status"])])
    days = summary["by_day"]
    if out.is_terminal:
        for title, ways in (("Ended", DAY_COLUMNS[2:]), ("Failed", ("failed",))):
            per_day = [sum(day[way] for way in ways) for day in days]
            lines.append(_line(f"{title}/day", f"{_sparkline(per_day)} max {max(per_day):,}, {len(days)} days"))
    out.show(Result(Text(lines, indent=TITLE_WIDTH)))
    if summary["usage_by"] is not None:
        _show_usage(summary["usage_by"], app)
        return
    owners = summary["by_owner"]
    if owners:
        rows = [[one["owner"] or "-", one["jobs"], one["active"], one["failed"]] for one in owners[:SHOWN_OWNERS]]
        out.show(Result(Text([""])))
        out.show(Result(Table(("OWNER", "JOBS", "ACTIVE", "FAILED"), rows)))
        if len(owners) > SHOWN_OWNERS:
            out.note(f"and {len(owners) - SHOWN_OWNERS} more owners; --json lists all")
    if not out.is_terminal:
        rows = [[day[name] for name in DAY_COLUMNS] for day in days if any(day[name] for name in DAY_COLUMNS[1:])]
        if rows:
            out.show(Result(Text([""])))
            out.show(Result(Table([name.upper() for name in DAY_COLUMNS], rows)))


def _show_usage(usage_by: dict[str, Any], app: App) -> None:
    """Print a table of what the jobs of each group used."""
    groups = usage_by["groups"]
    rows = [
        [
            one["group"] or "-",
            one["jobs"],
            *(duration_text(one[name]) for name in ("cpu_seconds", "task_seconds", "held_core_seconds")),
            None if one["cpu_efficiency"] is None else f"{100 * one['cpu_efficiency']:.0f} %",
            memory_text(one["max_rss_bytes"]),
        ]
        for one in groups[:SHOWN_GROUPS]
    ]
    title = usage_by["by"].removeprefix(statistics.LABEL_GROUP).upper()
    app.out.show(Result(Text([""])))
    app.out.show(Result(Table((title, "JOBS", "CPU", "TASKS", "HELD", "EFFICIENCY", "PEAK MEMORY"), rows)))
    if len(groups) > SHOWN_GROUPS:
        app.out.note(f"and {len(groups) - SHOWN_GROUPS:,} more; --json lists all")


def _parse_group(text: str | None) -> str | None:
    """Return the value of `--by`.

    Raises:
        UsageError: if it is neither `owner`, `day` nor `label:KEY`.
    """
    is_label = text is not None and text.startswith(statistics.LABEL_GROUP) and text != statistics.LABEL_GROUP
    if text is None or text in statistics.USAGE_GROUPS or is_label:
        return text
    known = (*statistics.USAGE_GROUPS, f"{statistics.LABEL_GROUP}KEY")
    raise UsageError(invalid_choice("--by", text, known))


def _line(title: str, text: str) -> list[str]:
    return [title_text(title, TITLE_WIDTH), text]


def _spread(seconds: dict[str, Any]) -> str:
    if not seconds["jobs"]:
        return "n/a (not known for any job)"
    median, p90 = human_duration(seconds["median"]), human_duration(seconds["p90"])
    return f"median {median}, 90 % within {p90} ({pluralize(seconds['jobs'], 'job')})"


def _sparkline(values: list[int]) -> str:
    """Return a bar for each value, the highest for the greatest; a blank for 0."""
    top = max(values)
    return "".join(BARS[math.ceil(value / top * len(BARS)) - 1] if value else " " for value in values)
