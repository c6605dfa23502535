"""Reconciling a record with what its engine says: the decision, and what is written."""

from __future__ import annotations

import dataclasses
import io
from datetime import datetime, timedelta
from typing import get_args

import pytest

from mopsjobs.app.care import metrics
from mopsjobs.app.jobs.reconcile import (
    MAX_PAUSE,
    QUIET_SECONDS,
    Action,
    EngineWatch,
    decide,
    is_ended_by_engine,
    reconcile,
)
from mopsjobs.app.run.app import App
from mopsjobs.cache.rows import job_json_from_state
from mopsjobs.console.printer import Printer
from mopsjobs.engines import ENGINES
from mopsjobs.engines.base import EngineState, EngineTimes, Phase, ShardEnd
from mopsjobs.errors import EngineAccessError, EngineUnavailableError, StoreAccessError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.status import ACTIVE, TERMINAL, JobStatus
from mopsjobs.registry.transitions import ShardReport
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies import validation
from mopsjobs.studies.manifest import Manifest, manifest_key
from mopsjobs.studies.study_parser import parse_study
from mopsjobs.submission.offline import try_record_launch
from mopsjobs.submission.session import Session
from mopsjobs.utils.times import parse_time
from support.cli import START, Clock, foreign, put
from support.cli import key as key_of
from support.engines import (
    COMPLETE,
    EVICTED,
    FAILED,
    GONE,
    NO_IMAGE,
    PENDING,
    RUNNING,
    SUSPENDED,
    UNKNOWN,
    Cluster,
    add_kubernetes_job,
    answer_for_all,
    state_of,
)

MISSING = "k8s_job_missing"


@pytest.fixture
def registry(clock: Clock) -> JobRegistry:
    return JobRegistry(InMemoryVersionedStore(), now=clock.now, sleep=clock.sleep)


def _manifest(registry: JobRegistry, job_id: str, done: int) -> None:
    """Leave a manifest of two tasks, and the outputs of the first ones."""
    study = {"model": "m", "scenario": "s", "parameter_sets": [{"x": 1}, {"x": 2}], "n_replicates": 1, "outputs": ["o"]}
    manifest = Manifest(
        job_id=job_id, study=parse_study(study, "in the test"), bundle="sha256:" + "0" * 64, only=None,
        parent_job_id=None,
    )  # fmt: skip
    put(registry.store, manifest_key(job_id), manifest.to_json())
    for _, task in list(manifest.tasks())[:done]:
        put(registry.store, f"results/{job_id}/{task.param_id}/{task.seed}/o", b"x")


def _session(registry: JobRegistry, clock: Clock) -> Session:
    return Session(registry_url="memory:", open_registry=lambda: registry, env={}, now=clock.now)


def _reconcile(registry: JobRegistry, clock: Clock, says: EngineState, job_id: str = "a") -> JobState:
    reconcile(_session(registry, clock), {"kubernetes": Cluster(says)}, [state_of(registry, job_id)])
    return state_of(registry, job_id)


def _steps(state: JobState) -> list[object]:
    return [step["status"] for step in state.transitions]


# --- the decision -------------------------------------------------------------------------------------------------


QUEUED = EngineState("pending", "Priority", "other jobs come first")


def _record(
    status: str,
    *,
    heartbeat: int | None = None,
    suspect: str | None = None,
    waits_for: str | None = None,
    age: int = 3600,
) -> JobState:
    """Return a record that came to its status `age` seconds ago, and had a heartbeat `heartbeat` seconds ago."""

    def ago(seconds: int) -> str:
        return (START - timedelta(seconds=seconds)).isoformat()

    return JobState(
        job_id="a", status=status, engine="kubernetes", created_at=ago(age), updated_at=ago(0),
        heartbeat_at=None if heartbeat is None else ago(heartbeat),
        transitions=({"status": status, "at": ago(age), "id": None},),
        metadata={
            **({} if suspect is None else {"suspect": {"reason": suspect, "since": ago(100)}}),
            **({} if waits_for is None else {"waits_for": waits_for}),
        },
    )  # fmt: skip


def _ago(seconds: float) -> datetime:
    return START - timedelta(seconds=seconds)


DECISIONS: list[tuple[JobState, EngineState, str, str | None]] = [
    *[(_record(status), COMPLETE, "validate", None) for status in ACTIVE],
    *[(_record(status), FAILED, "validate", "BackoffLimitExceeded") for status in ACTIVE],
    (_record("validating"), GONE, "validate", "K8sJobMissing"),
    *[(_record(status), GONE, "suspect", MISSING) for status in ACTIVE - {JobStatus.VALIDATING}],
    (_record("running", heartbeat=30), GONE, "nothing", None),
    (_record("scheduled", age=30), GONE, "nothing", None),
    (_record("running", suspect=MISSING), GONE, "nothing", MISSING),
    (_record("running", suspect="no_update"), GONE, "suspect", MISSING),
    (_record("scheduled"), EVICTED, "suspect", "pod_gone"),
    (_record("running", heartbeat=90), EVICTED, "suspect", "pod_gone"),
    (_record("running", heartbeat=90), PENDING, "suspect", "pod_gone"),
    (_record("running", heartbeat=90), SUSPENDED, "explain", "Suspended"),
    (_record("running", heartbeat=90, suspect="pod_gone"), SUSPENDED, "clear", "Suspended"),
    (_record("running", heartbeat=30), EVICTED, "explain", "Evicted"),
    (_record("running", heartbeat=30), EngineState("running", "Evicted"), "nothing", None),
    (_record("scheduled"), PENDING, "nothing", None),
    (_record("scheduled", age=30), NO_IMAGE, "explain", "ImagePullBackOff"),
    (_record("scheduled"), NO_IMAGE, "suspect", "ImagePullBackOff"),
    (_record("scheduled", suspect="ImagePullBackOff"), NO_IMAGE, "explain", "ImagePullBackOff"),
    (_record("scheduled"), QUEUED, "explain", "Priority"),
    (_record("scheduled", suspect="ImagePullBackOff"), QUEUED, "clear", "Priority"),
    (_record("running", waits_for="Priority"), RUNNING, "explain", None),
    (_record("running", waits_for="its client"), RUNNING, "nothing", None),  # the word of its runners
    (_record("scheduled"), RUNNING, "start", None),
    (_record("running", heartbeat=90), RUNNING, "suspect", "no_update"),
    (_record("running"), RUNNING, "nothing", None),
    (_record("running", heartbeat=30), RUNNING, "nothing", None),
    (_record("running", heartbeat=90), RUNNING._replace(started_at=_ago(10)), "clear", None),
    (_record("running", heartbeat=90), RUNNING._replace(started_at=_ago(80)), "suspect", "no_update"),
    (_record("running", heartbeat=9), RUNNING._replace(started_at=_ago(10)), "nothing", None),
    (_record("running", heartbeat=30, suspect="pod_gone"), RUNNING, "clear", None),
    (_record("scheduled", suspect="pod_gone"), PENDING, "clear", None),
    (_record("running", heartbeat=30, suspect=MISSING), GONE, "nothing", None),
    (_record("running", suspect="no_update"), UNKNOWN, "nothing", None),
    *[(_record(status), COMPLETE, "nothing", None) for status in TERMINAL],
    (_record("hibernating"), COMPLETE, "nothing", None),
]  # fmt: skip


@pytest.mark.parametrize(("state", "says", "verb", "reason"), DECISIONS)
def test_what_a_record_needs(state: JobState, says: EngineState, verb: str, reason: str | None) -> None:
    assert decide(state, says, START)[:2] == (verb, reason)


def test_without_a_manifest_the_engine_alone_decides() -> None:
    """No manifest says which outputs there should be."""
    assert decide(_record("running"), COMPLETE, START, has_manifest=False) == Action("succeed")
    assert decide(_record("running"), FAILED, START, has_manifest=False)[:2] == ("fail", FAILED.reason)
    assert decide(_record("validating"), FAILED, START, has_manifest=False).verb == "fail"
    assert decide(_record("validating"), GONE, START, has_manifest=False)[:2] == ("suspect", MISSING)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("says", [*map(EngineState, get_args(Phase)), EVICTED])
def test_every_reason_of_mops_jobs_has_a_series_in_the_metrics(engine: str, says: EngineState) -> None:
    """The reasons of engines are many, so that they share one."""
    for status in ACTIVE:
        for heartbeat in (None, 90):
            found = decide(dataclasses.replace(_record(status, heartbeat=heartbeat), engine=engine), says, START)
            assert found.verb != "suspect" or found.reason in metrics.REASONS


@pytest.mark.parametrize("says", [GONE, EVICTED, PENDING, RUNNING, UNKNOWN])
@pytest.mark.parametrize("status", sorted(ACTIVE - {JobStatus.VALIDATING}))
def test_silence_never_ends_a_job(status: str, says: EngineState) -> None:
    """However old it is: only Complete and Failed do, and outputs where all tasks have been worked on."""
    assert decide(_record(status, heartbeat=10**6, age=10**7), says, START).verb in {
        "nothing", "start", "suspect", "clear", "explain",
    }  # fmt: skip


# --- the three kinds that the incumbent left stuck ------------------------------------------------------------------


@pytest.mark.parametrize(("done", "status"), [(2, "succeeded"), (1, "partial"), (0, "failed")])
def test_stuck_1_a_job_that_finished_between_looks_is_ended(
    registry: JobRegistry, clock: Clock, done: int, status: str
) -> None:
    """Still scheduled in the record, Complete in the cluster: its outputs say how it ended."""
    add_kubernetes_job(registry, "scheduled")
    _manifest(registry, "a", done)
    state = _reconcile(registry, clock, COMPLETE)
    assert state.status == status
    assert _steps(state) == ["pending", "submitting", "scheduled", "running", "validating", status]


def test_stuck_2_a_scheduled_job_that_the_cluster_does_not_know_is_marked(registry: JobRegistry, clock: Clock) -> None:
    """404: not for ever scheduled without a word, and not failed either."""
    add_kubernetes_job(registry, "scheduled")
    clock.advance(minutes=5)
    state = _reconcile(registry, clock, GONE)
    assert state.status == "scheduled"
    assert state.metadata["suspect"] == {"reason": MISSING, "since": clock.now().isoformat()}


@pytest.mark.parametrize("says", [COMPLETE, GONE, FAILED])
def test_stuck_3_a_job_that_was_left_validating_is_validated(
    registry: JobRegistry, clock: Clock, says: EngineState
) -> None:
    """The process that validated it has died; the outputs are there, whatever has become of the Job since."""
    add_kubernetes_job(registry, "validating")
    _manifest(registry, "a", 2)
    assert _reconcile(registry, clock, says).status == "succeeded"


# --- the times of the cluster ---------------------------------------------------------------------------------------


def _minutes(count: int) -> datetime:
    return START + timedelta(minutes=count)


@pytest.mark.parametrize("has_manifest", [True, False])
@pytest.mark.parametrize("status", ["scheduled", "running"])
def test_a_job_of_another_program_gets_the_times_of_the_cluster(
    registry: JobRegistry, clock: Clock, status: str, has_manifest: bool
) -> None:
    """Not that of the last write, nor that of the reconciliation, which comes hours later."""
    record = foreign("theirs", status, created_at=_minutes(0).isoformat(), updated_at=_minutes(50).isoformat())
    put(registry.store, key_of("theirs"), record)
    if has_manifest:
        _manifest(registry, "theirs", 2)
    clock.advance(hours=10)
    cluster = Cluster(COMPLETE)
    cluster.ran = EngineTimes(_minutes(20), _minutes(55))
    reconcile(_session(registry, clock), {"kubernetes": cluster}, [state_of(registry, "theirs")])
    job = job_json_from_state(state_of(registry, "theirs"), now=clock.now().timestamp())
    assert (job["status"], job["run_seconds"]) == ("succeeded", 35 * 60)
    assert (job["started_at"], job["ended_at"]) == ("2026-03-01T12:20:00Z", "2026-03-01T12:55:00Z")
    times = [parse_time(str(step["at"])) for step in state_of(registry, "theirs").transitions]
    assert times == sorted(times)


def test_without_times_of_the_cluster_a_start_has_no_time(registry: JobRegistry, clock: Clock) -> None:
    """The Job was seen complete; nothing saw it begin."""
    add_kubernetes_job(registry, "scheduled")
    clock.advance(hours=10)
    state = _reconcile(registry, clock, COMPLETE)
    job = job_json_from_state(state, now=clock.now().timestamp())
    assert (job["started_at"], job["queued_seconds"], job["run_seconds"]) == (None, None, None)


# --- what is written ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("done", "status"), [(2, "succeeded"), (1, "partial"), (0, "failed")])
def test_outputs_decide_how_a_failed_job_ends(registry: JobRegistry, clock: Clock, done: int, status: str) -> None:
    """Other shards may have left theirs. The engine's word is the error."""
    add_kubernetes_job(registry, "running")
    _manifest(registry, "a", done)
    says = FAILED._replace(lost=(ShardEnd(0, "OOMKilled", 137, is_out_of_memory=True),))
    state = _reconcile(registry, clock, says)
    left = f"{FAILED.detail}; {2 - done} of 2 tasks left no complete outputs"
    error = (None, None) if done == 2 else (FAILED.reason, left)
    assert (state.status, state.error_code, state.error_message) == (status, *error)


def test_words_of_the_engine_stay_until_the_job_runs(registry: JobRegistry, clock: Clock) -> None:
    """Mark and words come and go together. A report of its runner removes both."""
    add_kubernetes_job(registry, "scheduled")
    clock.advance(minutes=5)
    state = _reconcile(registry, clock, NO_IMAGE)
    assert state.metadata["waits_for"] == "ImagePullBackOff: no such image"
    assert state.metadata["suspect"]["reason"] == "ImagePullBackOff"
    assert _reconcile(registry, clock, NO_IMAGE) == state
    long = EngineState("pending", "Unschedulable", "0/5000 nodes\n" * 100, is_stuck=True)
    assert len(_reconcile(registry, clock, long).metadata["waits_for"]) == 300
    state = registry.report_shard("a", 0, 1, ShardReport(0, 0))
    assert dict(state.metadata) == {"waits_for": None, "suspect": None}


def test_a_job_of_another_program_succeeds_without_a_manifest(registry: JobRegistry, clock: Clock) -> None:
    """Its record names no engine, but a Kubernetes Job."""
    put(registry.store, key_of("theirs"), foreign("theirs", "scheduled"))
    assert _reconcile(registry, clock, COMPLETE, "theirs").status == "succeeded"


def test_a_mark_keeps_its_time_and_goes_when_all_is_well(registry: JobRegistry, clock: Clock) -> None:
    """Marked once, however often it is looked at; and other metadata stays."""
    add_kubernetes_job(registry, "scheduled", metadata={"model": "seir"})
    clock.advance(minutes=5)
    marked = _reconcile(registry, clock, GONE)
    clock.advance(minutes=5)
    assert _reconcile(registry, clock, GONE) == marked
    well = _reconcile(registry, clock, RUNNING)
    assert well.status == "running"
    assert dict(well.metadata) == {"model": "seir", "suspect": None}


def test_shards_of_a_growing_job_that_have_ended_are_noted_once(registry: JobRegistry, clock: Clock) -> None:
    """What it waits for stays, as the others say it. Of any other job, nothing is noted: a resume runs its tasks."""
    lost = RUNNING._replace(lost=(ShardEnd(2, "OOMKilled", 137),))
    add_kubernetes_job(registry, "running", metadata={"grows": 60.0, "waits_for": "its client"})
    noted = _reconcile(registry, clock, lost)
    assert dict(noted.metadata) == {
        "grows": 60.0, "waits_for": "its client", "lost_shards": {"2": "shard 2 OOMKilled (exit code 137)"}
    }  # fmt: skip
    assert _reconcile(registry, clock, lost) == noted
    more = RUNNING._replace(lost=(ShardEnd(0, "Error", 1), *lost.lost))
    assert sorted(_reconcile(registry, clock, more).metadata["lost_shards"]) == ["0", "2"]
    add_kubernetes_job(registry, "running", "usual")
    assert dict(_reconcile(registry, clock, lost, "usual").metadata) == {}


def test_the_start_of_another_pod_is_a_sign_of_life(registry: JobRegistry, clock: Clock) -> None:
    """In each view, since the record has it. The next report of the runner brings a later one."""
    add_kubernetes_job(registry, "running")
    registry.report_shard("a", 0, 1, ShardReport(0, 0))
    clock.advance(minutes=2)
    assert job_json_from_state(state_of(registry), now=clock.now().timestamp())["suspect"] == "no_update"
    after = _reconcile(registry, clock, RUNNING._replace(started_at=clock.now() - timedelta(seconds=5)))
    assert job_json_from_state(after, now=clock.now().timestamp())["suspect"] is None
    clock.advance(minutes=2)
    assert job_json_from_state(after, now=clock.now().timestamp())["suspect"] == "no_update"


def test_a_launch_that_the_cluster_never_took_is_ended(registry: JobRegistry, clock: Clock) -> None:
    """Once no request of it can be under way, also of a launch that is repeated. `resume` then starts a child.

    A launch that was only late, since its machine slept, tells so: its runner will stop.
    """
    add_kubernetes_job(registry, "submitting", metadata={"bundle": "b"})
    _manifest(registry, "a", 0)
    clock.advance(seconds=100)
    before = _reconcile(registry, clock, GONE)
    assert (before.status, before.metadata.get("suspect")) == ("submitting", None)
    registry.update_fields("a", metadata={"k8s_image": "i:2"})
    clock.advance(seconds=100)
    assert _reconcile(registry, clock, GONE).status == "submitting"
    clock.advance(seconds=121)
    ended = _reconcile(registry, clock, GONE)
    assert (ended.status, ended.error_code) == ("failed", "LAUNCH")
    assert "the cluster did not answer the launch, and Job a was not found in namespace models" in str(
        ended.error_message
    )
    (told,) = try_record_launch(registry, "a", {})
    assert told.startswith("The job was given up before it was launched: the cluster did not answer")
    assert told.endswith(". To run it: mops-jobs resume a")


def test_a_job_that_somebody_ends_meanwhile_is_no_error(registry: JobRegistry, clock: Clock) -> None:
    """Theirs is the newer truth."""
    state = add_kubernetes_job(registry, "running")
    cluster = Cluster(FAILED)
    cluster.meanwhile = lambda: registry.cancel_job("a")
    (one,) = reconcile(_session(registry, clock), {"kubernetes": cluster}, [state])
    assert (one.before, one.after, one.problem, one.is_changed) == ("running", "cancelled", None, False)
    assert state_of(registry).status == "cancelled"


def test_only_jobs_that_are_active_and_of_the_engine_are_asked_about(registry: JobRegistry, clock: Clock) -> None:
    states = [
        add_kubernetes_job(registry, "running", "here"),
        add_kubernetes_job(registry, "running", "elsewhere", engine="local"),
        add_kubernetes_job(registry, "succeeded", "over"),
    ]
    cluster = Cluster(RUNNING)
    reconcile(_session(registry, clock), {"kubernetes": cluster}, states)
    assert cluster.asked == ["here"]


def test_a_cluster_that_is_away_stops_all_and_changes_nothing(registry: JobRegistry, clock: Clock) -> None:
    """It would be away for the next job too, five seconds each."""
    states = [add_kubernetes_job(registry, "running", "a"), add_kubernetes_job(registry, "running", "b")]
    cluster = Cluster(EngineUnavailableError("Cannot reach the cluster."))
    with pytest.raises(EngineUnavailableError):
        reconcile(_session(registry, clock), {"kubernetes": cluster}, states)
    assert cluster.asked == ["a"]
    assert [state_of(registry, job_id) for job_id in "ab"] == states


def test_a_refusal_for_one_job_does_not_stop_the_others(registry: JobRegistry, clock: Clock) -> None:
    states = [add_kubernetes_job(registry, "running", "a"), add_kubernetes_job(registry, "running", "b")]
    cluster = Cluster(EngineAccessError("The cluster does not permit this."))

    def permit() -> None:
        if cluster.asked == ["a", "b"]:
            cluster.says = COMPLETE

    cluster.meanwhile = permit
    refused, done = reconcile(_session(registry, clock), {"kubernetes": cluster}, states)
    assert (refused.problem, refused.exit_code) == ("The cluster does not permit this.", 4)
    assert done.after == "succeeded"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Return what the watch takes for the engine of each job."""
    return answer_for_all(monkeypatch, Cluster(PENDING))


def _watch(app: App) -> tuple[EngineWatch, io.StringIO]:
    """Return a watch that asks at once, and what it prints."""
    said = io.StringIO()
    return EngineWatch(app, Printer(None, said, app.env), quiet_seconds=0), said


def _look(watch: EngineWatch, app: App, clock: Clock, seconds: int) -> None:
    """Look once per second at the record, which stays the same."""
    state = state_of(app.registry)
    for _ in range(seconds):
        watch.look(state)
        clock.advance(seconds=1)


def test_a_silent_record_is_asked_about_at_a_bounded_rate(app: App, clock: Clock, cluster: Cluster) -> None:
    """First after some silence, then with growing pauses, once per minute at last."""
    add_kubernetes_job(app.registry, "scheduled")
    watch = EngineWatch(app, app.out)
    _look(watch, app, clock, int(QUIET_SECONDS))
    assert cluster.asked == []
    _look(watch, app, clock, 131)
    assert len(cluster.asked) == 5, "after 10, 20, 40, 80 and 140 s"
    _look(watch, app, clock, 600)
    assert len(cluster.asked) == 5 + 600 / MAX_PAUSE


def test_a_record_that_changes_is_not_asked_about(app: App, clock: Clock, cluster: Cluster) -> None:
    """A runner that reports needs no engine. Nor does a job on this machine, or one that has ended."""
    add_kubernetes_job(app.registry, "running")
    watch = EngineWatch(app, app.out)
    for count in range(20):
        app.registry.update_progress("a", count)
        _look(watch, app, clock, 5)
    add_kubernetes_job(app.registry, "scheduled", "local", engine="local")
    for state in (app.registry.finalize_job("a", "failed"), state_of(app.registry, "local")):
        clock.advance(minutes=5)
        watch.look(state)
    assert cluster.asked == []


def test_the_engine_s_word_ends_a_job(app: App, clock: Clock, cluster: Cluster) -> None:
    """As `reconcile` does. The follower gets the record after that."""
    add_kubernetes_job(app.registry, "scheduled")
    cluster.says = FAILED
    watch, _ = _watch(app)
    state = watch.look(state_of(app.registry))
    assert (state.status, state.error_code) == ("failed", FAILED.reason)
    assert state == state_of(app.registry)


def test_why_a_job_waits_is_told_once_and_written_once(app: App, clock: Clock, cluster: Cluster) -> None:
    """Each further question finds the same words in the record, until the job runs."""
    add_kubernetes_job(app.registry, "scheduled")
    cluster.says = NO_IMAGE
    watch, said = _watch(app)
    for _ in range(30):
        watch.look_and_tell(state_of(app.registry))
        clock.advance(seconds=1)
    words = "ImagePullBackOff: no such image"
    assert said.getvalue().splitlines() == [f"a: scheduled, waits for {words}"]
    state = state_of(app.registry)
    assert (state.metadata["waits_for"], state.revision) == (words, 3)
    cluster.says = RUNNING
    clock.advance(minutes=1)
    after = watch.look(state)
    assert (after.status, after.metadata["waits_for"]) == ("running", None)


def test_an_engine_that_does_not_answer_is_told_of_once(app: App, clock: Clock, cluster: Cluster) -> None:
    """The follower goes on."""
    add_kubernetes_job(app.registry, "scheduled")
    cluster.says = EngineUnavailableError("Cannot reach the cluster.")
    watch, said = _watch(app)
    _look(watch, app, clock, 200)
    assert len(cluster.asked) > 1
    assert said.getvalue().count("cannot be asked about a: Cannot reach the cluster.") == 1


def test_a_reader_is_told_of_the_engine_s_word(
    app: App, clock: Clock, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may not write cannot end the job. Another user can, so the follower goes on."""
    add_kubernetes_job(app.registry, "scheduled")
    cluster.says = FAILED

    def refuse(*_: object) -> None:
        raise StoreAccessError("The registry refuses to write.")

    monkeypatch.setattr(type(app.registry.store), "put", refuse)
    watch, said = _watch(app)
    _look(watch, app, clock, 200)
    assert said.getvalue().count("The kubernetes engine reports a: fail (BackoffLimitExceeded: ") == 1
    assert said.getvalue().count("Its record stays: The registry refuses to write.") == 1


CODES = [
    value
    for name, value in sorted(vars(validation).items())
    if name.isupper() and isinstance(value, str) and value == name
]


@pytest.mark.parametrize("engine", ["kubernetes", "slurm"])
def test_codes_of_a_validation_are_no_words_of_a_cluster(engine: str) -> None:
    """Each of its codes has the name of its constant."""
    assert {"FAILURES", "FIRST", "INCOMPLETE", "REDUCE"} <= set(CODES)
    assert [code for code in CODES if is_ended_by_engine({"error_code": code, "engine": engine})] == []
    assert is_ended_by_engine({"error_code": "DEADLINE", "engine": engine})
