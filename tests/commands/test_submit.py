"""`submit` and `resume` at the command line, with real runners on this machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mopsjobs.bundles.bundle import bundle_key
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.local import LocalEngine
from mopsjobs.errors import EngineError, JobBusyError, MopsJobsError, UsageError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.runner.reporter import HEARTBEAT_SECONDS
from mopsjobs.store import open_store
from mopsjobs.studies.outputs import output_key, results_prefix
from mopsjobs.utils.times import parse_time, utc_now
from support.cli import Cli, Ran, Remote, add, command, environment, sentences
from support.runs import callers, calls, code, is_alive, kill, place, record, results, sets_of, study, until
from support.servers import Azurite

if TYPE_CHECKING:
    from mopsjobs.store.base import VersionedStore

UNKNOWN = "sha256:" + "0" * 64


class Desk:
    """A directory with a model, and the command as a process of its own in it."""

    def __init__(self, cli: Cli, home: Path) -> None:
        self.home = home
        self.env = environment(cli)
        self.store: VersionedStore = open_store(cli.env["MOPS_JOBS_REGISTRY"], {})
        self.jobs = JobRegistry(self.store)
        self.launched: set[str] = set()
        code(home)

    def write(self, sets: list[dict[str, Any]], **fields: Any) -> str:
        """Write the study, outside of what is packed; returns its path."""
        path = self.home.with_name("study.json")
        document = {"model": "model:simulate", "parameter_sets": sets, "outputs": ["result.json"], **fields}
        path.write_text(json.dumps(document))
        return str(path)

    def __call__(self, *argv: str, **env: str) -> Ran:
        ran = subprocess.run(
            command(*argv), env={**self.env, **env}, cwd=self.home, capture_output=True, text=True, timeout=60
        )
        return Ran(ran.returncode, ran.stdout, ran.stderr)

    def ok(self, *argv: str, **env: str) -> Ran:
        ran = self(*argv, **env)
        assert ran.code == 0, ran
        return ran

    def submit(self, sets: list[dict[str, Any]], *argv: str, job_id: str = "job", **fields: Any) -> None:
        """Submit a job with two workers."""
        self.launched.add(job_id)
        self.ok("submit", self.write(sets, **fields), "--auto", "--job-id", job_id, "--workers", "2", *argv)

    def ended(self, job_id: str = "job") -> str:
        """The status of the job, when it has ended and its runner has too."""
        self.launched.add(job_id)
        until(lambda: (state := self.jobs.get_job(job_id)) and state.is_terminal, f"job {job_id} to end")
        until(lambda: not is_alive(self.runner(job_id)), "its runner to end")
        return record(self.jobs, job_id).status

    def runner(self, job_id: str = "job") -> int:
        """The process of the job's runner."""
        told: dict[str, int] = json.loads((JobDir.for_job(job_id, self.env).path / "runner.json").read_text())
        return told["pid"]

    def results(self, job_id: str = "job") -> dict[str, bytes]:
        return results(self.store, job_id)

    def close(self) -> None:
        self.store.close()
        for told in (JobDir.for_job("x", self.env).path.parent).glob("*/runner.json"):
            pid = int(json.loads(told.read_text())["pid"])
            kill(pid)
            until(lambda pid=pid: not is_alive(pid), "the runner to be gone")


@pytest.fixture
def desk(cli: Cli, tmp_path: Path) -> Iterator[Desk]:
    with closing(Desk(cli, tmp_path / "desk")) as made:
        yield made


# --- submit ---------------------------------------------------------------------------------------------------------


def test_a_study_is_packed_launched_and_runs_to_its_end(desk: Desk) -> None:
    path = desk.write(sets_of(5), metadata={"title": "five"})
    ran = desk.ok("submit", path, "--auto", "--job-id", "job", "--owner", "me", "--label", "exp=7")
    assert ran.out == "job\n"
    assert ran.err == "Launched 5 tasks\nNext: mops-jobs wait job\n"
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
    assert ran.json == {"job_id": "job", "engine": "local", "tasks_total": 3, "status": status}
    assert ran.err.startswith("job: 3 tasks\n")
    assert ran.err.endswith(f"job: {status}, {done} tasks done, {3 - done} failed\n")
    assert record(desk.jobs).status == status
    assert not (JobDir.for_job("job", desk.env).path / "runner.log").exists()


def test_wait_of_a_model_that_cannot_be_loaded_fails_as_the_record_does(desk: Desk) -> None:
    ran = desk("submit", desk.write(sets_of(1), model="nothing:here"), "--auto", "--job-id", "job", "--wait")
    assert (ran.code, ran.out) == (100, "job\n")
    assert "No module named 'nothing'" in ran.err
    assert record(desk.jobs).error_code == "MODEL"


@pytest.mark.parametrize(
    ("source", "last", "hint"),
    [
        ("x = 1\ndef simulate(:\n", "SyntaxError: ", "hint: See line 2 of model.py in the packed code.\n"),
        ("\n\nx = 1 / 0\n", "ZeroDivisionError: ", "hint: See line 3 of model.py in the packed code.\n"),
        ("import nowhere\n", "ModuleNotFoundError: ", "hint: Name the interpreter that has the model's packages"),
        ("x = 1\n", "AttributeError: there is no 'simulate' in /", None),
    ],
)
def test_a_model_that_cannot_be_loaded_fails_with_its_place(
    desk: Desk, source: str, last: str, hint: str | None
) -> None:
    """The traceback is in `logs`."""
    code(desk.home, source)
    ran = desk("submit", desk.write(sets_of(1)), "--auto", "--job-id", "job", "--wait")
    assert ran.code == 100
    assert hint in ran.err if hint else "hint: " not in ran.err
    shown = desk.ok("logs", "job").lines
    assert shown[0] == "Traceback (most recent call last):"
    assert shown[-1].startswith(last)


def test_logs_show_the_traceback_of_a_task_that_failed_in_its_place(desk: Desk) -> None:
    sets = [{"x": 0, "say": "hello"}, {"x": 1, "fail": True}, {"x": 2, "say": "bye"}]
    desk("submit", desk.write(sets), "--auto", "--job-id", "job", "--wait", "--workers", "1")
    shown = desk.ok("logs", "job").lines
    assert {"[0] hello", "[1] Traceback (most recent call last):", "[2] bye"} <= set(shown)
    assert "[1] ValueError: as asked" in shown
    assert desk.ok("logs", "job", "--grep", "as asked").lines == [line for line in shown if line.startswith("[1]")]


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
        err = running.communicate(timeout=30)[1]
    assert running.returncode == code_, err
    assert err.endswith("To continue: mops-jobs resume job\n")
    gate.touch()
    desk.ok("resume", "job")
    assert desk.ended() == "succeeded"


def test_json_is_the_id_and_little_else(desk: Desk) -> None:
    ran = desk.ok("submit", desk.write(sets_of(1)), "--auto", "--json")
    told = ran.json
    assert told.keys() == {"job_id", "engine", "tasks_total", "status"}
    assert told["status"] is None
    assert (told["engine"], told["tasks_total"]) == ("local", 1)
    assert told["job_id"].startswith("model-")
    assert desk.ended(told["job_id"]) == "succeeded"


def test_a_bundle_that_is_there_is_used_again(desk: Desk) -> None:
    desk.submit(sets_of(2))
    bundle = str(record(desk.jobs).metadata["bundle"])
    (desk.home / "model.py").write_text("raise SystemExit('not this one')\n")
    desk.ok("submit", desk.write(sets_of(3)), "--bundle", bundle, "--job-id", "other")
    assert (desk.ended(), desk.ended("other")) == ("succeeded", "succeeded")
    assert len(desk.results("other")) == 3


def test_the_same_code_is_stored_once(desk: Desk) -> None:
    desk.submit(sets_of(1))
    desk.submit(sets_of(2), job_id="other")
    assert (desk.ended(), desk.ended("other")) == ("succeeded", "succeeded")
    assert len(list(desk.store.list_keys("bundles/"))) == 1


def test_a_registry_in_the_packed_directory_is_not_packed(desk: Desk) -> None:
    """Its bundle is the same whatever is in the registry.

    As the README advises: `.mops-jobs.toml` beside the study, with a registry beside that; here the cache too.
    """
    (desk.home / ".mops-jobs.toml").write_text('registry = "sqlite:jobs.db"\ncache = "cache.db"\n')
    beside = {"MOPS_JOBS_REGISTRY": "", "MOPS_JOBS_CACHE": ""}
    bundles = []
    for number in range(3):
        words = ("submit", desk.write(sets_of(1)), "--auto", "--wait", "--job-id", f"job-{number}")
        desk.ok(*words, **beside)
        desk.ok("list", **beside)
        bundles.append(desk.ok("submit", *words[1:3], "--dry-run", "--json", **beside).json["bundle"])
    assert {"jobs.db", "cache.db"} <= {path.name for path in desk.home.iterdir()}
    with closing(open_store(f"sqlite://{desk.home}/jobs.db", {})) as store:
        assert list(store.list_keys("bundles/")) == [bundle_key(bundles[0])]
    assert len(set(bundles)) == 1


def test_a_study_may_come_from_standard_input(desk: Desk) -> None:
    with open(desk.write(sets_of(1)), "rb") as given:
        ran = subprocess.run(
            command("submit", "-", "--auto", "--dry-run", "--json"),
            stdin=given, env=desk.env, cwd=desk.home, capture_output=True, timeout=60,
        )  # fmt: skip
    assert ran.returncode == 0
    assert json.loads(ran.stdout)["tasks_total"] == 1


def test_a_registry_is_left_out_under_each_of_its_names(cli: Cli) -> None:
    """It is in the packed directory.

    The draft of a killed maker is a second name of it: opening that would give up SQLite's locks on it.
    """
    os.chdir(code(Path.cwd() / "desk"))
    Path("../study.json").write_text(json.dumps(study(sets_of(1)).to_dict()))
    cli.env["MOPS_JOBS_REGISTRY"] = "sqlite:r.db"
    cli.ok("register", "a")
    for name in ("r.db.part", "r.db.build.part", "r.db-wal.lost", "r.db.part-wal"):
        os.link("r.db", name)
    assert cli.ok("submit", "../study.json", "--auto", "--dry-run", "--json").json["bundle_files"] == 1


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


def test_a_model_outside_the_bundle_is_warned_of(cli: Cli, tmp_path: Path) -> None:
    """The message names the packed directory and the current one.

    A warning, since the module may be installed; a model that names no function is an error, unless it is wired.
    """
    os.chdir(code(tmp_path / "desk"))
    Path("../study.json").write_text(json.dumps({"model": "other.one:run", "parameter_sets": [{"x": 1}]}))
    ran = cli.ok("submit", "../study.json", "--auto", "--dry-run")
    assert (
        f"other is not in {Path.cwd()}, which was packed; the study is in {tmp_path}. The job fails unless" in ran.err
    )
    Path("../study.json").write_text(json.dumps({"model": "model", "parameter_sets": [{"x": 1}]}))
    ran = cli("submit", "../study.json", "--auto")
    assert (ran.code, len(sentences(ran.err))) == (2, 1)
    assert "invalid model 'model': expected package.module:function." in ran.err
    assert not Path(cli.env["HOME"], "registry.db").exists()
    (Path.cwd() / ".modelops").mkdir()
    Path(".modelops/manifest.json").write_text('{"wire": "model.py:simulate"}')
    assert "warning" not in cli.ok("submit", "../study.json", "--auto", "--dry-run").err


# --- what cannot be submitted ---------------------------------------------------------------------------------------


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


def test_all_that_is_wrong_with_a_study_is_told_at_once(cli: Cli) -> None:
    Path("study.json").write_text('{"scenario": 3, "parameter_sets": [1], "n_replicates": "two"}')
    ran = cli("submit", "study.json", "--auto")
    assert ran.code == 2
    for name in ("model:", "scenario:", "parameter_sets[0]:", "n_replicates:"):
        assert name in ran.err


def test_a_study_that_is_not_there_is_named(cli: Cli) -> None:
    ran = cli("submit", "nothing.json", "--auto")
    assert (ran.code, sentences(ran.err)) == (
        2,
        ["error: Cannot read the study nothing.json: No such file or directory."],
    )


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--auto", "--bundle", UNKNOWN], 2),
        ([], 2),
        (["--bundle", "sha256:12"], 2),
        (["--auto", "--workers", "0"], 2),
        (["--auto", "--workers", "many"], 2),
        (["--auto", "--engine", "kubernetes", "--shards", "0"], 2),
        (["--auto", "--python", "no/such/python"], 2),
        (["--auto", "--python", "no-such-python"], 2),
        (["--auto", "--python", "study.json"], 2),
        (["--auto", "--python", "/bin/sh"], 2),
        (["--auto", "--python", "/bin/true"], 2),
        (["--auto", "--task-timeout", "0s"], 2),
        (["--auto", "--engine", "abacus"], 2),
        (["--auto", "--task-timeout", "soon"], 2),
        (["--auto", "--label", "nothing"], 2),
        (["--auto", "--job-id", "../job"], 2),
    ],
)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(cli: Cli, argv: list[str], code: int) -> None:
    Path("study.json").write_text(json.dumps(study(sets_of(1)).to_dict()))
    ran = cli("submit", "study.json", *argv)
    assert (ran.code, ran.out) == (code, "")
    assert len(sentences(ran.err)) == 1
    assert not Path(cli.env["HOME"], "registry.db").exists()


def test_a_relative_interpreter_is_resolved_at_submission(desk: Desk) -> None:
    """Against the directory of the submission.

    The runner starts workers long afterwards; a link, as virtual environments have them, stays one.
    """
    environment_ = desk.home.with_name("env")
    environment_.mkdir()
    (environment_ / "python").symlink_to(sys.executable)
    desk.submit(sets_of(2), "--python", "../env/python")
    assert desk.ended() == "succeeded"


def test_a_missing_bundle_is_refused_before_anything_is_registered(cli: Cli, jobs: JobRegistry) -> None:
    Path("study.json").write_text(json.dumps(study(sets_of(1)).to_dict()))
    ran = cli("submit", "study.json", "--bundle", UNKNOWN, "--job-id", "job")
    assert ran.code == 2
    assert f"The bundle {UNKNOWN} is not in the store." in ran.err
    assert jobs.get_job("job") is None


def test_an_id_that_is_taken_is_refused_and_its_job_left_alone(desk: Desk) -> None:
    desk.submit(sets_of(2))
    assert desk.ended() == "succeeded"
    before = {entry.key: entry.value for entry in desk.store.scan("jobs/")}
    ran = desk("submit", desk.write(sets_of(5)), "--auto", "--job-id", "job")
    assert ran.code == 6
    assert sentences(ran.err) == ["error: Job job is already registered."]
    assert {entry.key: entry.value for entry in desk.store.scan("jobs/")} == before


def test_an_id_taken_by_a_job_that_was_only_reported_gets_no_manifest(cli: Cli, jobs: JobRegistry) -> None:
    add(jobs, "job", "running")
    Path("study.json").write_text(json.dumps(study(sets_of(1)).to_dict()))
    Path("model.py").touch()
    assert cli("submit", "study.json", "--auto", "--job-id", "job").code == 6
    assert jobs.store.get("jobs/job/manifest.json") is None


def submit_to_an_engine_that_raises(cli: Cli, monkeypatch: pytest.MonkeyPatch, error: MopsJobsError) -> Ran:
    def launch(self: LocalEngine, launch: object) -> None:
        raise error

    monkeypatch.setattr(LocalEngine, "launch", launch)
    code(Path.cwd())
    Path("study.json").write_text(json.dumps(study(sets_of(1)).to_dict()))
    return cli("submit", "study.json", "--auto", "--job-id", "job")


def test_a_launch_that_fails_leaves_a_record_that_says_why(
    cli: Cli, jobs: JobRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = submit_to_an_engine_that_raises(cli, monkeypatch, EngineError("There are no processes left."))
    assert (ran.code, sentences(ran.err)) == (1, ["error: There are no processes left."])
    state = record(jobs)
    assert (state.status, state.error_code, state.error_message) == ("failed", "LAUNCH", "There are no processes left.")


def test_a_job_whose_runner_is_at_work_here_is_not_said_to_have_failed(
    cli: Cli, jobs: JobRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was submitted in an outage and has not registered itself yet: the record is that runner's to bring on."""
    busy = JobBusyError("The runner of job job is already at work on this machine.", job_id="job")
    assert submit_to_an_engine_that_raises(cli, monkeypatch, busy).code == 6
    assert record(jobs).status == "submitting"


# --- without a registry ---------------------------------------------------------------------------------------------


def test_a_registry_that_is_gone_does_not_stop_the_launch(
    cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[Any] = []
    started = LocalEngine.launch

    def launch(self: LocalEngine, launch: Any) -> Any:
        launched.append(launch)
        monkeypatch.setattr(subprocess, "Popen", lambda *args, **more: type("Started", (), {"pid": os.getpid()})())
        return started(self, launch)

    monkeypatch.setattr(LocalEngine, "launch", launch)
    remote.store.down = True
    code(Path.cwd())
    Path("study.json").write_text(json.dumps(study(sets_of(2)).to_dict()))
    ran = cli.ok("submit", "study.json", "--auto", "--job-id", "job")
    assert ran.out == "job\n"
    assert [one.job_id for one in launched] == ["job"]
    assert "warning: Cannot reach the registry: connection refused. The job is launched anyway" in ran.err
    directory = JobDir.for_job("job", cli.env).path
    assert f"Without the registry: tail -f {directory / 'runner.log'}" in ran.err
    with closing(open_store(f"sqlite://{directory}/outbox.db", {})) as kept:
        assert [key.partition("/")[0] for key in kept.list_keys()] == ["bundles", "jobs"]


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
    gate.touch()
    until(lambda: sum(calls(noted).values()) == 6, "the work to be done in the outage", 60)
    private_azurite.start()
    with closing(open_store(url, more)) as store:
        jobs = JobRegistry(store)
        until(lambda: (state := jobs.get_job("job")) and state.is_terminal, "the record to tell", 60)
        state = record(jobs)
        assert (state.status, state.tasks_completed, state.tasks_verified) == ("succeeded", 6, 6)
        assert (state.engine, state.owner, dict(state.labels)) == ("local", "me", {"exp": "7"})
        assert state.metadata["n_parameter_sets"] == 6
        assert len(list(store.list_keys("results/job/"))) == 6
    assert calls(noted) == dict.fromkeys(range(6), 1)


# --- resume ---------------------------------------------------------------------------------------------------------


def test_resuming_a_partial_job_submits_only_what_is_missing_as_its_child(desk: Desk) -> None:
    noted, mended = desk.home.with_name("calls"), desk.home.with_name("mended")
    sets = sets_of(6, calls=str(noted))
    for number in (1, 4):
        sets[number]["needs"] = str(mended)
    desk.submit(sets, "--owner", "me", "--label", "exp=7")
    assert desk.ended() == "partial"
    mended.touch()
    ran = desk.ok("resume", "job", "--json")
    child = ran.json["job_id"]
    assert ran.json == {"job_id": child, "parent_job_id": "job"}
    assert child != "job"
    assert desk.ended(child) == "succeeded"
    state = record(desk.jobs, child)
    assert (state.parent_job_id, state.owner, state.labels) == ("job", "me", {"exp": "7"})
    assert (state.tasks_total, state.tasks_completed, state.tasks_verified) == (2, 2, 2)
    assert calls(noted) == {0: 1, 1: 2, 2: 1, 3: 1, 4: 2, 5: 1}
    assert record(desk.jobs).status == "partial"
    assert sorted(json.loads(value)["x"] for value in desk.results(child).values()) == [1, 4]


def test_resuming_a_job_that_lacks_nothing_starts_nothing(desk: Desk) -> None:
    desk.submit(sets_of(1))
    assert desk.ended() == "succeeded"
    ran = desk.ok("resume", "job")
    assert (ran.out, ran.err) == ("", "job: nothing is missing\n")
    assert desk.ok("resume", "job", "--json").json == {"job_id": None, "parent_job_id": None}
    assert [state.job_id for state in desk.jobs.list_jobs()] == ["job"]


def test_a_job_whose_runner_was_killed_goes_on_itself(desk: Desk) -> None:
    """No output that was stored is computed again, and nothing is lost."""
    noted, gate = desk.home.with_name("calls"), desk.home.with_name("gate")
    sets = sets_of(12, calls=str(noted))
    for one in sets[6:]:
        one["gate"] = str(gate)
    desk.submit(sets)
    until(lambda: len(desk.results()) == 6, "half of the outputs")
    until(lambda: sum(calls(noted).values()) == 8, "two tasks that wait")
    refused = desk("resume", "job")
    assert (refused.code, sentences(refused.err)) == (6, ["error: Job job is still running: nothing to resume."])
    kill(desk.runner())
    until(lambda: not is_alive(desk.runner()), "the runner to be gone")
    gate.touch()
    ran = desk.ok("resume", "job", "--json")
    assert ran.json == {"job_id": "job", "parent_job_id": None}
    assert desk.ended() == "succeeded"
    made = calls(noted)
    assert made.keys() == set(range(12))
    assert {number: made[number] for number in range(6)} == dict.fromkeys(range(6), 1)
    assert record(desk.jobs).tasks_verified == 12


def test_a_killed_runner_is_stuck_within_two_heartbeats(desk: Desk, cli: Cli) -> None:
    """And `resume` computes no stored output again.

    The listing is made by a clock that is two heartbeats, and a second, ahead of the last sign of life.
    """
    noted, gate = desk.home.with_name("calls"), desk.home.with_name("gate")
    sets = sets_of(10, calls=str(noted))
    for one in sets[4:]:
        one["gate"] = str(gate)
    desk.submit(sets)
    until(lambda: len(desk.results()) == 4, "what is done to be stored")
    until(lambda: sum(calls(noted).values()) == 6, "two tasks that wait")
    until(lambda: record(desk.jobs).heartbeat_at, "a sign of life")
    kill(desk.runner())
    until(lambda: not is_alive(desk.runner()), "the runner to be gone")
    last_sign = parse_time(str(record(desk.jobs).heartbeat_at))
    cli.clock.moment = last_sign + timedelta(seconds=1)
    assert cli.ids("--stuck") == []
    cli.clock.moment = last_sign + timedelta(seconds=2 * HEARTBEAT_SECONDS + 1)
    assert cli.ids("--stuck") == ["job"]
    before = {entry.key: entry.version for entry in desk.store.scan(results_prefix("job"))}
    gate.touch()
    until(lambda: not [pid for pid in callers(noted) if is_alive(pid)], "its workers to end by themselves")
    desk.ok("resume", "job", "--workers", "2")
    assert desk.ended() == "succeeded"
    cli.clock.moment = parse_time(record(desk.jobs).updated_at)
    assert cli.ids("--stuck") == []
    made = calls(noted)
    assert {number: made[number] for number in range(4)} == dict.fromkeys(range(4), 1)
    assert sorted(made.values()) == [1] * 8 + [2] * 2  # the two that were at work left no output
    after = {entry.key: entry.version for entry in desk.store.scan(results_prefix("job"))}
    assert len(after) == 10
    assert {key: after[key] for key in before} == before


@pytest.mark.parametrize("argv", [["--workers", "0"], ["--workers", "-1"], ["--python", "no/such/python"]])
def test_resuming_by_what_makes_no_sense_is_refused(desk: Desk, argv: list[str]) -> None:
    desk.submit(sets_of(2, needs=str(desk.home / "never")))
    assert desk.ended() == "failed"
    ran = desk("resume", "job", *argv)
    assert (ran.code, ran.out, len(sentences(ran.err))) == (2, "", 1), ran


def test_resuming_what_is_no_job_or_was_never_submitted_says_so(cli: Cli, jobs: JobRegistry) -> None:
    assert cli("resume", "nothing").code == 3
    add(jobs, "job", "failed")
    ran = cli("resume", "job")
    assert (ran.code, sentences(ran.err)) == (6, ["error: Job job has no manifest: it was reported, not submitted."])


def _interpreter(desk: Desk) -> Path:
    """A Python of its own, told by its path."""
    link = desk.home.with_name("env") / "python"
    link.parent.mkdir()
    link.symlink_to(sys.executable)
    return link


def test_a_job_goes_on_as_it_was_submitted(desk: Desk) -> None:
    """The record tells the interpreter, the workers and the time limit; flags go before them."""
    link, mended = _interpreter(desk), desk.home.with_name("mended")
    desk.submit(sets_of(2, needs=str(mended)), "--python", str(link), "--task-timeout", "90s")
    assert desk.ended() == "failed"
    told = {"local_python": str(link), "local_workers": "2", "local_task_timeout": "90"}
    assert record(desk.jobs).metadata.items() >= told.items()
    mended.touch()
    ran = desk.ok("resume", "job", "--workers", "1")
    assert (ran.out, ran.err) == ("job.2\n", "job.2: 2 tasks to do\nNext: mops-jobs wait job.2\n")
    assert desk.ended("job.2") == "succeeded"
    assert record(desk.jobs, "job.2").metadata.items() >= {**told, "local_workers": "1"}.items()


def test_an_active_environment_is_noted_as_the_interpreter(desk: Desk) -> None:
    link = _interpreter(desk)
    (link.parent / "bin").mkdir()
    (link.parent / "bin" / "python").symlink_to(sys.executable)
    path = desk.write(sets_of(1))
    desk.ok("submit", path, "--auto", "--job-id", "job", VIRTUAL_ENV=str(link.parent))
    assert desk.ended() == "succeeded"
    assert record(desk.jobs).metadata["local_python"] == str(link.parent / "bin" / "python")


def test_an_interpreter_that_is_gone_is_told_and_nothing_is_changed(desk: Desk) -> None:
    link = _interpreter(desk)
    desk.submit(sets_of(1, needs="/nowhere"), "--python", str(link))
    assert desk.ended() == "failed"
    link.unlink()
    before = list(desk.store.list_keys("jobs/"))
    ran = desk("resume", "job")
    told = f"error: The job ran with the interpreter {link}, which is not on this machine."
    assert (ran.code, sentences(ran.err)) == (2, [told])
    assert "--python PATH" in ran.err
    assert list(desk.store.list_keys("jobs/")) == before


def test_a_parent_is_resumed_once_and_names_its_child(desk: Desk) -> None:
    """While the child is at work, when it has ended well, and when it has not; the child's child is numbered on."""
    mended = desk.home.with_name("mended")
    desk.submit(sets_of(2, needs=str(mended)))
    assert desk.ended() == "failed"
    desk.ok("resume", "job")
    assert desk.ended("job.2") == "failed"
    ran = desk("resume", "job")
    assert (ran.code, ran.err) == (
        6, "error: Job job was resumed as job.2, which is failed.\nhint: Run: mops-jobs resume job.2\n",
    )  # fmt: skip
    mended.touch()
    assert desk.ok("resume", "job.2").out == "job.3\n"
    assert desk.ended("job.3") == "succeeded"
    ran = desk("resume", "job.2")
    assert (ran.code, ran.err.splitlines()[-1]) == (6, "hint: Run: mops-jobs results job.3")


def test_resume_auto_runs_the_code_of_the_current_directory(desk: Desk) -> None:
    """Without it, the code is the one that was submitted."""
    good = (desk.home / "model.py").read_text()
    code(desk.home, "def simulate(params, seed):\n    raise ValueError('broken')\n")
    desk.submit(sets_of(2))
    assert desk.ended() == "failed"
    code(desk.home, good)
    desk.ok("resume", "job")
    assert desk.ended("job.2") == "failed"
    desk.ok("resume", "job.2", "--auto")
    assert desk.ended("job.3") == "succeeded"
    assert record(desk.jobs, "job.3").metadata["bundle"] != record(desk.jobs).metadata["bundle"]


# --- one runner of a shard ------------------------------------------------------------------------------------------


def test_a_second_runner_is_refused_and_the_first_goes_on(desk: Desk) -> None:
    """Whoever has started them; the lock is gone with the process that has it, even if that is killed."""
    gate, noted = desk.home.with_name("gate"), desk.home.with_name("calls")
    desk.submit(sets_of(2, gate=str(gate), calls=str(noted)))
    until(lambda: sum(calls(noted).values()) == 2, "both tasks to begin")
    ran = desk("run", "job", "--workers", "1")
    assert (ran.code, ran.err) == (6, "error: Another runner of job job is at work on this machine.\n")
    kill(desk.runner())
    until(lambda: not is_alive(desk.runner()), "the runner to be gone")
    by_hand = subprocess.Popen(command("run", "job", "--workers", "1"), env=desk.env, stderr=subprocess.DEVNULL)
    with by_hand:
        until(lambda: sum(calls(noted).values()) > 2, "the one started by hand to begin")
        again = desk("resume", "job")
        assert (again.code, sentences(again.err)) == (6, ["error: Job job is still running: nothing to resume."])
        gate.touch()
    assert by_hand.returncode == 0
    assert record(desk.jobs).status == "succeeded"


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


def test_an_invalid_launch_leaves_no_job_being_submitted(
    cli: Cli, jobs: JobRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(self: LocalEngine, launch: object) -> None:
        raise UsageError("The option x makes no sense.")

    monkeypatch.setattr(LocalEngine, "launch", launch)
    Path("study.json").write_text(json.dumps(study(sets_of(1)).to_dict()))
    assert cli("submit", "study.json", "--auto", "--job-id", "job").code == 2
    assert (record(jobs).status, record(jobs).error_code) == ("failed", "LAUNCH")


def test_a_model_that_is_broken_later_does_not_take_away_what_is_complete(desk: Desk) -> None:
    """The job then ends by its outputs: partial. The interpreter is one that has ended to work."""
    noted, gate = desk.home.with_name("calls"), desk.home.with_name("gate")
    sets = sets_of(2, calls=str(noted))
    sets[1]["gate"] = str(gate)
    desk.submit(sets)
    until(lambda: len(desk.results()) == 1 and sum(calls(noted).values()) == 2, "one output")
    kill(desk.runner())
    until(lambda: not is_alive(desk.runner()), "the runner to be gone")
    broken = desk.home.with_name("broken")
    broken.write_text(f'#!/bin/sh\n[ "${{2##*/}}" = script.py ] && exec {sys.executable} "$@"\nexit 1\n')
    broken.chmod(0o755)
    desk("run", "job", "--python", str(broken))
    state = record(desk.jobs)
    assert (state.status, state.error_code, state.tasks_verified) == ("partial", "INCOMPLETE", 1)
    assert "the first error: The model's interpreter ends before it is ready" in str(state.error_message)
    gate.touch()


def test_a_job_in_an_outage_says_that_it_waits_and_goes_on_by_resume(desk: Desk) -> None:
    """The registry is away from beginning to end: nothing of the job is anywhere but on this machine."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}/account"
        secret = f"AccountName=account;AccountKey=a2V5;BlobEndpoint={endpoint};"
        env = {**desk.env, "MOPS_JOBS_REGISTRY": f"{endpoint}/jobs", "AZURE_STORAGE_CONNECTION_STRING": secret}
        path, noted = desk.write(sets_of(1, calls=str(desk.home.with_name("calls")))), desk.home.with_name("calls")
        words = command("submit", path, "--auto", "--job-id", "job", "--workers", "1", "--wait")
        with subprocess.Popen(words, env=env, cwd=desk.home, stderr=subprocess.PIPE, text=True) as running:
            assert running.stderr is not None
            told = "The registry does not answer; waiting up to 1h. Ctrl-C keeps what is done here.\n"
            assert told in iter(running.stderr.readline, "")
            until(lambda: calls(noted), "the task to be worked on")
            running.send_signal(signal.SIGINT)
            err = running.communicate(timeout=60)[1]
        assert running.returncode == 130, err
        assert err.endswith("To continue: mops-jobs resume job\n")
        ran = desk("resume", "job", **env)
        assert (ran.code, ran.out) == (0, "job\n"), ran
        assert ran.err.startswith("warning: Cannot reach")
        assert "The job continues without the registry." in ran.err
        assert desk("resume", "job", **env).code == 6
    assert calls(noted) == {0: 1}
    kill(desk.runner())
    until(lambda: not is_alive(desk.runner()), "the runner to be gone")
    kept = JobDir.for_job("job", desk.env).path
    begun = parse_time((kept / "shard-0.began").read_text())
    assert parse_time((kept / "submitted_at").read_text()) < begun < utc_now()
    long_ago = begun - timedelta(hours=1)
    (kept / "shard-0.began").write_text(long_ago.isoformat())
    (kept / "submitted_at").write_text((long_ago - timedelta(minutes=1)).isoformat())
    desk.ok("resume", "job")
    assert desk.ended() == "succeeded"
    at = {step["status"]: parse_time(step["at"]) for step in record(desk.jobs).transitions}
    assert parse_time(record(desk.jobs).created_at) == at["pending"] == long_ago - timedelta(minutes=1)
    assert (at["running"], at["succeeded"] > begun) == (long_ago, True)
    assert calls(noted) == {0: 1}


def test_a_job_whose_record_was_never_written_is_found_by_its_manifest(desk: Desk) -> None:
    """Its runner had brought the manifest to the registry, and was ended before it could register."""
    place(desk.store, "job", study(sets_of(2)), desk.home)
    assert desk.ok("resume", "job", "--workers", "1").out == "job\n"
    assert desk.ended() == "succeeded"


# --- a runner that is dead ------------------------------------------------------------------------------------------


def test_a_dead_runner_is_reported_by_wait_and_status(desk: Desk) -> None:
    """It is stopped by hand, without a registry.

    Wait says it once, and goes on waiting; the hint of cancel is for a runner that lives.
    """
    gate, noted = desk.home.with_name("gate"), desk.home.with_name("calls")
    desk.submit(sets_of(1, gate=str(gate), calls=str(noted)))
    until(lambda: calls(noted), "the task to begin")
    assert desk.ok("status", "job").err.endswith("Next: mops-jobs wait job\n")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/account"
        secret = f"AccountName=account;AccountKey=a2V5;BlobEndpoint={url};"
        away = {"MOPS_JOBS_REGISTRY": f"{url}/jobs", "AZURE_STORAGE_CONNECTION_STRING": secret}
        ran = desk("cancel", "job", **away)
    assert (ran.code, ran.err.splitlines()[-1]) == (5, f"hint: To stop it by hand: kill {desk.runner()}")
    kill(desk.runner())
    until(lambda: not is_alive(desk.runner()), "the runner to be gone")
    ran = desk("wait", "job", "--timeout", "3s", "--interval", "0.5s")
    told = "warning: job: its runner on this machine has ended. If its runner is gone: mops-jobs resume job"
    assert (ran.code, ran.err.splitlines().count(told)) == (8, 1)
    assert desk.ok("status", "job").err.endswith("Next: mops-jobs resume job\n")
    gate.touch()
    desk.ok("resume", "job")
    assert desk.ended() == "succeeded"
    assert desk.ok("status", "job").err.endswith("Next: mops-jobs results job --download DIR\n")
