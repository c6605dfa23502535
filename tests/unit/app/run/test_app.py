"""What one run has and knows."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from mopsjobs.bundles.packing import pack
from mopsjobs.utils.user_dirs import temporary_path
from support.cli import Cli
from support.runs import tree

DEFAULTS = {"CONFIG": ".config", "DATA": ".local/share", "CACHE": ".cache", "STATE": ".local/state"}


@pytest.mark.parametrize("root", ["", "mine", ".mine"], ids=["defaults", "visible", "hidden"])
def test_nothing_that_mops_jobs_keeps_is_packed_with_a_home(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    """Its directories, caches and registries stay out, though the rules of the user bring everything in."""
    home = tmp_path / "home"
    places = {f"XDG_{name}_HOME": str(home / root / name) for name in DEFAULTS} if root else {}
    below = [f"{root}/{name}" for name in DEFAULTS] if root else DEFAULTS.values()
    monkeypatch.setattr(tempfile, "tempdir", str(home / "tmp"))
    own = [
        *(f"{one}/mops-jobs/some/file" for one in below), f"tmp/{Path(temporary_path()).name}/x", "builds/app/x",
        "c.db", "c.db-wal", "c.db.lock", "c.db-results/a.sqlite", "c.db-series/b", "c.db.damaged-20260301T100000Z",
        "registry.db", "registry.db-wal", ".mops-jobs.part",
    ]  # fmt: skip
    tree(
        home, dict.fromkeys([*own, "model.py", ".cache/other", ".config/other"], "") | {".modelopsignore": "!*\n!.*\n"}
    )
    cli.env.update(
        places, HOME=str(home), MOPS_JOBS_CACHE=str(home / "c.db"), MOPS_JOBS_UNPACK=str(home / "builds"),
        MOPS_JOBS_REGISTRY=f"sqlite://{home}/registry.db",
    )  # fmt: skip
    with pack(home, leave_out=cli.app().own_files()) as packed:
        assert set(packed.names) == {"model.py", ".cache/other", ".config/other", ".modelopsignore"}
