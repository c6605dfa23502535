"""Outputs that are lost or damaged after the end of a job: each view that needs them tells it."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import pytest

from mopsjobs.studies.manifest import Reuse, load_manifest
from mopsjobs.studies.outputs import output_key, results_prefix
from mopsjobs.web.site.job_results import JobResults
from support.ledgers import BUNDLE, Ledger, add_job, attempt, leave_output

if TYPE_CHECKING:
    from pathlib import Path

    from mopsjobs.registry.job_registry import JobRegistry
    from mopsjobs.studies.manifest import Manifest
    from support.cli import Cli, Remote

SETS = [{"x": number} for number in range(3)]


def _leave_results(jobs: JobRegistry, manifest: Manifest, *numbers: int) -> None:
    """Leave attempts and outputs of tasks, each of 8 bytes."""
    Ledger(jobs.store, manifest.job_id)(*(attempt(number, output_bytes=8) for number in numbers))
    for number in numbers:
        leave_output(jobs, manifest, number, y=number)


def _lose(jobs: JobRegistry, prefix: str) -> None:
    for key in list(jobs.store.list_keys(prefix)):
        jobs.store.delete(key)


def _rows(cli: Cli, *argv: str) -> list[dict[str, str]]:
    ran = cli("results", "job", "--table", "-", *argv)
    assert ran.code == 7
    assert ran.err.startswith("warning: The outputs of 2 tasks are gone, with their values.\n")
    return list(csv.DictReader(io.StringIO(ran.out)))


@pytest.fixture
def reusing(cli: Cli, remote: Remote) -> JobRegistry:
    """Return a registry with `job`, which did one task, and reuses two of `source`."""
    jobs = remote.jobs
    source = add_job(jobs, "source", SETS[:2])
    _leave_results(jobs, source, 0, 1)
    jobs.finalize_job("source", "succeeded")
    job = add_job(jobs, "job", SETS, reused=(Reuse("source", BUNDLE, ((0, 2),)),))
    _leave_results(jobs, job, 2)
    cli.ok("validate", "job")
    cli.clock.advance(minutes=5)
    cli.ok("sync")
    return jobs


@pytest.mark.parametrize("has_looked", [False, True], ids=["first look", "known before"])
def test_lost_outputs_of_a_source_are_missing_in_all_views(cli: Cli, reusing: JobRegistry, *, has_looked: bool) -> None:
    """Only tasks whose values were read count in `n`."""
    assert "when it ended, 3 verified, 0 missing" in cli.ok("status", "job").out
    if has_looked:
        cli.ok("results", "job", "--table", "-")
    _lose(reusing, results_prefix("source"))
    _lose(reusing, "ledger/source/")
    ran = cli("validate", "job")
    assert (ran.code, ran.out) == (7, "job: 1 of 3 tasks verified; succeeded\n")
    assert ran.err == (
        "warning: The outputs of 2 tasks were lost or damaged since the job ended. To run them again: mops-jobs resume"
        " job\n"
    )
    document = cli("validate", "job", "--json").json
    assert (document["status"], document["tasks_verified"], len(document["missing_outputs"])) == ("succeeded", 1, 2)
    lines = cli.ok("tasks", "job", "--jsonl").objects
    assert [one["outcome"] for one in lines] == ["missing", "missing", "succeeded"]
    assert [(row["status"], row["y"]) for row in _rows(cli)] == [("missing", ""), ("missing", ""), ("succeeded", "2")]
    assert [(row["tasks"], row["n"], row["y.mean"]) for row in _rows(cli, "--mean")] == [
        ("1", "0", ""), ("1", "0", ""), ("1", "1", "2.0"),
    ]  # fmt: skip
    assert "3 verified, 0 missing; 2 tasks lost outputs since" in cli.ok("status", "job").out
    page = JobResults(cli.app())
    page.read("job")
    results = page.get("job")
    assert results is not None
    assert results.problems == ["The outputs of 2 tasks are gone, with their values."]


def test_a_partial_job_tells_reused_tasks_that_are_lost(cli: Cli, remote: Remote) -> None:
    """Beside a task that failed, and has no outputs to lose."""
    jobs = remote.jobs
    source = add_job(jobs, "source", SETS[:2])
    _leave_results(jobs, source, 0, 1)
    jobs.finalize_job("source", "succeeded")
    job = add_job(jobs, "job", [*SETS, {"x": 3}], reused=(Reuse("source", BUNDLE, ((0, 2),)),))
    Ledger(jobs.store, "job")(attempt(2, output_bytes=8), attempt(3, "failed"))
    leave_output(jobs, job, 2, y=2)
    cli("validate", "job")
    cli.clock.advance(minutes=5)
    assert "lost" not in cli.ok("status", "job", "--refresh").out
    assert cli.ok("results", "job", "--table", "-").err.startswith("4 rows")
    _lose(jobs, results_prefix("source"))
    _lose(jobs, "ledger/source/")
    assert cli("validate", "job").code == 7
    assert [row["status"] for row in _rows(cli)] == ["missing", "missing", "succeeded", "failed"]
    assert [row["n"] for row in _rows(cli, "--mean")] == ["0", "0", "1", "0"]
    assert "3 verified, 1 missing" in (text := cli.ok("status", "job").out)
    assert "; 2 tasks lost outputs since" in text


@pytest.mark.parametrize("status", ["succeeded", "failed"])
def test_a_child_tells_what_its_parent_has_lost(cli: Cli, remote: Remote, status: str) -> None:
    """Whether it has succeeded or not: it did not run these tasks, and the job was complete of them when it ended."""
    jobs = remote.jobs
    source = add_job(jobs, "source", SETS[:2])
    _leave_results(jobs, source, 0, 1)
    jobs.finalize_job("source", "succeeded")
    add_job(jobs, "job", SETS, reused=(Reuse("source", BUNDLE, ((0, 2),)),))
    Ledger(jobs.store, "job")(attempt(2, "failed"))
    cli("validate", "job")
    child = add_job(jobs, "job.2", SETS, only=[2], parent="job")
    Ledger(jobs.store, "job.2")(attempt(2, status, output_bytes=8 if status == "succeeded" else None))
    if status == "succeeded":
        leave_output(jobs, child, 2, y=2)
    cli("validate", "job.2")
    cli.clock.advance(minutes=5)
    assert "gone" not in cli.ok("results", "job.2", "--table", "-").err
    _lose(jobs, results_prefix("source"))
    _lose(jobs, "ledger/source/")
    assert cli("validate", "job").code == 7
    ran = cli("results", "job.2", "--table", "-")
    assert ran.err.startswith("warning: The outputs of 2 tasks are gone, with their values.\n")
    rows = list(csv.DictReader(io.StringIO(ran.out)))
    assert [row["status"] for row in rows] == ["missing", "missing", status]


def test_a_table_looks_for_outputs_that_no_chunk_has(cli: Cli, reusing: JobRegistry) -> None:
    """The cache has a reused task as succeeded, and no view has looked at its outputs since they were lost."""
    cli.ok("tasks", "job")
    _lose(reusing, results_prefix("source"))
    _lose(reusing, "ledger/source/")
    assert [row["status"] for row in _rows(cli)] == ["missing", "missing", "succeeded"]
    assert [row["n"] for row in _rows(cli, "--mean")] == ["0", "0", "1"]


def test_lost_outputs_of_attempts_are_no_values(cli: Cli, remote: Remote) -> None:
    """The attempts did succeed. Without a chunk of scalars, their values are gone."""
    manifest = add_job(remote.jobs, "job", SETS)
    _leave_results(remote.jobs, manifest, 0, 1, 2)
    remote.jobs.finalize_job("job", "succeeded")
    for number in (0, 1):
        task = next(task for task in manifest.study.tasks() if task.number == number)
        _lose(remote.jobs, f"{results_prefix('job')}{task.param_id}/")
    assert [(row["status"], row["y"]) for row in _rows(cli)] == [
        ("succeeded", ""),
        ("succeeded", ""),
        ("succeeded", "2"),
    ]
    assert [row["n"] for row in _rows(cli, "--mean")] == ["0", "0", "1"]


def test_a_task_without_scalars_has_lost_nothing(cli: Cli, remote: Remote) -> None:
    """A model may leave pictures, or nothing at all."""
    manifest = add_job(remote.jobs, "job", SETS[:2], outputs=None)
    Ledger(remote.store.inner)(attempt(0), attempt(1))
    leave_output(remote.jobs, manifest, 0, name="picture.png")
    leave_output(remote.jobs, manifest, 1, name="_outputs.json")
    remote.jobs.finalize_job("job", "succeeded")
    rows = list(csv.DictReader(io.StringIO(cli.ok("results", "job", "--table", "-", "--mean").out)))
    assert [row["n"] for row in rows] == ["1", "1"]


@pytest.fixture
def damaged(remote: Remote) -> str:
    """Cut an output of a job that has succeeded. Return how each view tells it."""
    jobs = remote.jobs
    manifest = add_job(jobs, "job", SETS)
    _leave_results(jobs, manifest, 0, 1, 2)
    jobs.update_status("job", "validating")
    jobs.update_status("job", "succeeded", tasks_verified=3, tasks_completed=3)
    cut = next(iter(jobs.store.list_keys(results_prefix("job"))))
    remote.put(cut, b'{"y": ')
    return f"warning: {cut.rpartition('/')[0]}/ has 6 bytes, and its ledger says 8.\n"


def test_an_output_of_another_size_is_damaged(cli: Cli, damaged: str, tmp_path: Path) -> None:
    """It is downloaded all the same. The table of tasks calls its task missing."""
    ran = cli("validate", "job")
    assert (ran.code, ran.out) == (7, "job: 2 of 3 tasks verified; succeeded\n")
    assert ran.err.startswith(damaged)
    ran = cli("results", "job", "--download", str(tmp_path / "out"))
    assert (ran.code, ran.err.startswith(damaged)) == (7, True)
    rows = csv.DictReader((tmp_path / "out" / "tasks.csv").read_text().splitlines())
    assert sorted(row["status"] for row in rows) == ["complete", "complete", "missing"]
    assert len(list((tmp_path / "out").glob("*/*/result.json"))) == 3
    ran = cli("provenance", "job", "--ro-crate", str(tmp_path / "crate"))
    assert (ran.code, damaged in ran.err) == (7, True)


def test_a_damaged_output_ends_no_job_as_succeeded(cli: Cli, remote: Remote) -> None:
    """A job whose runner is silent is compared by size, too."""
    manifest = add_job(remote.jobs, "job", SETS)
    _leave_results(remote.jobs, manifest, 0, 1, 2)
    remote.put(next(iter(remote.store.inner.list_keys(results_prefix("job")))), b"")
    assert (cli("validate", "job").code, cli("validate", "job").out) == (7, "job: 2 of 3 tasks verified; partial\n")


def test_a_child_that_did_a_damaged_task_again_replaces_it(
    cli: Cli, remote: Remote, damaged: str, tmp_path: Path
) -> None:
    """So the family has no damage that is told."""
    place = damaged.removeprefix("warning: ").partition(" ")[0]
    manifest = load_manifest(remote.store.inner, "job")
    (number,) = (task.number for _, task in manifest.tasks() if output_key("job", task, "") == place)
    child = add_job(remote.jobs, "job.2", SETS, only=[number])
    _leave_results(remote.jobs, child, number)
    remote.jobs.finalize_job("job.2", "succeeded")
    assert "resume" not in cli("validate", "job").err
    assert cli.ok("results", "job.2", "--download", str(tmp_path / "out")).err.count("warning") == 0


def test_sizes_are_compared_where_a_ledger_tells_them(cli: Cli, remote: Remote) -> None:
    """Not without a ledger, nor if two attempts left different sizes: the outputs are those of any of them."""
    manifest = add_job(remote.jobs, "job", SETS)
    ledger = Ledger(remote.store.inner)
    ledger(attempt(0, output_bytes=8), attempt(1, output_bytes=None), attempt(2, output_bytes=7))
    ledger(attempt(2, output_bytes=8))
    for number in range(3):
        leave_output(remote.jobs, manifest, number, y=number)
    assert cli.ok("validate", "job").out == "job: 3 of 3 tasks verified; succeeded\n"


def test_the_loss_of_all_outputs_is_told(cli: Cli, remote: Remote, tmp_path: Path) -> None:
    """`results` said that a job that had succeeded has no outputs, with exit code 0, and an RO-Crate said nothing."""
    manifest = add_job(remote.jobs, "job", SETS)
    _leave_results(remote.jobs, manifest, 0, 1, 2)
    cli.ok("validate", "job")
    _lose(remote.jobs, results_prefix("job"))
    said = "Job job has lost the outputs of all 3 tasks that had them."
    listed = cli("results", "job")
    assert (listed.code, listed.err) == (7, f"warning: {said}\n")
    assert cli("results", "job", "--download", str(tmp_path / "out")).err.startswith(f"error: {said}\n")
    crate = cli("provenance", "job", "--ro-crate", str(tmp_path / "crate"))
    assert crate.code == 7
    assert f"warning: {said}\n" in crate.err
