"""`doctor`: each check, its state, and the fix that it names."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import kmock
import pytest
import yaml

from mopsjobs import __version__
from mopsjobs.app.care.engine_checks import VERBS
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.condition_probe import ProbedStore
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.utils.times import utc_now
from support.cli import Cli, LineStore, Remote, add, foreign, key
from support.kubernetes import Api, kubeconfig
from support.lying_stores import SECOND_CREATION, SERVER, STALE_UPDATE, IgnoresAll, RefusingStore
from support.servers import Azurite
from support.slurm_commands import FakeSlurm

Put = Callable[[LineStore], LineStore]

SECRET = "c2VjcmV0LXNlY3JldC1zZWNyZXQ="


def _checks(cli: Cli, code: int = 0, **env: str) -> dict[str, dict[str, str | None]]:
    ran = cli("doctor", "--json", **env)
    assert ran.code == code, ran
    assert ran.err == ""
    return {check["name"]: check for check in ran.json["checks"]}


def test_doctor_is_content_on_a_sound_machine(cli: Cli, jobs: JobRegistry) -> None:
    """With a registry, a cache and sound records, every check is ok, and nothing needs a fix."""
    add(jobs, "a")
    cli.ok("sync")
    checks = _checks(cli)
    assert {check["state"] for check in checks.values()} == {"ok"}
    assert {check["fix"] for check in checks.values()} == {None}
    assert list(checks) == ["version", "config", "registry", "access", "retention", "cache", "records"]
    assert __version__ in str(checks["version"]["detail"])
    assert "(from environment MOPS_JOBS_REGISTRY)" in str(checks["registry"]["detail"])


def test_doctor_names_the_fix_for_a_first_run(cli: Cli) -> None:
    """Where nothing is there yet, it says what to type, and this is not a failure."""
    checks = _checks(cli)
    assert checks["access"]["state"] == "warn"
    assert checks["access"]["fix"] == "check the path; if it is right: mops-jobs submit STUDY --auto"
    assert "registry.db yet; the first job creates it" in str(checks["access"]["detail"])
    assert "reachable" not in str(checks["access"]["detail"])
    assert (checks["cache"]["state"], checks["cache"]["fix"]) == ("ok", None)
    assert ": 0 jobs, " in str(checks["cache"]["detail"])
    assert checks["records"]["state"] == "ok"


def test_doctor_names_the_fix_for_a_first_run_over_a_network(cli: Cli, remote: Remote) -> None:
    """Nothing is synced behind the user's back: neither the cache nor the records can be judged yet."""
    remote.put(key("a"), foreign("a"))
    checks = _checks(cli)
    assert (checks["cache"]["state"], checks["cache"]["fix"]) == ("warn", "mops-jobs sync")
    assert checks["records"] == {
        "name": "records", "state": "warn", "detail": "not checked: never synced", "fix": "mops-jobs sync"
    }  # fmt: skip
    assert not cli.cache.exists()
    remote.store.down = True
    assert cli("sync").code == 5
    assert _checks(cli, 5)["records"]["state"] == "warn"


def test_doctor_does_not_take_a_registry_that_is_gone_for_a_new_one(cli: Cli, jobs: JobRegistry) -> None:
    """Where the cache has jobs of it, the file was there: a failure, and no advice to make another."""
    add(jobs, "a")
    cli.ok("list")
    Path(jobs.store.location).unlink()
    access = _checks(cli, 5)["access"]
    assert access["state"] == "fail"
    assert "it had 1 job" in str(access["detail"])
    assert str(access["fix"]).startswith("mount its disk")
    assert "mops-jobs sync" not in [check["fix"] for check in _checks(cli, 5).values()], "it would fail as well"


@pytest.mark.parametrize(
    ("minutes", "state", "told"),
    [(0, "ok", "clock is "), (121, "warn", "clock is 2h "), (-121, "warn", "clock is 2h "), (-8, "ok", "clock is ")],
)
def test_doctor_tells_how_far_the_clock_is_off(cli: Cli, azurite: Azurite, minutes: int, state: str, told: str) -> None:
    """Replies of Azure carry a time. What is neither forgiven nor corrected is warned of; a warning fails nothing.

    A clock that is ahead makes jobs look silent here. Writers correct one that is behind.
    """
    cli.env["AZURE_STORAGE_CONNECTION_STRING"] = azurite.connection_string
    cli.env["MOPS_JOBS_REGISTRY"] = f"{azurite.endpoint}/{azurite.new_container()}"
    # Half a minute more, so that the seconds which a run takes change no sign.
    cli.clock.moment = utc_now() + timedelta(minutes=minutes, seconds=30 if minutes > 0 else 0)
    clock = _checks(cli)["clock"]
    assert clock["state"] == state
    direction = "behind" if minutes < 0 else "ahead of" if minutes > 0 else ""
    assert str(clock["detail"]).startswith("this machine's " + told)
    assert direction in str(clock["detail"])
    assert (clock["fix"] is not None) == (state == "warn")


def test_doctor_tells_an_outage_and_the_last_error(cli: Cli, remote: Remote) -> None:
    """A registry out of reach fails with exit code 5; the cache is still told, with what the last sync met."""
    remote.put(key("a"), foreign("a"))
    cli.ok("sync")
    remote.store.down = True
    assert cli("sync").code == 5
    checks = _checks(cli, 5)
    assert checks["access"]["state"] == "fail"
    assert checks["access"]["fix"]
    assert "the last sync failed: Cannot reach the registry" in str(checks["cache"]["detail"])
    assert checks["cache"]["fix"] == "restore the access to the registry first"


def test_doctor_tells_bad_records_by_key_and_reason(cli: Cli, remote: Remote) -> None:
    """Unreadable records fail with exit code 7 and are listed; what is only odd is a warning."""
    remote.put(key("bad"), "{")
    remote.put("jobs/x/notes.txt", "")
    assert cli("sync").code == 7
    ran = cli.ends(7, "doctor")
    assert "1 unreadable, 1 with a warning" in ran.out
    assert f"{key('bad')}: not JSON" in ran.out
    remote.store.delete(key("bad"))
    cli.ok("sync")
    assert _checks(cli)["records"]["state"] == "warn"


def test_doctor_shows_chunks_of_events_that_cannot_be_read(cli: Cli, remote: Remote) -> None:
    """They are told once by a sync; `doctor` keeps them in sight."""
    bad = "events/20260301T12/job/x-000000.ndjson"
    remote.put(bad, b"x\n")
    assert cli("sync").code == 7
    assert f"{bad}: line 1: not JSON" in cli.ok("doctor").out
    assert [one["kind"] for one in cli.ok("doctor", "--json").json["problems"]] == ["unreadable_events"]


@pytest.fixture
def behind(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> Put:
    """Put a store behind a server that is probed before it is written to."""

    def put(store: LineStore) -> LineStore:
        monkeypatch.setattr(remote, "store", ProbedStore(store, lambda: SERVER))
        return store

    return put


def _conditions(cli: Cli, code: int = 0) -> dict[str, str | None]:
    ran = cli("doctor", "--json")
    assert ran.code == code, ran
    found = {check["name"]: check for check in ran.json["checks"]}["conditions"]
    del found["name"]
    return found


def test_doctor_probes_a_server_each_time(cli: Cli, behind: Put) -> None:
    """It leaves the note that spares writers a probe, and no key of the probe; an empty registry is probed too."""
    line = behind(LineStore(InMemoryVersionedStore()))
    kept = {"state": "ok", "detail": "kept: the server refuses second creations and updates of stale versions"}
    for _ in range(2):
        assert _conditions(cli) == {**kept, "fix": None}
    assert line.calls["put"] == 7  # the second one renews the note
    assert len(list(line.inner.list_keys())) == 1
    line.down = True
    assert "conditions" not in cli("doctor").out


def test_an_outage_during_the_probe_is_one_in_doctor(cli: Cli, behind: Put) -> None:
    line = behind(LineStore(InMemoryVersionedStore()))
    line.fail_next(1, "put")
    found = _conditions(cli, 5)
    assert (found["state"], found["detail"]) == ("fail", "No connection for put.")


def test_a_liar_fails_doctor_and_each_command_that_writes(cli: Cli, behind: Put) -> None:
    """Both end with the exit code of a wrong setting, and say what is ignored. Reading commands work, unprobed."""
    line = behind(LineStore(IgnoresAll()))
    found = _conditions(cli, 2)
    assert found["state"] == "fail"
    assert str(found["detail"]).startswith(f"The store {SECOND_CREATION}; it {STALE_UPDATE}")
    assert str(found["fix"]).startswith("Updates of jobs would get lost there.")
    said = cli.fails(2, "register", "a")
    assert SECOND_CREATION in said
    assert str(found["fix"]) in said
    assert list(line.inner.list_keys()) == []
    line.calls.clear()
    for words in (("sync",), ("list", "--refresh"), ("status", "a")):
        cli(*words)
    assert {*line.calls} <= {"get", "scan", "list_keys"}


def test_doctor_does_not_fail_for_credentials_that_only_read(cli: Cli, behind: Put) -> None:
    """A viewer has nothing to correct, and is told that the server was not probed."""
    line = behind(RefusingStore(InMemoryVersionedStore(), "create_if_absent", "put", "delete"))
    assert _conditions(cli) == {
        "state": "ok", "detail": "not probed, since writes are refused: refused: create_if_absent.", "fix": None
    }  # fmt: skip
    assert list(line.inner.list_keys()) == []


def test_doctor_names_the_key_that_it_may_not_delete(cli: Cli, behind: Put) -> None:
    """The conditions are kept all the same."""
    line = behind(RefusingStore(InMemoryVersionedStore(), "delete"))
    found = _conditions(cli)
    assert found["state"] == "warn"
    left = [key for key in line.inner.list_keys() if "/probe-" in key]
    assert str(found["detail"]).endswith(f"the credentials may not delete {left[0]}")
    assert found["fix"] == "remove that key, or allow the credentials to delete keys"


def test_other_registries_are_not_probed(cli: Cli, remote: Remote) -> None:
    """Neither an embedded one nor one of a kind that has one maker: `doctor` writes nothing there."""
    add(remote.jobs, "a")
    assert "conditions" not in cli("doctor").out
    assert not remote.store.calls.keys() & {"create_if_absent", "put", "delete"}


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


def _cluster_checks(cli: Cli, code: int = 0, *flags: str) -> list[tuple[str, str, str, str | None]]:
    """Return name, state, detail and fix of the checks of the engine."""
    ran = cli("doctor", "--engine", *(flags or ("kubernetes",)), "--json")
    assert ran.code == code, ran
    checks = [(one["name"], one["state"], one["detail"], one["fix"]) for one in ran.json["checks"]]
    return checks[[name for name, *_ in checks].index("records") + 1 :]


def test_a_cluster_on_which_jobs_can_run(cli: Cli, cluster: Api) -> None:
    """Each verb is asked about, and the server checks a Job, which it does not create."""
    _permit(cluster)
    _accept(cluster)
    checks = {name: (state, detail, fix) for name, state, detail, fix in _cluster_checks(cli)}
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
    role = [check for check in _cluster_checks(cli, 4) if check[0] == "role"]
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
    checks = _cluster_checks(cli, 6)
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
    manifest = next(check for check in _cluster_checks(cli) if check[0] == "manifest")
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
    manifest = next(check for check in _cluster_checks(cli) if check[0] == "manifest")
    assert manifest[1:3] == ("warn", "the cluster drops spec.podFailurePolicy")


def test_a_cluster_that_is_away_is_one_line(cli: Cli, cluster: Api) -> None:
    """Without an image, the rest is checked all the same."""
    _permit(cluster)
    del cli.env["MOPS_JOBS_IMAGE"]
    assert ("manifest", "warn", "not checked: no image is set", "name one: MOPS_JOBS_IMAGE=IMAGE") in _cluster_checks(
        cli
    )
    cluster.go_away()
    ((name, state, detail, fix),) = _cluster_checks(cli, 5)
    assert (name, state, fix) == ("cluster", "fail", "Try again, or check with: kubectl cluster-info")
    assert detail.startswith("Cannot reach the cluster")


def test_a_wrong_partition_is_told_with_the_right_ones(cli: Cli, jobs: JobRegistry, tmp_path: Path) -> None:
    slurm = FakeSlurm(tmp_path / "slurm")
    cli.env |= slurm.env
    slurm.says("sinfo", "main|up|1-00:00:00|4\ngpu|up|infinite|1\n")
    slurm.says("sbatch", "sbatch: error: invalid partition specified: wide\n", code=1)
    checks = _cluster_checks(cli, 6, "slurm", "--partition", "wide")
    assert checks[-2:] == [
        ("partitions", "ok", "main up, up to 1-00:00:00, nodes: 4; gpu up, up to infinite, nodes: 1", None),
        ("launch", "fail", "Slurm refuses sbatch: invalid partition specified: wide.", "name a partition: main, gpu"),
    ]
    assert slurm.asked[-1] == "sbatch --test-only --partition=wide --wrap=true"
    slurm.says("sbatch")
    assert _cluster_checks(cli, 0, "slurm")[-1][1:3] == (
        "ok",
        "Slurm takes a job with the defaults of the cluster (test only)",
    )


def test_a_flag_of_another_engine_is_refused(cli: Cli) -> None:
    ran = cli("doctor", "--partition", "main")
    assert (ran.code, "--partition has no effect without --engine slurm." in ran.err) == (2, True)


def test_doctor_names_keys_of_snapshots(cli: Cli, remote: Remote) -> None:
    """A development version wrote them, and nothing reads them."""
    add(remote.jobs, "a", "running")
    assert "snapshots" not in cli("doctor").out
    remote.store.create_if_absent("snapshots/2026/0001", b"x")
    assert "snapshots/ of a development version; nothing reads them" in cli("doctor").out
