"""The registry's rules, over a store in memory, with a clock, ids and a sleep that the test holds in its hands."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from mopsjobs.errors import (
    InvalidKeyError,
    InvalidTransitionError,
    JobExistsError,
    JobNotFoundError,
    RecordError,
    StoreUnavailableError,
    TerminalStateError,
    TooManyRetriesError,
    UsageError,
)
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.status import ACTIVE, TERMINAL, JobStatus
from mopsjobs.registry.transitions import Growth, ShardReport
from mopsjobs.store import cas
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.utils.backoff import Backoff
from support.bench import NOW, Bench

UPDATES: dict[str, Callable[[JobRegistry], JobState]] = {
    "update_status": lambda registry: registry.update_status("a", "running", owner="eve"),
    "update_fields": lambda registry: registry.update_fields("a", owner="eve"),
    "update_progress": lambda registry: registry.update_progress("a", 3),
    "start": lambda registry: registry.update_progress("a", 3, start=True),
    "finalize_job": lambda registry: registry.finalize_job("a", "failed", error_info={"message": "m", "code": "c"}),
    "cancel_job": lambda registry: registry.cancel_job("a", "reason"),
}
"""A call of each method that changes a job, which would change the job `a` if the rules let it."""


# --- registering ----------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("job_id", "fields"),
    [
        ("a/b", {}),
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


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_labels_and_a_note_of_an_ended_job_may_change(bench: Bench, status: str) -> None:
    """They say something about the job, not how it went. They come by compare-and-swap, and reach the mirror."""
    bench.place(status=status, metadata={"bundle": "b"}, labels={"x": "1"})
    bench.now += timedelta(hours=1)
    racers = iter([lambda: bench.rival.update_fields("a", labels={"x": "2"})])
    bench.line.before_put = lambda key: next(racers, lambda: None)()
    job = bench.registry.update_fields("a", labels={"y": "3"}, metadata={"note": "for the paper"})
    assert (job.status, job.labels) == (status, {"x": "2", "y": "3"})
    assert {name: job.metadata[name] for name in ("bundle", "note")} == {"bundle": "b", "note": "for the paper"}
    assert set(job.metadata) == {"bundle", "note", "note_history", "label_history"}
    assert job.revision == 2
    assert [value for _, value, _ in bench.told] == [bench.bytes()]
    assert bench.registry.update_status("a", status, labels={"y": "4"}).labels["y"] == "4"


@pytest.mark.parametrize(
    "fields",
    [{"metadata": {"suspect": None}}, {"owner": "eve"}, {"labels": {"x": "1"}, "error_code": "OOM"}],
    ids=["metadata", "field", "field beside a label"],
)
def test_nothing_else_of_an_ended_job_may_change(bench: Bench, fields: dict[str, Any]) -> None:
    value = bench.place(status="failed")
    with pytest.raises(TerminalStateError, match="only its labels and its note can change"):
        bench.registry.update_fields("a", **fields)
    assert bench.bytes() == value


@pytest.mark.parametrize("prefix", ["x" * 900, "é" * 200, "a//b", "", "a\\b"])
def test_a_prefix_below_which_no_key_fits_is_refused_at_once(prefix: str) -> None:
    """Before a job is announced: the longest id needs 512 bytes of the 900 of a key."""
    with pytest.raises(InvalidKeyError):
        JobRegistry(InMemoryVersionedStore(), prefix)


def test_a_label_does_not_move_the_end_of_a_job(bench: Bench) -> None:
    """Other programs keep no history: the time of their last write is the end, and stays it."""
    bench.place(status="failed")
    bench.now += timedelta(hours=1)
    job = bench.registry.update_fields("a", labels={"x": "1"})
    assert [(step["status"], step["at"]) for step in job.transitions] == [("failed", NOW.isoformat())]


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


@pytest.mark.parametrize("method", [*UPDATES, "get_job"])
def test_what_is_no_record_is_named_by_key_and_left_alone(bench: Bench, method: str) -> None:
    """Nothing is guessed from half a record, and nothing written over it."""
    value = bench.place(tasks_total="many")
    with pytest.raises(RecordError, match=r"^jobs/a/state\.json: invalid field tasks_total: expected a whole number"):
        UPDATES.get(method, lambda registry: registry.get_job("a"))(bench.registry)
    assert bench.bytes() == value


@pytest.mark.parametrize(
    ("name", "bad"), [("error_code", 137), ("tasks_completed", 2.5), ("metadata", {"x": math.nan}), ("ownr", "x")]
)
def test_a_write_is_stricter_than_reading(bench: Bench, name: str, bad: object) -> None:
    """No program gets a value of another form, or an unknown field, into a record by mops-jobs."""
    value = bench.place()
    with pytest.raises(UsageError, match=name):
        bench.registry.update_fields("a", **{name: bad})
    assert bench.bytes() == value


@pytest.mark.parametrize("method", [*UPDATES, "get_job"])
def test_a_record_under_the_key_of_another_job_is_left_alone(bench: Bench, method: str) -> None:
    """A user has copied it there; changing it would change neither job, and listing it would show one twice."""
    value = bench.place("a", status="scheduled").replace(b'"job_id": "a"', b'"job_id": "b"')
    found = bench.store.get("jobs/a/state.json")
    assert found is not None
    bench.store.put("jobs/a/state.json", value, found.version)
    with pytest.raises(RecordError) as raised:
        UPDATES.get(method, lambda registry: registry.get_job("a"))(bench.registry)
    assert str(raised.value) == "jobs/a/state.json: the record is that of job 'b'"
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


@pytest.mark.parametrize(
    ("behind", "corrected"), [(0, 0), (5 * 60, 5 * 60), (10 * 60, 10 * 60), (10 * 60 + 1, 0), (-5 * 60, 0)]
)
def test_a_clock_that_is_behind_is_corrected_by_replies_of_the_store(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, behind: int, corrected: int
) -> None:
    """Up to what clocks may differ: a runner with a late clock gives its signs of life at the time of the store."""
    bench.place(status="running")
    monkeypatch.setattr(bench.registry.store, "server_time", NOW + timedelta(seconds=behind), raising=False)
    job = bench.registry.report_shard("a", 0, 1, ShardReport(0, 0))
    assert job.heartbeat_at == job.updated_at == (NOW + timedelta(seconds=corrected)).isoformat()


def test_the_counts_of_a_growing_job_never_become_less(bench: Bench) -> None:
    """A shard may report before it has read a round that another one has. It waits once the tasks of all have ended."""
    bench.registry.register_job("a", tasks_total=0, metadata={"n_parameter_sets": 0})
    first = ShardReport(2, 0, growth=Growth(4, 4, 3, 1), waits_for="its client")
    job = bench.registry.report_shard("a", 0, 2, first)
    assert (job.tasks_total, job.metadata.get("waits_for")) == (4, None)
    job = bench.registry.report_shard("a", 1, 2, ShardReport(1, 1, growth=Growth(3, 3, 3, 0), waits_for="its client"))
    assert (job.tasks_total, job.metadata["waits_for"]) == (4, "its client")
    assert {name: job.metadata[name] for name in job.metadata if name.startswith("n_")} == {
        "n_parameter_sets": 4, "n_different_parameter_sets": 3, "n_duplicate_tasks": 1
    }  # fmt: skip
    assert bench.registry.report_shard("a", 0, 2, ShardReport(2, 0)).metadata["waits_for"] is None
    job = bench.registry.report_shard("a", 0, 2, ShardReport(3, 0, is_done=True, taken_over=frozenset([1])))
    assert (job.tasks_completed, job.tasks_failed, dict(job.shards)) == (3, 0, {"0": [3, 0, 1], "1": [0, 0, 1]})


@pytest.mark.parametrize(
    ("shards", "before", "late", "expected"),
    [
        (2, ShardReport(3, 0, is_done=True), ShardReport(2, 0), [3, 0, 1]),
        (2, ShardReport(3, 0, is_done=True), ShardReport(1, 2, is_done=True), [3, 0, 1]),
        (2, ShardReport(2, 1, is_done=True), ShardReport(2, 0), [2, 0, 0]),  # its failed task is tried again
        (2, ShardReport(3, 0), ShardReport(2, 0), [2, 0, 0]),
        (4, ShardReport(3, 0, is_done=True), ShardReport(1, 0), [1, 0, 0]),  # it has fewer tasks in this launch
    ],
)
def test_a_slower_runner_lowers_no_count_of_a_done_shard(
    bench: Bench, shards: int, before: ShardReport, late: ShardReport, expected: list[int]
) -> None:
    """Its report is a sign of life. So it does not keep the last shard from ending the job."""
    bench.registry.register_job("a", tasks_total=6)
    bench.registry.report_shard("a", 0, 2, before)
    bench.now += timedelta(minutes=1)
    job = bench.registry.report_shard("a", 0, shards, late)
    assert (job.shards, job.tasks_completed, job.heartbeat_at) == ({"0": expected}, expected[0], bench.now.isoformat())


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


# --- Outages and rivals: what the registry says of a write whose reply was lost, or that lost a race -----------------


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


def test_a_race_is_decided_by_the_rules(bench: Bench) -> None:
    """Who comes second is judged by what the first one left."""
    bench.place()
    racers = iter([lambda: bench.rival.cancel_job("a")])
    bench.line.before_put = lambda key: next(racers, lambda: None)()
    with pytest.raises(TerminalStateError):
        bench.registry.update_status("a", "succeeded")
    assert bench.history() == ["running", "cancelled"]


# --- Reading jobs straight from the store: in order, filtered, counted, and past records that are unreadable ---------


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
    """The counts add up to the number of jobs that are listed."""
    for job_id, status in [("a", "failed"), ("b", "failed"), ("c", "archived")]:
        bench.place(job_id, status=status)
    counts = bench.registry.count_jobs_by_status()
    assert counts == {**dict.fromkeys(JobStatus, 0), "failed": 2, "archived": 1}
    assert sum(counts.values()) == len(bench.registry.list_jobs())


def test_what_is_no_record_is_logged_and_does_not_stop_a_listing(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """A broken record is named with its reason; keys that are not records are ignored."""
    bench.place("good")
    bench.place("bad", tasks_total="many")
    for key in ("jobs/good/log.txt", "jobs/state.json", "jobs2/a/state.json"):
        bench.store.create_if_absent(key, b"{")
    assert [job.job_id for job in bench.registry.list_jobs()] == ["good"]
    assert caplog.messages == ["jobs/bad/state.json: invalid field tasks_total: expected a whole number, not text"]


@pytest.mark.parametrize(
    ("key", "job_id"),
    [
        ("jobs/a/state.json", "a"),
        ("jobs/a b/state.json", "a b"),
        ("jobs/team/run 1/state.json", "team/run 1"),
        ("jobs//state.json", None),
        ("jobs2/a/state.json", None),
    ],
)
def test_the_key_of_a_record_names_its_job(registry: JobRegistry, key: str, job_id: str | None) -> None:
    """And any other key names none."""
    assert registry.job_id_of(key) == job_id
    assert job_id is None or registry.key_of(job_id) == key
