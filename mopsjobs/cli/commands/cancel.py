"""`cancel`: end jobs before their end. First the record, then the engine.

In this order, because the record is what everybody obeys: a runner that sees it stops by itself within seconds, and
one that the engine starts once more finds the job ended and does nothing. The other way round, a pod that is stopped
while its record says `running` is started again, or looks like one that was lost. What falls between the two, because
this program is killed or the cluster does not answer, is made up for by cancelling again.
"""

from __future__ import annotations

import argparse
import sqlite3
from typing import NamedTuple

from mopsjobs.app.app import App
from mopsjobs.app.cache_access import MAX_LOCK_WAIT
from mopsjobs.app.job_arguments import add_filter_flags, job_filter
from mopsjobs.cache.queries import filters
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.rows import job_json_from_state
from mopsjobs.cli.flags import add_command
from mopsjobs.cli.trust_flags import add_trust, contexts_of, is_agreed, trust_of
from mopsjobs.console.result import JsonLines, Result, Table
from mopsjobs.engines import ENGINES, open_engine
from mopsjobs.engines.base import engine_of
from mopsjobs.engines.trust import NotTrustedError, Trust, refusal
from mopsjobs.errors import (
    EXIT_INTERRUPTED,
    EXIT_PARTLY_DONE,
    EngineError,
    EngineUnavailableError,
    MopsJobsError,
    StoreError,
    StoreUnavailableError,
    UsageError,
)
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.status import ACTIVE, JobStatus
from mopsjobs.utils.text import pluralize

TYPE_CHECKING = False

if TYPE_CHECKING:
    from mopsjobs.cli.commands import Commands


SHOWN_JOBS = 20


ENGINE_SECONDS = 2.0
"""How long the cluster may take, when the registry does not answer."""


FILTERS = ("hours", "since", "until", "status", "name", "match", "label", "namespace", "owner", "stuck")


EXAMPLES = """examples:
  mops-jobs cancel seir-20260301-120000-1a2b --reason 'wrong seed'
  mops-jobs cancel --owner me --status running --name 'night*' --dry-run
"""


class Stopped(NamedTuple):
    """A job whose record says cancelled, and what its engine did: `stopped`, `nothing` to stop, or `failed`."""

    state: JobState
    engine: str | None
    problem: str | None = None


def add_parser(name: str, commands: Commands, parents: list[argparse.ArgumentParser]) -> None:
    """Declare `cancel`."""
    parser = add_command(
        commands,
        name,
        parents,
        help="cancel jobs: their records, and what runs them",
        description="Cancel jobs, by their ids or by the filters of list, which choose among those that have not ended "
        "and here take a window strictly. One that is cancelled already stays so, and is stopped if it still runs; one "
        "that has ended is refused.",
        epilog=EXAMPLES,
    )
    # Whole ids only: what stops a job should not hang on what else happens to be registered.
    parser.add_argument("jobs", metavar="JOB", nargs="*", help="the whole id")
    add_filter_flags(parser)
    parser.add_argument("--reason", metavar="TEXT", help="why; kept in the record")
    parser.add_argument("--yes", action="store_true", help="do not ask whether those that fit the filters are meant")
    add_trust(parser)
    parser.add_argument("--dry-run", action="store_true", help="show which jobs it would be, and do nothing")
    parser.add_argument("--json", action="store_true", help="each job as a JSON object in a line of its own")


def run(args: argparse.Namespace, app: App) -> Result:
    """Cancel jobs."""
    has_filters = any(getattr(args, name) not in (None, False, []) for name in FILTERS)
    if bool(args.jobs) == has_filters:
        raise UsageError("cancel takes either the ids of jobs or filters that choose them: use one of the two.")
    if args.dry_run:
        return _shown(args, _named(args.jobs, app) if args.jobs else _fitting(args, app))
    trust = trust_of(args, app)
    names = list(dict.fromkeys(args.jobs))
    if has_filters:
        jobs = _fitting(args, app)
        if not jobs:
            return Result(notes=["No job that has not ended fits; nothing was cancelled."])
        declined = app.out.confirm(f"Cancel {pluralize(len(jobs), 'job')}?", _lines(jobs), yes=args.yes)
        if declined is not None:
            return declined
        names = [str(job["job_id"]) for job in jobs]
    else:
        jobs = _records(names, app)
    found = contexts_of(jobs, app, trust)
    if found:
        is_meant = is_agreed(app, found)
        if is_meant is None:
            raise refusal(found, "nothing was cancelled")
        if not is_meant:
            return Result(notes=["Nothing was done."], exit_code=EXIT_INTERRUPTED)
    return _cancel(args, app, names, trust.plus(found))


def _records(names: list[str], app: App) -> list[dict[str, object]]:
    """The records of the jobs that can be cancelled or stopped. Of each other one, cancelling it says why not.

    Raises:
        StoreError: if the registry cannot be read.
    """
    found = []
    for name in names:
        try:
            state = app.registry.get_job(name)
        except StoreError as error:
            raise _with_a_way(error, name, app) from None
        except MopsJobsError:
            continue
        if state is not None and (not state.is_terminal or state.status == JobStatus.CANCELLED):
            found.append(state.to_dict())
    return found


def _fitting(args: argparse.Namespace, app: App) -> list[dict[str, object]]:
    """The jobs that the filters choose, by the registry as it is now: what stops jobs must not act on an old picture.

    Raises:
        StoreError: the registry cannot be read.
    """
    now = app.now()
    chosen = job_filter(args, now)
    chosen.keeps_active = False
    if chosen.statuses is None:
        chosen.statuses = ACTIVE
    if app.cache.sync(wait=None if app.settings.is_local else MAX_LOCK_WAIT) is None:
        problem = app.cache.other_sync_error()
        raise StoreUnavailableError(f"{problem} Nothing was cancelled.", hint=problem.hint)

    def view(cache: sqlite3.Connection) -> list[dict[str, object]]:
        order = filters.parse_sort("name")
        found = job_queries.list_jobs(cache, chosen, order=order, limit=0, now=now.timestamp())
        return [job for job in found.jobs() if job["is_active"]]

    return app.cache.read_cached(view) or []


def _named(names: list[str], app: App) -> list[dict[str, object]]:
    now = app.now().timestamp()
    states = [app.registry.get_job(name) for name in dict.fromkeys(names)]
    return [job_json_from_state(state, now=now) for state in states if state is not None and not state.is_terminal]


def _shown(args: argparse.Namespace, jobs: list[dict[str, object]]) -> Result:
    """What `--dry-run` shows."""
    rows = [(job["job_id"], job["status"], job["owner"], _place(job)) for job in jobs]
    table = Table(("JOB", "STATUS", "OWNER", "STOPS"), rows) if rows else None
    return Result(JsonLines(jobs) if args.json else table, notes=[f"{pluralize(len(jobs), 'job')}; nothing was done."])


def _lines(jobs: list[dict[str, object]]) -> list[str]:
    """The jobs, for who is asked whether they are meant."""
    width = max(len(str(job["job_id"])) for job in jobs[:SHOWN_JOBS])
    shown = [
        f"  {job['job_id']:<{width}}  {job['status']:<10}  {job['owner'] or ''}  {_place(job)}".rstrip()
        for job in jobs[:SHOWN_JOBS]
    ]
    if len(jobs) > SHOWN_JOBS:
        shown.append(f"  and {len(jobs) - SHOWN_JOBS} more")
    return shown


def _place(job: dict[str, object]) -> str:
    """What of a cluster is to be deleted with a job, by its record: the context, where it names one, and the Job."""
    if engine_of(job) != "kubernetes":
        return ""
    metadata = job.get("metadata")
    noted = metadata.get("k8s_context") if isinstance(metadata, dict) else None
    where = f"{noted}: " if noted else ""
    return f"{where}Job {job.get('k8s_namespace') or '(default)'}/{job.get('k8s_name') or job['job_id']}"


def _cancel(args: argparse.Namespace, app: App, names: list[str], trust: Trust) -> Result:
    done: list[Stopped] = []
    refused: list[MopsJobsError] = []
    silent: dict[str, str] = {}
    for job_id in names:
        try:
            state = app.registry.cancel_job(job_id, args.reason)
        except StoreError as error:
            if not done:
                raise _with_a_way(error, job_id, app) from None
            refused.append(error)
            break  # it would be the same with the others
        except MopsJobsError as error:
            refused.append(error)
            continue
        done.append(_stop(state, app, silent, trust))
    if refused and not done:
        return _all_refused(refused, app)
    now = app.now().timestamp()
    problems = [one.problem for one in done if one.problem is not None]
    return Result(
        JsonLines([{**job_json_from_state(one.state, now=now), "engine_stop": one.engine} for one in done])
        if args.json
        else None,
        notes=[f"{one.state.job_id}: cancelled{', stopped' if one.engine == 'stopped' else ''}" for one in done],
        warnings=[*(str(error) for error in refused), *problems],
        exit_code=EXIT_PARTLY_DONE if refused or problems else 0,
    )


def _with_a_way(error: StoreError, job_id: str, app: App) -> StoreError:
    """The outage, with what to type to stop the job by hand, if this machine or the cluster knows it."""
    if isinstance(error, StoreUnavailableError):
        from mopsjobs.engines.lookup import find_in_engines

        said, _ = find_in_engines(job_id, app.env, ENGINE_SECONDS)
        if said is not None and said.stop is not None:
            error.hint = f"To stop it by hand: {said.stop}"
    return error


def _stop(state: JobState, app: App, silent: dict[str, str], trust: Trust) -> Stopped:
    """Stop what runs a job that is cancelled. A local one of another machine stops when its runner sees the record.

    Args:
        state: its record.
        app: the run.
        silent: engines with their contexts that did not answer, and what is to be said of it: each is asked once.
        trust: what the user has named of that which records choose.
    """
    job = state.to_dict()
    name = engine_of(job)
    if name not in ENGINES:
        return Stopped(state, None)
    place = f"{name} {state.metadata.get('k8s_context')}"
    problem = silent.get(place)
    if problem is None:
        try:
            is_stopped = open_engine(name, app.env, trust).cancel(job)
            return Stopped(state, "stopped" if is_stopped else "nothing")
        except NotTrustedError as error:
            return Stopped(state, "failed", f"{state.job_id} is cancelled, but was not stopped: {error}")
        except EngineError as error:
            problem = str(error)
            if isinstance(error, EngineUnavailableError):
                silent[place] = problem
    by_hand = ""
    if name == "kubernetes":
        from mopsjobs.engines.kubernetes.engine import kubectl_for

        by_hand = f" By hand: {kubectl_for('delete', job, app.env)}"
    told = f"{state.job_id} is cancelled, but could not be stopped: {problem}{by_hand}"
    return Stopped(state, "failed", told)


def _all_refused(refused: list[MopsJobsError], app: App) -> Result:
    """None was cancelled: the last reason is the outcome, after the others were told."""
    for error in refused[:-1]:
        app.out.error(error)
    raise refused[-1]
