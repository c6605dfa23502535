"""How the commands of Slurm are run: their environment, and their errors told apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from mopsjobs.engines.base import RefusedError
from mopsjobs.engines.slurm.commands import Commands, NotConfiguredError, is_installed
from mopsjobs.errors import EngineAccessError, EngineError, EngineUnavailableError
from support.slurm_commands import FakeSlurm


@pytest.fixture
def slurm(tmp_path: Path) -> FakeSlurm:
    return FakeSlurm(tmp_path / "bin")


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        (
            "squeue: error: Unable to contact controller\nslurm_load_jobs error: Unable to contact controller",
            EngineUnavailableError,
            "Slurm does not answer: Unable to contact controller.",
        ),
        (
            "squeue: fatal: Could not establish a configuration source",
            NotConfiguredError,
            "Slurm is not configured on this machine: Could not establish a configuration source.",
        ),
        (
            "squeue: error: Access/permission denied",
            EngineAccessError,
            "Slurm refuses access: Access/permission denied.",
        ),
        ("slurm_load_jobs error: Invalid job id", RefusedError, "Slurm refuses squeue: Invalid job id."),
        ("", RefusedError, "Slurm refuses squeue: exit code 1."),
    ],
)
def test_errors_of_a_command_are_told_apart(slurm: FakeSlurm, said: str, kind: type[EngineError], message: str) -> None:
    slurm.says("squeue", said, code=1)
    with pytest.raises(EngineError) as caught:
        Commands(slurm.env).ask("squeue")
    assert (type(caught.value), str(caught.value)) == (kind, message)


@pytest.mark.parametrize(
    ("said", "is_silent"),
    [
        ("Unable to contact slurm controller (connect failure)", False),
        ("Unable to contact slurm controller (receive failure)", True),
        ("Batch job submission failed: Zero Bytes were transmitted or received", True),
    ],
)
def test_a_request_that_may_have_arrived_is_told(slurm: FakeSlurm, said: str, is_silent: bool) -> None:
    """A job may then run whose submission has failed."""
    slurm.says("sbatch", f"sbatch: error: {said}", code=1)
    with pytest.raises(EngineUnavailableError) as caught:
        Commands(slurm.env).submit("script")
    assert caught.value.silent == is_silent


def test_a_machine_without_slurm_is_told_what_to_do(tmp_path: Path) -> None:
    """Also an environment without a PATH."""
    for env in ({"PATH": str(tmp_path)}, {}):
        assert not is_installed(env)
        with pytest.raises(EngineUnavailableError, match=r"^Slurm's command sbatch is not on the PATH") as caught:
            Commands(env).submit("script")
        assert str(caught.value.hint).startswith("Run mops-jobs on a login node")


@pytest.mark.parametrize("name", ["missing", "slurm.conf/below", "."])
def test_a_configuration_that_is_not_a_file_is_named(slurm: FakeSlurm, tmp_path: Path, name: str) -> None:
    """The commands of Slurm would wait a minute for it, as if no controller answered."""
    (tmp_path / "slurm.conf").touch()
    path = f"{tmp_path}/{name}"
    with pytest.raises(EngineUnavailableError) as caught:
        Commands({**slurm.env, "SLURM_CONF": path}).ask("squeue")
    assert str(caught.value) == f"invalid SLURM_CONF '{path}': expected a file."
    assert (caught.value.hint, caught.value.sent, slurm.asked) == ("Correct SLURM_CONF, or unset it.", False, [])


def test_a_command_that_hangs_is_given_up(slurm: FakeSlurm) -> None:
    slurm.says("squeue", hang="exec tail -f /dev/null")
    with pytest.raises(EngineUnavailableError, match=r"^Slurm does not answer: squeue took more than 0\.2 s\.$"):
        Commands(slurm.env, seconds=0.2).ask("squeue", "hang")


def test_a_question_gets_no_secret_and_no_format(slurm: FakeSlurm) -> None:
    """Variables of the user, and of a job that this runs in, would change what the commands print."""
    env = {"AWS_SECRET_ACCESS_KEY": "s", "SQUEUE_FORMAT": "%i", "SLURM_JOB_ID": "3", "SLURM_CLUSTERS": "far"}
    kept = {"SLURM_CONF": "/dev/null", "HOME": "/h"}
    assert Commands({**slurm.env, **env, **kept}).ask("squeue") == ""
    got = slurm.environment_of("squeue")
    assert got.keys().isdisjoint(env)
    expected = {**kept, "LC_ALL": "C", "SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}
    assert expected.items() <= got.items()


def test_a_submission_passes_the_environment_on(slurm: FakeSlurm) -> None:
    """The runner needs the credentials of the registry. Variables of an outer job would contradict its flags."""
    env = {"AWS_SECRET_ACCESS_KEY": "s", "SBATCH_ACCOUNT": "p1", "SBATCH_WAIT": "1", "SLURM_MEM_PER_NODE": "3"}
    env |= {"SBATCH_CLUSTERS": "far", "SLURM_CLUSTERS": "far"}
    Commands({**slurm.env, **env}).submit("script")
    got = slurm.environment_of("sbatch")
    assert {"AWS_SECRET_ACCESS_KEY": "s", "SBATCH_ACCOUNT": "p1"}.items() <= got.items()
    assert got.keys().isdisjoint({"SBATCH_WAIT", "SLURM_MEM_PER_NODE", "LC_ALL", "SBATCH_CLUSTERS", "SLURM_CLUSTERS"})
