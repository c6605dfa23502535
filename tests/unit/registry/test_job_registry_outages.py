"""Outages and rivals: what the registry says of a write whose reply was lost, or that lost a race."""

from __future__ import annotations

import pytest

from mopsjobs.errors import JobExistsError, StoreUnavailableError, TerminalStateError
from mopsjobs.registry.job_registry import JobRegistry
from support.bench import Bench


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
