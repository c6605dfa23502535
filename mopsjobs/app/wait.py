"""Waiting until jobs end, whatever way.

Reads the registry itself, since a cache tells the past. An end is final, though: while the registry does not answer,
the cache may tell of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mopsjobs.app.app import App
from mopsjobs.app.exit_codes import exit_code_of, worst
from mopsjobs.app.find_job import find_state
from mopsjobs.cache import job_json
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.console.command_line import command_line
from mopsjobs.engines.local import has_ended_here
from mopsjobs.errors import EXIT_NOT_FINISHED, JobNotFoundError, MopsJobsError, StoreUnavailableError
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.status import JobStatus
from mopsjobs.utils.backoff import Backoff
from mopsjobs.utils.text import strip_control_characters
from mopsjobs.utils.times import human_duration, parse_time

INTERVAL_SECONDS = 5.0


LOCAL_INTERVAL_SECONDS = 1.0
"""Between two looks, where nobody says otherwise: a registry on this machine costs nothing to look at."""


MAX_OUTAGE_DELAY = 30.0
"""Seconds. The longest pause between two attempts at a registry that does not answer."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Until:
    """When to stop waiting."""

    timeout: float | None = None
    """Seconds; None: never for that reason."""
    first: bool = False
    """When one job has ended; else when all have."""
    fail_fast: bool = False
    """As soon as one has ended and not succeeded."""


@dataclasses.dataclass(frozen=True, slots=True)
class WaitResult:
    """What was last seen of each job, and the exit code that tells how those that decide it have ended."""

    states: tuple[JobState, ...]
    exit_code: int


def wait_for(names: Sequence[str], app: App, until: Until, *, interval: float | None = None) -> WaitResult:
    """Wait for jobs, and say on the way what changes.

    A registry that does not answer is asked again until it does, or the time is up.

    Args:
        names: ids, or what else names a job (`queries.find_job`).
        app: whose registry they are in.
        until: when to stop.
        interval: seconds between two looks; None: what suits the registry.

    Raises:
        JobNotFoundError: a name is that of no job.
        StoreUnavailableError: the time was up while the registry did not answer.
    """
    if interval is None:
        interval = LOCAL_INTERVAL_SECONDS if app.settings.is_local else INTERVAL_SECONDS
    deadline = None if until.timeout is None else app.monotonic() + until.timeout
    watched = _Watched(names, app)
    # Full jitter, so that the waiters of a whole team do not come back all at once.
    backoff = Backoff(2 * interval, MAX_OUTAGE_DELAY)
    while True:
        outage = watched.look()
        deciding = _deciding(watched.states, until)
        if deciding is not None:
            return watched.told(worst(exit_code_of({"status": state.status}) for state in deciding))
        if outage is None:
            backoff.reset()
            pause = interval
        else:
            pause = backoff.next_delay()
            if backoff.failures == 1:
                app.out.warn(f"{outage} Trying again until it answers.")
        if deadline is not None:
            left = deadline - app.monotonic()
            if left <= 0:
                if outage is not None:
                    raise outage
                app.out.note(f"Not finished after {human_duration(until.timeout or 0)}.")
                return watched.told(EXIT_NOT_FINISHED)
            pause = min(pause, left)
        app.sleep(pause)


class _Watched:
    """The jobs waited for, and what was last seen of each."""

    def __init__(self, names: Sequence[str], app: App) -> None:
        self._app = app
        self._registry = app.registry
        self._last: dict[str, JobState | None] = dict.fromkeys(names)
        self._warned: set[str] = set()

    @property
    def states(self) -> list[JobState | None]:
        """What was last seen, in the order of the names; None where nothing was yet."""
        return list(self._last.values())

    def told(self, exit_code: int) -> WaitResult:
        return WaitResult(tuple(state for state in self.states if state is not None), exit_code)

    def look(self) -> StoreUnavailableError | None:
        """Look at each job that has not ended as far as we know. Returns the outage that cut it short, if one did.

        Raises:
            JobNotFoundError: a name is that of no job.
        """
        outage = None
        for name, seen in self._last.items():
            if seen is not None and seen.is_terminal:
                continue
            state, has_ended = None, False
            if outage is None:
                try:
                    # Asked first: a runner may write the end, and end, between the two.
                    has_ended = seen is not None and has_ended_here(seen.fields(), self._app.env)
                    state = self._asked(name, seen)
                except StoreUnavailableError as error:
                    outage = error
            if outage is not None:
                state = self._ended_as_cached(name, seen)
            if state is None:
                continue
            if seen is None or _said(seen) != _said(state):
                source = "" if outage is None else ", as of the last sync: the registry does not answer"
                self._app.out.note(f"{strip_control_characters(state.job_id)}: {_said(state)}{source}")
            self._last[name] = state
            self._warn(state, has_ended=has_ended)
        return outage

    def _asked(self, name: str, seen: JobState | None) -> JobState:
        """The job as the registry has it."""
        state = find_state(name, self._app) if seen is None else self._registry.get_job(seen.job_id)
        if state is None:
            raise JobNotFoundError(f"There is no job {name}.", job_id=name)
        return state

    def _ended_as_cached(self, name: str, seen: JobState | None) -> JobState | None:
        """The job of this whole id, if the cache has seen its end. A cache that cannot be used has seen nothing."""
        job_id = name if seen is None else seen.job_id
        try:
            record = self._app.cache.read_cached(lambda cache: job_queries.ended_record(cache, job_id))
            state = None if record is None else JobState.from_json(record.encode())
        except MopsJobsError:
            return None
        if state is not None and seen is not None and not _can_follow(state, seen):
            return None
        return state

    def _warn(self, state: JobState, *, has_ended: bool) -> None:
        """Say once of a job that nobody may be at work on it. It is waited for all the same: silence is no end."""
        sign = state.heartbeat_at
        silent = 0.0 if sign is None else (self._app.now() - parse_time(sign)).total_seconds()
        if state.is_terminal or state.job_id in self._warned or not (has_ended or silent > job_json.SILENT_SECONDS):
            return
        self._warned.add(state.job_id)
        why = "its runner on this machine has ended" if has_ended else f"no sign of life for {human_duration(silent)}"
        resume = command_line("resume", state.job_id)
        self._app.out.warn(strip_control_characters(f"{state.job_id}: {why}. Where its runner is gone, type: {resume}"))


def _deciding(states: list[JobState | None], until: Until) -> list[JobState] | None:
    """The jobs whose end decides the exit code; None while it is not decided."""
    ended = [state for state in states if state is not None and state.is_terminal]
    bad = [state for state in ended if state.status != JobStatus.SUCCEEDED]
    if until.fail_fast and bad:
        return bad
    if (until.first and ended) or len(ended) == len(states):
        return ended
    return None


def _can_follow(end: JobState, seen: JobState) -> bool:
    """Whether an end that was synced at some time can be that of the job as it was seen here: no earlier one's."""
    return parse_time(end.created_at) == parse_time(seen.created_at) and end.revision >= seen.revision


def _said(state: JobState) -> str:
    progress = f", {state.tasks_completed}/{state.tasks_total} tasks" if state.tasks_total else ""
    return f"{strip_control_characters(state.status)}{progress}"
