"""`watch`: show jobs as they change: a table that refreshes on a terminal, in a pipe one line per change."""

from __future__ import annotations

import argparse
import itertools
import sqlite3
from functools import partial

from mopsjobs.app.jobs.current_jobs import read_current
from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import Freshness
from mopsjobs.cache import job_json
from mopsjobs.cache.queries import filters
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.sync_state import known_to
from mopsjobs.cli.flags import add_filter_flags, add_freshness_flags, filter_of, freshness_policy, parse_interval
from mopsjobs.cli.job_table import job_row, job_table, note_late
from mopsjobs.console.result import RawText, Result, Text, Tsv
from mopsjobs.utils.malloc import limit_malloc_arenas
from mopsjobs.utils.times import json_time, whole_seconds

HELP = "show jobs as they change, until Ctrl-C"

DESCRIPTION = (
    "Show jobs as the local cache changes, until Ctrl-C. On a terminal, the table refreshes. In a pipe, the active jobs"
    " come first, then one line per change. watch syncs only with --max-age or --refresh; else another process has to."
)

EXAMPLES = (
    "mops-jobs watch --owner me --max-age 30s",
    "mops-jobs watch --json --status active | jq --unbuffered -r .job_id",
)

OTHER_LINES = 4
"""Lines of the terminal besides jobs: the head, a blank one, the headers and that of the cursor."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_filter_flags(parser)
    parser.add_argument("--interval", metavar="DURATION", default="2s", help="time between two polls (default: 2s)")
    parser.add_argument("--json", action="store_true", help="print each changed job as one JSON object per line")
    add_freshness_flags(parser)


def run(args: argparse.Namespace, app: App) -> Result:
    """Show jobs until Ctrl-C."""
    interval = parse_interval(args.interval)
    job_filter = filter_of(args, app.now())
    refreshes = app.out.can_redraw and not args.json
    limit_malloc_arenas()
    show = partial(_refresh_table if refreshes else _ChangeLines(as_json=args.json), app, job_filter)
    last_problem: str | None = None
    while True:
        problem = read_current(app, show, freshness_policy(args))
        if problem is not None and problem != last_problem:
            app.out.warn(problem)
        last_problem = problem
        app.sleep(interval)


def _refresh_table(app: App, job_filter: filters.Filter, cache: sqlite3.Connection, freshness: Freshness) -> str | None:
    """Show as many jobs as fit on the terminal, in place of the ones before."""
    now = app.now()
    filters.hide_archived(cache, job_filter)
    late: list[str] = []
    by = app.settings.redirected_by
    named = [] if by is None else [f"registry named by {by}"]
    order = filters.parse_sort(filters.DEFAULT_SORT)
    room = max(1, app.out.lines - OTHER_LINES - len(named))
    page, sweeps = job_queries.list_rows(cache, job_filter, order=order, limit=room, now=now.timestamp())
    jobs = list(itertools.islice(page.jobs(), room))
    head = f"{page.total:,} jobs, {freshness.describe_with_staleness()}, {whole_seconds(json_time(now))}"
    table = job_table(note_late(jobs, late, app), app, freshness, sweeps[:room])
    app.out.redraw((Text([head, *named, *late, ""], indent=2), table))
    return None


class _ChangeLines:
    """Print a line for each job that is new or changed since the last call."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._mark: job_queries.ChangeMark | None = None

    def __call__(
        self, app: App, job_filter: filters.Filter, cache: sqlite3.Connection, freshness: Freshness
    ) -> str | None:
        """Print the lines."""
        now = app.now().timestamp()
        known = known_to(cache, now)
        changed, self._mark = job_queries.changed_jobs(cache, job_filter, self._mark)
        if self._as_json:
            text = "".join(f"{job_json.job_text(facts, now=now, known_to=known)}\n" for facts in changed)
            app.out.show(Result(RawText(text)))
        else:
            jobs = [job_json.job_json(facts, now=now, known_to=known) for facts in changed]
            app.out.show(Result(Tsv([job_row(job, app) for job in jobs])))
        return freshness.problem
