"""Render templates with the values that every page has, and make the links between pages."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from flask import Flask, Response, request

from mopsjobs.app.run.freshness import Freshness
from mopsjobs.version import __version__
from mopsjobs.web.queries import view_models
from mopsjobs.web.site.live_pages import LivePages
from mopsjobs.web.site.site import Site


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
            status_of=view_models.status,
            job_path=view_models.job_path,
            **values,
        )

    def page(
        self,
        template: str,
        view: Callable[[sqlite3.Connection, Freshness], dict[str, Any]],
        *,
        pages: LivePages | None = None,
        max_age: float | None = None,
    ) -> Response:
        """Answer with the page of the request, with the age of the data.

        Args:
            template: the template.
            view: reads from the cache what the template needs.
            pages: keeps the page; by default, it is rendered again after each change of the cache.
            max_age: seconds until it is rendered again without a change; None for the default of `PageCache`.
        """
        site = self.site

        def with_header(connection: sqlite3.Connection, freshness: Freshness) -> dict[str, Any]:
            return {"header": site.header_of(connection, freshness), **view(connection, freshness)}

        def render() -> str:
            return self.render(template, **site.read(with_header))

        return (pages or site.live_pages).answer(request.full_path, render, max_age=max_age)


def paging(params: list[tuple[str, str]], page: int, pages: int) -> dict[str, Any]:
    """Return which page a list is at, and the links to those before and after it."""

    def to(number: int) -> str | None:
        return link(params, {"page": str(number)}) if 1 <= number <= pages else None

    return {"page": page, "pages": pages, "before": to(min(page - 1, pages)), "after": to(page + 1)}


def link(params: list[tuple[str, str]], changes: Mapping[str, str]) -> str:
    """Return the query string with changed values, without empty ones, and for the first page."""
    others = [(name, value) for name, value in params if name not in changes and name != "page" and value]
    return "?" + urlencode([*others, *((name, value) for name, value in changes.items() if value)])
