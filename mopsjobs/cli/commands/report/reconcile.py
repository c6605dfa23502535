"""`reconcile`: update the registry with the state of the cluster."""

from __future__ import annotations

import argparse

from mopsjobs.app.jobs.reconcile import ReconcileResult, reconcile_jobs
from mopsjobs.app.run.app import App
from mopsjobs.cli.flags import FULL_ID_HELP, add_full_ids, add_trust
from mopsjobs.console.result import Document, Result, Text
from mopsjobs.errors import EXIT_DONE, EXIT_PARTLY_DONE
from mopsjobs.utils.text import pluralize

HELP = "update the registry with the state of the cluster"

DESCRIPTION = (
    "Ask the cluster about jobs that have not ended, and update the registry. If the cluster says that a job has"
    " ended, its record ends too. Jobs that are missing or silent are only marked as suspect, for list --stuck."
)

EXAMPLES = (
    "mops-jobs reconcile",
    "mops-jobs reconcile seir-20260301-120000-1a2b --json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_full_ids(parser, "jobs", "*", f"{FULL_ID_HELP} (default: every job that has not ended)")
    parser.add_argument("--json", action="store_true", help="print the changes as one JSON object")
    add_trust(parser)


def run(args: argparse.Namespace, app: App) -> Result:
    """Reconcile jobs."""
    done = reconcile_jobs(args.jobs, app, args.trust)
    changed = [one for one in done if one.is_changed]
    problems = [f"{one.job_id}: {one.problem}" for one in done if one.problem is not None]
    codes = {one.exit_code for one in done} or {EXIT_DONE}
    summary = f"{pluralize(len(done), 'job')} checked, {len(changed):,} changed"
    body = Document({"checked": len(done), "changed": len(changed), "jobs": [_reconciled_json(one) for one in done]})
    return Result(
        body if args.json else Text([_line(one) for one in changed], indent=2),
        notes=[summary],
        warnings=problems,
        exit_code=codes.pop() if len(codes) == 1 else EXIT_PARTLY_DONE,
    )


def _line(one: ReconcileResult) -> str:
    words = {
        "suspect": f"suspect: {one.action.reason}",
        "explain": f"waits for {one.action.words}" if one.action.words else "waits no longer",
        "clear": "no longer suspect",
    }.get(one.action.verb)
    return f"{one.job_id}: {one.before} -> {one.after}" if words is None else f"{one.job_id}: {one.after}, {words}"


def _reconciled_json(one: ReconcileResult) -> dict[str, object]:
    return {
        "job_id": one.job_id,
        "action": one.action.verb,
        "reason": one.action.reason,
        "detail": one.action.detail,
        "status_before": one.before,
        "status": one.after,
        "changed": one.is_changed,
        "problem": one.problem,
    }
