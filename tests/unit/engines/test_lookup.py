"""Finding a job in the engines while its record cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mopsjobs.engines import lookup, open_engine
from mopsjobs.engines.lookup import by_hand, find_in_engines
from mopsjobs.errors import repeat_registry
from support.kubernetes import kubeconfig


def test_an_engine_is_loaded_before_its_time_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is for the cluster. To load the modules may take longer on a busy machine or a slow disk."""
    steps: list[str] = []

    def opened(name: str, env: dict[str, str]) -> Any:
        steps.append(name)
        return open_engine(name, env)

    monkeypatch.setattr(lookup, "open_engine", opened)
    monkeypatch.setattr(lookup, "_within", lambda seconds, find: steps.append(f"{seconds:g} s"))
    env = {"HOME": str(tmp_path), "KUBECONFIG": str(tmp_path / "kubeconfig")}
    assert find_in_engines("a", env, 2.0, None) == (None, "The cluster did not answer within 2 s either.")
    assert steps == ["local", "kubernetes", "2 s"]


def test_kubectl_gets_the_names_of_mops_jobs_and_of_modelops(tmp_path: Path) -> None:
    """In the namespace that a launch from here chooses, and in that of ModelOps' environment. No other id is a name."""
    env = {"HOME": str(tmp_path)}
    theirs = "kubectl -n modelops-dask-dev get job job-1a"
    assert (
        by_hand("get", "job-1a", env) == f"By hand: kubectl get job job-1a. If instead ModelOps submitted it: {theirs}"
    )
    assert by_hand("get", "job-1a", env, is_gone=True) == f"If ModelOps submitted it: {theirs}"
    env["KUBECONFIG"] = str(kubeconfig(tmp_path, "http://127.0.0.1:9"))
    assert by_hand("delete", "Exp_2", env) == "By hand: kubectl -n from-kubeconfig delete job exp-2-d958f6d1"
    repeat_registry(registry=None, env="prod")
    try:
        assert by_hand("get", "job-1a", env).endswith(": kubectl -n modelops-dask-prod get job job-1a")
    finally:
        repeat_registry(registry=None, env=None)
