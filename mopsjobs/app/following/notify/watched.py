"""Tell of jobs while a process waits for them or runs them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mopsjobs.app.following.notify.message import notification
from mopsjobs.app.following.notify.notifier import BOUND_SECONDS, Notifier, occasions_of
from mopsjobs.app.run.app import App
from mopsjobs.app.run.notify_rules import Rule
from mopsjobs.cache.rows import job_json_from_state
from mopsjobs.errors import MopsJobsError
from mopsjobs.registry.job_state import JobState

OnEvent = Callable[[dict[str, Any]], object]
"""Called with each message; see `mopsjobs.app.following.notify.message`."""

LOOK_SECONDS = 30.0
"""Time between two looks at a job that runs here."""

END_SECONDS = 5.0
"""Time to read a record at the end."""


class WatchedNotifier:
    """Tells of the jobs that a wait reads: by the rules of the user, and to a function of the caller."""

    def __init__(self, app: App, on_event: OnEvent | None = None) -> None:
        """Prepare.

        Args:
            app: the run.
            on_event: is called once per call of `look` that finds news, in the thread of the caller. None: no function.
        """
        self._app = app
        self._on_event = on_event
        self._notifier = Notifier(app) if app.settings.rules else None
        self._called: set[tuple[str, str]] = set()

    def look(self, states: Sequence[JobState | None]) -> None:
        """Begin to tell what is due. It takes no time besides that of `on_event`."""
        if self._notifier is None and self._on_event is None:
            return
        now = self._app.now().timestamp()
        for state in states:
            if state is None:
                continue
            job = job_json_from_state(state, now=now)
            if self._notifier is not None:
                self._notifier.offer(job)
            for occasion in occasions_of(_EVERYTHING, job) if self._on_event is not None else ():
                if (state.job_id, occasion) not in self._called and self._on_event is not None:
                    self._called.add((state.job_id, occasion))
                    self._on_event(notification(job, occasion, self._app))

    def finish(self) -> list[str]:
        """Wait for what is under way, up to `BOUND_SECONDS`. Return what the user should know."""
        return [] if self._notifier is None else self._notifier.finish()


_EVERYTHING = Rule("function", "command")
"""What a function is told: all that rules tell by default."""


@contextlib.contextmanager
def telling_of_run(job_id: str, app: App) -> Iterator[None]:
    """Tell of a job that the block runs by the rules, from a thread of its own, and of its end after the block."""
    is_over, problems = threading.Event(), list[str]()
    registry = app.registry

    def look(watched: WatchedNotifier) -> None:
        with contextlib.suppress(MopsJobsError):  # an outage: the next look, or another watcher, tells
            watched.look([registry.get_job(job_id)])

    def watch() -> None:
        watched = WatchedNotifier(app)
        while not is_over.wait(LOOK_SECONDS):
            look(watched)
        look(watched)
        problems.extend(watched.finish())

    thread = threading.Thread(target=watch, name="notify", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(END_SECONDS + BOUND_SECONDS)
        for problem in problems:
            app.out.warn(problem)
