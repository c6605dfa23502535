"""A job as a notebook shows it: HTML with escaped texts and without a script; and while it runs, redrawn in place.

On a terminal, a wait has a line that is redrawn; elsewhere, a line per change.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from mopsjobs.app.following.wait import StopCondition, WaitResult, wait_for
from mopsjobs.app.jobs.current_jobs import find_current_job
from mopsjobs.app.jobs.job_card import failed_tasks_text, job_card
from mopsjobs.app.run.freshness import FreshnessPolicy
from mopsjobs.cache.rows import job_json_from_state
from mopsjobs.console.printer import message_printer
from mopsjobs.errors import JobNotFoundError, MopsJobsError
from mopsjobs.utils.times import human_age

if TYPE_CHECKING:
    from mopsjobs.app.run.app import App
    from mopsjobs.errors import StoreUnavailableError
    from mopsjobs.registry.job_state import JobState

ASK = "Its status() asks the registry."

SHOWN = ("Done", "Failed", "Error")
"""Sections of a job below its progress."""


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
    view = NotebookView(app)
    try:
        waited = wait_for(names, app, until, interval=interval, on_read=view.show)
    except BaseException:  # also an interrupt: a saved notebook must not show an old view as a live one
        view.leave()
        raise
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
        self._draw("live" if self._state.is_terminal else "live until the time was up; the job goes on")

    def leave(self) -> None:
        """Show that nothing is redrawn any more."""
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


def job_html(job_id: str, app: App) -> str:
    """Return status, progress, range of the end, failures and age of a job. The network is not used.

    If the job is not in the cache, the HTML says so.
    """
    try:
        # A cell must not hang because a registry does not answer.
        found = find_current_job(job_id, app, FreshnessPolicy(offline=not app.settings.is_local))
    except MopsJobsError as error:
        is_missing = isinstance(error, JobNotFoundError) and not app.settings.is_local
        why = f"Job {job_id} is not in the cache." if is_missing else str(error)
        why = why if app.settings.is_local else f"{why} {ASK}"
        return f"<div><b>{escape(job_id)}</b> {escape(why)}</div>"
    age = "live" if found.freshness is None else found.freshness.describe_with_staleness()
    return html_of(found.job, app, age)


def html_of(job: Mapping[str, object], app: App, age: str) -> str:
    """Return a job as HTML.

    Args:
        job: the job in its JSON form.
        app: the run, whose cache tells why tasks failed.
        age: how old the data is, in words. The time is added, since a notebook is saved with what it shows.
    """
    card = job_card(job, app.now(), failed=failed_tasks_text(job, app))
    lines = [f"<b>{escape(str(job['job_id']))}</b> {escape(card['Status'].text)}"]
    for title, section in card.items():
        if section.share is not None:
            lines.append(f'<progress value="{section.share:.3g}" max="1"></progress> {escape(section.text)}')
        elif title in SHOWN:
            lines.append(f"{title}: {escape(section.text)}")
    lines.append(f"<small>Data: {escape(age)}; shown at {app.now():%Y-%m-%d %H:%M:%S} UTC</small>")
    return f"<div>{'<br>'.join(lines)}</div>"
