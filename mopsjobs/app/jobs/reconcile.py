"""Ask the engines of jobs, once or again and again, and bring the states that they report into the registry.

If the engine says that a job has ended, its record ends, through the statuses in between: by its outputs, where it has
a manifest. A job that is gone, evicted or silent is only marked as suspect
(docs/decisions/0025-cancelling-and-suspects.md). The mark is `metadata.suspect`, `{reason, since}`, since every program
that writes these records keeps metadata. `list --stuck` reads it there. Why a job has not begun is in
`metadata.waits_for`, in the words of its engine. A write merges metadata, so null removes either.

A pod that cannot start, or that ends before its first report, leaves no word in the record. Commands that follow its
job would wait for ever. `EngineWatch` asks after `QUIET_SECONDS` without a change of the record, and then at most
once per minute. See docs/decisions/0086-followers-ask-the-engine.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Literal, NamedTuple

from mopsjobs.app.jobs.lost_runners import end_lost_runner, end_lost_runner_if_possible
from mopsjobs.app.run.app import App
from mopsjobs.app.run.user_trust import trust_after_question, user_trust
from mopsjobs.cache.job_json import SILENT_SECONDS
from mopsjobs.engines import CLUSTER_ENGINES, LOCAL_ENGINES, has_drop, open_engine
from mopsjobs.engines.base import Engine, EngineState, EngineTimes, engine_of
from mopsjobs.engines.kubernetes.kubeconfig import is_cluster_configured
from mopsjobs.engines.trust import NotTrustedError
from mopsjobs.errors import (
    EXIT_DONE,
    EXIT_SIGN_IN,
    EngineUnavailableError,
    InvalidTransitionError,
    JobNotFoundError,
    MopsJobsError,
    StoreUnavailableError,
    command_line,
)
from mopsjobs.registry.job_columns import state_from_row
from mopsjobs.registry.job_state import FIELDS, JobState
from mopsjobs.registry.notes import CLIENT_TEXT, GROWS, LOST_SHARDS, SUSPECT, WAITS_FOR, lost_shards
from mopsjobs.registry.status import INFERRED_CODES, LAUNCH_FAILED, RUNNER_LOST, TRANSITIONS, JobStatus
from mopsjobs.studies.manifest import manifest_key
from mopsjobs.studies.validation import EARLY_CODES, INCOMPLETE, REDUCE
from mopsjobs.submission.infer_end import RunnerEnd, infer_end
from mopsjobs.submission.offline import deliver_shards
from mopsjobs.submission.session import Session
from mopsjobs.submission.shard_drop import find_drop, may_lack_files
from mopsjobs.utils.backoff import NO_JITTER, Backoff
from mopsjobs.utils.text import cut_in_the_middle, strip_control_characters
from mopsjobs.utils.times import parse_time, record_time

if TYPE_CHECKING:
    from mopsjobs.console.printer import Printer

Verb = Literal["nothing", "start", "validate", "succeed", "fail", "suspect", "clear", "explain"]

MAX_WAIT_TEXT = 300
"""Characters of the engine's words for why a job has not begun. A list of nodes may be long."""

LAUNCH_SECONDS = 120.0
"""How long a launch may take at most: a program signs in twice, and the cluster answers a create or drops it."""

MOVES = ("start", "validate", "succeed", "fail")
"""The verbs that change the status of a record."""

QUIET_SECONDS = 10.0
"""How long the record of a job stays the same before its engine is asked, and the first pause between two questions."""

MAX_PAUSE = 60.0
"""Seconds. The longest pause between two questions about a job."""

MISSING = ("job_missing", "k8s_job_missing")
"""The reasons of suspect jobs that their engine does not know any more."""

RUNNER_CODES = ("MODEL", "ENGINE")
"""Codes of the errors with which a runner ends its job."""

OWN_CODES = (*EARLY_CODES, INCOMPLETE, REDUCE, *INFERRED_CODES, *RUNNER_CODES)
"""Codes of errors that mops-jobs gives itself. Others are words of a cluster."""


class Action(NamedTuple):
    """The action for a record, with a reason of one word and a sentence of the engine."""

    verb: Verb
    reason: str | None = None
    detail: str | None = None

    @property
    def words(self) -> str | None:
        """Return reason and sentence together; None without either."""
        return ": ".join(filter(None, (self.reason, self.detail))) or None


class ReconcileResult(NamedTuple):
    """The result for one job."""

    job_id: str
    action: Action
    before: str
    after: str
    problem: str | None = None
    """Why its engine could not be asked, or its record not be changed."""
    exit_code: int = EXIT_DONE
    """The exit code of the problem."""
    state: JobState | None = None
    """The record after the action; None if it is not known."""

    @property
    def is_changed(self) -> bool:
        """Return True if the record was changed."""
        return self.action.verb != "nothing" and self.problem is None


def decide(state: JobState, engine: EngineState, now: datetime, *, has_manifest: bool = True) -> Action:
    """Decide what to do with a record.

    Args:
        state: the record.
        engine: the state that the engine reports.
        now: the time.
        has_manifest: whether the job has a manifest, so that its outputs decide how it ended.
    """
    if state.is_terminal or state.status not in TRANSITIONS:
        return Action("nothing")  # also for a status that only a newer version knows
    return _decide_end(state, engine, has_manifest=has_manifest) or _decide_mark(state, engine, now)


def _decide_end(state: JobState, engine: EngineState, *, has_manifest: bool) -> Action | None:
    """Return what ends the job; None if nothing does."""
    if engine.phase == "succeeded":
        return Action("validate" if has_manifest else "succeed")
    if state.status == JobStatus.VALIDATING and engine.phase in ("failed", "gone") and has_manifest:
        # Every task has run, and the outputs show the results, even if the runner has died since.
        return Action("validate", engine.reason, engine.detail)
    if engine.phase == "failed":
        # Other shards may have left all their outputs.
        return Action("validate" if has_manifest else "fail", engine.reason or "Failed", engine.detail)
    return None


def _decide_mark(state: JobState, engine: EngineState, now: datetime) -> Action:
    """Return how to mark, unmark or start a job that has not ended."""
    reason, marked = _suspect_reason(state, engine, now), marked_reason(state)
    was_replaced = reason is None and _sign_of_life(state, engine) is not None
    if reason is not None and reason != marked:
        return Action("suspect", reason, engine.detail)
    if engine.phase == "running" and state.status not in (JobStatus.RUNNING, JobStatus.VALIDATING):
        return Action("start")
    if engine.phase in ("pending", "running"):
        if was_replaced or (marked is not None and reason is None):
            return Action("clear", engine.reason, engine.detail)
        if _lost_shards(state, engine) is not None:
            return Action("explain", engine.reason, engine.detail)
        # That a job waits for its client is the word of its runners, not of its engine.
        if _wait_text(engine) != state.metadata.get(WAITS_FOR) != CLIENT_TEXT:
            return Action("explain", engine.reason, engine.detail)
    return Action("nothing", reason)


def _sign_of_life(state: JobState, engine: EngineState) -> str | None:
    """Return the start of a runner that replaces a silent one, as a time of the record; None if there is none."""
    started, heartbeat = engine.started_at, state.heartbeat_at
    is_newer = started is not None and heartbeat is not None and started > parse_time(heartbeat)
    return record_time(started) if started is not None and is_newer else None


def _is_being_launched(state: JobState) -> bool:
    """Return whether a launch of mops-jobs in a cluster has not written its result. `_launch_end` decides about it."""
    is_own = engine_of(state.to_dict()) == "kubernetes" and "bundle" in state.metadata
    return is_own and state.status == JobStatus.SUBMITTING


def _launch_end(state: JobState, engine: EngineState, now: datetime) -> EngineState | None:
    """Return that a launch failed which got no answer, if the cluster now says that it has not made the Job.

    No request of the launch is under way any more, and its record would say `submitting` for ever.
    """
    if engine.phase != "gone" or not _is_being_launched(state):
        return None
    if (now - max(parse_time(state.updated_at), _last_report(state))).total_seconds() <= LAUNCH_SECONDS:
        return None
    return EngineState("failed", LAUNCH_FAILED, f"the cluster did not answer the launch, and {engine.detail}")


def _wait_text(engine: EngineState) -> str | None:
    """Return why a job has not begun, in the words of its engine; None if it has, or if the engine does not say."""
    if engine.phase != "pending" or engine.reason is None:
        return None
    words = str(Action("explain", engine.reason, engine.detail).words)
    return cut_in_the_middle(strip_control_characters(" ".join(words.split())), MAX_WAIT_TEXT)


def _suspect_reason(state: JobState, engine: EngineState, now: datetime) -> str | None:
    """Return why a job that has not ended may be stuck; None if it seems well, or the engine does not know."""
    last = _last_report(state) if engine.started_at is None else max(_last_report(state), engine.started_at)
    if engine.phase == "unknown" or (now - last).total_seconds() <= SILENT_SECONDS:
        return None
    if engine.phase == "gone":
        missing = "k8s_job_missing" if engine_of(state.to_dict()) == "kubernetes" else "job_missing"
        return None if _is_being_launched(state) else missing
    if engine.phase == "running":
        # A job sends no heartbeat before it is running, and some programs send none at all.
        return "no_update" if state.status == JobStatus.RUNNING and state.heartbeat_at is not None else None
    has_run = state.status in (JobStatus.RUNNING, JobStatus.VALIDATING)
    if (engine.reason == "Evicted" and engine.is_stuck) or (engine.reason is None and has_run):
        return "pod_gone"  # and no other pod has replaced it
    return engine.reason if engine.is_stuck else None


def _last_report(state: JobState) -> datetime:
    """Return when the job last reported. `updated_at` does not count, since marking a job changes it."""
    times = [state.created_at, *(str(step["at"]) for step in state.transitions)]
    if not state.transitions and marked_reason(state) is None:
        times.append(state.updated_at)  # another program's record, which has no history
    if state.heartbeat_at is not None:
        times.append(state.heartbeat_at)
    return max(parse_time(time) for time in times)


def marked_reason(state: JobState) -> str | None:
    """Return the reason in the record's mark as suspect; None without a mark."""
    mark = state.metadata.get(SUSPECT)
    return str(mark.get("reason")) if isinstance(mark, Mapping) else None


def is_reconcilable(state: JobState, engines: Collection[str]) -> bool:
    """Return whether a job has not ended and runs on one of these engines."""
    return not state.is_terminal and (engine_of(state.to_dict()) or "") in engines


def reconcile(session: Session, engines: Mapping[str, Engine], states: Iterable[JobState]) -> list[ReconcileResult]:
    """Ask the engines about jobs, deliver outputs that shards kept, and change the records accordingly.

    Jobs on other engines are left out, and jobs that have ended, unless their shards report by files. An error with one
    job does not stop the others, unless it would stop all.

    Raises:
        EngineUnavailableError: if an engine cannot be reached.
        StoreUnavailableError: if the registry cannot be reached.
    """
    return [
        _reconcile_one(session, engines[str(engine_of(state.to_dict()))], state)
        for state in states
        if is_reconcilable(state, engines) or (has_drop(state.fields()) and "slurm" in engines)
    ]


def _reconcile_one(session: Session, engine: Engine, state: JobState) -> ReconcileResult:
    registry, now, action = session.registry, session.now, Action("nothing")
    try:
        job = state.to_dict()
        found = engine.state(job)
        found = _launch_end(state, found, now()) or found
        current = deliver_shards(state, session, found)
        needs_manifest = found.phase in ("succeeded", "failed") or current.status == JobStatus.VALIDATING
        has_manifest = needs_manifest and registry.store.get(manifest_key(state.job_id, registry.prefix)) is not None
        action = decide(current, found, now(), has_manifest=has_manifest)
        times = engine.times(job) if action.verb in MOVES else EngineTimes()
        if action.verb == "validate" and may_lack_files(current, session, times.ended_at):
            action = Action("nothing")
        after = _apply(session, current, action, found, times)
        if after.is_terminal and not state.is_terminal:
            deliver_shards(after, session, found)  # once more: nothing stays in a drop
    except (EngineUnavailableError, StoreUnavailableError):
        raise
    except (InvalidTransitionError, JobNotFoundError):
        # Another program was faster, and cancelled, ended or deleted it. Its change is the newer one.
        newer = registry.get_job(state.job_id)
        status = newer.status if newer else "deleted"
        return ReconcileResult(state.job_id, Action("nothing"), state.status, status, state=newer)
    except MopsJobsError as error:
        problem = f"{error} {error.hint}" if isinstance(error, NotTrustedError) else str(error)  # the flag to add
        return ReconcileResult(state.job_id, action, state.status, state.status, problem, error.exit_code)
    return ReconcileResult(state.job_id, action, state.status, after.status, state=after)


def reconcile_jobs(job_ids: Iterable[str], app: App, trusted: Iterable[str] = ()) -> list[ReconcileResult]:
    """Ask the clusters about jobs, and change their records accordingly.

    Jobs of local engines are left out, except those whose runner is known to have ended on this machine.

    Args:
        job_ids: full ids; without one, every job that has not ended.
        app: the run, which asks the user about contexts that only records name.
        trusted: choices that the user names, as `KIND:VALUE`; see `engines.trust`.

    Raises:
        UsageError: if a choice is not valid.
        JobNotFoundError: if the job does not exist.
        EngineUnavailableError: if the cluster cannot be reached.
        StoreUnavailableError: if the registry cannot be reached.
    """
    job_ids = list(dict.fromkeys(job_ids))
    found = [app.registry.require_job(job_id) for job_id in job_ids] or app.registry.get_active_jobs()
    ended = [done for state in found if (done := _end_lost_runner(state, app)) is not None]
    session = app.session()
    states = [
        state
        for state in found
        if is_reconcilable(state, CLUSTER_ENGINES) or (state.is_terminal and find_drop(state, session) is not None)
    ]
    if not states:  # no cluster has to be configured
        return ended
    # A job whose record chooses more is a problem, and does not stop the others.
    trust = trust_after_question((state.to_dict() for state in states), app, user_trust(trusted, app))
    names = {str(engine_of(state.to_dict())) for state in states}
    engines = {name: open_engine(name, app.env, trust) for name in names}
    return ended + reconcile(session, engines, states)


def _end_lost_runner(state: JobState, app: App) -> ReconcileResult | None:
    """End a job whose runner ended on this machine without a word; return None for any other job."""
    try:
        after = end_lost_runner(state.fields(), app)
    except StoreUnavailableError:
        raise
    except MopsJobsError as error:
        action = Action("validate", RUNNER_LOST)
        return ReconcileResult(state.job_id, action, state.status, state.status, str(error), error.exit_code)
    if after is None:
        return None
    action = Action("validate", after.error_code or RUNNER_LOST, after.error_message)
    return ReconcileResult(state.job_id, action, state.status, after.status)


def _apply(session: Session, state: JobState, action: Action, engine: EngineState, times: EngineTimes) -> JobState:
    """Apply an action to a record, with the state and the times of the engine. Return the record after it."""
    registry, marks = session.registry, _marks(state, action, engine, session.now)
    if action.verb == "nothing":
        return state
    if action.verb == "start":
        return registry.update_status(state.job_id, JobStatus.RUNNING, metadata=marks)
    if action.verb in MOVES:
        return infer_end(state, _runner_end(state, action, engine, times), session).state
    sign = _sign_of_life(state, engine) if action.verb == "clear" else None
    return registry.update_fields(state.job_id, metadata=marks, **({} if sign is None else {"heartbeat_at": sign}))


def _marks(state: JobState, action: Action, engine: EngineState, now: Callable[[], datetime]) -> dict[str, object]:
    """Return what an action changes of the marks of a record: why it is suspect, and what it waits for."""
    changes: dict[str, object] = {LOST_SHARDS: _lost_shards(state, engine), WAITS_FOR: _wait_text(engine)}
    if state.metadata.get(WAITS_FOR) == CLIENT_TEXT:
        del changes[WAITS_FOR]
    if action.verb == "suspect":
        changes[SUSPECT] = {"reason": str(action.reason), "since": record_time(now())}
    elif action.verb != "explain":
        changes[SUSPECT] = None
    was_set = {name for name in (SUSPECT, WAITS_FOR) if state.metadata.get(name) is not None}
    return {name: value for name, value in changes.items() if value is not None or name in was_set}


def _lost_shards(state: JobState, engine: EngineState) -> dict[str, object] | None:
    """Return which shards of a growing job have ended, and how, if the record does not tell it of each; else None.

    Its other shards then run their tasks. Those of any other job are left to a resume.
    """
    if GROWS not in state.metadata or not engine.lost:
        return None
    known = state.metadata.get(LOST_SHARDS)
    before = dict(known) if isinstance(known, Mapping) else {}
    lost = {str(end.shard): end.describe() for end in engine.lost} | before
    return lost if len(lost) > len(before) else None


def _runner_end(state: JobState, action: Action, engine: EngineState, times: EngineTimes) -> RunnerEnd:
    """Return the word of an engine about the end of a job. It is the error if outputs are missing."""
    if engine.phase != "failed" or state.status == JobStatus.VALIDATING:
        return RunnerEnd(None, action.words, times, is_stated=True)
    detail = action.detail or f"The {engine_of(state.to_dict())} engine says that it failed ({action.reason})."
    return RunnerEnd(action.reason, detail, times, is_stated=True)


class EngineWatch:
    """Asks the engines about the jobs that a command follows, at a bounded rate."""

    def __init__(self, app: App, out: Printer, *, quiet_seconds: float = QUIET_SECONDS) -> None:
        """Begin; nothing is asked yet.

        Args:
            app: the run, whose registry has the jobs.
            out: prints what went wrong, once.
            quiet_seconds: how long a record has to stay the same before the first question.
        """
        self._app = app
        self._out = out
        self._quiet_seconds = quiet_seconds
        self._silences: dict[str, _Silence] = {}
        self._engines: dict[str, Engine] = {}
        self._next_question = 0.0
        self._warned: set[str] = set()
        self._last_wait: str | None = None

    def look(self, state: JobState) -> JobState:
        """End a job whose runner has ended on this machine; ask the engine of another, if that is due.

        Args:
            state: the record of the job, as the registry has it now.

        Returns:
            The record after that.

        Raises:
            StoreUnavailableError: if the registry does not take what was found.
        """
        state = self._ask_if_due(end_lost_runner(state.fields(), self._app) or state)
        for text in [] if state.is_terminal else lost_shards(state.metadata).values():
            self._warn(f"{state.job_id} {text}", f"{state.job_id}: {text}. Other shards run its tasks.")
        return state

    def _ask_if_due(self, state: JobState) -> JobState:
        if not is_reconcilable(state, CLUSTER_ENGINES):
            self._silences.pop(state.job_id, None)
            return state
        now = self._app.monotonic()
        silence = self._silences.setdefault(state.job_id, _Silence(now, self._quiet_seconds))
        if not silence.is_due(state, now) or now < self._next_question:
            return state
        silence.count_question(now)
        return self._ask(state)

    def knows(self, state: JobState) -> bool:
        """Return whether an active job has been asked about, if its engine can be asked at all."""
        silence = self._silences.get(state.job_id)
        return silence.questions > 0 if silence is not None else not is_reconcilable(state, CLUSTER_ENGINES)

    def look_and_tell(self, state: JobState) -> JobState:
        """Do as `look`, and print a note when there is news of what the job waits for."""
        state = self.look(state)
        wait = wait_of(state)
        if wait is not None and wait != self._last_wait:
            self._out.note(strip_control_characters(f"{state.job_id}: {state.status}, waits for {wait}"))
        self._last_wait = wait
        return state

    def _ask(self, state: JobState) -> JobState:
        """Ask, and return the record. What goes wrong is printed once for each reason, and the command goes on."""
        name = str(engine_of(state.to_dict()))
        try:
            done = _ask_engine(name, state, self._app, self._engines)
        except StoreUnavailableError:
            raise
        except (MopsJobsError, ImportError) as error:
            if isinstance(error, EngineUnavailableError):
                self._next_question = self._app.monotonic() + MAX_PAUSE  # each further job would wait for it in vain
            self._warn(name, f"The {name} engine cannot be asked about {state.job_id}: {error}")
            return state
        if done.problem is not None:
            self._warn(state.job_id, _describe_problem(done, name))
        return done.state or state

    def warn_if_missing(self, state: JobState) -> None:
        """Warn once if a job is suspect because its engine does not know it. Only the record ends a job."""
        reason = missing_reason(state)
        if reason is not None:
            words = f"suspect ({reason}). If its runner is gone: {command_line('resume', state.job_id)}"
            self._warn(f"{state.job_id} {reason}", f"{state.job_id}: {words}")

    def _warn(self, about: str, problem: str) -> None:
        if about not in self._warned:
            self._warned.add(about)
            self._out.warn(strip_control_characters(problem))


class _Silence:
    """Silence of the record of one job: how long it has stayed the same, and when its engine is asked next."""

    def __init__(self, now: float, quiet_seconds: float) -> None:
        self._quiet_seconds = quiet_seconds
        self._seen: object = None
        self._status: str | None = None
        self._since = self._next = now
        self._backoff = Backoff(QUIET_SECONDS, MAX_PAUSE, jitter=NO_JITTER)
        self.questions = 0

    def is_due(self, state: JobState, now: float) -> bool:
        """Take the record as it is now, and return whether to ask."""
        seen = (state.revision, state.updated_at, state.heartbeat_at)
        if seen != self._seen:
            self._seen, self._since = seen, now
        if state.status != self._status:
            self._status = state.status
            self._backoff.reset()
        return now - self._since >= self._quiet_seconds and now >= self._next

    def count_question(self, now: float) -> None:
        """Count a question, and find out when the next one is due."""
        self.questions += 1
        self._next = now + self._backoff.next_delay()


def _ask_engine(name: str, state: JobState, app: App, engines: dict[str, Engine]) -> ReconcileResult:
    """Bring the word of a job's engine into its record. The engine is opened once."""
    if name not in engines:
        engines[name] = open_engine(name, app.env, user_trust((), app))
    return _reconcile_one(app.session(), engines[name], state)


def wait_of(state: JobState) -> str | None:
    """Return what an active job waits for, by its record; None if nothing is known."""
    wait = state.metadata.get(WAITS_FOR)
    return wait if isinstance(wait, str) and not state.is_terminal else None


def missing_reason(state: JobState) -> str | None:
    """Return why an active job is suspect, if its engine does not know it; else None."""
    reason = None if state.is_terminal else marked_reason(state)
    return reason if reason in MISSING else None


def ask_who_runs(job: Mapping[str, object], app: App, *, must_answer: bool) -> bool:
    """End a job whose runner has ended on this machine; ask the engine of another one, if its record is silent.

    Args:
        job: an active job, or a cancelled local one, in its JSON form, as the cache or the registry has it.
        app: the run, whose registry has the job.
        must_answer: whether to warn also if this machine does not reach the engine at all. It does for a job whose
            shards report by files: its record may be old.

    Returns:
        Whether the record may be newer.
    """
    if job["engine"] in LOCAL_ENGINES:
        return end_lost_runner_if_possible(job, app) is not None
    name = engine_of(job)
    if name not in CLUSTER_ENGINES:
        return False
    reports = (job[name] for name in ("created_at", "status_since", "heartbeat_at"))
    last = max(parse_time(str(at)) for at in reports if at is not None)
    if (app.now() - last).total_seconds() < QUIET_SECONDS:
        return False
    must_answer = must_answer or has_drop(job)
    try:
        state = state_from_row(json.dumps({field: job[field] for field in FIELDS}))
        done = _ask_engine(name, state, app, {})
    except (MopsJobsError, ImportError) as error:
        if must_answer or isinstance(error, (EngineUnavailableError, StoreUnavailableError)):
            app.out.warn(f"{error} Showing the record alone.")
        return False
    # Many machines are not set up for the cluster of a job, so that is not told. A refusal is.
    is_refused = done.exit_code == EXIT_SIGN_IN and (name != "kubernetes" or is_cluster_configured(app.env))
    if done.problem is not None and (must_answer or is_refused or done.action.verb != "nothing"):
        app.out.warn(_describe_problem(done, name))
    return done.state is None or done.state.revision != state.revision


def _describe_problem(done: ReconcileResult, engine: str) -> str:
    """Return why the engine's word is not in the record, with the word if there is one."""
    hint = f"See: {command_line('reconcile', done.job_id)}"
    if done.action == Action("nothing"):
        return f"The {engine} engine cannot be asked about {done.job_id}: {done.problem} {hint}"
    word = done.action.verb + (f" ({done.action.words})" if done.action.words else "")
    return f"The {engine} engine reports {done.job_id}: {word}. Its record stays: {done.problem} {hint}"


def early_end_text(job: Mapping[str, object]) -> str | None:
    """Return why a job was ended before its tasks; None if it was not."""
    message = str(job["error_message"]).partition(";")[0]
    if is_ended_by_engine(job):
        return f"{job['error_code']}: {message}"
    return message if job["error_code"] in EARLY_CODES else None


def is_ended_by_engine(job: Mapping[str, object]) -> bool:
    """Return whether a job was ended by the word of its cluster. Its record then has that as the code of the error."""
    return job["error_code"] not in (None, *OWN_CODES) and engine_of(job) in CLUSTER_ENGINES
