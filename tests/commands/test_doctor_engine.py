"""`doctor --engine`: what a cluster lacks for a launch, before `submit` finds out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import kmock
import pytest
import yaml

from mopsjobs.app.care.engine_checks import VERBS
from support.kubernetes import kubeconfig
from support.slurm_commands import FakeSlurm

if TYPE_CHECKING:
    from mopsjobs.registry.job_registry import JobRegistry
    from support.cli import Cli
    from support.kubernetes import Api

REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
JOBS_PATH = "/apis/batch/v1/namespaces/models/jobs"
ENDING = "ask who runs the cluster"


@pytest.fixture
def cluster(cli: Cli, jobs: JobRegistry, api: Api, tmp_path: Path) -> Api:
    """Return a cluster, and an image for it."""
    cli.env["KUBECONFIG"] = str(kubeconfig(tmp_path, api.url, namespace="models"))
    cli.env["MOPS_JOBS_IMAGE"] = "sims:1"
    api.answer("/version", {"gitVersion": "v1.36.2"})
    return api


def _accept(api: Api) -> None:
    """Let the server accept each Job."""
    api.mock[f"post {JOBS_PATH}"] << (lambda request: request.data)


def _permit(api: Api, *verbs: tuple[str, str]) -> None:
    """Let the user have these verbs; all without one."""
    permitted = set(verbs or ((verb.verb, verb.resource) for verb in VERBS))

    def review(request: Any) -> Any:
        asked = request.data["spec"]["resourceAttributes"]
        resource = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
        assert asked["namespace"] == "models"
        for (kind, _, _), kept in api.mock.objects.items():
            if kind.plural == "selfsubjectaccessreviews" and not kept.deleted:
                kept.delete()  # a cluster keeps no review
        return {"status": {"allowed": (asked["verb"], resource) in permitted}}

    api.mock[f"post {REVIEWS}"] << review


def _checks(cli: Cli, code: int = 0, *flags: str) -> list[tuple[str, str, str, str | None]]:
    """Return name, state, detail and fix of the checks of the engine."""
    ran = cli("doctor", "--engine", *(flags or ("kubernetes",)), "--json")
    assert ran.code == code, ran
    checks = [(one["name"], one["state"], one["detail"], one["fix"]) for one in ran.json["checks"]]
    return checks[[name for name, *_ in checks].index("records") + 1 :]


def test_a_cluster_on_which_jobs_can_run(cli: Cli, cluster: Api) -> None:
    """Each verb is asked about, and the server checks a Job, which it does not create."""
    _permit(cluster)
    _accept(cluster)
    checks = {name: (state, detail, fix) for name, state, detail, fix in _checks(cli)}
    assert checks.pop("k8s clock")[0] in ("ok", "warn"), "the clock of the command stands still"
    assert checks == {
        "cluster": ("ok", f"Kubernetes v1.36.2 at {cluster.url}, namespace models", None),
        "role": ("ok", "create, get, delete jobs; list pods; get pods/log; list events", None),
        "manifest": ("ok", "the cluster accepts a Job with image sims:1 (dry run; nothing was pulled)", None),
    }
    assert len(cluster.requests("post", REVIEWS)) == len(VERBS)
    (request,) = cluster.requests("post", JOBS_PATH)
    assert request.params["dryRun"] == "All"


def test_each_missing_verb_is_told_with_what_it_costs(cli: Cli, cluster: Api) -> None:
    """Without those for logs and events, jobs run all the same."""
    _permit(cluster, ("create", "jobs"), ("get", "jobs"), ("list", "pods"))
    _accept(cluster)
    role = [check for check in _checks(cli, 4) if check[0] == "role"]
    fix = f"{ENDING} to apply contrib/kubernetes/role.yaml in namespace models"
    assert role == [
        ("role", "fail", "may not delete jobs: cancel ends the record alone, and pods run until they see it", fix),
        ("role", "warn", "may not get pods/log: no log of the pods", fix),
        ("role", "warn", "may not list events: no word about quotas and missing volumes", fix),
    ]


def test_the_role_of_contrib_is_what_doctor_checks() -> None:
    role, _ = yaml.safe_load_all(Path("contrib/kubernetes/role.yaml").read_text("utf-8"))
    granted = {
        (verb, group, resource)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted == {(verb.verb, verb.group, verb.resource) for verb in VERBS}


def test_what_else_may_hold_up_a_launch(cli: Cli, cluster: Api) -> None:
    """A policy, a quota that is used up, a queue that starts nothing, and a clock that is wrong."""
    _permit(cluster)
    denied = {"kind": "Status", "code": 422, "message": "admission webhook denied: images come from ours"}
    cluster.answer(JOBS_PATH, denied, status=422, method="post")
    status = {"hard": {"pods": "10", "requests.cpu": "8"}, "used": {"pods": "3", "requests.cpu": "8"}}
    quotas = {"items": [{"metadata": {"name": "team"}, "status": status}]}
    cluster.answer("/api/v1/namespaces/models/resourcequotas", quotas)
    off = {"type": "Active", "status": "False", "message": "ClusterQueue is missing"}
    queues = [
        {"metadata": {"name": "day"}, "status": {"pendingWorkloads": 2, "admittedWorkloads": 1}},
        {"metadata": {"name": "night"}, "status": {"conditions": [off]}},
    ]
    cluster.answer("/apis/kueue.x-k8s.io/v1beta2/namespaces/models/localqueues", {"items": queues})
    cli.clock.advance(days=1)
    checks = _checks(cli, 6)
    states = "k8s clock warn, role ok, manifest fail, quota warn, queue ok, queue warn"
    assert ", ".join(f"{name} {state}" for name, state, *_ in checks[1:]) == states
    details = [detail for _, _, detail, _ in checks]
    assert "images come from ours" in details[3]
    assert details[4:] == [
        "team: pods 3 of 10, requests.cpu 8 of 8 used; nothing is left of requests.cpu",
        "day of Kueue: 2 waiting, 1 admitted",
        "night of Kueue starts no job: ClusterQueue is missing",
    ]
    assert all(fix for _, state, _, fix in checks if state != "ok")


def test_a_warning_of_the_server_is_told(cli: Cli, cluster: Api) -> None:
    """An API server answers a Job that PodSecurity would refuse to run with a header alone."""
    _permit(cluster)
    said = 'would violate PodSecurity \\"restricted:latest\\"'
    made = kmock.headers({"Warning": f'299 - "{said}"'})
    cluster.mock[f"post {JOBS_PATH}"] << made << (lambda request: request.data)
    manifest = next(check for check in _checks(cli) if check[0] == "manifest")
    assert (manifest[1], "would violate PodSecurity" in manifest[2]) == ("warn", True)


def test_a_cluster_that_drops_fields_is_told_of(cli: Cli, cluster: Api) -> None:
    """An older API server leaves out what it does not know. What it adds and writes in another form does not count."""
    _permit(cluster)

    def without_policy(request: Any) -> Any:
        job = request.data
        del job["spec"]["podFailurePolicy"]
        (runner,) = job["spec"]["template"]["spec"]["containers"]
        runner["resources"] = {"requests": {"cpu": "1000m"}, "limits": {"cpu": "1000m"}}
        job["spec"]["template"]["spec"]["containers"] = [{"name": "proxy", "image": "p"}, runner]
        return job

    cluster.mock[f"post {JOBS_PATH}"] << without_policy
    manifest = next(check for check in _checks(cli) if check[0] == "manifest")
    assert manifest[1:3] == ("warn", "the cluster drops spec.podFailurePolicy")


def test_a_cluster_that_is_away_is_one_line(cli: Cli, cluster: Api) -> None:
    """Without an image, the rest is checked all the same."""
    _permit(cluster)
    del cli.env["MOPS_JOBS_IMAGE"]
    assert ("manifest", "warn", "not checked: no image is set", "name one: MOPS_JOBS_IMAGE=IMAGE") in _checks(cli)
    cluster.go_away()
    ((name, state, detail, fix),) = _checks(cli, 5)
    assert (name, state, fix) == ("cluster", "fail", "Try again, or check with: kubectl cluster-info")
    assert detail.startswith("Cannot reach the cluster")


def test_a_wrong_partition_is_told_with_the_right_ones(cli: Cli, jobs: JobRegistry, tmp_path: Path) -> None:
    slurm = FakeSlurm(tmp_path / "slurm")
    cli.env |= slurm.env
    slurm.says("sinfo", "main|up|1-00:00:00|4\ngpu|up|infinite|1\n")
    slurm.says("sbatch", "sbatch: error: invalid partition specified: wide\n", code=1)
    checks = _checks(cli, 6, "slurm", "--partition", "wide")
    assert checks[-2:] == [
        ("partitions", "ok", "main up, up to 1-00:00:00, nodes: 4; gpu up, up to infinite, nodes: 1", None),
        ("launch", "fail", "Slurm refuses sbatch: invalid partition specified: wide.", "name a partition: main, gpu"),
    ]
    assert slurm.asked[-1] == "sbatch --test-only --partition=wide --wrap=true"
    slurm.says("sbatch")
    assert _checks(cli, 0, "slurm")[-1][1:3] == ("ok", "Slurm takes a job with the defaults of the cluster (test only)")


def test_a_flag_of_another_engine_is_refused(cli: Cli) -> None:
    ran = cli("doctor", "--partition", "main")
    assert (ran.code, "--partition has no effect without --engine slurm." in ran.err) == (2, True)
