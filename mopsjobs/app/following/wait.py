"""Wait until jobs end. This reads the registry, since the cache lags."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from mopsjobs.app.jobs.find_job import FoundJob, find_state, read_family_of
from mopsjobs.app.jobs.job_card import late_end_text
from mopsjobs.app.jobs.job_tasks import mirror_failures
from mopsjobs.app.jobs.next_steps import next_command, next_of_family
from mopsjobs.app.jobs.reconcile import QUIET_SECONDS, EngineWatch, early_end_text, missing_reason, wait_of
from mopsjobs.app.run.app import App
from mopsjobs.cache.job_json import SILENT_SECONDS
from mopsjobs.cache.rows import job_json_from_state
from mopsjobs.engines.local import has_ended_here
from mopsjobs.errors import (
    EXIT_NOT_FINISHED,
    JOB_EXIT_CODES,
    MopsJobsError,
    OptionError,
    StoreUnavailableError,
    command_line,
    exit_code_of,
)
from mopsjobs.registry.job_columns import last_sign_of_life
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.precision_counts import precision_counts, precision_text
from mopsjobs.registry.status import JobStatus
from mopsjobs.registry.usage import has_hanging_task, late_text
from mopsjobs.utils.backoff import Backoff
from mopsjobs.utils.forecast import Forecast
from mopsjobs.utils.text import out_of, strip_control_characters
from mopsjobs.utils.times import human_duration, human_range, parse_time

if TYPE_CHECKING:
    from mopsjobs.console.printer import Printer
    from mopsjobs.console.progress_line import ProgressLine

OnRead = Callable[[Sequence[JobState | None], StoreUnavailableError | None], None]

INTERVAL_SECONDS = 5.0

LOCAL_INTERVAL_SECONDS = 1.0
"""The default interval for an embedded registry, which costs little to read."""

OUTAGE_WARNING_SECONDS = 600.0
"""How often a follower says that the registry still does not answer."""

MAX_OUTAGE_DELAY = 30.0
"""Seconds. The longest pause between two attempts while the registry does not answer."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StopCondition:
    """The conditions that end a wait."""

    timeout: float | None = None
    """Stop after this many seconds; None for no limit."""
    first: bool = False
    """Stop when one job has ended, not only when all have."""
    fail_fast: bool = False
    """Stop when one job has ended and not succeeded."""


@dataclasses.dataclass(frozen=True, slots=True)
class WaitResult:
    """The last known state of each job, the exit code for those that decide it, and lines for the user."""

    states: tuple[JobState, ...]
    exit_code: int
    notes: tuple[str, ...] = ()


def wait_for(
    names: Sequence[str],
    app: App,
    until: StopCondition,
    *,
    interval: float | None = None,
    out: Printer | None = None,
    on_read: OnRead | None = None,
) -> WaitResult:
    """Wait for jobs, and print what changes meanwhile.

    While the registry does not answer, the wait goes on until the time is up.

    Args:
        names: the jobs, as `find_job` takes them.
        app: the run, whose registry has the jobs.
        until: when to stop.
        interval: seconds between two reads; None for the default of the registry.
        out: prints what changes; None for the printer of the run.
        on_read: called after each read with the states so far, and with the outage if the registry did not answer.

    Raises:
        OptionError: if the interval is not above zero.
        JobNotFoundError: if there is no job of a name.
        StoreUnavailableError: if the time was up while the registry did not answer.
    """
    out = out or app.out
    watched = result = None
    if app.settings.rules:
        from mopsjobs.app.following.notify.notifier import Notifier  # here: most users have no rules

        watched = Notifier(app)
    pauses = Pauses(app, until.timeout, interval, out)
    with out.progress("tasks", clock=app.monotonic) as line:
        jobs = WatchedJobs(names, app, out, line)
        while result is None:
            outage = jobs.read()
            if on_read is not None:
                on_read(jobs.states, outage)
            if watched is not None and outage is None:
                watched.look(jobs.states)
            deciding = _deciding_states(jobs.states, until)
            if deciding is not None:
                worst = min((state.status for state in deciding), key=list(JOB_EXIT_CODES).index)
                states = tuple(state for state in jobs.states if state is not None)
                # Not while the registry does not answer: the wait would grow by one more outage.
                notes = () if outage is not None else describe_ended(states, app)
                result = WaitResult(states, exit_code_of(worst), notes)
            elif not pauses.sleep(outage):
                result = WaitResult(tuple(state for state in jobs.states if state is not None), EXIT_NOT_FINISHED)
    # Messages under way are waited for, within a bound.
    out.warn_each([] if watched is None else watched.finish())
    return result


def ended_jobs(
    names: Sequence[str], app: App, *, timeout: float | None = None, interval: float | None = None
) -> Iterator[list[str]]:
    """Yield the names of jobs as the jobs end, each once, until all have ended or the time is up.

    Args:
        names: see `wait_for`.
        app: the run, whose registry has the jobs.
        timeout: stop after this many seconds; None for no limit.
        interval: seconds between two reads; None for the default of the registry.

    Raises:
        OptionError, JobNotFoundError, StoreUnavailableError: see `wait_for`.
    """
    jobs, pauses = WatchedJobs(names, app, app.out), Pauses(app, timeout, interval, app.out)
    going_on = list(dict.fromkeys(names))
    while True:
        outage = jobs.read()
        ended = {
            name for name, state in zip(dict.fromkeys(names), jobs.states, strict=True) if state and state.is_terminal
        }
        yield [name for name in going_on if name in ended]
        going_on = [name for name in going_on if name not in ended]
        if not going_on or not pauses.sleep(outage):
            return


def describe_ended(states: Sequence[JobState], app: App, *, has_said_why: bool = False) -> tuple[str, ...]:
    """Return notes on jobs that have ended: why early, sets that are not precise, jobs that go on, the next command.

    Args:
        states: the jobs, as the registry has them.
        app: the run, whose registry has the jobs.
        has_said_why: whether the user was told why a job ended early.
    """
    notes: list[str] = []
    following = ""
    for state in states:
        if not state.is_terminal:
            continue
        found = FoundJob(job_json_from_state(state, now=app.now().timestamp()))
        mirror_failures(found.job, app)
        if not has_said_why and (why := early_end_text(found.job)) is not None:
            notes.append(f"{state.job_id}: {why}")
        counts = precision_counts(state.metadata)
        if counts is not None and counts["precise"] < counts["sets"]:
            notes.append(f"{state.job_id}: {precision_text(counts)}")
        if state.status != JobStatus.SUCCEEDED:  # else there was nothing to resume
            with contextlib.suppress(MopsJobsError):  # the end is known all the same
                found = read_family_of(state, app)
        last = found.job if found.newest is None else found.newest
        if last["job_id"] != state.job_id:
            notes.append(f"{state.job_id}: the newest job of its family is {last['job_id']}, which is {last['status']}")
        following = next_of_family(found, app, stale=False)
    return (*notes, f"Next: {following}") if following and len(states) == 1 else tuple(notes)


class OutageWarnings:
    """Warnings of a follower about an outage: at its beginning, and again from time to time."""

    def __init__(self, app: App, out: Printer) -> None:
        self._app = app
        self._out = out
        self._began_at = self._told_at = 0.0

    def tell(self, outage: StoreUnavailableError, failures: int) -> None:
        """Warn if it is time, after this many failures in a row."""
        now = self._app.monotonic()
        if failures == 1:
            self._began_at = now
            self._out.warn(f"{outage} Trying again until it answers.")
        elif now - self._told_at >= OUTAGE_WARNING_SECONDS:
            self._out.warn(f"{outage} No answer for {human_duration(now - self._began_at)}, still trying.")
        else:
            return
        self._told_at = now


class Pauses:
    """The pauses between two reads of the registry, until the time is up."""

    def __init__(self, app: App, timeout: float | None, interval: float | None, out: Printer) -> None:
        """Begin the time.

        Args:
            app: the run.
            timeout: it is up after this many seconds; None for no limit.
            interval: seconds between two reads; None for the default of the registry.
            out: prints an outage, and that the time is up.

        Raises:
            OptionError: if the interval is not above zero.
        """
        if interval is not None and interval <= 0:
            raise OptionError(f"invalid interval '{interval:g}': expected more than zero.", "interval")
        if interval is None:
            interval = LOCAL_INTERVAL_SECONDS if app.settings.is_local else INTERVAL_SECONDS
        self._app = app
        self._out = out
        self._warnings = OutageWarnings(app, out)
        self._interval = interval
        self._timeout = timeout
        self._deadline = None if timeout is None else app.monotonic() + timeout
        # Full jitter, so that the waiters of a whole team do not come back all at once.
        self._backoff = Backoff(2 * interval, MAX_OUTAGE_DELAY)

    def sleep(self, outage: StoreUnavailableError | None) -> bool:
        """Sleep until the next read, longer after an outage. Return False if the time is up.

        Raises:
            StoreUnavailableError: if the time is up while the registry does not answer.
        """
        if outage is None:
            self._backoff.reset()
            pause = self._interval
        else:
            pause = self._backoff.next_delay()
            self._warnings.tell(outage, self._backoff.failures)
        if self._deadline is not None:
            left = self._deadline - self._app.monotonic()
            if left <= 0:
                if outage is not None:
                    raise outage
                self._out.note(f"Not finished after {human_duration(self._timeout or 0)}.")
                return False
            pause = min(pause, left)
        self._app.sleep(pause)
        return True


class WatchedJobs:
    """The jobs to wait for, and the last known state of each."""

    def __init__(self, names: Sequence[str], app: App, out: Printer, line: ProgressLine | None = None) -> None:
        self._app = app
        self._out = out
        self._line = line
        self._last: dict[str, JobState | None] = dict.fromkeys(names)
        self._warned: set[tuple[str, str | None]] = set()
        self._engines = EngineWatch(app, out)

    @property
    def states(self) -> list[JobState | None]:
        """Return the last known states, in the order of the names; None for a job that was not read yet."""
        return list(self._last.values())

    def read(self) -> StoreUnavailableError | None:
        """Read each job that is not known to have ended. Return the outage that stopped it; None if there was none.

        Raises:
            JobNotFoundError: if there is no job of a name.
        """
        registry = self._app.registry
        for name, seen in self._last.items():
            if seen is not None and seen.is_terminal:
                continue
            try:
                # Before the record: a runner may write the end, and exit, between the two.
                has_ended = seen is not None and has_ended_here(seen.fields(), self._app.env)
                read = find_state(name, self._app) if seen is None else registry.require_job(seen.job_id)
                state = self._engines.look(read)
            except StoreUnavailableError as outage:
                return outage
            if seen is None or self._is_news(seen, state):
                left = None if state.is_terminal else self._left([state])
                ahead = "" if left is None else f", {human_range(*left)} left"
                self._out.note(f"{strip_control_characters(state.job_id)}: {_describe(state)}{ahead}")
            self._last[name] = state
            self._warn(state, has_ended=has_ended)
        self._show_progress()
        return None

    def _is_news(self, seen: JobState, state: JobState) -> bool:
        """Return whether a change is worth a message. The line about progress has the counts, where there is one."""
        if self._line is not None:
            return (seen.status, wait_of(seen)) != (state.status, wait_of(state))
        return _describe(seen) != _describe(state)

    def _show_progress(self) -> None:
        """Show how many tasks of all jobs have ended."""
        if self._line is None or None in self._last.values():
            return
        states = [state for state in self.states if state is not None]
        total = sum(state.tasks_total or 0 for state in states)
        done = sum(state.tasks_completed + state.tasks_failed for state in states)
        active = [state for state in states if not state.is_terminal]
        note = ""
        if not any(state.status == JobStatus.RUNNING for state in active):
            note = " ".join(sorted({strip_control_characters(state.status) for state in active}))
        self._line.show(done, total, note=note, left=self._left(active))

    def _left(self, states: Sequence[JobState]) -> Forecast | None:
        """Return the range of the time until the last of these jobs ends; None if one of them cannot tell."""
        now = self._app.now()
        jobs = [job_json_from_state(state, now=now.timestamp()) for state in states]
        if not jobs or any(job["eta_latest"] is None for job in jobs):
            return None
        ends = (max(parse_time(str(job[name])) for job in jobs) for name in ("eta_earliest", "eta_latest"))
        return Forecast(*((end - now).total_seconds() for end in ends))

    def _warn(self, state: JobState, *, has_ended: bool) -> None:
        """Warn once for each reason that a job may be stuck or late. The wait goes on: only the record ends a job."""
        if state.is_terminal:
            return
        now = self._app.now()
        if self._engines.knows(state):  # else its cluster may hold it
            self._warn_once(state, missing_reason(state), _stuck_text(state, now.timestamp(), has_ended=has_ended))
        self._warn_once(state, "late", late_end_text(job_json_from_state(state, now=now.timestamp()), now))

    def _warn_once(self, state: JobState, reason: str | None, why: str | None) -> None:
        if why is not None and (state.job_id, reason) not in self._warned:
            self._warned.add((state.job_id, reason))
            self._out.warn(strip_control_characters(f"{state.job_id}: {why}"))


class QuietJob:
    """A growing job whose client waits for tasks, looked at while none ends: nothing else would say that none will."""

    def __init__(self, job_id: str, app: App, *, quiet_seconds: float = QUIET_SECONDS) -> None:
        self._job_id, self._app = job_id, app
        self._engines = EngineWatch(app, app.out, quiet_seconds=quiet_seconds)
        self._last: JobState | None = None
        self._has_warned = False

    def look(self) -> None:
        """Ask the engine of the job, and warn once while the job may be stuck. An outage is left to the client."""
        with contextlib.suppress(StoreUnavailableError):
            # Before the record: a runner may write the end, and exit, between the two.
            has_ended = self._last is not None and has_ended_here(self._last.fields(), self._app.env)
            self._last = state = self._app.registry.get_job(self._job_id)
            if state is None or state.is_terminal:
                return
            state = self._engines.look_and_tell(state)
            if state.is_terminal or not self._engines.knows(state):  # else its cluster may hold it
                return
            why = _stuck_text(state, self._app.now().timestamp(), has_ended=has_ended)
            if why is not None and not self._has_warned:
                self._app.out.warn(strip_control_characters(f"{self._job_id}: {why}"))
            self._has_warned = why is not None


def _deciding_states(states: list[JobState | None], until: StopCondition) -> list[JobState] | None:
    """Return the jobs whose end decides the exit code; None while it is undecided."""
    ended = [state for state in states if state is not None and state.is_terminal]
    bad = [state for state in ended if state.status != JobStatus.SUCCEEDED]
    if until.fail_fast and bad:
        return bad
    if (until.first and ended) or len(ended) == len(states):
        return ended
    return None


def _describe(state: JobState) -> str:
    progress = f", {out_of(state.tasks_completed, state.tasks_total)} tasks" if state.tasks_total else ""
    wait = wait_of(state)
    return strip_control_characters(f"{state.status}{progress}{'' if wait is None else f', waits for {wait}'}")


def _stuck_text(state: JobState, now: float, *, has_ended: bool) -> str | None:
    """Return why an active job may be stuck, and what to type; None if nothing says so.

    Args:
        state: the job, as the registry has it.
        now: seconds since 1970.
        has_ended: whether its runner on this machine is known to have ended.
    """
    last = last_sign_of_life(state)
    silent = 0.0 if last is None else now - last
    if has_ended:
        why = "its runner on this machine has ended"
    elif (missing := missing_reason(state)) is not None:
        why = f"suspect ({missing})"
    elif silent > SILENT_SECONDS:
        why = f"no heartbeat for {human_duration(silent)}"
    elif has_hanging_task(state, now - silent):
        job = job_json_from_state(state, now=now)
        return f"{late_text(job['stragglers'])}. To see its log: {next_command(job, stale=False)}"
    else:
        return None
    return f"{why}. If its runner is gone: {command_line('resume', state.job_id)}"
