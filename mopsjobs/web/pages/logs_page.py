"""The page of a job's log: lines and tracebacks by task, with a search, page by page and as a file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode

from flask import Response, request

from mopsjobs.app.jobs.log_selection import KINDS, LogSelection, parse_tasks
from mopsjobs.cache.queries.events import StoredEvent, events_before, read_events
from mopsjobs.cache.queries.ledgers import failed_tasks
from mopsjobs.cache.queries.tasks import find_reused
from mopsjobs.events.format import DROPPED
from mopsjobs.utils.text import parse_whole_number, strip_control_characters
from mopsjobs.utils.times import whole_seconds
from mopsjobs.web.queries.query_params import Parameter, parse_query
from mopsjobs.web.queries.view_models import Job, event_time, job_path
from mopsjobs.web.site.rendering import Page, as_file, link

PAGE_EVENTS = 200
"""Lines of a page; a traceback is one."""

MAX_SEARCHED = 50_000
"""Events that one page searches. A link goes on from there."""

SEARCHED_AT_ONCE = 1_000

MAX_SEQ = 2**62

SHOWN_REUSED = 10

MAX_SEARCH = 200

PARAMETERS = {
    "task": Parameter(),
    "q": Parameter("", lambda text: text if len(text) <= MAX_SEARCH else None, f"at most {MAX_SEARCH} characters"),
    "failed": Parameter(default=False),
    "before": Parameter(None, lambda text: parse_whole_number(text, 0, MAX_SEQ), "the number of an event"),
}


class _Lines(NamedTuple):
    """The lines that a request selects."""

    job_id: str
    selection: LogSelection
    words: str
    """The text that they contain, in lower case."""

    def of(self, stored: StoredEvent) -> list[str]:
        """Return the selected lines of an event."""
        event = stored.event
        if event["kind"] == DROPPED:
            is_any = self.selection.tasks is None and not self.words
            return [f"{event.get('count')} events are missing here"] if is_any else []
        lines = [line.text for line in self.selection.lines(event)]
        return lines if any(self.words in line.casefold() for line in lines) else []


class LogsPage(Page):
    """The handlers of `/jobs/JOB/logs` and `/jobs/JOB/logs.txt`."""

    def answer(self, job_id: str) -> Response:
        """Return a page of lines."""
        params = list(request.args.items(multi=True))
        query = parse_query(PARAMETERS, params)

        def view(connection: sqlite3.Connection, job: Job, _now: float) -> dict[str, Any]:
            lines = _selected(connection, job, query)
            before = query["before"] or MAX_SEQ
            found: list[tuple[float, int, dict[str, Any]]] = []
            oldest, count = before, 0
            while len(found) < PAGE_EVENTS and count < MAX_SEARCHED:
                page = events_before(connection, oldest, job_id=lines.job_id, kinds=KINDS, limit=SEARCHED_AT_ONCE)
                for stored in page:
                    oldest, count = stored.seq, count + 1
                    if texts := lines.of(stored):
                        to_line = link(params, {"before": str(stored.seq + 1)})
                        row = {
                            "event": stored.event,
                            "text": "\n".join(texts),
                            "at": whole_seconds(str(stored.event["at"])),
                        }
                        row |= {"anchor": f"e{stored.seq}", "to_line": f"{to_line}#e{stored.seq}"}
                        found.append((event_time(stored), stored.seq, row))
                    if len(found) == PAGE_EVENTS:
                        break
                if not page:
                    oldest = 0
                    break
            has_more = bool(oldest) and bool(
                events_before(connection, oldest, job_id=lines.job_id, kinds=KINDS, limit=1)
            )
            file_query = urlencode([(name, value) for name, value in params if name != "before" and value])
            tasks = sorted(lines.selection.tasks or ())[:SHOWN_REUSED]
            return {
                "job_id": lines.job_id,
                "query": query,
                "reused": find_reused(connection, lines.job_id, tasks),
                # A writer that was cut off tells late, so the numbers of events are not in the order of their times.
                "rows": [row for *_, row in sorted(found, key=lambda one: one[:2])],
                "searched": count if count >= MAX_SEARCHED else None,
                "older": link(params, {"before": str(oldest)}) if has_more else None,
                "newest": link(params, {"before": ""}) if query["before"] else None,
                "file": f"{job_path(lines.job_id)}/logs.txt" + (f"?{file_query}" if file_query else ""),
            }

        return self._renderer.job_page("job_logs.html", job_id, view)

    def file(self, job_id: str) -> Response:
        """Return all selected lines as a file of text."""
        query = parse_query(PARAMETERS, request.args.items(multi=True))
        lines = self._site.read_job(job_id, lambda connection, job, _now: _selected(connection, job, query))
        return as_file(Response(self._pieces(lines), mimetype="text/plain"), f"{lines.job_id}.log.txt")

    def _pieces(self, lines: _Lines) -> Iterator[str]:
        after = 0
        while True:
            page = self._site.read_cached(
                lambda connection: read_events(connection, after, job_id=lines.job_id, kinds=KINDS)  # noqa: B023
            )
            if not page:
                return
            after = page[-1].seq
            yield "".join(_line(stored, text) for stored in page for text in lines.of(stored))


def last_lines(connection: sqlite3.Connection, job_id: str, task: int, limit: int) -> list[tuple[str, str, bool]]:
    """Return the last lines of a task: when, the text, and whether it tells of an error. A traceback is one line."""
    lines = _Lines(job_id, LogSelection(), "")
    found = events_before(connection, MAX_SEQ, job_id=job_id, kinds=KINDS, limit=limit, task=task)
    return [
        (whole_seconds(str(one.event["at"])), "\n".join(lines.of(one)), bool(one.event.get("error")))
        for one in sorted(found, key=event_time)
    ]


def _selected(connection: sqlite3.Connection, job: Job, query: Mapping[str, Any]) -> _Lines:
    """Return which lines a query selects.

    Raises:
        UsageError: if a task is not a number.
    """
    job_id = str(job["job_id"])
    tasks = None if query["task"] is None else parse_tasks(query["task"])
    if query["failed"]:
        failed = failed_tasks(connection, job_id)
        tasks = failed if tasks is None else failed & tasks
    return _Lines(job_id, LogSelection(tasks=tasks), query["q"].casefold())


def _line(stored: StoredEvent, text: str) -> str:
    event = stored.event
    task = f"[{event['task']}] " if type(event.get("task")) is int else ""
    return strip_control_characters(f"{whole_seconds(str(event['at']))} {task}{text}") + "\n"
