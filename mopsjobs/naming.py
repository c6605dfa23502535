"""What a job is called by where it is only read: its id, the only id that begins so, or `@latest`."""

from __future__ import annotations

from mopsjobs.cache import queries
from mopsjobs.context import Context
from mopsjobs.errors import JobNotFoundError
from mopsjobs.freshness import Wanted
from mopsjobs.job import JobState, check_job_id


def find_state(name: str, context: Context) -> JobState:
    """The job of that name: by the whole id in the registry, else by what the cache knows of prefixes and of @latest.

    Raises:
        UsageError: nothing can be called so.
        JobNotFoundError: there is no such job.
        AmbiguousJobError: several ids begin so.
        StoreError: the registry cannot be read.
    """
    if not name.startswith("@"):
        state = context.registry.get_job(check_job_id(name))
        if state is not None:
            return state
    now = context.now().timestamp()
    job = context.read(lambda cache, _age: queries.find_job(cache, name, now=now), Wanted(refresh=True))
    state = context.registry.get_job(str(job["job_id"]))
    if state is None:  # the cache told of one that has been taken away
        raise JobNotFoundError(f"There is no job {name}.", job_id=name)
    return state
