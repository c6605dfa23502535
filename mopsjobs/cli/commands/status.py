"""`status`: show one job, and what to type next."""

from __future__ import annotations

import argparse
import re
import sqlite3

from mopsjobs.app.app import App
from mopsjobs.app.exit_codes import exit_code_of
from mopsjobs.app.freshness import Freshness, FreshnessPolicy
from mopsjobs.app.next_steps import next_command
from mopsjobs.cache import job_json, rows
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cli.flags import JOB_HELP, add_freshness_flags, freshness_policy
from mopsjobs.console.printer import status_style
from mopsjobs.console.result import Document, Result, Text
from mopsjobs.console.terminal import styled
from mopsjobs.errors import JobNotFoundError, StoreError, StoreUnavailableError
from mopsjobs.registry.job_state import check_job_id
from mopsjobs.utils.times import human_age, human_duration, parse_time, whole_seconds

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Mapping

HELP = "show one job: state, progress, times, error, history"

DESCRIPTION = (
    "Show one job from the local cache, and what to type next. A job that the cache lacks is read from the registry."
)

EXAMPLES = (
    "mops-jobs status @latest",
    "mops-jobs status nightly-1 --refresh --json | jq .transitions",
    "mops-jobs status nightly-1 --exit-status && mops-jobs results nightly-1 --download out",
)

BUDGET_SECONDS = 5.0
"""Time for registry and engine together, if neither answers."""

MIN_SECONDS = 1.0
"""Time for the engine, at least."""

STATUS_OF_PHASE = {"pending": "scheduled", "running": "running", "succeeded": "validating", "failed": "failed"}

BAR_WIDTH = 24

SHOWN_OUTPUTS = 5

_LONG_ID = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{56}\b")

Job = dict[str, object]

Line = str | list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("job", metavar="JOB", help=JOB_HELP)
    parser.add_argument("--json", action="store_true", help="print the job as one JSON object")
    parser.add_argument(
        "--exit-status",
        action="store_true",
        help="exit with the job's state: 0 succeeded, 100 failed, 103 cancelled, 104 partial, 8 not finished",
    )
    add_freshness_flags(parser)


def run(args: argparse.Namespace, app: App) -> Result:
    """Show one job."""
    if not args.job.startswith("@"):
        check_job_id(args.job)
    start = app.monotonic()
    try:
        job, freshness, warnings = _find(args.job, app, freshness_policy(args))
    except StoreUnavailableError as outage:
        if args.offline or args.job.startswith("@"):
            raise
        return _from_engine(args, app, outage, max(MIN_SECONDS, BUDGET_SECONDS - (app.monotonic() - start)))
    exit_code = exit_code_of(job) if args.exit_status else 0
    if args.json:
        return Result(Document(job), warnings=warnings, exit_code=exit_code)
    age = freshness.describe() if freshness is not None else "live, from the registry"
    stale = ", stale" if freshness is not None and freshness.stale else ""
    is_stale = freshness is not None and freshness.stale
    following = next_command(job, stale=is_stale, is_dead=_is_dead(job, app.env))
    notes = [f"Data: {age}{stale}", f"Next: {following}"]
    if job["job_id"] != args.job and not args.job.startswith("@"):
        notes.insert(0, f"{args.job} is short for {job['job_id']}")
    return Result(Text(_lines(job, app)), warnings=warnings, notes=notes, exit_code=exit_code)


def _from_engine(args: argparse.Namespace, app: App, outage: StoreUnavailableError, seconds: float) -> Result:
    """Show what the engine says of a job whose record cannot be read, marked as such.

    Raises:
        StoreUnavailableError: if no engine knows the job.
    """
    from mopsjobs.engines.lookup import find_in_engines

    answer, why_not = find_in_engines(args.job, app.env, seconds)
    if answer is None:
        raise StoreUnavailableError(outage.message, hint=why_not)
    phase, reason, detail = answer.state
    # As in reconcile: the outputs decide how a finished job ended, and they cannot be read now.
    status = STATUS_OF_PHASE.get(phase)
    job: Job = {**dict.fromkeys(job_json.job_fields()), "job_id": args.job, "engine": answer.engine, "status": status}
    job["engine_says"] = {"phase": phase, "reason": reason, "detail": detail, "look": answer.look}
    warnings = [f"{outage} Showing what the {answer.engine} engine says, not the job's record."]
    exit_code = exit_code_of(job) if args.exit_status else 0
    if args.json:
        return Result(Document(job), warnings=warnings, exit_code=exit_code)
    lines: list[Line] = [[styled(f"{'Job':<11}", "bold"), args.job]]
    why = ": ".join(word for word in (reason, detail) if word)
    lines.append([styled(f"{'Engine':<11}", "bold"), f"{answer.engine} says: {phase}{f' ({why})' if why else ''}"])
    return Result(Text(lines), warnings=warnings, notes=[f"Next: {answer.look}"], exit_code=exit_code)


def _find(name: str, app: App, wishes: FreshnessPolicy) -> tuple[Job, Freshness | None, list[str]]:
    """Return the job, the age of the cache if the job is from there, and warnings."""
    warnings: list[str] = []

    def view(connection: sqlite3.Connection, freshness: Freshness) -> tuple[Job, Freshness]:
        job = job_queries.find_job(connection, name, now=app.now().timestamp())
        for key, reason in job_queries.unreadable_records(connection, str(job["job_id"])):
            warnings.append(f"{key} cannot be read any more ({reason}); this is its last good state.")
        return job, freshness

    failure: StoreError | None = None
    is_remote = not app.settings.is_local and not name.startswith("@")
    if wishes.refresh and is_remote:
        # One job needs one request, not a sync. After an outage, no second request follows.
        try:
            job = _from_registry(name, app)
        except StoreError as error:
            failure = error
            warnings.append(f"{error} Showing the cache.")
            wishes = FreshnessPolicy(offline=True)
        else:
            if job is not None:
                return job, None, warnings
    try:
        job, freshness = app.cache.read(view, wishes)
    except (JobNotFoundError, StoreError) as error:
        if failure is not None:
            raise failure from None
        if isinstance(error, StoreError):
            raise
        # A local registry is synced before each view, but the job may have been pruned from the cache.
        if wishes.offline or name.startswith("@"):
            raise
        job = _from_registry(name, app)
        if job is None:
            from mopsjobs.app.find_job import add_offline_hint

            add_offline_hint(error, name, app)
            raise
        return job, None, warnings
    if freshness.problem is not None:
        warnings.append(f"{freshness.problem} Showing the cache, {freshness.describe()}.")
    return job, freshness, warnings


def _from_registry(name: str, app: App) -> Job | None:
    state = app.registry.get_job(name)
    return None if state is None else rows.job_json_from_state(state, now=app.now().timestamp())


def _lines(job: Job, app: App) -> list[Line]:
    now = app.now()
    lines: list[Line] = []

    def add(title: str, *pieces: object) -> None:
        texts = [piece if isinstance(piece, str) else str(piece) for piece in pieces if piece is not None]
        if texts:
            lines.append([styled(f"{title:<11}", "bold"), *texts])

    add("Job", job["job_id"])
    since = job["status_since"]
    add(
        "Status",
        status_style(job["status"], job["suspect"]),
        None if since is None else f", since {_ago(since, app)}",
    )
    add("Progress", _progress(job))
    add("Created", _ago(job["created_at"], app))
    add("Updated", _ago(job["updated_at"], app))
    add("Queued", _duration(job["queued_seconds"]))
    add("Running" if job["is_active"] else "Ran", _duration(job["run_seconds"]))
    if job["heartbeat_at"] is not None and job["is_active"]:
        add("Heartbeat", human_age((now - parse_time(str(job["heartbeat_at"]))).total_seconds()))
    add("Owner", job["owner"])
    labels: dict[str, str] = job["labels"]  # type: ignore[assignment]
    add("Labels", ", ".join(f"{label}={value}" for label, value in sorted(labels.items())) or None)
    add("Engine", job["engine"])
    add("Kubernetes", _kubernetes(job))
    add("Parent", job["parent_job_id"])
    add("Results", job["results_path"])
    add("Outputs", _outputs(job))
    if job["error_code"] is not None or job["error_message"] is not None:
        words = ": ".join(str(job[name]) for name in ("error_code", "error_message") if job[name] is not None)
        add("Error", styled(words, "red"))
    add("Validation", job["last_validation_error"])
    lines += _timeline(job)
    return lines


def _progress(job: Job) -> str | None:
    total, done, failed = job["tasks_total"], job["tasks_completed"], job["tasks_failed"]
    failures = f", {failed} failed" if failed else ""
    if not total:
        return f"{done} tasks done{failures}" if done or failed else None
    share: float = job["progress"]  # type: ignore[assignment]
    full = int(share * BAR_WIDTH)
    return f"[{'#' * full}{'-' * (BAR_WIDTH - full)}] {done}/{total} tasks, {int(share * 100)} %{failures}"


def _kubernetes(job: Job) -> str | None:
    if job["k8s_name"] is None and job["k8s_namespace"] is None:
        return None
    name = f"{job['k8s_namespace'] or 'default'}/{job['k8s_name'] or '?'}"
    return name if job["k8s_uid"] is None else f"{name}, uid {job['k8s_uid']}"


def _outputs(job: Job) -> str | None:
    verified: list[object] = job["verified_outputs"]  # type: ignore[assignment]
    missing: list[object] = job["missing_outputs"]  # type: ignore[assignment]
    if not (verified or missing or job["tasks_verified"]):
        return None
    counted = f"{len(verified) or job['tasks_verified']} verified, {len(missing)} missing"
    if not missing:
        return counted
    more = ", …" if len(missing) > SHOWN_OUTPUTS else ""
    # The id of a parameter set fills a line, and its beginning is unique within a job.
    names = (_LONG_ID.sub(r"\1…", str(name)) for name in missing[:SHOWN_OUTPUTS])
    return f"{counted}: {', '.join(names)}{more}"


def _timeline(job: Job) -> list[Line]:
    steps: list[dict[str, object]] = job["transitions"]  # type: ignore[assignment]
    lines: list[Line] = [[styled("Timeline", "bold")]] if steps else []
    before = None
    for step, following in zip(steps, [*steps[1:], {}], strict=False):
        at = parse_time(str(step["at"]))
        remark = "" if before is None else f"  (+{human_duration((at - before).total_seconds())})"
        # Steps of one write share its id. Only the last was reported; the registry filled in the others.
        if step.get("id") is not None and step.get("id") == following.get("id"):
            remark = "  (not reported)"
        lines.append([f"  {at:%Y-%m-%d %H:%M:%SZ}  ", status_style(step["status"]), remark])
        before = at
    return lines


def _ago(text: object, app: App) -> str:
    """Format a time: on a terminal with how long ago it was, in a pipe alone."""
    moment = parse_time(str(text))
    if not app.out.is_terminal:
        return whole_seconds(str(text))
    return f"{human_age((app.now() - moment).total_seconds())} ({moment:%Y-%m-%d %H:%M:%SZ})"


def _duration(seconds: object) -> str | None:
    return None if seconds is None else human_duration(seconds)  # type: ignore[arg-type]


def _is_dead(job: Job, env: Mapping[str, str]) -> bool:
    if job["engine"] not in ("local", "dask"):
        return False
    from mopsjobs.engines.local import has_ended_here

    return has_ended_here(job, env)
