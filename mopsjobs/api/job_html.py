"""A job as a notebook shows it: HTML with escaped texts and without a script."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from mopsjobs.app.jobs.find_job import find_job
from mopsjobs.app.jobs.job_card import job_card
from mopsjobs.app.jobs.job_texts import failed_tasks_text
from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import FreshnessPolicy
from mopsjobs.errors import JobNotFoundError, MopsJobsError

ASK = "Its status() asks the registry."

SHOWN = ("Done", "Failed", "Error")
"""Sections of a job below its progress."""


def job_html(job_id: str, app: App) -> str:
    """Return status, progress, range of the end, failures and age of a job. The network is not used.

    If the job is not in the cache, the HTML says so.
    """
    try:
        # A cell must not hang because a registry does not answer.
        found = find_job(job_id, app, FreshnessPolicy(offline=not app.settings.is_local))
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
