"""Real servers of S3's API that ignore conditional writes are refused by name, before anything is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cli import Cli
from support.lying_servers import SERVERS, Liar, lying
from support.lying_stores import LATE_UPDATE, SECOND_CREATION, STALE_UPDATE
from support.runs import code, sets_of

pytestmark = pytest.mark.slow


@pytest.fixture(params=SERVERS)
def liar(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Liar]:
    """Yield each server, which boto3 in this process finds."""
    with lying(request.param, tmp_path / "server") as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        yield server


def test_a_real_liar_is_refused_by_name_and_keeps_nothing(cli: Cli, liar: Liar) -> None:
    """By `doctor`, `register` and `submit --auto`, which launches nothing. A command that reads ends with 0."""
    cli.env["MOPS_JOBS_REGISTRY"] = "s3://jobs/team"
    told = f"s3://jobs/team at 127.0.0.1:{liar.port} {SECOND_CREATION}; it {STALE_UPDATE}; it {LATE_UPDATE}."
    ran = cli("doctor", "--json")
    assert ran.code == 2, ran
    checks = {check["name"]: check for check in ran.json["checks"]}
    assert (checks["access"]["state"], checks["conditions"]["state"]) == ("warn", "fail")
    assert checks["conditions"]["detail"] == told
    code(Path())
    Path("study.json").write_text(json.dumps({"model": "model:simulate", "parameter_sets": sets_of(1)}))
    for words in (("register", "a"), ("submit", "study.json", "--auto", "--job-id", "a")):
        assert told in cli.fails(2, *words)
    assert cli.ok("list", "--refresh", "--json").json["total"] == 0
    assert liar.files() == []
    assert not list(Path(cli.env["HOME"]).rglob("runner.json"))
