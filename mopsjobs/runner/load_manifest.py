"""Load the manifest of a job for its runner, after an outage or an offline submission if need be."""

from __future__ import annotations

from collections.abc import Callable

from mopsjobs.console.command_line import command_line
from mopsjobs.errors import NoManifestError
from mopsjobs.runner.retry import TRANSIENT_ERRORS, OutageRetry
from mopsjobs.studies.manifest import Manifest, manifest_key
from mopsjobs.studies.outputs import ReadableStore


def load_manifest(
    job_id: str, store: ReadableStore, retry: OutageRetry, on_log: Callable[[str], None], *, wait: bool
) -> Manifest:
    """Return the manifest of a job.

    Args:
        job_id: the job.
        store: where the manifest is.
        retry: how long to wait.
        on_log: called with one line when the wait begins.
        wait: whether to wait for a missing manifest. A job that was submitted during an outage leaves it on the
            submitting machine, from where `resume` delivers it.

    Raises:
        NoManifestError: if there is none.
        RecordError: if it cannot be read.
        StoreUnavailableError: if the store did not answer in time.
    """
    key = manifest_key(job_id)
    is_announced = False

    def load() -> Manifest:
        nonlocal is_announced
        stored = store.get(key)
        if stored is not None:
            return Manifest.from_json(stored.value, key=key)
        if wait and not is_announced:
            on_log(
                f"Waiting for the manifest of job {job_id}. Where it was submitted: {command_line('resume', job_id)}"
            )
            is_announced = True
        raise NoManifestError(f"Job {job_id} has no manifest: it was reported, not submitted.", job_id=job_id)

    return retry.call(load, (*TRANSIENT_ERRORS, NoManifestError) if wait else TRANSIENT_ERRORS)
