"""Server-sent events: that the cache has changed, and a job's events as they come in."""

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
"""Streams at once: each has a thread of the server."""


WAIT_SECONDS = 1.0
"""Until a stream looks whether its browser is still there."""


BEAT_SECONDS = 15.0
"""After which something is sent in any case, so that nothing between here and there takes the line for dead."""


RETRY_MILLISECONDS = 2000


def open_stream(site: Site, seats: threading.BoundedSemaphore) -> Response:
    """Answer with a stream; with 503 when all are taken.

    The query may name a `job`, whose events then come too, each with a cursor as its id: those after the cursor
    `after`, or after that in `Last-Event-ID` when the browser comes back.
    """
    if not seats.acquire(blocking=False):
        busy = Response("All streams are taken; the page works without one.\n", 503, mimetype="text/plain")
        busy.headers["Retry-After"] = "30"
        return busy
    after = request.headers.get("Last-Event-ID") or request.args.get("after") or None
    gone: Callable[[], bool] = request.environ.get("waitress.client_disconnected", lambda: False)
    parts = [] if request.method == "HEAD" else _stream(site, request.args.get("job") or None, after, gone)
    response = Response(parts, mimetype="text/event-stream")
    response.call_on_close(seats.release)
    return response


def _stream(site: Site, job_id: str | None, after: str | None, gone: Callable[[], bool]) -> Iterator[str]:
    yield f"retry: {RETRY_MILLISECONDS}\n\n"
    seen, sent_at = -1, site.app.monotonic()
    while not (site.changes.is_over or gone()):
        number = site.changes.number
        parts: list[str] = []
        if number != seen:
            seen = number
            if job_id is not None:
                parts, after = _events(site, job_id, after)
                if len(parts) == PAGE:
                    seen = -1  # there may be more
            parts.append(_message("change", {**site.header(), "number": number}))
        elif site.app.monotonic() - sent_at >= BEAT_SECONDS:
            parts.append(_message("age", site.header()))
        text = "".join(parts)
        if text:
            sent_at = site.app.monotonic()
            yield text
        site.changes.wait(seen, WAIT_SECONDS)


def _events(site: Site, job_id: str, after: str | None) -> tuple[list[str], str | None]:
    """Messages of the job's events that are new, and the cursor after them."""
    try:
        found = site.read_cached(
            lambda cache: (
                cache_id(cache),
                read_events(cache, 0 if after is None else parse_cursor(cache, after), job_id=job_id),
            )
        )
    except UsageError:  # the cache was rebuilt: its events have other numbers now
        return [_message("reload", {})], None
    except MopsJobsError:
        return [], after
    if found is None:
        return [], after
    cache, stored = found
    messages = [_message("event", view_models.event(one), make_cursor(cache, one.seq)) for one in stored]
    return messages, make_cursor(cache, stored[-1].seq) if stored else after


def _message(name: str, data: object, cursor: str | None = None) -> str:
    mark = "" if cursor is None else f"id: {cursor}\n"
    return f"{mark}event: {name}\ndata: {json.dumps(data)}\n\n"
