"""The registry under the names of ModelOps: what its programs call, over a store in memory."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import mopsjobs
from mopsjobs import modelops
from mopsjobs.errors import ConfigError, RecordError, StoreUnavailableError, UsageError
from mopsjobs.modelops import (
    InMemoryVersionedStore,
    InvalidTransitionError,
    JobRegistry,
    JobState,
    JobStatus,
    OutputSpec,
    TerminalStateError,
    ValidationResult,
    generate_output_manifest,
    get_json,
    reconstruct_task_from_spec,
)
from mopsjobs.store.azure.credentials import EMULATOR_KEY
from mopsjobs.studies.manifest import Manifest, manifest_key
from mopsjobs.studies.outputs import output_key
from mopsjobs.studies.study_parser import parse_study
from support.doubles import FaultyStore

STUDY = {
    "model": "model", "scenario": "base", "outputs": ["out"], "n_replicates": 2,
    "parameter_sets": [{"params": {"x": number}} for number in range(4)],
}  # fmt: skip


class Schema:
    """The part of ModelOps' schema that the registry calls."""

    sim_path_template = "{param_id}/{seed}"

    def render_path(self, template: str, context: dict[str, Any]) -> str:
        return template.format(**context)


@pytest.fixture
def store() -> InMemoryVersionedStore:
    return InMemoryVersionedStore()


@pytest.fixture
def registry(store: InMemoryVersionedStore, tmp_path: Path) -> JobRegistry:
    return JobRegistry(store, "jobs", SimpleNamespace(storage_dir=tmp_path), Schema())


def spec(*replicates: int) -> SimpleNamespace:
    """Return a job specification with one parameter set per count of replicates."""
    sets = [SimpleNamespace(param_id=f"p{i}", params={"x": i}, replicate_count=n) for i, n in enumerate(replicates)]
    return SimpleNamespace(metadata={"bundle_digest": "abc"}, parameter_sets=sets)


def submitted(store: InMemoryVersionedStore, registry: JobRegistry, status: str = "running") -> Manifest:
    """Put a job of `STUDY` there as mops-jobs submits it: a record and a manifest."""
    manifest = Manifest(job_id="a", study=parse_study(STUDY, "here"), bundle="sha256:00")
    store.create_if_absent(manifest_key("a"), manifest.to_json())
    registry.register_job("a", tasks_total=8)
    registry.update_status("a", status)
    return manifest


def leave(store: InMemoryVersionedStore, manifest: Manifest, count: int) -> None:
    """Store the outputs of the first `count` tasks."""
    for _, task in list(manifest.tasks())[:count]:
        store.create_if_absent(output_key("a", task, "out"), b"1")


# --- names -----------------------------------------------------------------------------------------------------------

METHODS = {
    "register_job": ("job_id", "k8s_name", "namespace"),
    "update_status": ("job_id", "new_status"),
    "update_progress": ("job_id", "tasks_completed", "tasks_total"),
    "get_job": ("job_id",),
    "list_jobs": ("limit", "status_filter", "since"),
    "finalize_job": ("job_id", "final_status", "results_path", "error_info"),
    "cancel_job": ("job_id", "reason"),
    "count_jobs_by_status": (),
    "get_active_jobs": (),
    "get_recent_jobs": ("hours",),
}
"""The methods of ModelOps' registry, and their arguments in its order."""


@pytest.mark.parametrize("kind", [modelops.JobRegistry, mopsjobs.JobRegistry], ids=["modelops", "mopsjobs"])
@pytest.mark.parametrize("method", METHODS)
def test_the_registry_has_the_methods_of_modelops(kind: type, method: str) -> None:
    """By these names and in this order, so that a call of ModelOps' programs means the same."""
    names = tuple(inspect.signature(getattr(kind, method)).parameters)[1:]
    assert names[: len(METHODS[method])] == METHODS[method]
    assert {"metadata", "fields"} <= set(inspect.signature(kind.register_job).parameters)  # type: ignore[attr-defined]
    assert tuple(inspect.signature(kind).parameters)[:2] == ("store", "prefix")


def test_the_errors_of_modelops_are_the_same_everywhere() -> None:
    """`except` means the same by either import. A job that does not exist is a KeyError."""
    for name in ("JobExistsError", "InvalidTransitionError", "TerminalStateError", "TooManyRetriesError"):
        assert getattr(modelops, name) is getattr(mopsjobs, name)
    assert issubclass(mopsjobs.JobNotFoundError, KeyError)
    with pytest.raises(KeyError):
        JobRegistry(InMemoryVersionedStore()).update_progress("nothing", tasks_completed=1)


# --- states ----------------------------------------------------------------------------------------------------------


def test_what_differs_without_need_is_as_in_modelops(registry: JobRegistry) -> None:
    """Fields by position, an exit code as a number, the key of a record, and statuses that neither program knows."""
    at = modelops.now_iso()
    state = JobState("a", JobStatus.RUNNING, at, at, "k", "ns", tasks_total=4)
    assert (state.k8s_name, state.k8s_namespace, state.progress_percent) == ("k", "ns", 0.0)
    assert state.copy_with(tasks_completed=1).progress_percent == 25.0
    with pytest.raises(RecordError, match="invalid field tasks_total: expected a whole number"):
        state.copy_with(tasks_total="many")
    assert JobState.from_json(state.to_json().decode()) == JobState.from_json(state.to_json()) == state
    registry.register_job("a", "k", "ns")
    registry.update_status("a", JobStatus.SUBMITTING)
    ended = registry.finalize_job("a", JobStatus.FAILED, error_info={"message": "killed", "code": 137})  # type: ignore[dict-item]
    assert ended.error_code == "137"
    assert registry._make_key("a") == "jobs/a/state.json"  # ModelOps' programs call it
    assert modelops.validate_transition(JobStatus.RUNNING, "validating")
    assert not modelops.validate_transition("pending", JobStatus.RUNNING)
    assert not modelops.validate_transition("bogus", "running")
    assert not modelops.validate_transition("running", "bogus")


def test_every_method_returns_states_of_this_class(registry: JobRegistry) -> None:
    """A program reads states with the same members as those that it gets from a write."""
    registered, running = registry.register_job("a"), registry.update_status("a", "running")
    progress = registry.update_progress("a", 1, 4)
    read = [registry.get_job("a"), *registry.list_jobs(), *registry.get_active_jobs()]
    assert {type(state) for state in (registered, running, progress, *read)} == {JobState}
    assert isinstance(running, JobState)  # for mypy
    assert (running.progress_percent, progress.progress_percent) == (None, 25.0)  # without a total there is none
    assert not modelops.is_terminal("unknown")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda registry: registry.finalize_job("a", "failed", results_path="other"), TerminalStateError),
        (lambda registry: registry.update_progress("b", 5, 4), UsageError),
        (lambda registry: registry.update_progress("b", -1, 4), UsageError),
        (lambda registry: registry.update_status("b", "submitting", metadata={"x": float("nan")}), UsageError),
        (lambda registry: registry.register_job("team/run 1", "k", "ns"), UsageError),
        (lambda registry: setattr(registry.get_job("b"), "status", "failed"), dataclasses.FrozenInstanceError),
    ],
    ids=["another path", "5 of 4", "negative", "NaN", "id", "assignment"],
)
def test_what_would_lose_or_falsify_a_value_is_refused(
    registry: JobRegistry, change: Callable[[JobRegistry], object], error: type[Exception]
) -> None:
    """ModelOps writes these, or drops them without a word. docs/reference/modelops.md lists each."""
    for job_id in ("a", "b"):
        registry.register_job(job_id, "k", "ns")
    registry.update_status("a", "failed")
    with pytest.raises(error):
        change(registry)


def test_a_state_becomes_a_plain_dict_by_asdict(registry: JobRegistry) -> None:
    """`dataclasses.asdict` copies every field; a read-only view could not be copied."""
    state = registry.register_job("a", "k", "ns", metadata={"deep": {"x": [1]}}, labels={"exp": "7"})
    copied = dataclasses.asdict(state)
    assert (copied["metadata"], copied["labels"]) == ({"deep": {"x": [1]}}, {"exp": "7"})
    assert json.loads(json.dumps(copied))["transitions"][0]["status"] == "pending"


# --- storage ---------------------------------------------------------------------------------------------------------


def test_azure_takes_a_connection_string_by_name() -> None:
    """Nothing is sent, and no variable of the environment is read."""
    secret = f"AccountName=acc;AccountKey={EMULATOR_KEY};EndpointSuffix=core.windows.net"
    store = modelops.AzureVersionedStore(connection_string=f"DefaultEndpointsProtocol=https;{secret}")
    assert store.location == "https://acc.blob.core.windows.net/job-registry"
    assert modelops.AzureVersionedStore(secret, container="other").location.endswith("/other")
    with pytest.raises(ConfigError):
        modelops.AzureVersionedStore("nonsense")


def test_get_json_tells_a_missing_key_from_an_outage(store: InMemoryVersionedStore) -> None:
    """What is not a JSON object is None too, as in ModelOps; an outage is an error."""
    store.create_if_absent("good", b'{"a": 1}')
    store.create_if_absent("bad", b"not json")
    assert (get_json(store, "good"), get_json(store, "bad"), get_json(store, "no")) == ({"a": 1}, None, None)
    line = FaultyStore(store)
    line.fail_next()
    with pytest.raises(StoreUnavailableError):
        get_json(line, "good")


# --- messages --------------------------------------------------------------------------------------------------------


def test_refusals_begin_as_those_of_modelops(registry: JobRegistry) -> None:
    """Programs match on these words. The rest of the sentence is that of mops-jobs."""
    registry.register_job("a")
    registry.update_status("a", JobStatus.VALIDATING)
    with pytest.raises(InvalidTransitionError, match=r"^Invalid transition from validating to running: Job a is"):
        registry.update_status("a", JobStatus.RUNNING)
    registry.update_status("a", JobStatus.FAILED)
    with pytest.raises(TerminalStateError, match=r"^Cannot modify terminal state failed: Job a has ended"):
        registry.update_status("a", JobStatus.SUCCEEDED)
    with pytest.raises(ValueError, match="not a terminal status"):
        registry.finalize_job("a", JobStatus.RUNNING)
    with pytest.raises(KeyError, match="Job b not found"):
        registry.cancel_job("b")


# --- validation ------------------------------------------------------------------------------------------------------


def test_a_job_specification_becomes_expected_outputs(registry: JobRegistry) -> None:
    """In the fourth place, where ModelOps takes it; with one output per replicate."""
    state = registry.register_job("a", "k", "ns", spec(2, 1), {"note": 1})
    assert [output["provenance_path"] for output in state.expected_outputs] == ["p0/0", "p0/1", "p1/0"]  # type: ignore[index]
    assert (state.tasks_total, state.metadata) == (3, {"note": 1})
    assert JobRegistry(InMemoryVersionedStore()).register_job("a", job_spec=spec(2)).expected_outputs == []


def test_a_specification_with_tasks_has_an_output_per_task() -> None:
    """A `SimJob` lists its tasks with their seeds. An output that aggregates tasks cannot be run again."""
    task = SimpleNamespace(params=SimpleNamespace(param_id="p", params={"x": 1}), seed=7, entrypoint="model/base")
    job = SimpleNamespace(metadata={}, bundle_ref="sha256:00", tasks=[task])
    (output,) = generate_output_manifest(job, Schema())
    assert (output.provenance_path, output.bundle_digest, output.param_values) == ("p/7", "sha256:00", {"x": 1})
    job.parameter_sets = spec(2).parameter_sets  # as in ModelOps, these count if there are both
    assert [output.provenance_path for output in generate_output_manifest(job, Schema())] == ["p0/0", "p0/1"]
    assert reconstruct_task_from_spec(dataclasses.replace(output, output_type="aggregation")) is None


@pytest.mark.parametrize(("count", "status"), [(1, "partial"), (2, "complete")])
def test_expected_outputs_are_compared_with_files(
    registry: JobRegistry, tmp_path: Path, count: int, status: str
) -> None:
    """A path below the directory of the ProvenanceStore, as the record names it."""
    state = registry.register_job("a", job_spec=spec(2))
    (tmp_path / "p0").mkdir()
    for output in state.expected_outputs[:count]:
        (tmp_path / OutputSpec(**output).provenance_path).touch()  # type: ignore[arg-type]
    found = registry.validate_outputs("a")
    assert (found.status, found.verified_count, found.missing_count) == (status, count, 2 - count)
    assert registry.get_job("a") == state


@pytest.mark.parametrize(("count", "status"), [(0, "failed"), (3, "partial")])
def test_outputs_of_our_jobs_are_compared_with_the_manifest(
    store: InMemoryVersionedStore, registry: JobRegistry, count: int, status: str
) -> None:
    """By one listing of the store. All are counted, and the first missing ones are named."""
    leave(store, submitted(store, registry), count)
    found = registry.validate_outputs("a")
    assert (found.status, found.verified_count, found.missing_count) == (status, count, 8 - count)
    assert len(found.missing_outputs or []) == min(5, 8 - count)


def test_what_cannot_be_validated_says_why(registry: JobRegistry) -> None:
    """As a result, not as an error: ModelOps' programs look at the status."""
    registry.register_job("a")
    assert registry.validate_outputs("a") == ValidationResult(
        "unavailable", error="Job a has no manifest: mops-jobs did not submit it."
    )
    assert registry.validate_outputs("b") == ValidationResult("failed", error="Job b not found.")
    registry.register_job("c", job_spec=spec(1))
    registry.provenance = None
    assert registry.validate_outputs("c").error == "The registry has no ProvenanceStore."
    registry.register_job("d", expected_outputs=["text"])
    registry.provenance = SimpleNamespace(storage_dir=None)  # type: ignore[assignment]
    with pytest.raises(UsageError, match="invalid expected_outputs of job d"):
        registry.validate_outputs("d")


@pytest.mark.parametrize("found", ["complete", "partial", "failed", "unavailable"])
def test_a_validation_ends_a_job(registry: JobRegistry, found: str) -> None:
    """The record has its counts and names; each attempt is counted."""
    registry.register_job("a")
    registry.update_status("a", "running")
    for attempt in (1, 2):
        assert registry.transition_to_validating("a").validation_attempts == attempt
    state = registry.finalize_with_validation("a", ValidationResult(found, 3, 2, ["x"], ["y"], "why"))
    ends = {"complete": "succeeded", "partial": "partial"}
    assert (state.status, state.tasks_verified, state.missing_outputs) == (ends.get(found, "failed"), 3, ["y"])
    assert (state.last_validation_error, state.validation_completed_at is not None) == ("why", True)


def test_missing_tasks_of_a_specification_can_be_run_again(registry: JobRegistry) -> None:
    """Those whose path the record names as missing."""
    registry.register_job("a", job_spec=spec(3))
    registry.update_status("a", "running")
    assert registry.get_resumable_tasks("a") == []
    registry.finalize_with_validation("a", ValidationResult("partial", 2, 1, None, ["p0/1"]))
    (task,) = registry.get_resumable_tasks("a")
    assert (task.params, task.seed, task.bundle_ref) == (("p0", {"x": 0}), 1, "abc")


def test_missing_tasks_of_our_jobs_can_be_run_again(store: InMemoryVersionedStore, registry: JobRegistry) -> None:
    """All of them, also those that the record does not name."""
    manifest = submitted(store, registry)
    leave(store, manifest, 2)
    registry.finalize_with_validation("a", registry.validate_outputs("a"))
    tasks = registry.get_resumable_tasks("a")
    expected = [(task.param_id, dict(task.params), task.seed) for _, task in list(manifest.tasks())[2:]]
    assert [(task.params.param_id, task.params.params, task.seed) for task in tasks] == expected
    assert {(task.bundle_ref, task.outputs) for task in tasks} == {("sha256:00", ("out",))}
    registry.register_job("b")
    registry.update_status("b", "partial")
    assert registry.get_resumable_tasks("b") == []
