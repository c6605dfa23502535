"""An adaptive study in each view: record, status, list, tasks, and the table of parameter sets say the same."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from datetime import UTC, datetime

import pytest

import mopsjobs
from mopsjobs.app.jobs.job_card import job_card
from mopsjobs.studies.outputs import output_key
from mopsjobs.studies.precision import FAILED, MAX, MORE, PRECISE
from mopsjobs.studies.validation import validate
from support.adaptive import MODEL, REPLICATES, SCATTER
from support.cli import Cli, Remote
from support.desk import Desk
from support.ledgers import Ledger, add_job, attempt, leave_output, leave_scalars

SETS = [{"sd": sd} for sd in SCATTER]
WIDEST = "sd=50.0 (peak ± 15, goal 2)"


def _run(desk: Desk, *argv: str, job_id: str = "job", **fields: object) -> None:
    (desk.home / "model.py").write_text(MODEL)
    desk.submit(SETS, *argv, job_id=job_id, n_replicates=REPLICATES, **fields)
    desk.ended(job_id)


def test_each_view_says_how_precise_the_sets_are(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last of six sets scatters too much. No view counts the replicates that no set needs."""
    _run(desk)
    job = json.loads(desk.ok("status", "job", "--json").out)
    tasks = job["tasks_total"]
    counts = {"sets": 6, "precise": 5, "failed": 0, "at_max": 1, "needed": tasks, "at_most": tasks, "widest": WIDEST}
    assert job["precision"] == counts
    assert tasks == job["tasks_completed"] < 6 * 40
    said = desk.ok("status", "job").out
    assert f"Precision  5 of 6 sets precise, 1 at max; {tasks} tasks; widest: {WIDEST}\n" in said
    assert job_card(job, datetime.now(UTC))["Study"].text == "6 parameter sets x up to 40 replicates, manual"
    assert f"{tasks}/{tasks}" in desk.ok("list").out
    assert "6 parameter sets, up to 40 replicates, at most 240 tasks, seeds: " in desk.ok("provenance", "job").out
    listed = json.loads(desk.ok("tasks", "job", "--json", "--limit", "0").out)
    assert (listed["tasks_total"], listed["total"], len(listed["tasks"])) == (tasks,) * 3
    assert {one["outcome"] for one in listed["tasks"]} == {"succeeded"}

    document = json.loads(desk.ok("results", "job", "--by", "set", "--json").out)
    sets = document["sets"]
    assert [one["precision"] for one in sets] == [PRECISE] * 5 + [MAX]
    assert [one["judged"] for one in sets] == [one["tasks"] for one in sets] == [one["peak.n"] for one in sets]
    for one in sets:
        assert one["peak.low"] < one["peak.mean"] < one["peak.high"]
        assert one["peak.precision"] == pytest.approx((one["peak.high"] - one["peak.low"]) / 2)
        assert (one["peak.precision"] <= 2) == (one["precision"] == PRECISE)
        assert one["peak.half_width"] == one["peak.precision"]
    assert document["notes"] == ["5 of 6 sets precise, 1 at max."]
    rows = desk.ok("results", "job", "--by", "set").lines
    assert rows[0].split()[:3] == ["sd", "DONE", "PRECISION"]
    assert "max: peak ± 15" in rows[6]
    table = list(csv.DictReader(io.StringIO(desk.ok("results", "job", "--by", "set", "--table", "-").out)))
    assert [one["precision"] for one in table] == [one["precision"] for one in sets]
    sql = desk.ok("query", "--job", "job", "--json", "SELECT precision, count(*) AS n FROM result_sets GROUP BY 1")
    assert {row["precision"]: row["n"] for row in json.loads(sql.out)["rows"]} == Counter(
        one["precision"] for one in sets
    )

    origin = "6 parameter sets, up to 40 replicates, at most 240 tasks"
    assert origin in " ".join(desk.ok("provenance", "job").out.split())
    assert json.loads(desk.ok("provenance", "job", "--json").out)["study"]["replicates"] == REPLICATES

    for name, value in desk.env.items():
        monkeypatch.setenv(name, value)
    with mopsjobs.connect() as registry:
        assert registry.job("job").status()["precision"] == counts
        assert len(registry.job("job").tasks()) == tasks
        assert [one["precision"] for one in registry.job("job").results().sets().rows] == [
            one["precision"] for one in sets
        ]


@pytest.mark.parametrize(
    ("status", "told"), [("failed", None), ("cancelled", None), ("cancelled", 8), ("cancelled", 20)]
)
def test_tasks_of_an_ended_job_are_those_that_its_outputs_ask_for(
    cli: Cli, remote: Remote, status: str, told: int | None
) -> None:
    """A killed runner does not report the next look. The record of a cancelled job counts it after `validate`."""
    manifest = add_job(remote.jobs, "job", [{"sd": 0.1}, {"sd": 50.0}], n_replicates=REPLICATES)
    values = (100.0, 100.1, 100.0, 100.1, 50.0, 150.0, 60.0, 140.0)
    done = [number + (36 if number >= 4 else 0) for number in range(8)]
    Ledger(remote.jobs.store)(*(attempt(number, output_bytes=None) for number in done))
    for number, value in zip(done, values, strict=True):
        leave_output(remote.jobs, manifest, number, peak=value)
    if told is not None:
        remote.jobs.update_status("job", "running", tasks_total=told, tasks_completed=8)
    if status == "cancelled":
        remote.jobs.cancel_job("job")
        note = f"The record counts {told or 8} tasks, the outputs ask for 12: run mops-jobs validate job\n"
        assert note in cli.ok("tasks", "job").err
    found = cli("validate", "job", "--json").json
    cli.ok("sync")
    listed = cli.ok("tasks", "job", "--json").json
    assert listed["tasks_total"] == len(listed["tasks"]) == found["tasks_total"] == 4 + 8
    assert Counter(one["outcome"] for one in listed["tasks"]) == {"succeeded": 8, "missing": 4}
    assert cli.ok("status", "job", "--json").json["tasks_total"] == 12
    assert "The record counts" not in cli.ok("tasks", "job").err
    sets = cli.ok("results", "job", "--by", "set", "--json").json["sets"]
    assert [(one["tasks"], one["missing"]) for one in sets] == [(4, 0), (8, 4)]


@pytest.mark.parametrize("first", [0, 3])
def test_lost_outputs_that_asked_for_more_tasks_are_told(cli: Cli, remote: Remote, first: int) -> None:
    """All, or a pack of the last ones, with the ledger. Nothing tells which tasks the record counts but how many."""
    manifest = add_job(remote.jobs, "job", [{"sd": 50.0}], n_replicates=REPLICATES)
    for number in range(8):
        leave_output(remote.jobs, manifest, number, peak=50.0 * number)
    validate(remote.store.inner, remote.jobs, remote.jobs.require_job("job"))
    note = f"The record counts {remote.jobs.require_job('job').tasks_total} tasks, the outputs ask for 4"
    for task in list(manifest.study.tasks())[first:8]:
        remote.store.inner.delete(output_key("job", task, "result.json"))
    cli.ok("sync")
    cli.clock.advance(seconds=120)
    lost = f"The outputs of {8 - first} tasks"
    assert f"{note}: run mops-jobs validate job\n" in cli.ok("tasks", "job").err
    assert f"{lost} are gone, with their values." in cli("results", "job", "--table", "-").err
    assert f"{lost} were lost" in cli("validate", "job").err
    assert f"{note}: those of {8 - first} tasks were lost\n" in cli.ok("tasks", "job").err


def test_a_goal_of_a_quantile_has_its_interval_beside_that_of_the_mean(cli: Cli, remote: Remote) -> None:
    until = {"peak": {"quantile": 0.5, "confidence": 0.9, "absolute": 3.0}}
    manifest = add_job(remote.jobs, "job", [{"sd": 0}], n_replicates={"min": 20, "max": 40, "until": until})
    Ledger(remote.jobs.store)(*(attempt(number, output_bytes=None) for number in range(20)))
    for number in range(20):
        leave_output(remote.jobs, manifest, number, peak=number)
    cli.ok("sync")
    (found,) = cli.ok("results", "job", "--by", "set", "--json").json["sets"]
    assert [found[f"peak.{name}"] for name in ("low", "high", "precision", "mean")] == [3, 16, 6.5, 9.5]
    assert found["peak.half_width"] == pytest.approx(2.77, abs=0.01)
    assert "  more: peak q0.5 ± 6.5  " in cli.ok("results", "job", "--by", "set").out

    until = {"peak": {"absolute": 0.1}}
    manifest = add_job(remote.jobs, "mean", [{"sd": 1}], n_replicates={"min": 20, "max": 40, "until": until})
    Ledger(remote.jobs.store, job_id="mean")(*(attempt(number, output_bytes=None) for number in range(20)))
    for number in range(20):
        leave_output(remote.jobs, manifest, number, peak=number)
    cli.ok("sync")
    both = cli.ok("results", "job", "mean", "--by", "set").out
    assert "  more: peak q0.5 ± 6.5  " in both
    assert "  more: peak ± 2.9  " in both


def test_numbers_beside_texts_are_judged_as_by_the_runner(cli: Cli, remote: Remote) -> None:
    """A column of both has texts. Only the set whose task has left a text has failed."""
    until = {"peak": {"absolute": 5.0}}
    manifest = add_job(remote.jobs, "job", [{"x": 1}, {"x": 2}], n_replicates={"min": 4, "max": 4, "until": until})
    Ledger(remote.jobs.store)(*(attempt(number, output_bytes=None) for number in range(8)))
    for number in range(8):
        leave_output(remote.jobs, manifest, number, peak="none" if number == 5 else number / 4)
    cli.ok("sync")
    sets = cli.ok("results", "job", "--by", "set", "--json").json["sets"]
    assert [(one["precision"], one["lacks"]) for one in sets] == [(PRECISE, None), (FAILED, "peak")]


def test_tasks_of_a_running_job_say_that_its_record_counts_more(cli: Cli, remote: Remote) -> None:
    """Which ones follows from the tasks that end. A count is that of the record in each view."""
    add_job(remote.jobs, "job", [{"sd": 50.0}], n_replicates=REPLICATES)
    Ledger(remote.jobs.store)(*(attempt(number) for number in range(4)))
    remote.jobs.update_status("job", "running", tasks_total=8, tasks_completed=4)
    cli.ok("sync")
    listed = cli.ok("tasks", "job", "--json").json
    assert (len(listed["tasks"]), listed["tasks_total"]) == (4, 8)
    assert cli.ok("status", "job", "--json").json["tasks_total"] == 8
    assert "The record counts 8 tasks. The others are listed as their sets go on.\n" in cli.ok("tasks", "job").err


def test_views_agree_on_sets_that_a_study_names_twice(desk: Desk) -> None:
    (desk.home / "model.py").write_text(MODEL)
    desk.submit([{"sd": 0.1}, {"sd": 0.1}, {"sd": 0.5}], n_replicates=REPLICATES)
    desk.ended()
    assert "2 of 2 sets precise; 12 tasks\n" in desk.ok("status", "job").out
    found = json.loads(desk.ok("results", "job", "--by", "set", "--json").out)
    assert (len(found["sets"]), found["notes"][0]) == (2, "2 of 2 sets precise.")


def test_truth_values_that_a_study_names_are_a_proportion(desk: Desk) -> None:
    until = {"extinct": {"absolute": 0.2, "confidence": 0.8}}
    (desk.home / "model.py").write_text(
        "def simulate(params, seed):\n    return {'extinct': seed % 3 == params['rest'], 'other': seed % 2 == 0}\n"
    )
    desk.submit([{"rest": 0}, {"rest": 1}, {"rest": 9}], n_replicates={"min": 4, "max": 40, "until": until})
    desk.ended()
    found = json.loads(desk.ok("results", "job", "--best", "extinct", "--json").out)
    assert [one["precision"] for one in found["sets"]] == [PRECISE] * 3
    for one in found["sets"]:
        assert one["extinct.half_width"] == one["extinct.precision"] <= 0.2
    assert [one["extinct.mean"] for one in found["sets"]] == sorted(one["extinct.mean"] for one in found["sets"])
    assert {one["name"]: one["confidence"] for one in found["results"]} == {"extinct": 0.8, "other": None}
    assert "80 % interval" in found["notes"][0]


def test_a_target_that_no_task_leaves_is_named(desk: Desk) -> None:
    """Sets without it fail, though their tasks do not."""
    (desk.home / "model.py").write_text(MODEL)
    misspelt = {"min": 4, "max": 40, "until": {"peek": {"absolute": 2.0}}}
    desk.submit(SETS[:2], n_replicates=misspelt)
    desk.ended()
    told = "0 of 2 sets precise, 2 failed; 8 tasks; failed: sd=0.1 (a replicate has no finite peek)\n"
    assert told in desk.ok("status", "job").out
    assert f"job: {told.strip()}" in desk.ok("wait", "job").err
    said = desk.ok("results", "job", "--by", "set")
    assert said.out.count("failed: a replicate has no finite peek") == 2
    sets = json.loads(desk.ok("results", "job", "--by", "set", "--json").out)["sets"]
    assert [one["lacks"] for one in sets] == ["peek", "peek"]


def test_the_probe_names_a_misspelt_target(desk: Desk) -> None:
    """Before any task is paid for. All of them would succeed, and no set be precise."""
    (desk.home / "model.py").write_text(MODEL)
    study = desk.write([{"sd": 0.1}], n_replicates={**REPLICATES, "until": {"peek": {"relative": 0.1}}})
    said = "n_replicates.until names 'peek', but no result has it. The numbers are: peak, seed. Did you mean 'peak'?"
    assert said in desk.ok("submit", study, "--auto", "--dry-run", "--probe", "1").err


def test_a_narrower_target_of_an_extension_is_the_one_that_counts(desk: Desk) -> None:
    _run(desk)
    narrower = {**REPLICATES, "max": 80, "until": {"peak": {"absolute": 1.0}}}
    desk.submit(SETS, "--extend", "job", job_id="job.b", n_replicates=narrower)
    desk.ended("job.b")
    before, after = (json.loads(desk.ok("results", name, "--by", "set", "--json").out) for name in ("job", "job.b"))
    assert after["sets"][-1]["judged"] == 80
    assert all(one["judged"] >= earlier["judged"] for one, earlier in zip(after["sets"], before["sets"], strict=True))
    assert all(one["peak.precision"] <= 1 for one in after["sets"] if one["precision"] == PRECISE)
    assert MORE not in {one["precision"] for one in after["sets"]}


def test_the_best_set_is_judged_by_the_ends_of_skewed_intervals(cli: Cli, remote: Remote) -> None:
    """The mean of the first set is 1.1, and its interval ends at 9.8: the second may be as low, the third may not."""
    replicates = {"min": 8, "max": 8, "until": {"loss": {"absolute": 0.5}}}
    add_job(remote.jobs, "job", [{"x": 1}, {"x": 2}, {"x": 3}], n_replicates=replicates)
    Ledger(remote.jobs.store)(*(attempt(number) for number in range(24)))
    losses = [*(0.0,) * 6, 1.0, 8.0, *(8.0, 8.1, 7.9, 8.0, 8.1, 7.9, 8.0, 8.0), *(11.0, 11.1) * 4]
    leave_scalars(remote.jobs, "job", {number: {"loss": loss} for number, loss in enumerate(losses)})
    for flag, end in (("--best", "best"), ("--worst=-loss", "worst")):
        words = (flag, "loss") if "=" not in flag else (flag,)
        found = cli.ok("results", "job", *words, "--json").json
        assert [one[f"may_be_{end}"] for one in found["sets"]] == [True, True, False]
        assert f"1 more set may be the {end}" in found["notes"][0]
        first, second, _ = found["sets"]
        assert first["loss.mean"] + first["loss.half_width"] < second["loss.low"] < first["loss.high"]


@pytest.mark.parametrize(("outcome", "verdict"), [("lost", MORE), ("died", FAILED)])
def test_a_lost_task_does_not_decide_that_a_set_has_failed(
    cli: Cli, remote: Remote, outcome: str, verdict: str
) -> None:
    """Its runner was killed, so it may succeed. A task that died has failed, in the record and in the table of sets."""
    manifest = add_job(remote.jobs, "job", [{"sd": 50.0}], n_replicates=REPLICATES)
    Ledger(remote.jobs.store)(*(attempt(number, output_bytes=None) for number in range(4)), attempt(4, outcome))
    for number, value in enumerate((50.0, 150.0, 60.0, 140.0)):
        leave_output(remote.jobs, manifest, number, peak=value)
    cli("validate", "job")
    cli.ok("sync")
    status = cli.ok("status", "job", "--json").json
    assert (status["precision"]["failed"], status["tasks_failed"]) == (int(verdict == FAILED), 1)
    assert [one["precision"] for one in cli.ok("results", "job", "--by", "set", "--json").json["sets"]] == [verdict]
