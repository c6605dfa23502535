"""What works on Windows, with a Python that lacks the same modules and functions. A real Windows is in CI."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from support.docs import ROOT

WINDOWS = str(ROOT / "tests" / "support" / "windows.py")
STUDY = {"model": "m:f", "scenario": "s", "parameter_sets": [{"x": 1}]}


@pytest.fixture(name="run")
def _run(tmp_path):
    """Run a command in a directory with a study. `filelock` warns that it has no `flock`."""
    (tmp_path / "study.json").write_text(json.dumps(STUDY))
    (tmp_path / "m.py").write_text("def f(params, seed): return {}\n")
    env = {"PATH": os.environ["PATH"], "USERPROFILE": str(tmp_path / "home"), "LOCALAPPDATA": str(tmp_path / "local")}

    def run(*argv, program="mops_jobs.py", **more):
        command = [sys.executable, "-W", "ignore", WINDOWS, str(ROOT / program), *argv]
        return subprocess.run(command, env={**env, **more}, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


def _done(ran):
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_every_module_can_be_imported_on_windows(tmp_path):
    """So no command, page or function of the API fails for a module that Windows lacks."""
    (tmp_path / "all_modules.py").write_text(
        "import importlib, pkgutil, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "import mopsjobs\n"
        "for module in pkgutil.walk_packages(mopsjobs.__path__, 'mopsjobs.'):\n"
        "    importlib.import_module(module.name)\n"
    )
    command = [sys.executable, "-W", "ignore", WINDOWS, str(tmp_path / "all_modules.py")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_jobs_are_reported_mirrored_and_shown_on_windows(run):
    """In the embedded registry, and from one in memory. Directories are below USERPROFILE."""
    _done(run("register", "a-1", "--owner", "ann"))
    _done(run("sync"))
    assert "a-1" in _done(run("list", "--refresh"))
    assert json.loads(_done(run("list", "--json")))["jobs"][0]["owner"] == "ann"
    assert "pending" in _done(run("status", "a-1"))
    assert "Synced 0 jobs" in _done(run("sync", "--registry", "memory:"))


@pytest.mark.parametrize("argv", [["submit", "study.json", "--auto"], ["run", "a-1"]], ids=lambda argv: argv[0])
def test_a_local_runner_is_refused_on_windows(run, argv):
    """In one sentence, before anything is registered."""
    ran = run(*argv)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("error: Windows does not run tasks of mops-jobs")
    assert json.loads(_done(run("list", "--json")))["jobs"] == []


@pytest.mark.usefixtures("azurite")
def test_azure_is_synced_on_windows(run, azurite):
    registry = f"azure://{azurite.new_container()}"
    _done(run("register", "a-1", "--registry", registry, **azurite.env))
    assert "Synced 1 job" in _done(run("sync", "--registry", registry, **azurite.env))
    assert "a-1" in _done(run("list", "--registry", registry, **azurite.env))


def test_a_submit_to_a_cluster_works_on_windows(run):
    command = ("submit", "study.json", "--auto", "--engine", "kubernetes", "--image", "i:1", "--namespace", "n")
    env = {"AZURE_STORAGE_CONNECTION_STRING": "UseDevelopmentStorage=true"}
    assert "kind: Job" in _done(run(*command, "--print-manifest", "--registry", "azure://con", **env))
