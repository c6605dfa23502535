"""`logs`: print what a job's tasks wrote, line by line."""

from __future__ import annotations

import argparse
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from mopsjobs.app.app import App
from mopsjobs.app.event_feed import EventFeed
from mopsjobs.app.exit_codes import exit_code_of
from mopsjobs.cache.queries.events import StoredEvent
from mopsjobs.cli.flags import JOB_HELP
from mopsjobs.cli.trust_flags import add_trust, contexts_of, is_agreed, trust_of
from mopsjobs.console.result import Result, Text
from mopsjobs.console.terminal import styled
from mopsjobs.engines import open_engine
from mopsjobs.engines.base import engine_of
from mopsjobs.engines.trust import NotTrustedError
from mopsjobs.errors import EngineError, StoreUnavailableError, UsageError
from mopsjobs.registry.status import TERMINAL
from mopsjobs.utils.times import parse_duration, parse_time

HELP = "print what a job's tasks wrote"

DESCRIPTION = (
    "Print the log lines of a job, with the traceback of each failed task. -f starts before the first task and follows"
    " until the job ends. The exit code then tells how: succeeded 0, failed 100, cancelled 103, partial 104."
)

EXAMPLES = (
    "mops-jobs logs @latest --tail 20",
    "mops-jobs logs nightly-1 -f",
    "mops-jobs logs nightly-1 --since 10m --grep 'error|warning'",
)

ENGINE = "kubernetes"
"""The engine that keeps log lines itself."""

OVERLAP_SECONDS = 10.0
"""When the cluster stops answering, events from this long before are printed, so that no line is missing."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("job", metavar="JOB", help=JOB_HELP)
    parser.add_argument("-f", "--follow", action="store_true", help="print new lines until the job has ended")
    parser.add_argument("--since", metavar="DURATION", help="print only lines newer than this, like 10m")
    parser.add_argument("--tail", metavar="N", type=int, help="print only the last N of the lines so far")
    parser.add_argument("--grep", metavar="REGEX", help="print only lines that contain a match")
    parser.add_argument("--offline", action="store_true", help="never use the network; not with --follow")
    add_trust(parser)


def run(args: argparse.Namespace, app: App) -> Result:
    """Print log lines."""
    lines = _LineFilter(args, app)
    if args.tail is not None and args.tail < 0:
        raise UsageError(f"invalid --tail '{args.tail}': expected 0 or more.")
    try:
        feed = EventFeed(app, args.job, offline=args.offline, follow=args.follow)
        seen = _show_live(feed, args, lines, app)
        if seen is None:
            seen = _show_present(feed, args, lines, app)
    except StoreUnavailableError as outage:
        return _from_local_runner(outage, args, lines, app)
    if not args.follow or seen < 0:
        feed.note_absence()
        return Result()
    state = feed.follow(seen, lines.show)
    feed.note_absence()
    return Result(exit_code=0 if state is None else exit_code_of({"status": state.status}))


def _show_live(feed: EventFeed, args: argparse.Namespace, lines: _LineFilter, app: App) -> int | None:
    """Print the lines of an active job from its cluster, and set where its events continue.

    The events continue at the time when the cluster's lines end. If the cluster stops answering, they start a little
    earlier, since a repeated line misleads less than a missing one.

    Returns:
        The number of the event after which to continue; below 0 if nothing follows. None if the cluster has no lines:
        all lines then come from the events.
    """
    job = feed.job
    if job is None or args.offline or job["status"] in TERMINAL or engine_of(job) != ENGINE:
        return None
    count = 0
    try:
        for line in _live_lines(job, args, lines, app):
            app.out.show(Result(Text([line])))
            count += 1
    except NotTrustedError as error:
        app.out.warn(str(error))  # it ends with the flag to add
        app.out.warn("Showing the events instead.")
        return None
    except EngineError as error:
        if count:
            app.out.warn(f"{error} Continuing with the events; the last lines may be repeated.")
            lines.start_at(app.now().timestamp() - OVERLAP_SECONDS)
            return 0
        app.out.warn(f"{error} Showing the events instead.")
        return None
    if not count:
        return None
    lines.start_at(app.now().timestamp())
    return 0 if args.follow else -1


def _live_lines(job: Mapping[str, object], args: argparse.Namespace, lines: _LineFilter, app: App) -> Iterator[str]:
    """Yield the selected lines of the cluster.

    `--tail` counts lines that match `--grep`. With `--follow`, it counts all lines: the end of those so far is unknown.
    """
    since = None if args.since is None else parse_duration(args.since)
    trust = trust_of(args, app)
    found = contexts_of([job], app, trust)
    if found and is_agreed(app, found):
        trust = trust.plus(found)
    found_lines = open_engine(ENGINE, app.env, trust).logs(
        job, follow=args.follow, tail=args.tail if args.follow or not args.grep else None, since=since
    )
    selected = (line for line in found_lines if lines.matches(line))
    return selected if args.tail is None or args.follow else iter(deque(selected, maxlen=args.tail))


def _from_local_runner(outage: StoreUnavailableError, args: argparse.Namespace, lines: _LineFilter, app: App) -> Result:
    """Print the log of the job's runner on this machine, since the registry does not answer.

    Raises:
        StoreUnavailableError: if this machine has no such log.
    """
    if args.job.startswith("@"):
        raise outage
    job = {"job_id": args.job}
    selected = [line for line in open_engine("local", app.env).logs(job) if lines.matches(line)]
    if not selected:
        raise outage
    last = selected if args.tail is None else selected[-args.tail :] if args.tail else []
    warning = f"{outage} Showing the log of the job's runner on this machine."
    return Result(Text(last), warnings=[warning], exit_code=outage.exit_code)


def _show_present(feed: EventFeed, args: argparse.Namespace, lines: _LineFilter, app: App) -> int:
    """Print the lines so far, or the last of them. Returns the number of the last event."""
    if args.follow and args.tail is None:
        return 0
    feed.sync_if_possible()
    last: deque[StoredEvent] = deque(maxlen=args.tail)
    seen = 0
    for page in feed.pages(0):
        seen = page[-1].seq
        if args.tail is None:
            lines.show(page)
        else:
            last.extend(event for event in page if lines.selects(event))
    lines.show(list(last))
    return seen


class _LineFilter:
    """Select lines by `--since` and `--grep`, and print them."""

    def __init__(self, args: argparse.Namespace, app: App) -> None:
        self._app = app
        self._after = None if args.since is None else app.now().timestamp() - parse_duration(args.since)
        try:
            self._pattern = re.compile(args.grep or "")
        except (re.error, OverflowError, RecursionError) as error:
            raise UsageError(f"invalid regular expression '{args.grep}': {error}.") from None

    def start_at(self, moment: float) -> None:
        """Select only events from this moment on, in seconds since 1970."""
        self._after = moment

    def matches(self, text: str) -> bool:
        """Return True if `--grep` matches the line."""
        return self._pattern.search(text) is not None

    def selects(self, stored: StoredEvent) -> bool:
        """Return True if an event is a selected line, or an error with one."""
        event = stored.event
        if event["kind"] != "log" and not _is_error(event):
            return False
        if self._after is not None and parse_time(str(event["at"])).timestamp() < self._after:
            return False
        return any(self.matches(line) for line in _texts(event))

    def show(self, page: Sequence[StoredEvent]) -> None:
        """Print the lines among these events, and warn of missing ones."""
        lines = (line for stored in page if self.selects(stored) for line in _lines(stored.event))
        self._app.out.show(Result(Text(lines)))
        for stored in page:
            if stored.event["kind"] == "dropped":
                count = stored.event.get("count")
                self._app.out.warn(f"{count} events are missing: the registry did not answer for too long.")


def _is_error(event: Mapping[str, object]) -> bool:
    """Return True if the event is the error of a task, or of a runner that could not load the model."""
    return event["kind"] in ("task_failed", "runner") and event.get("error") is not None


def _texts(event: Mapping[str, object]) -> list[str]:
    """Return the lines of an event: its text, or the traceback of its error; without one, type and message."""
    error = event.get("error")
    if not _is_error(event):
        return [str(event.get("text", ""))]
    if not isinstance(error, Mapping):  # the event was shortened
        return str(error).splitlines()
    message = f"{error.get('type')}: {error.get('message')}"
    return str(error.get("traceback") or message).splitlines()


def _lines(event: Mapping[str, object]) -> list[list[str]]:
    mark = [] if event.get("task") is None else [styled(f"[{event['task']}] ", "dim")]
    return [[*mark, text] for text in _texts(event)]
