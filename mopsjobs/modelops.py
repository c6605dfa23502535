"""The registry under the names of ModelOps, for programs that were written for its `modelops.services`.

Such a program changes its imports: the names of `job_registry`, `job_state`, `output_manifest`, `storage.memory`,
`storage.azure_versioned`, `storage.versioned` and `storage.retry` are all here. What differs on purpose is in
docs/reference/modelops.md.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from mopsjobs.errors import (
    InvalidTransitionError,
    JobExistsError,
    NoManifestError,
    RecordError,
    TerminalStateError,
    TooManyRetriesError,
    UsageError,
)
from mopsjobs.registry import job_registry, job_state
from mopsjobs.registry.status import TERMINAL, TRANSITIONS, JobStatus
from mopsjobs.store import cas, memory
from mopsjobs.store.base import ReadableStore, VersionedStore, VersionToken
from mopsjobs.studies.manifest import load_manifest
from mopsjobs.studies.outputs import find_complete_tasks, missing_tasks, output_key
from mopsjobs.studies.packed_store import show_packs
from mopsjobs.studies.validation import NAMED_MISSING
from mopsjobs.utils.json_strict import read_json
from mopsjobs.utils.times import record_time, utc_now

if TYPE_CHECKING:
    from mopsjobs.store.azure import store as azure_store

__all__ = [
    "TRANSITIONS", "AzureVersionedStore", "InMemoryVersionedStore", "InvalidTransitionError", "JobExistsError",
    "JobRegistry", "JobState", "JobStatus", "OutputSpec", "TerminalStateError", "TooManyRetriesError",
    "ValidationResult", "VersionToken", "VersionedStore", "create_with_retry", "generate_output_manifest", "get_json",
    "is_terminal", "now_iso", "reconstruct_task_from_spec", "update_with_retry", "validate_transition",
]  # fmt: skip

log = logging.getLogger(__name__)


# --- job_state ---------------------------------------------------------------------------------------------------


def now_iso() -> str:
    """Return the time as a record holds it."""
    return record_time(utc_now())


def is_terminal(status: str) -> bool:
    """Return whether a job with this status has ended."""
    return status in TERMINAL


def validate_transition(from_status: str, to_status: str) -> bool:
    """Return whether one transition leads from a status to another."""
    return to_status in TRANSITIONS.get(from_status, ())  # type: ignore[call-overload] # a status is its text


@dataclasses.dataclass(frozen=True, init=False)
class JobState(job_state.JobState):
    """The record of a job, with plain lists and dicts, so that `dataclasses.asdict` works."""

    def __init__(self, *values: Any, **fields: Any) -> None:
        """Take the fields by their names, or in the order of ModelOps, which is that of the record."""
        super().__init__(**dict(zip(job_state.FIELDS, values, strict=False)), **fields)
        for name in job_state.OUTPUT_LISTS:
            object.__setattr__(self, name, list(getattr(self, name)))
        for name in ("metadata", "shards", "labels", "usage", "forecast", "extra", "foreign"):
            object.__setattr__(self, name, dict(getattr(self, name)))
        object.__setattr__(self, "transitions", tuple(dict(step) for step in self.transitions))

    def copy_with(self, **changes: object) -> Self:
        """Return a copy with other values for some fields, which are checked.

        Raises:
            RecordError: if a value has the wrong type.
        """
        return self.from_dict({**self.to_dict(), **changes})

    @classmethod
    def from_json(cls, value: str | bytes, *, key: str | None = None) -> Self:
        """Read a record from text or bytes; see `job_state.JobState.from_json`."""
        return super().from_json(value.encode() if isinstance(value, str) else value, key=key)


# --- storage -----------------------------------------------------------------------------------------------------


class InMemoryVersionedStore(memory.InMemoryVersionedStore):
    """The store in memory, with keys in a list instead of an iterator, and with `clear`."""

    def list_keys(self, prefix: str = "") -> Any:  # a list; for type checkers also the iterator of the contract
        """Return the keys that start with `prefix`, in ascending order of code points."""
        return list(super().list_keys(prefix))

    def clear(self) -> None:
        """Remove all keys. Later versions still differ from all earlier ones."""
        for key in self.list_keys():
            self.delete(key)


def AzureVersionedStore(  # noqa: N802 - a class in ModelOps; Azure's libraries are imported only for its callers
    connection_string: str, container: str = "job-registry"
) -> azure_store.AzureVersionedStore:
    """Open a container of the account that a connection string names. This sends nothing.

    Raises:
        ConfigError: if the connection string or the name of the container is malformed.
    """
    from mopsjobs.store.azure import store
    from mopsjobs.store.azure.credentials import CONNECTION_STRING

    return store.open_azure_store(f"azure://{container}", {CONNECTION_STRING: connection_string})


def update_with_retry(
    store: VersionedStore,
    key: str,
    update_fn: Callable[[dict[str, object]], dict[str, object]],
    max_attempts: int = cas.ATTEMPTS,
    initial_delay: float = cas.BASE_SECONDS,
) -> dict[str, object]:
    """Replace the JSON object under `key` by `update_fn(object)`, and return it.

    `update_fn` must be pure: it may be called again. `initial_delay` bounds the seconds of the first wait.

    A plain dict has no place for a write id. So a lost reply may look like a lost race. Then `StoreUnavailableError`
    says that the write may have landed.

    Raises:
        KeyError: if the key does not exist.
        RecordError: if the value is not a JSON object.
        TooManyRetriesError: if every attempt lost the race.
    """

    def apply(value: bytes) -> bytes:
        return _dump(update_fn(_load(key, value)))

    result = cas.update(store, key, apply, attempts=max_attempts, base_seconds=initial_delay)
    return _load(key, result.value)


def create_with_retry(
    store: VersionedStore, key: str, value: Mapping[str, object], max_attempts: int = cas.ATTEMPTS
) -> bool:
    """Create `key` with a JSON object; return False if it exists. `max_attempts` is there for callers of ModelOps."""
    return cas.create(store, key, _dump(value)) is not None


def get_json(store: ReadableStore, key: str) -> dict[str, object] | None:
    """Return the JSON object under `key`, or None if there is none. A value of another form is logged.

    Raises:
        StoreError: if the store does not answer. That never looks like a missing key.
    """
    found = store.get(key)
    if found is None:
        return None
    try:
        return _load(key, found.value)
    except RecordError as error:
        log.error("%s", error)  # noqa: TRY400 - the message says all
        return None


def _load(key: str, value: bytes) -> dict[str, object]:
    try:
        document = read_json(value)
    except RecordError as error:
        raise RecordError(error.reason, key=key) from None
    if not isinstance(document, dict):
        raise RecordError("not a JSON object", key=key)
    return document


def _dump(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()


# --- output_manifest ---------------------------------------------------------------------------------------------


class ProvenanceSchema(Protocol):
    """The part of ModelOps' class that tells the path of an output."""

    sim_path_template: str

    def render_path(self, template: str, context: dict[str, Any]) -> str:
        """Return the path of one output."""


class ProvenanceStore(Protocol):
    """The part of ModelOps' class that tells where outputs are."""

    storage_dir: Path


@dataclasses.dataclass
class OutputSpec:
    """One expected output of a job of ModelOps, as `expected_outputs` of its record has it."""

    param_id: str
    seed: int
    output_type: str
    """`simulation` or `aggregation`."""
    bundle_digest: str
    replicate_count: int
    provenance_path: str
    """Where the output is, below the directory of a `ProvenanceStore`."""
    param_values: dict[str, Any] | None = None
    target_id: str | None = None
    aggregation_id: str | None = None


class ParameterSet(NamedTuple):
    """The parameters of a task, and their id."""

    param_id: str
    params: dict[str, Any]


class ResumableTask(NamedTuple):
    """A task to run again, with the fields of ModelOps' `SimTask` that its record keeps."""

    params: ParameterSet
    seed: int
    bundle_ref: str
    outputs: tuple[str, ...] | None = None


def generate_output_manifest(job: Any, provenance_schema: ProvenanceSchema) -> list[OutputSpec]:
    """Return the expected outputs of a job specification: one per replicate of a parameter set, or one per task.

    Args:
        job: an object with `metadata`, and with `parameter_sets` or, as a `SimJob`, with `tasks`.
        provenance_schema: tells the path of each output.
    """
    digest = str(job.metadata.get("bundle_digest") or getattr(job, "bundle_ref", "unknown"))
    return [
        OutputSpec(
            param_id=param_id,
            seed=seed,
            output_type="simulation",
            bundle_digest=digest,
            replicate_count=replicates,
            provenance_path=provenance_schema.render_path(
                provenance_schema.sim_path_template,
                {"bundle_digest": digest, "entrypoint": entrypoint, "param_id": param_id, "seed": seed},
            ),
            param_values=dict(values),
        )
        for param_id, values, seed, replicates, entrypoint in _tasks_of(job)
    ]


def _tasks_of(job: Any) -> Iterator[tuple[str, Mapping[str, Any], int, int, str]]:
    """Yield id, parameters, seed, replicates and entry point of each task of a job specification."""
    sets = getattr(job, "parameter_sets", None)
    for parameters in sets or ():
        for seed in range(parameters.replicate_count):
            yield parameters.param_id, parameters.params, seed, parameters.replicate_count, "default"
    for task in () if sets else getattr(job, "tasks", None) or ():
        yield task.params.param_id, task.params.params, task.seed, 1, str(task.entrypoint)


def reconstruct_task_from_spec(output_spec: OutputSpec) -> ResumableTask | None:
    """Return the task of an expected output; None for an aggregation."""
    if output_spec.output_type != "simulation":
        return None
    parameters = ParameterSet(output_spec.param_id, output_spec.param_values or {})
    return ResumableTask(parameters, output_spec.seed, output_spec.bundle_digest)


# --- job_registry ------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class ValidationResult:
    """The counts and names of a validation."""

    status: str
    """`complete`, `partial`, `failed` or `unavailable`."""
    verified_count: int = 0
    missing_count: int = 0
    verified_outputs: list[str] | None = None
    missing_outputs: list[str] | None = None
    error: str | None = None


class JobRegistry(job_registry.JobRegistry):
    """The registry, with ModelOps' order of arguments, its messages and its validation.

    Outputs of a job that mops-jobs submitted are compared with its manifest, in the store. Outputs of a job of ModelOps
    are compared with `expected_outputs` of its record, in the directory of a `ProvenanceStore`.
    """

    state_type = JobState
    _make_key = job_registry.JobRegistry.key_of

    def __init__(
        self,
        store: VersionedStore,
        prefix: str = "jobs",
        provenance_store: ProvenanceStore | None = None,
        provenance_schema: ProvenanceSchema | None = None,
        **options: Any,
    ) -> None:
        """Open the registry under `prefix` of `store`. `options` are those of `job_registry.JobRegistry`."""
        super().__init__(store, prefix, **options)
        self.provenance = provenance_store
        self.provenance_schema = provenance_schema

    def register_job(  # type: ignore[override] # the fourth place is that of `metadata` there
        self,
        job_id: str,
        k8s_name: str | None = None,
        namespace: str | None = None,
        job_spec: object = None,
        metadata: Mapping[str, object] | None = None,
        **fields: object,
    ) -> job_state.JobState:
        """Register a new job as `pending`, with the expected outputs of `job_spec` if the registry has a schema.

        Raises:
            JobExistsError, UsageError: as `job_registry.JobRegistry.register_job`.
        """
        if job_spec is not None and self.provenance_schema is not None:
            outputs = [dataclasses.asdict(spec) for spec in generate_output_manifest(job_spec, self.provenance_schema)]
            fields |= {"expected_outputs": outputs, "tasks_total": len(outputs)}
        return super().register_job(job_id, k8s_name, namespace, metadata, **fields)

    def update_status(self, job_id: str, new_status: str, **fields: object) -> job_state.JobState:
        """Move a job to a status, as `job_registry.JobRegistry.update_status`; an exit code may be a number.

        Raises:
            JobNotFoundError, InvalidTransitionError, TerminalStateError, UsageError: as that.
        """
        if type(fields.get("error_code")) is int:
            fields["error_code"] = str(fields["error_code"])
        return super().update_status(job_id, new_status, **fields)

    def validate_outputs(self, job_id: str) -> ValidationResult:
        """Compare the outputs of a job with those that are expected, and change nothing.

        All are counted. Of a job with a manifest, only the first missing ones are named.

        Raises:
            StoreError: if the outputs cannot be listed.
        """
        state = self.get_job(job_id)
        if state is None:
            return ValidationResult("failed", error=f"Job {job_id} not found.")
        if not state.expected_outputs:
            return self._compare_with_manifest(job_id)
        if self.provenance is None:
            return ValidationResult("unavailable", error="The registry has no ProvenanceStore.")
        found: dict[bool, list[str]] = {True: [], False: []}
        for spec in _specs_of(state):
            found[(self.provenance.storage_dir / spec.provenance_path).exists()].append(spec.provenance_path)
        return _result(len(found[True]), len(found[False]), found[True], found[False])

    def _compare_with_manifest(self, job_id: str) -> ValidationResult:
        try:
            manifest = load_manifest(self.store, job_id)
        except NoManifestError as error:
            return ValidationResult("unavailable", error=str(error))
        found = find_complete_tasks(show_packs(self.store), manifest)
        missing = found.missing()
        keys = (output_key(job_id, task, "") for place, task in manifest.tasks() if missing[place])
        named = [key for key, _ in zip(keys, range(NAMED_MISSING), strict=False)]
        return _result(found.count, missing.count(1), [], named)

    def transition_to_validating(self, job_id: str) -> job_state.JobState:
        """Move a job to `validating`, and count the attempt.

        Raises:
            JobNotFoundError, InvalidTransitionError, TerminalStateError: as `update_status`.
        """
        state = self.get_job(job_id)
        attempts = 1 if state is None else state.validation_attempts + 1
        return self.update_status(
            job_id, JobStatus.VALIDATING, validation_started_at=now_iso(), validation_attempts=attempts
        )

    def finalize_with_validation(self, job_id: str, validation_result: ValidationResult) -> job_state.JobState:
        """End a job as a validation found it: `succeeded`, `partial` or `failed`.

        Raises:
            JobNotFoundError, InvalidTransitionError, TerminalStateError: as `update_status`.
        """
        ends = {"complete": JobStatus.SUCCEEDED, "partial": JobStatus.PARTIAL}
        return self.update_status(
            job_id,
            ends.get(validation_result.status, JobStatus.FAILED),
            validation_completed_at=now_iso(),
            tasks_verified=validation_result.verified_count,
            verified_outputs=validation_result.verified_outputs or [],
            missing_outputs=validation_result.missing_outputs or [],
            last_validation_error=validation_result.error,
        )

    def get_resumable_tasks(self, job_id: str) -> list[ResumableTask]:
        """Return the tasks of a `partial` job whose outputs are missing; none for another job.

        Raises:
            StoreError: if the outputs cannot be listed.
        """
        state = self.get_job(job_id)
        if state is None or state.status != JobStatus.PARTIAL:
            return []
        if state.expected_outputs:
            missing = set(state.missing_outputs)
            specs = (spec for spec in _specs_of(state) if spec.provenance_path in missing)
            return [task for task in map(reconstruct_task_from_spec, specs) if task is not None]
        try:
            manifest = load_manifest(self.store, job_id)
        except NoManifestError:
            return []
        numbers = set(missing_tasks(manifest, find_complete_tasks(show_packs(self.store), manifest)))
        return [
            ResumableTask(
                ParameterSet(task.param_id, dict(task.params)), task.seed, manifest.bundle, manifest.study.outputs
            )
            for _, task in manifest.tasks()
            if task.number in numbers
        ]

    def _change(self, job_id: str, change: job_registry.Change) -> job_state.JobState:
        try:
            return super()._change(job_id, change)
        except TerminalStateError as error:
            error.message = f"Cannot modify terminal state {error.from_status}: {error.message}"
            raise
        except InvalidTransitionError as error:
            error.message = f"Invalid transition from {error.from_status} to {error.to_status}: {error.message}"
            raise


def _specs_of(state: job_state.JobState) -> list[OutputSpec]:
    """Return the expected outputs of a record of ModelOps.

    Raises:
        UsageError: if they have another form.
    """
    try:
        return [OutputSpec(**output) for output in state.expected_outputs]  # type: ignore[arg-type]
    except TypeError as error:
        raise UsageError(f"invalid expected_outputs of job {state.job_id}: {error}.") from None


def _result(verified: int, missing: int, verified_names: list[str], missing_names: list[str]) -> ValidationResult:
    status = "complete" if not missing else "partial" if verified else "failed"
    return ValidationResult(status, verified, missing, verified_names, missing_names)
