"""`reconcile`: bring what the cluster says into the registry."""

from __future__ import annotations

import argparse

from mopsjobs.app.app import App
from mopsjobs.app.reconcile import Reconciled, is_reconcilable, reconcile
from mopsjobs.cli.flags import add_command
from mopsjobs.cli.trust_flags import add_trust, contexts_of, is_agreed, trust_of
from mopsjobs.console.result import Document, Result, Text
from mopsjobs.engines import open_engine
from mopsjobs.errors import EXIT_DONE, EXIT_PARTLY_DONE, JobNotFoundError

TYPE_CHECKING = False

if TYPE_CHECKING:
    from mopsjobs.cli.commands import Commands
    from mopsjobs.engines.trust import Trust
    from mopsjobs.registry.job_state import JobState


ENGINE = "kubernetes"
"""The one engine that can be asked from anywhere."""


def add_parser(name: str, commands: Commands, parents: list[argparse.ArgumentParser]) -> None:
    """Declare `reconcile`."""
    parser = add_command(
        commands,
        name,
        parents,
        help="bring what the cluster says into the registry",
        description="Ask the cluster about the jobs that have not ended, and bring what it says into the registry. A "
        "job that the cluster says has ended is ended; one that is gone or silent is only marked, for list --stuck.",
    )
    parser.add_argument("jobs", metavar="JOB", nargs="*", help="the whole id (default: every job that has not ended)")
    parser.add_argument("--json", action="store_true", help="what was done, as one JSON object")
    add_trust(parser)


def run(args: argparse.Namespace, app: App) -> Result:
    """Reconcile jobs."""
    wanted = [state for state in _states(args.jobs, app) if is_reconcilable(state, (ENGINE,))]
    # Without a job there is nothing to ask, and a cluster need not be configured.
    engines = {ENGINE: open_engine(ENGINE, app.env, _trust(args, app, wanted))} if wanted else {}
    done = reconcile(app.registry, engines, wanted, now=app.now)
    changed = [one for one in done if one.is_changed]
    problems = [f"{one.job_id}: {one.problem}" for one in done if one.problem is not None]
    summary = f"{len(done):,} jobs looked at, {len(changed):,} changed"
    body = Document({"checked": len(done), "changed": len(changed), "jobs": [_for_scripts(one) for one in done]})
    return Result(
        body if args.json else Text([_line(one) for one in changed]),
        notes=[summary],
        warnings=problems,
        exit_code=_exit_code(done),
    )


def _trust(args: argparse.Namespace, app: App, states: list[JobState]) -> Trust:
    """What records may choose. A job whose record chooses more is a problem of its own, and stops no other."""
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
    """Partly done, unless all met the same kind of problem: that is the outcome then."""
    codes = {one.exit_code for one in done}
    return EXIT_DONE if not codes else codes.pop() if len(codes) == 1 else EXIT_PARTLY_DONE
