"""Jobs as rows of a table, the same wherever jobs are listed."""

from __future__ import annotations

from mopsjobs.app.app import App
from mopsjobs.console.printer import status_style
from mopsjobs.utils.times import human_age, human_duration, parse_time, whole_seconds

JOB_HEADERS = ("JOB", "STATUS", "PROGRESS", "OWNER", "CREATED", "UPDATED", "DURATION")


def job_row(job: dict[str, object], app: App) -> list[object]:
    """Return a job as a row under `JOB_HEADERS`: with ages on a terminal, else with times."""
    created, updated = str(job["created_at"]), str(job["updated_at"])
    if app.out.is_terminal:
        now = app.now()
        created, updated = (human_age((now - parse_time(text)).total_seconds()) for text in (created, updated))
    else:
        created, updated = whole_seconds(created), whole_seconds(updated)
    total, done = job["tasks_total"], job["tasks_completed"]
    return [
        job["job_id"],
        status_style(job["status"], job["suspect"]),
        f"{done}/{total}" if total else (done or None),
        job["owner"],
        created,
        updated,
        human_duration(job["duration_seconds"]),  # type: ignore[arg-type]
    ]
