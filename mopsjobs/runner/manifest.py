"""The manifest of a job, as its runner gets it: at once, or when whoever submitted the job has delivered it."""

from __future__ import annotations

from collections.abc import Callable

from mopsjobs.console.command_line import command_line
from mopsjobs.errors import NoManifestError
from mopsjobs.runner.retry import TRANSIENT_ERRORS, OutageRetry
from mopsjobs.studies.manifest import Manifest, manifest_key
from mopsjobs.studies.outputs import ReadableStore


def find_manifest(
    job_id: str, store: ReadableStore, patience: OutageRetry, on_log: Callable[[str], None], *, waits: bool
) -> Manifest:
    """The manifest of a job, after an outage if need be.

    Args:
        job_id: the job.
        store: where it lies.
        patience: how long to wait.
        on_log: told once that it is waited for.
        waits: whether to wait for one that is missing. A job that is submitted while the registry is away leaves it on
            the submitting machine, from where `resume` delivers it.

    Raises:
        NoManifestError: there is none.
        RecordError: what lies there is none.
        StoreUnavailableError: the store did not answer in time.
    """
    key = manifest_key(job_id)
    is_told = False

    def find() -> Manifest:
        nonlocal is_told
        found = store.get(key)
        if found is not None:
            return Manifest.from_json(found.value, key=key)
        if waits and not is_told:
            on_log(
                f"Waiting for the manifest of job {job_id}. Where it was submitted: {command_line('resume', job_id)}"
            )
            is_told = True
        raise NoManifestError(f"Job {job_id} has no manifest: it was reported, not submitted.", job_id=job_id)

    return patience.call(find, (*TRANSIENT_ERRORS, NoManifestError) if waits else TRANSIENT_ERRORS)
