"""What works on Windows, with a Python that lacks the same modules and functions. Commands run on a real one in CI."""

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

    def run(*argv):
        command = [sys.executable, "-W", "ignore", WINDOWS, str(ROOT / "mops_jobs.py"), *argv]
        return subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


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


@pytest.mark.parametrize("argv", [["submit", "study.json", "--auto"], ["run", "a-1"]], ids=lambda argv: argv[0])
def test_a_local_runner_is_refused_on_windows(run, argv):
    """In one sentence, before anything is registered."""
    ran = run(*argv)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("error: Windows does not run tasks of mops-jobs")
    assert json.loads(run("list", "--json").stdout)["jobs"] == []
