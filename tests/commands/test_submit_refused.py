"""What `submit` refuses: an unusable study, flags that contradict, a launch that fails."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from mopsjobs.engines.local import LocalEngine
from mopsjobs.errors import EngineError, JobBusyError, MopsJobsError, UsageError
from mopsjobs.registry.job_registry import JobRegistry
from support.cli import Cli, Ran, add, sentences
from support.desk import Desk
from support.runs import code, record, sets_of, study

UNKNOWN = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object with"),
        ('{"modle": "m:f", "parameter_sets": []}', "modle: unknown field, did you mean model?"),
        ('{"model": "m:f", "parameter_sets": [{"x": 1}], "n_replicates": 0}', "n_replicates: expected"),
    ],
)
def test_a_study_that_cannot_be_used_is_one_sentence(cli: Cli, text: str, told: str) -> None:
    Path("study.json").write_text(text)
    ran = cli("submit", "study.json", "--auto")
    assert (ran.code, ran.out) == (2, "")
    assert len(sentences(ran.err)) == 1
    assert told in ran.err
    assert not Path(cli.env["HOME"], "registry.db").exists()


def test_all_that_is_wrong_with_a_study_is_told_at_once(cli: Cli) -> None:
    Path("study.json").write_text('{"scenario": 3, "parameter_sets": [1], "n_replicates": "two"}')
    ran = cli("submit", "study.json", "--auto")
    assert ran.code == 2
    for name in ("model:", "scenario:", "parameter_sets[0]:", "n_replicates:"):
        assert name in ran.err


def test_submit_without_code_says_which_flags_name_it(cli: Cli) -> None:
    """`submit STUDY` alone, as in ModelOps: the error says what each of the two flags does."""
    ran = cli("submit", "study.json")
    expected = (
        "error: one of these flags is required: --auto (pack the current directory as the model's code),"
        " --bundle (use this bundle, which the registry already has)."
    )
    assert (ran.code, sentences(ran.err)) == (2, [expected])


def test_a_study_that_is_not_there_is_named(cli: Cli) -> None:
    ran = cli("submit", "nothing.json", "--auto")
    assert (ran.code, sentences(ran.err)) == (
        2,
        ["error: Cannot read the study nothing.json: No such file or directory."],
    )


@pytest.mark.parametrize(("name", "hints"), [("model.py", 1), ("study", 1), ("study.json", 0)])
def test_another_file_than_a_study_gets_a_hint(cli: Cli, name: str, hints: int) -> None:
    """The name of a file tells JSON from YAML. So the hint is for names that tell neither."""
    Path(name).write_text("x = [")
    ran = cli("submit", name, "--auto")
    assert ran.code == 2
    assert ran.err.count("hint: A study is JSON, or YAML if its name ends in .yaml or .yml.\n") == hints


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--auto", "--bundle", UNKNOWN], 2),
        ([], 2),
        (["--auto", "--workers", "0"], 2),
        (["--auto", "--python", "no/such/python"], 2),
        (["--auto", "--python", "/bin/sh"], 2),
        (["--auto", "--engine", "abacus"], 2),
        (["--auto", "--job-id", "../job"], 2),
    ],
)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(cli: Cli, argv: list[str], code: int) -> None:
    Path("study.json").write_text(json.dumps(study(sets_of(1)).to_dict()))
    ran = cli("submit", "study.json", *argv)
    assert (ran.code, ran.out) == (code, "")
    assert len(sentences(ran.err)) == 1
    assert not Path(cli.env["HOME"], "registry.db").exists()


def test_a_relative_interpreter_is_resolved_at_submission(desk: Desk) -> None:
    """Against the directory of the submission.

    The runner starts workers long afterwards; a link, as virtual environments have them, stays one.
    """
    environment_ = desk.home.with_name("env")
    environment_.mkdir()
    (environment_ / "python").symlink_to(sys.executable)
    desk.submit(sets_of(2), "--python", "../env/python")
    assert desk.ended() == "succeeded"


def test_a_missing_bundle_is_refused_before_anything_is_registered(cli: Cli, jobs: JobRegistry) -> None:
    Path("study.json").write_text(json.dumps(study(sets_of(1)).to_dict()))
    ran = cli("submit", "study.json", "--bundle", UNKNOWN, "--job-id", "job")
    assert ran.code == 2
    assert f"The bundle {UNKNOWN} is not in the store." in ran.err
    assert jobs.get_job("job") is None


def test_an_id_that_is_taken_is_refused_and_its_job_left_alone(desk: Desk) -> None:
    desk.submit(sets_of(2))
    assert desk.ended() == "succeeded"
    before = {entry.key: entry.value for entry in desk.store.scan("jobs/")}
    ran = desk("submit", desk.write(sets_of(5)), "--auto", "--job-id", "job")
    assert ran.code == 6
    assert sentences(ran.err) == ["error: Job job is already registered."]
    assert {entry.key: entry.value for entry in desk.store.scan("jobs/")} == before


def test_an_id_taken_by_a_job_that_was_only_reported_gets_no_manifest(cli: Cli, jobs: JobRegistry) -> None:
    add(jobs, "job", "running")
    Path("study.json").write_text(json.dumps(study(sets_of(1)).to_dict()))
    code(Path.cwd())
    assert cli("submit", "study.json", "--auto", "--job-id", "job").code == 6
    assert jobs.store.get("jobs/job/manifest.json") is None


def submit_to_an_engine_that_raises(cli: Cli, monkeypatch: pytest.MonkeyPatch, error: MopsJobsError) -> Ran:
    def launch(self: LocalEngine, launch: object) -> None:
        raise error

    monkeypatch.setattr(LocalEngine, "launch", launch)
    code(Path.cwd())
    Path("study.json").write_text(json.dumps(study(sets_of(1)).to_dict()))
    return cli("submit", "study.json", "--auto", "--job-id", "job")


def test_a_launch_that_fails_leaves_a_record_that_says_why(
    cli: Cli, jobs: JobRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = submit_to_an_engine_that_raises(cli, monkeypatch, EngineError("There are no processes left."))
    assert (ran.code, sentences(ran.err)) == (1, ["error: There are no processes left."])
    assert ran.err.endswith("hint: Launch it again, with other flags if needed: mops-jobs resume job\n")
    state = record(jobs)
    assert (state.status, state.error_code, state.error_message) == ("failed", "LAUNCH", "There are no processes left.")
    assert cli("resume", "job").err.endswith(" mops-jobs resume job.2\n")


def test_a_job_whose_runner_is_at_work_here_is_not_said_to_have_failed(
    cli: Cli, jobs: JobRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was submitted in an outage and has not registered itself yet: the record is that runner's to bring on."""
    busy = JobBusyError("The runner of job job is already at work on this machine.", job_id="job")
    assert submit_to_an_engine_that_raises(cli, monkeypatch, busy).code == 6
    assert record(jobs).status == "submitting"


def test_an_invalid_launch_leaves_no_job_being_submitted(
    cli: Cli, jobs: JobRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(self: LocalEngine, launch: object) -> None:
        raise UsageError("The option x makes no sense.")

    monkeypatch.setattr(LocalEngine, "launch", launch)
    code(Path.cwd())
    Path("study.json").write_text(json.dumps(study(sets_of(1)).to_dict()))
    assert cli("submit", "study.json", "--auto", "--job-id", "job").code == 2
    assert (record(jobs).status, record(jobs).error_code) == ("failed", "LAUNCH")
