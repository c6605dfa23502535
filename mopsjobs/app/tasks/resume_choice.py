"""Choose the tasks that a resume runs, by how they ended."""

from __future__ import annotations

import re
from functools import partial

from mopsjobs.app.jobs.job_tasks import find_lineage
from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import FreshnessPolicy
from mopsjobs.cache.queries.ledgers import last_ends, read_ledger
from mopsjobs.errors import OptionError, command_line
from mopsjobs.ledger.attempt import FAILED_OUTCOMES, Outcome
from mopsjobs.submission.resume import TaskChoice
from mopsjobs.utils.text import did_you_mean

CHOICES = (*FAILED_OUTCOMES, str(Outcome.PREEMPTED))
"""The outcomes that a resume can choose by."""

_KEY = re.compile(r"[0-9a-f]{12}", re.ASCII)


def tasks_that_ended(job_id: str, only: str | None, app: App) -> TaskChoice | None:
    """Return the tasks whose last attempt ended so, in the job or in the one that it continues; None for all tasks.

    Args:
        job_id: the full id.
        only: outcomes and keys of errors, separated by commas; None for all tasks.
        app: the run.

    Raises:
        OptionError: if a word is neither.
        JobNotFoundError: if the job does not exist.
        NoManifestError: if mops-jobs did not submit the job.
        StoreError: if the registry cannot be read.
    """
    if only is None:
        return None
    words = {word.strip() for word in only.split(",")}
    for word in words:
        if word not in CHOICES and not _KEY.fullmatch(word):
            raise OptionError(
                f"invalid only '{word[:100]}': expected one of {', '.join(CHOICES)}, or the key of an"
                f" error.{did_you_mean(word, CHOICES)}",
                "only",
                hint=f"See the keys: {command_line('failures', job_id, '--json')}",
            )
    ends: dict[int, bool] = {}
    is_known = True
    for job in find_lineage(job_id, app, FreshnessPolicy()):
        if job.failure is not None:
            raise job.failure
        for task, outcome, key in app.cache.read_cached(partial(last_ends, job_id=job.job_id)) or ():
            ends.setdefault(task, outcome in words or key in words)
        ledger = app.cache.read_cached(partial(read_ledger, job_id=job.job_id))
        has_run = job.job["started_at"] is not None
        is_known = is_known and (not has_run or (ledger is not None and ledger.has_all_ends))
    tasks = frozenset(task for task, is_chosen in ends.items() if is_chosen)
    return TaskChoice(tasks, None if is_known else frozenset(ends))
