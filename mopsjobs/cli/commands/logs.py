"""`logs`: what a job's tasks have written, line by line."""

from __future__ import annotations

import argparse
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from mopsjobs.app.app import App
from mopsjobs.app.event_feed import EventFeed
from mopsjobs.app.exit_codes import exit_code_of
from mopsjobs.cache.queries.events import StoredEvent
from mopsjobs.cli.flags import add_command
from mopsjobs.cli.trust_flags import add_trust, contexts_of, is_agreed, trust_of
from mopsjobs.console.result import Result, Text
from mopsjobs.console.terminal import styled
from mopsjobs.engines import open_engine
from mopsjobs.engines.base import engine_of
from mopsjobs.engines.trust import NotTrustedError
from mopsjobs.errors import EngineError, StoreUnavailableError, UsageError
from mopsjobs.registry.status import TERMINAL
from mopsjobs.utils.times import parse_duration, parse_time

TYPE_CHECKING = False

if TYPE_CHECKING:
    from mopsjobs.cli.commands import Commands


ENGINE = "kubernetes"
"""The engine that has lines of its own."""


OVERLAP_SECONDS = 10.0
"""How far before a cluster's silence its lines are shown again from the events."""


def add_parser(name: str, commands: Commands, parents: list[argparse.ArgumentParser]) -> None:
    """Declare `logs`."""
    parser = add_command(
        commands,
        name,
        parents,
        help="what a job's tasks have written",
        description="Print the log lines of a job, and the traceback of a task that failed in its place. "
        "With -f from before its first task has started until its end, and "
        "then the exit code tells how it ended: succeeded 0, failed 100, cancelled 103, partial 104.",
    )
    parser.add_argument("job", metavar="JOB", help="its id, the only id that begins so, or @latest")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the job has ended")
    parser.add_argument("--since", metavar="DURATION", help="only lines of the last so long, like 10m")
    parser.add_argument("--tail", metavar="N", type=int, help="of the lines that are there, only the last N")
    parser.add_argument("--grep", metavar="REGEX", help="only lines in which this is found")
    parser.add_argument("--offline", action="store_true", help="never use the network; not with --follow")
    add_trust(parser)


def run(args: argparse.Namespace, app: App) -> Result:
    """Print log lines."""
    choice = _Choice(args, app)
    if args.tail is not None and args.tail < 0:
        raise UsageError(f"--tail {args.tail} makes no sense: use 0 or more.")
    try:
        feed = EventFeed(app, args.job, offline=args.offline, follow=args.follow)
        seen = _show_live(feed, args, choice, app)
        if seen is None:
            seen = _show_present(feed, args, choice, app)
    except StoreUnavailableError as outage:
        return _from_the_runner(outage, args, choice, app)
    if not args.follow or seen < 0:
        feed.note_absence()
        return Result()
    state = feed.follow(seen, choice.show)
    feed.note_absence()
    return Result(exit_code=0 if state is None else exit_code_of({"status": state.status}))


def _show_live(feed: EventFeed, args: argparse.Namespace, choice: _Choice, app: App) -> int | None:
    """Show the lines of a job that has not ended from the cluster it runs in, and choose what follows from its events.

    One source at a time: its events begin where the cluster ends, by the clock. When the cluster stops answering, they
    begin a little earlier, since a line that comes twice misleads less than one that is missing.

    Returns:
        The number of the last event that is not to be looked at; below 0 when nothing is to follow. None when the
        cluster has no lines: the job's events are all there is.
    """
    job = feed.job
    if job is None or args.offline or job["status"] in TERMINAL or engine_of(job) != ENGINE:
        return None
    count = 0
    try:
        for line in _live_lines(job, args, choice, app):
            app.out.show(Result(Text([line])))
            count += 1
    except NotTrustedError as error:
        app.out.warn(str(error))  # which ends with what to type
        app.out.warn("Showing the events instead.")
        return None
    except EngineError as error:
        if count:
            app.out.warn(f"{error} Going on with the events; the last lines may come twice.")
            choice.begin_at(app.now().timestamp() - OVERLAP_SECONDS)
            return 0
        app.out.warn(f"{error} Showing the events instead.")
        return None
    if not count:
        return None
    choice.begin_at(app.now().timestamp())
    return 0 if args.follow else -1


def _live_lines(job: Mapping[str, object], args: argparse.Namespace, choice: _Choice, app: App) -> Iterator[str]:
    """The lines that the cluster has, those that are wanted.

    `--tail` counts lines that fit `--grep`, unless they are followed: then nobody knows which were there already.
    """
    since = None if args.since is None else parse_duration(args.since)
    trust = trust_of(args, app)
    found = contexts_of([job], app, trust)
    if found and is_agreed(app, found):
        trust = trust.plus(found)
    lines = open_engine(ENGINE, app.env, trust).logs(
        job, follow=args.follow, tail=args.tail if args.follow or not args.grep else None, since=since
    )
    wanted = (line for line in lines if choice.fits(line))
    return wanted if args.tail is None or args.follow else iter(deque(wanted, maxlen=args.tail))


def _from_the_runner(outage: StoreUnavailableError, args: argparse.Namespace, choice: _Choice, app: App) -> Result:
    """What the runner of a job on this machine has to say of itself, when the registry cannot be asked for its events.

    Raises:
        StoreUnavailableError: no runner of such a job was started here.
    """
    if args.job.startswith("@"):
        raise outage
    job = {"job_id": args.job}
    lines = [line for line in open_engine("local", app.env).logs(job) if choice.fits(line)]
    if not lines:
        raise outage
    shown = lines if args.tail is None else lines[-args.tail :] if args.tail else []
    told = f"{outage} Showing what its runner on this machine says of itself."
    return Result(Text(shown), warnings=[told], exit_code=outage.exit_code)


def _show_present(feed: EventFeed, args: argparse.Namespace, choice: _Choice, app: App) -> int:
    """Show the lines that are there already, or the last of them. Returns the number of the last event looked at."""
    if args.follow and args.tail is None:
        return 0
    feed.sync_if_possible()
    last: deque[StoredEvent] = deque(maxlen=args.tail)
    seen = 0
    for page in feed.pages(0):
        seen = page[-1].seq
        if args.tail is None:
            choice.show(page)
        else:
            last.extend(one for one in page if choice.wants(one))
    choice.show(list(last))
    return seen


class _Choice:
    """Which lines to show, and showing them."""

    def __init__(self, args: argparse.Namespace, app: App) -> None:
        self._app = app
        self._after = None if args.since is None else app.now().timestamp() - parse_duration(args.since)
        try:
            self._pattern = re.compile(args.grep or "")
        except (re.error, OverflowError, RecursionError) as error:
            raise UsageError(f"'{args.grep}' is no regular expression: {error}.") from None

    def begin_at(self, moment: float) -> None:
        """From now on, only lines since then, in seconds since 1970."""
        self._after = moment

    def fits(self, text: str) -> bool:
        """Whether a line is one that is looked for."""
        return self._pattern.search(text) is not None

    def wants(self, one: StoredEvent) -> bool:
        """Whether an event is a line to show, or an error that comes in the place of one."""
        if one.event["kind"] != "log" and not _is_error(one.event):
            return False
        if self._after is not None and parse_time(str(one.event["at"])).timestamp() < self._after:
            return False
        return any(self.fits(line) for line in _texts(one.event))

    def show(self, page: Sequence[StoredEvent]) -> None:
        """Show the lines among these events, and say where some are missing."""
        lines = (line for one in page if self.wants(one) for line in _lines(one.event))
        self._app.out.show(Result(Text(lines)))
        for one in page:
            if one.event["kind"] == "dropped":
                told = f"{one.event.get('count')} events are missing: the registry did not answer for long."
                self._app.out.warn(told)


def _is_error(event: Mapping[str, object]) -> bool:
    """Whether it tells of a task that failed, or of a runner that could not load the model."""
    return event["kind"] in ("task_failed", "runner") and event.get("error") is not None


def _texts(event: Mapping[str, object]) -> list[str]:
    """The lines of an event: what was written, or the traceback of an error; without one, its type and message."""
    error = event.get("error")
    if not _is_error(event):
        return [str(event.get("text", ""))]
    if not isinstance(error, Mapping):  # of an event that was cut
        return str(error).splitlines()
    told = f"{error.get('type')}: {error.get('message')}"
    return str(error.get("traceback") or told).splitlines()


def _lines(event: Mapping[str, object]) -> list[list[str]]:
    mark = [] if event.get("task") is None else [styled(f"[{event['task']}] ", "dim")]
    return [[*mark, text] for text in _texts(event)]
