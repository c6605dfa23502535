"""Check that this user can run jobs on a cluster, for `doctor --engine`. Nothing is created."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from mopsjobs.app.care.checks import SET_CLOCK, CheckResult, failed
from mopsjobs.app.run.app import App
from mopsjobs.cache.job_json import SILENT_SECONDS
from mopsjobs.engines.base import Launch
from mopsjobs.engines.kubernetes.client import Cluster, open_cluster
from mopsjobs.engines.kubernetes.manifest import CONTEXT_VARIABLE, build_manifest, check_namespace, job_name
from mopsjobs.engines.kubernetes.pod_patch import differences
from mopsjobs.engines.kubernetes.pods import VERSIONS
from mopsjobs.engines.slurm.commands import Commands
from mopsjobs.errors import EXIT_REFUSED, EXIT_SIGN_IN, EngineError, MopsJobsError
from mopsjobs.utils.text import join_first
from mopsjobs.utils.times import human_duration

ROLE = "contrib/kubernetes/role.yaml"

IMAGE_VARIABLE = "MOPS_JOBS_IMAGE"

SECONDS = 10.0
"""How long a cluster may take for an answer, such as to a dry run."""

WARNING = re.compile(r'299 \S+ "((?:[^"\\]|\\.)*)"')
"""A warning of an API server, in the header of a response."""

SHOWN = 5

ASK = "ask who runs the cluster"

PARTITION_FACTS = re.compile(r"^(.*?)\|(.*?)\|(.*?)\|(.*)$")
"""What sinfo prints of a partition: its name, whether it is up, its time limit, and its nodes."""


class Verb(NamedTuple):
    """A permission of the Role, and what is missing without it."""

    verb: str
    group: str
    resource: str
    cost: str
    is_needed: bool = True


VERBS = (
    Verb("create", "batch", "jobs", "no launch"),
    Verb("get", "batch", "jobs", "no launch after a lost reply, no state, no cancel"),
    Verb("delete", "batch", "jobs", "cancel ends the record alone, and pods run until they see it"),
    Verb("list", "", "pods", "no reason of pods that cannot start, no log"),
    Verb("get", "", "pods/log", "no log of the pods", is_needed=False),
    Verb("list", "", "events", "no word about quotas and missing volumes", is_needed=False),
)


def check_kubernetes(app: App, namespace: str | None) -> list[CheckResult]:
    """Check the cluster that a launch would use: its certificate, its clock, the Role, a dry run, quotas and queues."""
    env = app.env
    try:
        with open_cluster(env, env.get(CONTEXT_VARIABLE) or None, read_seconds=SECONDS) as cluster:
            place = check_namespace(namespace or cluster.namespace)
            return list(_checks(app, cluster, place))
    except MopsJobsError as error:
        return [_problem("cluster", error)]


def _checks(app: App, cluster: Cluster, namespace: str) -> Iterator[CheckResult]:
    version, headers = cluster.request("GET", "/version")
    facts = f"Kubernetes {version.get('gitVersion', '?')} at {cluster.server}, namespace {namespace}"
    yield CheckResult("cluster", "ok", facts)
    with contextlib.suppress(TypeError, ValueError):  # a proxy may leave the header out
        ahead = (app.now() - parsedate_to_datetime(headers["Date"])).total_seconds()
        yield _check_clock(ahead)
    yield from _check_role(cluster, namespace)
    yield _check_manifest(app, cluster, namespace)
    yield from _check_quotas(cluster, namespace)
    yield from _check_queues(cluster, namespace)


def _check_clock(ahead: float) -> CheckResult:
    direction = "ahead of" if ahead > 0 else "behind"
    detail = f"this machine's clock is {human_duration(abs(ahead))} {direction} the cluster's"
    if abs(ahead) <= SILENT_SECONDS / 2:
        return CheckResult("k8s clock", "ok", detail)
    return CheckResult("k8s clock", "warn", f"{detail}, so times of pods look wrong here", SET_CLOCK)


def _check_role(cluster: Cluster, namespace: str) -> Iterator[CheckResult]:
    """Yield what this user may not do in the namespace, or that nothing is missing."""
    missing = []
    for verb in VERBS:
        resource, _, part = verb.resource.partition("/")
        attributes = {"namespace": namespace, "verb": verb.verb, "group": verb.group, "resource": resource}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {**attributes, **({"subresource": part} if part else {})}},
        }
        try:
            answer, _ = cluster.request("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
        except EngineError as error:
            yield _problem("role", error, "warn")
            return
        if not (answer.get("status") or {}).get("allowed"):
            missing.append(verb)
    for verb in missing:
        detail, state = f"may not {verb.verb} {verb.resource}: {verb.cost}", "fail" if verb.is_needed else "warn"
        yield CheckResult("role", state, detail, f"{ASK} to apply {ROLE} in namespace {namespace}", EXIT_SIGN_IN)
    if not missing:
        yield CheckResult("role", "ok", "create, get, delete jobs; list pods; get pods/log; list events")


def _check_manifest(app: App, cluster: Cluster, namespace: str) -> CheckResult:
    """Check by a dry run on the server that it accepts the Job of a launch."""
    image = app.env.get(IMAGE_VARIABLE)
    if not image:
        return CheckResult("manifest", "warn", "not checked: no image is set", f"name one: {IMAGE_VARIABLE}=IMAGE")
    launch = Launch(job_id="doctor", registry_url="azure://doctor", options={"image": image})
    try:
        manifest = build_manifest(launch, namespace=namespace, launch_id="doctor", env=app.env)
        manifest["metadata"]["name"] = job_name(f"doctor-{app.now():%Y%m%d-%H%M%S}")
        path = f"/apis/batch/v1/namespaces/{namespace}/jobs?dryRun=All"
        created, headers = cluster.request("POST", path, manifest)
    except MopsJobsError as error:
        return _problem("manifest", error)
    lacking = [path for path, gone in differences(manifest["spec"], created.get("spec") or {}, "spec") if gone]
    if lacking:
        detail = f"the cluster drops {', '.join(lacking)}"
        return CheckResult("manifest", "warn", detail, "use a cluster with Kubernetes 1.29 or newer")
    if warnings := WARNING.findall(headers.get("Warning", "")):  # such as those of PodSecurity
        detail = f"the cluster warns: {'; '.join(warnings)}"
        return CheckResult("manifest", "warn", detail, f"correct it by --pod-patch, or {ASK}")
    return CheckResult("manifest", "ok", f"the cluster accepts a Job with image {image} (dry run; nothing was pulled)")


def _check_quotas(cluster: Cluster, namespace: str) -> Iterator[CheckResult]:
    """Yield what is used of each quota of the namespace. A role may not permit to list them."""
    with contextlib.suppress(EngineError):
        quotas, _ = cluster.request("GET", f"/api/v1/namespaces/{namespace}/resourcequotas")
        for quota in _items(quotas):
            status = quota.get("status") or {}
            hard, used = status.get("hard") or {}, status.get("used") or {}
            parts = [f"{name} {used.get(name, '0')} of {limit}" for name, limit in sorted(hard.items())]
            full = [name for name, limit in sorted(hard.items()) if limit == used.get(name)]
            detail = f"{quota['metadata']['name']}: {', '.join(parts)} used"
            fix = f"wait until other pods end, or {ASK} for more"
            left = f"{detail}; nothing is left of {', '.join(full)}"
            yield CheckResult("quota", "warn", left, fix) if full else CheckResult("quota", "ok", detail)


def _check_queues(cluster: Cluster, namespace: str) -> Iterator[CheckResult]:
    """Yield each queue of Kueue in the namespace. Many clusters have none, or do not permit to list them."""
    for version in VERSIONS:
        with contextlib.suppress(EngineError):
            queues, _ = cluster.request("GET", f"/apis/kueue.x-k8s.io/{version}/namespaces/{namespace}/localqueues")
            for queue in _items(queues):
                name, status = queue["metadata"]["name"], queue.get("status") or {}
                counts = f"{status.get('pendingWorkloads', 0)} waiting, {status.get('admittedWorkloads', 0)} admitted"
                result = CheckResult("queue", "ok", f"{name} of Kueue: {counts}")
                for one in status.get("conditions") or ():
                    if (one["type"], one["status"]) == ("Active", "False"):
                        detail = f"{name} of Kueue starts no job: {one.get('message') or 'it is not active'}"
                        result = CheckResult("queue", "warn", detail, f"use another --queue, or {ASK}")
                yield result
            return


def _items(document: Mapping[str, Any]) -> list[Any]:
    items = document.get("items")
    return items if isinstance(items, list) else []


def _problem(name: str, error: MopsJobsError, state: str = "fail") -> CheckResult:
    """Return the result for an error of the cluster."""
    result = failed(name, error, ASK, state)
    return result._replace(detail=result.detail.split("\n")[0], exit_code=error.exit_code or EXIT_REFUSED)


def check_slurm_launch(env: Mapping[str, str], partition: str | None, account: str | None) -> list[CheckResult]:
    """Check that Slurm would take a job of this user: its partition, its account and its limits.

    Args:
        env: the environment, also with the variables that sbatch takes flags from.
        partition: the partition of the job; None for the default one.
        account: the account of the job; None for that of the user.
    """
    commands = Commands(env, SECONDS)
    chosen = [f"--{name}={value}" for name, value in (("partition", partition), ("account", account)) if value]
    try:
        lines = commands.ask("sinfo", "--noheader", "--format=%R|%a|%l|%D").splitlines()
    except MopsJobsError as error:
        return [_problem("partitions", error)]
    partitions = [found.groups() for line in lines if (found := PARTITION_FACTS.match(line.strip()))]
    facts = [f"{name} {state}, up to {limit}, nodes: {nodes}" for name, state, limit, nodes in partitions]
    results = [CheckResult("partitions", "ok", "; ".join(facts[:SHOWN]) or "none")]
    try:
        commands.submit("--test-only", *chosen, "--wrap=true")
    except MopsJobsError as error:
        problem = _problem("launch", error)
        names = join_first([name for name, *_ in partitions])
        is_about_partition = "partition" in problem.detail and "account" not in problem.detail
        return [*results, problem._replace(fix=f"name a partition: {names}") if is_about_partition else problem]
    words = " ".join(chosen) or "the defaults of the cluster"
    return [*results, CheckResult("launch", "ok", f"Slurm takes a job with {words} (test only)")]
