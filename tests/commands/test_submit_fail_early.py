"""`--first` and `--max-failures` of jobs on this machine: what is recorded, repeated, printed and refused."""

from __future__ import annotations

import pytest

from support.cli import sentences
from support.desk import Desk
from support.runs import calls, record, sets_of

OPTIONS = {"local_first": "4", "local_max_failures": "3"}


def test_a_resumed_job_has_the_same_limits(desk: Desk) -> None:
    """It runs what was not run and what failed. Flags go before the record."""
    noted, mended = desk.home.with_name("calls"), desk.home.with_name("mended")
    sets = [*sets_of(4, calls=str(noted)), *sets_of(30, calls=str(noted), needs=str(mended))[4:]]
    desk.submit(sets, "--first", "4", "--max-failures", "3")
    assert desk.ended() == "partial"
    state = record(desk.jobs)
    assert state.metadata.items() >= OPTIONS.items()
    assert (state.tasks_completed, state.tasks_failed) == (4, 4)
    assert "job: Ended by --max-failures 3: 4 failed, " in desk("wait", "job").err
    assert desk.ok("resume", "job").out == "job.2\n"
    assert desk.ended("job.2") == "failed"
    state = record(desk.jobs, "job.2")
    assert state.metadata.items() >= OPTIONS.items()
    assert (state.tasks_total, state.tasks_failed, state.error_code) == (26, 4, "FAILURES")
    mended.touch()
    assert desk.ok("resume", "job.2", "--first", "0", "--max-failures", "10%").out == "job.3\n"
    assert desk.ended("job.3") == "succeeded"
    assert record(desk.jobs, "job.3").metadata.items() >= {"local_first": "0", "local_max_failures": "10%"}.items()
    assert calls(noted).keys() == set(range(30))


def test_a_job_in_the_foreground_says_why_it_ended(desk: Desk) -> None:
    study = desk.write([*sets_of(2), *sets_of(20, fail=True)[2:]])
    ran = desk("submit", study, "--auto", "--job-id", "job", "--workers", "1", "--wait", "--max-failures", "2")
    assert ran.code == 104
    assert ran.err.count("Ended by --max-failures 2: 3 failed, ") == 1
    assert "Next: mops-jobs failures job" in ran.err
    assert "FAILURES: Ended by --max-failures 2: 3 failed, " in desk.ok("status", "job").out


@pytest.mark.parametrize("words", [["submit", "study.json", "--auto"], ["resume", "job"], ["run", "job"]])
@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--first", "-1"], "invalid --first '-1': expected a number of tasks, 0 for none"),
        (["--max-failures", "10 %"], "invalid --max-failures '10 %': expected a number of tasks, or a share above 0%"),
    ],
)
def test_an_invalid_limit_is_one_sentence(desk: Desk, words: list[str], flags: list[str], told: str) -> None:
    """Nothing is launched."""
    desk.write(sets_of(1))
    desk.jobs.register_job("job", metadata={"bundle": "sha256:0"})
    if words[0] == "submit":
        words = ["submit", str(desk.home.with_name("study.json")), "--auto"]
    ran = desk(*words, *flags)
    assert (ran.code, ran.out) == (2, "")
    assert [sentence for sentence in sentences(ran.err) if told in sentence] == sentences(ran.err)
    assert [state.job_id for state in desk.jobs.list_jobs()] == ["job"]
