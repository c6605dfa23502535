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
    ("line", "same"),
    [
        ("list -h 48", "list --hours 48"),
        ("list -h48", "list --hours 48"),
        ("jobs list -h 48", "list --hours 48"),
        ("jobs list -n 5 --no-sync", "list -n 5"),
        ("jobs", "list"),
        ("list --no-sync", "list"),
        ("--registry memory: jobs status a;b", "--registry memory: status a;b"),
        ("--registry memory: list -s failed -h 48", "--registry memory: list -s failed --hours 48"),
        ("jobs sync", "reconcile"),
        ("submit study.json -b sha256:1", "submit study.json --bundle sha256:1"),
        ("submit study.json --no-auto --bundle=sha256:1", "submit study.json --bundle=sha256:1"),
        ("validate JOB --force", "validate JOB"),
        ("results download JOB", "results JOB --download results/JOB"),
        ("results download JOB -o out", "results JOB --download out"),
        ("jobs reconcile --validate JOB", "reconcile JOB"),
    ],
)
def test_what_means_the_same_is_taken(cli: Cli, line: str, same: str) -> None:
    """Both lines do the same, in words and exit code. `list -h 48` printed the help and succeeded."""
    here, there = cli(*same.split()), cli(*line.split())
    assert (there.code, there.out, there.err.replace("results download", "results")) == (here.code, here.out, here.err)
    assert "unknown flag" not in there.err


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("submit s.json -t cases", "mops-jobs does not evaluate targets. Use mops jobs submit, or run the simulations"),
        ("submit s.json --target-set=all", "mops-jobs does not evaluate targets."),
        ("submit s.json --project-root ..", "submit packs the current directory. Change to the project first."),
        ("sync --dry-run", "sync updates the local cache. To ask the cluster, use mops-jobs reconcile."),
        ("jobs sync --no-validate", "reconcile has no --no-validate."),
        ("resume JOB --bundle sha256:1", "resume runs the code of the job. To run that of the current directory, use"),
        ("resume JOB --dry-run", "resume has no dry run. To see its tasks, use mops-jobs tasks JOB --status failed,"),
        ("status JOB --watch", "status shows a job once. To follow it, use mops-jobs wait JOB."),
        (
            "jobs submit a;b",
            "mops jobs submit runs in the cluster. Use mops-jobs submit 'a;b' with --auto, and --engine",
        ),
        ("bundle push", "'bundle' is a command of ModelOps. Use mops bundle;"),
        ("init", "'init' is a command of ModelOps. Use mops init;"),
        ("infra up", "'infra' is a command of ModelOps. Use mops infra."),
        ("adaptive up", "'adaptive' is a command of ModelOps. Use mops adaptive."),
        ("workspace up", "'workspace' is a command of ModelOps. Use mops workspace."),
    ],
)
def test_what_means_something_else_names_what_to_use(cli: Cli, line: str, answer: str) -> None:
    """In one sentence, where argparse knows only that the word is unknown."""
    ran = cli(*line.split())
    assert (ran.code, ran.out, len(sentences(ran.err))) == (2, "", 1)
    assert sentences(ran.err)[0].startswith(f"error: {answer}")


def test_a_flag_that_only_mops_jobs_lacks_is_still_unknown(cli: Cli) -> None:
    """The words of ModelOps are looked up by their command."""
    assert sentences(cli("list", "--force").err) == ["error: unknown flag '--force'."]
    assert "unknown command 'lisst'" in cli("jobs", "lisst").err


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
