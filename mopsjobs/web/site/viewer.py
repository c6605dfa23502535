"""Who looks at a page: that leads `mine` to the jobs of an owner, and does nothing else.

Behind a proxy that signs users in, a header of the proxy has the name. Any client that reaches the server past the
proxy may send that header too, so it must never decide what someone may see or do. See
docs/decisions/0056-a-name-from-a-proxy.md.
"""

from __future__ import annotations

import re

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

    def name(self, headers: Headers, remembered: str | None = None) -> str | None:
        """Return the name of the user who sent a request; None if it has none that can be used.

        Args:
            headers: those of the request.
            remembered: the name that the browser remembers. The header of a proxy goes before it.
        """
        if self._header is None:
            return remembered or self._user
        try:
            # WSGI has the bytes of a header as Latin-1; proxies send UTF-8.
            name = headers.get(self._header, "").encode("latin-1").decode("utf-8").strip()
        except UnicodeError:
            return None
        # A comma would make several owners of it: a client can add a header of its own to that of the proxy.
        return name if 0 < len(name) <= MAX_NAME and name.isprintable() and "," not in name else None
