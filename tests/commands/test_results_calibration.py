"""A calibration in the views: its record, its best sets, and what they have in common, one number everywhere."""

from __future__ import annotations

import csv
import json

import pytest

from mopsjobs.registry.notes import CALIBRATION
from mopsjobs.studies.journal import counts_of, decode_journal, encode_journal
from support.calibrated import grow_calibration, journal_of, put_calibration
from support.cli import Cli, Remote, add, foreign, key
from support.desk import Desk
from support.ledgers import Ledger, add_job, attempt, leave_scalars
from support.runs import sets_of


def test_each_view_has_the_same_best_set(cli: Cli, remote: Remote) -> None:
    """`status`, its JSON, `results --best` and the row of a sweep: that of the journal, also offline."""
    journal = put_calibration(remote.jobs, "cal", 5, labels={"sweep": "fit"})
    put_calibration(remote.jobs, "worse", 1, labels={"sweep": "fit"})
    add(remote.jobs, "other", "running", labels={"sweep": "fit"})
    cli.ok("sync")
    best = journal.best
    assert best is not None
    lines = cli.ok("status", "cal").lines
    text = next(line.split(maxsplit=1)[1] for line in lines if line.startswith("Rounds "))
    assert text.startswith("5 of 20 rounds, 40 sets, 3 failed (ValueError); best ")
    assert any(line.startswith("Best set") and f"beta={best.params['beta']:.4g}" in line for line in lines)
    job = cli.ok("status", "cal", "--json").json
    assert job["calibration"] == counts_of(journal)
    assert job["calibration"]["best"]["value"] == best.told.value
    ran = cli.ok("results", "cal", "--best")
    assert text in ran.err
    assert ran.lines[1].split()[:2] == ["1", str(best.round)]
    document = cli.ok("results", "cal", "--best", "--json", "--limit", "3").json
    assert document["sets"][0]["params"] == best.params
    assert [one["value"] for one in document["sets"]] == [one.told.value for one in journal.top(3)]
    assert f"; best {best.told.value:.4g} of cal" in cli.ok("list").out
    assert "5/20 rounds" in cli.ok("list", "--label", "sweep=fit").out
    remote.store.down = True
    assert cli.ok("results", "cal", "--best", "--offline", "--json", "--limit", "3").json["sets"] == document["sets"]
    assert text in cli.ok("status", "cal", "--offline").out
    assert cli("results", "worse", "--best", "--offline").code == 5  # its journal was never read


def test_a_precision_is_named_as_the_replicates_of_a_calibration(cli: Cli, remote: Remote) -> None:
    """Its first tasks are as many as the smallest number, which is not what was asked for."""
    asked = {"min": 2, "max": 9, "until": {"loss": {"absolute": 0.1}}}
    put_calibration(remote.jobs, "cal", 1, n_replicates=asked)
    put_calibration(remote.jobs, "plain", 1)
    found = cli("provenance", "cal", "--json").json["study"]
    assert (found["replicates"]["min"], found["replicates"]["max"]) == (2, 9)
    assert "8 parameter sets, up to 9 replicates, 16 tasks" in cli("provenance", "cal").out
    fields = cli("diff", "plain", "cal", "--json").json["study"]["fields"]
    assert fields["n_replicates"] == [2, found["replicates"]]


def test_the_sets_that_are_not_precise_are_named(cli: Cli, remote: Remote) -> None:
    """By what the sampler was told, which `status` counts: in the table, its file and its JSON."""
    journal = put_calibration(
        remote.jobs, "cal", 3, n_replicates={"min": 2, "max": 9, "until": {"loss": {"absolute": 1}}}
    )
    cli.ok("sync")
    count = counts_of(journal)["not_precise"]
    assert count > 1
    assert f"{count} not precise" in cli.ok("status", "cal").out
    lines = cli.ok("results", "cal", "--best", "--limit", "0").lines[1:]
    assert [line for line in lines if ", not precise" in line] == lines[-count:]
    document = cli.ok("results", "cal", "--best", "--limit", "0", "--json").json
    assert sum(one["precise"] is False for one in document["sets"]) == count
    rows = [*csv.DictReader(cli.ok("results", "cal", "--best", "--csv").lines)]
    assert sum(row["precise"] == "false" for row in rows) == count


def test_the_best_sets_have_a_table(cli: Cli, remote: Remote) -> None:
    """With parameters that vary, and none that are fixed. Sets that may be the best are marked."""
    put_calibration(remote.jobs, "cal", 5)
    cli.ok("sync")
    ran = cli.ok("results", "cal", "--best")
    assert ran.lines[0].split() == ["RANK", "ROUND", "LOSS", "REPLICATES", "PARAMETERS"]
    assert len(ran.lines) == 11
    assert "days" not in ran.out
    assert "* may be the best" in ran.err
    rows = [line.split("\t") for line in cli.ok("results", "cal", "--best", "--tsv").lines]
    assert len(rows) == 37
    assert rows[0][:3] == ["1", "cal", ran.lines[1].split()[1]]
    assert cli.ok("results", "cal", "--best", "--csv").lines[0] == (
        '"rank","job_id","round","beta","gamma","mode","loss","half_width","replicates"'
    )


@pytest.mark.parametrize("objective", ["loss", {"cases": {"observed": 5, "sd": 1}}, "model:score"])
def test_the_objective_may_be_named(cli: Cli, remote: Remote, objective: object) -> None:
    """As views call it: --best and --explain then print what they print without a result, in the same order."""
    journal = put_calibration(remote.jobs, "cal", 5, objective=objective)
    cli.ok("sync")
    top = [one.params for one in journal.top(10)]
    for words in ((), ("--offline",)):
        document = cli.ok("results", "cal", "--best", "objective", "--json", *words).json
        assert [one["params"] for one in document["sets"]] == top
    for flag in ("--best", "--explain"):
        assert cli.ok("results", "cal", flag, "objective").out == cli.ok("results", "cal", flag).out


def test_another_job_may_have_a_result_called_objective(cli: Cli, remote: Remote) -> None:
    """The word stands for the objective of calibrations alone."""
    add_job(remote.jobs, "plain", sets_of(2))
    Ledger(remote.store.inner, "plain")(attempt(0), attempt(1))
    leave_scalars(remote.jobs, "plain", {0: {"objective": 2.0}, 1: {"objective": 1.0}})
    cli.ok("sync")
    rows = csv.DictReader(cli.ok("results", "plain", "--best", "objective", "--csv").lines)
    assert [row["x"] for row in rows] == ["1", "0"]


@pytest.mark.parametrize("flags", [("--best", "--table", "x.csv"), ("--explain", "--by", "task"), ("--best", "x")])
def test_what_has_no_effect_is_refused(cli: Cli, remote: Remote, flags: tuple[str, ...]) -> None:
    """So is a job that is not a calibration."""
    put_calibration(remote.jobs, "cal", 1)
    add(remote.jobs, "plain", "succeeded")
    cli.ok("sync")
    assert cli("results", "cal", *flags).code == 2
    assert "Job plain is not a calibration: name a RESULT." in cli("results", "plain", "--best").err


@pytest.mark.parametrize("value", [None, "x", {"rounds": -1, "at_most": 1, "inherited": 0, "sets": 1, "failed": 0}])
def test_a_record_of_another_program_is_no_calibration(cli: Cli, remote: Remote, value: object) -> None:
    """Whatever it has under the name."""
    remote.put(key("odd"), foreign("odd", metadata={CALIBRATION: value}))
    cli.ok("sync")
    assert cli.ok("status", "odd", "--json").json["calibration"] is None
    assert "Rounds" not in cli.ok("status", "odd").out


@pytest.mark.parametrize("half_width", ["x", -5, 10**400, True], ids=["text", "negative", "beyond every float", "true"])
def test_a_best_set_of_another_program_is_shown_safely(cli: Cli, remote: Remote, half_width: object) -> None:
    """Its numbers may be texts or beyond every float, and its names anything. Other jobs are shown beside it."""
    best = {"value": 1.5, "half_width": half_width, "round": "y", "params": {"\x1b[31m": "<b>"}}
    counts = {"rounds": 1, "at_most": 2, "inherited": 0, "sets": 3, "failed": 0, "best": best}
    remote.put(key("odd"), foreign("odd", metadata={CALIBRATION: counts}))
    remote.put(key("huge"), foreign("huge", metadata={CALIBRATION: counts | {"best": best | {"value": 10**400}}}))
    cli.ok("sync")
    assert sorted(cli.ok("list", "-q").lines) == ["huge", "odd"]
    ran = cli.ok("status", "odd")
    assert "1 of 2 rounds, 3 sets; best 1.5" in ran.out
    assert "\x1b" not in ran.out


def test_a_journal_is_kept_as_it_is() -> None:
    """Each field comes back, told and asked rounds alike."""
    journal = journal_of("cal", 3, asked=True)
    assert decode_journal(encode_journal(journal)) == journal
    assert json.loads(encode_journal(journal))["rounds"][3][3] is None


def test_the_other_rounds_are_estimated_at_the_pace_so_far(cli: Cli, remote: Remote) -> None:
    """From two rounds of its own on, and while it runs. Then it names the command that goes on or extends it."""
    put_calibration(remote.jobs, "cal", 1)
    cli.clock.advance(minutes=5)
    cli.ok("sync")
    assert "Done" not in cli.ok("status", "cal").out
    grow_calibration(remote.jobs, journal_of("cal", 5))
    cli.ok("sync")
    said = cli.ok("status", "cal").out
    assert "Done       in about 15m, if 15 rounds more take as long as before" in said
    for mark in ({"waits_for": "its client"}, {"waits_for": None, "suspect": {"reason": "pod_gone", "since": "x"}}):
        remote.jobs.update_fields("cal", metadata=mark)
        cli.ok("sync")
        assert "Done" not in cli.ok("status", "cal").out
    remote.jobs.update_status("cal", "succeeded")
    cli.ok("sync")
    assert "Done" not in cli.ok("status", "cal").out
    assert "Next: mops-jobs results cal --best" in cli.ok("status", "cal").err


MODEL = """
def simulate(params, seed):
    if params["gamma"] > 0.8:
        raise ValueError("no epidemic")
    return {"loss": (params["beta"] - 0.3) ** 2 + seed % 5 / 1000}
"""


def test_a_calibration_that_ran_is_told_alike_by_every_view(desk: Desk) -> None:
    """Its record, its journal and its ledger: the same best set, and failures by their parameter."""
    (desk.home / "model.py").write_text(MODEL)
    spec = desk.home.with_name("spec.json")
    bounds = {name: {"uniform": [0, 1]} for name in ("beta", "gamma")}
    spec.write_text(json.dumps({"model": "model:simulate", "parameters": bounds, "objective": "loss", "rounds": 6,
                                "sets_per_round": 8, "n_replicates": 2}))  # fmt: skip
    told = desk.ok(
        "calibrate", str(spec), "--auto", "--job-id", "cal", "--workers", "2", "--sweep", "fit", "--json"
    ).json
    desk.launched.add("cal")
    assert desk.ended("cal") == "partial"
    counts = desk.ok("status", "cal", "--json").json["calibration"]
    best = desk.ok("results", "cal", "--best", "--json", "--limit", "1").json
    assert best["calibration"] == counts
    assert (counts["rounds"], counts["sets"], counts["failed"]) == (6, 48, told["failed"])
    assert counts["best"]["value"] == best["sets"][0]["value"] == told["best"]["values"][0]
    assert counts["best"]["params"] == best["sets"][0]["params"] == told["best"]["params"]
    desk.ok("register", "other", "--label", "sweep=fit")
    assert f"; best {counts['best']['value']:.4g} of cal" in desk.ok("list").out
    groups = desk.ok("failures", "cal", "--json").json["groups"]
    assert [group["count"] for group in groups] == [2 * counts["failed"]]
    assert groups[0]["separates"][0]["condition"].startswith("gamma > 0.")
    explained = desk.ok("results", "cal", "--explain")
    assert "have beta > 0." in explained.out
    assert f"Left out: {counts['failed']} parameter sets without a value." in explained.err
