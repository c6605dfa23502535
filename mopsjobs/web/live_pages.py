"""Answer requests for pages: whole, or to the script of an open page only what has changed, or that nothing has.

The script sends the token of the version that it shows. See docs/decisions/0057-changed-rows-only.md.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from datetime import datetime

from flask import Response, request

from mopsjobs.web.background import MAX_PAGES, PageCache
from mopsjobs.web.page_parts import PageVersion

MAX_VERSIONS = 8
"""Versions per page that are kept for comparison. A browser asks every few seconds, so it has one of the last."""


class LivePages:
    """The pages of a cache, with their last versions."""

    def __init__(self, pages: PageCache, now: Callable[[], datetime]) -> None:
        self._pages = pages
        self._now = now
        self._lock = threading.Lock()
        self._versions: OrderedDict[str, deque[PageVersion]] = OrderedDict()

    def answer(self, key: str, render: Callable[[int], str], *, max_age: float | None = None) -> Response:
        """Return a page, see `PageCache.get`; to a script that has one of the last versions, only what has changed."""
        text = self._pages.get(key, render, max_age=max_age)
        version, old = self._find(key, text, request.headers.get("If-None-Match", "").strip('W/"'))
        tag = f'W/"{version.token}"'
        if old is version or (old is not None and old.digest == version.digest):
            return Response(status=304, headers={"ETag": tag})
        answer = version.text if old is None else version.changes(old)
        # What a record holds has no quotes, so this finds the attributes of the page itself.
        answer = answer.replace(' data-version=""', f' data-version="{version.token}"', 1)
        answer = answer.replace(' data-sent=""', f' data-sent="{self._now().timestamp()}"', 1)
        return Response(answer, mimetype="text/html", headers={"ETag": tag} if old is None else None)

    def _find(self, key: str, text: str, have: str) -> tuple[PageVersion, PageVersion | None]:
        """Return the version of a page, and that which a script has, if it is kept."""
        with self._lock:
            versions = self._versions.setdefault(key, deque(maxlen=MAX_VERSIONS))
            self._versions.move_to_end(key)
            while len(self._versions) > MAX_PAGES:
                self._versions.popitem(last=False)
            if not versions or versions[-1].text is not text:
                versions.append(PageVersion(text))
            return versions[-1], next((one for one in reversed(versions) if have and one.token == have), None)
