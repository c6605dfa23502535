"""`wait`: until jobs end, whatever way. Reads the registry itself, since a cache tells the past."""

from __future__ import annotations

import argparse
import random

from mopsjobs.cache import queries
from mopsjobs.cache.rows import view_of
from mopsjobs.commands.arguments import add_command
from mopsjobs.context import Context, Wanted
from mopsjobs.errors import EXIT_NOT_FINISHED, JobNotFoundError, StoreUnavailableError, UsageError
from mopsjobs.job import JobState
from mopsjobs.outcome import exit_code_of, worst
from mopsjobs.output import JsonLines, Result, clean
from mopsjobs.status import JobStatus
from mopsjobs.times import human_duration, parse_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mopsjobs.commands import Commands

INTERVAL_SECONDS = 5.0
LOCAL_INTERVAL_SECONDS = 1.0
"""Between two looks, where nobody says otherwise: a registry on this machine costs nothing to look at."""

MIN_INTERVAL = 0.1
"""Seconds. Looking more often tells nobody more, and a registry may be paid by the request."""

MAX_OUTAGE_DELAY = 30.0
"""Seconds. The longest pause between two attempts at a registry that does not answer."""


def add_parser(name: str, commands: Commands, parents: list[argparse.ArgumentParser]) -> None:
    """Declare `wait`."""
    parser = add_command(
        commands,
        name,
        parents,
        help="wait until jobs end; the exit code tells how",
        description="Wait until jobs end: succeeded 0, failed 100, cancelled 103, partial 104; 8 if the time is up "
        "before. A registry that does not answer is asked again until then.",
    )
    parser.add_argument("jobs", metavar="JOB", nargs="+", help="an id, the only id that begins so, or @latest")
    parser.add_argument("--timeout", metavar="DURATION", help="give up after this long, like 2h (default: never)")
    parser.add_argument(
        "--interval", metavar="DURATION", help="between two looks (default 5s, 1s for a registry on this machine)"
    )
    until = parser.add_mutually_exclusive_group()
    until.add_argument("--all", action="store_true", help="until every job has ended (default)")
    until.add_argument("--any", action="store_true", help="until one has ended, and tell how that one did")
    parser.add_argument("--fail-fast", action="store_true", help="end as soon as one has not succeeded")
    parser.add_argument("--json", action="store_true", help="each job as a JSON object in a line of its own")


def run(args: argparse.Namespace, context: Context) -> Result:
    """Wait for jobs."""
    interval = LOCAL_INTERVAL_SECONDS if context.settings.is_local else INTERVAL_SECONDS
    if args.interval is not None:
        interval = parse_duration(args.interval)
    if interval < MIN_INTERVAL:
        raise UsageError(f"--interval {args.interval} is too short: use {MIN_INTERVAL:g}s or more.")
    timeout = None if args.timeout is None else parse_duration(args.timeout)
    deadline = None if timeout is None else context.monotonic() + timeout
    watched = _Watched(args.jobs, context)
    outages = 0
    while True:
        outage = watched.look()
        told = _told(watched.states(), args)
        if told is not None:
            return _result(args, context, watched, worst(exit_code_of({"status": state.status}) for state in told))
        outages = 0 if outage is None else outages + 1
        if outages == 1:
            context.out.warn(f"{outage} Trying again until it answers.")
        # Full jitter, so that the waiters of a whole team do not come back all at once.
        pause = random.random() * min(MAX_OUTAGE_DELAY, interval * 2.0 ** min(outages, 30)) if outages else interval  # noqa: S311
        if deadline is not None:
            left = deadline - context.monotonic()
            if left <= 0:
                if outage is not None:
                    raise outage
                context.out.note(f"Not finished after {human_duration(timeout or 0)}.")
                return _result(args, context, watched, EXIT_NOT_FINISHED)
            pause = min(pause, left)
        context.sleep(pause)


class _Watched:
    """The jobs waited for, and what was last seen of each."""

    def __init__(self, names: list[str], context: Context) -> None:
        self._context = context
        self._registry = context.registry
        self._last: dict[str, JobState | None] = dict.fromkeys(names)

    def look(self) -> StoreUnavailableError | None:
        """Look at each job that has not ended as far as we know. Returns the outage that cut it short, if one did.

        Raises:
            JobNotFoundError: a name is that of no job.
        """
        for name, seen in self._last.items():
            if seen is not None and seen.is_terminal:
                continue
            try:
                state = self._find(name) if seen is None else self._registry.get_job(seen.job_id)
            except StoreUnavailableError as error:
                return error
            if state is None:
                raise JobNotFoundError(f"There is no job {name}.", job_id=name)
            if seen is None or _said(seen) != _said(state):
                self._context.out.note(f"{clean(state.job_id)}: {_said(state)}")
            self._last[name] = state
        return None

    def states(self) -> list[JobState | None]:
        """What was last seen, in the order of the names; None where nothing was yet."""
        return list(self._last.values())

    def _find(self, name: str) -> JobState | None:
        """By the whole id in the registry; else by what the cache knows of prefixes and of @latest."""
        state = None if name.startswith("@") else self._registry.get_job(name)
        if state is not None:
            return state
        now = self._context.now().timestamp()
        job = self._context.read(lambda cache, _age: queries.find_job(cache, name, now=now), Wanted(refresh=True))
        return self._registry.get_job(str(job["job_id"]))


def _told(states: list[JobState | None], args: argparse.Namespace) -> list[JobState] | None:
    """The jobs whose end decides the exit code; None while it is not decided."""
    ended = [state for state in states if state is not None and state.is_terminal]
    bad = [state for state in ended if state.status != JobStatus.SUCCEEDED]
    if args.fail_fast and bad:
        return bad
    if (args.any and ended) or len(ended) == len(states):
        return ended
    return None


def _result(args: argparse.Namespace, context: Context, watched: _Watched, exit_code: int) -> Result:
    now = context.now().timestamp()
    jobs = [view_of(state, now=now) for state in watched.states() if state is not None]
    return Result(JsonLines(jobs) if args.json else None, exit_code=exit_code)


def _said(state: JobState) -> str:
    progress = f", {state.tasks_completed}/{state.tasks_total} tasks" if state.tasks_total else ""
    return f"{clean(state.status)}{progress}"
