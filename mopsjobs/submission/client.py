"""JobSubmissionClient: upload, register, launch. What goes wrong with the registry never stops the launch."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from mopsjobs.bundles.bundle import has_bundle, store_bundle
from mopsjobs.bundles.packing import PackedBundle
from mopsjobs.engines.base import Engine, Launch, Launched
from mopsjobs.errors import (
    EngineError,
    JobExistsError,
    MopsJobsError,
    StoreError,
    TooManyRetriesError,
    UsageError,
    ValueTooLargeError,
)
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.status import JobStatus
from mopsjobs.store.base import VersionedStore
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from mopsjobs.studies.manifest import Manifest, manifest_key
from mopsjobs.studies.study import Study
from mopsjobs.submission.offline import OUTBOX, record_launch, remove_times, save_launch, save_submission_time
from mopsjobs.utils.times import utc_now


class Submitted(NamedTuple):
    """A job that has been launched, and what did not go well on the way."""

    job_id: str
    launched: Launched
    warnings: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """What is to be submitted."""

    job_id: str
    study: Study
    bundle: str
    packed: PackedBundle | None = None
    """The code, where it may have to be uploaded; None when the store has it."""
    only: tuple[int, ...] | None = None
    parent_job_id: str | None = None
    owner: str | None = None
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def manifest(self, engine: str) -> Manifest:
        """What the runner will read, on this engine."""
        return Manifest(
            job_id=self.job_id,
            study=self.study,
            bundle=self.bundle,
            only=self.only,
            parent_job_id=self.parent_job_id,
            engine=engine,
            owner=self.owner,
            labels=self.labels,
        )


class JobSubmissionClient:
    """Submits studies to one engine."""

    def __init__(
        self,
        store: VersionedStore,
        registry: JobRegistry,
        engine: Engine,
        *,
        kept_at: Callable[[str], Path],
    ) -> None:
        """Prepare to submit; nothing is sent yet.

        Args:
            store: where bundle and manifest go.
            registry: where the job is registered.
            engine: where it runs.
            kept_at: this machine's directory of a job, where its files stay if the store cannot be reached; the
                runner looks there first.
        """
        self._store = store
        self._registry = registry
        self._engine = engine
        self._kept_at = kept_at

    def submit(self, submission: Submission, launch: Launch) -> Submitted:
        """Upload, register and launch a job.

        A registry that cannot be reached, or refuses, is told of in `warnings`; the job is launched all the same.

        Raises:
            JobExistsError: the id is taken. Nothing was launched.
            UsageError: the bundle is not in the store. Nothing was registered.
            ValueTooLargeError: the store takes no bundle or manifest of that size. Nothing was launched.
            EngineError, UsageError: the launch failed. The record, if there is one, says `failed` and why.
            JobBusyError: its runner is at work here, of a submission that the registry has not heard of yet. The
                record, if there is one, is that runner's to bring up to date.
        """
        warnings: list[str] = []
        with contextlib.suppress(OSError):
            remove_times(self._kept_at(submission.job_id))
        try:
            self._prepare(submission)
        except ValueTooLargeError:
            raise  # waiting does not make it fit
        except (StoreError, TooManyRetriesError) as error:
            self._keep(submission)
            warnings.append(f"{error} The job is launched without it, and registers itself when it answers.")
            if self._engine.name == "kubernetes":
                warnings.append(
                    "Its code and its manifest stayed on this machine, where its pods cannot see them; they wait for an"
                    f" hour. When the registry answers, type here: mops-jobs resume {submission.job_id}"
                )
        try:
            launched = self._engine.launch(launch)
        except (EngineError, UsageError) as error:
            if not warnings:
                with contextlib.suppress(MopsJobsError):
                    info = {"code": "LAUNCH", "message": str(error)}
                    self._registry.finalize_job(submission.job_id, JobStatus.FAILED, error_info=info)
            raise
        fields = launched_fields(launched)
        if not warnings:
            try:
                record_launch(self._registry, submission.job_id, fields)
            except (StoreError, TooManyRetriesError) as error:
                warnings.append(f"{error} The job is launched; its record follows.")
        else:
            save_launch(self._kept_at(submission.job_id), fields)
        return Submitted(submission.job_id, launched, tuple(warnings))

    def _prepare(self, submission: Submission) -> None:
        if submission.packed is not None:
            store_bundle(self._store, submission.packed)
        elif not has_bundle(self._store, submission.bundle):
            raise UsageError(f"The bundle {submission.bundle} is not in the store.", hint="--auto packs the code anew.")
        manifest = submission.manifest(self._engine.name)
        # First the manifest: cut short after it, a submission has left nothing, or what `resume` makes a job of. A
        # record without a manifest could be seen, and never be run.
        is_made = self._place(manifest)
        try:
            self._registry.register_job(submission.job_id, **manifest.record_fields())
        except JobExistsError:
            if is_made and not self._is_ours(manifest):
                self._store.delete(manifest_key(submission.job_id))
            raise
        self._registry.update_status(submission.job_id, JobStatus.SUBMITTING)

    def _place(self, manifest: Manifest) -> bool:
        """Store the manifest of a job that is to be; tells whether it was not there before.

        Raises:
            JobExistsError: there is a job of that id, or something else was submitted as it.
        """
        job_id, content = manifest.job_id, manifest.to_json()
        if self._store.get(self._registry.key_of(job_id)) is not None:
            raise JobExistsError(f"Job {job_id} is already registered.", job_id=job_id)
        if self._store.create_if_absent(manifest_key(job_id), content):
            return True
        found = self._store.get(manifest_key(job_id))
        if found is None or found.value != content:
            raise JobExistsError(
                f"Something else was submitted as {job_id}, and was cut short before it was registered.",
                job_id=job_id,
                hint=f"Run it (mops-jobs resume {job_id}), or submit this under another id.",
            )
        return False

    def _is_ours(self, manifest: Manifest) -> bool:
        """Whether the record of the id is that of this very submission, by another process."""
        state = self._registry.get_job(manifest.job_id)
        return state is not None and state.metadata.get("bundle") == manifest.bundle

    def _keep(self, submission: Submission) -> None:
        directory = self._kept_at(submission.job_id)
        try:
            with contextlib.closing(SQLiteVersionedStore(directory / OUTBOX)) as kept:
                if submission.packed is not None:
                    store_bundle(kept, submission.packed)
                manifest = submission.manifest(self._engine.name)
                kept.create_if_absent(manifest_key(submission.job_id), manifest.to_json())
            save_submission_time(directory, utc_now())
        except (StoreError, OSError) as error:
            raise EngineError(
                f"The registry does not answer, and this machine cannot keep the job in {directory}: {error}",
                hint="Name another place: XDG_STATE_HOME=/path.",
            ) from None


def launched_fields(launched: Launched) -> dict[str, object]:
    """What the record says of a launch."""
    names = {
        "k8s_name": launched.k8s_name,
        "k8s_namespace": launched.k8s_namespace,
        "k8s_uid": launched.k8s_uid,
        "metadata": dict(launched.metadata) or None,
    }
    return {name: value for name, value in names.items() if value is not None}


def new_job_id(study: Study, now: datetime | None = None) -> str:
    """An id for a job of this study: what it is, when it was submitted, and four letters against coincidence."""
    words = re.sub(r"[^A-Za-z0-9]+", "-", study.model.rpartition(":")[0].rpartition(".")[2] or study.model).strip("-")
    return f"{words.lower()[:40] or 'job'}-{now or utc_now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
