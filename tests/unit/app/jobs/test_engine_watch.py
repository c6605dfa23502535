"""Followers ask the engine of a silent job: how often, and what comes into the record."""

from __future__ import annotations

import io

import pytest

from mopsjobs.app.jobs.engine_watch import MAX_PAUSE, QUIET_SECONDS, EngineWatch
from mopsjobs.app.run.app import App
from mopsjobs.console.printer import Printer
from mopsjobs.errors import EngineUnavailableError, StoreAccessError
from support.cli import Clock
from support.engines import (
    FAILED,
    GONE,
    NO_IMAGE,
    PENDING,
    RUNNING,
    Cluster,
    add_kubernetes_job,
    answer_for_all,
    state_of,
)


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


def test_a_job_that_its_engine_does_not_know_is_told_of_once(app: App, clock: Clock, cluster: Cluster) -> None:
    """Once its record is silent for a minute. No other reason of a suspect job says that its runner is gone."""
    add_kubernetes_job(app.registry, "scheduled")
    watch, said = _watch(app)
    for says in (NO_IMAGE, GONE):
        cluster.says = says
        for _ in range(200):
            watch.warn_if_missing(watch.look(state_of(app.registry)))
            clock.advance(seconds=1)
    words = "a: suspect (k8s_job_missing). If its runner is gone: mops-jobs resume a"
    assert said.getvalue().count(words) == said.getvalue().count("suspect") == 1


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
