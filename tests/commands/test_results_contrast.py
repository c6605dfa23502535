"""`results --contrast`: by how much results differ between scenarios, and what common seeds have bought."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import polars as pl
import pytest

import mopsjobs
from mopsjobs.utils.schemas import load_schema
from support.cli import key
from support.ledgers import Ledger, add_job, attempt, leave_output, leave_scalars

if TYPE_CHECKING:
    from mopsjobs.registry.job_registry import JobRegistry
    from support.cli import Cli
    from support.desk import Desk

MODEL = """
import random


def simulate(params, seed):
    is_vaccine = params["scenario"] == "vaccine"
    common, own = random.Random(seed).gauss(0, 1), random.Random(f"{seed} {is_vaccine}").gauss(0, 1)
    return {
        "linear": params["theta"] - is_vaccine + common,
        "noisy": params["theta"] - 2 * is_vaccine + 0.9**0.5 * common + 0.1**0.5 * own,
    }
"""
"""Scenarios share all noise of `linear`, and nine tenths of the variance of `noisy`."""

SETS = [{"theta": theta, "scenario": scenario} for theta in (1, 5) for scenario in ("base", "vaccine")]

CONTRAST = ("--contrast", "scenario=base,vaccine")


def test_common_seeds_buy_what_theory_says(desk: Desk) -> None:
    """With a correlation of 0.9, the variance of the difference is a tenth; with one of 1, it is none at all.

    With seeds of their own, the replicates are independent, and the intervals of Welch have the difference too.
    """
    (desk.home / "model.py").write_text(MODEL)
    half_widths = {}
    for job_id, rule in (("common", "common"), ("own", "mops-jobs")):
        desk.submit(SETS, "--wait", job_id=job_id, n_replicates=150, seeds=rule)
        document = desk.ok("results", job_id, *CONTRAST, "--json").json
        jsonschema.validate(document, load_schema("contrast"))
        linear, noisy = document["overall"]
        assert [pair["paired_by"] for pair in document["pairs"]] == ["seeds" if rule == "common" else "none"] * 2
        assert abs(noisy["difference"] + 2) < noisy["half_width"]
        half_widths[job_id] = noisy["half_width"]
        if rule == "common":
            assert (round(linear["difference"], 9), linear["half_width"], linear["variance_ratio"]) == (-1, 0, None)
            assert 8 < noisy["variance_ratio"] < 12.5
            assert noisy["basis"] == "seeds"
        else:
            assert (linear["variance_ratio"], noisy["variance_ratio"], noisy["basis"]) == (1, 1, "replicates")
            assert abs(linear["difference"] + 1) < linear["half_width"]
            assert "so their replicates are independent, and no pairs." in " ".join(document["notes"])
    assert half_widths["own"] > 1.5 * half_widths["common"], "although its sets do not share the noise"
    table = desk.ok("results", "common", *CONTRAST).lines
    assert table[0].split() == ["PAIR", "theta", "PAIRED", "BY", "linear", "RATIO", "noisy", "RATIO"]
    assert [line.split()[:2] for line in table[1:]] == [["all", "2"], ["1", "1"], ["2", "5"]]
    assert desk.ok("results", "common", "own", "--contrast", "job=own,common").lines[1].startswith("all 4")


def test_common_seeds_help_the_example_as_far_as_it_draws_alike(desk: Desk) -> None:
    """The epidemics of one seed go apart with their numbers of infected, so the variance is not halved everywhere."""
    shutil.copy(Path(__file__).parents[2] / "examples/seir/seir.py", desk.home / "seir.py")
    people = {"population": 20000, "initial": 10, "incubating": 2.0, "infectious": 5.0}
    sets = [people | {"r0": r0} for r0 in (2.0, 2.2)]
    ratios = {}
    for job_id, rule in (("common", "common"), ("own", "mops-jobs")):
        desk.submit(sets, "--wait", job_id=job_id, model="seir:simulate", n_replicates=40, seeds=rule)
        document = desk.ok("results", job_id, "--contrast", "r0=2,2.2", "--json").json
        ratios[job_id] = {one["result"]: one["variance_ratio"] for one in document["overall"]}
    assert set(ratios["own"].values()) == {1}
    assert ratios["common"]["peak_day"] > 1.5
    assert all(ratio > 1 for ratio in ratios["common"].values())


@pytest.fixture
def compared(cli: Cli, jobs: JobRegistry) -> str:
    """Return a job of two scenarios with common seeds, of which some tasks failed, and some values are not numbers."""
    sets = [{"scenario": name, "beta": beta} for name in ("base", "vaccine") for beta in (1, 2)]
    manifest = add_job(jobs, "job", [*sets, {"scenario": "base", "beta": 3}], n_replicates=3, seeds="common")
    losses: dict[int, float] = {number: float(number) for number in range(15)}
    losses[1], failed = math.nan, 8
    del losses[failed]
    Ledger(jobs.store)(*(attempt(number) for number in losses), attempt(failed, "failed"))
    leave_scalars(jobs, "job", {number: {"loss": loss} for number, loss in losses.items()})
    for number, loss in losses.items():
        leave_output(jobs, manifest, number, loss=loss)
    jobs.finalize_job("job", "partial")
    cli("sync")
    return "job"


def test_only_pairs_with_values_count_as_all(cli: Cli, jobs: JobRegistry) -> None:
    """A set of an adaptive study may need more replicates than its partner: those lack no pair."""
    sets = [{"theta": theta, "scenario": scenario} for theta in (1, 2, 3) for scenario in ("base", "vaccine")]
    replicates = {"min": 4, "max": 8, "until": {"loss": {"absolute": 2.0}}}
    manifest = add_job(jobs, "some", sets, n_replicates=replicates, seeds="common")
    # Of the second pair, one set needs 8, and of the third pair, nothing is there.
    values = {first + place: value for first in (0, 8, 16) for place, value in enumerate((1.0, 1.1, 1.0, 1.1))}
    values |= {24 + place: value for place, value in enumerate((0.0, 90.0, 10.0, 80.0))}
    Ledger(jobs.store, "some")(*(attempt(number, output_bytes=None) for number in values))
    for number, loss in values.items():
        leave_output(jobs, manifest, number, loss=loss)
    jobs.finalize_job("some", "partial")
    cli("sync")
    ran = cli.ok("results", "some", *CONTRAST)
    assert ran.lines[1].startswith("all 2 ")
    assert "1 pair of sets without a difference" in ran.err
    assert cli.ok("results", "some", *CONTRAST, "--json").json["left_out"]["missing"] == 2 * 4


def test_what_has_no_partner_is_left_out_and_told(cli: Cli, compared: str) -> None:
    """Tasks 0 to 2 are those of the first set, and 6 to 8 are their partners: 1 is NaN, and 8 failed."""
    document = cli.ok("results", compared, *CONTRAST, "--json").json
    first, second = document["pairs"]
    assert (first["loss.n_first"], first["loss.difference"], first["loss.half_width"]) == (1, 6, None)
    assert (second["loss.n_first"], second["loss.difference"], second["loss.half_width"]) == (3, 6, 0)
    assert document["left_out"] == {
        "sets_first": 1, "sets_second": 0, "replicates": 1, "failed": 1, "missing": 0, "waiting": 0, "not_finite": 1,
    }  # fmt: skip
    assert document["notes"][1] == (
        "Left out: parameter sets without a partner (1 of the first); 1 failed tasks;"
        " 1 replicate whose seed the other side lacks; 1 value not finite."
    )


def test_all_forms_have_the_same_differences(cli: Cli, compared: str, tmp_path: Path) -> None:
    document = cli.ok("results", compared, *CONTRAST, "--json").json
    jsonschema.validate(document, load_schema("contrast"))
    for name in ("pairs.jsonl", "pairs.parquet"):
        cli.ok("results", compared, *CONTRAST, "--table", str(tmp_path / name))
    with mopsjobs.connect(env=cli.env) as registry:
        from_python = registry.job(compared).results().contrast("scenario=base,vaccine")
    tsv = [line.split("\t") for line in cli.ok("results", compared, *CONTRAST, "--tsv").lines]
    forms: dict[str, list[dict[str, Any]]] = {
        "Python": from_python["pairs"],
        "CSV": list(csv.DictReader(io.StringIO(cli.ok("results", compared, *CONTRAST, "--csv").out))),
        "TSV": [dict(zip(document["columns"], row, strict=True)) for row in tsv],
        "JSONL": [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()],
        "Parquet": pl.read_parquet(tmp_path / "pairs.parquet").to_dicts(),
    }
    for form, rows in forms.items():
        assert [(int(row["beta"]), float(row["loss.difference"])) for row in rows] == [(1, 6), (2, 6)], form
        assert [row["paired_by"] for row in rows] == ["seeds"] * 2, form
    assert cli.ok("results", compared, *CONTRAST, "--json", "--limit", "1").json["returned"] == 1


def test_jobs_are_compared_by_id_label_and_scenario(cli: Cli, jobs: JobRegistry) -> None:
    """Tasks that both share count on both sides."""
    for number, job_id in enumerate(("a", "b")):
        manifest = add_job(jobs, job_id, [{"x": 1}, {"x": 2}], n_replicates=2, scenario=f"{job_id}-2")
        Ledger(jobs.store, job_id)(*(attempt(task) for task in range(4)))
        leave_scalars(jobs, job_id, {task: {"loss": task * (1.0 + number)} for task in range(4)})
        for task in range(4):
            leave_output(jobs, manifest, task, loss=task * (1.0 + number))
        jobs.finalize_job(job_id, "succeeded")
        cli("label", job_id, f"site={'ab'[number] * 3}")
    for name, values in (("job", "a,b"), ("site", "aaa,bbb"), ("scenario", "a-2,b-2")):
        document = cli.ok("results", "a", "b", "--contrast", f"{name}={values}", "--json").json
        assert [pair["loss.difference"] for pair in document["pairs"]] == [0.5, 2.5]
        assert document["overall"][0]["sets"] == 2
    record = jobs.store.get(key("a"))
    assert record is not None
    jobs.store.put(key("a"), record.value.replace(b'"a-2"', b"5"), record.version)  # by another program
    cli.ok("sync", "--full", "-q")
    assert cli("results", "a", "b", "--contrast", "scenario=5,b-2").code == 2


def test_a_parameter_that_only_tells_two_jobs_apart_is_what_is_compared(cli: Cli, jobs: JobRegistry) -> None:
    """The other parameters pair their sets, also if one of the jobs lacks the parameter."""
    for job_id, more in (("base", {}), ("vaccine", {"coverage": 0.5})):
        add_job(jobs, job_id, [{"x": 1, **more}, {"x": 2, **more}], seeds="common", attempts=[attempt(0), attempt(1)])
        leave_scalars(jobs, job_id, {task: {"loss": task + len(more)} for task in range(2)})
        jobs.finalize_job(job_id, "succeeded")
    document = cli.ok("results", "base", "vaccine", "--contrast", "job=base,vaccine", "--json").json
    assert document["parameters"] == ["x"]
    assert [(pair["x"], pair["loss.difference"]) for pair in document["pairs"]] == [(1, 1), (2, 1)]


@pytest.mark.parametrize(
    ("contrast", "told"),
    [
        ("scenario", "invalid contrast 'scenario': expected NAME=FIRST,SECOND"),
        ("scenario=base,base", "invalid contrast 'scenario=base,base': expected NAME=FIRST,SECOND"),
        ("scenaro=base,vaccine", "invalid contrast of 'scenaro': expected job, a parameter, a label or scenario: scen"),
        ("scenario=base,vaccin", "invalid value 'vaccin' of scenario: expected one of base, vaccine. Did you mean"),
        ("beta=1.0,9", "invalid value '9' of beta: expected one of 1, 2, 3."),
    ],
)
def test_a_contrast_that_cannot_be_made_is_refused(cli: Cli, compared: str, contrast: str, told: str) -> None:
    assert told in cli.fails(2, "results", compared, "--contrast", contrast)


def test_sets_that_cannot_be_paired_are_an_error(cli: Cli, jobs: JobRegistry) -> None:
    """If two differ in more than the contrast, if two jobs have the same sets on one side, or are one family."""
    for job_id, only in (("a", None), ("b", None), ("a.2", [0])):
        add_job(jobs, job_id, [{"s": "old", "x": 1}, {"s": "new", "x": 2}], only=only)
        Ledger(jobs.store, job_id)(*(attempt(number) for number in only or (0, 1)))
        jobs.finalize_job(job_id, "succeeded")
    ran = cli("results", "a", "--contrast", "s=old,new")
    assert (ran.code, "no parameter set differs in s alone" in ran.err) == (2, True)
    ran = cli("results", "a", "b", "--contrast", "s=old,new")
    assert (ran.code, "several parameter sets with s=old differ in nothing else" in ran.err) == (2, True)
    ran = cli("results", "a", "a.2", "--contrast", "job=a,a.2")
    assert (ran.code, "a and a.2 are of one family, whose tasks count once" in ran.err) == (2, True)
