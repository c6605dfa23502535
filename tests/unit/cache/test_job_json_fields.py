"""The schema of a job is the table of its fields: one more is in JSON, TSV, CSV, API, Python and the reference."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from mopsjobs.cache import job_json
from mopsjobs.utils import schemas
from mopsjobs.web.api import openapi
from support.cli import Cli
from support.docs import load_generator


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
