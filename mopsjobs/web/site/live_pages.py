"""Answer requests for pages, and tell the script of an open page if nothing in it has changed.

The script asks every few seconds, with the tag of the version that it shows. An answer without a change has no body:
the age of the data is in a header. See docs/decisions/0096-pages-that-ask.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime

from flask import Response, request

from mopsjobs.web.site.background import PageCache

MAX_FOLLOWED_AGE = 30.0
"""Seconds until a page is rendered again without a change for the script of an open page, which counts durations."""

AGE_HEADER = "Data-Age"
"""The header of an answer without a body; it has `AGE_FIELDS`, as JSON."""

AGE_FIELDS = ("synced", "ages", "stale_in", "stale", "notice")
"""What the script of a page shows of the age of the data."""


class LivePages:
    """The pages of a cache."""

    def __init__(
        self, pages: PageCache, now: Callable[[], datetime], read_age: Callable[[], Mapping[str, object]]
    ) -> None:
        self._pages = pages
        self._now = now
        self._read_age = read_age

    def answer(self, key: str, render: Callable[[], str], *, max_age: float | None = None) -> Response:
        """Return a page, see `PageCache.get`; 304 to a script that shows the same, but for the time."""
        shown = request.headers.get("If-None-Match", "").removeprefix("W/").strip('"')
        page = self._pages.get(key, render, max_age=max(max_age or 0, MAX_FOLLOWED_AGE) if shown else max_age)
        tag = {"ETag": f'W/"{page.version}"'}
        if shown == page.version:
            age = self._read_age()
            shown_of_it = json.dumps({name: age[name] for name in AGE_FIELDS})
            return Response(status=304, headers=tag | {AGE_HEADER: shown_of_it})
        # What a record holds has no quotes, so this finds the attributes of the page itself.
        text = page.text.replace(' data-version=""', f' data-version="{page.version}"', 1)
        text = text.replace(' data-sent=""', f' data-sent="{self._now().timestamp()}"', 1)
        return Response(text, mimetype="text/html", headers=tag)
