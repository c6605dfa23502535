"""What a job is called by where it is only read: its id, the only id that begins so, or `@latest`."""

from __future__ import annotations

import contextlib

from mopsjobs.app.app import App
from mopsjobs.app.freshness import FreshnessPolicy
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.console.command_line import command_line
from mopsjobs.errors import JobNotFoundError, UsageError
from mopsjobs.registry.job_state import JobState, check_job_id


def find_state(name: str, app: App) -> JobState:
    """The job of that name: by the whole id in the registry, else by what the cache knows of prefixes and of @latest.

    Raises:
        UsageError: nothing can be called so.
        JobNotFoundError: there is no such job.
        AmbiguousJobError: several ids begin so.
        StoreError: the registry cannot be read.
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
        hint_if_kept(error, name, app)
        raise
    state = app.registry.get_job(str(job["job_id"]))
    if state is None:  # the cache told of one that has been taken away
        raise JobNotFoundError(f"There is no job {name}.", job_id=name)
    return state


def hint_if_kept(error: JobNotFoundError, name: str, app: App) -> None:
    """Let the error say if a job of that id was submitted on this machine, and waits for the registry to take it."""
    from mopsjobs.engines.job_dir import JobDir

    with contextlib.suppress(UsageError, OSError):
        if JobDir.of(check_job_id(name), app.env).launched.exists():
            error.hint = (
                f"It was submitted here while the registry took nothing. Deliver it: {command_line('resume', name)}"
            )
