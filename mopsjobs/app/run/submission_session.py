"""The session in which a command submits, resumes and cancels jobs."""

from __future__ import annotations

from mopsjobs.app.run.app import App
from mopsjobs.submission.session import Session


def submission_session(app: App) -> Session:
    """Return a session with the registry, the clocks and the printer of a command. Nothing is opened yet."""
    return Session(
        registry_url=app.settings.registry.value,
        open_registry=lambda: app.registry,
        env=app.env,
        note=app.out.note,
        warn=app.out.warn,
        progress=lambda: app.out.progress("bytes packed"),
        now=app.now,
        monotonic=app.monotonic,
        sleep=app.sleep,
    )
