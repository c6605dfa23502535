"""`submit` loads the model before the launch, in its own interpreter, and refuses what cannot be called."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mopsjobs.bundles.bundle import bundle_key
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.registry.job_registry import JobRegistry
from support.cli import Cli, add, put, sentences
from support.desk import Desk
from support.runs import MODEL, code, is_alive, place, record, sets_of, study, until


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


def test_an_argument_with_the_name_of_a_parameter_is_warned_of(desk: Desk) -> None:
    code(desk.home, "def f(rate, seed): return 1\n")
    ran = desk.ok("submit", desk.write([{"n": 1}, {"rate": 0.1}], model="model:f"), "--auto", "--dry-run")
    assert "The model's first argument 'rate' has the name of a parameter. It receives the dict of all" in ran.err


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


def test_a_model_outside_the_bundle_is_refused_with_its_place(cli: Cli, tmp_path: Path) -> None:
    """The hint names the packed directory and that of the study; a wired model may have any name."""
    os.chdir(code(tmp_path / "desk"))
    Path("../study.json").write_text(json.dumps({"model": "other.one:run", "parameter_sets": [{"x": 1}]}))
    ran = cli("submit", "../study.json", "--auto", "--dry-run")
    assert (ran.code, sentences(ran.err)) == (
        2,
        ["error: The model cannot be loaded: ModuleNotFoundError: No module named 'other'"],
    )
    assert f"other is not in {Path.cwd()}, which was packed; the study is in {tmp_path}. Submit" in ran.err
    Path("../study.json").write_text(json.dumps({"model": "model", "parameter_sets": [{"x": 1}]}))
    ran = cli("submit", "../study.json", "--auto")
    assert (ran.code, len(sentences(ran.err))) == (2, 1)
    assert (
        "invalid model 'model': expected package.module:function, since nothing else names one: no entry point"
        in ran.err
    )
    assert "or name the Python that has it: --python PATH." in ran.err
    assert not Path(cli.env["HOME"], "registry.db").exists()
    (Path.cwd() / ".modelops").mkdir()
    Path(".modelops/manifest.json").write_text('{"wire": "wire.py:call"}')
    Path("wire.py").write_text("def call(entrypoint, params, seed): return {}\n")
    assert "warning" not in cli.ok("submit", "../study.json", "--auto", "--dry-run").err


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
