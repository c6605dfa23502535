"""What a submission keeps on this machine while the registry is away, and its delivery when that is back.

    outbox.db        bundle and manifest under their keys; the runner of this machine adds outputs
    launched.json    the fields of the record that only the launch knows: the names in a cluster
    submitted_at     when that was: the record is written later, and tells of it
    shard-N.began    when its first task began on this machine, since the registry may be told long after

A runner of this machine reads it there, and delivers it. Pods cannot: for them somebody has to, by `resume`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from mopsjobs.errors import (
    InvalidKeyError,
    InvalidTransitionError,
    JobExistsError,
    RecordError,
    StoreError,
    UsageError,
    ValueTooLargeError,
)
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import check_field
from mopsjobs.registry.status import JobStatus
from mopsjobs.store.base import Entry, VersionedStore
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from mopsjobs.studies.manifest import Manifest, manifest_key
from mopsjobs.utils.files import replace_file
from mopsjobs.utils.json_strict import read_json
from mopsjobs.utils.times import json_time, parse_time

OUTBOX = "outbox.db"


LAUNCHED = "launched.json"


SUBMITTED = "submitted_at"


def remove_times(directory: Path) -> None:
    """Forget what is kept here of another job's times, that had the same id."""
    for path in (directory / SUBMITTED, *directory.glob("shard-*.began")):
        path.unlink(missing_ok=True)


def save_submission_time(directory: Path, moment: datetime) -> None:
    """Keep when a job was submitted of which the registry could not be told."""
    replace_file(str(directory / SUBMITTED), json_time(moment).encode())


def _as_submitted(registry: JobRegistry, directory: Path) -> JobRegistry:
    """The registry, that writes as of when the job was submitted; as of now, where that is not kept, or is no time."""
    with contextlib.suppress(OSError, ValueError):
        return registry.backdated_to(parse_time((directory / SUBMITTED).read_text("ascii")))
    return registry


def shard_started_at(directory: Path, shard: int, now: datetime | None) -> datetime | None:
    """When a shard began its first task here: an earlier run, or else now, which is kept. None where neither is so."""
    path = directory / f"shard-{shard}.began"
    with contextlib.suppress(OSError, ValueError):
        return parse_time(path.read_text("ascii"))
    if now is not None:
        with contextlib.suppress(OSError):  # no reason for a job to fail
            replace_file(str(path), json_time(now).encode())
    return now


def save_launch(directory: Path, fields: Mapping[str, object]) -> None:
    """Keep what the record of a job is to say of its launch."""
    replace_file(str(directory / LAUNCHED), json.dumps(fields).encode())


def load_offline(directory: Path, job_id: str) -> tuple[Manifest | None, dict[str, object]]:
    """The manifest that this machine keeps of a job, if it does, and what its record is to say of its launch."""
    manifest = None
    if (directory / OUTBOX).exists():  # opening it makes it
        with contextlib.closing(SQLiteVersionedStore(directory / OUTBOX)) as kept:
            found = kept.get(manifest_key(job_id))
            manifest = None if found is None else Manifest.from_json(found.value, key=manifest_key(job_id))
    launched = directory / LAUNCHED
    return manifest, _launched(launched)


def _launched(path: Path) -> dict[str, object]:
    """The fields that are kept under that path; none, where it is not there.

    Raises:
        RecordError: they are no fields of a record.
    """
    if not path.exists():
        return {}
    try:
        fields = read_json(path.read_bytes())
        if not isinstance(fields, dict):
            raise RecordError("not a JSON object")
        for name, value in fields.items():
            check_field(name, value)
    except RecordError as error:
        raise RecordError(error.reason, key=str(path)) from None
    except UsageError as error:
        raise RecordError(error.message, key=str(path)) from None
    return fields


def register_offline(directory: Path, manifest: Manifest, registry: JobRegistry) -> None:
    """Register a job of which the registry has not heard, and what this machine keeps of its launch.

    Raises:
        StoreError, TooManyRetriesError: it could not be written.
    """
    registry = _as_submitted(registry, directory)
    with contextlib.suppress(JobExistsError):
        registry.register_job(manifest.job_id, **manifest.record_fields())
    launched = directory / LAUNCHED
    if launched.exists():
        record_launch(registry, manifest.job_id, _launched(launched))
        launched.unlink(missing_ok=True)


def record_launch(registry: JobRegistry, job_id: str, fields: Mapping[str, object]) -> None:
    """The record says `scheduled`, unless the runner was faster and says more already.

    Raises:
        StoreError, TooManyRetriesError: it could not be written.
    """
    try:
        registry.update_status(job_id, JobStatus.SCHEDULED, **fields)
    except InvalidTransitionError:
        if fields:
            with contextlib.suppress(InvalidTransitionError):
                registry.update_fields(job_id, **fields)


def deliver_offline(
    directory: Path,
    job_id: str,
    store: VersionedStore,
    registry: JobRegistry,
    refused: Callable[[str, StoreError], None],
) -> bool:
    """Bring what this machine keeps of a job into the store, and the job into the registry. False if it keeps nothing.

    Stopped half-way, it goes on when it is called again.

    Args:
        directory: this machine's, of the job.
        job_id: the job.
        store: where bundle, manifest and outputs belong.
        registry: where the job belongs.
        refused: see `deliver`.

    Raises:
        JobExistsError: the id has become that of another job. All stays here.
        RecordError: what is kept as manifest is none.
        StoreError: see `deliver`.
    """
    launched = directory / LAUNCHED
    registry = _as_submitted(registry, directory)
    with contextlib.ExitStack() as stack:
        kept = None
        if (directory / OUTBOX).exists():  # opening it makes it
            kept = stack.enter_context(contextlib.closing(SQLiteVersionedStore(directory / OUTBOX)))
        has_values = kept is not None and next(iter(kept.list_keys()), None) is not None
        if not has_values and not launched.exists():
            return False
        if kept is not None:
            # First the record: pods begin as soon as they see the manifest, and then write into it.
            _register(kept, job_id, store, registry)
            deliver(kept, store, refused)
        if launched.exists():
            record_launch(registry, job_id, _launched(launched))
            launched.unlink(missing_ok=True)
    return True


def _register(kept: VersionedStore, job_id: str, store: VersionedStore, registry: JobRegistry) -> None:
    """Register the job of a manifest that is kept, unless that was done before the registry went away."""
    key = manifest_key(job_id)
    found = kept.get(key)
    if found is None:
        return
    manifest = Manifest.from_json(found.value, key=key)
    there = store.get(key)
    state = registry.get_job(job_id)
    if there is None:
        is_ours = state is None or state.metadata.get("bundle") == manifest.bundle
    else:
        is_ours = there.value == found.value
    if is_ours and state is None:
        registry.register_job(job_id, **manifest.record_fields())
    if not is_ours:
        raise JobExistsError(
            f"Job {job_id} is another one in the registry by now: what this machine keeps of it was not delivered.",
            job_id=job_id,
        )


REFUSED = (ValueTooLargeError, InvalidKeyError)
"""What is wrong with one value, and with no other."""


def deliver(
    kept: VersionedStore,
    store: VersionedStore,
    refused: Callable[[str, StoreError], None],
    is_over: Callable[[], bool] = lambda: False,
) -> bool:
    """Move what is kept into the store, in the order of the keys: a bundle before the manifest that names it.

    Written by `create_if_absent`: what is there already stays. Tells whether nothing is left.

    Args:
        kept: where it waits.
        store: where it belongs.
        refused: called with key and reason for each value that can never be stored; it is given up.
        is_over: asked before each whether to leave the rest.

    Raises:
        StoreUnavailableError: the store does not answer. What was moved before stays moved.
        StoreError: it takes nothing more.
    """
    for entry in kept.scan():
        if is_over():
            return False
        value = entry.value if entry.value is not None else _value(kept, entry)
        if value is not None:
            try:
                store.create_if_absent(entry.key, value)
            except REFUSED as error:
                refused(entry.key, error)
        kept.delete(entry.key)
    return True


def _value(store: VersionedStore, entry: Entry) -> bytes | None:
    found = store.get(entry.key)
    return None if found is None else found.value
