"""The registry over real stores: a SQLite file, and what Azurite and dynalite serve, with other writers."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.core import MatchConditions
from azure.core.exceptions import ResourceModifiedError

from mopsjobs import modelops
from mopsjobs.errors import StoreUnavailableError, TerminalStateError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.notes import LABEL_HISTORY
from mopsjobs.registry.status import JobStatus
from mopsjobs.registry.transitions import ShardReport
from mopsjobs.store import open_store
from mopsjobs.store.base import VersionedStore
from mopsjobs.utils.times import parse_time, utc_now
from support.cli import Cli
from support.doubles import FaultyStore
from support.existing import existing
from support.runs import PATIENCE
from support.servers import PATIENT, Azurite, Backend

Write = Callable[[str, Callable[[dict[str, Any]], dict[str, Any]]], None]

WRITERS, WRITES = 16, 2
RACE = """
import os, sys
from mopsjobs.registry import JobRegistry
from mopsjobs.store import open_store
url, count, writes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
open_store(url, {}).close()  # loads the backend once, for all
ready, start = os.pipe(), os.pipe()
writers = []
for writer in map(str, range(count)):
    writers.append(os.fork())
    if not writers[-1]:
        os.close(start[1])
        store = open_store(url, {})
        registry = JobRegistry(store)
        os.write(ready[1], b".")
        os.read(start[0], 1)
        for number in range(writes):
            registry.update_status("a", "running", labels={f"w{writer}.{number}": "x"}, metadata={writer: number})
        store.close()
        os._exit(0)
for _ in writers:
    os.read(ready[0], 1)
os.close(start[1])
print([os.waitpid(writer, 0)[1] for writer in writers])
"""
"""Starts the writers, has all begin at once, and prints how each has ended."""

MODELOPS_FIELDS = {"job_id", "status", "created_at", "updated_at", "k8s_name", "k8s_namespace", "k8s_uid"}
MODELOPS_FIELDS |= {"tasks_total", "tasks_completed", "error_message", "error_code", "results_path", "metadata"}
MODELOPS_FIELDS |= {"expected_outputs", "verified_outputs", "missing_outputs", "tasks_verified", "validation_attempts"}
MODELOPS_FIELDS |= {"validation_started_at", "validation_completed_at", "last_validation_error"}


class BeatenError(Exception):
    """Another program found that a third one was faster."""


over_real_stores = pytest.mark.parametrize(
    "backend",
    [
        "sqlite",
        pytest.param("azure", marks=pytest.mark.azurite),
        pytest.param("dynamodb", marks=pytest.mark.dynalite),
        pytest.param("s3-seaweedfs", marks=pytest.mark.s3),
    ],
    indirect=True,
)


@pytest.fixture
def registry(store: VersionedStore) -> JobRegistry:
    return JobRegistry(store, sleep=lambda _: None)


@pytest.fixture
def another_program(backend: Backend, request: pytest.FixtureRequest) -> Write:
    """Write as another program does: the whole record as indented JSON, unless another writer was faster.

    In Azure by the plain SDK, without a word in the blob's metadata.
    """

    def in_store(job_id: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        store = backend.open()
        found = existing(store.get(f"jobs/{job_id}/state.json"))
        value = json.dumps(change(json.loads(found.value)), indent=2).encode()
        if not store.put(f"jobs/{job_id}/state.json", value, found.version):
            raise BeatenError

    def in_azure(job_id: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        azurite: Azurite = request.getfixturevalue("azurite")
        with azurite.client(backend.url.rpartition("/")[2]) as container:
            blob = container.get_blob_client(f"jobs/{job_id}/state.json")
            reply = blob.download_blob()
            value = json.dumps(change(json.loads(reply.readall())), indent=2).encode()
            etag = reply.properties.etag
            try:
                blob.upload_blob(value, overwrite=True, etag=etag, match_condition=MatchConditions.IfNotModified)
            except ResourceModifiedError:
                raise BeatenError from None
            finally:
                blob.close()

    return in_azure if backend.name == "azure" else in_store


def step(status: str, **fields: object) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return the record after ModelOps' `update_status`: new status, time and some fields; the rest is as before."""
    return lambda record: {**record, "status": status, "updated_at": datetime.now(UTC).isoformat(), **fields}


def forgetful(status: str, **fields: object) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return the same by a program that writes back only the fields it knows."""
    change = step(status, **fields)
    return lambda record: {name: value for name, value in change(record).items() if name in MODELOPS_FIELDS}


def statuses(job: JobState) -> list[object]:
    return [step["status"] for step in job.transitions]


# --- lives of jobs --------------------------------------------------------------------------------------------------


@over_real_stores
def test_a_job_lives_from_its_registration_to_its_end(registry: JobRegistry) -> None:
    """Each step is in the history in its order, and what is read at the end is what the last write returned."""
    registry.register_job("a", "k8s-a", "ns", {"model": "sir"}, owner="ada", tasks_total=3)
    for status in ("submitting", "scheduled", "running"):
        registry.update_status("a", status)
    for done in (1, 2, 3):
        registry.update_progress("a", done)
    registry.update_status("a", "validating", expected_outputs=["x", "y"])
    last = registry.finalize_job("a", "partial", "out/", {"message": "y is missing", "code": "MISSING"})
    assert registry.get_job("a") == last
    assert statuses(last) == ["pending", "submitting", "scheduled", "running", "validating", "partial"]
    assert (last.revision, last.tasks_completed, last.results_path, last.owner) == (9, 3, "out/", "ada")
    with pytest.raises(TerminalStateError):
        registry.update_progress("a", 2)


@over_real_stores
def test_a_lost_reply_is_recognised_in_a_real_store(store: VersionedStore, registry: JobRegistry) -> None:
    """Create and update land once and are taken for what they are."""
    line = FaultyStore(store)
    over_it = JobRegistry(line, sleep=lambda _: None)
    line.lose_reply_next()
    over_it.register_job("a")
    line.lose_reply_next()
    job = over_it.update_status("a", "failed")
    assert job == registry.get_job("a")
    assert (job.revision, statuses(job)) == (2, ["pending", "submitting", "failed"])


# --- with other writers ---------------------------------------------------------------------------------------------


@over_real_stores
def test_a_writer_that_does_not_know_our_fields_can_take_turns_with_us(
    registry: JobRegistry, another_program: Write
) -> None:
    """It carries them along, so no field of mops-jobs is lost; our next write puts its steps into the history."""
    registry.register_job("a", owner="ada", labels={"exp": "7"}, metadata={"ours": 1})
    another_program("a", step("submitting", theirs={"x": [1]}))
    registry.update_status("a", "scheduled", metadata={"more": 2})
    another_program("a", step("running", tasks_total=4, tasks_completed=1))
    job = registry.finalize_job("a", "succeeded", "out/")
    assert (job.status, job.owner, job.labels, job.metadata) == (
        "succeeded",
        "ada",
        {"exp": "7"},
        {"ours": 1, "more": 2},
    )
    assert (job.tasks_total, job.tasks_completed, job.revision, job.extra) == (4, 1, 3, {"theirs": {"x": [1]}})
    assert statuses(job) == ["pending", "submitting", "scheduled", "running", "succeeded"]


@over_real_stores
def test_a_writer_that_drops_our_fields_takes_nothing_but_them(registry: JobRegistry, another_program: Write) -> None:
    """The status and ModelOps' fields stay right; our bookkeeping begins anew, and updates go on by the rules."""
    registry.register_job("a", "k8s-a", "ns", {"m": 1}, owner="ada")
    another_program("a", forgetful("submitting", k8s_uid="uid-1"))
    found = existing(registry.get_job("a"))
    assert (found.status, found.owner, found.revision, found.transitions) == ("submitting", None, 0, ())
    job = registry.update_status("a", "running", owner="ada")
    assert (job.owner, job.revision, statuses(job)) == ("ada", 1, ["submitting", "scheduled", "running"])
    assert (job.k8s_name, job.k8s_uid, job.metadata) == ("k8s-a", "uid-1", {"m": 1})
    another_program("a", forgetful("cancelled"))
    with pytest.raises(TerminalStateError):
        registry.update_progress("a", 1)
    assert registry.cancel_job("a").status is JobStatus.CANCELLED


@pytest.mark.usefixtures("store")
@over_real_stores
def test_our_write_is_listed_after_a_writer_that_dropped_our_fields(
    cli: Cli, backend: Backend, another_program: Write
) -> None:
    """The cache shows it at once, though the revision has begun anew; a listing of a remote registry sends nothing."""
    cli.env["MOPS_JOBS_REGISTRY"] = backend.url
    cli.ok("sync")
    cli.ok("register", "a", "-q")
    for number in range(1, 5):
        cli.clock.advance(seconds=1)
        cli.ok("progress", "a", f"{number}/4", "-q")
    another_program("a", forgetful("running"))
    cli.clock.advance(seconds=1)
    assert cli.ok("update", "a", "succeeded", "--json").json["revision"] == 1
    assert cli.ids("--status", "succeeded", "--offline") == ["a"]


@pytest.mark.parametrize("change", [step, forgetful])
@over_real_stores
def test_a_race_with_another_program_is_run_again_on_its_record(
    backend: Backend, registry: JobRegistry, another_program: Write, change: Callable[..., Any]
) -> None:
    """A writer between our reading and our writing is neither overwritten nor overlooked."""
    registry.register_job("a")
    line = FaultyStore(backend.open())
    rivals = iter([change("submitting", tasks_total=8), change("scheduled", error_message="slow")])

    def interfere(key: str) -> None:
        with contextlib.suppress(StopIteration):
            another_program("a", next(rivals))

    line.before_put = interfere
    job = JobRegistry(line, sleep=lambda _: None).update_status("a", "running", labels={"x": "1"})
    assert line.calls["put"] == 3
    assert (job.status, job.tasks_total, job.error_message, job.labels) == ("running", 8, "slow", {"x": "1"})
    assert statuses(job)[-1] == "running"


@over_real_stores
def test_another_program_is_told_when_we_were_faster(registry: JobRegistry, another_program: Write) -> None:
    """Our writes change the version that its condition names."""
    registry.register_job("a")

    def change(record: dict[str, Any]) -> dict[str, Any]:
        registry.update_fields("a", owner="ada")
        return step("submitting")(record)

    with pytest.raises(BeatenError):
        another_program("a", change)
    found = existing(registry.get_job("a"))
    assert (found.status, found.owner) == ("pending", "ada")


# --- many at once, and an outage ------------------------------------------------------------------------------------


@over_real_stores
def test_many_processes_racing_for_one_record_lose_no_update(backend: Backend) -> None:
    """And none gives up. All of the writes of all of the processes are in the record, each counted once."""
    store = backend.open()
    registry = JobRegistry(store)
    registry.register_job("a")
    registry.update_status("a", "running")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", PATIENT + RACE, backend.url, str(WRITERS), str(WRITES)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert (ran.stdout, ran.stderr) == (f"{[0] * WRITERS}\n", "")
    job = existing(registry.get_job("a"))
    assert set(job.labels) == {f"w{writer}.{number}" for writer in range(WRITERS) for number in range(WRITES)}
    assert {name: job.metadata[name] for name in job.metadata if name != LABEL_HISTORY} == {
        str(writer): WRITES - 1 for writer in range(WRITERS)
    }
    assert job.revision == 2 + WRITERS * WRITES


def test_a_registry_that_stops_works_again_when_it_is_back(private_azurite: Azurite) -> None:
    """Meanwhile it is unavailable.

    No method takes the outage for an empty registry; the same client goes on afterwards.
    """
    store = open_store(f"{private_azurite.endpoint}/{private_azurite.new_container()}", {})
    with contextlib.closing(store):
        registry = JobRegistry(store, sleep=lambda _: None)
        registry.register_job("a")
        private_azurite.stop()
        for attempt in (
            lambda: registry.get_job("a"),
            lambda: registry.update_status("a", "submitting"),
            lambda: registry.register_job("b"),
            registry.list_jobs,
        ):
            with pytest.raises(StoreUnavailableError):
                attempt()
        private_azurite.start()
        assert registry.list_jobs() == []  # this server forgets when it stops
        registry.register_job("a")
        assert registry.update_status("a", "running").status is JobStatus.RUNNING


# --- values and names of ModelOps ------------------------------------------------------------------------------------


@pytest.mark.azurite
def test_a_program_of_modelops_opens_azure_by_its_own_names(azurite: Azurite) -> None:
    """The container is made by the first write, and the record is the one that mops-jobs reads."""
    container = azurite.new_container()
    store = modelops.AzureVersionedStore(connection_string=azurite.connection_string, container=container)
    with contextlib.closing(store):
        state = modelops.JobRegistry(store).register_job("a", "k8s-a", "modelops", None, {"run": 7})
        ours = existing(JobRegistry(store).get_job("a"))
        assert (ours.k8s_name, ours.k8s_namespace, ours.metadata) == ("k8s-a", "modelops", {"run": 7})
        assert modelops.get_json(store, "jobs/a/state.json") == state.to_dict()


@pytest.mark.parametrize(
    "backend",
    [
        pytest.param("azure", marks=pytest.mark.azurite),
        pytest.param("dynamodb", marks=pytest.mark.dynalite),
        pytest.param("s3-seaweedfs", marks=pytest.mark.s3),
    ],
    indirect=True,
)
def test_a_runner_with_a_late_clock_is_not_silent(backend: Backend) -> None:
    """Its signs of life have the time of the store, by the reply that it has just read."""
    store = backend.open()
    began = utc_now()
    late = JobRegistry(store, now=lambda: utc_now() - timedelta(minutes=5))
    late.register_job("a")
    heartbeat_at = existing(late.report_shard("a", 0, 1, ShardReport(0, 0)).heartbeat_at)
    assert parse_time(heartbeat_at) >= began.replace(microsecond=0)
