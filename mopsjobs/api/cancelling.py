"""Cancel a job for a Python program, as the command does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mopsjobs.app.care.active_jobs import jobs_to_stop
from mopsjobs.app.run.user_trust import unknown_contexts, user_trust
from mopsjobs.console.result import Result
from mopsjobs.engines.trust import not_trusted_error
from mopsjobs.submission.cancel import CancelRequest, cancel

if TYPE_CHECKING:
    from mopsjobs.app.run.app import App
    from mopsjobs.registry.job_state import JobState


def cancel_job(job_id: str, app: App, reason: str | None, trust: Sequence[str]) -> JobState:
    """Cancel a job, and return its record; see `Job.cancel`."""
    named, session = user_trust(trust, app), app.session()
    unknown = unknown_contexts(jobs_to_stop([job_id], app), app, named)
    if unknown:
        raise not_trusted_error(unknown, "nothing was cancelled")
    done = cancel(CancelRequest(job_ids=[job_id], reason=reason), session, named)
    for error in done.refused:
        raise error
    app.out.show(Result(notes=done.notes, warnings=done.problems))
    return done.jobs[0].state
