"""What is computed of a job for people and scripts."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.cache import job_json
from mopsjobs.cache.job_json import count_outputs, missing_text
from mopsjobs.utils import schemas
from mopsjobs.web.api import openapi
from support.cli import Cli
from support.docs import load_generator

NOTHING: dict[str, Any] = {
    "expected_outputs": [],
    "verified_outputs": [],
    "missing_outputs": [],
    "tasks_total": 0,
    "tasks_verified": 0,
}


@pytest.mark.parametrize(
    ("fields", "counts"),
    [
        ({}, None),
        ({"tasks_total": 60, "tasks_verified": 30, "missing_outputs": list("abcde")}, (30, 30)),
        ({"tasks_total": 60, "tasks_verified": 60}, (60, 0)),
        ({"tasks_total": 60, "missing_outputs": list("abcde")}, (0, 60)),
        # Three outputs of the one missing task are named: tasks are counted.
        ({"tasks_total": 2, "tasks_verified": 1, "missing_outputs": list("abc")}, (1, 1)),
        # All tasks are complete, and two reductions are not.
        ({"tasks_total": 2, "tasks_verified": 2, "missing_outputs": ["p/reduced-1/", "all/reduced-2/"]}, (2, 2)),
        ({"expected_outputs": list("abcd"), "verified_outputs": ["a"], "missing_outputs": list("bcd")}, (1, 3)),
        ({"tasks_total": 10, "verified_outputs": ["a"], "missing_outputs": list("bcdefgh")}, (1, 7)),
    ],
)
def test_missing_outputs_are_all_but_the_verified_ones(fields: dict[str, Any], counts: tuple[int, int] | None) -> None:
    """A record of mops-jobs counts tasks and names five outputs; other programs list all outputs."""
    assert count_outputs(NOTHING | fields) == counts


@pytest.mark.parametrize(
    ("named", "tasks", "verified", "text"),
    [
        ([f"{letter}/reduced-1/" for letter in "pqrst"], 9, [], "5 or more reductions missing"),
        (["p/reduced-1/", "all/reduced-2/"], 9, [], "2 reductions missing"),
        (["p/1/out.json"] * 5, 14, [], "5 tasks missing"),
        (["p/1/out.json"] * 3 + ["all/reduced-2/"], 10, [], "1 task and 1 reduction missing"),
        (["p/1/out.json"] * 4 + ["all/reduced-2/"], 10, [], "1 task and 1 or more reductions missing"),
        (["p/1/out.json"] * 2, 14, ["p/2/out.json"], "2 missing"),
        ([], 9, [], "0 missing"),
    ],
)
def test_missing_tasks_and_reductions_are_named(named: list[str], tasks: int, verified: list[str], text: str) -> None:
    """A record counts tasks, and names five outputs or reductions at most. Other programs list all outputs."""
    job = NOTHING | {"tasks_total": tasks, "tasks_verified": 9, "missing_outputs": named, "verified_outputs": verified}
    counts = count_outputs(job)
    assert counts is not None
    assert missing_text(job, counts[1]) == text


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Describe one more field in the schema, and compute it."""
    directory = shutil.copytree(schemas.DIRECTORY, tmp_path / "schemas")
    schema = schemas.load_schema("job")
    place = schema["required"].index("suspect") + 1
    schema["required"].insert(place, "answer")
    properties = [*schema["properties"].items()]
    properties.insert(place, ("answer", {"description": "What it computes.", "type": "integer"}))
    (directory / "job.json").write_text(json.dumps(schema | {"properties": dict(properties)}), encoding="utf-8")
    monkeypatch.setattr(schemas, "DIRECTORY", str(directory))
    computed = job_json._computed_fields
    monkeypatch.setattr(job_json, "_computed_fields", lambda *row: {**computed(*row), "answer": 42})


@pytest.mark.usefixtures("answer")
def test_a_field_of_the_schema_is_in_every_form(cli: Cli) -> None:
    cli.ok("register", "job")
    fields = cli.ok("list", "--fields").lines
    assert fields[fields.index("suspect") + 1] == "answer"
    (job,) = cli.ok("list", "--json").json["jobs"]
    assert [*job] == fields
    assert job["answer"] == cli.ok("status", "job", "--json").json["answer"] == 42
    assert cli.ok("list", "--tsv", "--fields", "job_id,answer").lines == ["job\t42"]
    (row,) = csv.DictReader(cli.ok("list", "--csv").lines)
    assert row["answer"] == "42"
    described = cli.ok("schema", "job").json["properties"]["answer"]
    assert described == openapi.document.__wrapped__()["components"]["schemas"]["job"]["properties"]["answer"]
    assert "| `answer` | What it computes. |" in load_generator("generate_json").render()
