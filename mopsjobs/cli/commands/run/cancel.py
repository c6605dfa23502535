"""`cancel`: cancel jobs, and stop what runs them."""

from __future__ import annotations

import argparse
import sqlite3

from mopsjobs.app.run.app import App
from mopsjobs.app.run.user_trust import agreed_trust, unknown_contexts, user_trust
from mopsjobs.cache.queries import filters
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.rows import job_json_from_state
from mopsjobs.cli.flags import add_filter_flags, add_full_ids, add_trust, argument_type, filter_of, has_filters
from mopsjobs.console.result import JsonLines, Result, Table
from mopsjobs.console.table import format_table
from mopsjobs.engines.base import engine_of
from mopsjobs.errors import EXIT_INTERRUPTED, EXIT_PARTLY_DONE, UsageError
from mopsjobs.registry.notes import metadata_of
from mopsjobs.registry.status import ACTIVE
from mopsjobs.submission.cancel import CancelResult, cancel, records_to_stop
from mopsjobs.utils.text import pluralize
from mopsjobs.utils.times import parse_duration

HELP = "cancel jobs: their records, and what runs them"

DESCRIPTION = (
    "Cancel jobs, by id or by filters. Filters select among the jobs that have not ended. Unlike in list, a time window"
    " also holds for active jobs. A cancelled job that still runs is stopped again. Other ended jobs are refused."
)

EXAMPLES = (
    "mops-jobs cancel seir-20260301-120000-1a2b --reason 'wrong seed'",
    "mops-jobs cancel --owner me --status running --name 'night*' --dry-run",
    "mops-jobs cancel --owner me --hours 1 --yes",
)

MAX_LISTED = 20
"""Jobs that the confirmation lists."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    # Full ids only: what a prefix stops would depend on what else is registered.
    add_full_ids(parser, "jobs", "*")
    add_filter_flags(parser)
    parser.add_argument("--reason", metavar="TEXT", help="reason to store in the record")
    parser.add_argument(
        "--grace",
        metavar="DURATION",
        type=argument_type(parse_duration),
        help="let tasks with checkpoints save before, for this time at most (default: stop them at once)",
    )
    parser.add_argument("--yes", action="store_true", help="cancel the selected jobs without asking")
    add_trust(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="print the jobs that would be cancelled, and cancel none"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per job and line")


def run(args: argparse.Namespace, app: App) -> Result:
    """Cancel jobs."""
    if bool(args.jobs) == has_filters(args):
        raise UsageError("cancel takes either the ids of jobs or filters that choose them: use one of the two.")
    if args.dry_run:
        jobs = _active(args.jobs, app) if args.jobs else _chosen(args, app)
        return _plan(jobs, as_json=args.json)
    trust, session = user_trust(args.trust, app), app.session()
    job_ids = list(dict.fromkeys(args.jobs))
    if not args.jobs:
        jobs = _chosen(args, app)
        if not jobs:
            return Result(notes=["No active job matches; nothing was cancelled."])
        declined = app.out.confirm(f"Cancel {pluralize(len(jobs), 'job')}?", _lines(jobs), yes=args.yes)
        if declined is not None:
            return declined
        job_ids = [str(job["job_id"]) for job in jobs]
    else:
        jobs = records_to_stop(job_ids, session)
    agreed = agreed_trust(trust, unknown_contexts(jobs, app, trust), app, "nothing was cancelled")
    if agreed is None:
        return Result(notes=["Nothing was done."], exit_code=EXIT_INTERRUPTED)
    done = cancel(job_ids, session, agreed, args.reason, args.grace)
    return _result(done, app, as_json=args.json)


def _active(job_ids: list[str], app: App) -> list[dict[str, object]]:
    """Return those of these jobs that have not ended. One that does not exist is an error."""
    now = app.now().timestamp()
    states = [app.registry.require_job(job_id) for job_id in dict.fromkeys(job_ids)]
    return [job_json_from_state(state, now=now) for state in states if not state.is_terminal]


def _chosen(args: argparse.Namespace, app: App) -> list[dict[str, object]]:
    """Return the active jobs that the filters choose, after a sync: an old cache must not decide which jobs to stop."""
    now, job_filter = app.now().timestamp(), filter_of(args, app.now())
    job_filter.keeps_active = False
    if job_filter.statuses is None:
        job_filter.statuses = ACTIVE
    app.cache.sync_to_change("Nothing was cancelled.")

    def view(cache: sqlite3.Connection) -> list[dict[str, object]]:
        found = job_queries.list_jobs(cache, job_filter, order=filters.parse_sort("name"), limit=0, now=now)
        return [job for job in found.jobs() if job["is_active"]]

    return app.cache.read_cached(view) or []


def _result(done: CancelResult, app: App, *, as_json: bool) -> Result:
    if done.refused and not done.jobs:
        for error in done.refused[:-1]:
            app.out.error(error)
        raise done.refused[-1]
    now = app.now().timestamp()
    lines = JsonLines([{**job_json_from_state(job.state, now=now), "engine_stop": job.engine} for job in done.jobs])
    notes = [f"{job.state.job_id}: cancelled{', stopped' if job.engine == 'stopped' else ''}" for job in done.jobs]
    return Result(
        lines if as_json else None,
        notes=notes + done.notes,
        warnings=[*(str(error) for error in done.refused), *done.problems],
        exit_code=EXIT_PARTLY_DONE if done.refused or done.problems else 0,
    )


def _plan(jobs: list[dict[str, object]], *, as_json: bool) -> Result:
    """Show what would be cancelled."""
    body = JsonLines(jobs) if as_json else _table(jobs) if jobs else None
    return Result(body, notes=[f"{pluralize(len(jobs), 'job')}; nothing was done."])


def _table(jobs: list[dict[str, object]]) -> Table:
    rows = [(job["job_id"], job["status"], job["owner"], _place(job)) for job in jobs]
    return Table(("JOB", "STATUS", "OWNER", "STOPS"), rows, never_cut=("JOB",), drop_order=("OWNER",))


def _lines(jobs: list[dict[str, object]]) -> list[str]:
    """Return the jobs as lines, for the confirmation."""
    lines, _ = format_table(_table(jobs[:MAX_LISTED]), None, lambda text, _style: text)
    return [*lines, *([f"and {len(jobs) - MAX_LISTED} more"] if len(jobs) > MAX_LISTED else [])]


def _place(job: dict[str, object]) -> str:
    """Return what is deleted of a cluster with a job: the context, if its record names one, and the Kubernetes Job."""
    if engine_of(job) != "kubernetes":
        return ""
    context = metadata_of(job).get("k8s_context")
    prefix = f"{context}: " if context else ""
    return f"{prefix}Job {job.get('k8s_namespace') or '(default)'}/{job.get('k8s_name') or job['job_id']}"
