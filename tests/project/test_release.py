"""What makes a release: metadata, licences, and packages that come out the same each time and work on each Python."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from mopsjobs import __version__
from mopsjobs.cli.commands.care.version import LIBRARIES
from support.docs import ROOT, load_module
from support.packages import make_environment, pythons_by_minor, uv
from support.runs import PATIENCE

ONEFILE = ROOT / "onefile"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _build(output: Path, **kwargs: Any) -> None:
    command = [sys.executable, str(ONEFILE / "release.py"), "packages", "--output", str(output)]
    subprocess.run(command, check=True, capture_output=True, **kwargs)


@pytest.fixture(name="wheel", scope="module")
def _wheel(packages: Path) -> dict[str, bytes]:
    """Return the files of the wheel."""
    (path,) = packages.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_licence_and_py_typed_are_in_the_wheel(wheel: dict[str, bytes]) -> None:
    (licence,) = [name for name in wheel if name.endswith("/licenses/LICENSE")]
    assert wheel[licence] == (ROOT / "LICENSE").read_bytes()
    assert wheel["mopsjobs/py.typed"] == b""


def test_packages_do_not_depend_on_umask_time_zone_or_clock(packages: Path, tmp_path: Path) -> None:
    """A second build elsewhere gives the same bytes, of the wheel and of the sdist."""
    _build(tmp_path, umask=0o077, env={**os.environ, "TZ": "Pacific/Apia"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in packages.iterdir()
    }


def test_version_tells_of_each_dependency() -> None:
    """The libraries of `version` are the dependencies of pyproject.toml, and those of its extras."""
    declared = [
        *PROJECT["dependencies"],
        *(one for extra in PROJECT["optional-dependencies"].values() for one in extra),
    ]
    names = {re.split(r"[^\w.-]", requirement, maxsplit=1)[0] for requirement in declared}
    assert set(LIBRARIES) == names


METADATA = b"Metadata-Version: 2.4\nName: Some-Lib\nVersion: 1.5\nLicense-Expression: BSD-3-Clause\n"


def test_a_package_without_a_licence_text_stops_the_build() -> None:
    """The build names the package."""
    files = [("some_lib-1.5.dist-info/METADATA", METADATA), ("some_lib/__init__.py", b"")]
    with pytest.raises(SystemExit, match="Some-Lib has no licence text"):
        load_module(ONEFILE / "licenses.py").third_party_licenses(files)


@pytest.mark.parametrize("place", ["licenses/LICENSE.txt", "LICENCE", "licenses/sub/COPYING"])
def test_licence_texts_come_with_name_version_and_sources(place: str) -> None:
    """Each package has its name, version, licence and texts."""
    files = [("some_lib-1.5.dist-info/METADATA", METADATA), (f"some_lib-1.5.dist-info/{place}", b"Be kind.\r\n")]
    text = load_module(ONEFILE / "licenses.py").third_party_licenses(files)
    for line in ("Some-Lib 1.5", "Licence: BSD-3-Clause", "Be kind."):
        assert line in text.splitlines()


def test_a_tag_that_is_not_the_version_makes_no_release(tmp_path: Path) -> None:
    command = [sys.executable, str(ONEFILE / "release.py"), "packages", "--output", str(tmp_path), "--tag", "v9.9.9"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "invalid tag 'v9.9.9': expected v" in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_citation_names_the_version_and_its_date() -> None:
    """CITATION.cff has the version of the package, and the date of its section in CHANGELOG.md."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    section = f"## [{citation['version']}] - {citation['date-released']}"
    assert citation["version"] == __version__
    assert section in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()


# --- in an empty environment -----------------------------------------------------------------------------------------

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
