"""Families of jobs: a job and the children that `resume` made of it.

Each child has all tasks that its parent lacked, to run or to leave to a later resume. Its id is that of the first job
with a number: `seir-1`, `seir-1.2`, `seir-1.3`. So one read each finds the members of a family, without a search.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from mopsjobs.errors import NoManifestError, RecordError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import JobState
from mopsjobs.store.base import ReadableStore, VersionedStore
from mopsjobs.studies.manifest import Manifest, load_manifest, manifest_key, with_rounds


class LaterJobs(NamedTuple):
    """The jobs that continue a job, as one read of its family has them."""

    jobs: list[JobState]
    """The child that it was last resumed as, the one that that was resumed as, and so on."""
    next_id: str
    """The id of the next child. Only one of several processes that have read it can register it."""


def read_later_jobs(registry: JobRegistry, parent: JobState) -> LaterJobs:
    """Read the jobs that continue a job. It reads the record of each descendant once."""
    root = _root_id(parent)
    descendants = list(_descendants(registry, root))
    last_children = {job.parent_job_id: job for job in descendants}
    found: list[JobState] = []
    while (child := last_children.pop((found[-1] if found else parent).job_id, None)) is not None:
        found.append(child)
    return LaterJobs(found, f"{root}.{2 + len(descendants)}")


def family_states(registry: JobRegistry, job: JobState) -> list[JobState]:
    """Return the members of a job's family, the first job first, as the registry has them.

    It reads the record of each other member, and one key more. A job that cannot have been resumed costs nothing: it
    has not ended, or was reported, not submitted.
    """
    if job.parent_job_id is None and not (job.is_terminal and "bundle" in job.metadata):
        return [job]
    root = _root_id(job)
    eldest = job if root == job.job_id else registry.get_job(root)
    return [*([] if eldest is None else [eldest]), *_descendants(registry, root)]


def ancestry(store: ReadableStore, manifest: Manifest) -> Iterator[Manifest]:
    """Yield a job's manifest, then that of its parent, and so on, as far as they exist.

    Raises:
        RecordError: if a manifest is invalid, or the job descends from itself.
        StoreError: if a manifest cannot be read.
    """
    seen = set()
    while True:
        seen.add(manifest.job_id)
        yield manifest
        if manifest.parent_job_id is None:
            return
        key = manifest_key(manifest.parent_job_id)
        if manifest.parent_job_id in seen:
            raise RecordError("the job descends from itself", key=key)
        found = store.get(key)
        if found is None:
            return
        manifest = with_rounds(store, Manifest.from_json(found.value, key=key))


def family_of(store: VersionedStore, job_id: str, manifest: Manifest | None = None) -> list[Manifest]:
    """Return a job's manifest, that of its parent, and so on; nothing for a job that was reported, not submitted.

    Args:
        store: the store of the registry.
        job_id: the job.
        manifest: its manifest, if the caller has read it. That of a large study takes a second.

    Raises:
        RecordError: if a manifest is invalid, or the job descends from itself.
        StoreError: if a manifest cannot be read.
    """
    try:
        return list(ancestry(store, manifest or load_manifest(store, job_id)))
    except NoManifestError:
        return []


def _root_id(job: JobState) -> str:
    return job.job_id if job.parent_job_id is None else re.sub(r"\.\d+$", "", job.job_id)


def _descendants(registry: JobRegistry, root: str) -> Iterator[JobState]:
    number = 2
    while (job := registry.get_job(f"{root}.{number}")) is not None:
        yield job
        number += 1
