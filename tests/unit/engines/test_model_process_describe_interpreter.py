"""A model's interpreter describes itself: version, platform and packages, and none of its variables."""

from __future__ import annotations

import ast
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.engines.model_process import SOURCE, describe_interpreter
from mopsjobs.ledger.environment import environment_of_worker, normalise_name
from support.runs import make_venv, tree

ENV = {"PATH": os.environ["PATH"]}


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """Return the interpreter of a virtual environment without packages."""
    return make_venv(tmp_path / "venv")


def site_of(python: Path) -> Path:
    (found,) = python.parents[1].glob("lib/python3*/site-packages")
    return found


def describe(python: Path | str, **env: str) -> Any:
    return describe_interpreter(str(python), {**ENV, **env})


def test_it_finds_the_packages_that_importlib_finds() -> None:
    """Without the 0.2 s that importlib takes for a hundred packages."""
    found = environment_of_worker(describe(sys.executable))
    # Asked in a process of its own: other tests of this one change `sys.path`.
    ask = "import importlib.metadata as m, json; print(json.dumps([(d.name, d.version) for d in m.distributions()]))"
    listed = json.loads(subprocess.check_output([sys.executable, "-c", ask], env=ENV, cwd="/"))
    assert found.packages == {normalise_name(name): version for name, version in reversed(listed)}
    assert (found.python, found.implementation) == (platform.python_version(), sys.implementation.name)
    assert found.platform == f"{sys.platform}-{platform.machine()}"


def test_it_describes_the_interpreter_of_the_model(python: Path) -> None:
    """Whatever the packages are called and however they were installed; the first on the path is the one in use."""
    tree(
        site_of(python),
        {
            "numpy-2.1.dist-info/METADATA": "Name: numpy\nVersion: 2.1\n",
            "Old_Style-1.0-py3.11.egg-info/PKG-INFO": "Name: Old_Style\nVersion: 1.0\n",
            "develop.egg-info/PKG-INFO": "Metadata-Version: 2.1\nName: develop\nVersion: 3.dev0\n",
            "broken.egg-info/other": "",
        },
    )
    elsewhere = tree(python.parent / "more", {"numpy-1.9.dist-info/METADATA": "Name: numpy\nVersion: 1.9\n"})
    packages = {"numpy": "2.1", "old-style": "1.0", "develop": "3.dev0", "broken": ""}
    assert environment_of_worker(describe(python)).packages == packages
    first = environment_of_worker(describe(python, PYTHONPATH=str(elsewhere))).packages
    assert first == {**packages, "numpy": "1.9"}


def test_what_a_start_prints_does_no_harm(python: Path) -> None:
    (site_of(python) / "sitecustomize.py").write_text('print(\'{"python": "hello"}\')\n')
    assert describe(python)["python"] == platform.python_version()


def test_it_says_nothing_of_variables_and_paths(python: Path) -> None:
    said = str(describe(python, SECRET="hunter2", PYTHONPATH="/somewhere"))
    assert not [word for word in ("hunter2", "SECRET", "/somewhere", str(python.parent)) if word in said]


@pytest.mark.parametrize("program", ["/nowhere/python", "/bin/false", "/bin/true", "/bin/echo"])
def test_a_program_that_is_not_python_has_no_description(program: str) -> None:
    assert describe(program) is None


def test_python_3_8_can_run_the_script() -> None:
    ast.parse(SOURCE, feature_version=(3, 8))
