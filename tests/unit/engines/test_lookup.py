"""Finding a job in the engines while its record cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mopsjobs.engines import lookup, open_engine
from mopsjobs.engines.lookup import find_in_engines


def test_an_engine_is_loaded_before_its_time_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is for the cluster. To load the modules may take longer on a busy machine or a slow disk."""
    steps: list[str] = []

    def opened(name: str, env: dict[str, str]) -> Any:
        steps.append(name)
        return open_engine(name, env)

    monkeypatch.setattr(lookup, "open_engine", opened)
    monkeypatch.setattr(lookup, "_within", lambda seconds, find: steps.append(f"{seconds:g} s"))
    env = {"HOME": str(tmp_path), "KUBECONFIG": str(tmp_path / "kubeconfig")}
    assert find_in_engines("a", env, 2.0) == (None, "The cluster did not answer within 2 s either.")
    assert steps == ["local", "kubernetes", "2 s"]
