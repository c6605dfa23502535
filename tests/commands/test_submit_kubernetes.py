"""`submit --engine kubernetes`: what it asks of the cluster, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from support.cli import Cli, Remote, sentences
from support.engines import state_of
from support.kubernetes import Api, kubeconfig

STUDY = '{"model": "m:f", "scenario": "s", "parameter_sets": [{"x": 1}]}'
SUBMIT = ("submit", "study.json", "--auto", "--engine", "kubernetes", "--job-id", "seir-1", "--image", "i:1")
JOBS_PATH = "/apis/batch/v1/namespaces/models/jobs"


@pytest.fixture
def cluster(cli: Cli, remote: Remote, api: Api, tmp_path: Path) -> Api:
    """Return a cluster, a registry across a network, and a study in the current directory."""
    cli.env["KUBECONFIG"] = str(kubeconfig(tmp_path, api.url, namespace="models"))
    Path("study.json").write_text(STUDY)
    return api


CLUSTER_FLAGS = (
    "--shards", "--image", "--namespace", "--cpu", "--memory", "--secret", "--service-account", "--parallelism",
    "--context", "--gpus", "--backoff-limit", "--ttl", "--queue", "--priority-class", "--node-selector",
    "--toleration", "--pod-patch",
)  # fmt: skip


def test_a_flag_for_a_cluster_is_refused_where_there_is_none(cli: Cli) -> None:
    """It would have no effect."""
    Path("study.json").write_text('{"model": "m", "parameter_sets": [{"x": 1}]}')
    for flag in CLUSTER_FLAGS:
        ran = cli.ends(2, "submit", "study.json", "--auto", flag, "2")
        assert f"{flag} has no effect with the local engine" in ran.err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "missing --image"),
        (["--image", "i", "--cpu", "x"], "invalid --cpu"),
        (["--image", "i", "--namespace", "A"], "--namespace"),
        (
            ["--image", "i", "--toleration", "sku:Never"],
            "invalid --toleration 'sku:Never': expected KEY[=VALUE][:EFFECT]",
        ),
        (["--image", "i", "--pod-patch", "missing.yaml"], "invalid --pod-patch: expected a file that can be read"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_stored(
    cli: Cli, remote: Remote, flags: list[str], said: str
) -> None:
    """No record is left behind that says submitting for ever; a dry run tells too."""
    with open("study.json", "w", encoding="utf-8") as file:
        file.write('{"model": "m:f", "scenario": "s", "parameter_sets": [{"x": 1}]}')
    for more in ([], ["--dry-run"]):
        ran = cli.ends(2, "submit", "study.json", "--auto", "--engine", "kubernetes", *flags, *more)
        assert said in ran.err
    assert list(remote.store.inner.list_keys()) == []


# --- what is printed ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("cluster")
def test_print_manifest_shows_what_a_launch_would_create(cli: Cli, remote: Remote, cluster: Api) -> None:
    """But for the mark of the launch, that is what `submit` creates. Neither cluster nor registry is asked."""
    Path("patch.yaml").write_text("spec: {volumes: [{name: data, configMap: {name: inputs}}]}")
    flags = ("--shards", "3", "--secret", "keys", "--queue", "team-a", "--pod-patch", "patch.yaml", "--gpus", "1")
    remote.store.down = True
    ran = cli.ok(*SUBMIT, *flags, "--print-manifest")
    assert "Nothing was done." in ran.err
    printed = yaml.safe_load(ran.out)
    assert cli.ok(*SUBMIT, *flags, "--print-manifest", "--json").json == printed
    assert not list(cluster.mock)
    remote.store.down = False
    assert list(remote.store.inner.list_keys()) == []
    cli.ok(*SUBMIT, *flags)
    (request,) = cluster.requests("post", JOBS_PATH)
    created = json.loads(request.body)
    assert re.fullmatch("[0-9a-f]{16}", created["metadata"]["annotations"].pop("mops-jobs/launch-id"))
    assert created == printed
    state = state_of(remote.jobs, "seir-1")
    assert (state.status, state.k8s_namespace) == ("scheduled", "models")
    assert (state.k8s_name, state.metadata["kubernetes_job"]) == (None, "seir-1")


def test_print_manifest_needs_no_kubeconfig(cli: Cli, remote: Remote) -> None:
    """The Job then names no namespace. With another engine, there is no manifest."""
    Path("study.json").write_text(STUDY)
    assert "namespace" not in yaml.safe_load(cli.ok(*SUBMIT, "--print-manifest").out)["metadata"]
    ran = cli("submit", "study.json", "--auto", "--print-manifest")
    assert (ran.code, sentences(ran.err)) == (2, ["error: --print-manifest has no effect with the local engine."])
