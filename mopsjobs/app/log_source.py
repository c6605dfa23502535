"""Read the log lines of a job, from the first source that has them.

The cluster has the lines of a job that has not ended. The events have those of every job. If the registry does not
answer, the runner's own log on this machine is the last resort.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from mopsjobs.app.app import App
from mopsjobs.app.event_feed import EventFeed
from mopsjobs.app.exit_codes import exit_code_of
from mopsjobs.app.user_trust import trust_after_question, user_trust
from mopsjobs.cache.queries.events import StoredEvent
from mopsjobs.engines import open_engine
from mopsjobs.engines.base import engine_of
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.trust import NotTrustedError
from mopsjobs.errors import EXIT_DONE, EngineError, OptionError, StoreUnavailableError
from mopsjobs.events.format import DROPPED, LOG, RUNNER, TASK_FAILED
from mopsjobs.registry.status import TERMINAL
from mopsjobs.utils.text import compile_pattern
from mopsjobs.utils.times import parse_time

ENGINE = "kubernetes"
"""The engine that keeps log lines itself."""

OVERLAP_SECONDS = 10.0
"""When the cluster stops answering, events from this long before are read, so that no line is missing."""


class LogRequest(NamedTuple):
    """A request for log lines: the job, and which of its lines."""

    job: str
    """A job's id, a prefix that only its id has, or @latest."""
    follow: bool = False
    """Whether to read new lines until the job has ended."""
    since: float | None = None
    """Only lines newer than this many seconds."""
    tail: int | None = None
    """Only the last of the lines so far, this many."""
    pattern: str | None = None
    """A regular expression. Only lines with a match are read."""
    offline: bool = False
    """Whether the network must not be used. Not with `follow`."""
    trust: Sequence[str] = ()
    """Choices that the user names, as `KIND:VALUE`; see `engines.trust`."""


class LogLine(NamedTuple):
    """A line, and the task that wrote it; None if the line itself says so, or if no task wrote it."""

    text: str
    task: object = None


OnLines = Callable[[Iterable[LogLine]], None]


def read_logs(request: LogRequest, app: App, show: OnLines) -> int:
    """Read the log lines of a job. Choices of its record that the user has not named are asked about.

    Args:
        request: the job and the lines.
        app: the run. Its printer warns when another source is read instead, and if lines are missing.
        show: called with lines, in their order.

    Returns:
        The exit code: of the job's end if it was followed, of the outage if the registry does not answer, else 0.

    Raises:
        UsageError: if the request is not valid.
        JobNotFoundError: if there is no such job.
        StoreUnavailableError: if the registry does not answer, and neither cache nor machine has lines of the job.
    """
    return _LogReader(request, app, show).read()


class _LogReader:
    """Choose the source of the lines, and read it."""

    def __init__(self, request: LogRequest, app: App, show: OnLines) -> None:
        self._request = request
        self._app = app
        self._show = show
        self._after = None if request.since is None else app.now().timestamp() - request.since
        self._pattern = compile_pattern(request.pattern or "")
        self._has_lines = False
        if request.tail is not None and request.tail < 0:
            raise OptionError(f"invalid tail '{request.tail}': expected 0 or more.", "tail")

    def read(self) -> int:
        """Read the lines. Returns the exit code."""
        request, feed = self._request, None
        try:
            feed = EventFeed(self._app, request.job, offline=request.offline, follow=request.follow)
            seen = self._read_cluster(feed.job)
            if seen is None:
                seen = self._read_present(feed)
        except StoreUnavailableError as outage:
            job_id = request.job if feed is None else str(feed.job_id)
            if job_id.startswith("@") or not self._read_local_runner(job_id, outage):
                raise
            return outage.exit_code
        if not request.follow and feed.outage is not None:
            if not self._has_lines and self._read_local_runner(str(feed.job_id), feed.outage):
                return feed.outage.exit_code
            self._name_local_log(feed)
        if not request.follow or seen < 0:
            self._note_absence(feed)
            return EXIT_DONE
        state = feed.follow(seen, self._show_events, on_outage=lambda: self._name_local_log(feed))
        self._note_absence(feed)
        return EXIT_DONE if state is None else exit_code_of({"status": state.status})

    def _note_absence(self, feed: EventFeed) -> None:
        """Print a note if no line was shown."""
        request, job = self._request, feed.job
        if self._has_lines or request.tail == 0 or feed.note_absence():
            return
        is_active = job is not None and job["status"] not in TERMINAL and not request.follow
        end = " that match" if request.pattern or request.since is not None else " yet" if is_active else ""
        self._app.out.note(f"Job {feed.job_id} has no log lines{end}.")

    def _read_cluster(self, job: Mapping[str, object] | None) -> int | None:
        """Read the lines of an active job from its cluster, and set where its events continue.

        The events continue at the time when the cluster's lines end. If the cluster stops answering, they start a
        little earlier, since a repeated line misleads less than a missing one.

        Returns:
            The number of the event after which to continue; below 0 if nothing follows. None if the cluster has no
            lines: all lines then come from the events.
        """
        if job is None or self._request.offline or job["status"] in TERMINAL or engine_of(job) != ENGINE:
            return None
        out, count = self._app.out, 0
        try:
            for line in self._cluster_lines(job):
                self._show([LogLine(line)])
                self._has_lines = True
                count += 1
        except NotTrustedError as error:
            out.warn(f"{error} {error.hint}")
            out.warn("Showing the events instead.")
            return None
        except EngineError as error:
            if count:
                out.warn(f"{error} Continuing with the events; the last lines may be repeated.")
                self._after = self._app.now().timestamp() - OVERLAP_SECONDS
                return 0
            out.warn(f"{error} Showing the events instead.")
            return None
        if not count:
            return None
        self._after = self._app.now().timestamp()
        return 0 if self._request.follow else -1

    def _cluster_lines(self, job: Mapping[str, object]) -> Iterator[str]:
        """Return the selected lines of the cluster, as they come.

        `tail` counts lines that match the pattern. With `follow`, it counts all lines: the end of those so far is
        unknown.
        """
        follow, tail = self._request.follow, self._request.tail
        trust = trust_after_question([job], self._app, user_trust(self._request.trust, self._app))
        lines = open_engine(ENGINE, self._app.env, trust).logs(
            job, follow=follow, tail=tail if follow or not self._request.pattern else None, since=self._request.since
        )
        selected = (line for line in lines if self._matches(line))
        return selected if tail is None or follow else iter(deque(selected, maxlen=tail))

    def _read_present(self, feed: EventFeed) -> int:
        """Read the lines so far from the events, or the last of them. Returns the number of the last event."""
        tail = self._request.tail
        if self._request.follow and tail is None:
            return 0
        feed.sync_if_possible()
        last: deque[StoredEvent] = deque(maxlen=tail)
        seen = 0
        for page in feed.pages(0):
            seen = page[-1].seq
            if tail is None:
                self._show_events(page)
            else:
                last.extend(event for event in page if self._selects(event))
        self._show_events(list(last))
        return seen

    def _name_local_log(self, feed: EventFeed) -> None:
        """Print where the log of the job's runner is on this machine, if it is there."""
        directory = JobDir.for_job(str(feed.job_id), self._app.env)
        if directory.log.exists():
            self._app.out.note(f"The log of its runner on this machine: {directory.show_command}")

    def _read_local_runner(self, job_id: str, outage: StoreUnavailableError) -> bool:
        """Read the log of the job's runner on this machine, since the registry does not answer.

        Returns:
            False if this machine has no such log, or none of its lines is selected.
        """
        tail = self._request.tail
        lines = open_engine("local", self._app.env).logs({"job_id": job_id})
        selected = [LogLine(line) for line in lines if self._matches(line)]
        if not selected:
            return False
        self._app.out.warn(f"{outage} Showing the log of the job's runner on this machine.")
        self._show(selected if tail is None else selected[-tail:] if tail else [])
        return True

    def _show_events(self, page: Sequence[StoredEvent]) -> None:
        """Show the lines of the selected events, and warn of missing ones."""
        lines = [line for stored in page if self._selects(stored) for line in _lines(stored.event)]
        self._has_lines = self._has_lines or bool(lines)
        self._show(lines)
        for stored in page:
            if stored.event["kind"] == DROPPED:
                count = stored.event.get("count")
                self._app.out.warn(f"{count} events are missing: the registry did not answer for too long.")

    def _matches(self, text: str) -> bool:
        return self._pattern.search(text) is not None

    def _selects(self, stored: StoredEvent) -> bool:
        """Return True if an event is a selected line, or an error with one."""
        event = stored.event
        if event["kind"] != LOG and not _is_error(event):
            return False
        if self._after is not None and parse_time(str(event["at"])).timestamp() < self._after:
            return False
        return any(self._matches(line.text) for line in _lines(event))


def _is_error(event: Mapping[str, object]) -> bool:
    """Return True if the event is the error of a task, or of a runner that could not load the model."""
    return event["kind"] in (TASK_FAILED, RUNNER) and event.get("error") is not None


def _lines(event: Mapping[str, object]) -> list[LogLine]:
    """Return the lines of an event: its text, or the traceback of its error; without one, type and message."""
    task, error = event.get("task"), event.get("error")
    if not _is_error(event):
        return [LogLine(str(event.get("text", "")), task)]
    if isinstance(error, Mapping):
        message = f"{error.get('type')}: {error.get('message')}"
        text = str(error.get("traceback") or message)
    else:  # the event was shortened
        text = str(error)
    return [LogLine(line, task) for line in text.splitlines()]
