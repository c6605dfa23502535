"""The registry's rules, over a store in memory, with a clock, ids and a sleep that the test holds in its hands."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mopsjobs.errors import (
    InvalidTransitionError,
    JobExistsError,
    JobNotFoundError,
    MopsJobsError,
    RecordError,
    StoreUnavailableError,
    TerminalStateError,
    TooManyRetriesError,
    UsageError,
)
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.status import ACTIVE, TERMINAL, JobStatus, steps
from mopsjobs.registry.transitions import ShardReport
from mopsjobs.store import cas
from mopsjobs.store.documents import create_with_retry, update_with_retry
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.utils.backoff import Backoff
from support.doubles import FaultyStore, RecordingSleep

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
UPDATES: dict[str, Callable[[JobRegistry], JobState]] = {
    "update_status": lambda registry: registry.update_status("a", "running", owner="eve"),
    "update_fields": lambda registry: registry.update_fields("a", owner="eve"),
    "update_progress": lambda registry: registry.update_progress("a", 3),
    "start": lambda registry: registry.update_progress("a", 3, start=True),
    "finalize_job": lambda registry: registry.finalize_job("a", "failed", error_info={"message": "m", "code": "c"}),
    "cancel_job": lambda registry: registry.cancel_job("a", "reason"),
}
"""A call of each method that changes a job, which would change the job `a` if the rules let it."""


class Overtaken(FaultyStore):
    """A bad line on which another writer writes on top of a write that landed, before its writer hears of the loss."""

    rival: Callable[[], object] | None = None

    def _write(self, write: Callable[[], Any]) -> Any:
        try:
            return super()._write(write)
        except StoreUnavailableError:
            if self.rival is not None:
                self.rival()
            raise


class Bench:
    """A registry with everything that it was given, and what it told its mirror."""

    def __init__(self) -> None:
        self.store = InMemoryVersionedStore()
        self.line = Overtaken(self.store)
        self.sleep = RecordingSleep()
        self.now = NOW
        self.told: list[tuple[str, bytes, Any]] = []
        ids = itertools.count(1)
        self.registry = JobRegistry(
            self.line,
            now=lambda: self.now,
            new_id=lambda: f"w{next(ids)}",
            sleep=self.sleep,
            random=lambda: 0.5,
            on_write=lambda key, value, version: self.told.append((key, value, version)),
        )
        self.rival = JobRegistry(self.store, now=lambda: self.now, new_id=lambda: f"rival{next(ids)}")

    def place(self, job_id: str = "a", **fields: object) -> bytes:
        """Put a record there as ModelOps does: indented, with none of our fields unless given."""
        at = NOW.isoformat()
        record = {"job_id": job_id, "status": "running", "created_at": at, "updated_at": at, "tasks_total": 0, **fields}
        value = json.dumps(record, indent=2).encode()
        assert self.store.create_if_absent(self.registry.key_of(job_id), value)
        return value

    def bytes(self, job_id: str = "a") -> bytes:
        found = self.registry.get_record(job_id)
        assert found is not None
        return found.value

    def history(self, job_id: str = "a") -> list[str]:
        job = self.registry.get_job(job_id)
        assert job is not None
        return [str(step["status"]) for step in job.transitions]


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def registry(bench: Bench) -> JobRegistry:
    return bench.registry


# --- registering ----------------------------------------------------------------------------------------------------


def test_a_registered_job_is_pending_and_is_what_get_job_gives(registry: JobRegistry) -> None:
    """The record has its first step in its history, its first revision, and the fields that were given."""
    job = registry.register_job("a", owner="ada", labels={"exp": "7"}, tasks_total=5, engine="local")
    at = NOW.isoformat()
    assert job == registry.get_job("a")
    assert (job.status, job.created_at, job.updated_at, job.revision, job.write_id) == ("pending", at, at, 1, "w1")
    assert job.transitions == ({"status": "pending", "at": at, "id": "w1"},)
    assert (job.owner, job.labels, job.tasks_total, job.engine) == ("ada", {"exp": "7"}, 5, "local")


def test_what_is_told_late_has_the_steps_of_when_it_was_so(bench: Bench) -> None:
    """But it is written now, a sign of life is one of now, and no step comes before another, nor in the future."""
    ago = bench.registry.backdated_to(NOW - timedelta(minutes=10))
    job = ago.register_job("a")
    at = (NOW - timedelta(minutes=10)).isoformat()
    assert (job.created_at, job.updated_at, job.transitions[0]["at"]) == (at, NOW.isoformat(), at)
    assert (
        bench.registry.backdated_to(NOW - timedelta(hours=1)).update_status("a", "scheduled").transitions[-1]["at"]
        == at
    )
    begun = NOW - timedelta(minutes=5)
    job = bench.registry.backdated_to(begun).report_shard("a", 0, 1, ShardReport(1, 0))
    assert (job.transitions[-1]["at"], job.heartbeat_at) == (begun.isoformat(), NOW.isoformat())
    assert bench.registry.backdated_to(NOW + timedelta(hours=1)).register_job("b").created_at == NOW.isoformat()


def test_register_takes_its_arguments_in_modelops_order(registry: JobRegistry) -> None:
    """Code written against ModelOps' registry ports by changing an import."""
    job = registry.register_job("id", "k8s", "ns", {"a": 1})
    assert (job.job_id, job.k8s_name, job.k8s_namespace, job.metadata) == ("id", "k8s", "ns", {"a": 1})


def test_an_id_is_given_once(bench: Bench) -> None:
    """The second one is told so, and the first one's record is as it was."""
    bench.registry.register_job("a", owner="ada")
    before = bench.bytes()
    with pytest.raises(JobExistsError, match="Job a is already registered") as caught:
        bench.registry.register_job("a", owner="eve")
    assert (caught.value.job_id, caught.value.exit_code, bench.bytes()) == ("a", 6, before)


@pytest.mark.parametrize(
    ("job_id", "fields"),
    [
        ("a/b", {}),
        ("a b", {}),
        ("a", {"ownr": "ada"}),
        ("a", {"status": "running"}),
        ("a", {"revision": 7}),
        ("a", {"labels": {"exp": 7}}),
        ("a", {"metadata": [1]}),
        ("a", {"metadata": {"x": float("inf")}}),
        ("a", {"tasks_total": -1}),
        ("a", {"tasks_total": 3, "tasks_completed": 4}),
        ("a", {"metadata": {"x": "y" * 2_000_000}}),
    ],
)
def test_what_cannot_be_a_record_is_not_registered(bench: Bench, job_id: str, fields: dict[str, Any]) -> None:
    """A bad id, an unknown or bookkeeping field, a wrong type, impossible counts, too many bytes: nothing is left."""
    with pytest.raises(UsageError):
        bench.registry.register_job(job_id, **fields)
    assert list(bench.store.list_keys()) == []


# --- moving ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", JobStatus)
@pytest.mark.parametrize("after", JobStatus)
def test_every_move_is_made_or_refused_as_the_table_says(bench: Bench, before: JobStatus, after: JobStatus) -> None:
    """All 81: a no-op onto itself, refused after the end or without a way, else each step in the history once."""
    value = bench.place(status=before)
    way = steps(before, after)
    if before is after:
        assert bench.registry.update_status("a", after).status is before
    elif way is None:
        kind = TerminalStateError if before in TERMINAL else InvalidTransitionError
        with pytest.raises(kind) as caught:
            bench.registry.update_status("a", after)
        assert type(caught.value) is kind
        assert (caught.value.job_id, caught.value.from_status, caught.value.to_status) == ("a", before, after)
    else:
        assert bench.registry.update_status("a", after).status is after
        assert bench.history() == [before, *way]  # what another program had made of it is noted first
        return
    assert bench.bytes() == value
    assert not bench.told


def test_missed_steps_are_walked_in_one_write(bench: Bench) -> None:
    """They share a time and the id of the write, which is one revision."""
    bench.registry.register_job("a")
    bench.now += timedelta(minutes=1)
    job = bench.registry.update_status("a", "succeeded", results_path="out/")
    at = bench.now.isoformat()
    way = ["submitting", "scheduled", "running", "succeeded"]
    assert list(job.transitions[1:]) == [{"status": status, "at": at, "id": "w2"} for status in way]
    assert (bench.line.calls["put"], job.revision, job.write_id, job.results_path) == (1, 2, "w2", "out/")


def test_metadata_and_labels_are_merged_and_other_fields_replaced(bench: Bench) -> None:
    """None unsets, and what is not mentioned stays; an empty object adds nothing."""
    bench.place(metadata={"a": 1, "b": 1}, labels={"x": "1"}, owner="ada", error_code="E", verified_outputs=["o1"])
    job = bench.registry.update_status(
        "a", "running", metadata={"b": 2}, labels={"y": "2"}, error_code=None, verified_outputs=["o2"]
    )
    assert (job.metadata, job.labels) == ({"a": 1, "b": 2}, {"x": "1", "y": "2"})
    assert (job.owner, job.error_code, job.verified_outputs) == ("ada", None, ("o2",))
    assert bench.registry.update_fields("a", metadata={}, labels={}).metadata == {"a": 1, "b": 2}
    assert bench.registry.update_fields("a", metadata=None).metadata == {}


def test_one_is_not_true(bench: Bench) -> None:
    """Values that only Python takes for equal are a change, and it is written."""
    bench.place(metadata={"a": 1})
    assert bench.registry.update_fields("a", metadata={"a": True}).metadata["a"] is True


def test_what_changes_nothing_writes_nothing(bench: Bench) -> None:
    """Neither a revision nor a time is spent on it."""
    value = bench.place(owner="ada", tasks_completed=3)
    bench.registry.update_status("a", "running", owner="ada")
    bench.registry.update_fields("a", owner="ada")
    bench.registry.update_progress("a", 3, start=True)
    assert (bench.bytes(), bench.line.calls["put"], bench.told) == (value, 0, [])


@pytest.mark.parametrize("bad", ["ownr", "status", "updated_at", "write_id", "extra"])
@pytest.mark.parametrize("method", ["update_status", "update_fields"])
def test_an_unknown_field_is_an_error_and_nothing_is_written(bench: Bench, method: str, bad: str) -> None:
    """ModelOps drops it in silence."""
    value = bench.place(status="scheduled")
    arguments = ("running",) if method == "update_status" else ()
    with pytest.raises(UsageError, match=f"invalid field '{bad}'"):
        getattr(bench.registry, method)("a", *arguments, **{bad: "x"})
    assert bench.bytes() == value


@pytest.mark.parametrize("call", ["update_status", "finalize_job"])
def test_an_unknown_status_is_a_usage_error_that_lists_the_good_ones(registry: JobRegistry, call: str) -> None:
    """Checked before anything is read: whether there is such a job does not matter."""
    with pytest.raises(UsageError, match=r"invalid status 'runing': expected one of pending, .*Did you mean 'running'"):
        getattr(registry, call)("nobody", "runing")


def test_a_status_may_be_given_in_any_case(bench: Bench) -> None:
    """As on the command line."""
    bench.place(status="scheduled")
    assert bench.registry.update_status("a", "RUNNING").status is JobStatus.RUNNING


# --- what holds for each method that changes a job ------------------------------------------------------------------


@pytest.mark.parametrize("status", sorted(TERMINAL))
@pytest.mark.parametrize("method", UPDATES)
def test_a_record_that_has_ended_does_not_change(bench: Bench, method: str, status: str) -> None:
    """Every attempt is refused; only cancelling what is cancelled is a no-op."""
    value = bench.place(status=status)
    if (method, status) == ("cancel_job", "cancelled"):
        assert UPDATES[method](bench.registry).status is JobStatus.CANCELLED
    else:
        with pytest.raises(TerminalStateError):
            UPDATES[method](bench.registry)
    assert bench.bytes() == value


@pytest.mark.parametrize("method", UPDATES)
def test_a_status_unknown_to_this_version_is_never_overwritten(bench: Bench, method: str) -> None:
    """A newer version knows what it means, and what may follow."""
    value = bench.place(status="archived")
    with pytest.raises(InvalidTransitionError, match="'archived', which this version does not know"):
        UPDATES[method](bench.registry)
    assert bench.bytes() == value


@pytest.mark.parametrize("method", UPDATES)
def test_a_job_that_is_not_there_is_a_key_error(registry: JobRegistry, method: str) -> None:
    """As in ModelOps, and as an error of mops-jobs, with an exit code and a sentence."""
    with pytest.raises(KeyError) as caught:
        UPDATES[method](registry)
    assert isinstance(caught.value, JobNotFoundError)
    assert (str(caught.value), caught.value.job_id, caught.value.exit_code) == ("Job a not found.", "a", 3)


@pytest.mark.parametrize("method", [*UPDATES, "get_job"])
def test_what_is_no_record_is_named_by_key_and_left_alone(bench: Bench, method: str) -> None:
    """Nothing is guessed from half a record, and nothing written over it."""
    value = bench.place(tasks_total="many")
    with pytest.raises(RecordError, match=r"^jobs/a/state\.json: invalid field tasks_total: expected a whole number"):
        UPDATES.get(method, lambda registry: registry.get_job("a"))(bench.registry)
    assert bench.bytes() == value


def test_a_change_of_a_record_keeps_the_foreign_values_of_other_fields(bench: Bench) -> None:
    """A number as error code, NaN and half a task: they are shown otherwise, and stay as they are."""
    theirs = {"error_code": 137, "error_message": {"exit": 1}, "tasks_verified": 0.5, "metadata": {"loss": math.nan}}
    bench.place(**theirs, tasks_completed=2.5)
    bench.registry.update_progress("a", tasks_completed=3)
    job = bench.registry.update_status("a", "failed", metadata={"ours": 1}, labels={"exp": "7"})
    assert (job.error_code, job.error_message, job.tasks_verified) == ("137", '{"exit": 1}', 0)
    written = json.loads(bench.bytes())
    assert (written["error_code"], written["error_message"], written["tasks_verified"]) == (137, {"exit": 1}, 0.5)
    assert (written["tasks_completed"], written["metadata"]["ours"]) == (3, 1)
    assert math.isnan(written["metadata"]["loss"])


@pytest.mark.parametrize("name", ["error_code", "tasks_completed", "metadata"])
def test_a_write_is_stricter_than_reading(bench: Bench, name: str) -> None:
    """No program gets a value of another form into a record by mops-jobs."""
    value = bench.place()
    with pytest.raises(UsageError, match=name):
        bench.registry.update_fields(
            "a", **{name: {"error_code": 137, "tasks_completed": 2.5, "metadata": {"x": math.nan}}[name]}
        )
    assert bench.bytes() == value


@pytest.mark.parametrize("method", [*UPDATES, "get_job"])
def test_a_record_under_the_key_of_another_job_is_left_alone(bench: Bench, method: str) -> None:
    """A user has copied it there; changing it would change neither job, and listing it would show one twice."""
    value = bench.place("a", status="scheduled").replace(b'"job_id": "a"', b'"job_id": "b"')
    found = bench.store.get("jobs/a/state.json")
    assert found is not None
    bench.store.put("jobs/a/state.json", value, found.version)
    with pytest.raises(RecordError, match=r"^jobs/a/state\.json: the record is that of job 'b'$"):
        UPDATES.get(method, lambda registry: registry.get_job("a"))(bench.registry)
    assert (bench.bytes(), bench.registry.list_jobs()) == (value, [])


@pytest.mark.parametrize("method", UPDATES)
def test_unknown_fields_are_carried_along(bench: Bench, method: str) -> None:
    """Fields of a newer version, or of another program, are after each update what they were before."""
    unknown = {"gpu": {"count": 2, "kinds": ["a", None]}, "Status": "x", "": 0}
    bench.place(status="scheduled", **unknown)
    UPDATES[method](bench.registry)
    assert unknown.items() <= json.loads(bench.bytes()).items()


@pytest.mark.parametrize("method", UPDATES)
def test_a_write_counts_a_revision_and_leaves_its_id_and_time(bench: Bench, method: str) -> None:
    """A record that no version of mops-jobs has written counts as revision 0."""
    bench.place(status="scheduled")
    bench.now += timedelta(hours=1)
    job = UPDATES[method](bench.registry)
    assert (job.revision, job.write_id, job.updated_at) == (1, "w1", bench.now.isoformat())
    assert job == bench.registry.get_job("a")


@pytest.mark.parametrize("method", UPDATES)
def test_time_never_runs_backwards_in_a_record(bench: Bench, method: str) -> None:
    """A writer whose clock is behind repeats the record's own time, in the history too."""
    later = (NOW + timedelta(hours=2)).isoformat()
    bench.place(status="scheduled", updated_at=later)
    job = UPDATES[method](bench.registry)
    assert job.updated_at == later
    assert all(step["at"] == later for step in job.transitions)


@pytest.mark.parametrize("method", UPDATES)
def test_a_mirror_is_told_of_each_write_once_with_what_was_written(bench: Bench, method: str) -> None:
    """Key, bytes and version are those that the store has, also when races were lost before."""
    bench.place(status="scheduled")
    bench.line.conflict_next(2)
    UPDATES[method](bench.registry)
    found = bench.registry.get_record("a")
    assert found is not None
    assert bench.told == [("jobs/a/state.json", found.value, found.version)]


@pytest.mark.parametrize("method", UPDATES)
def test_a_lost_reply_is_not_a_lost_write(bench: Bench, method: str) -> None:
    """The write is recognised as one's own: no error, one revision, each step once in the history, the mirror told."""
    bench.place(status="scheduled")
    bench.line.lose_reply_next()
    job = UPDATES[method](bench.registry)
    assert (job.revision, bench.line.calls["put"], len(bench.told)) == (1, 1, 1)
    assert len(set(bench.history())) == len(bench.history())


@pytest.mark.parametrize("method", UPDATES)
def test_an_outage_during_the_write_is_looked_into_and_the_write_repeated(bench: Bench, method: str) -> None:
    """What did not arrive is sent again, and lands once."""
    bench.place(status="scheduled")
    bench.line.fail_next(2, "put")
    job = UPDATES[method](bench.registry)
    assert (job.revision, bench.line.calls["put"], len(bench.told)) == (1, 3, 1)


@pytest.mark.parametrize("method", UPDATES)
def test_a_race_that_is_lost_too_often_is_given_up_and_nothing_written(bench: Bench, method: str) -> None:
    """The error names the key and how often; between two attempts there was a pause, after the last one none."""
    value = bench.place(status="scheduled")
    bench.line.conflict_next(cas.ATTEMPTS)
    with pytest.raises(TooManyRetriesError) as caught:
        UPDATES[method](bench.registry)
    assert (caught.value.key, caught.value.attempts) == ("jobs/a/state.json", cas.ATTEMPTS)
    backoff = Backoff(cas.BASE_SECONDS, cas.CAP_SECONDS, random=lambda: 0.5)
    assert bench.sleep.requested == [backoff.delay(attempt) for attempt in range(1, cas.ATTEMPTS)]
    assert (bench.bytes(), bench.told) == (value, [])


# --- progress, the end, cancelling ----------------------------------------------------------------------------------


def test_progress_sets_the_counts_that_are_given(bench: Bench) -> None:
    """None leaves a count as it is."""
    bench.place()
    bench.registry.update_progress("a", 2, 10)
    job = bench.registry.update_progress("a", tasks_failed=1)
    assert (job.status, job.tasks_completed, job.tasks_total, job.tasks_failed) == ("running", 2, 10, 1)


@pytest.mark.parametrize(
    "counts", [(-1, None), (None, -1), (11, None), (3, 2), (2**53, None), ("3", None), (True, None)]
)
def test_impossible_counts_are_refused(bench: Bench, counts: tuple[Any, Any]) -> None:
    """Negative ones, more done than there is, and what is not a number."""
    value = bench.place(tasks_total=10)
    with pytest.raises(UsageError):
        bench.registry.update_progress("a", *counts)
    assert bench.bytes() == value


def test_counts_of_another_program_do_not_stand_in_the_way_of_the_end(bench: Bench) -> None:
    """A record that already has more done than there is can be ended, and set right, but not made worse."""
    bench.place("a", tasks_total=10, tasks_completed=12)
    with pytest.raises(UsageError):
        bench.registry.update_progress("a", 13)
    assert bench.registry.update_fields("a", owner="ada").tasks_completed == 12
    assert bench.registry.finalize_job("a", "succeeded").status is JobStatus.SUCCEEDED


@pytest.mark.parametrize("status", sorted(ACTIVE))
def test_progress_can_prove_that_a_job_runs(bench: Bench, status: str) -> None:
    """With `start` a job that is not yet running is moved there in the same write; one further on stays."""
    bench.place(status=status)
    assert bench.registry.update_progress("a", 1).status == status
    job = bench.registry.update_progress("a", 2, start=True)
    assert job.status == ("validating" if status == "validating" else "running")
    assert job.tasks_completed == 2


@pytest.mark.parametrize("final", sorted(TERMINAL))
def test_the_end_of_a_job_is_one_write_with_what_it_leaves(bench: Bench, final: str) -> None:
    """Status, results, message and code land together or not at all; again is a no-op."""
    bench.place()
    error = {"message": "out of memory", "code": "OOM"}
    for _ in range(2):
        job = bench.registry.finalize_job("a", final, "results/", error)
        assert (job.status, job.results_path) == (final, "results/")
        assert (job.error_message, job.error_code, job.revision) == ("out of memory", "OOM", 1)


def test_ending_again_with_something_else_is_refused(bench: Bench) -> None:
    """The record tells how it ended the first time."""
    bench.place(status="failed", error_code="OOM")
    for arguments in (("failed", "results/"), ("succeeded",), ("failed", None, {"code": "E"})):
        with pytest.raises(TerminalStateError):
            bench.registry.finalize_job("a", *arguments)
    assert bench.registry.finalize_job("a", "failed").error_code == "OOM"
    assert bench.registry.finalize_job("a", "failed", None, {}).error_code == "OOM"


@pytest.mark.parametrize("status", sorted(ACTIVE))
def test_only_a_terminal_status_ends_a_job(registry: JobRegistry, status: str) -> None:
    """The sentence lists those."""
    with pytest.raises(
        UsageError,
        match=f"invalid final status '{status}': it is not a terminal status, "
        "expected one of cancelled, failed, partial, succeeded",
    ):
        registry.finalize_job("a", status)


def test_cancelling_says_why_and_is_idempotent(bench: Bench) -> None:
    """The first reason stays."""
    bench.place(status="scheduled")
    assert bench.registry.cancel_job("a", "too slow").error_message == "Cancelled: too slow"
    assert bench.registry.cancel_job("a", "other").error_message == "Cancelled: too slow"
    assert bench.history() == ["scheduled", "cancelled"]


@pytest.mark.parametrize("status", ["submitting", "validating"])
def test_cancelling_is_refused_where_the_table_has_no_way(bench: Bench, status: str) -> None:
    """A hint says where the job can go instead."""
    bench.place(status=status)
    with pytest.raises(InvalidTransitionError, match=f"is {status}; it cannot become cancelled") as caught:
        bench.registry.cancel_job("a")
    assert caught.value.hint is not None
    assert "failed" in caught.value.hint


# --- outages and rivals ---------------------------------------------------------------------------------------------


def test_a_registration_whose_reply_was_lost_is_no_duplicate(bench: Bench) -> None:
    """One's own record is recognised; the mirror hears of it once."""
    bench.line.lose_reply_next()
    job = bench.registry.register_job("a")
    assert (job.revision, bench.history(), len(bench.told)) == (1, ["pending"], 1)


def test_a_registration_is_recognised_under_what_somebody_wrote_on_top(bench: Bench) -> None:
    """Its step is still in the history; the state returned is the newer one."""
    bench.line.lose_reply_next()
    bench.line.rival = lambda: bench.rival.update_status("a", "submitting")
    job = bench.registry.register_job("a", owner="ada")
    assert (job.status, job.owner, job.revision) == ("submitting", "ada", 2)


def test_a_registration_that_somebody_overtook_is_a_duplicate(bench: Bench) -> None:
    """When the own request did not arrive and another's did, the other one has the id."""
    bench.line.fail_next(1, "create_if_absent")
    bench.rival.register_job("a", owner="eve")
    with pytest.raises(JobExistsError):
        bench.registry.register_job("a", owner="ada")


def test_a_step_is_recognised_under_what_somebody_wrote_on_top(bench: Bench) -> None:
    """No false InvalidTransitionError: the job did run before the rival ended it, and the history has both once."""
    bench.place(status="scheduled", transitions=[])
    bench.line.lose_reply_next()
    bench.line.rival = lambda: bench.rival.finalize_job("a", "succeeded")
    job = bench.registry.update_status("a", "running")
    assert (job.status, job.revision) == ("succeeded", 2)
    assert bench.history() == ["scheduled", "running", "succeeded"]
    assert len(bench.told) == 1


def test_progress_with_a_lost_reply_survives_somebody_who_ends_the_job(bench: Bench) -> None:
    """It has landed, so it is not reported as late."""
    bench.place()
    bench.line.lose_reply_next()
    bench.line.rival = lambda: bench.rival.finalize_job("a", "failed")
    job = bench.registry.update_progress("a", 7)
    assert (job.status, job.tasks_completed) == ("failed", 7)


def test_progress_that_may_be_stored_is_not_refused_afterwards(bench: Bench) -> None:
    """What came later does not make it invalid.

    Its trace is gone with the next progress, and the job has ended since; that nothing was written may be false.
    """
    bench.place()
    bench.line.lose_reply_next()

    def overtake() -> None:
        bench.rival.update_progress("a", 8)
        bench.rival.finalize_job("a", "failed")

    bench.line.rival = overtake
    with pytest.raises(StoreUnavailableError) as caught:
        bench.registry.update_progress("a", 7)
    assert "may or may not have landed" in (caught.value.hint or "")


def test_a_step_that_has_not_landed_is_refused_over_what_came_instead(bench: Bench) -> None:
    """A step leaves a lasting trace: where there is none it did not land, and the refusal is true."""
    bench.place(status="scheduled", transitions=[])
    bench.line.fail_next(1, "put")
    registry = JobRegistry(bench.line, sleep=lambda _seconds: bench.rival.finalize_job("a", "failed") and None)
    with pytest.raises(TerminalStateError):
        registry.update_status("a", "running")
    assert bench.history() == ["scheduled", "failed"]


def test_rivals_who_set_different_things_both_succeed(bench: Bench) -> None:
    """A race lost between read and write is run again on top of the winner's record."""
    bench.place(labels={"x": "0"})
    racers = iter([lambda: bench.rival.update_fields("a", labels={"x": "1"})])
    bench.line.before_put = lambda key: next(racers, lambda: None)()
    job = bench.registry.update_fields("a", labels={"y": "2"})
    assert (job.labels, job.revision) == ({"x": "1", "y": "2"}, 2)


def test_a_race_is_decided_by_the_rules(bench: Bench) -> None:
    """Who comes second is judged by what the first one left."""
    bench.place()
    racers = iter([lambda: bench.rival.cancel_job("a")])
    bench.line.before_put = lambda key: next(racers, lambda: None)()
    with pytest.raises(TerminalStateError):
        bench.registry.update_status("a", "succeeded")
    assert bench.history() == ["running", "cancelled"]


def test_an_outage_before_the_write_is_reported_at_once(bench: Bench) -> None:
    """A reader is not kept waiting, and no error says that something may have been written."""
    value = bench.place()
    bench.line.fail_next(1, "get")
    with pytest.raises(StoreUnavailableError) as caught:
        bench.registry.update_progress("a", 1)
    assert (caught.value.hint, bench.sleep.requested, bench.bytes()) == (None, [], value)


@pytest.mark.parametrize("method", ["register", "update"])
def test_an_outage_that_lasts_says_that_the_write_may_have_landed(bench: Bench, method: str) -> None:
    """The outcome is unknown, and that is what the hint says."""
    if method == "update":
        bench.place()
    bench.line.fail_next(cas.OUTAGES, "put", "create_if_absent")
    with pytest.raises(StoreUnavailableError) as caught:
        bench.registry.update_progress("a", 1) if method == "update" else bench.registry.register_job("a")
    assert caught.value.hint is not None
    assert "may or may not have landed" in caught.value.hint


# --- reading --------------------------------------------------------------------------------------------------------


def test_no_limit_hides_active_jobs(bench: Bench) -> None:
    """All 150 are there, in each of the three views."""
    for number in range(150):
        bench.place(f"job-{number}")
    assert len(bench.registry.get_active_jobs()) == 150
    assert len(bench.registry.list_jobs()) == 150
    assert bench.registry.count_jobs_by_status()["running"] == 150


def test_jobs_are_listed_newest_first_by_time_not_by_text(bench: Bench) -> None:
    """Offsets and missing fractions do not confuse the order."""
    for job_id, created in [
        ("a", "2026-11-24T08:00:00+00:00"),
        ("b", "2026-11-24T09:30:00+02:00"),
        ("c", "2026-11-24T08:00:00.5Z"),
    ]:
        bench.place(job_id, created_at=created)
    assert [job.job_id for job in bench.registry.list_jobs()] == ["c", "a", "b"]
    assert [job.job_id for job in bench.registry.list_jobs(2)] == ["c", "a"]


def test_jobs_are_filtered_by_status_and_times(bench: Bench) -> None:
    """By when they were created, or changed. A job that has been running for days and changed just now is recent."""
    old, new = (NOW - timedelta(days=3)).isoformat(), NOW.isoformat()
    bench.place("old", created_at=old, updated_at=old, status="failed")
    bench.place("alive", created_at=old, updated_at=new)
    bench.place("new", status="succeeded")
    bench.place("odd", status="archived", created_at=old, updated_at=old)

    def ids(jobs: list[JobState]) -> set[str]:
        return {job.job_id for job in jobs}

    assert ids(bench.registry.list_jobs(status_filter=[JobStatus.FAILED, JobStatus.RUNNING])) == {"old", "alive"}
    assert ids(bench.registry.list_jobs(since=NOW)) == {"alive", "new"}
    assert ids(bench.registry.get_recent_jobs(72)) == {"old", "alive", "new", "odd"}
    assert ids(bench.registry.get_recent_jobs()) == {"alive", "new"}
    assert ids(bench.registry.get_active_jobs()) == {"alive", "odd"}


def test_every_status_is_counted_the_empty_ones_and_the_unknown_ones_too(bench: Bench) -> None:
    """The counts add up to the number of jobs."""
    for job_id, status in [("a", "failed"), ("b", "failed"), ("c", "archived")]:
        bench.place(job_id, status=status)
    assert bench.registry.count_jobs_by_status() == {**dict.fromkeys(JobStatus, 0), "failed": 2, "archived": 1}


def test_what_is_no_record_is_logged_and_does_not_stop_a_listing(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """A broken record is named with its reason; keys that are not records are ignored."""
    bench.place("good")
    bench.place("bad", tasks_total="many")
    for key in ("jobs/good/log.txt", "jobs/good/x/state.json", "jobs/state.json", "jobs2/a/state.json"):
        bench.store.create_if_absent(key, b"{")
    assert [job.job_id for job in bench.registry.list_jobs()] == ["good"]
    assert caplog.messages == ["jobs/bad/state.json: invalid field tasks_total: expected a whole number, not text"]


def test_a_job_that_is_not_there_is_none(registry: JobRegistry) -> None:
    """Asking is not an error; asking for an invalid id is."""
    assert registry.get_job("a") is None
    with pytest.raises(UsageError):
        registry.get_job("a/b")


@pytest.mark.parametrize(
    ("key", "job_id"),
    [
        ("jobs/a/state.json", "a"),
        ("jobs/a b/state.json", "a b"),
        ("jobs/a/events/state.json", None),
        ("jobs/a", None),
        ("jobs//state.json", None),
        ("a/state.json", None),
        ("jobs2/a/state.json", None),
    ],
)
def test_the_key_of_a_record_names_its_job(registry: JobRegistry, key: str, job_id: str | None) -> None:
    """And any other key names none."""
    assert registry.job_id_of(key) == job_id
    assert job_id is None or registry.key_of(job_id) == key


# --- plain dicts, as ModelOps' storage layer has them ---------------------------------------------------------------


def test_a_dict_is_created_once_and_updated_by_a_function() -> None:
    """The second create changes nothing and says so; the update returns what it wrote."""
    store = InMemoryVersionedStore()
    assert create_with_retry(store, "k", {"a": 1})
    assert not create_with_retry(store, "k", {"a": 2})
    assert update_with_retry(store, "k", lambda found: {**found, "b": found["a"]}) == {"a": 1, "b": 1}
    assert json.loads(store.get("k").value) == {"a": 1, "b": 1}  # type: ignore[union-attr]


def test_a_dict_update_of_a_missing_key_is_a_key_error() -> None:
    """And one of a value that is not a JSON object is a RecordError. As in ModelOps, but named."""
    store = InMemoryVersionedStore()
    with pytest.raises(KeyError):
        update_with_retry(store, "k", dict)
    for key, value in [("list", b"[]"), ("html", b"<html>"), ("bytes", b"\xff")]:
        store.create_if_absent(key, value)
        with pytest.raises(RecordError, match=f"^{key}: not "):
            update_with_retry(store, key, dict)


def test_a_dict_update_gives_up_after_as_many_lost_races_as_asked_for() -> None:
    """One attempt means one."""
    line = FaultyStore(InMemoryVersionedStore())
    create_with_retry(line, "k", {"a": 1})
    line.conflict_next()
    with pytest.raises(TooManyRetriesError):
        update_with_retry(line, "k", dict, max_attempts=1)


def test_a_dict_update_whose_reply_was_lost_is_reported_as_unknown() -> None:
    """It is never applied twice.

    A plain dict has no room for a write id: so the error neither says that nothing was written, nor guesses.
    """
    for attempts in (1, 2):
        line = FaultyStore(InMemoryVersionedStore())
        create_with_retry(line, "k", {"n": 1})
        line.lose_reply_next()
        with pytest.raises(StoreUnavailableError, match="reply to the write of k was lost"):
            update_with_retry(line, "k", lambda found: {"n": int(str(found["n"])) + 1}, attempts)
        assert json.loads(line.inner.get("k").value) == {"n": 2}  # type: ignore[union-attr]


# --- against a model ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Model:
    """The model of a job, in the fewest words."""

    status: JobStatus = JobStatus.PENDING
    done: int = 0
    labels: frozenset[tuple[str, str]] = frozenset()
    history: tuple[JobStatus, ...] = (JobStatus.PENDING,)

    def to(self, target: JobStatus, **fields: Any) -> Model | type[MopsJobsError]:
        """Return the job moved to `target` with these fields, or the error that the attempt deserves."""
        changed = dataclasses.replace(self, **fields)
        if self.status is target:
            return TerminalStateError if changed != self and self.status in TERMINAL else changed
        way = steps(self.status, target)
        if way is None:
            return TerminalStateError if self.status in TERMINAL else InvalidTransitionError
        return dataclasses.replace(changed, status=target, history=self.history + way)

    def stay(self, **fields: Any) -> Model | type[MopsJobsError]:
        return self.to(self.status, **fields)

    def labelled(self, name: str, value: str) -> frozenset[tuple[str, str]]:
        return frozenset({**dict(self.labels), name: value}.items())


Expected = Model | type[MopsJobsError]
jobs = st.sampled_from("ab")
statuses = st.sampled_from(JobStatus)
names = st.sampled_from("xy")


class RegistryMachine(RuleBasedStateMachine):
    """Random calls over a bad line, with a clock that jumps: the registry is always where the model is."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.registry = self.bench.registry
        self.models: dict[str, Model] = {}
        self.revisions: dict[str, int] = {}

    @rule(lost=st.integers(0, 1), conflicts=st.integers(0, 2), minutes=st.integers(-90, 90))
    def trouble(self, lost: int, conflicts: int, minutes: int) -> None:
        """Choose the faults that the next writes meet; no result shows them."""
        self.bench.line._lost_replies, self.bench.line._conflicts = lost, conflicts
        self.bench.now += timedelta(minutes=minutes)

    @rule(job=jobs)
    def register(self, job: str) -> None:
        self.bench.line._conflicts = 0  # to a create, a lost race means that the key is taken
        if job in self.models:
            with pytest.raises(JobExistsError):
                self.registry.register_job(job)
            return
        self.registry.register_job(job, tasks_total=9)
        self.models[job], self.revisions[job] = Model(), 1

    @rule(job=jobs, status=statuses)
    def move(self, job: str, status: JobStatus) -> None:
        self.compare(job, lambda: self.registry.update_status(job, status), lambda model: model.to(status))

    @rule(job=jobs, status=statuses, name=names, value=st.sampled_from("12"))
    def move_and_label(self, job: str, status: JobStatus, name: str, value: str) -> None:
        self.compare(
            job,
            lambda: self.registry.update_status(job, status, labels={name: value}),
            lambda model: model.to(status, labels=model.labelled(name, value)),
        )

    @rule(job=jobs, name=names, value=st.sampled_from("12"))
    def label(self, job: str, name: str, value: str) -> None:
        self.compare(
            job,
            lambda: self.registry.update_fields(job, labels={name: value}),
            lambda model: model.stay(labels=model.labelled(name, value)),
        )

    @rule(job=jobs, done=st.integers(0, 9))
    def progress(self, job: str, done: int) -> None:
        self.compare(job, lambda: self.registry.update_progress(job, done), lambda model: model.stay(done=done))

    @rule(job=jobs)
    def cancel(self, job: str) -> None:
        self.compare(job, lambda: self.registry.cancel_job(job), lambda model: model.to(JobStatus.CANCELLED))

    def compare(self, job: str, call: Callable[[], JobState], change: Callable[[Model], Expected]) -> None:
        expected = change(self.models[job]) if job in self.models else JobNotFoundError
        if isinstance(expected, type):
            with pytest.raises(expected) as caught:
                call()
            assert type(caught.value) is expected
            return
        call()
        self.revisions[job] += expected != self.models[job]
        self.models[job] = expected

    @invariant()
    def the_registry_is_where_the_model_is(self) -> None:
        found = {job.job_id: job for job in JobRegistry(self.bench.store).list_jobs()}
        assert found.keys() == self.models.keys()
        for job_id, model in self.models.items():
            job = found[job_id]
            history = tuple(step["status"] for step in job.transitions)
            assert Model(JobStatus(job.status), job.tasks_completed, frozenset(job.labels.items()), history) == model
            assert job.revision == self.revisions[job_id]
            times = [job.created_at, *(str(step["at"]) for step in job.transitions), job.updated_at]
            assert times == sorted(times)
        assert len(self.bench.told) == sum(self.revisions.values())


TestAgainstAModel = RegistryMachine.TestCase
