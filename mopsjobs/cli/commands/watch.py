"""`watch`: jobs as they change. A table that is drawn anew on a terminal; elsewhere a line for each change."""

from __future__ import annotations

import argparse
import itertools
import sqlite3

from mopsjobs.app.app import App
from mopsjobs.app.freshness import Freshness
from mopsjobs.app.job_arguments import add_filter_flags, job_filter
from mopsjobs.cache import job_json
from mopsjobs.cache.queries import changes, filters
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cli.flags import add_command, add_freshness_flags, freshness_policy
from mopsjobs.cli.job_table import JOB_HEADERS, job_row
from mopsjobs.console.result import RawText, Result, Table, Text, Tsv
from mopsjobs.errors import UsageError
from mopsjobs.utils.malloc import limit_malloc_arenas
from mopsjobs.utils.times import json_time, parse_duration, whole_seconds

TYPE_CHECKING = False

if TYPE_CHECKING:
    from mopsjobs.cli.commands import Commands


MIN_INTERVAL = 0.1


CHROME = 4
"""Lines of the terminal that are not jobs."""


EXAMPLES = """examples:
  mops-jobs watch --owner me --max-age 30s
  mops-jobs watch --json --status active | jq --unbuffered -r '.job_id'
"""


def add_parser(name: str, commands: Commands, parents: list[argparse.ArgumentParser]) -> None:
    """Declare `watch`."""
    parser = add_command(
        commands,
        name,
        parents,
        help="jobs as they change, until Ctrl-C",
        description="Show jobs as the local cache changes: on a terminal as a table that is drawn anew, elsewhere the "
        "active jobs first and then a line for each job that changes. The network is used as --max-age asks for it; "
        "without it, somebody else has to sync.",
        epilog=EXAMPLES,
    )
    add_filter_flags(parser)
    parser.add_argument("--interval", metavar="DURATION", default="2s", help="how often to look (default 2s)")
    parser.add_argument("--json", action="store_true", help="each change as the job's JSON object in a line of its own")
    add_freshness_flags(parser)


def run(args: argparse.Namespace, app: App) -> Result:
    """Look again and again. Ends by Ctrl-C, or when nobody reads any more."""
    interval = parse_duration(args.interval)
    if interval < MIN_INTERVAL:
        raise UsageError(f"--interval: at least {MIN_INTERVAL:g}s.")
    chosen = job_filter(args, app.now())
    draws = app.out.can_redraw and not args.json
    limit_malloc_arenas()
    look = _Redrawn(app, chosen) if draws else _Appended(app, chosen, as_json=args.json)
    told: str | None = None
    while True:
        problem = app.cache.read(look, freshness_policy(args))
        if problem is not None and problem != told:
            app.out.warn(problem)
        told = problem
        app.out.check_reader()
        app.sleep(interval)


class _Redrawn:
    """The table, as many jobs as fit on the terminal."""

    def __init__(self, app: App, chosen: filters.Filter) -> None:
        self._app = app
        self._chosen = chosen

    def __call__(self, cache: sqlite3.Connection, freshness: Freshness) -> str | None:
        """Draw it."""
        app, now = self._app, self._app.now()
        by = app.settings.redirected_by
        room = max(1, app.out.lines - CHROME - (by is not None))
        order = filters.parse_sort(filters.DEFAULT_SORT)
        page = job_queries.list_jobs(cache, self._chosen, order=order, limit=room, now=now.timestamp())
        rows = [job_row(job, app) for job in itertools.islice(page.jobs(), room)]
        stale = ", stale" if freshness.stale else ""
        head = f"{len(rows)} of {page.total:,} jobs, {freshness.describe()}{stale}, {whole_seconds(json_time(now))}"
        lines = [head, f"registry named by {by}", ""] if by is not None else [head, ""]
        app.out.redraw([Text(lines), Table(JOB_HEADERS, rows)])
        return None


class _Appended:
    """A line for each job that came or changed since the last look."""

    def __init__(self, app: App, chosen: filters.Filter, *, as_json: bool) -> None:
        self._app = app
        self._chosen = chosen
        self._as_json = as_json
        self._mark: changes.ChangeMark | None = None

    def __call__(self, cache: sqlite3.Connection, freshness: Freshness) -> str | None:
        """Print them."""
        now = self._app.now().timestamp()
        news, self._mark = changes.changed_jobs(cache, self._chosen, self._mark)
        if self._as_json:
            text = "".join(f"{job_json.job_text(facts, now=now)}\n" for facts in news)
            self._app.out.show(Result(RawText(text)))
        else:
            jobs = [job_json.job_json(facts, now=now) for facts in news]
            self._app.out.show(Result(Tsv([job_row(job, self._app) for job in jobs])))
        return freshness.problem
