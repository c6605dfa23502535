"""Whom the server answers, and what a browser may do with an answer.

A page of another site can make a browser send requests here, and can make a name of its own point here (DNS
rebinding); then its scripts could read what is answered. So only names that are ours are answered. What is answered
may run no script and load nothing but our own files, whatever a record holds: that stands behind the escaping of the
templates, not in its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from flask import Flask, Response, request

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
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
    """The names under which the server answers, as a Host header has them, without a port.

    Args:
        host: what it listens on.
        allowed: names that somebody has added.
    """
    more = {*allowed, host} - WILDCARDS
    return LOOPBACK_NAMES | {f"[{name}]" if ":" in name and name[0] != "[" else name for name in map(str.lower, more)}


def protect(app: Flask, names: frozenset[str]) -> None:
    """Have the application answer no request under a foreign name or with another method, and send the headers."""

    @app.before_request
    def refuse() -> Response | None:
        match = _HOST.fullmatch(request.environ.get("HTTP_HOST", "").lower())
        if match is None or match[1] not in names:
            return _plain("This server does not go by that name; mops-jobs serve --allow-host NAME adds one.", 421)
        if request.method not in METHODS:
            response = _plain("This server writes nothing: it only answers GET and HEAD.", 405)
            response.headers["Allow"] = ", ".join(METHODS)
            return response
        return None

    @app.after_request
    def add_headers(response: Response) -> Response:
        response.headers.update(HEADERS)
        response.headers.setdefault("Cache-Control", "no-store")
        return response


def _plain(text: str, code: int) -> Response:
    """An answer that tells nothing of ours."""
    return Response(f"{text}\n", code, mimetype="text/plain")
