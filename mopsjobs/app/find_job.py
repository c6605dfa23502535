"""Find the job that a command reads: by its id, by a prefix that only its id has, or by `@latest`."""

from __future__ import annotations

import contextlib

from mopsjobs.app.app import App
from mopsjobs.app.freshness import FreshnessPolicy
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.console.command_line import command_line
from mopsjobs.errors import JobNotFoundError, UsageError
from mopsjobs.registry.job_state import JobState, check_job_id


def find_state(name: str, app: App) -> JobState:
    """Return the state of a job: by its full id from the registry, else by a prefix or `@latest` from the cache.

    Raises:
        UsageError: if the name cannot be one of a job.
        JobNotFoundError: if there is no such job.
        AmbiguousJobError: if several ids begin with the name.
        StoreError: if the registry cannot be read.
    """
    if not name.startswith("@"):
        state = app.registry.get_job(check_job_id(name))
        if state is not None:
            return state
    now = app.now().timestamp()
    try:
        job = app.cache.read(
            lambda cache, _age: job_queries.find_job(cache, name, now=now), FreshnessPolicy(refresh=True)
        )
    except JobNotFoundError as error:
        add_offline_hint(error, name, app)
        raise
    state = app.registry.get_job(str(job["job_id"]))
    if state is None:  # the cache knew a job whose record was deleted
        raise JobNotFoundError(f"There is no job {name}.", job_id=name)
    return state


def add_offline_hint(error: JobNotFoundError, name: str, app: App) -> None:
    """Add a hint to the error if the job was submitted on this machine while the registry did not answer."""
    from mopsjobs.engines.job_dir import JobDir

    with contextlib.suppress(UsageError, OSError):
        if JobDir.of(check_job_id(name), app.env).launched.exists():
            error.hint = (
                f"It was submitted here while the registry did not answer. Deliver it: {command_line('resume', name)}"
            )
