"""The Pythons of this machine, and environments that have mops-jobs installed from its packages."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.docs import ROOT
from support.runs import PATIENCE


@functools.cache  # two files ask for them while the tests are collected
def find_pythons() -> dict[tuple[str, str], str]:
    """Find every CPython from 3.11 in PATH that starts; a version manager's shim may not.

    Returns:
        The path of each, by its version and the file that it is a link to, the oldest first.
    """
    found: dict[tuple[str, str], str] = {}
    names = ["python3", *(f"python3.{minor}" for minor in range(11, 20))]
    for path in [sys.executable, *(shutil.which(name, path=place) for place in os.get_exec_path() for name in names)]:
        if path is None:
            continue
        probe = "import sys; print(sys.implementation.name, '%d.%d.%d' % sys.version_info[:3], sys.executable)"
        run = subprocess.run([path, "-c", probe], capture_output=True, text=True, check=False)
        name, _, rest = run.stdout.strip().partition(" ")
        version, _, executable = rest.partition(" ")
        if name == "cpython" and _numbers(version) >= (3, 11):
            found.setdefault((version, os.path.realpath(executable)), executable)
    return dict(sorted(found.items(), key=lambda item: _numbers(item[0][0])))


def pythons() -> list[Any]:
    """Return every Python as a parameter of a test: with `--long`, those too that are not the newest of their minor."""
    return [
        pytest.param(executable, id=version, marks=[] if executable in _newest().values() else [pytest.mark.long])
        for (version, _), executable in find_pythons().items()
    ]


def pythons_by_minor() -> list[Any]:
    """Return the newest Python of each minor version as a parameter of a test."""
    return [pytest.param(executable, id=minor) for minor, executable in _newest().items()]


def _newest() -> dict[str, str]:
    return {version.rpartition(".")[0]: executable for (version, _), executable in find_pythons().items()}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def uv(*words: str) -> str:
    """Run uv, and return its output. Only if its cache lacks a package, it uses the network."""
    pytest.importorskip("uv", reason="./build.sh test installs uv, which makes the environments")
    command = [sys.executable, "-m", "uv", "--quiet", "--native-tls", *words]
    ran = subprocess.run([*command, "--offline"], capture_output=True, text=True, check=False, timeout=PATIENCE)
    if ran.returncode != 0:
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def make_environment(place: Path, python: str, package: Path) -> Path:
    """Make a virtual environment with a package and what it requires, in the versions of the lock file.

    Returns:
        Its interpreter.
    """
    uv("venv", "--python", python, str(place))
    interpreter = place / "bin" / "python"
    lock = str(ROOT / "requirements" / "runtime.lock")
    uv("pip", "install", "--python", str(interpreter), "--constraint", lock, str(package))
    return interpreter
