"""Send server-sent events: changes of the cache, and new events of a job."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator

from flask import Response, request

from mopsjobs.cache.queries.events import PAGE, cache_id, make_cursor, parse_cursor, read_events
from mopsjobs.errors import MopsJobsError, UsageError
from mopsjobs.web import view_models
from mopsjobs.web.site import Site

MAX_STREAMS = 100
"""Streams at the same time, at most: each takes a thread of the server."""

WAIT_SECONDS = 1.0
"""How often a stream checks that its browser is still connected."""

BEAT_SECONDS = 15.0
"""How often the age is sent without a change, so that no proxy closes the connection."""

RETRY_MILLISECONDS = 2000

HEADER_FIELDS = ("synced", "ages", "stale_in", "stale", "notice")
"""What the script of a page shows of the age of the data."""


def open_stream(site: Site, slots: threading.BoundedSemaphore) -> Response:
    """Return a stream, or 503 if there are too many.

    With `job` in the query, the stream has the events of that job, too, each with a cursor as its id. They begin after
    the cursor in `after`, or in `Last-Event-ID` if the browser reconnects.
    """
    if not slots.acquire(blocking=False):
        busy = Response("Too many streams are open. The page works without one.\n", 503, mimetype="text/plain")
        busy.headers["Retry-After"] = "30"
        return busy
    after = request.headers.get("Last-Event-ID") or request.args.get("after") or None
    is_gone: Callable[[], bool] = request.environ.get("waitress.client_disconnected", lambda: False)
    parts = [] if request.method == "HEAD" else _stream(site, request.args.get("job") or None, after, is_gone)
    response = Response(parts, mimetype="text/event-stream")
    response.call_on_close(slots.release)
    return response


def _stream(site: Site, job_id: str | None, after: str | None, is_gone: Callable[[], bool]) -> Iterator[str]:
    yield f"retry: {RETRY_MILLISECONDS}\n\n"
    seen, sent_at, last = -1, site.app.monotonic(), None
    while not (site.changes.is_over or is_gone()):
        number = site.changes.number
        parts: list[str] = []
        if number != seen:
            seen = number
            if job_id is not None:
                parts, after = _events(site, job_id, after)
                if len(parts) == PAGE:
                    seen = -1  # there may be more
            header = site.header_or_problem()
            # The script counts the time. In a busy registry, most messages have a number only.
            state = (header["synced_at"], header["stale"], header["notice"])
            parts.append(_message("change", ({} if state == last else _shown(header)) | {"number": number}))
            last = state
        elif site.app.monotonic() - sent_at >= BEAT_SECONDS:
            parts.append(_message("age", _shown(site.header_or_problem())))
        text = "".join(parts)
        if text:
            sent_at = site.app.monotonic()
            yield text
        site.changes.wait(seen, WAIT_SECONDS)


def _shown(header: dict[str, object]) -> dict[str, object]:
    return {name: header[name] for name in HEADER_FIELDS}


def _events(site: Site, job_id: str, after: str | None) -> tuple[list[str], str | None]:
    """Return messages for the new events of a job, and the cursor after them."""
    try:
        result = site.read_cached(
            lambda cache: (
                cache_id(cache),
                read_events(cache, 0 if after is None else parse_cursor(cache, after), job_id=job_id),
            )
        )
    except UsageError:  # the cache was rebuilt: its events have other numbers now
        return [_message("reload", {})], None
    except MopsJobsError:
        return [], after
    if result is None:
        return [], after
    cache, stored = result
    messages = [_message("event", view_models.event(event), make_cursor(cache, event.seq)) for event in stored]
    return messages, make_cursor(cache, stored[-1].seq) if stored else after


def _message(name: str, data: object, cursor: str | None = None) -> str:
    mark = "" if cursor is None else f"id: {cursor}\n"
    return f"{mark}event: {name}\ndata: {json.dumps(data)}\n\n"
