"""Who looks at a page: that leads `/mine` to the jobs of an owner, and does nothing else.

Behind a proxy that signs users in, a header of the proxy has the name. Any client that reaches the server past the
proxy may send that header too, so it must never decide what someone may see or do. See
docs/decisions/0056-a-name-from-a-proxy.md.
"""

from __future__ import annotations

import re
from urllib.parse import urlencode

from flask import Response, redirect, request
from werkzeug.datastructures import Headers

from mopsjobs.errors import UsageError

MAX_NAME = 256
"""Characters of a name. A longer value is not taken for a name."""

_HEADER = re.compile(r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*")


class Viewers:
    """Finds the name of the user who sent a request."""

    def __init__(self, header: str | None = None, *, user: str | None = None) -> None:
        """Take where names come from.

        Args:
            header: the header in which a proxy sends the name; None without such a proxy.
            user: the user of all requests, if there is no header: the one who runs a server for this machine only.

        Raises:
            UsageError: if no header can have that name.
        """
        if header is not None and (len(header) > MAX_NAME or not _HEADER.fullmatch(header)):
            raise UsageError(f"invalid header '{header[:MAX_NAME]}': expected letters and digits, joined by hyphens.")
        self._header = header
        self._user = user

    @property
    def are_known(self) -> bool:
        """Return whether a request may have a name."""
        return self._header is not None or self._user is not None

    def name(self, headers: Headers) -> str | None:
        """Return the name of the user who sent a request with these headers; None if it has none that can be used."""
        if self._header is None:
            return self._user
        try:
            # WSGI has the bytes of a header as Latin-1; proxies send UTF-8.
            name = headers.get(self._header, "").encode("latin-1").decode("utf-8").strip()
        except UnicodeError:
            return None
        # A comma would make several owners of it: a client can add a header of its own to that of the proxy.
        return name if 0 < len(name) <= MAX_NAME and name.isprintable() and "," not in name else None

    def answer(self) -> Response:
        """Return a redirect to the jobs of the user who sent the request. Other filters of the query stay.

        Raises:
            UsageError: if the request has no name.
        """
        name = self.name(request.headers)
        if name is None:
            raise UsageError(
                "Nothing says which jobs are yours.",
                hint="Filter by owner. Or let a proxy sign users in: see serve --trust-header.",
            )
        others = [(key, value) for key, value in request.args.items(multi=True) if key != "owner"]
        return redirect("/jobs?" + urlencode([("owner", name), *others]), 302)  # type: ignore[return-value]
