"""The end of a job: are its outputs there? By one comparison of its manifest with one listing.

All there: succeeded; some: partial, and can be resumed; none: failed.
"""

from __future__ import annotations

from typing import NamedTuple

from mopsjobs.errors import JobNotFoundError, NoManifestError, RecordError, TerminalStateError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.status import JobStatus
from mopsjobs.store.base import VersionedStore
from mopsjobs.studies.manifest import Manifest, manifest_key
from mopsjobs.studies.outputs import find_complete_tasks, output_key
from mopsjobs.utils.times import record_time, utc_now

NAMED_MISSING = 5
"""Missing outputs that the record names. All of them would make it grow with the tasks."""


class Validated(NamedTuple):
    """What a validation found."""

    state: JobState
    tasks_total: int
    tasks_verified: int


def load_manifest(store: VersionedStore, job_id: str) -> Manifest:
    """The manifest of a job.

    Raises:
        NoManifestError: it has none.
        RecordError: what lies there is none.
    """
    key = manifest_key(job_id)
    found = store.get(key)
    if found is None:
        raise NoManifestError(f"Job {job_id} has no manifest: it was reported, not submitted.", job_id=job_id)
    manifest = Manifest.from_json(found.value, key=key)
    if manifest.job_id != job_id:
        raise RecordError(f"the manifest is that of job {manifest.job_id[:80]!r}", key=key)
    return manifest


def missing_tasks(manifest: Manifest, complete: bytearray) -> tuple[int, ...]:
    """The tasks of a job that are not complete, by their numbers in the study."""
    numbers = range(len(complete)) if manifest.only is None else manifest.only
    return tuple(number for number, flag in zip(numbers, complete, strict=True) if not flag)


def validate(store: VersionedStore, registry: JobRegistry, job_id: str, *, first_error: str | None = None) -> Validated:
    """Compare a job's outputs with its manifest, and end it by what is there.

    A job that has ended is only compared: its record does not change any more.

    Args:
        store: where manifest and outputs are.
        registry: where the record is.
        job_id: a job whose tasks have all been worked on.
        first_error: what the record says went wrong, if something is missing.

    Raises:
        JobNotFoundError: no such job.
        NoManifestError: it has no manifest.
        InvalidTransitionError: the job is not so far.
        StoreError: the comparison failed; the job stays `validating`, and can be validated again.
    """
    manifest = load_manifest(store, job_id)
    state = registry.get_job(job_id)
    if state is None:
        raise JobNotFoundError(f"There is no job {job_id}.", job_id=job_id)
    begun = record_time(utc_now())
    if not state.is_terminal:
        try:
            state = registry.update_status(
                job_id,
                JobStatus.VALIDATING,
                validation_started_at=begun,
                validation_attempts=state.validation_attempts + 1,
            )
        except TerminalStateError:  # somebody else has just ended it
            state = registry.get_job(job_id) or state
    found = find_complete_tasks(store, manifest)
    verified, total = found.count, manifest.tasks_total
    if not state.is_terminal:
        missing = (
            f"{output_key(job_id, task, '')}{name}"
            for position, task in manifest.tasks()
            if not found.complete[position]
            for name in manifest.study.outputs or ("",)
        )
        named = [name for name, _ in zip(missing, range(NAMED_MISSING), strict=False)]
        status = JobStatus.SUCCEEDED if verified == total else JobStatus.PARTIAL if verified else JobStatus.FAILED
        error = None
        if verified < total:
            error = f"{total - verified} of {total} tasks left no complete outputs"
            error = f"{error}; the first error: {first_error}" if first_error else error
        try:
            state = registry.update_status(
                job_id,
                status,
                tasks_verified=verified,
                missing_outputs=named,
                validation_completed_at=record_time(utc_now()),
                results_path=f"results/{job_id}/",
                **({} if error is None else {"error_message": error, "error_code": "INCOMPLETE"}),
            )
        except TerminalStateError:  # another shard has come to the same end, or somebody has cancelled the job
            state = registry.get_job(job_id) or state
    return Validated(state, total, verified)
