"""Ask the engine of a job whose record is silent, and bring its word into the record, as `reconcile` does.

A pod that cannot start, or that ends before its first report, leaves no word in the record. Commands that follow its
job would wait for ever. A follower asks after `QUIET_SECONDS` without a change of the record, and then at most
once per minute. See docs/decisions/0086-followers-ask-the-engine.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mopsjobs.app.jobs.lost_runners import end_lost_runner, end_lost_runner_if_possible
from mopsjobs.app.jobs.reconcile import Action, ReconcileResult, is_reconcilable, marked_reason, reconcile
from mopsjobs.app.run.app import App
from mopsjobs.app.run.user_trust import user_trust
from mopsjobs.cache.rows import state_from_row
from mopsjobs.engines import CLUSTER_ENGINES, LOCAL_ENGINES, has_drop, open_engine
from mopsjobs.engines.base import Engine, engine_of
from mopsjobs.engines.kubernetes.kubeconfig import is_cluster_configured
from mopsjobs.errors import EXIT_SIGN_IN, EngineUnavailableError, MopsJobsError, StoreUnavailableError, command_line
from mopsjobs.registry.job_state import FIELDS, JobState
from mopsjobs.registry.notes import WAITS_FOR
from mopsjobs.registry.status import INFERRED_CODES
from mopsjobs.studies.validation import EARLY_CODES, INCOMPLETE, REDUCE
from mopsjobs.utils.backoff import NO_JITTER, Backoff
from mopsjobs.utils.text import strip_control_characters
from mopsjobs.utils.times import parse_time

if TYPE_CHECKING:
    from mopsjobs.console.printer import Printer


QUIET_SECONDS = 10.0
"""How long the record of a job stays the same before its engine is asked, and the first pause between two questions."""

MAX_PAUSE = 60.0
"""Seconds. The longest pause between two questions about a job."""

MISSING = ("job_missing", "k8s_job_missing")
"""The reasons of suspect jobs that their engine does not know any more."""


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
        state = end_lost_runner(state.fields(), self._app) or state
        if not is_reconcilable(state, CLUSTER_ENGINES):
            self._silences.pop(state.job_id, None)
            return state
        now = self._app.monotonic()
        silence = self._silences.get(state.job_id)
        if silence is None:
            silence = self._silences[state.job_id] = _Silence(now, self._quiet_seconds)
        silence.observe(state, now)
        if not silence.is_due or now < self._next_question:
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
            if name not in self._engines:
                self._engines[name] = open_engine(name, self._app.env, user_trust((), self._app))
            (done,) = reconcile(self._app.session(), self._engines, [state])
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
            resume = command_line("resume", state.job_id)
            self._warn(
                f"{state.job_id} {reason}", f"{state.job_id}: suspect ({reason}). If its runner is gone: {resume}"
            )

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
        self._since = now
        self._next = now
        self._backoff = Backoff(QUIET_SECONDS, MAX_PAUSE, jitter=NO_JITTER)
        self.is_due = False
        self.questions = 0

    def observe(self, state: JobState, now: float) -> None:
        """Take the record as it is now, and find out whether to ask."""
        seen = (state.revision, state.updated_at, state.heartbeat_at)
        if seen != self._seen:
            self._seen, self._since = seen, now
        if state.status != self._status:
            self._status = state.status
            self._backoff.reset()
        self.is_due = now - self._since >= self._quiet_seconds and now >= self._next

    def count_question(self, now: float) -> None:
        """Count a question, and find out when the next one is due."""
        self.questions += 1
        self.is_due = False
        self._next = now + self._backoff.next_delay()


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
        job: an active job in its JSON form, as the cache or the registry has it.
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
        engine = open_engine(name, app.env, user_trust((), app))
        (done,) = reconcile(app.session(), {name: engine}, [state])
    except (EngineUnavailableError, StoreUnavailableError) as error:
        app.out.warn(f"{error} Showing the record alone.")
        return False
    except (MopsJobsError, ImportError) as error:
        if must_answer:
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
    words = f" ({done.action.words})" if done.action.words else ""
    return (
        f"The {engine} engine reports {done.job_id}: {done.action.verb}{words}. Its record stays: {done.problem} {hint}"
    )


RUNNER_CODES = ("MODEL", "ENGINE")
"""Codes of the errors with which a runner ends its job."""

OWN_CODES = (*EARLY_CODES, INCOMPLETE, REDUCE, *INFERRED_CODES, *RUNNER_CODES)
"""Codes of errors that mops-jobs gives itself. Others are words of a cluster."""


def early_end_text(job: Mapping[str, object]) -> str | None:
    """Return why a job was ended before its tasks; None if it was not."""
    message = str(job["error_message"]).partition(";")[0]
    if is_ended_by_engine(job):
        return f"{job['error_code']}: {message}"
    return message if job["error_code"] in EARLY_CODES else None


def is_ended_by_engine(job: Mapping[str, object]) -> bool:
    """Return whether a job was ended by the word of its cluster. Its record then has that as the code of the error."""
    return job["error_code"] not in (None, *OWN_CODES) and engine_of(job) in CLUSTER_ENGINES
