"""`submit` at the command line, with real runners on this machine, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import mopsjobs
from mopsjobs.bundles.bundle import bundle_key
from mopsjobs.bundles.git_state import GitState
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.local import LocalEngine
from mopsjobs.errors import EngineError, EngineUnavailableError, JobBusyError, MopsJobsError, UsageError
from mopsjobs.registry.cpu_budget import budget_text
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from mopsjobs.studies.manifest import Origin, load_manifest
from mopsjobs.studies.outputs import output_key
from mopsjobs.studies.packed_store import show_packs
from support.cli import Cli, add, command, put, sentences
from support.desk import Desk
from support.runs import MODEL, PATIENCE, calls, code, is_alive, kill, place, record, sets_of, study, until
from support.servers import Azurite

# --- submit ---------------------------------------------------------------------------------------------------------


def test_a_study_is_packed_launched_and_runs_to_its_end(desk: Desk) -> None:
    path = desk.write(sets_of(5), metadata={"title": "five"})
    ran = desk.ok("submit", path, "--auto", "--job-id", "job", "--owner", "me", "--label", "exp=7")
    assert ran.out == "job\n"
    assert ran.err == f"Launched 5 tasks with {sys.executable}\nNext: mops-jobs wait job\n"
    assert desk.ended() == "succeeded"
    state = record(desk.jobs)
    assert (state.engine, state.owner, state.labels) == ("local", "me", {"exp": "7"})
    assert (state.tasks_total, state.tasks_completed, state.tasks_verified) == (5, 5, 5)
    assert (state.metadata["title"], state.metadata["model"]) == ("five", "model:simulate")
    assert [step["status"] for step in state.transitions][:2] == ["pending", "submitting"]
    expected = {
        output_key("job", task, "result.json")[len("results/job/") :]: json.dumps(
            {"seed": task.seed, "x": task.params["x"]}
        ).encode()
        for task in study(sets_of(5)).tasks()
    }
    assert desk.results() == expected


def test_tasks_of_one_identity_run_once_and_each_count_says_so(desk: Desk, tmp_path: Path) -> None:
    """A set that comes twice, and one whose seed is named twice: three of the six tasks."""
    noted = tmp_path / "calls"
    sets: list[dict[str, Any]] = sets_of(2, calls=str(noted)) + sets_of(1, calls=str(noted))
    sets += [{"params": {"x": 7, "calls": str(noted)}, "seed": 5}] * 3
    path = desk.write(sets)
    repeated = "6 tasks, 3 of which repeat an earlier one and share its outputs"
    plan = desk.ok("submit", path, "--auto", "--dry-run")
    assert f"model:simulate/baseline: 6 parameter sets (3 different), {repeated}" in plan.out
    assert desk.ok("submit", path, "--auto", "--dry-run", "--json").json["duplicate_tasks"] == 3
    ran = desk.ok("submit", path, "--auto", "--job-id", "job")
    assert ran.err.splitlines()[0] == f"Launched {repeated}".replace(",", f" with {sys.executable},", 1)
    assert desk.ended() == "succeeded"
    assert calls(noted) == {0: 1, 1: 1, 7: 1}
    state = record(desk.jobs)
    assert (state.tasks_total, state.tasks_completed, state.tasks_verified) == (6, 6, 6)
    assert (state.metadata["n_parameter_sets"], state.metadata["n_different_parameter_sets"]) == (6, 3)
    assert "2 parameters, 6 parameter sets (3 different), 1 replicate, 6 tasks" in desk.ok("provenance", "job").out
    assert "6/6 tasks, 3 of which repeat an earlier one and share its outputs, 100 %" in desk.ok("status", "job").out
    listed = desk.ok("results", "job")
    assert (len(listed.lines), listed.err) == (3, f"{repeated}\n")
    assert desk.ok("results", "job", "--download", str(tmp_path / "out")).err.endswith(f"{repeated}\n")
    rows = (tmp_path / "out" / "tasks.csv").read_text().splitlines()[1:]
    assert [row.split(",")[3] for row in rows] == ['"complete"'] * 6


@pytest.mark.parametrize(
    ("params", "status", "code_", "done"),
    [({}, "succeeded", 0, 3), ({"needs": "/nowhere"}, "failed", 100, 0)],
)
def test_wait_runs_it_in_the_foreground_and_ends_as_the_job_does(
    desk: Desk, params: dict[str, Any], status: str, code_: int, done: int
) -> None:
    words = ("submit", desk.write(sets_of(3, **params)), "--auto", "--job-id", "job", "--workers", "1", "--wait")
    ran = desk(*words, "--json")
    assert ran.code == code_, ran
    assert ran.json == {
        "job_id": "job",
        "engine": "local",
        "tasks_total": 3,
        "duplicate_tasks": 0,
        "reused_tasks": 0,
        "status": status,
        "python": sys.executable,
    }
    assert ran.err.startswith(f"job: 3 tasks with {sys.executable}\n")
    following = "results job --download DIR" if status == "succeeded" else "failures job"
    assert ran.err.splitlines()[-2:] == [
        f"job: {status}, {done} tasks done, {3 - done} failed",
        f"Next: mops-jobs {following}",
    ]
    assert desk("wait", "job").err.splitlines()[-1] == ran.err.splitlines()[-1]
    assert record(desk.jobs).status == status
    assert not (JobDir.for_job("job", desk.env).path / "runner.log").exists()


@pytest.mark.parametrize(("number", "code_"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_job_in_the_foreground_stops_on_a_signal_and_goes_on_by_resume(
    desk: Desk, tmp_path: Path, number: signal.Signals, code_: int
) -> None:
    gate, seen = tmp_path / "gate", tmp_path / "calls"
    path = desk.write(sets_of(2, calls=str(seen), gate=str(gate)))
    words = command("submit", path, "--auto", "--job-id", "job", "--workers", "1", "--wait")
    with subprocess.Popen(words, env=desk.env, cwd=desk.home, stderr=subprocess.PIPE, text=True) as running:
        until(lambda: calls(seen), "the first task to begin")
        assert desk.runner() == running.pid
        running.send_signal(number)
        err = running.communicate(timeout=PATIENCE)[1]
    assert running.returncode == code_, err
    assert err.endswith("To continue: mops-jobs resume job\n")
    gate.touch()
    desk.ok("resume", "job")
    assert desk.ended() == "succeeded"


def test_a_job_in_the_foreground_that_is_cancelled_ends_with_103(desk: Desk, tmp_path: Path) -> None:
    """`cancel` in another terminal stops its process by a signal; a script learns how the job ended, as from `wait`."""
    seen = tmp_path / "calls"
    path = desk.write(sets_of(2, calls=str(seen), gate=str(tmp_path / "gate")))
    words = command("submit", path, "--auto", "--job-id", "job", "--workers", "1", "--wait")
    with subprocess.Popen(words, env=desk.env, cwd=desk.home, stderr=subprocess.PIPE, text=True) as running:
        until(lambda: calls(seen), "the first task to begin")
        desk.ok("cancel", "job")
        err = running.communicate(timeout=PATIENCE)[1]
    assert (running.returncode, record(desk.jobs).status) == (103, "cancelled"), err
    assert "job: cancelled, 0 tasks done, 0 failed\n" in err


def test_a_bundle_that_is_there_is_used_again(desk: Desk) -> None:
    desk.submit(sets_of(2))
    bundle = str(record(desk.jobs).metadata["bundle"])
    (desk.home / "model.py").write_text("raise SystemExit('not this one')\n")
    desk.ok("submit", desk.write(sets_of(3)), "--bundle", bundle, "--job-id", "other")
    assert (desk.ended(), desk.ended("other")) == ("succeeded", "succeeded")
    assert len(desk.results("other")) == 3


def test_a_dry_run_shows_everything_and_does_nothing(cli: Cli) -> None:
    os.chdir(code(Path.cwd() / "desk"))
    Path("../study.json").write_text(json.dumps(study(sets_of(3), n_replicates=4).to_dict()))
    ran = cli.ok("submit", "../study.json", "--auto", "--dry-run", "--job-id", "job")
    shown = dict(line.split(maxsplit=1) for line in ran.lines)
    assert shown["Job"] == "job"
    assert shown["Study"] == "model:simulate/baseline: 3 parameter sets, 12 tasks"
    assert shown["Bundle"].startswith("sha256:")
    assert f"({Path.cwd()}: 1 file, " in shown["Bundle"]
    assert shown["Bundle"].endswith(" B packed)")
    assert shown["Python"].startswith("/")
    assert shown["Engine"] == "local"
    assert shown["Outputs"] == "result.json, under results/job/"
    assert ran.err == "Nothing was done.\n"
    told = cli.ok("submit", "../study.json", "--auto", "--dry-run", "--job-id", "job", "--json").json
    assert told["dry_run"] is True
    assert (told["job_id"], told["tasks_total"], told["engine"]) == ("job", 12, "local")
    assert (told["bundle_files"], told["python"]) == (1, shown["Python"])
    assert 0 < told["bundle_bytes"] < 100_000
    assert shown["Bundle"].startswith(told["bundle"])
    assert not Path(cli.env["HOME"], "registry.db").exists()
    assert not JobDir.for_job("job", cli.env).path.exists()


# --- without a registry ---------------------------------------------------------------------------------------------


def test_a_job_launched_without_its_registry_is_in_it_when_it_is_back(desk: Desk, private_azurite: Azurite) -> None:
    """Submitted into an outage, worked on in it, and told after it."""
    container = private_azurite.new_container()
    url = f"{private_azurite.endpoint}/{container}"
    gate, noted = desk.home.with_name("gate"), desk.home.with_name("calls")
    private_azurite.stop()
    more = {"MOPS_JOBS_REGISTRY": url, "AZURE_STORAGE_CONNECTION_STRING": private_azurite.connection_string}
    path = desk.write(sets_of(6, calls=str(noted), gate=str(gate)))
    ran = desk.ok(
        "submit", path, "--auto", "--job-id", "job", "--workers", "2", "--owner", "me", "--label", "exp=7", **more
    )
    assert "The job is launched anyway" in ran.err
    assert f"Without the registry: tail -f {JobDir.for_job('job', desk.env).log}" in ran.err
    gate.touch()
    until(lambda: sum(calls(noted).values()) == 6, "the work to be done in the outage")
    private_azurite.start()
    with closing(open_store(url, more)) as store:
        jobs = JobRegistry(store)
        until(lambda: (state := jobs.get_job("job")) and state.is_terminal, "the record to tell")
        state = record(jobs)
        assert (state.status, state.tasks_completed, state.tasks_verified) == ("succeeded", 6, 6)
        assert (state.engine, state.owner, dict(state.labels)) == ("local", "me", {"exp": "7"})
        assert state.metadata["n_parameter_sets"] == 6
        assert len(list(show_packs(store).list_keys("results/job/"))) == 6
    assert calls(noted) == dict.fromkeys(range(6), 1)


# --- a disk that takes nothing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", [[], ["--wait"]])
def test_a_disk_that_takes_nothing_fails_the_job_and_says_why(desk: Desk, wait: list[str]) -> None:
    blocked = desk.home.with_name("blocked")
    blocked.touch()
    path = desk.write(sets_of(1))
    ran = desk("submit", path, "--auto", "--job-id", "job", *wait, XDG_STATE_HOME=str(blocked))
    assert (ran.code, len(sentences(ran.err))) == (1, 1)
    assert ran.err.startswith(f"error: This machine cannot keep the job in {blocked}/mops-jobs/jobs/job: Not a dir")
    state = record(desk.jobs)
    assert (state.status, state.error_code) == ("failed", "LAUNCH")
    assert f"error: {state.error_message}" == sentences(ran.err)[0]


# --- a runner that is dead ------------------------------------------------------------------------------------------


def test_a_runner_that_was_stopped_by_hand_ends_its_job(desk: Desk) -> None:
    """`wait` ends the job, and a child runs its task. `cancel` of another registry does not name its process."""
    gate, noted = desk.home.with_name("gate"), desk.home.with_name("calls")
    desk.submit(sets_of(1, gate=str(gate), calls=str(noted)))
    desk.until(lambda: calls(noted) and record(desk.jobs).status == "running", "the runner to report its first task")
    assert desk.ok("status", "job").err.endswith("Next: mops-jobs wait job\n")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/account"
        secret = f"AccountName=account;AccountKey=a2V5;BlobEndpoint={url};"
        away = {"MOPS_JOBS_REGISTRY": f"{url}/jobs", "AZURE_STORAGE_CONNECTION_STRING": secret}
        ran = desk("cancel", "job", **away)
    told = f"hint: The job of this id on this machine is of another registry: {desk.env['MOPS_JOBS_REGISTRY']}."
    assert (ran.code, ran.err.splitlines()[-1]) == (5, told)
    kill(desk.runner())
    until(lambda: not is_alive(desk.runner()), "the runner to be gone")
    assert desk("wait", "job").code == 100
    assert record(desk.jobs).error_code == "LOST"
    assert desk.ok("status", "job").err.endswith("Next: mops-jobs failures job\n")
    gate.touch()
    desk.ok("resume", "job")
    assert desk.ended("job.2") == "succeeded"
    assert desk.ok("status", "job").err.endswith("Next: mops-jobs results job.2 --download DIR\n")


UNKNOWN = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object with"),
        ('{"modle": "m:f", "parameter_sets": []}', "modle: unknown field, did you mean model?"),
        ('{"model": "m:f", "parameter_sets": [{"x": 1}], "n_replicates": 0}', "n_replicates: expected"),
    ],
)
def test_a_study_that_cannot_be_used_is_one_sentence(cli: Cli, text: str, told: str) -> None:
    Path("study.json").write_text(text)
    ran = cli("submit", "study.json", "--auto")
    assert (ran.code, ran.out) == (2, "")
    assert len(sentences(ran.err)) == 1
    assert told in ran.err
    assert not Path(cli.env["HOME"], "registry.db").exists()


def test_submit_without_code_says_which_flags_name_it(cli: Cli) -> None:
    """`submit STUDY` alone, as in ModelOps: the error says what each of the two flags does."""
    ran = cli("submit", "study.json")
    expected = (
        "error: one of these flags is required: --auto (pack the current directory as the model's code),"
        " --bundle (use this bundle, which the registry already has)."
    )
    assert (ran.code, sentences(ran.err)) == (2, [expected])


def test_a_missing_bundle_is_refused_before_anything_is_registered(cli: Cli, jobs: JobRegistry) -> None:
    Path("study.json").write_text(json.dumps(study(sets_of(1)).to_dict()))
    ran = cli.ends(2, "submit", "study.json", "--bundle", UNKNOWN, "--job-id", "job")
    assert f"The bundle {UNKNOWN} is not in the store." in ran.err
    assert jobs.get_job("job") is None


def test_an_id_that_is_taken_is_refused_and_its_job_left_alone(desk: Desk) -> None:
    desk.run("succeeded", sets_of(2))
    before = {entry.key: entry.value for entry in desk.store.scan("jobs/")}
    ran = desk.ends(6, "submit", desk.write(sets_of(5)), "--auto", "--job-id", "job")
    assert sentences(ran.err) == ["error: Job job is already registered."]
    assert {entry.key: entry.value for entry in desk.store.scan("jobs/")} == before


@pytest.mark.parametrize(
    ("error", "code_", "ended"),
    [
        (EngineError("There are no processes left."), 1, ("failed", "LAUNCH")),
        (UsageError("The option x does not fit the engine."), 2, ("failed", "LAUNCH")),
        (EngineUnavailableError("The cluster has nothing.", sent=False), 5, ("failed", "LAUNCH")),
        (EngineUnavailableError("The cluster is silent.", sent=True), 5, ("submitting", None)),
        (JobBusyError("The runner of job job is at work.", job_id="job"), 6, ("submitting", None)),
    ],
)
def test_a_launch_that_fails_leaves_a_record_that_says_why(
    cli: Cli,
    jobs: JobRegistry,
    monkeypatch: pytest.MonkeyPatch,
    error: MopsJobsError,
    code_: int,
    ended: tuple[str, str | None],
) -> None:
    """A runner that is at work was submitted in an outage, and has not registered itself yet: the record is its own."""

    def launch(self: LocalEngine, launch: object) -> None:
        raise error

    monkeypatch.setattr(LocalEngine, "launch", launch)
    code(Path.cwd())
    Path("study.json").write_text(json.dumps(study(sets_of(1)).to_dict()))
    ran = cli("submit", "study.json", "--auto", "--job-id", "job")
    assert (ran.code, sentences(ran.err)) == (code_, [f"error: {error}"])
    state = record(jobs)
    assert (state.status, state.error_code) == ended
    if ended[1] is not None:
        assert state.error_message == str(error)
        assert cli("resume", "job").err.endswith(" mops-jobs resume job.2\n")


def test_a_budget_and_its_use_are_in_each_view(desk: Desk) -> None:
    """A resumed job has the same budget anew, unless a flag gives another one."""
    desk.run("partial", sets_of(6), "--workers", "1", "--max-cpu-hours", "1e-7")
    reason = "Ended by --max-cpu-hours 1e-07: "
    assert f"BUDGET: {reason}" in desk.ok("status", "job").out
    assert f"job: {reason}" in desk("wait", "job").err
    (job,) = desk.ok("list", "--json").json["jobs"]
    assert (job["max_cpu_hours"], job["error_code"]) == (1e-7, "BUDGET")
    text = budget_text(job["cpu_seconds"], 1e-7)
    assert text.endswith(" of 0.0000001 CPU-hours")
    assert f"Budget     {text}\n" in desk.ok("status", "job").out
    assert f"Budget       {text} (1 job)\n" in desk.ok("summary").out
    found = {"jobs": 1, "cpu_seconds": job["cpu_seconds"], "max_cpu_hours": 1e-7}
    assert desk.ok("summary", "--json").json["budget"] == found
    desk.ok("resume", "job")
    assert desk.ended("job.2") == "partial"
    assert record(desk.jobs, "job.2").metadata["local_max_cpu_hours"] == "1e-07"
    desk.ok("resume", "job.2", "--max-cpu-hours", "1")
    assert desk.ended("job.3") == "succeeded"
    assert "Budget     0.00 of 1 CPU-hours\n" in desk.ok("status", "job.3").out


def commit_all(desk: Desk) -> str:
    """Make the model's directory a repository with a commit of all, and a remote with a password; return the commit."""
    words = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org"]
    env = {"PATH": os.environ["PATH"], "HOME": str(desk.home), "GIT_CONFIG_NOSYSTEM": "1"}
    for arguments in (
        ["init", "-q"],
        ["remote", "add", "origin", "https://me:hunter2@example.org/model.git"],
        ["add", "."],
        ["commit", "-qm", "one"],
    ):
        subprocess.run([*words, *arguments], cwd=desk.home, env=env, check=True)
    return subprocess.check_output([*words, "rev-parse", "HEAD"], cwd=desk.home, env=env, text=True).strip()


def test_the_manifest_has_commit_and_changes_of_the_code(desk: Desk, tmp_path: Path) -> None:
    """Not the remote, whose URL may have a password. A resumed job without other code has the same commit."""
    commit = commit_all(desk)
    gate = tmp_path / "gate"
    desk.run("partial", [{"x": 0}, {"x": 1, "needs": str(gate)}])
    (desk.home / "model.py").write_text((desk.home / "model.py").read_text() + "\n# changed\n")
    gate.touch()
    desk.ok("resume", "job")
    assert desk.ended("job.2") == "succeeded"
    desk.run("succeeded", sets_of(1), job_id="changed")
    for job_id, is_dirty in (("job", False), ("job.2", False), ("changed", True)):
        origin = load_manifest(desk.store, job_id).origin
        assert origin == Origin(mopsjobs.__version__, GitState(commit, is_dirty))
        found = desk.store.get(f"jobs/{job_id}/manifest.json")
        assert found is not None
        assert b"hunter2" not in found.value


def test_a_registry_is_left_out_under_each_of_its_names(cli: Cli) -> None:
    """It is in the packed directory, and so is the cache.

    The draft of a killed maker is a second name of it: opening that would give up SQLite's locks on it.
    """
    os.chdir(code(Path.cwd() / "desk"))
    Path("../study.json").write_text(json.dumps(study(sets_of(1)).to_dict()))
    cli.env["MOPS_JOBS_REGISTRY"] = "sqlite:r.db"
    cli.env["MOPS_JOBS_CACHE"] = "cache.db"
    cli.ok("register", "a")
    cli.ok("list")
    assert Path("cache.db").exists()
    for name in ("r.db.part", "r.db.build.part", "r.db-wal.lost", "r.db.part-wal"):
        os.link("r.db", name)
    assert cli.ok("submit", "../study.json", "--auto", "--dry-run", "--json").json["bundle_files"] == 1


@pytest.mark.parametrize(
    ("source", "model", "message", "hint"),
    [
        ("def f(:\n", "model:f", "SyntaxError: invalid syntax (model.py, line 1)", "See line 1 of model.py"),
        ("import nowhere\n", "model:simulate", "No module named 'nowhere'", "Name the interpreter that has the"),
        (MODEL, "model:simulte", "there is no 'simulte' in model.py, did you mean 'simulate'?", ""),
        (MODEL, "model:LAST", "TypeError: 'LAST' in model.py is not a function but list", ""),
        (MODEL, "models:simulate", "No module named 'models'", "The model's module models is not in "),
        (MODEL, "model.py:simulate", "expected package.module:function, not a file. Did you mean 'model:simu", ""),
        ("import os\nprint('bye')\nos._exit(3)\n", "model:f", "ends before it is ready (exit code 3): bye", ""),
        ("def f(params): 1\n", "model:f", "f(params) cannot be called as f(params, seed), with a dict as params", ""),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_called_is_refused_before_the_launch(
    desk: Desk, source: str, model: str, message: str, hint: str
) -> None:
    code(desk.home, source)
    path = desk.write(sets_of(1), model=model)
    for words in (("--dry-run",), ("--job-id", "job")):
        ran = desk("submit", path, "--auto", *words)
        assert (ran.code, ran.out) == (2, "")
        assert message in sentences(ran.err)[0]
        assert f"hint: {hint}" in ran.err if hint else "hint: " not in ran.err
    assert desk.jobs.get_job("job") is None
    assert not JobDir.for_job("job", desk.env).path.exists()


@pytest.mark.parametrize(
    "source",
    [
        "def f(params, seed, n=10): return 1\n",
        "class Model:\n    def __call__(self, params, seed): return 1\nf = Model()\n",
        "def logged(g): return lambda *args, **named: g(*args, **named)\n@logged\ndef f(params, seed): return 1\n",
        "f = max\n",
        "import threading, time\nprint('loading')\nthreading.Thread(target=time.sleep, args=(60,)).start()\nf = max\n",
    ],
)
def test_whatever_can_be_called_with_parameters_and_seed_passes_the_check(desk: Desk, source: str) -> None:
    """Defaults, any arguments, callable objects, functions of C; also a model that prints and starts threads."""
    code(desk.home, source)
    ran = desk.ok("submit", desk.write(sets_of(1), model="model:f"), "--auto", "--dry-run")
    assert ran.err == "Nothing was done.\n"


@pytest.mark.parametrize(
    ("reduce", "message", "hint"),
    [
        ("model:summarize", "AttributeError: there is no 'summarize' in model.py, did you mean 'summarise'?", ""),
        ("model:simulate", "TypeError: simulate(params, seed, n) cannot be called as simulate(params, tasks)", ""),
        ("summary:f", "ModuleNotFoundError: No module named 'summary'", "hint: Name the interpreter that has the"),
    ],
)  # fmt: skip
def test_a_reduce_function_that_cannot_be_called_is_refused_too(
    desk: Desk, reduce: str, message: str, hint: str
) -> None:
    code(desk.home, "def simulate(params, seed, n): 1\ndef f(params, seed): 1\ndef summarise(params, tasks): 1\n")
    ran = desk("submit", desk.write(sets_of(1), model="model:f", reduce=reduce), "--auto", "--job-id", "job")
    assert (ran.code, ran.out) == (2, "")
    assert sentences(ran.err)[0].startswith(f"error: The reduce function cannot be loaded: {message}")
    assert hint in ran.err
    assert desk.jobs.get_job("job") is None


def test_the_model_is_checked_without_the_secrets_of_the_registry(desk: Desk) -> None:
    code(desk.home, "import os\nraise OSError(os.environ.get('AZURE_STORAGE_KEY', 'nothing'))\n")
    ran = desk("submit", desk.write(sets_of(1)), "--auto", "--dry-run", AZURE_STORAGE_KEY="c2VjcmV0")
    assert sentences(ran.err) == ["error: The model cannot be loaded: OSError: nothing"]


def test_a_model_that_loads_slowly_is_left_to_its_runner(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("submission.model_check", "engines.model_process"):  # the first one imports the limit of the second
        monkeypatch.setattr(f"mopsjobs.{module}.LOAD_SECONDS", 0.0)
    code(Path.cwd(), "import time\ntime.sleep(600)\n")
    Path("study.json").write_text(json.dumps(study(sets_of(1)).to_dict()))
    ran = cli.ok("submit", "study.json", "--auto", "--dry-run")
    assert ran.err.startswith("The model takes longer than 0 s to load, or prints a line above 1 MiB: it is launched")


def test_a_stored_bundle_is_checked_too(desk: Desk) -> None:
    desk.submit(sets_of(1))
    bundle = str(record(desk.jobs).metadata["bundle"])
    assert desk.ended() == "succeeded"
    ran = desk("submit", desk.write(sets_of(2), model="model:nosuch"), "--bundle", bundle)
    assert (ran.code, "there is no 'nosuch' in model.py" in ran.err) == (2, True)
    put(desk.store, bundle_key(bundle), b"another one's")
    ran = desk("submit", desk.write(sets_of(2)), "--bundle", bundle, "--dry-run")
    assert (ran.code, sentences(ran.err)) == (
        6,
        [f"error: The bundle {bundle} is damaged: its bytes do not have the digest in its name."],
    )


def test_a_model_that_runs_elsewhere_is_not_loaded_here(desk: Desk) -> None:
    """What a cluster has installed cannot be told here: a module that was not packed is a warning."""
    code(desk.home, "import nowhere\n")
    words = ("--auto", "--dry-run", "--engine", "dask", "--scheduler", "tcp://127.0.0.1:1")
    assert desk.ok("submit", desk.write(sets_of(1)), *words).err == "Nothing was done.\n"
    ran = desk.ok("submit", desk.write(sets_of(1), model="other:f"), *words)
    assert "warning: The model's module other is not in " in ran.err


@pytest.mark.parametrize("words", ["submit study.json --engine dask", "resume job --trust engine:dask"])
def test_with_dask_only_the_reduce_function_is_loaded_here(
    cli: Cli, jobs: JobRegistry, tmp_path: Path, words: str
) -> None:
    """It runs beside the runner. The model may need what is installed on the cluster alone."""
    studied = study(sets_of(1), reduce="means:f")
    place(jobs.store, "job", studied, code(tmp_path / "old"))
    add(jobs, "job", "failed", engine="dask")
    code(Path.cwd(), "import nowhere\n")
    Path("study.json").write_text(json.dumps(studied.to_dict()))
    Path("means.py").write_text("def g(params, tasks): 1\n")
    ran = cli(*words.split(), "--auto", "--scheduler", "tcp://127.0.0.1:1")
    assert (ran.code, sentences(ran.err)[0]) == (
        2,
        "error: The reduce function cannot be loaded: AttributeError: there is no 'f' in means.py",
    )
    assert [state.job_id for state in jobs.list_jobs()] == ["job"]


def test_a_study_may_come_from_standard_input(desk: Desk) -> None:
    with open(desk.write(sets_of(1)), "rb") as given:
        ran = subprocess.run(
            command("submit", "-", "--auto", "--dry-run", "--json"),
            stdin=given, env=desk.env, cwd=desk.home, capture_output=True, timeout=PATIENCE,
        )  # fmt: skip
    assert ran.returncode == 0
    plan = json.loads(ran.stdout)
    assert (plan["tasks_total"], plan["job_id"].startswith("model-")) == (1, True)


def test_a_job_in_the_foreground_says_why_it_ended(desk: Desk) -> None:
    study = desk.write([*sets_of(2), *sets_of(20, fail=True)[2:]])
    ran = desk("submit", study, "--auto", "--job-id", "job", "--workers", "1", "--wait", "--max-failures", "2")
    assert ran.code == 104
    assert ran.err.count("Ended by --max-failures 2: 3 failed, ") == 1
    assert "FAILURES: Ended by --max-failures 2: 3 failed, " in desk.ok("status", "job").out


@pytest.mark.parametrize("command", ["submit", "resume", "run"])
def test_an_invalid_limit_launches_nothing(desk: Desk, command: str) -> None:
    words = [desk.write(sets_of(1)), "--auto"] if command == "submit" else ["job"]
    desk.jobs.register_job("job", metadata={"bundle": "sha256:0"})
    for flag, value in (("--first", "-1"), ("--max-failures", "10 %"), ("--max-failures", "many")):
        ran = desk(command, *words, flag, value)
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith(f"error: invalid {flag} '{value}': expected a number of tasks, ")
    assert [(state.job_id, state.status) for state in desk.jobs.list_jobs()] == [("job", "pending")]


def test_a_relative_interpreter_is_resolved_at_submission(desk: Desk) -> None:
    """Against the directory of the submission.

    The runner starts workers long afterwards; a link, as virtual environments have them, stays one.
    """
    environment_ = desk.home.with_name("env")
    environment_.mkdir()
    (environment_ / "python").symlink_to(sys.executable)
    desk.run("succeeded", sets_of(2), "--python", "../env/python")


def test_a_resumed_job_has_the_same_limits(desk: Desk) -> None:
    """It runs what was not run and what failed. Flags go before the record."""
    options = {"local_first": "4", "local_max_failures": "3"}
    noted, mended = desk.home.with_name("calls"), desk.home.with_name("mended")
    sets = [*sets_of(4, calls=str(noted)), *sets_of(30, calls=str(noted), needs=str(mended))[4:]]
    desk.run("partial", sets, "--first", "4", "--max-failures", "3")
    state = record(desk.jobs)
    assert state.metadata.items() >= options.items()
    assert (state.tasks_completed, state.tasks_failed) == (4, 4)
    assert "job: Ended by --max-failures 3: 4 failed, " in desk("wait", "job").err
    assert desk.ok("resume", "job").out == "job.2\n"
    assert desk.ended("job.2") == "failed"
    state = record(desk.jobs, "job.2")
    assert state.metadata.items() >= options.items()
    assert (state.tasks_total, state.tasks_failed, state.error_code) == (26, 4, "FAILURES")
    mended.touch()
    assert desk.ok("resume", "job.2", "--first", "0", "--max-failures", "10%").out == "job.3\n"
    assert desk.ended("job.3") == "succeeded"
    assert record(desk.jobs, "job.3").metadata.items() >= {"local_first": "0", "local_max_failures": "10%"}.items()
    assert calls(noted).keys() == set(range(30))


def test_the_check_leaves_no_process_of_the_model(desk: Desk, tmp_path: Path) -> None:
    noted = tmp_path / "pid"
    code(
        desk.home,
        "import subprocess\nchild = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(noted)!r}, 'w').write(str(child.pid))\ndef simulate(params, seed): return 1\n",
    )
    desk.ok("submit", desk.write(sets_of(1)), "--auto", "--dry-run")
    pid = int(noted.read_text())
    until(lambda: not is_alive(pid), "the child of the model to end")


def test_the_code_of_earlier_jobs_is_not_packed(cli: Cli, tmp_path: Path) -> None:
    """In a directory with the files of mops-jobs, such as a home, a second job has the bundle of the first."""
    os.chdir(code(tmp_path / "project"))
    Path("study.json").write_text(json.dumps({"model": "model:simulate", "parameter_sets": [{"x": 1}]}))
    env = {"XDG_STATE_HOME": str(tmp_path / "project" / "state")}

    def bundle() -> str:
        return str(cli.ok("submit", "study.json", "--auto", "--dry-run", "--json", **env).json["bundle"])

    first = bundle()
    cli.ok("submit", "study.json", "--auto", "--wait", **env)
    assert list(Path("state").rglob("model.py")), "the runner has unpacked the code there"
    assert bundle() == first
