"""What makes a release: the metadata, the licences, and files that come out the same each time."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from mopsjobs import __version__
from mopsjobs.cli.commands.care.version import LIBRARIES

ROOT = Path(__file__).resolve().parents[2]
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


def _licenses() -> Any:
    """Return the module onefile/licenses.py, which lies in no package."""
    spec = importlib.util.spec_from_file_location("licenses", ONEFILE / "licenses.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


METADATA = b"Metadata-Version: 2.4\nName: Some-Lib\nVersion: 1.5\nLicense-Expression: BSD-3-Clause\n"


def test_a_package_without_a_licence_text_stops_the_build() -> None:
    """The build names the package."""
    files = [("some_lib-1.5.dist-info/METADATA", METADATA), ("some_lib/__init__.py", b"")]
    with pytest.raises(SystemExit, match="Some-Lib has no licence text"):
        _licenses().third_party_licenses(files)


@pytest.mark.parametrize("place", ["licenses/LICENSE.txt", "LICENCE", "licenses/sub/COPYING"])
def test_licence_texts_come_with_name_version_and_sources(place: str) -> None:
    """Each package has its name, version, licence and texts."""
    files = [("some_lib-1.5.dist-info/METADATA", METADATA), (f"some_lib-1.5.dist-info/{place}", b"Be kind.\r\n")]
    text = _licenses().third_party_licenses(files)
    for line in (
        "Some-Lib 1.5",
        "Licence: BSD-3-Clause",
        "Be kind.",
    ):
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
