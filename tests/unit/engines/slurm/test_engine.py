"""The slurm engine with programs in place of Slurm's commands: launching, looking, cancelling, and whose job it is."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.engines.base import EngineState, Launch
from mopsjobs.engines.slurm import commands
from mopsjobs.engines.slurm.engine import LOOK_PAUSES, SlurmEngine
from mopsjobs.errors import EngineAccessError, EngineError, EngineUnavailableError, JobBusyError
from support.slurm_commands import FakeSlurm, task, waiting

JOB: dict[str, object] = {
    "job_id": "seir-1",
    "engine": "slurm",
    "metadata": {"slurm_job_id": "12", "slurm_shards": "4", "slurm_cluster": "lab"},
}
GONE = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
DOWN = "echo 'Unable to contact slurm controller' >&2; exit 1"


@pytest.fixture
def slurm(tmp_path: Path) -> FakeSlurm:
    return FakeSlurm(tmp_path / "bin")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state/mops-jobs/jobs/seir-1"


@pytest.fixture
def slept() -> list[float]:
    """Return the pauses of the engine so far."""
    return []


@pytest.fixture
def engine(slurm: FakeSlurm, tmp_path: Path, slept: list[float]) -> SlurmEngine:
    return SlurmEngine({**slurm.env, "XDG_STATE_HOME": str(tmp_path / "state")}, sleep=slept.append)


def _launch(**options: str) -> Launch:
    return Launch(job_id="seir-1", registry_url="sqlite:///r.db", shards=4, python="/p", options=options)


def _knows(slurm: FakeSlurm, text: str) -> None:
    """Let scontrol print this about job 12."""
    slurm.says("scontrol", "ClusterName = lab\n", show_job_12=f"cat <<'END'\n{text}\nEND")


# --- launch -----------------------------------------------------------------------------------------------------------


def test_a_launch_submits_a_job_array(engine: SlurmEngine, slurm: FakeSlurm, directory: Path) -> None:
    """The record gets its id, the cluster, and the partition that Slurm chose."""
    slurm.says("sbatch", "12\n")
    slurm.says("squeue", jobs="echo main")
    launched = engine.launch(_launch(time="2h"))
    assert launched.show_command == "squeue -j 12"
    assert launched.metadata == {"slurm_job_id": "12", "slurm_cluster": "lab", "slurm_partition": "main"}
    submitted = next(line for line in slurm.asked if line.startswith("sbatch"))
    assert submitted == (
        f"sbatch --parsable --job-name=seir-1.mops-jobs --output={directory}/slurm-%A_%a.log --open-mode=append"
        f" --chdir={directory} --array=0-3 --nodes=1 --ntasks=1 --cpus-per-task=1 --time=120 --no-requeue"
        f" --signal=B:USR1@60 {directory}/slurm.sh"
    )
    assert stat.S_IMODE((directory / "slurm.sh").stat().st_mode) == 0o600


def test_no_secret_is_in_the_script_or_on_a_command_line(slurm: FakeSlurm, tmp_path: Path, directory: Path) -> None:
    slurm.says("sbatch", "12\n")
    env = {**slurm.env, "XDG_STATE_HOME": str(tmp_path / "state"), "AWS_SECRET_ACCESS_KEY": "hush-hush"}
    launched = SlurmEngine(env).launch(_launch())
    assert "hush-hush" not in f"{slurm.asked} {(directory / 'slurm.sh').read_text()} {launched}"
    assert slurm.environment_of("sbatch")["AWS_SECRET_ACCESS_KEY"] == "hush-hush"


def test_a_second_launch_starts_nothing(engine: SlurmEngine, slurm: FakeSlurm) -> None:
    """An array of this name that has not ended is found by its name."""
    slurm.says("squeue", name="echo 12")
    _knows(slurm, waiting())
    with pytest.raises(JobBusyError, match=r"^Job seir-1 is in Slurm already, as job 12; nothing was started\."):
        engine.launch(_launch())
    assert not [line for line in slurm.asked if line.startswith("sbatch")]


@pytest.mark.parametrize("reply", ["echo 'Socket timed out on send/recv operation' >&2; exit 1", "echo '12 submitted'"])
def test_a_launch_whose_reply_was_lost_is_found_by_its_name(
    engine: SlurmEngine, slurm: FakeSlurm, tmp_path: Path, reply: str
) -> None:
    """Or a plugin of the cluster has printed other lines. An array that was there before is another launch."""
    arrays = tmp_path / "arrays"
    arrays.write_text("9\n")
    slurm.says("squeue", name=f"cat {arrays}")
    slurm.says("sbatch", parsable=f"echo 12 >> {arrays}; {reply}")
    assert engine.launch(_launch()).show_command == "squeue -j 12"


def test_a_look_without_an_answer_does_not_tell_that_nothing_runs(
    engine: SlurmEngine, slurm: FakeSlurm, tmp_path: Path
) -> None:
    """The controller answers before the submission, and not afterwards. If it answers, an outage launched nothing."""
    slurm.says("sbatch", parsable=f"touch {tmp_path}/down; {DOWN}")
    with pytest.raises(EngineUnavailableError, match=r"^Slurm does not answer: Unable to contact") as caught:
        engine.launch(_launch())
    assert caught.value.hint == "See whether it has started: squeue --name=seir-1.mops-jobs"
    assert not caught.value.sent
    (tmp_path / "down").unlink()
    slurm.says("squeue", name=f"test ! -e {tmp_path}/down || {{ {DOWN}; }}")
    with pytest.raises(EngineUnavailableError) as caught:
        engine.launch(_launch())
    assert caught.value.sent


@pytest.mark.parametrize(
    ("said", "code"), [("hello\n", 0), ("sbatch: error: Batch job submission failed: Socket timed out\n", 1)]
)
def test_a_silent_controller_is_looked_at_again(
    engine: SlurmEngine, slurm: FakeSlurm, slept: list[float], said: str, code: int
) -> None:
    """Or a reply has no number. It may take the job later. So the record must not say that the launch has failed."""
    slurm.says("sbatch", said, code=code)
    with pytest.raises(EngineUnavailableError) as caught:
        engine.launch(_launch())
    assert caught.value.sent
    assert slept == [0.0, *LOOK_PAUSES]


@pytest.mark.parametrize(
    ("said", "message", "hint"),
    [
        (
            ["invalid partition specified: fast", "Batch job submission failed: Invalid partition name specified"],
            "Slurm refuses sbatch: invalid partition specified: fast; Invalid partition name specified.",
            "See its partitions: sinfo --summarize",
        ),
        (
            ["Batch job submission failed: Invalid job array specification"],
            "Slurm refuses sbatch: Invalid job array specification.",
            "The cluster may allow fewer tasks (scontrol show config | grep MaxArraySize): --shards N",
        ),
    ],
)
def test_a_refusal_of_sbatch_is_one_sentence_with_a_hint(
    engine: SlurmEngine, slurm: FakeSlurm, said: list[str], message: str, hint: str
) -> None:
    slurm.says("sbatch", "".join(f"sbatch: error: {line}\n" for line in said), code=1)
    with pytest.raises(EngineError) as caught:
        engine.launch(_launch())
    assert (str(caught.value), caught.value.hint) == (message, hint)


# --- state ------------------------------------------------------------------------------------------------------------


def test_a_job_that_waits_costs_one_question(engine: SlurmEngine, slurm: FakeSlurm) -> None:
    _knows(slurm, waiting("Priority"))
    for _ in range(2):
        assert engine.state(JOB)[:3] == ("pending", "Priority", "jobs of a higher priority come first")
    assert slurm.asked == ["scontrol --oneliner show job 12"] * 2


@pytest.mark.parametrize(
    ("lines", "kind"),
    [(DOWN, EngineUnavailableError), ("echo 'Access/permission denied' >&2; exit 1", EngineAccessError)],
)
def test_an_error_of_scontrol_is_told_and_no_state(
    engine: SlurmEngine, slurm: FakeSlurm, lines: str, kind: type[EngineError]
) -> None:
    slurm.says("scontrol", show_job=lines)
    with pytest.raises(kind):
        engine.state(JOB)


@pytest.mark.claim("A job of Slurm of another name is left alone")
def test_a_number_that_is_now_another_job_is_left_alone(engine: SlurmEngine, slurm: FakeSlurm) -> None:
    """Ids begin again when a controller is reset, and a record may name any number."""
    _knows(slurm, waiting().replace("seir-1.mops-jobs", "other"))
    assert engine.state(JOB).phase == "gone"
    assert not engine.cancel(JOB)
    assert not [line for line in slurm.asked if line.startswith("scancel")]


def test_a_launch_that_the_record_misses_is_found_by_its_name(engine: SlurmEngine, slurm: FakeSlurm) -> None:
    """The record has no number, or that of an earlier launch."""
    slurm.says("squeue", name="echo 5; echo 12")
    slurm.says("scontrol", show_job_12=f"echo '{task(0, 'RUNNING')}'", show_job_5=GONE)
    assert engine.state({"job_id": "seir-1"}).phase == "running"
    assert engine.state({**JOB, "metadata": {"slurm_job_id": "5"}}).phase == "running"
    assert slurm.asked[0] == (
        f"squeue --noheader --states=all --user={os.getuid()} --name=seir-1.mops-jobs --format=%F"
    )


def test_a_job_that_slurm_has_forgotten_is_gone(engine: SlurmEngine, slurm: FakeSlurm) -> None:
    """Without accounts, its record and its outputs decide."""
    slurm.says("scontrol", "ClusterName = lab\n", show_job_12=GONE)
    assert engine.state(JOB)[:3] == (
        "gone", "NotInSlurm", "Slurm has no job 12; it forgets a job minutes after its end",
    )  # fmt: skip


def test_accounts_have_what_the_controller_has_forgotten(engine: SlurmEngine, slurm: FakeSlurm) -> None:
    """Also the shards of an array that ended before the last ones."""
    name = "seir-1.mops-jobs"
    lines = "".join(f"12_{shard}|{name}|TIMEOUT|0:0|1795723200|1795723260\n" for shard in range(4))
    slurm.says("sacct", lines)
    for known in (GONE, f"echo '{task(3, 'COMPLETED')}'"):
        slurm.says("scontrol", show_job_12=known)
        assert engine.state(JOB)[:3] == ("failed", "TIMEOUT", "4 shards reached the time limit of the job (TIMEOUT)")
    ended = engine.times(JOB).ended_at
    assert ended is not None
    assert ended.timestamp() == 1795723260


def test_another_cluster_cannot_tell(engine: SlurmEngine, slurm: FakeSlurm, tmp_path: Path) -> None:
    """Nor can a machine without Slurm."""
    slurm.says("scontrol", "ClusterName = other\n", show_job_12=GONE)
    assert engine.state(JOB)[:3] == ("unknown", "OtherCluster", "it runs on cluster lab, and this is other")
    with pytest.raises(EngineError, match=r"cannot stop the job: it runs on cluster lab, and this is other\.$"):
        engine.cancel(JOB)
    nowhere: EngineState = SlurmEngine({"HOME": str(tmp_path)}).state(JOB)
    assert nowhere[:2] == ("unknown", "NoSlurm")


# --- cancel and logs --------------------------------------------------------------------------------------------------


def test_cancel_stops_the_whole_array(engine: SlurmEngine, slurm: FakeSlurm) -> None:
    _knows(slurm, f"{task(0, 'RUNNING')}\n{waiting()}")
    assert engine.cancel(JOB)
    assert slurm.asked[-1] == "scancel 12"
    _knows(slurm, "\n".join(task(shard, "CANCELLED") for shard in range(4)))
    assert not engine.cancel(JOB)


def test_logs_are_those_of_the_last_launch(engine: SlurmEngine, slurm: FakeSlurm, directory: Path) -> None:
    """Where the directory is missing, there are none, and nothing is waited for."""
    assert list(engine.logs(JOB, follow=True)) == []
    directory.mkdir(parents=True)
    for array_id in (9, 12):
        (directory / f"slurm-{array_id}_0.log").write_text(f"of {array_id}\n")
    assert list(engine.logs(JOB)) == ["shard 0: of 12"]
    _knows(slurm, task(0, "COMPLETED"))
    one: dict[str, Any] = {**JOB, "metadata": {"slurm_job_id": "12", "slurm_shards": "1"}}
    assert list(engine.logs(one, follow=True)) == ["of 12"]
    with pytest.raises(EngineError, match=r"^The lines in the log files of Slurm have no times"):
        list(engine.logs(JOB, since=60))


def test_a_question_about_a_state_is_given_up_soon(
    engine: SlurmEngine, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Followers ask many jobs in turn. A cancel and a launch wait longer, and so does a question for accounts."""
    limits: dict[str, float] = {}
    ask = commands.Commands.ask

    def note(asked: commands.Commands, *words: str, seconds: float | None = None) -> str:
        limits[words[0]] = asked._seconds if seconds is None else seconds
        return ask(asked, *words, seconds=seconds)

    monkeypatch.setattr(commands.Commands, "ask", note)
    _knows(slurm, "")
    engine.state(JOB)
    soon = commands.QUESTION_SECONDS
    assert limits == {"squeue": soon, "scontrol": soon, "sacct": commands.SECONDS}
    limits.clear()
    engine.cancel(JOB)
    assert set(limits.values()) == {commands.SECONDS}
