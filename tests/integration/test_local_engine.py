"""The local engine, and what is asked of a job that ran by it: validate, results, logs."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.bundles.packing import pack
from mopsjobs.engines import local
from mopsjobs.engines.base import Launch
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.local import LocalEngine
from mopsjobs.errors import JobBusyError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.keys import NAMES_NAME
from mopsjobs.store.base import VersionedStore
from mopsjobs.studies.outputs import output_key
from support.cli import Cli, add
from support.runs import code, is_alive, kill, place, record, sets_of, study, until

# A runner outlives the one who launched it: that is what it is for.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
JOB: dict[str, object] = {"job_id": "job"}


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalEngine]:
    """Yield an engine whose runner says its words and then waits until it is stopped."""
    script = tmp_path / "runner.py"
    script.write_text(
        "import os, signal, sys\nsignal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n"
        "print(os.environ.get('WORD'), *sys.argv[1:], flush=True)\nprint('two', flush=True)\n"
        "signal.sigwait({signal.SIGTERM})\nsys.exit(143)\n"
    )
    monkeypatch.setattr(local, "command", lambda: [sys.executable, str(script)])
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    yield LocalEngine(env)
    told = JobDir.for_job("job", env).path / "runner.json"
    if told.exists():
        kill(int(json.loads(told.read_text())["pid"]))


def _pid(tmp_path: Path) -> int:
    directory = JobDir.for_job("job", {"HOME": str(tmp_path)}).path
    return int(json.loads((directory / "runner.json").read_text())["pid"])


def _lines(engine: LocalEngine, count: int = 2, **more: Any) -> list[str]:
    until(lambda: len(list(engine.logs(JOB))) >= count, "the runner's words")
    return list(engine.logs(JOB, **more))


# --- the engine -----------------------------------------------------------------------------------------------------


def test_a_launch_passes_on_all_that_it_was_told(engine: LocalEngine, tmp_path: Path) -> None:
    limits: dict[str, Any] = {"task_timeout": 1.5, "task_memory": 3 * 2**29, "retries": 2, "retry_on": "died,oom"}
    more: dict[str, Any] = {"workers": 3, "python": "/py", "env": {"WORD": "added"}}
    launched = engine.launch(Launch(job_id="job", registry_url="sqlite:///r.db", **more, **limits))
    assert launched.show_command.startswith("tail -f ")
    words = "added run job --registry sqlite:///r.db --workers 3 --python /py --task-timeout 1.5s"
    assert _lines(engine)[0] == f"{words} --task-memory 1536MiB --retries 2 --retry-on died,oom"
    assert _lines(engine, tail=1) == ["two"]
    assert _lines(engine, tail=0) == []
    assert os.getsid(_pid(tmp_path)) == _pid(tmp_path) != os.getsid(0), "it survives the terminal"


def test_the_state_follows_the_process(engine: LocalEngine, tmp_path: Path) -> None:
    assert engine.state(JOB)[:2] == ("gone", "NotHere")
    assert not engine.cancel(JOB)
    assert list(engine.logs(JOB)) == []
    engine.launch(Launch(job_id="job", registry_url="u"))
    assert engine.state(JOB).phase == "running"
    pid = _pid(tmp_path)
    with pytest.raises(JobBusyError, match="already at work"):
        engine.launch(Launch(job_id="job", registry_url="u"))
    assert _pid(tmp_path) == pid
    _lines(engine)
    assert engine.cancel(JOB)
    until(lambda: not is_alive(_pid(tmp_path)), "the runner to end")
    assert engine.state(JOB)[:2] == ("gone", "RunnerEnded")
    assert not engine.cancel(JOB)


# --- validate -------------------------------------------------------------------------------------------------------


@pytest.fixture
def submitted(jobs: JobRegistry, tmp_path: Path) -> list[str]:
    """Return a job of three tasks in the registry of `cli`, not launched; the keys of its outputs."""
    place(jobs.store, "job", study(sets_of(3)), code(tmp_path / "code"))
    add(jobs, "job", "running", tasks_total=3)
    return [output_key("job", task, "result.json") for task in study(sets_of(3)).tasks()]


def _leave(store: VersionedStore, keys: list[str]) -> None:
    for key in keys:
        store.create_if_absent(key, b"{}")


@pytest.mark.parametrize(("there", "status"), [(0, "failed"), (1, "partial"), (2, "partial"), (3, "succeeded")])
def test_a_job_ends_by_what_is_there(
    cli: Cli, jobs: JobRegistry, submitted: list[str], there: int, status: str
) -> None:
    _leave(jobs.store, submitted[:there])
    assert cli.ok("validate", "job").out == f"job: {there} of 3 tasks verified; {status}\n"
    told = cli.ok("validate", "job", "--json").json
    assert (told["job_id"], told["status"], told["tasks_verified"]) == ("job", status, there)
    state = record(jobs)
    assert (state.status, state.tasks_verified) == (status, there)
    assert sorted(state.missing_outputs) == sorted(submitted[there:])
    assert [step["status"] for step in state.transitions][-2:] == ["validating", status]
    assert (state.error_code is None) == (status == "succeeded")


# --- results --------------------------------------------------------------------------------------------------------


def test_results_are_listed_with_their_sizes(cli: Cli, jobs: JobRegistry, submitted: list[str]) -> None:
    _leave(jobs.store, [*submitted, submitted[0].replace("result.json", NAMES_NAME)])
    assert cli.ok("results", "job").lines == [f"{key}\t2" for key in sorted(submitted)]
    told = cli.ok("results", "job", "--json").objects
    assert [(one["name"], one["key"], one["bytes"]) for one in told] == [
        (key.removeprefix("results/job/"), key, 2) for key in sorted(submitted)
    ]
    tasks = {output_key("job", task, "result.json"): task for task in study(sets_of(3)).tasks()}
    for one in told:
        task = tasks[one["key"]]
        assert (one["task"], one["param_id"], one["seed"], one["params"]) == (*task[:3], dict(task.params))


def test_what_is_fetched_comes_with_a_table_and_is_not_packed(
    cli: Cli, jobs: JobRegistry, submitted: list[str], tmp_path: Path
) -> None:
    _leave(jobs.store, submitted[:2])
    into = tmp_path / "code" / "fetched"
    cli.ok("results", "job", "--download", str(into))
    rows = list(csv.DictReader((into / "tasks.csv").open()))
    tasks = list(study(sets_of(3)).tasks())
    assert [row["status"] for row in rows] == ["complete", "complete", "missing"]
    assert [(row["task"], row["param_id"], row["seed"], row["x"]) for row in rows] == [
        (str(task.number), task.param_id, str(task.seed), str(task.params["x"])) for task in tasks
    ]
    with pack(tmp_path / "code") as packed:
        assert packed.files == 1
    assert len([path for path in into.rglob("*") if path.is_file()]) == 2 + len(["tasks.csv", ".gitignore"])
    assert all((into / key.removeprefix("results/job/")).read_bytes() == b"{}" for key in submitted[:2])
