"""A job and those that were submitted for what it had left undone: its children, each with all that its parent lacked.

The id of a child is that of the first of them with a number: `seir-1`, `seir-1.2`, `seir-1.3`. So nobody has to search
for them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mopsjobs.errors import RecordError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import JobState, check_new_job_id
from mopsjobs.store.base import VersionedStore
from mopsjobs.studies.manifest import Manifest, manifest_key


def child_id(registry: JobRegistry, parent: JobState) -> str:
    """The id for a new child of this job.

    Raises:
        UsageError: it would be too long.
    """
    root = _root(parent)
    return check_new_job_id(f"{root}.{2 + sum(1 for _ in _descendants(registry, root))}")


def last_child(registry: JobRegistry, parent: JobState) -> JobState | None:
    """The child that a job was last resumed as, or None."""
    children = [job for job in _descendants(registry, _root(parent)) if job.parent_job_id == parent.job_id]
    return children[-1] if children else None


def ancestry(store: VersionedStore, manifest: Manifest) -> Iterator[Manifest]:
    """A job's manifest, then that of its parent, and so on, as far as they are there.

    Raises:
        RecordError: what lies there is none, or the job descends from itself.
        StoreError: one cannot be read.
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
        manifest = Manifest.from_json(found.value, key=key)


def _root(job: JobState) -> str:
    return job.job_id if job.parent_job_id is None else re.sub(r"\.\d+$", "", job.job_id)


def _descendants(registry: JobRegistry, root: str) -> Iterator[JobState]:
    number = 2
    while (job := registry.get_job(f"{root}.{number}")) is not None:
        yield job
        number += 1
