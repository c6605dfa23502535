"""`reconcile`: update the registry with the state of the cluster."""

from __future__ import annotations

import argparse

from mopsjobs.app.app import App
from mopsjobs.app.reconcile import Reconciled, is_reconcilable, reconcile
from mopsjobs.cli.flags import FULL_ID_HELP
from mopsjobs.cli.trust_flags import add_trust, contexts_of, is_agreed, trust_of
from mopsjobs.console.result import Document, Result, Text
from mopsjobs.engines import open_engine
from mopsjobs.errors import EXIT_DONE, EXIT_PARTLY_DONE, JobNotFoundError
from mopsjobs.utils.text import pluralize

TYPE_CHECKING = False

if TYPE_CHECKING:
    from mopsjobs.engines.trust import Trust
    from mopsjobs.registry.job_state import JobState

HELP = "update the registry with the state of the cluster"

DESCRIPTION = (
    "Ask the cluster about jobs that have not ended, and update the registry. If the cluster says that a job has ended,"
    " its record ends too. Jobs that are missing or silent are only marked as suspect, for list --stuck."
)

EXAMPLES = (
    "mops-jobs reconcile",
    "mops-jobs reconcile seir-20260301-120000-1a2b --json",
)

ENGINE = "kubernetes"
"""The only engine that answers from any machine."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "jobs", metavar="JOB", nargs="*", help=f"{FULL_ID_HELP} (default: every job that has not ended)"
    )
    parser.add_argument("--json", action="store_true", help="print the changes as one JSON object")
    add_trust(parser)


def run(args: argparse.Namespace, app: App) -> Result:
    """Reconcile jobs."""
    states = [state for state in _states(args.jobs, app) if is_reconcilable(state, (ENGINE,))]
    # Without a job, no cluster is asked, and none has to be configured.
    engines = {ENGINE: open_engine(ENGINE, app.env, _trust(args, app, states))} if states else {}
    done = reconcile(app.registry, engines, states, now=app.now)
    changed = [one for one in done if one.is_changed]
    problems = [f"{one.job_id}: {one.problem}" for one in done if one.problem is not None]
    summary = f"{pluralize(len(done), 'job')} checked, {len(changed):,} changed"
    body = Document({"checked": len(done), "changed": len(changed), "jobs": [_for_scripts(one) for one in done]})
    return Result(
        body if args.json else Text([_line(one) for one in changed]),
        notes=[summary],
        warnings=problems,
        exit_code=_exit_code(done),
    )


def _trust(args: argparse.Namespace, app: App, states: list[JobState]) -> Trust:
    """Return what records may choose. A job whose record chooses more is a problem, and does not stop the others."""
    trust = trust_of(args, app)
    found = contexts_of((state.to_dict() for state in states), app, trust)
    return trust.plus(found) if found and is_agreed(app, found) else trust


def _states(jobs: list[str], app: App) -> list[JobState]:
    if not jobs:
        return app.registry.get_active_jobs()
    found = []
    for job_id in dict.fromkeys(jobs):
        state = app.registry.get_job(job_id)
        if state is None:
            raise JobNotFoundError(f"There is no job {job_id}.", job_id=job_id)
        found.append(state)
    return found


def _line(one: Reconciled) -> str:
    if one.action.verb == "suspect":
        return f"{one.job_id}: {one.after}, suspect: {one.action.reason}"
    if one.action.verb == "clear":
        return f"{one.job_id}: {one.after}, no longer suspect"
    return f"{one.job_id}: {one.before} -> {one.after}"


def _for_scripts(one: Reconciled) -> dict[str, object]:
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


def _exit_code(done: list[Reconciled]) -> int:
    """Return the common exit code of all jobs; partly done if they differ."""
    codes = {one.exit_code for one in done}
    return EXIT_DONE if not codes else codes.pop() if len(codes) == 1 else EXIT_PARTLY_DONE
