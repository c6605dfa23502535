"""`results --table --offline`: the table without the network, from chunks that an earlier table has read."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from support.cli import key
from support.ledgers import Ledger, add_job, attempt, leave_output, leave_scalars, results_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pytest

    from mopsjobs.registry.job_registry import JobRegistry
    from mopsjobs.studies.manifest import Manifest
    from support.cli import Cli, Remote


def _ended_with_chunk(cli: Cli, remote: Remote, outputs: Mapping[int, object]) -> Manifest:
    """Leave an ended job of three tasks, of which a chunk has these outputs, and whose ledger is complete."""
    manifest = add_job(remote.jobs, "job", [{"x": one} for one in range(3)])
    Ledger(remote.store.inner)(*(attempt(one) for one in range(3)))
    leave_scalars(remote.jobs, "job", outputs)
    remote.jobs.finalize_job("job", "succeeded")
    cli.clock.advance(minutes=5)
    return manifest


def test_a_table_that_was_read_is_there_without_the_network(cli: Cli, remote: Remote) -> None:
    """The same rows, and the age of the data. Without --offline, an outage still makes no table."""
    _ended_with_chunk(cli, remote, {one: {"peak": one} for one in range(3)})
    expected = results_table(cli, "job")
    remote.store.down = True
    cli.clock.advance(hours=2)
    ran = cli.ok("results", "job", "--table", "-", "--offline")
    assert list(csv.DictReader(io.StringIO(ran.out))) == expected
    assert ran.err == "3 rows; data: synced 2h ago\n"
    assert results_table(cli, "@latest", "--offline", "--mean") == results_table(cli, "job", "--offline", "--mean")
    assert cli("results", "job", "--table", "-").code == 5


def test_a_later_table_reads_no_chunk_again(cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks never change, and those of a complete ledger are all there."""
    _ended_with_chunk(cli, remote, {one: {"peak": one} for one in range(3)})
    expected = results_table(cli, "job")
    asked: list[str] = []
    get, list_keys = remote.store.get, remote.store.list_keys
    monkeypatch.setattr(remote.store, "get", lambda key: asked.append(key) or get(key))
    monkeypatch.setattr(remote.store, "list_keys", lambda prefix: asked.append(prefix) or list_keys(prefix))
    assert results_table(cli, "job") == expected
    assert [name for name in asked if name.startswith(("ledger/", "results/", "manifests/"))] == []


def test_results_that_were_never_read_are_no_table(cli: Cli, remote: Remote) -> None:
    """A table without its values would look like one of a job that left none."""
    _ended_with_chunk(cli, remote, {0: {"peak": 0}})
    cli.ok("tasks", "job")
    ran = cli("results", "job", "--table", "-", "--offline")
    assert (ran.code, ran.out) == (5, "")
    assert "The results of job have never been read to this machine." in " ".join(ran.err.split())


def test_results_of_outputs_are_not_kept(cli: Cli, remote: Remote) -> None:
    """One sentence counts the tasks that a table lacks offline, and the exit code is 7."""
    manifest = _ended_with_chunk(cli, remote, {0: {"peak": 0}, 1: {"peak": 1}})
    leave_output(remote.jobs, manifest, 2, peak=2)
    assert [row["peak"] for row in results_table(cli, "job")] == ["0", "1", "2"]
    remote.store.down = True
    ran = cli("results", "job", "--table", "-", "--offline")
    assert [row["peak"] for row in csv.DictReader(io.StringIO(ran.out))] == ["0", "1", ""]
    assert (ran.code, ran.err.splitlines()[0]) == (7, "warning: The cache lacks the results of 1 task.")


def test_a_pruned_parent_leaves_no_table_with_holes(cli: Cli, remote: Remote) -> None:
    """A late resume has the rows of its parent from the registry. Offline, that they are lacking is an error."""
    _ended_with_chunk(cli, remote, {one: {"peak": one} for one in range(3)})
    cli.ok("sync")
    cli.ok("prune", "--older-than", "1m", "--yes")
    child = add_job(remote.jobs, "job.2", [{"x": one} for one in range(3)], only=(1, 2))
    cli.ok("status", "job.2")
    ran = cli("results", "job.2", "--table", "-", "--offline")
    assert (ran.code, ran.out) == (5, "")
    assert "have never been synced to this machine." in " ".join(ran.err.split())
    assert [row["job_id"] for row in results_table(cli, child.job_id)] == ["job"] * 3
    assert [row["tasks"] for row in results_table(cli, child.job_id, "--mean")] == ["1"] * 3


def test_a_lost_record_of_a_parent_is_told(cli: Cli, remote: Remote) -> None:
    """Its manifest says that it had tasks, which the table would lack."""
    _ended_with_chunk(cli, remote, {0: {"peak": 0}})
    add_job(remote.jobs, "job.2", [{"x": one} for one in range(3)], only=(1, 2))
    remote.store.delete(key("job"))
    ran = cli("results", "job.2", "--table", "-")
    assert (ran.code, ran.out) == (3, "")
    assert ran.err.startswith("error: Job job not found.\nhint: List the outputs of it and of job.2, which")


def test_a_lost_embedded_registry_leaves_the_table(cli: Cli, jobs: JobRegistry) -> None:
    """Offline, an embedded registry is read if it is there, outputs included; else the cache tells."""
    manifest = add_job(jobs, "job", [{"x": one} for one in range(3)])
    Ledger(jobs.store)(*(attempt(one) for one in range(3)))
    leave_scalars(jobs, "job", {0: {"peak": 0}, 1: {"peak": 1}})
    leave_output(jobs, manifest, 2, peak=2)
    assert [row["peak"] for row in results_table(cli, "job", "--offline")] == ["0", "1", "2"]
    (cli.cache.parent / "registry.db").unlink()
    ran = cli("results", "job", "--table", "-", "--offline")
    assert ran.code == 7
    assert [row["peak"] for row in csv.DictReader(io.StringIO(ran.out))] == ["0", "1", ""]
