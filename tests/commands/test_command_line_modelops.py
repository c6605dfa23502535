"""The words of ModelOps' users: its flags do the same here, and its other commands name what to use instead."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mopsjobs.registry.job_registry import JobRegistry
from support.cli import Cli, add, sentences
from support.desk import Desk
from support.runs import sets_of, tree
from support.servers import Azurite


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("list -h 48", "invalid -h 48: -h prints the help. Did you mean '--hours 48'?"),
        ("list -h48", "invalid -h 48: -h prints the help. Did you mean '--hours 48'?"),
        ("--registry memory: list -s failed -h 48", "invalid -h 48: -h prints the help. Did you mean '--hours 48'?"),
        ("jobs list -n 5", "unknown command 'jobs': commands have no group here. Did you mean 'mops-jobs list -n 5'?"),
        ("jobs", "unknown command 'jobs': commands have no group here. Did you mean 'mops-jobs list'?"),
        (
            "--registry memory: jobs resume a;b --dry-run",
            "unknown command 'jobs': commands have no group here. Did you mean 'mops-jobs resume 'a;b' --dry-run'?",
        ),
        ("jobs sync", "unknown command 'jobs': commands have no group here. Did you mean 'mops-jobs reconcile'?"),
        (
            "jobs submit study.json",
            "unknown command 'jobs': commands have no group here. Did you mean 'mops-jobs submit study.json --auto'?",
        ),
    ],
)
def test_the_forms_of_modelops_name_the_command_to_use(cli: Cli, line: str, answer: str) -> None:
    """`list -h 48` printed the help and succeeded, so a script took it for an empty list."""
    ran = cli(*line.split())
    assert (ran.code, ran.out, sentences(ran.err)) == (2, "", [f"error: {answer}"])


@pytest.mark.parametrize("line", ["list -h", "-h", "list --help -h", "status -h"])
def test_h_alone_is_help(cli: Cli, line: str) -> None:
    assert "usage: mops-jobs" in cli.ok(*line.split()).out


def test_n_and_s_are_limit_and_status(cli: Cli, jobs: JobRegistry) -> None:
    for number in range(3):
        add(jobs, f"done-{number}", "failed")
    add(jobs, "other", "succeeded")
    listed = cli.ok("list", "-n", "2", "-s", "FAILED", "--json")
    assert (json.loads(listed.out)["returned"], json.loads(listed.out)["total"]) == (2, 3)


@pytest.mark.parametrize("command", ["resume", "validate"])
def test_what_can_be_done_with_a_job_of_modelops(cli: Cli, jobs: JobRegistry, command: str) -> None:
    """It has no manifest of mops-jobs, and its tasks lie elsewhere."""
    add(jobs, "job-1a2b", "running", k8s_name="job-1a2b")
    ran = cli(command, "job-1a2b")
    assert (ran.code, sentences(ran.err)) == (6, ["error: Job job-1a2b has no manifest: mops-jobs did not submit it."])
    assert "If ModelOps did, use mops jobs validate or mops jobs resume." in ran.err
    assert "If it is active, end it with mops-jobs update job-1a2b STATUS." in ran.err


def test_the_storage_of_an_environment_is_used(desk: Desk, azurite: Azurite, tmp_path: Path) -> None:
    """A job runs and is listed there. The key in the file is printed nowhere, and names of outputs may have spaces."""
    settings = json.dumps({"environment": "dev", "storage": {"connection_string": azurite.connection_string}})
    tree(Path(desk.env["HOME"]), {".modelops/bundle-env/dev.yaml": settings})
    (desk.home / "model.py").write_text("def simulate(params, seed): return {'daily cases.csv': b'day', 'n': b'1'}\n")
    study = desk.write(sets_of(2), outputs=["daily cases.csv"])
    ran = [desk.ok("submit", study, "--auto", "--job-id", "in-dev", "--wait", "-e", "dev")]
    ran.append(desk.ok("list", "-e", "dev", "--json"))
    listed = json.loads(ran[1].out)
    assert [job["job_id"] for job in listed["jobs"]] == ["in-dev"]
    assert listed["registry"].endswith("/job-registry")
    assert listed["registry_from"] == "flag --env dev"
    ran.append(desk.ok("status", "in-dev", "-e", "dev"))
    assert "Next: mops-jobs results -e dev in-dev --download DIR" in ran[-1].err
    ran.append(desk.ok("results", "in-dev", "--download", str(tmp_path / "out"), "--env", "dev"))
    assert [path.read_text() for path in (tmp_path / "out").glob("*/*/daily cases.csv")] == ["day", "day"]
    ran.append(desk.ok("config", "show", "-e", "dev", "-v"))
    assert list(desk.jobs.list_jobs()) == []
    assert not any(azurite.key in text for one in ran for text in (one.out, one.err))
