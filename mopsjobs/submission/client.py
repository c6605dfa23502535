"""Upload, register and launch a job. An outage of the registry never stops the launch."""

from __future__ import annotations

import contextlib
import functools
import re
import secrets
from datetime import datetime
from typing import Any, NamedTuple

from mopsjobs.bundles.bundle import has_bundle, store_bundle
from mopsjobs.bundles.packing import PackedBundle
from mopsjobs.engines import CLUSTER_ENGINES, LOCAL_ENGINES, has_drop
from mopsjobs.engines.base import KUBERNETES_JOB, Engine, Launch, LaunchResult, launch_fields
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.slurm.options import wants_file_drop
from mopsjobs.engines.trust import remember_launch, remember_names
from mopsjobs.errors import (
    EngineError,
    EngineUnavailableError,
    JobExistsError,
    MopsJobsError,
    OptionError,
    StoreError,
    TooManyRetriesError,
    UnusableStoreError,
    UsageError,
    ValueTooLargeError,
    command_line,
)
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.notes import LOST_SHARDS, SUSPECT
from mopsjobs.registry.status import LAUNCH_FAILED, JobStatus
from mopsjobs.store.base import VersionedStore
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from mopsjobs.studies.manifest import Manifest, load_manifest, manifest_key
from mopsjobs.studies.outputs import find_complete_tasks
from mopsjobs.studies.study import Study
from mopsjobs.submission.offline import (
    open_outbox,
    remove_times,
    save_failed_launch,
    save_launch,
    save_submission_time,
    try_record_launch,
)
from mopsjobs.submission.session import Session
from mopsjobs.submission.shard_drop import fill_drop
from mopsjobs.utils.times import record_time, utc_now


class SubmitResult(NamedTuple):
    """A job that has been launched, and what went wrong with the registry on the way."""

    job_id: str
    launch: Launch
    launched: LaunchResult
    warnings: tuple[str, ...]


def submit_job(
    engine: Engine,
    session: Session,
    manifest: Manifest,
    launch: Launch,
    packed: PackedBundle | None = None,
    notify: tuple[str, ...] = (),
) -> SubmitResult:
    """Upload, register and launch a job.

    If the registry does not answer or refuses, `warnings` say so, and the job is launched anyway.

    Args:
        engine: where it runs.
        session: the registry and the environment. Bundle and manifest stay in this machine's directory of the job if
            the registry does not answer; a runner of this machine looks there first.
        manifest: the job.
        launch: its launch.
        packed: the code, if it may have to be uploaded; None: the store has the bundle.
        notify: rules of notifications, noted on this machine only.

    Raises:
        JobExistsError: if the id belongs to another job. Nothing was launched.
        UsageError: if the bundle is not in the store. Nothing was registered. Or if the launch failed.
        ValueTooLargeError: if bundle or manifest are too large for the store. Nothing was launched.
        UnusableStoreError: if the server of the store ignores or does not know the conditions of writes, or if the
            bucket is missing or in another region. Nothing was launched.
        StoreError: if the store cannot be opened.
        EngineError: if the launch failed. The record, if there is one, is `failed` and has the reason. It stays
            `submitting` if the engine does not say whether it has started the job.
        JobBusyError: if the job's runner is at work here, after a submission without the registry. That runner
            updates the record.
    """
    store, registry = session.store, session.registry
    warnings: list[str] = []
    is_dropped = wants_file_drop(launch.options)
    if is_dropped:
        _check_drop(manifest)
    directory = JobDir.for_job(manifest.job_id, session.env)
    try:
        _prepare(engine, registry, manifest, launch, packed, directory)
    except (UnusableStoreError, ValueTooLargeError):
        raise  # a retry cannot help
    except (StoreError, TooManyRetriesError) as error:
        if manifest.grows is not None:
            raise  # its rounds would have nowhere to go
        _save_offline(manifest, packed, directory)
        registers = "" if is_dropped else ", and registers itself later"
        warnings.append(f"{error} The job is launched anyway{registers}.")
        if engine.name in CLUSTER_ENGINES:
            explanation = (
                "Its shards report by files, and do not register it." if is_dropped
                else "Its code and its manifest are on this machine, where its shards cannot see them. They wait up"
                " to 1 hour."
            )  # fmt: skip
            warnings.append(
                f"{explanation} When the registry answers, run here: {command_line('resume', manifest.job_id)}"
            )
    try:
        if is_dropped:
            with open_outbox(directory) as outbox:
                fill_drop(directory, manifest, outbox if warnings and outbox is not None else store)
        launched = launch_remembered(engine, launch, directory, notify)
    except (EngineError, UsageError) as error:
        if warnings:
            save_failed_launch(directory, launch_fields(launch, engine.name), str(error))
        elif not _may_run(error):
            with contextlib.suppress(MopsJobsError):
                info = {"code": LAUNCH_FAILED, "message": str(error)}
                registry.finalize_job(manifest.job_id, JobStatus.FAILED, error_info=info)
        if not _may_run(error):
            error.hint = _with_resume(error.hint, manifest.job_id)
        raise
    fields = launched_fields(launch, engine.name, launched)
    if not warnings:
        warnings += try_record_launch(registry, manifest.job_id, fields)
    else:
        save_launch(directory, fields)
    return SubmitResult(manifest.job_id, launch, launched, tuple(warnings))


def _prepare(
    engine: Engine,
    registry: JobRegistry,
    manifest: Manifest,
    launch: Launch,
    packed: PackedBundle | None,
    directory: JobDir,
) -> None:
    store = registry.store
    if packed is not None:
        store_bundle(store, packed)
    elif not has_bundle(store, manifest.bundle):
        raise UsageError(f"The bundle {manifest.bundle} is not in the store.", hint="To pack the code again: --auto")
    # The manifest comes first: `resume` can make a job of a manifest without a record. A record without a manifest
    # could be seen, but never be run.
    is_new = _store_manifest(registry, manifest)
    try:
        registry.register_job(manifest.job_id, **manifest.record_fields())
    except JobExistsError:
        # Not each writer may delete keys. Another error would have the launch go on under the id of another job.
        with contextlib.suppress(StoreError):
            if is_new and not _is_registered(registry, manifest):
                store.delete(manifest_key(manifest.job_id))
        raise
    with contextlib.suppress(OSError):
        remove_times(directory)
    fields = launch_fields(launch, engine.name)  # for a resume, if the launch fails
    registry.update_status(manifest.job_id, JobStatus.SUBMITTING, **fields)


def _store_manifest(registry: JobRegistry, manifest: Manifest) -> bool:
    """Store the manifest of a new job. Return False if the same manifest was there before.

    Raises:
        JobExistsError: if there is a job of that id, or another manifest.
    """
    job_id, content, store = manifest.job_id, manifest.to_json(), registry.store
    if store.get(registry.key_of(job_id)) is not None:
        raise JobExistsError(job_id)
    if store.create_if_absent(manifest_key(job_id), content):
        return True
    found = store.get(manifest_key(job_id))
    if found is None or found.value != content:
        raise JobExistsError(
            job_id,
            f"Another submission as {job_id} was interrupted before the job was registered.",
            hint=f"Finish that one: {command_line('resume', job_id)}. Or submit this study under another id.",
        )
    return False


def _is_registered(registry: JobRegistry, manifest: Manifest) -> bool:
    """Return True if another process has registered this very submission."""
    state = registry.get_job(manifest.job_id)
    return state is not None and state.metadata.get("bundle") == manifest.bundle


def _save_offline(manifest: Manifest, packed: PackedBundle | None, directory: JobDir) -> None:
    try:
        remove_times(directory)
        with contextlib.closing(SQLiteVersionedStore(directory.outbox)) as outbox:
            if packed is not None:
                store_bundle(outbox, packed)
            outbox.create_if_absent(manifest_key(manifest.job_id), manifest.to_json())
        save_submission_time(directory, utc_now())
    except (StoreError, OSError) as error:
        raise EngineError(
            f"The registry does not answer, and this machine cannot keep the job in {directory.path}: {error}",
            hint="Name another place: XDG_STATE_HOME=/path.",
        ) from None


def _check_drop(manifest: Manifest) -> None:
    """Refuse a job whose shards would have to read outputs of others.

    Raises:
        OptionError: if it is one.
    """
    needs = (
        "a study with a reduce function, which reads the outputs of all shards" if manifest.study.reduce is not None
        else "--extend, since the outputs of the other job are in the registry"
        if manifest.reused and manifest.study.precision is None
        else "a growing job, whose shards read what is asked of them from the registry" if manifest.grows is not None
        else None
    )  # fmt: skip
    if needs is not None:
        raise OptionError(f"file_drop cannot be combined with {needs}.", "file_drop")


def _check_later_drop(state: JobState, manifest: Manifest, store: VersionedStore) -> None:
    """Refuse a drop for an active job whose shards would not see outputs that it has, and would run their tasks again.

    Raises:
        OptionError: if it is one, or if `_check_drop` refuses it.
    """
    _check_drop(manifest)
    if not has_drop(state.fields()) and find_complete_tasks(store, manifest).count:
        raise OptionError(
            "file_drop cannot begin with this launch: outputs of the job are in the registry, which its shards would"
            " not see.",
            "file_drop",
            hint=f"Run its missing tasks as a child job: {command_line('cancel', state.job_id)}, then resume it.",
        )


def _may_run(error: MopsJobsError) -> bool:
    """Return whether a launch that failed may have started the job. Its record then must not say that it ended."""
    return isinstance(error, EngineUnavailableError) and error.sent


def _with_resume(hint: str | None, job_id: str) -> str:
    """Return the hint for a launch that failed, with the job: it has a record, and maybe an id that no user chose."""
    again = f"Launch it again, with other flags if needed: {command_line('resume', job_id)}"
    return again if hint is None else f"{hint.rstrip('.')}. {again}"


def launch_remembered(
    engine: Engine, launch: Launch, directory: JobDir, notify: tuple[str, ...] | None
) -> LaunchResult:
    """Launch a job, after noting on this machine what its user has chosen for it.

    Args:
        engine: where it runs.
        launch: the launch.
        directory: the job's.
        notify: the rules of notifications that the user has named; None for those of an earlier launch.

    Raises:
        UsageError: if an option is invalid.
        EngineError: if the launch failed, or if this machine's disk cannot be written.
    """
    remember_names(directory, notify)  # a short job ends at once
    # Before the launch too: if that fails, a resume needs no trust in what the user has chosen here.
    remember_launch(directory, engine.name, {"python": launch.python, **launch.options})
    return engine.launch(launch)


def launch_again(
    state: JobState, engine: Engine, launch: Launch, notify: tuple[str, ...] | None, session: Session
) -> tuple[str, ...]:
    """Launch an active job again, whose record keeps the options of this launch.

    The sign of life is written before: a launch may take seconds, and after it, the runner may have given one itself.

    Args:
        state: the record.
        engine: where it runs.
        launch: the launch.
        notify: see `launch_remembered`.
        session: the registry and the environment.

    Returns:
        A warning if the record could not be written.

    Raises:
        InvalidTransitionError: if the job has ended meanwhile. Nothing was launched.
        OptionError: if the job cannot have a drop of files. Nothing was launched.
        UsageError, EngineError: see `launch_remembered`.
    """
    drop_of = load_manifest(session.store, state.job_id) if wants_file_drop(launch.options) else None
    if drop_of is not None:
        _check_later_drop(state, drop_of, session.store)
    sign_of_life = functools.partial(relaunched_fields, state=state, began_at=session.now())
    is_noted = False
    with contextlib.suppress(StoreError, TooManyRetriesError):
        before = launch_fields(launch, engine.name)  # suspect, until the engine has taken the launch
        session.registry.update_fields(state.job_id, **(sign_of_life(before) | {"metadata": before["metadata"]}))
        is_noted = True
    directory = JobDir.for_job(state.job_id, session.env)
    if drop_of is not None:
        fill_drop(directory, drop_of, session.store)
    launched = launch_remembered(engine, launch, directory, notify)
    fields = sign_of_life(launched_fields(launch, engine.name, launched))
    if is_noted:
        fields.pop("heartbeat_at", None)  # the runner may have given a later one
    return try_record_launch(session.registry, state.job_id, fields)


def launched_fields(launch: Launch, engine: str, launched: LaunchResult) -> dict[str, Any]:
    """Return the fields of a record after a launch: those from before it, and those that only the launch knows."""
    names = {"k8s_namespace": launched.k8s_namespace, "k8s_uid": launched.k8s_uid}
    fields = launch_fields(launch, engine)
    metadata = {**fields["metadata"], **launched.metadata}
    if launched.k8s_name is not None:
        metadata[KUBERNETES_JOB] = launched.k8s_name
    return {**fields, "metadata": metadata, **{name: value for name, value in names.items() if value is not None}}


def relaunched_fields(fields: dict[str, Any], state: JobState, began_at: datetime) -> dict[str, Any]:
    """Return the fields of a record that another launch of an active job sets.

    The launch counts as a sign of life: the job is no longer suspect, unless its runner stays silent. That of a cluster
    need not report before it runs.

    Args:
        fields: those of each launch.
        state: the record before it.
        began_at: a time before it, so that a runner that never reported can be told from one that did.
    """
    is_sign = state.heartbeat_at is not None or state.engine in LOCAL_ENGINES
    heartbeat = {"heartbeat_at": record_time(began_at)} if is_sign else {}
    marks = {name: None for name in (SUSPECT, LOST_SHARDS) if state.metadata.get(name) is not None}
    return {**fields, **heartbeat, "metadata": {**fields["metadata"], **marks}}


def new_job_id(study: Study, now: datetime | None = None) -> str:
    """Return an id for a new job: the model's name, the time, and four random hexadecimal digits."""
    words = re.sub(r"[^A-Za-z0-9]+", "-", study.model.rpartition(":")[0].rpartition(".")[2] or study.model).strip("-")
    return f"{words.lower()[:40] or 'job'}-{now or utc_now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
