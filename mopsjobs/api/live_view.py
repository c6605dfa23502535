"""A live view of a job: redrawn in place in a notebook and on a terminal, a line per change elsewhere."""

from __future__ import annotations

import contextlib
import secrets
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mopsjobs.api.job_html import html_of
from mopsjobs.app.following.wait import StopCondition, WaitResult, wait_for
from mopsjobs.cache.rows import job_json_from_state
from mopsjobs.console.printer import message_printer
from mopsjobs.utils.times import human_age

if TYPE_CHECKING:
    from mopsjobs.app.run.app import App
    from mopsjobs.errors import StoreUnavailableError
    from mopsjobs.registry.job_state import JobState


def wait_with_view(names: Sequence[str], app: App, until: StopCondition, *, interval: float | None) -> WaitResult:
    """Wait for a job as `wait_for` does, and show it meanwhile.

    Args:
        names: its full id.
        app: the run, whose registry has the job.
        until: when to stop.
        interval: seconds between two reads; None for the default of the registry.

    Raises:
        JobNotFoundError: if the job does not exist.
        StoreUnavailableError: if the time was up while the registry did not answer.
    """
    if not is_notebook():
        return wait_for(names, app, until, interval=interval, out=message_printer(app.env))
    with NotebookView(app).until_left() as view:
        waited = wait_for(names, app, until, interval=interval, on_read=view.show)
        view.end(waited)
    return waited


def is_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)
    return hasattr(get_shell(), "kernel")


class NotebookView:
    """A job below the cell of a notebook that runs."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._state: JobState | None = None
        self._read_at = 0.0
        self._id = secrets.token_hex(8)
        """By it, IPython replaces what is displayed."""
        self._is_displayed = False
        self._has_ended = False

    def show(self, states: Sequence[JobState | None], outage: StoreUnavailableError | None) -> None:
        """Show the job as it was read, or after a failed read as it was before."""
        if states[0] is not None:
            self._state = states[0]
        if outage is None:
            self._read_at = self._app.monotonic()
        self._draw("live" if outage is None else f"{self._describe_read()}. {outage} Trying again")

    def end(self, waited: WaitResult) -> None:
        """Show the job at the end of the wait. By now, the cache also knows why tasks failed."""
        (self._state,) = waited.states
        self._has_ended = True
        if waited.is_cached:
            self._draw("as of the last sync: the registry does not answer")
        else:
            self._draw("live" if self._state.is_terminal else "live until the time was up; the job goes on")

    @contextlib.contextmanager
    def until_left(self) -> Iterator[NotebookView]:
        """Yield the view. If an error or an interrupt ends the block, the last thing shown says that it is old."""
        try:
            yield self
        finally:
            if not self._has_ended:
                self._draw(f"{self._describe_read()}, no longer redrawn; the job goes on")

    def _describe_read(self) -> str:
        return f"read {human_age(self._app.monotonic() - self._read_at)}"

    def _draw(self, age: str) -> None:
        """Display the job, in place of what was displayed before."""
        if self._state is None:
            return
        from IPython.display import display, update_display

        app = self._app
        job = job_json_from_state(self._state, now=app.now().timestamp())
        text = f"{job['job_id']}: {job['status']}, {job['tasks_completed']}/{job['tasks_total'] or '?'} tasks; {age}"
        shown = {"text/html": html_of(job, app, age), "text/plain": text}
        show = update_display if self._is_displayed else display
        self._is_displayed = True  # before the call: an interrupt in it must not leave a second view
        show(shown, raw=True, display_id=self._id)  # type: ignore[no-untyped-call]
