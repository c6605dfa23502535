"""Search the log lines of several jobs. They come from the events in the cache, which are synced first."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from mopsjobs.app.following.event_feed import EventFeed
from mopsjobs.app.jobs.log_selection import KINDS, LogLine, LogSelection, check_tail, warn_of_missing_lines
from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import Freshness, FreshnessPolicy
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.queries.events import StoredEvent
from mopsjobs.cache.queries.filters import DEFAULT_SORT, Filter, parse_sort
from mopsjobs.cache.queries.task_ends import failed_tasks
from mopsjobs.errors import EXIT_DONE
from mopsjobs.utils.text import pluralize


class SearchRequest(NamedTuple):
    """A request for log lines of several jobs."""

    jobs: Sequence[str]
    """Jobs, as `find_job` takes them; none: the jobs of the filter."""
    job_filter: Filter
    limit: int
    """The last changed jobs of the filter that are read, this many; 0 for all. Active ones are always read."""
    since: float | None = None
    """Only lines newer than this many seconds."""
    tail: int | None = None
    """Only the last lines of each job, this many."""
    pattern: str | None = None
    """A regular expression. Only lines with a match are read."""
    tasks: Collection[int] | None = None
    """Only lines of these tasks of each job."""
    failed: bool = False
    """Only lines of tasks that failed."""
    offline: bool = False
    """Whether the network must not be used."""


OnJobLines = Callable[[str, Iterable[LogLine]], None]


def search_logs(request: SearchRequest, app: App, show: OnJobLines) -> int:
    """Read log lines of several jobs, in bounded memory.

    Args:
        request: the jobs and the lines.
        app: the run. Its printer warns of an outage, of jobs that are left out, and of missing lines.
        show: called with the id of a job and lines of it, in their order.

    Returns:
        The exit code.

    Raises:
        UsageError: if the request is not valid, or if searching takes too long.
        JobNotFoundError: if the job does not exist.
        StoreUnavailableError: if the registry does not answer, and the cache has no events.
    """
    check_tail(request.tail)
    after = None if request.since is None else app.now().timestamp() - request.since
    selection = LogSelection(pattern=request.pattern, after=after)
    has_lines, count = False, 0
    for feed in _feeds(request, app):
        selection.tasks = selected_tasks(feed, app, request.tasks, failed=request.failed)
        has_lines = _read_job(feed, app, selection, request.tail, show) or has_lines
        count += 1
    if not has_lines and request.tail != 0:
        app.out.note(f"No log line of {pluralize(count, 'job')} matches.")
    return EXIT_DONE


def selected_tasks(feed: EventFeed, app: App, tasks: Collection[int] | None, *, failed: bool) -> Collection[int] | None:
    """Return the tasks of a job whose lines are selected; None for all.

    Args:
        feed: the events of the job, which are synced.
        app: the run.
        tasks: only these; None for all.
        failed: only those that failed.
    """
    if not failed:
        return tasks
    job_id = str(feed.job_id)
    found = app.cache.read_cached(lambda cache: failed_tasks(cache, job_id)) or frozenset()
    return found if tasks is None else found.intersection(tasks)


def _feeds(request: SearchRequest, app: App) -> Iterator[EventFeed]:
    """Yield the synced events of each job."""
    if request.jobs:
        feeds = [EventFeed(app, name, offline=request.offline, follow=False, kinds=KINDS) for name in request.jobs]
        for feed in {feed.job_id: feed for feed in feeds}.values():
            feed.sync_if_possible()
            yield feed
        return
    feed = EventFeed(app, None, offline=request.offline, follow=False, kinds=KINDS)
    feed.sync_if_possible()

    def view(cache: sqlite3.Connection, _freshness: Freshness) -> tuple[list[str], int]:
        order = parse_sort(DEFAULT_SORT)
        found = job_queries.list_jobs(
            cache, request.job_filter, order=order, limit=request.limit, now=app.now().timestamp()
        )
        return [str(job["job_id"]) for job in found.jobs(("job_id",))], found.total

    job_ids, total = app.cache.read(view, FreshnessPolicy(offline=request.offline))
    for job_id in job_ids:
        feed.job_id = job_id
        yield feed
    if len(job_ids) < total:
        app.out.warn(f"{pluralize(total - len(job_ids), 'older job')} left out (--limit 0 reads all).")


def _read_job(
    feed: EventFeed,
    app: App,
    selection: LogSelection,
    tail: int | None,
    show: OnJobLines,
) -> bool:
    """Show the selected lines of a job. Return whether there are any."""
    job_id = str(feed.job_id)
    last: deque[StoredEvent] = deque(maxlen=tail)
    has_lines = False
    for page in feed.pages(0):
        warn_of_missing_lines(page, app, job_id)
        if tail is not None:
            last.extend(stored for stored in page if selection.lines(stored.event))
        elif lines := [line for stored in page for line in selection.lines(stored.event)]:
            has_lines = True
            show(job_id, lines)
    if last:
        show(job_id, [line for stored in last for line in selection.lines(stored.event)])
    return has_lines or bool(last)
