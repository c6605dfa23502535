"""Provenance of a job: which code, study, interpreter, packages and machines its outputs come from.

It is made of the record, the manifest, the bundle, the notes of its runners and its ledger. A part that an earlier
version did not note is null, and a part that cannot be read is a problem. Nothing of it is a secret: every reader of
the registry can read the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mopsjobs.app.jobs.find_job import find_state
from mopsjobs.app.jobs.job_tasks import mirror_ledger
from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import FreshnessPolicy
from mopsjobs.bundles.bundle import load_bundle
from mopsjobs.bundles.extraction import BundleError, BundleFile, list_files
from mopsjobs.bundles.git_state import GitState
from mopsjobs.cache.queries.ledgers import hosts_of
from mopsjobs.cache.rows import job_json_from_state
from mopsjobs.engines.base import engine_of, last_launch, recorded_launch
from mopsjobs.errors import (
    CacheError,
    InvalidKeyError,
    JobNotFoundError,
    NoManifestError,
    RecordError,
    StoreError,
    UsageError,
    ValueTooLargeError,
)
from mopsjobs.ledger.environment import Environment, environment_keys, parse_environment
from mopsjobs.ledger.format import FilesOpened
from mopsjobs.store.base import VersionedStore
from mopsjobs.studies.calibration import Calibration
from mopsjobs.studies.journal import SETS_OF, calibration_of
from mopsjobs.studies.manifest import Manifest, Reuse, load_manifest
from mopsjobs.studies.precision import Precision
from mopsjobs.studies.seeds import MOPS_JOBS
from mopsjobs.studies.study import FIELDS, Study, json_of
from mopsjobs.submission.infer_end import read_files_opened
from mopsjobs.utils.text import strip_control_characters

SCHEMA_VERSION = 1

MAX_IMAGE_CHARACTERS = 500


class Provenance(NamedTuple):
    """The provenance of a job."""

    job: Mapping[str, Any]
    manifest: Manifest | None
    """None if mops-jobs did not submit the job."""
    archive: bytes | None
    """The archive of the bundle; None if it cannot be read."""
    files: list[BundleFile] | None
    environments: list[Environment]
    """The environments of its runners, in no order; empty if an earlier version ran it, or no task began."""
    hosts: list[str] | None
    """The machines that ran its tasks; None if there is no ledger, or if they were not looked for."""
    files_read: FilesOpened
    """The files of the bundle that its tasks may have read; None if that is not known."""
    problems: list[str]

    @property
    def job_id(self) -> str:
        """Return the id of the job."""
        return str(self.job["job_id"])

    @property
    def submitter(self) -> str | None:
        """Return the version of mops-jobs that submitted the job; None if it was not noted."""
        return self.manifest.origin.mops_jobs if self.manifest and self.manifest.origin else None

    @property
    def git(self) -> GitState | None:
        """Return the commit of the code; None if it was not noted."""
        return self.manifest.origin.git if self.manifest and self.manifest.origin else None

    @property
    def reused(self) -> tuple[Reuse, ...]:
        """Return the tasks that other jobs have done."""
        return () if self.manifest is None else self.manifest.reused

    @property
    def image(self) -> str | None:
        """Return the image of its pods, as the launch named it; None if it has no pods, or if it is unknown."""
        if engine_of(self.job) != "kubernetes":
            return None
        image = recorded_launch(self.job["metadata"], "kubernetes").get("image")
        return image and strip_control_characters(image[:MAX_IMAGE_CHARACTERS])

    @property
    def allows_old_checkpoints(self) -> bool:
        """Return whether tasks could go on from checkpoints of other code or packages."""
        return last_launch(self.job).get("allow_old_checkpoints") == "yes"

    @property
    def image_digest(self) -> str | None:
        """Return the digest of the image, as `sha256:…`; None if the launch did not name it."""
        _, separator, digest = (self.image or "").partition("@")
        return digest if separator else None

    def to_json(self) -> dict[str, object]:
        """Return the provenance as scripts get it; see docs/reference/json.md."""
        job, manifest = self.job, self.manifest
        commit, is_dirty = self.git or (None, None)
        return {
            "schema_version": SCHEMA_VERSION,
            **{name: job[name] for name in ("job_id", "parent_job_id", "status", "owner", "engine")},
            **{name: job[name] for name in ("created_at", "started_at", "ended_at")},
            "submitted_by": self.submitter,
            "study": None if manifest is None else study_json(manifest),
            "calibration": None if manifest is None else calibration_json(manifest),
            "from_calibration": None if manifest is None else origin_of_sets(manifest),
            "bundle": None if manifest is None else manifest.bundle,
            "reused": [{"job_id": one.job_id, "tasks": one.task_count} for one in self.reused],
            "git_commit": commit,
            "git_dirty": is_dirty,
            "files": None if self.files is None else [file_json(file) for file in self.files],
            "files_read": None if self.files_read is None else sorted(self.files_read),
            "environments": [environment.to_json() for environment in self.environments],
            "old_checkpoints": self.allows_old_checkpoints,
            "image": self.image,
            "image_digest": self.image_digest,
            "hosts": self.hosts,
        }


def read_provenance(name: str, app: App, *, with_hosts: bool = True) -> Provenance:
    """Read the provenance of a job. It costs a few requests, and the download of its bundle.

    Args:
        name: the job, as `find_job` takes it.
        app: the run.
        with_hosts: whether to look for the machines, for which the ledger is mirrored.

    Raises:
        JobNotFoundError: if the job does not exist.
        AmbiguousJobError: if several ids begin with a short name, and are not all of one family.
        StoreError: if the registry cannot be read.
    """
    state = find_state(name, app)
    problems: list[str] = []
    manifest, archive, files = None, None, None
    with noting(problems), contextlib.suppress(NoManifestError):
        manifest = load_manifest(app.store, state.job_id)
    if manifest is not None:
        with noting(problems):
            archive = load_bundle(app.store, manifest.bundle)
            files = list_files(archive)
    files_read: FilesOpened = None
    with noting(problems):
        files_read = read_files_opened(app.store, state.job_id)
    return Provenance(
        job_json_from_state(state, now=app.now().timestamp()),
        manifest,
        None if files is None else archive,
        files,
        list(_read_environments(app.store, state.job_id, problems)),
        _find_hosts(state.job_id, app, problems) if with_hosts else None,
        files_read,
        problems,
    )


def _find_hosts(job_id: str, app: App, problems: list[str]) -> list[str] | None:
    """Return the machines that ran tasks, by the ledger; None if the job has none, or if it cannot be read."""
    try:
        problem: Exception | None = mirror_ledger(job_id, app, FreshnessPolicy())
    except (NoManifestError, JobNotFoundError):
        return None
    except (StoreError, CacheError, RecordError) as error:
        problem = error
    if problem is not None:
        problems.append(str(problem))
    return app.cache.read_cached(lambda connection: hosts_of(connection, job_id)) or None


def study_digest(study: Study) -> str:
    """Return `sha256:` and the hash of a study's canonical JSON. Comments and the order of names do not change it."""
    document = study.to_dict()
    if study.seeds == MOPS_JOBS:  # also if a file would need it, as `to_dict` says
        document.pop("seeds", None)
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"sha256:{hashlib.sha256(text.encode('ascii')).hexdigest()}"


def file_json(file: BundleFile) -> dict[str, object]:
    """Return a file of a bundle in its JSON form."""
    return {
        "name": printable(file.name),
        "bytes": file.size,
        "sha256": file.sha256,
        "executable": file.is_executable,
        "link_to": None if file.target is None else printable(file.target),
    }


def printable(name: str) -> str:
    """Return the name of a file as valid Unicode."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def study_json(manifest: Manifest) -> dict[str, Any]:
    """Return the facts about a study in their JSON form."""
    study = manifest.study
    return {
        "digest": study_digest(study),
        "model": study.model,
        "scenario": study.scenario,
        "parameters": len(study.parameters),
        "parameter_sets": len(study.parameter_sets),
        "different_parameter_sets": study.different_sets,
        "replicates": json_of(replicates_of(manifest)),
        **{name: getattr(study, name) for name, field in FIELDS.items() if field.is_own},
        "tasks": manifest.tasks_total,
    }


def replicates_of(manifest: Manifest) -> int | Precision:
    """Return the replicates of a set; those of a calibration where its precision adds them as sets with a seed."""
    calibration = _calibration_of(manifest)
    return (manifest.study if calibration is None else calibration.study).n_replicates


CALIBRATION_FIELDS = ("objective", "parameters", "sampler", "options", "seed", "mode", "rounds", "sets_per_round")


def calibration_json(manifest: Manifest) -> dict[str, Any] | None:
    """Return what a calibration searches, and the one that it extends; None for any other job."""
    if (calibration := _calibration_of(manifest)) is None:
        return None
    fields = {name: getattr(calibration, name) for name in CALIBRATION_FIELDS} | calibration.to_dict()
    extends = (manifest.calibration or {}).get("extends")
    return {**{name: fields[name] for name in CALIBRATION_FIELDS}, "extends": extends}


def _calibration_of(manifest: Manifest) -> Calibration | None:
    with contextlib.suppress(RecordError):
        return calibration_of(manifest)
    return None


def origin_of_sets(manifest: Manifest) -> dict[str, Any] | None:
    """Return the calibration whose sets a study has, by `--then`, and which of them; None for any other study."""
    job_id, sets = (manifest.study.metadata.get(name) for name in SETS_OF)
    return {"job_id": job_id, "sets": sets if isinstance(sets, str) else None} if isinstance(job_id, str) else None


def _read_environments(store: VersionedStore, job_id: str, problems: list[str]) -> Iterator[Environment]:
    for key in environment_keys(store, job_id):
        with noting(problems, key):
            found = store.get(key)
            if found is not None:
                yield parse_environment(found.value)


@contextlib.contextmanager
def noting(problems: list[str], key: str | None = None) -> Iterator[None]:
    """Note why a part of the provenance cannot be read."""
    try:
        yield
    except (BundleError, InvalidKeyError, ValueTooLargeError, UsageError) as error:
        problems.append(error.message)
    except RecordError as error:
        problems.append(str(RecordError(error.reason, key=key or error.key)))
