"""`calibrate`: a search as one job, what it prints, how it goes on, and what it submits afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.modelops import update_with_retry
from mopsjobs.registry.keys import RECORD
from mopsjobs.studies.journal import Journal, read_journal
from mopsjobs.studies.manifest import load_manifest
from mopsjobs.submission import calibrating, growing
from mopsjobs.submission.calibrating import Coordinator
from mopsjobs.submission.growing import EndedTask, GrowingJob
from support.calibrations import SPEC
from support.desk import Desk
from support.runs import is_alive, kill, place, record, sets_of, study, until

MODEL = """
def simulate(params, seed):
    if params["d"] == "bad":
        raise ValueError("as asked")
    return {"loss": (params["a"] - 1) ** 2 + (params["b"] - 3) ** 2 + params["c"], "a": params["a"]}
"""


@pytest.fixture
def spec(desk: Desk) -> Path:
    """Return the file of a calibration, beside its model."""
    (desk.home / "model.py").write_text(MODEL)
    path = desk.home / "spec.json"
    path.write_text(json.dumps({**SPEC, "outputs": ["result.json"], "rounds": 3, "seed": 3}))
    return path


def _run(desk: Desk, *words: str, code: int = 0) -> dict[str, Any]:
    ran = desk("calibrate", *words, "--json")
    assert ran.code == code, ran
    return dict(json.loads(ran.out))


def test_a_calibration_is_one_job_with_a_best_set(desk: Desk, spec: Path) -> None:
    """It prints the best set, with failed evaluations counted. Its job has all rounds, and each is in the journal."""
    ran = desk.ok("calibrate", str(spec), "--auto", "--job-id", "fit", "--workers", "2")
    lines = dict(line.split(None, 1) for line in ran.out.splitlines())
    assert lines["Job"] == "fit"
    assert lines["Sets"].startswith("12 sets in 3 rounds, ")
    assert "After an interrupt: mops-jobs calibrate fit" in ran.err
    assert "Round 3 of 3: best " in ran.err
    journal = read_journal(desk.store, load_manifest(desk.store, "fit"))
    assert journal is not None
    assert (journal.rounds_done, journal.rounds_planned, journal.has_ended) == (3, 3, True)
    failed = [one for one in journal.evaluations() if one.told.error == "ValueError"]
    assert {one.params["d"] for one in failed} == {"bad"}
    state = record(desk.jobs, "fit")
    assert (state.status, state.tasks_total, state.tasks_failed) == ("partial", 12, len(failed))
    again = _run(desk, "fit")
    best = journal.best
    assert best is not None
    assert (again["rounds"], again["failed"]) == (3, len(failed))
    assert again["best"]["params"] == dict(best.params)


def test_a_calibration_goes_on_after_its_end(desk: Desk, spec: Path) -> None:
    """As a new job with the earlier journal, which asks for what one longer run would have asked for."""
    _run(desk, str(spec), "--auto", "--job-id", "short", "--workers", "2")
    longer = _run(desk, "short", "--rounds", "5", "--job-id", "more", "--workers", "2")
    whole = _run(desk, str(spec), "--auto", "--rounds", "5", "--job-id", "whole", "--workers", "2")
    assert (longer["rounds"], longer["evaluations"]) == (5, 20)
    assert longer["best"]["params"] == whole["best"]["params"]
    assert record(desk.jobs, "more").tasks_total == 8
    sweeps = [record(desk.jobs, job).labels.get("sweep") for job in ("short", "more", "whole")]
    assert sweeps == ["short", "short", None]
    spec.write_text(json.dumps({**json.loads(spec.read_text()), "sampler": "optuna"}))
    fork = _run(desk, str(spec), "--extend", "short", "--rounds", "4", "--job-id", "fork", "--workers", "2")
    assert (fork["evaluations"], record(desk.jobs, "fork").tasks_total) == (16, 4)
    fields = desk.ok("diff", "whole", "fork", "--json").json["study"]["fields"]
    assert fields == {"rounds": [5, 4], "sampler": [None, "optuna"]}
    ran = desk("calibrate", str(spec), "--extend", "short")
    assert (ran.code, ran.err.splitlines()[0]) == (
        2,
        "error: Job short has 3 rounds: expected more in the new calibration, not 3.",
    )


def test_the_best_sets_become_a_study(desk: Desk, spec: Path) -> None:
    """`--then` fills a study with them, times its own sets, on the code of the calibration."""
    study = desk.home.with_name("then.json")
    study.write_text(
        json.dumps({"n_replicates": 2, "outputs": ["result.json"], "parameter_sets": [{"e": 1}, {"e": 2}]})
    )
    (desk.home / "model.py").write_text(MODEL)
    done = _run(desk, str(spec), "--auto", "--job-id", "fit", "--workers", "2", "--then", "top=3", str(study))
    assert desk.ended(done["then"]) == "succeeded"
    manifest, fit = load_manifest(desk.store, done["then"]), load_manifest(desk.store, "fit")
    sets = [one.params for one in manifest.study.parameter_sets]
    assert (len(sets), manifest.study.n_replicates, manifest.bundle) == (6, 2, fit.bundle)
    assert sets[0] == {**done["best"]["params"], "e": 1}
    assert record(desk.jobs, done["then"]).labels == {"calibration": "fit", "sweep": "fit"}
    assert manifest.study.metadata == {"calibration": "fit", "calibration_sets": "top=3"}
    again = desk.ok("calibrate", "fit", "--then", "top=3", str(study), "--json")
    assert again.json["then"] == done["then"]
    said = f"{done['then']} was submitted before, and is succeeded. Next: mops-jobs status {done['then']}\n"
    assert said in again.err
    study.write_text(json.dumps({"n_replicates": 3}))
    other = desk.ok("calibrate", "fit", "--then", "top=3", str(study), "--json").json["then"]
    assert desk.ended(other) == "succeeded"
    assert load_manifest(desk.store, other).study.n_replicates == 3


DRAWING = """
class Own:
    def __init__(self, space, seed):
        self.space, self.told = space, []
    def ask(self, n):
        return [self.space.at([len(self.told) / 100 + place / 10] * 4) for place in range(n)]
    def tell(self, results):
        self.told += [one.params for one in results if not one.failed]
    def posterior(self, n):
        return [self.told[place % 2] for place in range(n)]
"""


def test_posterior_draws_become_a_study(desk: Desk, spec: Path) -> None:
    """The sampler is told the whole journal before. A set that is drawn again has further seeds."""
    then = desk.home.with_name("then.json")
    then.write_text(json.dumps({"n_replicates": 2, "outputs": ["result.json"]}))
    (desk.home / "own.py").write_text(DRAWING)
    fields = json.loads(spec.read_text())
    spec.write_text(json.dumps({**fields, "sampler": "own:Own", "rounds": 1}))
    done = _run(desk, str(spec), "--auto", "--job-id", "fit", "--workers", "2", "--then", "draws=3", str(then))
    study = load_manifest(desk.store, done["then"]).study
    tasks = [(task.param_id, task.seed) for task in study.tasks()]
    assert (len(tasks), len(set(tasks)), study.different_sets) == (6, 6, 2)
    found = desk.ok("provenance", done["then"], "--json").json
    assert (found["calibration"], found["from_calibration"]) == (None, {"job_id": "fit", "sets": "draws=3"})
    said = desk.ok("provenance", done["then"]).out
    assert "Sets of    calibration fit, draws=3" in said
    assert "4 parameter sets (2 different), up to 2 replicates, 6 tasks" in said
    of = desk.ok("provenance", "fit", "--json").json
    assert (of["calibration"]["sampler"], of["calibration"]["objective"]) == ("own:Own", "loss")
    spec.write_text(json.dumps({**fields, "sampler": "random"}))
    ran = desk("calibrate", str(spec), "--auto", "--job-id", "no", "--then", "draws=3", str(then))
    said = "error: The sampler has no posterior draws: it has no method posterior(n)."
    assert (ran.code, ran.err.splitlines()[0], desk.jobs.get_job("no")) == (2, said, None)


@pytest.mark.parametrize(
    ("words", "fields", "said"),
    [
        (("spec.json",), {}, "error: one of these flags is required: --auto"),
        (("spec.json", "--auto"), {"rounds": 0}, "error: invalid calibration spec.json: rounds: expected a whole"),
        (("spec.json", "--auto"), {"sampler": "nothing:Own"}, "error: The sampler cannot be loaded: ModuleNotFound"),
        (
            ("spec.json", "--auto", "--then", "best", "x.json"),
            {},
            "error: invalid --then 'best': expected top=N or draws=N",
        ),
        (("spec.json", "--auto", "--then", "top=" + "9" * 5000, "x.json"), {}, "error: invalid --then 'top=999"),
        (("spec.json", "--auto", "--job-id", "fit.JSON"), {}, "error: invalid --job-id 'fit.JSON': expected another"),
        (("nothing.json",), {}, "error: Cannot read the calibration nothing.json: No such file"),
        (("nothing",), {}, "error: Job nothing not found"),
        (("nothing", "--auto"), {}, "error: --auto has no effect with the id of a calibration, unless --rounds"),
        (("spec.json", "--auto", "--extend", "other"), {}, "error: Job other is not a calibration."),
    ],
)
def test_what_cannot_run_launches_nothing(
    desk: Desk, spec: Path, words: tuple[str, ...], fields: dict[str, Any], said: str
) -> None:
    """The error says what is wrong, before a job is registered or the one that it would extend gets a label."""
    spec.write_text(json.dumps({**json.loads(spec.read_text()), **fields}))
    other = place(desk.store, "other", study(sets_of(1)), desk.home)
    before = desk.jobs.register_job("other", metadata={"bundle": other.bundle})
    ran = desk("calibrate", *words)
    assert ran.code != 0
    assert ran.err.startswith(said), ran.err
    assert desk.jobs.list_jobs() == [before]


def test_a_sampler_that_fails_ends_its_job(desk: Desk, spec: Path) -> None:
    """The workers do not wait for rounds that never come. The record says why, so that the job has not succeeded."""
    (desk.home / "own.py").write_text("class Own:\n    def __init__(self, space, seed):\n        pass\n")
    code = "    def ask(self, n):\n        raise ValueError('as asked')\n"
    (desk.home / "own.py").write_text((desk.home / "own.py").read_text() + code)
    spec.write_text(json.dumps({**json.loads(spec.read_text()), "sampler": "own:Own"}))
    ran = desk.ends(1, "calibrate", str(spec), "--auto", "--job-id", "fit")
    assert "error: The sampler has failed: ValueError: as asked" in ran.err
    assert desk.ended("fit") == "failed"
    state = record(desk.jobs, "fit")
    assert (state.error_code, state.error_message) == ("SAMPLER", "The sampler has failed: ValueError: as asked")
    again = desk.ends(100, "calibrate", "fit")
    assert "fit: The sampler has failed: ValueError: as asked" in again.err
    assert "Next: mops-jobs calibrate SPEC --auto --extend fit" in again.err


def test_a_calibration_that_has_ended_is_not_resumed(desk: Desk, spec: Path) -> None:
    """Its sampler would not be told. No view says that one should."""
    desk("calibrate", str(spec), "--auto", "--job-id", "fit")
    assert desk.ended("fit") == "partial"
    assert "mops-jobs calibrate fit --rounds N" in desk.ends(2, "resume", "fit").err
    for view in ("failures", "status"):
        told = desk.ok(view, "fit")
        assert "mops-jobs resume" not in told.out + told.err


def test_a_calibration_says_that_its_runner_on_another_machine_is_silent(
    desk: Desk, spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for a runner that may be at work, as `wait` does, and names the command if it is not."""

    def interrupt(*_: object) -> Journal:
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(Coordinator, "run", interrupt)
        assert desk("calibrate", str(spec), "--auto", "--job-id", "fit").code == 130
    desk.until(lambda: record(desk.jobs, "fit").heartbeat_at, "the runner to report", "fit")
    kill(desk.runner("fit"))
    until(lambda: not is_alive(desk.runner("fit")), "the runner to be gone")
    update_with_retry(
        desk.store, RECORD.key(job="fit"), lambda fields: {**fields, "heartbeat_at": "2026-01-01T00:00:00Z"}
    )
    looks: list[float | None] = []
    look = GrowingJob.ended

    def ended(job: GrowingJob, timeout: float | None) -> Iterator[EndedTask]:
        looks.append(timeout)
        if len(looks) == 5:
            desk.jobs.cancel_job("fit")
        return look(job, timeout)

    monkeypatch.setattr(GrowingJob, "ended", ended)
    monkeypatch.setattr(calibrating, "LOOK_SECONDS", 0)
    monkeypatch.setattr(growing, "RECORD_SECONDS", 0)
    ran = desk("calibrate", "fit", XDG_STATE_HOME=str(desk.home / "elsewhere"))
    assert ran.code == 103
    assert "warning: fit: no heartbeat for " in ran.err
    assert ran.err.count("If its runner is gone: mops-jobs resume fit") == 1


def test_a_second_job_is_in_the_sweep_that_is_named(desk: Desk, spec: Path) -> None:
    """The calibration that it extends joins it there, unless it has a sweep."""
    _run(desk, str(spec), "--auto", "--job-id", "first", "--workers", "2")
    _run(desk, str(spec), "--extend", "first", "--rounds", "4", "--job-id", "second", "--sweep", "s1", "--workers", "2")
    _run(desk, "second", "--rounds", "5", "--job-id", "third", "--sweep", "s2", "--workers", "2")
    extends = desk.ok("provenance", "second", "--json").json["calibration"]["extends"]
    assert extends == "first"
    assert [record(desk.jobs, job).labels["sweep"] for job in ("first", "second", "third")] == ["s1", "s1", "s2"]
