"""The packages of this tree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.docs import ROOT
from support.packages import make_environment


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the wheel and the sdist of this tree, built without the network."""
    directory = tmp_path_factory.mktemp("packages")
    command = [sys.executable, str(ROOT / "onefile" / "release.py"), "packages", "--output", str(directory)]
    subprocess.run(command, check=True, capture_output=True)
    return directory


@pytest.fixture(scope="session")
def interpreter(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of an environment that has the wheel, and nothing that it does not require."""
    (wheel,) = packages.glob("*.whl")
    return make_environment(tmp_path_factory.mktemp("installed") / "environment", sys.executable, wheel)
