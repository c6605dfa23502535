"""What makes a release: the metadata, the licences, and files that come out the same each time."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
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


def test_the_metadata_name_licence_and_authors(wheel: dict[str, bytes]) -> None:
    """The wheel says who made it and under which licence, in the fields of metadata 2.4."""
    (name,) = [name for name in wheel if name.endswith(".dist-info/METADATA")]
    metadata = Parser().parsestr(wheel[name].decode())
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Author"] == "The mops-jobs developers"
    assert metadata["Keywords"]
    assert not [one for one in metadata.get_all("Classifier") or [] if one.startswith("License")]


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
METADATA += b"Project-URL: Source, https://example.org/some-lib\n"


def test_a_package_without_a_licence_text_stops_the_build() -> None:
    """The build names the package, unless a reason stands in `WITHOUT_TEXT`."""
    licenses = _licenses()
    files = [("some_lib-1.5.dist-info/METADATA", METADATA), ("some_lib/__init__.py", b"")]
    with pytest.raises(SystemExit, match="Some-Lib has no licence text"):
        licenses.third_party_licenses(files)
    licenses.WITHOUT_TEXT["Some-Lib"] = "The author has placed it in the public domain."
    assert "placed it in the public domain" in licenses.third_party_licenses(files)


@pytest.mark.parametrize("place", ["licenses/LICENSE.txt", "LICENCE", "licenses/sub/COPYING"])
def test_licence_texts_come_with_name_version_and_sources(place: str) -> None:
    """Each package has its name, version, licence, address and texts."""
    files = [("some_lib-1.5.dist-info/METADATA", METADATA), (f"some_lib-1.5.dist-info/{place}", b"Be kind.\r\n")]
    text = _licenses().third_party_licenses(files)
    for line in (
        "Some-Lib 1.5",
        "Licence: BSD-3-Clause",
        "Sources: https://example.org/some-lib",
        "Be kind.",
    ):
        assert line in text.splitlines()


@pytest.mark.parametrize(
    ("tag", "complaint"), [("v9.9.9", "invalid tag 'v9.9.9': expected v"), ("0.1.0", "invalid tag '0.1.0': expected v")]
)
def test_a_tag_that_is_not_the_version_makes_no_release(tag: str, complaint: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ONEFILE / "release.py"), "packages", "--output", str(tmp_path), "--tag", tag]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert complaint in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_citation_names_the_version_and_its_date() -> None:
    """CITATION.cff has the version of the package, and the date of its section in CHANGELOG.md."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    section = f"## [{citation['version']}] - {citation['date-released']}"
    assert citation["version"] == __version__
    assert section in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("tool", ["ruff", "mypy", "codespell"])
def test_pre_commit_calls_the_tools_of_the_lock_file(tool: str) -> None:
    """Each hook is local and runs what build/venv holds, so nothing is fetched."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert {repo["repo"] for repo in config["repos"]} == {"local"}
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert {hook["language"] for hook in hooks} == {"system"}
    assert any(hook["entry"].startswith(f"build/venv/bin/{tool}") for hook in hooks)
    assert f"\n{tool}==" in (ROOT / "requirements" / "dev.lock").read_text(encoding="utf-8")
