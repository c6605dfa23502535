"""Load the manifest of a job for its runner, after an outage or an offline submission if need be."""

from __future__ import annotations

from collections.abc import Callable

from mopsjobs.errors import NoManifestError, command_line
from mopsjobs.runner.retry import TRANSIENT_ERRORS, OutageRetry
from mopsjobs.store.base import ReadableStore
from mopsjobs.studies.manifest import Manifest, load_manifest


def wait_for_manifest(
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
        RecordError: if it is invalid, or that of another job.
        StoreUnavailableError: if the store did not answer in time.
    """
    is_announced = False

    def load() -> Manifest:
        nonlocal is_announced
        try:
            return load_manifest(store, job_id)
        except NoManifestError:
            if wait and not is_announced:
                hint = command_line("resume", job_id)
                on_log(f"Waiting for the manifest of job {job_id}. Where it was submitted: {hint}")
                is_announced = True
            raise

    return retry.call(load, (*TRANSIENT_ERRORS, NoManifestError) if wait else TRANSIENT_ERRORS)
