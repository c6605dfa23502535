"""Render templates with the values that every page has, answer with them, and make the links between pages.

The script of an open page asks every few seconds, with the tag of the version that it shows. An answer without a change
has no body: the age of the data is in a header. See docs/decisions/0096-pages-that-ask.md.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from flask import Flask, Response, request

from mopsjobs.app.run.freshness import Freshness
from mopsjobs.cache.queries.jobs import find_job
from mopsjobs.errors import MopsJobsError
from mopsjobs.version import __version__
from mopsjobs.web.queries.search_box import Params
from mopsjobs.web.queries.view_models import Job
from mopsjobs.web.site.site import MAX_PAGE_AGE, Site

MAX_FOLLOWED_AGE = 30.0
"""Seconds until a page is rendered again without a change for the script of an open page, which counts durations."""

AGE_HEADER = "Data-Age"
"""The header of an answer without a body; it has `AGE_FIELDS`, as JSON."""

AGE_FIELDS = ("synced", "ages", "stale_in", "stale", "notice")
"""What the script of a page shows of the age of the data."""


class Renderer:
    """The templates of an application, and the shared state that pages read."""

    def __init__(self, app: Flask, site: Site) -> None:
        self._app = app
        self.site = site

    def render(self, name: str, **values: Any) -> str:
        """Return a page.

        Args:
            name: the template.
            values: what the template needs besides the head of the page.
        """
        site = self.site
        template = self._app.jinja_env.get_template(name)
        return template.render(
            now=site.app.now().timestamp(),
            registry=site.app.settings.registry_id,
            redirected_by=site.app.settings.redirected_by,
            version=__version__,
            **values,
        )

    def page(
        self,
        template: str,
        view: Callable[[sqlite3.Connection, Freshness], dict[str, Any]],
        *,
        max_age: float = MAX_PAGE_AGE,
        follows: bool = True,
    ) -> Response:
        """Answer with the page of the request; 304 to a script that shows the same, but for the time.

        Args:
            template: the template.
            view: reads from the cache what the template needs.
            max_age: seconds until it is rendered again without a change.
            follows: whether it is rendered again after each change of the cache.
        """
        site = self.site

        def with_header(connection: sqlite3.Connection, freshness: Freshness) -> dict[str, Any]:
            return {"header": site.header_of(connection, freshness), **view(connection, freshness)}

        def render() -> str:
            return self.render(template, **site.read(with_header))

        shown = request.headers.get("If-None-Match", "").removeprefix("W/").strip('"')
        max_age = max(max_age, MAX_FOLLOWED_AGE) if shown else max_age
        page = site.rendered(request.full_path, render, max_age=max_age, follows=follows)
        tag = {"ETag": f'W/"{page.version}"'}
        if shown == page.version:
            age = site.header()
            return Response(
                status=304, headers=tag | {AGE_HEADER: json.dumps({name: age[name] for name in AGE_FIELDS})}
            )
        # What a record holds has no quotes, so this finds the attributes of the page itself.
        text = page.text.replace(' data-version=""', f' data-version="{page.version}"', 1)
        text = text.replace(' data-sent=""', f' data-sent="{site.app.now().timestamp()}"', 1)
        return Response(text, mimetype="text/html", headers=tag)

    def job_page(
        self, template: str, job_id: str, view: Callable[[sqlite3.Connection, Job, float], dict[str, Any]]
    ) -> Response:
        """Answer with a page of a job. `view` also takes the job, and the time in seconds since 1970."""

        def with_job(connection: sqlite3.Connection, _freshness: Freshness) -> dict[str, Any]:
            now = self.site.app.now().timestamp()
            return view(connection, find_job(connection, job_id, now=now), now)

        return self.page(template, with_job)


class Page:
    """Handlers of requests for a page, and what they share."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._site = renderer.site

    def _refuse(self, template: str, error: MopsJobsError, **form: Any) -> str:
        """Return the page for an invalid query: its form as it was sent, and what is wrong."""
        header = self._site.header()
        return self._renderer.render(template, header=header, problem=str(error), hint=error.hint, **form)


class Head(NamedTuple):
    """The head of a column of a table that can be sorted."""

    name: str
    """The class of its cells."""
    title: str
    order: str | None
    """`ascending` or `descending` if the table is sorted by it."""
    to: str | None
    """Where a click leads to."""


def paging(params: Params, page: int, pages: int) -> dict[str, Any]:
    """Return which page a list is at, and the links to those before and after it."""

    def to(number: int) -> str | None:
        return link(params, {"page": str(number)}) if 1 <= number <= pages else None

    return {"page": page, "pages": pages, "before": to(min(page - 1, pages)), "after": to(page + 1)}


def link(params: Params, changes: Mapping[str, str]) -> str:
    """Return the query string with changed values, without empty ones, and for the first page."""
    others = [(name, value) for name, value in params if name not in changes and name != "page" and value]
    return "?" + urlencode([*others, *((name, value) for name, value in changes.items() if value)])


def as_file(response: Response, name: str) -> Response:
    """Make a browser save a response under a name (RFC 6266)."""
    plain = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "_" for letter in name)
    disposition = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
    response.headers["Content-Disposition"] = disposition
    return response
