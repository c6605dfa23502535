"""Find the machines that ran the tasks of a job, by its ledger."""

from __future__ import annotations

from mopsjobs.app.app import App
from mopsjobs.cache.queries.job_hosts import hosts_of
from mopsjobs.errors import CacheError, JobNotFoundError, NoManifestError, RecordError, StoreError


def find_hosts(job_id: str, app: App, problems: list[str]) -> list[str] | None:
    """Return the names of the machines; None if the job has no ledger, or if it cannot be read.

    Args:
        job_id: the full id.
        app: the run. Its cache mirrors the ledger first.
        problems: gets the reason why the ledger cannot be read.
    """
    try:
        app.cache.sync_ledger(job_id)
    except (NoManifestError, JobNotFoundError):
        return None
    except (StoreError, CacheError, RecordError) as error:
        problems.append(str(error))
    return app.cache.read_cached(lambda connection: hosts_of(connection, job_id)) or None
