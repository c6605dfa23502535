"""The wheel and the sdist: what is in them, and that they work in an empty environment of each Python."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from mopsjobs import __version__
from support.docs import ROOT
from support.packages import make_environment, pythons_by_minor, uv
from support.runs import PATIENCE

pytest.importorskip("uv", reason="./build.sh test installs uv, which makes the environments")

STEM = f"mops_jobs-{__version__}"
WHEEL, SDIST = f"{STEM}-py3-none-any.whl", f"{STEM}.tar.gz"
MODEL = "def simulate(params, seed):\n    return {'double': 2 * params['x']}\n"
PROGRAM = """
import mopsjobs as mj
with mj.connect() as reg:
    job = reg.submit(mj.Study("model:simulate", mj.grid(x=[1, 2]), outputs=["result.json"]), "code", workers=1)
    job.wait()
    job.raise_for_status()
    print([row["double"] for row in job.results()], mj.__file__)
"""


def _run(words: list[str], place: Path) -> str:
    """Run a program in an empty home, and return what it prints."""
    env = {"PATH": os.environ["PATH"], "HOME": str(place)}
    ran = subprocess.run(words, cwd=place, env=env, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def _files(environment: Path) -> dict[str, bytes]:
    """Return the installed files of mops-jobs."""
    (site_packages,) = environment.glob("lib/python*/site-packages")
    paths = [site_packages / "mops_jobs.py", *(site_packages / "mopsjobs").rglob("*")]
    files = [path for path in paths if path.is_file() and path.suffix != ".pyc"]
    return {str(path.relative_to(site_packages)): path.read_bytes() for path in files}


OLDEST, *LATER = pythons_by_minor()
WITH_LONG = [pytest.param(*later.values, id=later.id, marks=pytest.mark.long) for later in LATER]
"""In CI, the single file runs on these."""


@pytest.mark.parametrize("python", [OLDEST, *WITH_LONG])
def test_both_packages_work_in_an_empty_environment(python: str, packages: Path, tmp_path: Path) -> None:
    """The wheel brings what it requires: a study runs, the command starts. The sdist installs the same files."""
    environment = tmp_path / "environment"
    interpreter = make_environment(environment, python, packages / WHEEL)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "model.py").write_text(MODEL)
    results, place = _run([str(interpreter), "-W", "ignore::ResourceWarning", "-c", PROGRAM], tmp_path).rsplit(" ", 1)
    assert results == "[2, 4]"
    assert place.startswith(str(environment))
    command = [str(environment / "bin" / "mops-jobs"), "--version"]
    assert _run(command, tmp_path) == f"mops-jobs {__version__}\n"
    by_wheel = _files(environment)
    uv("pip", "install", "--python", str(interpreter), "--no-deps", "--reinstall", str(packages / SDIST))
    assert _files(environment) == by_wheel
    assert _run(command, tmp_path) == f"mops-jobs {__version__}\n"


def test_the_sdist_holds_the_sources_alone(packages: Path) -> None:
    """The program, README, licence and what builds them; no test, document or note of a machine."""
    with tarfile.open(packages / SDIST) as archive:
        names = {name.removeprefix(f"{STEM}/") for name in archive.getnames()} - {STEM}
    tops = {name.partition("/")[0] for name in names}
    sources = {"mops_jobs.py", "mopsjobs", "pyproject.toml", "README.md", "LICENSE"}
    assert tops == sources | {"PKG-INFO", "setup.cfg", "mops_jobs.egg-info"}
    assert {"mopsjobs/py.typed", "mopsjobs/schemas/job.json", "mopsjobs/cache/schema.sql"} <= names


def test_uvx_runs_the_command_without_an_installation(packages: Path) -> None:
    """As users of `uvx` start it, in an environment that uv makes for it."""
    words = ["tool", "run", "--python", sys.executable, "--constraints", str(ROOT / "requirements" / "runtime.lock")]
    assert uv(*words, "--from", str(packages / WHEEL), "mops-jobs", "--version") == f"mops-jobs {__version__}\n"
