"""Keep a submission on this machine while the registry does not answer, and deliver it when it does.

`engines/job_dir.py` names the files. A runner of this machine reads and delivers them. Pods cannot see them: for pods,
`resume` delivers.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from mopsjobs.engines.job_dir import JobDir
from mopsjobs.errors import (
    InvalidKeyError,
    InvalidTransitionError,
    JobExistsError,
    RecordError,
    StoreError,
    TooManyRetriesError,
    UsageError,
    ValueTooLargeError,
)
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import check_field
from mopsjobs.registry.keys import BUNDLE, MACHINE, may_carry
from mopsjobs.registry.status import LAUNCH_FAILED, JobStatus
from mopsjobs.store.base import Entry, VersionedStore
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from mopsjobs.studies.manifest import Manifest, manifest_key
from mopsjobs.utils.files import replace_file
from mopsjobs.utils.json_strict import read_json
from mopsjobs.utils.times import json_time, parse_time


def remove_times(directory: JobDir) -> None:
    """Remove the times of an earlier job that had the same id."""
    for path in (directory.submission_time, *directory.start_files()):
        path.unlink(missing_ok=True)


def save_submission_time(directory: JobDir, moment: datetime) -> None:
    """Save when a job was submitted without the registry."""
    replace_file(str(directory.submission_time), json_time(moment).encode())


def _backdated_registry(registry: JobRegistry, directory: JobDir) -> JobRegistry:
    """Return a registry that writes as of the time of submission; as of now, if that time is not saved or not valid."""
    with contextlib.suppress(OSError, ValueError):
        return registry.backdated_to(parse_time(directory.submission_time.read_text("ascii")))
    return registry


def shard_started_at(directory: JobDir, shard: int, now: datetime | None) -> datetime | None:
    """Return when the first task of a shard began on this machine, in this run or an earlier one.

    Args:
        directory: the job's.
        shard: its number.
        now: saved as the start if no earlier run has saved one; None: this run has no task.
    """
    path = directory.start_file(shard)
    with contextlib.suppress(OSError, ValueError):
        return parse_time(path.read_text("ascii"))
    if now is not None:
        with contextlib.suppress(OSError):  # a lost start does not fail the job
            replace_file(str(path), json_time(now).encode())
    return now


def save_launch(directory: JobDir, fields: Mapping[str, object]) -> None:
    """Save what the record of a job is to say of its launch."""
    replace_file(str(directory.launch_fields), json.dumps(fields).encode())


def save_failed_launch(directory: JobDir, fields: Mapping[str, object], message: str) -> None:
    """Save the options and the error of a launch that failed without the registry. A full disk loses them."""
    with contextlib.suppress(OSError):
        save_launch(directory, {**fields, "error_code": LAUNCH_FAILED, "error_message": message})


def load_offline(directory: JobDir, job_id: str) -> tuple[Manifest | None, dict[str, object]]:
    """Load the manifest of a job that this machine keeps, and the fields of its launch.

    Returns:
        None and no fields, where this machine keeps none.

    Raises:
        RecordError: if a file is not valid.
    """
    manifest = None
    if directory.outbox.exists():  # opening creates it
        with contextlib.closing(SQLiteVersionedStore(directory.outbox)) as outbox:
            found = outbox.get(manifest_key(job_id))
            manifest = None if found is None else Manifest.from_json(found.value, key=manifest_key(job_id))
    return manifest, _load_launch(directory.launch_fields)


def _load_launch(path: Path) -> dict[str, object]:
    """Return the saved fields of a launch; none, if the file does not exist.

    Raises:
        RecordError: if the file holds anything else than fields of a record.
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


def register_offline(directory: JobDir, manifest: Manifest, registry: JobRegistry) -> None:
    """Register a job that was submitted without the registry, with the fields of its launch.

    Raises:
        StoreError, TooManyRetriesError: if the record could not be written.
    """
    registry = _backdated_registry(registry, directory)
    with contextlib.suppress(JobExistsError):
        registry.register_job(manifest.job_id, **manifest.record_fields())
    _deliver_launch(directory, manifest.job_id, registry)


def record_launch(registry: JobRegistry, job_id: str, fields: Mapping[str, object]) -> None:
    """Move a record to `scheduled`, unless the runner was faster and has moved it further.

    Raises:
        StoreError, TooManyRetriesError: if the record could not be written.
    """
    try:
        registry.update_status(job_id, JobStatus.SCHEDULED, **fields)
    except InvalidTransitionError:
        if fields:
            with contextlib.suppress(InvalidTransitionError):
                registry.update_fields(job_id, **fields)


def try_record_launch(registry: JobRegistry, job_id: str, fields: Mapping[str, object]) -> tuple[str, ...]:
    """Record a launch as `record_launch` does. Return a warning if the record could not be written."""
    try:
        record_launch(registry, job_id, fields)
    except (StoreError, TooManyRetriesError) as error:
        return (f"{error} The job is launched; its record follows.",)
    return ()


def _deliver_launch(directory: JobDir, job_id: str, registry: JobRegistry) -> None:
    if directory.launch_fields.exists():
        fields = _load_launch(directory.launch_fields)
        if fields.get("error_code") == LAUNCH_FAILED:
            # It is not launched, and not over: a resume does that with these options.
            options = {name: value for name, value in fields.items() if not name.startswith("error_")}
            with contextlib.suppress(InvalidTransitionError):
                registry.update_fields(job_id, **options)
        else:
            record_launch(registry, job_id, fields)
        directory.launch_fields.unlink(missing_ok=True)


def deliver_offline(
    directory: JobDir,
    job_id: str,
    store: VersionedStore,
    registry: JobRegistry,
    on_refused: Callable[[str, StoreError], None],
) -> bool:
    """Move what this machine keeps of a job into the store, and register the job.

    A delivery that was interrupted goes on at the next call.

    Args:
        directory: the job's.
        job_id: the job.
        store: where bundle, manifest and outputs belong.
        registry: where the job belongs.
        on_refused: see `deliver`.

    Returns:
        False if this machine keeps nothing of the job.

    Raises:
        JobExistsError: if the id belongs to another job by now. Everything stays on this machine.
        RecordError: if the manifest on this machine is not valid.
        StoreError: if the store does not answer or refuses; see `deliver`.
    """
    if not has_undelivered(directory):
        return False
    registry = _backdated_registry(registry, directory)
    if directory.outbox.exists():  # opening creates it
        with contextlib.closing(SQLiteVersionedStore(directory.outbox)) as outbox:
            # The record comes first: pods begin as soon as they see the manifest, and then write into the record.
            _register(outbox, job_id, store, registry)
            deliver(outbox, store, job_id, on_refused)
    _deliver_launch(directory, job_id, registry)
    return True


def has_undelivered(directory: JobDir) -> bool:
    """Return True if this machine keeps something of a job that the registry does not have yet.

    Raises:
        StoreError: if the outbox cannot be read.
    """
    if directory.launch_fields.exists():
        return True
    if not directory.outbox.exists():  # opening creates it
        return False
    with contextlib.closing(SQLiteVersionedStore(directory.outbox)) as outbox:
        return next(iter(outbox.list_keys()), None) is not None


def _register(outbox: VersionedStore, job_id: str, store: VersionedStore, registry: JobRegistry) -> None:
    """Register the job of a manifest in the outbox, unless that happened before the outage.

    Raises:
        JobExistsError: if the id belongs to another job.
    """
    key = manifest_key(job_id)
    found = outbox.get(key)
    if found is None:
        return
    manifest = Manifest.from_json(found.value, key=key)
    stored = store.get(key)
    state = registry.get_job(job_id)
    if stored is None:
        is_same_job = state is None or state.metadata.get("bundle") == manifest.bundle
    else:
        is_same_job = stored.value == found.value
    if is_same_job and state is None:
        registry.register_job(job_id, **manifest.record_fields())
    if not is_same_job:
        raise JobExistsError(
            job_id, f"In the registry, {job_id} is another job: what this machine keeps of it was not delivered."
        )


VALUE_ERRORS = (ValueTooLargeError, InvalidKeyError)
"""What is wrong with one value, and with no other."""


def deliver(
    outbox: VersionedStore,
    store: VersionedStore,
    job_id: str,
    on_refused: Callable[[str, StoreError], None],
    is_over: Callable[[], bool] = lambda: False,
    relay: str = MACHINE,
) -> bool:
    """Move the values of an outbox into the store, in the order of their keys: a bundle goes before its manifest.

    A value that the store has already stays: values are written by `create_if_absent`.

    Args:
        outbox: where the values wait.
        store: where they belong.
        job_id: the job of the outbox. A model can write there, so keys that the relay may not carry are refused.
        on_refused: called with key and reason for each value that can never be stored; it is removed.
        is_over: called before each value; returns True to leave the rest.
        relay: `keys.MACHINE`, or `keys.SHARD` for the outbox of a shard.

    Returns:
        True if the outbox is empty.

    Raises:
        StoreUnavailableError: if the store does not answer. What was moved before stays moved.
        StoreError: if the store refuses every value.
    """
    for entry in outbox.scan():
        if is_over():
            return False
        value = entry.value if entry.value is not None else _value(outbox, entry)
        if value is not None:
            try:
                _check_relayed(relay, entry.key, value, job_id)
                store.create_if_absent(entry.key, value)
            except VALUE_ERRORS as error:
                on_refused(entry.key, error)
        outbox.delete(entry.key)
    return True


def _check_relayed(relay: str, key: str, value: bytes, job_id: str) -> None:
    """Refuse a key that the relay may not carry, and a bundle whose name is not the digest of its bytes."""
    bundle = BUNDLE.parse(key)
    is_named_so = bundle is None or hashlib.sha256(value).hexdigest() == bundle["bundle"]
    if not (is_named_so and may_carry(relay, key, job_id)):
        raise InvalidKeyError(f"it is not of job {job_id}.")


def _value(store: VersionedStore, entry: Entry) -> bytes | None:
    found = store.get(entry.key)
    return None if found is None else found.value
