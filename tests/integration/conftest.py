"""Fixtures that several files of this folder use."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mopsjobs.cache.database import open_to_write
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from support.cli import REMOTE_URL, Cli
from support.docs import ROOT
from support.servers import Place

if TYPE_CHECKING:
    from mopsjobs.store.base import VersionedStore
    from support.servers import Azurite

EXAMPLE = ROOT / "examples" / "seir"


@pytest.fixture
def local_store(cli: Cli) -> Iterator[VersionedStore]:
    """Open the store of the embedded registry of `cli`."""
    with closing(open_store(cli.env["MOPS_JOBS_REGISTRY"], {})) as opened:
        yield opened


@pytest.fixture
def local_registry(local_store: VersionedStore) -> JobRegistry:
    """Return the embedded registry of `cli`, by the real clock, as its runners use it."""
    return JobRegistry(local_store)


@pytest.fixture
def seir(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Return the example with fewer tasks, in the current directory; the words that submit it."""
    here = tmp_path / "seir"
    here.mkdir()
    shutil.copy(EXAMPLE / "seir.py", here)
    document = json.loads((EXAMPLE / "study.json").read_text())
    document["parameter_sets"] = document["parameter_sets"][::10]
    (here / "study.json").write_text(json.dumps(document))
    monkeypatch.chdir(here)
    return ["submit", "study.json", "--auto"]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return an empty cache, to be copied: making one takes longer than all that happens to it."""
    path = str(tmp_path_factory.mktemp("template") / "cache.db")
    open_to_write(path, REMOTE_URL).close()
    return path


@pytest.fixture(params=["embedded", pytest.param("azurite", marks=pytest.mark.azurite)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Return an environment for programs whose registry is embedded, or in an Azurite."""
    env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "MOPS_JOBS_CACHE": f"{tmp_path}/cache.db"}
    if request.param == "embedded":
        file = tmp_path / "registry.db"
        return Place({**env, "MOPS_JOBS_REGISTRY": f"sqlite://{file}"}, lambda: file.rename(file.with_name("moved.db")))
    azurite: Azurite = request.getfixturevalue("azurite")
    container = azurite.new_container()
    there = {"AZURE_STORAGE_CONNECTION_STRING": azurite.connection_string}
    client = azurite.client(container)
    return Place({**env, **there, "MOPS_JOBS_REGISTRY": f"azure://{container}"}, client.delete_container)


@pytest.fixture
def env(place: Place) -> dict[str, str]:
    """Return the environment of `place`."""
    return place.env
