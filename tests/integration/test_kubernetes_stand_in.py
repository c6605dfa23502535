"""Jobs on the stand-in for a cluster: its pods are real runners, and their registry is on an Azurite.

The stand-in is not a cluster: see tests/support/stand_in.py. The clock of the command is moved by hand. The pods
have the real one.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import mopsjobs as mj
from mopsjobs.app.care.engine_checks import VERBS
from mopsjobs.engines.kubernetes import manifest
from mopsjobs.engines.kubernetes.client import CREATE_READ_SECONDS
from mopsjobs.engines.kubernetes.engine import NODE_SECONDS
from mopsjobs.store import open_store
from mopsjobs.studies.checkpoints import list_numbers
from support.checkpoints import STEPS, steps_of
from support.cli import Cli, Ran, command
from support.docs import ROOT
from support.existing import existing
from support.kubernetes import kubeconfig
from support.ledgers import attempts_in
from support.runs import MODEL, PATIENCE, code, is_alive, sets_of, until
from support.servers import Azurite
from support.stand_in import CREATE_SECONDS, MONITOR_SECONDS, POD_GC_SECONDS, TOLERATION_SECONDS, StandIn
from support.web import Web

Submit = Callable[..., "Ran"]

NEVER_ENDS = "import time; print('earlier', flush=True); time.sleep(3600)"

STEPS_ANYWHERE = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{STEPS}"
"""A model of steps that finds mops-jobs in a pod."""


@pytest.fixture
def cluster(cli: Cli, azurite: Azurite, tmp_path: Path, patient_clusters: None) -> Iterator[StandIn]:
    """Yield a stand-in whose pods find the registry of `cli` by the Secret `registry`."""
    pods = tmp_path / "pods"
    pods.mkdir()
    env = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    with closing(StandIn(pods, {"mops-jobs": command()}, env)) as made:
        made.secrets["registry"] = {"AZURE_STORAGE_CONNECTION_STRING": azurite.connection_string}
        cli.env |= made.secrets["registry"]
        cli.env["MOPS_JOBS_REGISTRY"] = f"azure://{azurite.new_container()}"
        cli.env["KUBECONFIG"] = str(kubeconfig(tmp_path, made.url, namespace="models"))
        cli.clock.moment = datetime.now(UTC)
        yield made


@pytest.fixture
def submit(cli: Cli, cluster: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Submit:
    """Return a function that submits a study as the job `job`."""

    def submitted(sets: list[dict[str, Any]], *flags: str, source: str = MODEL, secret: str | None = "registry") -> Ran:
        directory = code(tmp_path / "code", source)
        study = {"model": "model:simulate", "parameter_sets": sets, "outputs": ["result.json"]}
        (directory / "study.json").write_text(json.dumps(study))
        monkeypatch.chdir(directory)
        words = ["submit", "study.json", "--auto", "--engine", "kubernetes", "--image", "sims:1", "--job-id", "job"]
        return cli(*words, *([] if secret is None else ["--secret", secret]), *flags)

    return submitted


@pytest.fixture
def gate(cli: Cli, submit: Submit, tmp_path: Path) -> Path:
    """Return the gate of a job whose one task is at work, as its record says."""
    gate, notes = tmp_path / "gate", tmp_path / "calls"
    assert submit(sets_of(1, gate=str(gate), calls=str(notes))).code == 0
    until(notes.exists, "the first pod")
    until(lambda: cli.ok("status", "job", "--refresh", "--json").json["status"] == "running", "its report")
    return gate


def _ready(cluster: StandIn) -> int:
    return int(existing(cluster.job("job"))["status"]["ready"])


STAGES = {"NodeNotReady": MONITOR_SECONDS, "evicted": TOLERATION_SECONDS, "over": manifest.GRACE_SECONDS}
"""What a cluster makes of a pod on a lost node, and the seconds until then."""


def _ended(cluster: StandIn) -> str:
    return str(until(lambda: cluster.end_of("job"), "the end of the Job"))


def _completes(cli: Cli, cluster: StandIn) -> None:
    assert _ended(cluster) == "CompletionsReached"
    assert cli("wait", "job").code == 0


def test_outputs_decide_how_a_job_with_a_lost_shard_ends(
    cli: Cli, cluster: StandIn, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One shard of two runs out of memory each time. The rest of the outputs counts, and every view says why."""
    monkeypatch.setattr(manifest, "DEFAULT_BACKOFF", 1)
    cluster.memory_kills = {1}
    sets = [{**one, "say": "hello", **({"gate": "/none"} if one["x"] % 2 else {})} for one in sets_of(6)]
    assert submit(sets, "--shards", "2", "--workers", "1").code == 0
    assert _ended(cluster) == "FailedIndexes"
    assert len(cluster.pods("job")) == 1 + 2, "its index is tried twice"
    waited = cli.ends(104, "wait", "job")
    why = "OOMKilled: 2 of its pods exceeded the memory limit and were killed (exit code 137): "
    assert f"job: {why}shard 1 OOMKilled (exit code 137)" in waited.err.splitlines()
    assert sum(cli.clock.slept) <= 15, "the cluster is asked after some silence, not at the end of a timeout"
    job = cli.ok("status", "job", "--json").json
    assert (job["status"], job["tasks_completed"], job["error_code"]) == ("partial", 3, "OOMKilled")
    assert job["error_message"].endswith("; 3 of 6 tasks left no complete outputs")
    assert "shard 1: " in cli.ok("logs", "job", "--grep", "hello").out, "its pods are still there"


def test_a_session_goes_on_with_the_shards_that_are_left(
    cli: Cli, cluster: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two runs out of memory for good. Its program warns, the other runs its tasks, and a second one goes on."""
    monkeypatch.setattr(manifest, "DEFAULT_BACKOFF", 0)
    monkeypatch.setattr("mopsjobs.api.session.LOOK_SECONDS", 0.5)
    monkeypatch.setattr("mopsjobs.app.jobs.reconcile.QUIET_SECONDS", 0.5)
    home, gate = code(tmp_path / "code"), tmp_path / "gate"
    place: dict[str, Any] = {"engine": "kubernetes", "image": "sims:1", "secret": "registry", "shards": 2, "workers": 1}
    with mj.connect(env=cli.env) as reg:
        first = reg.session("model:simulate", home, job_id="job", **place)
        assert [one["x"] for one in first.map(sets_of(2))] == [0, 1]
        cluster.memory_kills = {1}
        asked = [first.submit({"x": x, "say": "hello", "gate": str(gate)}) for x in (2, 3)]
        until(lambda: "Failed" in [pod["status"]["phase"] for pod in cluster.pods("job")], "the end of a shard")
        gate.touch()
        assert [one.result(PATIENCE)["x"] for one in asked] == [2, 3]
        shown = cli.ok("status", "job", "--refresh").out
        assert "Lost       shard 1 OOMKilled (exit code 137). Other shards run its tasks" in shown.splitlines()
        with reg.session("job") as second:
            assert [one["x"] for one in second.map(sets_of(6)[4:])] == [4, 5]
    assert cli("wait", "job").code == 0
    tasks = cli.ok("tasks", "job", "--json").json["tasks"]
    assert [(task["outcome"], task["shard"]) for task in tasks][2:] == [("succeeded", 0)] * 4


def test_a_job_whose_pods_cannot_sign_in_ends_the_wait(
    cli: Cli, cluster: StandIn, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No pod can write the record. A wait and a log that is followed end all the same, and show what the pods wrote."""
    monkeypatch.setattr(manifest, "DEFAULT_BACKOFF", 0)
    assert submit(sets_of(2), secret=None).code == 0
    assert _ended(cluster) == "FailedIndexes"
    followed = cli.ends(100, "logs", "job", "-f")
    assert "AZURE_STORAGE" in followed.out
    assert "Job job is failed: FailedIndexes: Job has failed indexes: shard 0 Error (exit code 4)" in followed.err
    waited = cli("wait", "job")
    assert (waited.code, cli.ok("list", "--stuck", "-q").lines) == (100, [])
    assert "Next: mops-jobs logs job" in waited.err


def test_a_broken_model_is_loaded_once_per_shard(cli: Cli, cluster: StandIn, submit: Submit) -> None:
    """The exit code of its runner is final, so that no pod is tried again, and the Job ends."""
    assert submit(sets_of(8), "--shards", "4", source="import nothing_of_that_name\n").code == 0
    assert _ended(cluster) == "PodFailurePolicy"
    assert len(cluster.pods("job")) <= 4
    waited = cli("wait", "job")
    job = cli.ok("status", "job", "--json").json
    assert (waited.code, job["error_code"]) == (100, "MODEL")
    assert "nothing_of_that_name" in job["error_message"]


@pytest.mark.parametrize(
    ("trouble", "told", "reason", "detail"),
    [
        ("missing_images", {"sims:1"}, "ImagePullBackOff", "insufficient_scope: authorization failed"),
        ("unschedulable", "0/3 nodes are available: 3 Insufficient cpu.", "Unschedulable", "3 Insufficient cpu."),
        ("quota", "exceeded quota: sims, requested: requests.cpu=1", "FailedCreate", "exceeded quota: sims"),
        ("missing_volumes", 'secret "inputs" not found', "FailedMount", 'secret "inputs" not found'),
        (None, None, "CreateContainerConfigError", 'secret "none" not found'),
    ],
)
def test_every_view_says_why_pods_cannot_start(
    cli: Cli,
    cluster: StandIn,
    submit: Submit,
    capsys: pytest.CaptureFixture[str],
    *,
    trouble: str | None,
    told: object,
    reason: str,
    detail: str,
) -> None:
    """In the words of kubectl. When it is over, the job runs, and no view says so any more."""
    if trouble is not None:
        setattr(cluster, trouble, told)
    secret = "none" if trouble is None else "registry"
    assert submit(sets_of(2), secret=secret).code == 0
    cli.clock.advance(seconds=15)
    until(lambda: reason in cli.ok("status", "job").out, reason)
    waited = cli.ends(8, "wait", "job", "--timeout", "2m")
    assert f"waits for {reason}: " in waited.err
    assert detail in waited.err
    assert waited.err.count(detail) == 1
    shown = cli.ok("status", "job").out
    assert f"scheduled (suspect: {reason})" in shown
    assert detail in shown
    assert f"(suspect: {reason})" in cli.ok("list", "--stuck").out
    assert detail in cli.ok("logs", "job").err
    web = Web(cli, capsys, reads=True)
    assert reason in web.ok("/jobs/job")
    assert reason in web.ok("/jobs?stuck=true")
    if trouble is not None:
        return  # one of them is enough to see it run
    cluster.secrets["none"] = cluster.secrets["registry"]
    assert _ended(cluster) == "CompletionsReached"
    job = cli.ok("status", "job", "--refresh", "--json").json
    assert (job["status"], job["suspect"]) == ("succeeded", None)
    assert (job["metadata"]["waits_for"], job["metadata"]["suspect"]) == (None, None)


def test_a_manifest_that_was_applied_by_hand_is_adopted(cli: Cli, cluster: StandIn, submit: Submit) -> None:
    """Its pods wait for bundle and manifest, which `submit` stores. Then they run, and nothing else is started.

    That the cluster has filled in defaults, and left out empty lists, makes no difference.
    """
    printed = submit(sets_of(4), "--shards", "2", "--print-manifest", "--json").json
    cluster.apply(printed)
    until(lambda: len(cluster.pods("job")) == 2, "the pods that wait")
    job = existing(cluster.job("job"))
    defaults = (2**31 - 1, "Failed", False)
    assert tuple(job["spec"][name] for name in ("backoffLimit", "podReplacementPolicy", "suspend")) == defaults
    assert "env" not in job["spec"]["template"]["spec"]["containers"][0]
    assert submit(sets_of(4), "--shards", "2").code == 0
    _completes(cli, cluster)
    assert len(cluster.pods("job")) == 2
    assert cli.ok("status", "job", "--json").json["k8s_uid"] == job["metadata"]["uid"]


def test_a_slow_admission_is_waited_for(cli: Cli, cluster: StandIn, submit: Submit) -> None:
    """As long as an API server works on it."""
    assert CREATE_READ_SECONDS > CREATE_SECONDS
    cluster.admission_seconds = CREATE_SECONDS - 1
    assert submit(sets_of(1)).code == 0
    _completes(cli, cluster)


@pytest.mark.parametrize("seconds", [CREATE_SECONDS + 1, None])
def test_an_admission_that_takes_too_long_creates_nothing(
    cli: Cli, cluster: StandIn, submit: Submit, monkeypatch: pytest.MonkeyPatch, seconds: float | None
) -> None:
    """Whether the API server says so, or the client hangs up first. Then `resume` starts it."""
    cluster.admission_seconds = seconds
    with monkeypatch.context() as patch:
        if seconds is None:
            patch.setattr("mopsjobs.engines.kubernetes.engine.CREATE_READ_SECONDS", 1.0)
        refused = submit(sets_of(1))
    assert (refused.code, cluster.job("job")) == (5, None)
    assert ("Timeout: request did not complete" in refused.err) == (seconds is not None)
    job = cli.ok("status", "job", "--json").json
    assert (job["status"], job["error_code"]) == ("failed", "LAUNCH")
    cluster.admission_seconds = 0.0
    child = cli.ok("resume", "job", "-q").out.strip()
    name = cli.ok("status", child, "--json").json["k8s_name"]
    assert until(lambda: cluster.end_of(name), "the end of the Job") == "CompletionsReached"


def test_an_image_without_the_command_leads_to_another_image(
    cli: Cli, cluster: StandIn, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a long message has the cause, and the next step is not a log, which such pods do not have."""
    monkeypatch.setattr(manifest, "DEFAULT_BACKOFF", 0)
    cluster.programs = {}
    assert submit(sets_of(1)).code == 0
    assert _ended(cluster) == "FailedIndexes"
    waited = cli("wait", "job")
    assert (waited.code, "Next: mops-jobs resume job --image IMAGE" in waited.err) == (100, True)
    job = cli.ok("status", "job", "--json").json
    assert job["error_code"] == "StartError"
    assert 'exec: "mops-jobs": executable file not found in $PATH' in job["error_message"]


def test_a_pod_that_outlived_a_worker_is_no_failure(cli: Cli, cluster: StandIn, submit: Submit) -> None:
    """The cluster calls its container `OOMKilled`, although it ended with 0. The outputs say how the job ended."""
    cluster.worker_kills = {0}
    assert submit(sets_of(2)).code == 0
    _completes(cli, cluster)


def test_a_running_job_that_is_suspended_is_not_taken_for_silent(cli: Cli, cluster: StandIn, gate: Path) -> None:
    """Its pods stop, and no view advises to resume it. When it goes on, it runs to its end."""
    cluster.change("job", suspend=True)
    until(lambda: not cluster.pods("job"), "the end of its pods")
    cli.clock.advance(minutes=10)
    shown = cli.ok("status", "job", "--refresh").out
    assert ("Suspended: the Job is suspended" in shown, "suspect" in shown) == (True, False)
    waited = cli("wait", "job", "--timeout", "3m")
    assert (waited.code, "resume" in waited.err) == (8, False)
    assert cli.ok("list", "--stuck", "-q").lines == []
    gate.touch()
    cluster.change("job", suspend=False)
    _completes(cli, cluster)


@pytest.mark.parametrize("is_mute", [False, True])
def test_a_lost_node_hides_no_log_of_another(
    cli: Cli, cluster: StandIn, submit: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_mute: bool
) -> None:
    """The API server says 500, or nothing. The lines of the other shard are shown, and the lost one is named."""
    gate = tmp_path / "gate"
    sets = [{**one, "say": "hello", "gate": str(gate)} for one in sets_of(2)]
    assert submit(sets, "--shards", "2", "--workers", "1").code == 0
    until(lambda: cli("logs", "job").out.count("hello") == 2, "the lines of both")
    cluster.lose_node("job", 1, is_mute=is_mute)
    with monkeypatch.context() as patched:
        if is_mute:
            patched.setattr("mopsjobs.engines.kubernetes.client.READ_SECONDS", 5.0)
        read = cli("logs", "job")
    assert (read.code, read.out.count("hello"), "shard 0: " in read.out) == (0, 1, True)
    reason = "no answer in time" if is_mute else "i/o timeout"
    assert re.search(rf"The log of shard 1 on node node-1 cannot be read: .*{reason}", read.err)
    cluster.remove_node("job", 1)
    cluster.pass_seconds(POD_GC_SECONDS)
    gate.touch()
    assert _ended(cluster) == "CompletionsReached"


def test_a_runner_that_only_its_cluster_lost_ends_its_job(cli: Cli, cluster: StandIn, gate: Path) -> None:
    """The node is cut off from the cluster, and not from the registry. The pod counts as stopping, and works on.

    Its reports are new, so no view takes the job for stuck, whatever the cluster says.
    """
    cluster.lose_node("job", 0, is_partitioned=True)
    for seconds in STAGES.values():
        cluster.pass_seconds(seconds)
        job = cli.ok("status", "job", "--refresh", "--json").json
        assert (job["status"], job["suspect"], cli.ok("list", "--stuck", "-q").lines) == ("running", None, [])
    gate.touch()
    ends = ("succeeded", "failed", "partial")
    until(lambda: cli.ok("status", "job", "--refresh", "--json").json["status"] in ends, "the end of the job")
    assert cli("wait", "job").code == 0
    assert cluster.end_of("job") is None, "the cluster still waits for the pod"


def test_a_node_that_comes_back_stops_its_evicted_pod(cli: Cli, cluster: StandIn, gate: Path) -> None:
    """Before its eviction, nothing has happened. After it, the pod stops in its grace period, and another goes on."""
    cluster.lose_node("job", 0, is_partitioned=True)
    cluster.pass_seconds(STAGES["NodeNotReady"])
    until(lambda: _ready(cluster) == 0, "the word of the cluster")
    cluster.find_node("job", 0)
    until(lambda: _ready(cluster) == 1, "the node")
    assert cluster.exit_codes("job") == [None]
    cluster.lose_node("job", 0, is_partitioned=True)
    cluster.pass_seconds(STAGES["NodeNotReady"] + STAGES["evicted"])
    until(lambda: "deletionTimestamp" in cluster.pods("job")[0]["metadata"], "its eviction")
    cluster.find_node("job", 0)
    until(lambda: len(cluster.exit_codes("job")) == 2, "another pod")
    gate.touch()
    _completes(cli, cluster)


def test_a_stop_before_the_first_process_has_a_handler_is_lost(cluster: StandIn, submit: Submit) -> None:
    """SIGTERM spares a first process without one. After its grace period, the pod is killed."""
    cluster.programs = {"mops-jobs": [sys.executable, "-c", NEVER_ENDS]}
    assert submit(sets_of(1)).code == 0
    until(lambda: cluster.exit_codes("job"), "the pod")
    cluster.delete_pod("job", 0)
    assert cluster.exit_codes("job") == [None]
    cluster.pass_seconds(manifest.GRACE_SECONDS)
    until(lambda: cluster.exit_codes("job")[0] == 128 + signal.SIGKILL, "the end of the grace period")


def test_all_processes_of_a_container_end_with_its_first(
    cluster: StandIn, submit: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So no worker runs on beside that of the next pod."""
    monkeypatch.setattr(manifest, "DEFAULT_BACKOFF", 0)
    left = tmp_path / "left"
    cluster.programs = {"mops-jobs": ["/bin/sh", "-c", f"sleep 3600 & echo $! >{left}; exit 1"]}
    assert submit(sets_of(1)).code == 0
    assert _ended(cluster) == "FailedIndexes"
    until(lambda: not is_alive(int(left.read_text())), "the end of the other process")


def test_a_lost_node_is_told_and_replaced(cli: Cli, cluster: StandIn, gate: Path) -> None:
    """Not ready, evicted, over its grace period: its pod stays until the node is removed, as it may still run.

    All views say so, without the events of the pod, which say that its eviction is normal.
    """
    cluster.lose_node("job", 0)
    cli.clock.advance(minutes=2)
    for stage, seconds in STAGES.items():
        cluster.pass_seconds(seconds)
        reason = "Terminating" if stage == "over" else "NodeNotReady"
        until(lambda: reason in cli.ok("status", "job").out, stage)  # noqa: B023
        assert f"running (suspect: {reason})" in cli.ok("status", "job").out
        assert f"(suspect: {reason})" in cli.ok("list", "--stuck").out
        assert len(cluster.pods("job")) == 1
    waited = cli("wait", "job", "--timeout", "90s")
    assert (waited.code, "waits for Terminating: pod job-0-" in waited.err) == (8, True)
    cluster.delete_pod("job", 0, is_forced=True)
    assert "Terminating: pod job-0-" in cli.ok("status", "job").out, "the Job has to count its pod first"
    cluster.remove_node("job", 0)
    cluster.pass_seconds(POD_GC_SECONDS / 2)
    assert "Terminating: pod job-0-" in cli.ok("status", "job").out, "the garbage collector waits"
    assert len(cluster.pods("job")) == 1
    cluster.pass_seconds(POD_GC_SECONDS / 2)
    gate.touch()
    _completes(cli, cluster)


@pytest.mark.parametrize(
    "reason",
    [
        "EvictionByEvictionAPI",
        pytest.param("PreemptionByScheduler", marks=pytest.mark.long),
        pytest.param("TerminationByKubelet", marks=pytest.mark.long),
    ],
)
def test_an_evicted_task_saves_and_its_replacement_goes_on(
    cluster: StandIn, cli: Cli, submit: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    """No step is made twice. Neither the index nor the task counts a failure: no retry is left to either."""
    monkeypatch.setattr(manifest, "DEFAULT_BACKOFF", 0)
    gate = tmp_path / "gate"
    sets = sets_of(1, steps=str(tmp_path / "steps"), steps_total=20, every=1000, gates={"5": str(gate)})
    assert submit(sets, "--retries", "0", "--grace", "30s", source=STEPS_ANYWHERE).code == 0
    until(gate.with_name("gate-reached").exists, "the sixth step")
    (pod,) = cluster.pods("job")
    assert pod["spec"]["terminationGracePeriodSeconds"] == manifest.GRACE_SECONDS + 30
    cluster.evict("job", 0, reason)
    until(lambda: cluster.exit_codes("job")[0] is not None, "the end of the pod")
    gate.touch()
    _completes(cli, cluster)
    assert steps_of(tmp_path / "steps") == {0: [*range(20)]}
    with closing(open_store(cli.env["MOPS_JOBS_REGISTRY"], cli.env)) as store:
        attempts = sorted(attempts_in(store), key=lambda one: one.started_at or 0)
    assert [str(one.outcome) for one in attempts] == ["preempted", "succeeded"]
    assert attempts[1].resumed is not None
    assert attempts[1].resumed.at == "6"


def test_the_task_of_a_lost_node_goes_on_from_the_store(
    cluster: StandIn, cli: Cli, submit: Submit, tmp_path: Path
) -> None:
    """It loses the steps since its last checkpoint, and nothing of them stays in the store."""
    gate = tmp_path / "gate"
    sets = sets_of(1, steps=str(tmp_path / "steps"), steps_total=20, every=10, gates={"13": str(gate)})
    assert submit(sets, source=STEPS_ANYWHERE).code == 0
    with closing(open_store(cli.env["MOPS_JOBS_REGISTRY"], cli.env)) as store:
        until(lambda: [*list_numbers(store, "job")], "its checkpoint")
        until(gate.with_name("gate-reached").exists, "the step after it")
        cluster.lose_node("job", 0)
        cluster.remove_node("job", 0)
        cluster.pass_seconds(POD_GC_SECONDS)
        until(lambda: len(steps_of(tmp_path / "steps")[0]) >= 14 + 4, "its replacement")
        gate.touch()
        _completes(cli, cluster)
        assert steps_of(tmp_path / "steps") == {0: [*range(14), *range(10, 20)]}
        assert [*store.list_keys("checkpoints/")] == []


def test_a_pod_whose_node_is_being_added_is_not_stuck(cli: Cli, cluster: StandIn, submit: Submit) -> None:
    """A machine with a GPU takes minutes. Once the autoscaler gives up, the job is stuck."""
    cluster.unschedulable = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    cluster.scale_up = "pod triggered scale-up: [{gpus 0->1 (max: 4)}]"
    assert submit(sets_of(1)).code == 0
    cli.clock.advance(minutes=5)
    words = "Waits for  Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu.; pod triggered scale-up"
    until(lambda: words in cli.ok("status", "job").out, words)
    assert cli.ok("list", "--stuck", "-q").lines == []
    cluster.pass_seconds(NODE_SECONDS)
    assert "scheduled (suspect: Unschedulable)" in cli.ok("status", "job").out


def test_a_job_that_is_being_deleted_is_told(cli: Cli, cluster: StandIn, submit: Submit, tmp_path: Path) -> None:
    """It stays until its pods have stopped. A launch under its name is not refused as one that runs already."""
    notes = tmp_path / "calls"
    printed = submit(sets_of(1), "--print-manifest", "--json").json
    cluster.apply(printed)
    until(lambda: cluster.pods("job"), "the pod that waits")
    cluster.lose_node("job", 0)
    cluster.delete_job("job")
    refused = submit(sets_of(1, calls=str(notes)))
    assert refused.code == 6
    assert "The Job job in namespace models is being deleted; nothing was started." in refused.err


def test_pods_of_an_earlier_job_of_the_name_are_others(
    cli: Cli, cluster: StandIn, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was deleted without its pods, and applied again. Their ends and their lines are not those of the new Job."""
    monkeypatch.setattr(manifest, "DEFAULT_BACKOFF", 0)
    printed = submit(sets_of(1), "--print-manifest", "--json").json
    cluster.programs, cluster.memory_kills = {"mops-jobs": [sys.executable, "-c", NEVER_ENDS]}, {0}
    cluster.apply(printed)
    assert _ended(cluster) == "FailedIndexes"
    cluster.orphan_pods("job")
    cluster.programs = {}
    assert submit(sets_of(1)).code == 0
    assert _ended(cluster) == "FailedIndexes"
    waited = cli("wait", "job")
    assert ("StartError" in waited.err, "OOMKilled" in waited.err) == (True, False)
    assert "earlier" not in cli("logs", "job").out


def test_a_job_of_a_queue_waits_and_is_not_stuck(cli: Cli, cluster: StandIn, submit: Submit) -> None:
    """Without pods, however long. When it is admitted, it runs, and no view says any more that it waits."""
    assert submit(sets_of(2), "--queue", "team-a").code == 0
    cli.clock.advance(hours=2)
    assert "Suspended: the Job waits in queue team-a of Kueue" in cli.ok("status", "job").out
    assert (cluster.pods("job"), cli.ok("list", "--stuck", "-q").lines) == ([], [])
    cluster.change("job", suspend=False)
    assert _ended(cluster) == "CompletionsReached"
    shown = cli.ok("status", "job", "--refresh").out
    assert ("succeeded" in shown, "Suspended" in shown) == (True, False)


# --- what a control plane says, and mops-jobs must not contradict ----------------------------------------------------


def test_a_replacement_that_is_being_started_is_not_gone(cli: Cli, cluster: StandIn, gate: Path) -> None:
    """The kubelet has evicted a pod, and another one pulls its image for minutes. Why it was evicted is told."""
    cluster.is_pulling = True
    cluster.press_node("job", 0, "The node was low on resource: memory.")
    until(lambda: len(cluster.pods("job")) == 2, "its replacement")
    cli.clock.advance(minutes=5)
    shown = cli.ok("status", "job").out
    assert "Evicted: 1 of its pods were evicted; the last: The node was low on resource: memory." in shown
    assert ("suspect" in shown, cli.ok("list", "--stuck", "-q").lines) == (False, [])
    gate.touch()
    cluster.is_pulling = False
    cluster.missing_volumes = 'secret "inputs" not found'
    until(lambda: "FailedMount" in cli.ok("status", "job").out, "the newer trouble, which comes first")
    cluster.missing_volumes = None
    assert _ended(cluster) == "CompletionsReached"


@pytest.mark.usefixtures("gate")
def test_the_replacement_of_a_drained_pod_is_not_gone(cli: Cli, cluster: StandIn) -> None:
    """Nothing is left of the first, and the second pulls its image for minutes."""
    cluster.is_pulling = True
    cluster.evict("job", 0)
    until(lambda: [pod["status"]["phase"] for pod in cluster.pods("job")] == ["Pending"], "its replacement")
    until(lambda: "containerStatuses" in cluster.pods("job")[0]["status"], "its node")
    cli.clock.advance(minutes=5)
    shown = cli.ok("status", "job", "--refresh").out
    assert ("Waits for  ContainerCreating: a pod is being started" in shown, "suspect" in shown) == (True, False)
    assert cli.ok("list", "--stuck", "-q").lines == []


@pytest.mark.parametrize(
    ("code", "message", "exit_code"),
    [
        (403, 'jobs.batch "job" is forbidden: exceeded quota: sims, requested: count/jobs.batch=1', 6),
        (403, 'admission webhook "policy" denied the request: no owner', 6),
        (422, "jobs.batch \"job\" is forbidden: ValidatingAdmissionPolicy 'owner' denied request: no owner", 6),
        (403, 'jobs.batch is forbidden: User "ada" cannot create resource "jobs" in API group "batch"', 4),
    ],
)
def test_a_refusal_of_a_job_is_one_of_permission_or_not(
    cluster: StandIn, submit: Submit, code: int, message: str, exit_code: int
) -> None:
    """A quota, a webhook and a policy refuse who is signed in well. So no view advises to sign in."""
    cluster.refusal = (code, message)
    refused = submit(sets_of(1))
    assert (refused.code, message in refused.err) == (exit_code, True)


def test_a_quota_that_others_change_is_no_other_job(cli: Cli, cluster: StandIn, submit: Submit) -> None:
    """The API server answers 409, as it does for a name that is taken. Nothing was created; another try may help."""
    changed = 'Operation cannot be fulfilled on resourcequotas "sims": the object has been modified'
    cluster.refusal = (409, changed, "Conflict")
    refused = submit(sets_of(1))
    assert (refused.code, "another Job" in refused.err) == (5, False)
    assert "the object has been modified" in refused.err
    assert cli.ok("status", "job", "--json").json["error_code"] == "LAUNCH"


def test_a_job_without_parallelism_waits_and_is_not_stuck(cli: Cli, cluster: StandIn, submit: Submit) -> None:
    """A user has set it to 0. It has no pods, since none may run."""
    cluster.unschedulable = "0/3 nodes are available"
    assert submit(sets_of(1)).code == 0
    cluster.change("job", parallelism=0)
    cli.clock.advance(hours=1)
    assert "Suspended: the parallelism of the Job is 0" in cli.ok("status", "job").out
    assert cli.ok("list", "--stuck", "-q").lines == []


ROLE = [f"{verb.verb} {verb.resource}" for verb in VERBS]
"""What the Role of contrib permits."""


def test_a_full_run_needs_no_more_than_the_role(cli: Cli, cluster: StandIn, submit: Submit, tmp_path: Path) -> None:
    """Launch, wait, look, read logs, see what a quota refuses, and cancel."""
    gate = tmp_path / "gate"
    cluster.quota = "exceeded quota: sims"
    assert submit(sets_of(2, gate=str(gate))).code == 0
    cli.clock.advance(seconds=15)
    until(lambda: "exceeded quota" in cli.ok("status", "job").out, "the word of the quota")
    cluster.quota = None
    until(lambda: cluster.exit_codes("job"), "the pod")
    cli.ok("logs", "job")
    gate.touch()
    _completes(cli, cluster)
    cluster.unschedulable = "0/3 nodes are available"
    assert submit(sets_of(1), "--job-id", "other").code == 0
    cli.ok("reconcile")
    cli.ok("cancel", "other", "--yes")
    assert cluster.asked == set(ROLE)


@pytest.mark.parametrize("forbidden", ROLE)
def test_what_a_missing_permission_costs(
    cli: Cli, cluster: StandIn, submit: Submit, tmp_path: Path, forbidden: str
) -> None:
    """As the guide's table has it. Whatever else is missing, tasks run, and the record has their end."""
    gate = tmp_path / "gate"
    cluster.forbidden = forbidden
    cluster.quota = "exceeded quota: sims" if forbidden == "list events" else None
    sets = [{**one, "say": "hello"} for one in sets_of(1, gate=str(gate))]
    launched = submit(sets)
    if forbidden == "create jobs":
        assert (launched.code, "User" in launched.err) == (4, True)
        return
    assert launched.code == 0
    until(lambda: cluster.quota or cluster.exit_codes("job"), "the pod")
    cli.clock.advance(seconds=15)
    shown = cli.ok("status", "job")
    assert ("The kubernetes engine cannot be asked about job" in shown.err) == (forbidden == "get jobs")
    if forbidden == "list events":
        assert "NoPods: it has no pods" in shown.out
    cluster.quota = None
    until(lambda: "hello" in cli.ok("logs", "job").out, "its first line, of its pod or of its events")
    is_told = forbidden in ("get jobs", "list pods", "get pods/log")
    assert ("Showing the events instead" in cli.ok("logs", "job").err) == is_told
    gate.touch()
    _completes(cli, cluster)
    assert submit(sets_of(1, gate=str(tmp_path / "none")), "--job-id", "other").code == 0
    cancelled = cli("cancel", "other", "--yes")
    assert ("could not be stopped" in cancelled.err) == (forbidden in ("get jobs", "delete jobs"))
    assert cli.ok("status", "other", "--json").json["status"] == "cancelled"
