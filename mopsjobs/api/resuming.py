"""Resume a job for a Python program, as the command does."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mopsjobs.app.jobs.job_tasks import ledger_sizes
from mopsjobs.app.run.submission_session import submission_session
from mopsjobs.app.run.user_trust import user_trust
from mopsjobs.app.tasks.resume_choice import tasks_that_ended
from mopsjobs.submission.launching import LaunchOptions
from mopsjobs.submission.resume import ResumeRequest, resume

if TYPE_CHECKING:
    from mopsjobs.api.job import Job


def resume_job(
    job: Job,
    only: str | None,
    code: str | os.PathLike[str] | None,
    trust: Sequence[str],
    options: LaunchOptions,
    *,
    yes: bool,
) -> Job | None:
    """Run missing tasks of a job; see `Job.resume`."""
    registry = job.registry
    app = registry.app
    request = ResumeRequest(
        job_id=job.id,
        options=options,
        code=None if code is None else registry.code_in(code),
        only=tasks_that_ended(job.id, only, app),
        sizes_of=functools.partial(ledger_sizes, app=app),
    )
    resumed = resume(request, submission_session(app), user_trust(trust, app), yes=yes)
    for warning in resumed.warnings:
        app.out.warn(warning)
    return None if resumed.job_id is None else registry.job(resumed.job_id)
