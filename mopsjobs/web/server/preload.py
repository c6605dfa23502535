"""Load files and modules at the start of a server: they lie in a cache directory that may be cleared later."""

from __future__ import annotations

import importlib
import mimetypes
from pathlib import Path

from flask import Flask, Response, abort, request

from mopsjobs.cache.database import new_schema
from mopsjobs.web.api.openapi import document

MODULES = (
    "cache.counters",
    "cache.sync.ledger",
    "cache.sync.mirror",
    "cache.sync.identity",
    "events.writer",
    "ledger.attempt",
    "registry.job_registry",
    "registry.usage",
    "studies.separating",
    "utils.files",
)
"""Modules of mops-jobs that other code imports only when it needs them."""


def preload(app: Flask) -> None:
    """Load templates, static files, schemas and modules; serve static files from memory."""
    for name in app.jinja_env.list_templates():
        app.jinja_env.get_template(name)
    app.jinja_env.auto_reload = False
    new_schema()
    document()
    for name in MODULES:
        importlib.import_module(f"mopsjobs.{name}")
    importlib.import_module("filelock")
    directory = Path(__file__).parents[1] / "static"
    files = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}

    def static(name: str) -> Response:
        if name not in files:
            abort(404)
        response = Response(files[name], mimetype=mimetypes.guess_type(name)[0] or "application/octet-stream")
        response.headers["Cache-Control"] = "no-cache"
        response.add_etag()
        response.make_conditional(request)
        return response

    app.add_url_rule("/static/<name>", "static", static)
