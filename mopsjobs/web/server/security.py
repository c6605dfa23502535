"""Refuse requests under foreign host names, and send security headers.

A page of another site can make a browser send requests to this server. With a name that points here (DNS rebinding),
its scripts could read the response. So the server only answers to its own names. The headers allow no script and no
file except the server's own, in addition to the escaping in the templates. See
docs/decisions/0015-page-safety.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from flask import Flask, Response, request

from mopsjobs.utils.hosts import LOOPBACK_NAMES

WILDCARDS = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared with, not listened on

METHODS = ("GET", "HEAD")

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script';"
        " trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:\[\]@/,]+)(?::\d{1,5})?")


def own_names(host: str, allowed: Iterable[str]) -> frozenset[str]:
    """Return the names that the server answers to, as in a Host header without the port.

    Args:
        host: the name or address that it listens on.
        allowed: the names of `--allow-host`.
    """
    names = {name.lower() for name in {*allowed, host} - WILDCARDS} | {*LOOPBACK_NAMES}
    return frozenset(f"[{name}]" if ":" in name and name[0] != "[" else name for name in names)


def protect(app: Flask, names: frozenset[str]) -> None:
    """Make the application refuse foreign host names and other methods, and send the headers."""

    @app.before_request
    def refuse() -> Response | None:
        match = _HOST.fullmatch(request.environ.get("HTTP_HOST", "").lower())
        if match is None or match[1] not in names:
            # The command without the registry: a page of another site is not told of that.
            return _plain_response(
                "This server does not answer to that name. Add one with: mops-jobs serve --allow-host NAME", 421
            )
        if request.method not in METHODS:
            response = _plain_response("This server is read-only: it only answers GET and HEAD.", 405)
            response.headers["Allow"] = ", ".join(METHODS)
            return response
        return None

    @app.after_request
    def add_headers(response: Response) -> Response:
        response.headers.update(HEADERS)
        response.headers.setdefault("Cache-Control", "no-store")
        return response


def _plain_response(text: str, code: int) -> Response:
    """Return a response without any data."""
    return Response(f"{text}\n", code, mimetype="text/plain")
