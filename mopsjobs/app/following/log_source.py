"""Read the log lines of a job, from the first source that has them; or search those of several jobs in their events.

The cluster has the lines of a job that has not ended, or that it has ended itself. The events have those of every job.
If the registry does not answer, the runner's own log on this machine is named.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from mopsjobs.app.following.event_feed import POLL_SECONDS, EventFeed
from mopsjobs.app.jobs.job_card import waits_for_text
from mopsjobs.app.jobs.log_selection import KINDS, LogLine, LogSelection, check_tail
from mopsjobs.app.jobs.reconcile import EngineWatch, early_end_text, is_ended_by_engine, missing_reason
from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import Freshness, FreshnessPolicy
from mopsjobs.app.run.user_trust import trust_after_question, user_trust
from mopsjobs.cache.job_json import reused_tasks, reused_text
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.queries.events import StoredEvent
from mopsjobs.cache.queries.filters import DEFAULT_SORT, Filter, parse_sort
from mopsjobs.cache.queries.ledgers import failed_tasks
from mopsjobs.engines import CLUSTER_ENGINES, open_engine
from mopsjobs.engines.base import engine_of
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.trust import NotTrustedError
from mopsjobs.errors import (
    EXIT_DONE,
    LATEST,
    EngineError,
    OptionError,
    StoreUnavailableError,
    command_line,
    exit_code_of,
)
from mopsjobs.events.format import DROPPED
from mopsjobs.registry.status import BEFORE_RUNNING, TERMINAL
from mopsjobs.utils.text import pluralize, strip_control_characters

OVERLAP_SECONDS = 10.0
"""When the cluster stops answering, events from this long before are read, so that no line is missing."""


class LogRequest(NamedTuple):
    """A request for log lines: the jobs, and which of their lines."""

    jobs: Sequence[str]
    """Jobs, as `find_job` takes them; none: the jobs of the filter."""
    follow: bool = False
    """Whether to read new lines until the job has ended. For one job."""
    since: float | None = None
    tail: int | None = None
    """Only the last of the lines so far, this many of each job."""
    pattern: str | None = None
    offline: bool = False
    """Whether the network must not be used. Not with `follow`."""
    trust: Sequence[str] = ()
    """Choices that the user names, as `KIND:VALUE`; see `engines.trust`."""
    tasks: Collection[int] | None = None
    failed: bool = False
    """Only lines of tasks that failed. Not with `follow`."""
    job_filter: Filter = Filter()
    limit: int = 0
    """The last changed jobs of the filter that are read, this many; 0 for all. Active ones are always read."""


OnLines = Callable[[str, Iterable[LogLine]], None]


def read_logs(request: LogRequest, app: App, show: OnLines) -> int:
    """Read the log lines of jobs, in bounded memory.

    Choices of the record of a single job that the user has not named are asked about.

    Args:
        request: the jobs and the lines.
        app: the run. Its printer warns when another source is read instead, and of jobs and lines that are missing.
        show: called with the id of a job and lines of it, in their order.

    Returns:
        The exit code: of the job's end if it was followed, of the outage if the registry does not answer, else 0.

    Raises:
        UsageError: if the request is not valid.
        JobNotFoundError: if a job does not exist.
        StoreUnavailableError: if the registry does not answer, and neither cache nor machine has lines of the job.
    """
    check_tail(request.tail)
    if request.failed and request.follow:
        raise OptionError(
            "failed and follow contradict each other: whether a task fails is known at its end.", "failed", "follow"
        )
    reader = _LogReader(request, app, show)
    return reader.read() if len(request.jobs) == 1 else reader.search()


class _LogReader:
    """Choose the source of the lines, and read it."""

    def __init__(self, request: LogRequest, app: App, show: OnLines) -> None:
        self._request = request
        self._app = app
        self._show = show
        after = None if request.since is None else app.now().timestamp() - request.since
        self._selection = LogSelection(pattern=request.pattern, after=after, tasks=request.tasks)
        self._is_of_tasks = request.tasks is not None or request.failed
        self._has_lines = False
        self._tasks_shown: set[object] = set()

    def search(self) -> int:
        """Read the lines of several jobs. Returns the exit code."""
        count = 0
        for feed in self._feeds():
            self._read_so_far(feed)
            count += 1
        if not self._has_lines and self._request.tail != 0:
            self._app.out.note(f"No log line of {pluralize(count, 'job')} matches.")
        return EXIT_DONE

    def read(self) -> int:
        """Read the lines. Returns the exit code."""
        request, feed = self._request, None
        try:
            feed = self._feed(request.jobs[0])
            seen = self._read_cluster(feed.job)
            if seen is None:
                seen = self._read_present(feed)
        except StoreUnavailableError:
            self._name_local_log(request.jobs[0] if feed is None else str(feed.job_id))
            raise
        if not request.follow and feed.outage is not None:
            self._name_local_log(str(feed.job_id))
        if not request.follow or seen < 0:
            self._note_absence(feed)
            return EXIT_DONE
        job_id = str(feed.job_id)
        state = feed.follow(
            seen, lambda page: self._show_events(feed, page), on_outage=lambda: self._name_local_log(job_id)
        )
        if not (self._has_lines or self._is_of_tasks):
            self._read_cluster(feed.job)  # a pod that ended before its first report has left no event
        self._note_absence(feed)
        self._note_end(feed)
        return EXIT_DONE if state is None else exit_code_of(state.status)

    def _note_absence(self, feed: EventFeed) -> None:
        """Print a note if no line was shown, or if other jobs have lines of tasks that this one reuses."""
        request, job = self._request, feed.job
        if job is not None and self._note_reused(job):
            return
        if self._has_lines or request.tail == 0:
            return
        is_active = job is not None and job["status"] not in TERMINAL and not request.follow
        if request.failed and not self._selection.tasks:
            self._app.out.note(self._no_failed_task_text(feed, " yet" if is_active else ""))
            return
        is_selected = request.pattern or request.since is not None or self._is_of_tasks
        end = " that match" if is_selected else " yet" if is_active else ""
        wait = None if job is None else waits_for_text(job)
        why = "" if wait is None else f" It waits for {strip_control_characters(wait)}"
        if not is_active:  # nothing tells whether it had some
            why = " Prune may have removed some."
        self._app.out.note(f"There are no log lines of job {feed.job_id}{end}.{why}")

    def _no_failed_task_text(self, feed: EventFeed, yet: str) -> str:
        """Return that no failed task is known, although the record may count some."""
        count = feed.job and feed.job.get("tasks_failed")
        if not isinstance(count, int) or not count or self._request.tasks is not None:
            return f"No task of job {feed.job_id} is known to have failed{yet}."
        why = "their events or the ledger were not read yet, or prune has removed them"
        look = command_line("tasks", str(feed.job_id))
        return f"Which {pluralize(count, 'task')} of job {feed.job_id} failed is not known: {why}. Run: {look}"

    def _note_reused(self, job: Mapping[str, object]) -> bool:
        """Name the jobs that ran tasks which a job reuses, if some of the selected ones had no line. Return if so."""
        if not reused_tasks(job)[0] or self._tasks_shown.issuperset(self._request.tasks or ()):
            return False
        self._app.out.note(f"Reused, so without lines here: {reused_text(job)}.")
        return True

    def _note_end(self, feed: EventFeed) -> None:
        """Print a note if the job was ended before its tasks."""
        why = None if feed.job is None else early_end_text(feed.job)
        if feed.job is not None and why is not None:
            self._app.out.note(strip_control_characters(f"Job {feed.job_id} is {feed.job['status']}: {why}"))

    def _read_cluster(self, job: Mapping[str, object] | None) -> int | None:
        """Read the lines of a job from its cluster, and set where its events continue.

        The events continue at the time when the cluster's lines end. If the cluster stops answering, they start a
        little earlier, since a repeated line misleads less than a missing one.

        Returns:
            The number of the event after which to continue; below 0 if nothing follows. None if the cluster has no
            lines: all lines then come from the events.
        """
        if job is None or not self._asks_cluster(job):
            return None
        out, count = self._app.out, 0
        if self._request.follow and job["status"] in BEFORE_RUNNING:
            self._await_begin(str(job["job_id"]))
        try:
            for line in self._cluster_lines(job):
                self._show(str(job["job_id"]), [LogLine(line)])
                self._has_lines = True
                count += 1
        except NotTrustedError as error:
            out.warn(f"{error} {error.hint}")
            out.warn("Showing the events instead.")
            return None
        except EngineError as error:
            if count:
                out.warn(f"{error} Continuing with the events; the last lines may be repeated.")
                self._selection.after = self._app.now().timestamp() - OVERLAP_SECONDS
                return 0
            # Of a job that has ended, the events are expected: its pods are gone by and by.
            say = out.debug if job["status"] in TERMINAL else out.warn
            say(f"{error} Showing the events instead.")
            return None
        if not count:
            return None
        self._selection.after = self._app.now().timestamp()
        return 0 if self._request.follow else -1

    def _await_begin(self, job_id: str) -> None:
        """Wait until a job has begun by its record, and tell what it waits for. An outage ends this wait.

        So does a job that its engine does not know.
        """
        watch = EngineWatch(self._app, self._app.out, quiet_seconds=0)
        with contextlib.suppress(StoreUnavailableError):
            while True:
                state = watch.look_and_tell(self._app.registry.require_job(job_id))
                if state.status not in BEFORE_RUNNING or missing_reason(state) is not None:
                    return
                self._app.sleep(POLL_SECONDS)

    def _asks_cluster(self, job: Mapping[str, object]) -> bool:
        """Return whether the cluster of a job may have the selected lines. Print a note if it cannot select them.

        Of a job that ended by itself, the events are complete. The pods of one that the cluster has ended may have
        written more.
        """
        if self._request.offline or engine_of(job) not in CLUSTER_ENGINES:
            return False
        if job["status"] in TERMINAL and not is_ended_by_engine(job):
            return False
        if self._is_of_tasks:
            self._app.out.note("The cluster cannot select lines by task. Showing the events instead.")
        return not self._is_of_tasks

    def _cluster_lines(self, job: Mapping[str, object]) -> Iterator[str]:
        """Return the selected lines of the cluster, as they come.

        `tail` counts lines that match the pattern. With `follow`, it counts all lines: the end of those so far is
        unknown.
        """
        follow, tail = self._request.follow, self._request.tail
        trust = trust_after_question([job], self._app, user_trust(self._request.trust, self._app))
        lines = open_engine(str(engine_of(job)), self._app.env, trust).logs(
            job, follow=follow, tail=tail if follow or not self._request.pattern else None, since=self._request.since
        )
        selected = (line for line in lines if self._selection.has_match(line))
        return selected if tail is None or follow else iter(deque(selected, maxlen=tail))

    def _read_present(self, feed: EventFeed) -> int:
        """Read the lines so far from the events, or the last of them. Returns the number of the last event."""
        if self._request.follow and self._request.tail is None:
            return 0
        feed.sync_if_possible()
        return self._read_so_far(feed)

    def _read_so_far(self, feed: EventFeed) -> int:
        """Show the selected lines of synced events, or the last of them. Returns the number of the last event."""
        tail, tasks = self._request.tail, self._request.tasks
        if self._request.failed:
            job_id = str(feed.job_id)
            failed = self._app.cache.read_cached(lambda cache: failed_tasks(cache, job_id)) or frozenset()
            self._selection.tasks = failed if tasks is None else failed.intersection(tasks)
        last: deque[StoredEvent] = deque(maxlen=tail)
        seen = 0
        for page in feed.pages(0):
            seen = page[-1].seq
            if tail is None:
                self._show_events(feed, page)
            else:
                self._warn_of_missing_lines(feed, page)
                last.extend(stored for stored in page if self._selection.lines(stored.event))
        self._show_events(feed, list(last))
        return seen

    def _name_local_log(self, job_id: str) -> None:
        """Print where the log of the job's runner is on this machine, if it is there."""
        if job_id is LATEST:
            return
        directory = JobDir.for_job(job_id, self._app.env)
        if directory.log.exists():
            self._app.out.note(f"The log of its runner on this machine: {directory.show_command}")

    def _show_events(self, feed: EventFeed, page: Sequence[StoredEvent]) -> None:
        """Show the lines of the selected events, and warn of missing ones."""
        if lines := [line for stored in page for line in self._selection.lines(stored.event)]:
            self._has_lines = True
            self._tasks_shown.update(line.task for line in lines)
            self._show(str(feed.job_id), lines)
        self._warn_of_missing_lines(feed, page)

    def _warn_of_missing_lines(self, feed: EventFeed, page: Sequence[StoredEvent]) -> None:
        """Warn of events that their writer had to drop."""
        where = "" if len(self._request.jobs) == 1 else f" of job {feed.job_id}"
        for count in (stored.event.get("count") for stored in page if stored.event["kind"] == DROPPED):
            self._app.out.warn(f"{count} events{where} are missing: the registry did not answer for too long.")

    def _feed(self, name: str | None) -> EventFeed:
        request = self._request
        return EventFeed(self._app, name, offline=request.offline, follow=request.follow, kinds=KINDS)

    def _feeds(self) -> Iterator[EventFeed]:
        """Yield the synced events of each job."""
        if self._request.jobs:
            for feed in {feed.job_id: feed for feed in map(self._feed, self._request.jobs)}.values():
                feed.sync_if_possible()
                yield feed
            return
        request, app, feed = self._request, self._app, self._feed(None)
        feed.sync_if_possible()

        def view(cache: sqlite3.Connection, _freshness: Freshness) -> tuple[list[str], int]:
            order, now = parse_sort(DEFAULT_SORT), app.now().timestamp()
            found = job_queries.list_jobs(cache, request.job_filter, order=order, limit=request.limit, now=now)
            return [str(job["job_id"]) for job in found.jobs(("job_id",))], found.total

        job_ids, total = app.cache.read(view, FreshnessPolicy(offline=request.offline))
        for job_id in job_ids:
            feed.job_id = job_id
            yield feed
        if len(job_ids) < total:
            app.out.warn(f"{pluralize(total - len(job_ids), 'older job')} left out (--limit 0 reads all).")
