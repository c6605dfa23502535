"""The checks of `doctor`, run from Python: one function per check, each with at most one result."""

from __future__ import annotations

from pathlib import Path

import pytest

from mopsjobs.app.care import checks
from mopsjobs.app.care.checks import Diagnosis, describe_slurm, run_checks
from mopsjobs.errors import EXIT_UNREACHABLE
from support.cli import Cli, Remote
from support.slurm_commands import FakeSlurm


def test_the_exit_code_is_that_of_the_first_failure(cli: Cli, remote: Remote) -> None:
    """While the registry cannot be reached, a sync is not named as a fix."""
    remote.store.down = True
    diagnosis = run_checks(cli.app())
    assert (diagnosis.state_of("access"), diagnosis.exit_code) == ("fail", EXIT_UNREACHABLE)
    assert {result.name: result.fix for result in diagnosis.results}["cache"] == (
        "restore the access to the registry first"
    )


def test_the_time_of_a_reply_is_without_that_of_signing_in(
    cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that signs in at its first request does so before."""
    scans_before: list[int] = []

    def connect() -> None:
        scans_before.append(remote.store.calls["scan"])

    monkeypatch.setattr(remote.store, "connect", connect, raising=False)
    run_checks(cli.app())
    assert scans_before == [0]


@pytest.mark.parametrize("place", ["cache", "registry"])
def test_a_network_file_system_is_warned_of(cli: Cli, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """The cache and an embedded registry are checked each."""
    diagnosis = Diagnosis(cli.app(), [])
    path = {"cache": diagnosis.app.cache.path, "registry": diagnosis.app.embedded.path}[place]
    monkeypatch.setattr(checks, "network_file_system", lambda where: "nfs4" if where == path else None)
    result = checks.check_file_systems(diagnosis)
    assert result is not None
    assert (result.state, result.fix) == ("warn", f"put the {place} on a local disk")


@pytest.mark.parametrize(("size", "limit"), [("1001", "up to 1,000 shards per job"), ("(null)", "MaxArraySize (null)")])
def test_the_largest_job_array_is_said_in_shards(tmp_path: Path, size: str, limit: str) -> None:
    """The shards of an array are counted from 0, and Slurm's limit is the first number that none of them has."""
    slurm = FakeSlurm(tmp_path / "slurm")
    slurm.says("scontrol", f"slurm 24.11.5\nClusterName = lab\nMaxArraySize = {size}\n")
    assert describe_slurm(slurm.env).endswith(f", {limit}")
