"""The slurm engine: launches, the commands of Slurm and what they print, options, the script, and logs."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.engines.base import EngineState, EngineTimes, Launch, RefusedError, ShardEnd
from mopsjobs.engines.slurm import commands
from mopsjobs.engines.slurm.commands import Commands, NotConfiguredError, is_installed
from mopsjobs.engines.slurm.engine import LOOK_PAUSES, POLLS_PER_STATE, SlurmEngine, log_files, read_lines
from mopsjobs.engines.slurm.options import megabytes, minutes, sbatch_flags, split_start_flags
from mopsjobs.engines.slurm.script import EXIT_NOT_FOUND, EXIT_SETUP, EXIT_TIME_LIMIT, write_script
from mopsjobs.engines.slurm.state import (
    SlurmShards,
    newest,
    parse_sacct,
    parse_scontrol,
    parse_submission,
    state_of,
    times_of,
)
from mopsjobs.errors import (
    EngineAccessError,
    EngineError,
    EngineUnavailableError,
    JobBusyError,
    OptionError,
    UsageError,
)
from support.runs import PATIENCE
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
    """The record gets its id and the cluster."""
    slurm.says("sbatch", "12\n")
    launched = engine.launch(_launch(time="2h"))
    assert launched.show_command == "squeue -j 12"
    assert launched.metadata == {"slurm_job_id": "12", "slurm_cluster": "lab"}
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


# --- How the commands of Slurm are run: their environment, and their errors told apart -------------------------------


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


# --- What scontrol, sacct and sbatch print, as Slurm 24.11 has printed it, and the state of a job by that ------------

NOON = datetime(2026, 11, 26, 20, tzinfo=UTC)
"""1795723200 seconds after 1970."""

RUNS = task(0, "RUNNING", end="Unknown")
DONE = task(0, "COMPLETED")


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0-3%2", [0, 1, 2, 3]), ("1,3,5-7", [1, 3, 5, 6, 7]), ("0-8:4", [0, 4, 8]), ("9", [9]), ("x", [0])],
)
def test_a_list_of_tasks_keeps_its_holes(text: str, numbers: list[int]) -> None:
    (found,) = parse_scontrol(f"JobId=1 ArrayJobId=1 ArrayTaskId={text} JobName=a JobState=PENDING")
    assert ([number for part in found.parts for number in part], found.shards) == (numbers, len(numbers))


def test_accounts_have_the_ends_of_shards() -> None:
    """`CANCELLED by` has the uid. Shards that never began share a line, with holes or without."""
    text = (
        "sacct: error\n12_0|a|RUNNING\n"
        "12_1|seir-1.mops-jobs|OUT_OF_MEMORY|0:125|1795723200|1795723260\n"
        "12_[2-3,7%2]|seir-1.mops-jobs|CANCELLED by 1000|0:15|Unknown|1795723260\n"
    )
    ended = NOON.replace(minute=1)
    found = parse_sacct(text)
    assert found == [
        SlurmShards(12, "seir-1.mops-jobs", "OUT_OF_MEMORY", (range(1, 2),), None, 0, 125, 0, NOON, ended),
        SlurmShards(
            12, "seir-1.mops-jobs", "CANCELLED", (range(2, 4), range(7, 8)), "by uid 1000", 0, 15, 0, None, ended
        ),
    ]
    assert state_of(found[1:]).detail == "3 shards were cancelled in Slurm by uid 1000 (CANCELLED)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("12\n", (12, None)), ("12;lab\n", (12, "lab")), ("a plugin says hello\n13\n", (13, None)), ("x", None)],
)
def test_sbatch_prints_the_id_of_the_array(text: str, expected: tuple[int, str | None] | None) -> None:
    assert parse_submission(text) == expected


@pytest.mark.parametrize(
    ("reason", "detail", "is_stuck"),
    [
        ("Priority", "jobs of a higher priority come first", False),
        ("AssocGrpCpuLimit", "a limit of the account is reached", False),
        ("JobHeldUser", "its user holds it; release it: scontrol release 12", True),
        ("DependencyNeverSatisfied", "a job that it depends on has failed, so it never begins", True),
        (
            "ReqNodeNotAvail,_UnavailableNodes:n[1-2]",
            "nodes that it needs are down, drained or reserved (UnavailableNodes:n[1-2])",
            False,
        ),
    ],
)
def test_a_job_that_waits_says_why(reason: str, detail: str, *, is_stuck: bool) -> None:
    """In Slurm's word, and in a sentence. A job whose turn never comes is marked as suspect."""
    state = state_of(parse_scontrol(waiting(reason)))
    assert state[:4] == ("pending", reason.partition(",")[0], detail, is_stuck)


@pytest.mark.parametrize(
    ("lines", "phase", "reason", "detail"),
    [
        ([RUNS], "running", None, None),
        ([RUNS, waiting()], "running", None, "4 shards wait: no node is free that has what it asks for"),
        ([task(0, "SUSPENDED")], "running", "SUSPENDED", "Slurm has suspended 1 shard"),
        (
            [RUNS, task(1, "NODE_FAIL")], "running", "NODE_FAIL", "1 shard lost its node (NODE_FAIL)",
        ),
        (
            [DONE, task(1, "TIMEOUT"), task(2, "TIMEOUT")], "failed", "TIMEOUT",
            "2 shards reached the time limit of the job (TIMEOUT); 1 shard completed",
        ),
        ([task(0, "FAILED", exit_code="124:0")], "failed", "TIMEOUT",
         "1 shard stopped ahead of the time limit of the job (TIMEOUT)"),
        ([task(0, "FAILED", exit_code="126:0")], "failed", "SetupFailed",
         "1 shard ended, since the setup failed (SetupFailed)"),
        ([task(0, "FAILED", exit_code="0:9")], "failed", "FAILED", "1 shard was killed by signal 9 (FAILED)"),
        ([task(0, "OUT_OF_MEMORY", exit_code="0:125"), task(1, "CANCELLED")], "failed", "OUT_OF_MEMORY",
         "1 shard exceeded the memory of the job (OUT_OF_MEMORY); 1 shard was cancelled in Slurm (CANCELLED)"),
        ([task(0, "PENDING", reason="BeginTime", restarts=2, end="Unknown")], "pending", "BeginTime",
         "its time to begin has not come; after a requeue, that takes up to two minutes; requeued 2 times"),
        ([waiting(), task(9, "NODE_FAIL")], "pending", "Resources",
         "no node is free that has what it asks for; 1 shard lost its node (NODE_FAIL)"),
    ],
)  # fmt: skip
def test_shards_that_differ_are_told_by_the_worst(
    lines: list[str], phase: str, reason: str | None, detail: str | None
) -> None:
    assert state_of(parse_scontrol("\n".join(lines)))[:3] == (phase, reason, detail)


def test_lost_shards_are_told_one_by_one() -> None:
    """The ledger then has the tasks that they had in hand."""
    lines = [DONE, task(1, "OUT_OF_MEMORY", exit_code="0:125"), task(3, "FAILED", exit_code="1:0")]
    lost = (ShardEnd(1, "OUT_OF_MEMORY", is_out_of_memory=True), ShardEnd(3, "FAILED", 1))
    assert state_of(parse_scontrol("\n".join(lines))).lost == lost
    assert state_of(parse_scontrol("\n".join([RUNS, *lines[1:]]))).lost == lost


def test_shards_that_were_cancelled_before_they_began_have_lost_nothing() -> None:
    """Slurm gives their end as their start. The others keep their numbers."""
    never = task(4, "CANCELLED", end="1795723200")
    failed = task(5, "NODE_FAIL").replace("ArrayTaskId=5", "ArrayTaskId=5,8-9")
    shards = parse_scontrol(f"{never}\n{failed}")
    assert [end.shard for end in state_of(shards).lost] == [5, 8, 9]
    assert times_of(parse_scontrol(never)).started_at is None
    account = parse_sacct("12_[2-3]|seir-1.mops-jobs|CANCELLED by 1000|0:0|None|1795723260")
    assert (state_of(account).lost, times_of(account).started_at) == ((), None)


def test_a_job_ends_with_its_last_shard() -> None:
    """While a shard is active, there is no end. Shards that wait have no start."""
    assert times_of(parse_scontrol(f"{DONE}\n{RUNS}")) == EngineTimes(NOON, None)
    assert times_of(parse_scontrol(f"{DONE}\n{task(1, 'EXPEDITING')}")) == EngineTimes(NOON, None)
    assert times_of(parse_scontrol(DONE)) == EngineTimes(NOON, NOON.replace(minute=1))
    assert times_of(parse_scontrol(waiting())) == EngineTimes()


def test_the_newest_of_several_arrays_counts() -> None:
    old = parse_scontrol(DONE)
    new = [one._replace(array_id=30) for one in parse_scontrol(waiting())]
    assert newest([*old, *new]) == new
    assert newest([]) == []


# --- The options of a launch on Slurm: what they become for sbatch, and what is refused ------------------------------

ALWAYS = ["--nodes=1", "--ntasks=1"]


def _flags(options: dict[str, str] | None = None, **launch: Any) -> list[str]:
    return sbatch_flags(Launch(job_id="seir-1", registry_url="sqlite:///r.db", options=options or {}, **launch))


def test_a_launch_without_options_asks_for_one_core() -> None:
    """A shard stops 60 seconds ahead of a time limit, and is not requeued."""
    assert _flags() == ["--array=0-0", *ALWAYS, "--cpus-per-task=1", "--no-requeue", "--signal=B:USR1@60"]


def test_each_option_becomes_a_flag() -> None:
    options = {
        "partition": "short,long", "account": "p1", "qos": "high", "time": "1h30m", "cpu": "8", "memory": "4G",
        "gres": "gpu:1", "constraint": "[rack1|rack2]", "parallelism": "2", "requeue": "yes", "signal": "2m",
        "setup": "module load gcc", "sbatch_arg": "--nice=100 '--comment=a b' --hold",
    }  # fmt: skip
    assert _flags(options, shards=4) == [
        "--array=0-3%2", *ALWAYS, "--cpus-per-task=8", "--mem=4096M", "--time=90", "--partition=short,long",
        "--account=p1", "--qos=high", "--constraint=[rack1|rack2]", "--gres=gpu:1", "--requeue", "--signal=B:USR1@120",
        "--nice=100", "--comment=a b", "--hold",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({"time": "1"}, 12),
        ({"time": "2"}, 60),
        ({"time": "1", "signal": "29"}, 29),
    ],
)
def test_a_short_time_limit_gets_a_short_warning(options: dict[str, str], seconds: int) -> None:
    """Slurm looks at time limits twice per minute: 60 seconds ahead of 60 is at once."""
    assert f"--signal=B:USR1@{seconds}" in _flags(options)


@pytest.mark.parametrize(
    ("launch", "flag"),
    [
        ({"workers": 4}, "--cpus-per-task=4"),
        ({"task_memory": 2**30, "workers": 2}, "--mem=2304M"),
        ({"task_memory": 2**30, "retries": 2, "retry_on": "oom"}, "--mem=4352M"),
        ({"task_memory": 2**30, "options": {"memory": "0"}}, "--mem=0"),
    ],
)
def test_cores_and_memory_follow_from_workers_and_tasks(launch: dict[str, Any], flag: str) -> None:
    """A task may be at its last, doubled limit. `--mem=0` is all memory of a node."""
    assert flag in _flags(**launch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partition": "a b"}, "invalid partition 'a b': expected a name of the cluster."),
        ({"memory": "much"}, "invalid memory 'much': expected a size like 4G, or 0 for all of a node."),
        ({"signal": "0"}, "invalid signal '0': expected seconds from 1 to 65,535, or a duration like 2m."),
        (
            {"signal": "30", "time": "1"},
            "invalid signal '30' for a time limit of 60 s: expected fewer than 30 s.",
        ),
        ({"sbatch_arg": "-p main"}, "invalid sbatch_arg '-p': expected a long flag in one word, like --nice=100."),
        ({"sbatch_arg": "--wrap=id"}, "invalid sbatch_arg '--wrap=id': mops-jobs sets --wrap of sbatch itself."),
        ({"sbatch_arg": "--arr=1-9"}, "invalid sbatch_arg '--arr=1-9': mops-jobs sets --array of sbatch itself."),
    ],
)
def test_an_invalid_option_is_named(options: dict[str, str], message: str) -> None:
    """The command takes the beginning of a flag for the flag, so `--arr` is refused too."""
    with pytest.raises(OptionError) as caught:
        _flags(options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "options",
    [
        {"setup": "module load gcc && export AZURE_STORAGE_KEY=hush-hush"},
        {"setup": "AWS_SECRET_ACCESS_KEY='hush-hush'"},
        {"sbatch_arg": "--export=ALL,AZURE_STORAGE_SAS_TOKEN=hush-hush"},
    ],
)
def test_a_secret_is_refused_and_not_shown(options: dict[str, str]) -> None:
    """The record keeps the options of a launch, and every reader of the registry sees them."""
    with pytest.raises(OptionError, match=r"^invalid \w+: the record of the job would show the value of A") as caught:
        _flags(options)
    assert str(caught.value.hint).startswith("Read it from a file: --setup 'export A")
    assert "hush-hush" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("line", ["export AZURE_STORAGE_KEY=$(cat ~/key)", "X=1", 'AWS_SESSION_TOKEN="$TOKEN"'])
def test_a_setup_may_read_a_secret(line: str) -> None:
    """Such a line shows where the secret is, and not the secret."""
    assert _flags({"setup": line}) == _flags()


def test_unknown_options_and_too_many_shards_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^unknown option of the slurm engine image: expected one of partition, "):
        _flags({"image": "i"})
    with pytest.raises(OptionError, match=r"^invalid shards '1000001': expected 1 to 1,000,000\.$"):
        _flags(shards=1_000_001)


@pytest.mark.parametrize(
    ("text", "size"),
    [("4G", 4096), ("4000", 4000), ("2T", 2 * 1024**2), ("1500K", 2), ("4GiB", 4096), ("1Gi", 1024), ("0", 0),
     ("1.5GB", 1431), ("x", None), ("-1", None)],
)  # fmt: skip
def test_memory_is_read_as_sbatch_reads_it(text: str, size: int | None) -> None:
    """`4G` is 4 GiB for Slurm. Where sbatch has no such form, sizes are those of mops-jobs."""
    assert megabytes(text) == size


@pytest.mark.parametrize(
    ("text", "limit"),
    [("90", 90), ("2h", 120), ("90s", 2), ("10:30", 11), ("1:30:00", 90), ("1-12", 2160), ("1-12:30", 2190),
     ("2-00:00:01", 2881), ("0", None), ("0s", None), ("1:2:3:4", None), ("soon", None)],
)  # fmt: skip
def test_a_time_limit_has_the_forms_of_sbatch_and_of_durations(text: str, limit: int | None) -> None:
    """A number alone is minutes. Slurm counts whole minutes, so seconds round up."""
    assert minutes(text) == limit


# --- The batch script of a shard, run by a real bash with programs in place of the runner and of scontrol ------------

RUNNER = """\
import os, signal, sys
env = os.environ
print(sys.argv[1:], env["JOB_COMPLETION_INDEX"], env["XDG_STATE_HOME"], env.get("MODEL"), flush=True)
if "waits" in sys.argv[2]:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM})
    sys.exit(143)
sys.exit(7)
"""


def _start(tmp_path: Path, slurm: FakeSlurm, job_id: str = "job", **launch: Any) -> subprocess.Popen[str]:
    """Start the script of a job as slurmd does, in a directory whose name the shell would read as more."""
    directory = tmp_path / "a $HOME 'b'"
    (directory / "shards/3").mkdir(parents=True, exist_ok=True)
    runner = directory / "runner.py"
    runner.write_text(RUNNER)
    shown = Launch(job_id=job_id, registry_url="sqlite:///a $(id).db", shards=8, **launch)
    script = tmp_path / "slurm.sh"
    script.write_text(write_script(shown, directory, [sys.executable, str(runner)]))
    env = {**slurm.env, "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "15"}
    return subprocess.Popen(
        ["bash", str(script)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def _ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line == "ready\n":
            return


def test_a_shard_runs_in_its_own_place_and_passes_its_exit_code_on(tmp_path: Path, slurm: FakeSlurm) -> None:
    """Each word reaches the runner as it is. The setup comes first, and may set variables."""
    options = {"setup": "export MODEL='x y'"}
    code, out, _ = _end(_start(tmp_path, slurm, workers=2, python="/p y", env={"A": "1"}, options=options))
    words = ["run", "job", "--registry", "sqlite:///a $(id).db", "--shards", "8", "--echo", "--workers", "2"]
    assert (code, out) == (7, f"{[*words, '--python', '/p y']} 3 {tmp_path}/a $HOME 'b'/shards/3 x y\n")


def test_a_shard_with_a_drop_is_told_no_registry(tmp_path: Path, slurm: FakeSlurm) -> None:
    """It gets the drop of the job, which is not in its own state directory."""
    _, out, _ = _end(_start(tmp_path, slurm, options={"file_drop": "yes"}))
    words = ["run", "job", "--file-drop", f"{tmp_path}/a $HOME 'b'/drop", "--shards", "8", "--echo", "--workers", "1"]
    assert out == f"{words} 3 {tmp_path}/a $HOME 'b'/shards/3 None\n"


def test_a_setup_that_fails_starts_no_runner(tmp_path: Path, slurm: FakeSlurm) -> None:
    code, out, err = _end(_start(tmp_path, slurm, options={"setup": "true && (exit 3)"}))
    assert (code, out, err) == (EXIT_SETUP, "", "mops-jobs: the setup failed (exit code 3).\n")


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("kill -USR1 $$", EXIT_TIME_LIMIT, "mops-jobs: stopped ahead of the time limit; finished tasks are kept.\n"),
        ("kill -TERM $$ && (exit 143)", 128 + signal.SIGTERM, ""),
    ],
)
def test_a_signal_during_the_setup_starts_no_runner(
    tmp_path: Path, slurm: FakeSlurm, line: str, code: int, said: str
) -> None:
    """A setup may be slow, and a cancellation ends its commands too."""
    assert _end(_start(tmp_path, slurm, options={"setup": line})) == (code, "", said)


def test_a_node_without_mops_jobs_says_so(tmp_path: Path, slurm: FakeSlurm) -> None:
    launch = Launch(job_id="job", registry_url="sqlite:///r.db")
    script = write_script(launch, tmp_path, [sys.executable, "/none/mops_jobs.py"])
    ran = subprocess.run(["bash", "-c", script], env=slurm.env, capture_output=True, text=True, check=False)
    assert ran.returncode == EXIT_NOT_FOUND
    assert "has no /none/mops_jobs.py: MOPS_JOBS_UNPACK and XDG_STATE_HOME name paths" in ran.stderr


@pytest.mark.parametrize(("requeue", "told"), [("no", "1795723140"), ("yes", "None")])
def test_a_runner_knows_when_it_is_stopped(tmp_path: Path, slurm: FakeSlurm, requeue: str, told: str) -> None:
    """That is its signal, ahead of the time limit. A shard that is requeued goes on after it."""
    program = tmp_path / "runner.py"
    program.write_text("import os\nprint(os.environ.get('MOPS_JOBS_STOPS_AT'))\n")
    options = {"time": "5", "signal": "60", "requeue": requeue}
    launch = Launch(job_id="job", registry_url="sqlite:///r.db", options=options)
    script = write_script(launch, tmp_path, [sys.executable, str(program)])
    env = {**slurm.env, "SLURM_JOB_END_TIME": "1795723200"}
    ran = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=False)
    assert ran.stdout == f"{told}\n"


def test_the_warning_of_a_time_limit_ends_the_runner(tmp_path: Path, slurm: FakeSlurm) -> None:
    """Slurm sends SIGUSR1 to the shell alone, and the runner gets SIGTERM. The exit code tells a limit."""
    process = _start(tmp_path, slurm, "waits")
    _ready(process)
    os.kill(process.pid, signal.SIGUSR1)
    code, _, err = _end(process)
    assert (code, err) == (EXIT_TIME_LIMIT, "mops-jobs: stopped ahead of the time limit; finished tasks are kept.\n")
    assert slurm.asked == []


@pytest.mark.parametrize(
    "runs",
    [
        ("1 task done, 0 failed", "2 tasks done, 1 failed", "2 tasks done, 1 failed"),
        ("1 task done, 0 failed", None),
        ("0 tasks done, 0 failed, 1 saved", "0 tasks done, 0 failed, 1 saved", "0 tasks done, 0 failed"),
        ("0 tasks done, 0 failed",),
        (None,),
    ],
)
def test_a_shard_requeues_itself_as_long_as_tasks_end(
    tmp_path: Path, slurm: FakeSlurm, runs: tuple[str | None, ...]
) -> None:
    """Or save. A task that is longer than the time limit would begin again without end, also in the first run.

    Slurm ends the script of a requeued shard, as the program in place of scontrol does here. A runner that was killed
    says nothing at its end.
    """
    slurm.says("scontrol", requeue="kill -KILL $PPID")
    log, codes = tmp_path / "a $HOME 'b'/slurm-12_3.log", []
    for counts in runs:
        process = _start(tmp_path, slurm, "waits", options={"requeue": "yes"})
        said = "" if counts is None else f"waits: stopped, {counts}; running\n"
        log.write_text(f"Stopping (SIGTERM).\n{said}mops-jobs: x\n")
        _ready(process)
        os.kill(process.pid, signal.SIGUSR1)
        code, _, err = _end(process)
        codes.append(code)
    assert codes == [-signal.SIGKILL] * (len(runs) - 1) + [EXIT_TIME_LIMIT]
    assert slurm.asked == ["scontrol requeue 15"] * (len(runs) - 1)
    assert err.endswith(
        "mops-jobs: not requeued, since no task has ended or saved in this run: the time limit is too short.\n"
    )


def test_a_requeued_shard_does_not_say_that_it_was_not(tmp_path: Path, slurm: FakeSlurm) -> None:
    """Slurm asks all processes of a requeued shard to end, before it kills them: so the script goes on for a moment."""
    slurm.says("scontrol", requeue="kill -TERM $PPID")
    slurm.says("sleep", code=128 + signal.SIGTERM)
    process = _start(tmp_path, slurm, "waits", options={"requeue": "yes"})
    log = tmp_path / "a $HOME 'b'/slurm-12_3.log"
    log.write_text("waits: stopped, 1 task done, 0 failed; running\n")
    _ready(process)
    os.kill(process.pid, signal.SIGUSR1)
    code, _, err = _end(process)
    assert (code, slurm.asked) == (EXIT_TIME_LIMIT, ["scontrol requeue 15", "sleep 60"])
    assert "not requeued" not in err


def test_a_cancelled_shard_is_not_requeued(tmp_path: Path, slurm: FakeSlurm) -> None:
    """A cancellation and a preemption send SIGTERM to all processes; Slurm itself requeues after the latter."""
    process = _start(tmp_path, slurm, "waits", options={"requeue": "yes"})
    _ready(process)
    os.killpg(process.pid, signal.SIGTERM)
    assert _end(process)[0] == 128 + signal.SIGTERM
    assert slurm.asked == []


# --- The log files of shards: which ones are read, and how far -------------------------------------------------------


def _write(directory: Path, name: str, text: str) -> None:
    with (directory / name).open("a", encoding="utf-8") as file:
        file.write(text)


def test_the_logs_are_those_of_one_array_in_the_order_of_shards(tmp_path: Path) -> None:
    """Without an id, those of the newest array. Other files of the directory are left out."""
    for name in ("slurm-9_0.log", "slurm-12_10.log", "slurm-12_2.log", "slurm.sh", "slurm-12_2.log.part"):
        _write(tmp_path, name, "")
    assert [(shard, path.name) for shard, path in log_files(tmp_path, None)] == [
        (2, "slurm-12_2.log"), (10, "slurm-12_10.log"),
    ]  # fmt: skip
    assert [path.name for _, path in log_files(tmp_path, 9)] == ["slurm-9_0.log"]
    assert log_files(tmp_path / "none", None) == []


def test_the_last_lines_are_those_of_the_last_shards(tmp_path: Path) -> None:
    _write(tmp_path, "slurm-12_0.log", "a\nb\n")
    _write(tmp_path, "slurm-12_1.log", "c\nd")

    def read(tail: int | None, *, several: bool = False) -> list[str]:
        return list(read_lines(lambda: log_files(tmp_path, 12), tail, several=several, sleep=lambda _: None))

    assert read(None, several=True) == ["shard 0: a", "shard 0: b", "shard 1: c", "shard 1: d"]
    assert (read(3), read(0)) == (["b", "c", "d"], [])


def test_following_reads_each_line_once_until_the_end(tmp_path: Path) -> None:
    """A line may come in parts, a shard may begin later, and the last line may have no end."""
    _write(tmp_path, "slurm-12_0.log", "old\nlast\nha")
    deeds = [
        lambda: _write(tmp_path, "slurm-12_0.log", "lf\n"),
        lambda: _write(tmp_path, "slurm-12_1.log", "late\n"),
        lambda: _write(tmp_path, "slurm-12_1.log", "end"),
    ]
    asked: list[int] = []
    sleeps: list[float] = []

    def sleep(seconds: float) -> None:
        sleeps.append(seconds)
        if deeds:
            deeds.pop(0)()

    def is_over() -> bool:
        asked.append(len(sleeps))
        return len(asked) == 2

    lines = read_lines(lambda: log_files(tmp_path, 12), 1, several=True, sleep=sleep, is_over=is_over)
    assert list(lines) == ["shard 0: last", "shard 0: half", "shard 1: late", "shard 1: end"]
    assert asked == [0, POLLS_PER_STATE]


def test_each_line_of_scontrol_is_an_entry() -> None:
    """A command or a comment that looks like a field changes nothing. Lines of another form are left out."""
    name, reason = "seir-1.mops-jobs", "ReqNodeNotAvail,_UnavailableNodes:n1"
    waits = SlurmShards(12, name, "PENDING", (range(4),), reason)
    ended = SlurmShards(12, name, "FAILED", (range(2, 3),), "NonZeroExitCode", 1, 0, 1, NOON, NOON.replace(minute=1))
    failed = task(2, "FAILED", reason="NonZeroExitCode", exit_code="1:0", restarts=1)
    text = f"No jobs in the system\n{waiting(reason)}\nJobId=x JobState=RUNNING\n{failed}\nJobId=1\n\n"
    assert parse_scontrol(text) == [waits, ended]


@pytest.mark.parametrize(
    ("text", "repeated", "start"),
    [
        ("--nice=100 --hold", "--nice=100", ["--hold"]),
        ("'--begin=now + 1hour'", "", ["--begin=now + 1hour"]),
        ("--dep=afterok:3 --deadline=now+1day --reservation=x", "--reservation=x",
         ["--dep=afterok:3", "--deadline=now+1day"]),
        ("--hold=\x1b[2J", "'--hold=\x1b[2J'", []),
        ("'", "'", []),
        ("", "", []),
    ],
)  # fmt: skip
def test_flags_of_one_launch_are_told_from_those_of_all(text: str, repeated: str, start: list[str]) -> None:
    """What is not a flag stays, so that the launch refuses it."""
    assert split_start_flags(text) == (repeated, start)
