"""A job as a notebook shows it: HTML with escaped texts and without a script."""

from __future__ import annotations

from html import escape

from mopsjobs.app.app import App
from mopsjobs.app.find_job import FoundJob, find_job
from mopsjobs.app.freshness import FreshnessPolicy
from mopsjobs.app.job_texts import end_text, failed_tasks_text
from mopsjobs.errors import JobNotFoundError, MopsJobsError


def job_html(job_id: str, app: App) -> str:
    """Return status, progress, range of the end, failures and age of a job. The network is not used.

    If the job is not in the cache, the HTML says so.
    """
    try:
        # A cell must not hang because a registry does not answer.
        found = find_job(job_id, app, FreshnessPolicy(offline=not app.settings.is_local))
        lines = _lines(found, app)
    except JobNotFoundError as error:
        lines = [escape(str(error) if app.settings.is_local else f"Job {job_id} is not in the cache.")]
    except MopsJobsError as error:
        lines = [escape(str(error))]
    return f"<div><b>{escape(job_id)}</b> " + "<br>".join(lines) + "</div>"


def _lines(found: FoundJob, app: App) -> list[str]:
    job = found.job
    suspect = "" if job["suspect"] is None else f" ({job['suspect']})"
    lines = [escape(f"{job['status']}{suspect}")]
    total, done, failed = (int(str(job[f"tasks_{name}"] or 0)) for name in ("total", "completed", "failed"))
    if total:
        counts = f"{done:,}/{total:,} tasks" + (f", {failed:,} failed" if failed else "")
        lines.append(f'<progress value="{done}" max="{total}"></progress> {counts}')
    error = ": ".join(str(job[name]) for name in ("error_code", "error_message") if job[name] is not None)
    texts = {"Done": end_text(job, app.now()), "Failed": failed_tasks_text(job, app), "Error": error or None}
    lines += [f"{title}: {escape(text)}" for title, text in texts.items() if text is not None]
    age = "live" if found.freshness is None else found.freshness.describe_with_staleness()
    return [*lines, f"<small>Data: {escape(age)}</small>"]
