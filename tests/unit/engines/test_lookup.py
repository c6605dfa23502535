"""Finding a job in the engines while its record cannot be read."""

from __future__ import annotations

from pathlib import Path

from mopsjobs.engines.lookup import by_hand
from mopsjobs.errors import repeat_registry
from support.kubernetes import kubeconfig


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
