"""What the pods of a Job tell: what is wrong now comes before what was wrong once, and how its shards ended."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest

from mopsjobs.engines.base import EngineState
from mopsjobs.engines.kubernetes.client import INDEX_LABEL, Cluster, open_cluster
from mopsjobs.engines.kubernetes.engine import KubernetesEngine
from mopsjobs.engines.kubernetes.logs import MAX_FAILURES, Window, read_lines
from mopsjobs.engines.kubernetes.pods import (
    VERSIONS,
    describe_shards,
    last_stop,
    lost_shards,
    open_shards,
    present_problem,
)
from mopsjobs.errors import EngineAccessError, EngineError, EngineUnavailableError
from support.certificates import signed_by_old_authority
from support.kubernetes import Api, kubeconfig

NOW = datetime(2026, 3, 1, 13, tzinfo=UTC)
EVICTED = {"phase": "Failed", "reason": "Evicted", "message": "low on memory"}
EVICTION = ("Evicted", "1 of its pods were evicted; the last: low on memory")
KILLED = ("OOMKilled", "1 of its pods exceeded the memory limit and were killed (exit code 137)")
MISSING = 'exec: "mops-jobs": executable file not found in $PATH'


def _container(name: str = "runner", **state: Any) -> dict[str, Any]:
    return {"name": name, "state": state}


def _ended(name: str = "runner", code: int = 1, **more: Any) -> dict[str, Any]:
    return _container(name, terminated={"exitCode": code, "reason": "Error", **more})


NO_IMAGE = _container(waiting={"reason": "ImagePullBackOff", "message": "no such image"})
WITHOUT_IMAGE = {"phase": "Pending", "containerStatuses": [NO_IMAGE]}
STARTING = {"phase": "Pending", "containerStatuses": [_container(waiting={"reason": "ContainerCreating"})]}
OOM = {"phase": "Failed", "containerStatuses": [_ended(code=137, reason="OOMKilled")]}
RUNNING = {"phase": "Running", "containerStatuses": [_container(running={"startedAt": "2026-03-01T12:00:00Z"})]}
DONE = {"phase": "Succeeded"}
PROXY = _container("proxy", running={"startedAt": "2026-03-01T12:00:00Z"})
OTHERS_OOM = {"phase": "Failed", "containerStatuses": [_ended(code=0), _ended("proxy", code=137, reason="OOMKilled")]}
UNREADY = {"type": "Ready", "status": "False"}
ON_LOST_NODE = {**RUNNING, "conditions": [UNREADY]}
UNSCHEDULED = {
    "phase": "Pending",
    "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}],
}
INIT = {
    "phase": "Pending",
    "initContainerStatuses": [NO_IMAGE],
    "containerStatuses": [_container(waiting={"reason": "PodInitializing"})],
}


def _pod(shard: int, minute: int, status: dict[str, Any]) -> dict[str, Any]:
    metadata = {
        "name": f"a-{shard}-{minute}",
        "creationTimestamp": f"2026-03-01T12:{minute:02}:00Z",
        "labels": {"batch.kubernetes.io/job-completion-index": str(shard)},
    }
    return {"metadata": metadata, "status": status}


@pytest.mark.parametrize(
    ("pods", "expected"),
    [
        ([(0, 0, EVICTED), (0, 1, WITHOUT_IMAGE)], ("ImagePullBackOff", "no such image")),
        ([(0, 0, WITHOUT_IMAGE), (0, 1, RUNNING)], None),
        ([(0, 0, EVICTED), (0, 1, STARTING)], EVICTION),
        ([(0, 0, EVICTED), (0, 1, DONE), (1, 0, RUNNING)], None),
        ([(0, 0, OOM), (0, 1, RUNNING), (1, 1, EVICTED)], EVICTION),
        ([(0, 1, OOM), (0, 2, RUNNING), (1, 0, EVICTED)], KILLED),
        ([(0, 0, UNSCHEDULED)], ("Unschedulable", "0/3 nodes")),
        ([(0, 0, INIT)], ("Init:ImagePullBackOff", "no such image")),
        ([(0, 0, ON_LOST_NODE)], ("NodeNotReady", "the node of pod a-0-0 does not answer; its runner may go on")),
        ([(0, 0, {**ON_LOST_NODE, "conditions": [{**UNREADY, "reason": "ContainersNotReady"}]})], None),
        (
            [(0, 0, {"phase": "Running", "containerStatuses": [_ended(code=4), PROXY]})],
            ("RunnerEnded", "the runner of pod a-0-0 ended (exit code 4), but container proxy runs on"),
        ),
    ],
)
def test_trouble_of_today_comes_before_an_old_eviction(pods: list[Any], expected: tuple[str, str] | None) -> None:
    """Of each shard, the newest pod matters. The last past trouble is told while its shard has not succeeded.

    Containers that a cluster adds do not run tasks.
    """
    made = [_pod(*one) for one in pods]
    assert (present_problem(made, NOW) or last_stop(made)) == expected


def test_a_pod_that_outlives_its_grace_period_is_reported() -> None:
    """Its node may be lost. The cluster replaces it when it has ended, or when its node is removed."""
    metadata = {"name": "a-0-x", "deletionTimestamp": "2026-03-01T12:00:00Z"}
    pod = {"metadata": metadata, "spec": {"nodeName": "node-7"}, "status": RUNNING}
    words = "pod a-0-x on node node-7 is being stopped, and no other takes its place before its end"
    assert present_problem([pod], NOW) == ("Terminating", words)
    in_time = datetime(2026, 3, 1, 11, 59, 59, tzinfo=UTC)
    assert present_problem([pod], in_time) is None


def test_a_shard_is_open_until_its_newest_pod_has_succeeded() -> None:
    """Whatever befell its earlier pods."""
    pods = [(0, 1, DONE), (0, 0, OOM), (1, 0, DONE), (1, 1, OOM), (2, 0, RUNNING)]
    assert open_shards([_pod(*one) for one in pods]) == {1, 2}


def _disrupted(reason: str) -> list[dict[str, str]]:
    return [{"type": "DisruptionTarget", "status": "True", "reason": reason}]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"containerStatuses": [_ended("proxy", 1), _ended(code=4)]}, "shard 2 Error (exit code 4)"),
        (
            {"containerStatuses": [_ended(code=128, reason="StartError", message=f"{'x' * 400} {MISSING}")]},
            MISSING,
        ),
        ({"initContainerStatuses": [_ended("fetch")]}, "shard 2 Init:Error (exit code 1: container fetch)"),
        ({"containerStatuses": [_ended(code=0), _ended("proxy", 137)]}, "Error (exit code 137: container proxy)"),
        (
            {"conditions": _disrupted("PreemptionByScheduler"), "containerStatuses": [_ended(code=143)]},
            "shard 2 PreemptionByScheduler (exit code 143)",
        ),
        (
            {"reason": "DeadlineExceeded", "containerStatuses": [_ended(code=143)]},
            "shard 2 DeadlineExceeded (exit code 143)",
        ),
        (None, "shard 2 FailedIndexes"),
    ],
)
def test_the_end_of_a_shard_is_that_of_its_last_pod(status: dict[str, Any] | None, words: str) -> None:
    """The runner's exit code counts, else that of another container. Without a pod, the Job alone knows of it.

    A long message keeps its end, which has the cause.
    """
    pods = [] if status is None else [_pod(2, 0, {"phase": "Failed", **status})]
    assert words in describe_shards(lost_shards({"failedIndexes": "2"}, pods))


@pytest.mark.parametrize(
    ("kind", "name", "is_oom"),
    [
        ("containerStatuses", "runner", True),
        ("containerStatuses", "proxy", False),
        ("initContainerStatuses", "fetch", False),
    ],
)
def test_tasks_exceed_their_memory_in_the_container_of_the_runner_alone(kind: str, name: str, *, is_oom: bool) -> None:
    pods = [_pod(2, 0, {"phase": "Failed", kind: [_ended(name, 137, reason="OOMKilled")]})]
    (lost,) = lost_shards({}, pods)
    assert (lost.exit_code, lost.is_out_of_memory) == (137, is_oom)


# --- Who has suspended a Job, and what it waits for, by an API server that answers as Kueue does ---------------------

RECORD = {"job_id": "seir-1", "k8s_name": "seir-1", "k8s_namespace": "models"}
WORKLOADS = "/apis/kueue.x-k8s.io/{}/namespaces/models/workloads"
WAITS = "the Job waits in queue team-a of Kueue"


@pytest.fixture
def engine(api: Api, tmp_path: Path) -> KubernetesEngine:
    return KubernetesEngine({"KUBECONFIG": str(kubeconfig(tmp_path, api.url))})


def _put(api: Api, **metadata: Any) -> None:
    """Put a suspended Job."""
    own = {"name": "seir-1", "namespace": "models", "uid": "uid-1", "annotations": {"mops-jobs/job-id": "seir-1"}}
    job = {"metadata": {**own, **metadata}, "spec": {"template": {}, "suspend": True}, "status": {}}
    api.put("batch/v1/jobs", "seir-1", job)


def _workload(message: str, status: str = "False") -> dict[str, Any]:
    reserved = {"type": "QuotaReserved", "status": status, "reason": "Pending", "message": message}
    return {"metadata": {"name": "job-seir-1-ab"}, "status": {"conditions": [reserved]}}


def _answer(api: Api, path: str, payload: Any, *, status: int = 200, version: str = "v1beta2") -> str:
    """Give this answer, as a Kueue with one version of the API does. Return the path."""
    for one in VERSIONS:
        if one != version:
            api.answer(path.format(one), {"message": "the server could not find the requested resource"}, status=404)
    api.answer(path.format(version), payload, status=status)
    return path.format(version)


@pytest.mark.parametrize("version", VERSIONS)
def test_kueue_says_the_reason(engine: KubernetesEngine, api: Api, version: str) -> None:
    """Such a job is not stuck: it waits for its turn."""
    _put(api)
    assert engine.state(RECORD)[:3] == ("pending", "Suspended", "the Job is suspended")
    _put(api, labels={"kueue.x-k8s.io/queue-name": "team-a"})
    items = [_workload("insufficient quota for cpu,\n 2 more needed")]
    path = _answer(api, WORKLOADS, {"items": items}, version=version)
    detail = f"{WAITS}: insufficient quota for cpu, 2 more needed"
    assert engine.state(RECORD) == EngineState("pending", "Suspended", detail)
    (request,) = api.requests("get", path)
    assert request.params["labelSelector"] == "kueue.x-k8s.io/job-uid=uid-1"


@pytest.mark.parametrize(
    ("workloads", "status", "expected"),
    [
        ({"message": "not found"}, 404, f"{WAITS}, which the cluster at URL does not have"),
        ({"items": []}, 200, WAITS),
        ({"message": "forbidden"}, 403, WAITS),
        ({"items": [_workload("done", "True")]}, 200, WAITS),
        ({"items": [{"metadata": {"name": "x"}, "status": 7}]}, 200, WAITS),
    ],
)
def test_what_kueue_does_not_tell_is_left_out(
    engine: KubernetesEngine, api: Api, workloads: Any, status: int, expected: str
) -> None:
    """No Kueue, no Workload yet, no permission to read one, or one of another form: the job is still suspended."""
    _put(api, labels={"kueue.x-k8s.io/queue-name": "team-a"})
    _answer(api, WORKLOADS, workloads, status=status)
    assert engine.state(RECORD)[:3] == ("pending", "Suspended", expected.replace("URL", api.url))


# --- A cluster's certificate is verified as kubectl does it: by the authority that the kubeconfig names --------------


class NoObjects(BaseHTTPRequestHandler):
    """Answers that there is no such object."""

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b'{"kind": "Status", "apiVersion": "v1", "message": "no such object", "code": 404}')

    def log_message(self, *_args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Yield the address of an HTTPS server, and its authority, which has no key usage and no key identifiers."""
    certificate, authority = signed_by_old_authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with ThreadingHTTPServer(("127.0.0.1", 0), NoObjects) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"https://localhost:{server.server_port}", authority
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def strict_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each version of Python make contexts as Python 3.13 does."""
    make = ssl.create_default_context

    def make_strict(*args: Any, **named: Any) -> ssl.SSLContext:
        context = make(*args, **named)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", make_strict)


def _env(directory: Path, url: str, **cluster: str) -> dict[str, str]:
    return {"KUBECONFIG": str(kubeconfig(directory, url, cluster=cluster)), "HOME": str(directory)}


def test_an_authority_without_a_key_usage_is_accepted(server: tuple[str, Path], tmp_path: Path) -> None:
    """EKS has such ones, and kubectl connects. Python 3.13 refuses them by default."""
    url, authority = server
    with open_cluster(_env(tmp_path, url, **{"certificate-authority": str(authority)})) as cluster:
        assert cluster.job("models", "seir-1") is None


def test_a_name_that_the_certificate_lacks_is_refused(server: tuple[str, Path], tmp_path: Path) -> None:
    """All else is verified. An invalid certificate does not count as an outage."""
    url, authority = server
    env = _env(tmp_path, url.replace("localhost", "127.0.0.1"), **{"certificate-authority": str(authority)})
    with open_cluster(env) as cluster, pytest.raises(EngineAccessError, match=r"cannot be verified: .*mismatch"):
        cluster.job("models", "seir-1")


def test_an_error_of_this_program_is_not_that_of_the_cluster(server: tuple[str, Path], tmp_path: Path) -> None:
    """Before the server has sent a response. What it sends later may have any shape, and the error has its cause."""
    url, authority = server
    env = _env(tmp_path, url, **{"certificate-authority": str(authority)})
    with pytest.raises(KeyError, match="ours"), open_cluster(env):
        raise KeyError("ours")

    def read_reply() -> None:
        with open_cluster(env) as cluster:
            cluster.job("models", "seir-1")
            raise KeyError("of a reply")

    with pytest.raises(EngineError, match="unexpected response") as raised:
        read_reply()
    assert isinstance(raised.value.__cause__, KeyError)


def test_an_unknown_authority_is_no_outage(server: tuple[str, Path], tmp_path: Path) -> None:
    """Exit code 4: to try again does not help."""
    url, _ = server
    with open_cluster(_env(tmp_path, url)) as cluster, pytest.raises(EngineAccessError) as raised:
        cluster.job("models", "seir-1")
    assert raised.value.exit_code == 4
    assert "certificate of the cluster at https://localhost" in str(raised.value)


# --- The logs of pods, from a cluster that gives what a test has put there -------------------------------------------

WHOLE = Window()
SILENCE = EngineUnavailableError("no answer", sent=True, silent=True)
AWAY = EngineUnavailableError("cannot reach the cluster", sent=False)


def _line(second: int, text: str) -> str:
    return f"2026-03-01T00:00:{second:02}.5Z {text}"


class _Logs:
    """The logs of pods by shard, each some lines or an error. `on_round` is called before each listing."""

    def __init__(self) -> None:
        self.logs: dict[int, list[str] | EngineUnavailableError] = {}
        self.phases: dict[int, str] = {}
        self.asked: list[tuple[int, Mapping[str, str]]] = []
        self.on_round: Callable[[int], object] = lambda _number: None
        self.rounds = 0

    def log(self, _namespace: str, pod: Mapping[str, Any], params: Mapping[str, str]) -> Iterator[str]:
        shard = int(pod["metadata"]["uid"])
        self.asked.append((shard, params))
        found = self.logs[shard]
        if isinstance(found, EngineUnavailableError):
            raise found
        since = params.get("sinceTime", "")[:19]
        yield from (line for line in found if line[:19] >= since)

    def read(self, window: Window = WHOLE, *, rounds: int = 0) -> Iterator[str]:
        """Yield the lines of some rounds; 0: do not follow."""

        def list_pods() -> tuple[bool, list[dict[str, Any]]]:
            self.rounds += 1
            self.on_round(self.rounds)
            return self.rounds == rounds, [self._pod(shard) for shard in sorted(self.logs)]

        cluster = cast("Cluster", self)
        return read_lines(cluster, "models", list_pods, window, lambda _seconds: None, follow=bool(rounds))

    def _pod(self, shard: int) -> dict[str, Any]:
        metadata = {"name": f"a-{shard}", "uid": str(shard), "labels": {INDEX_LABEL: str(shard)}}
        spec = {"nodeName": f"n{shard}", "containers": [{"name": "proxy"}, {"name": "runner"}]}
        return {"metadata": metadata, "spec": spec, "status": {"phase": self.phases.get(shard, "Running")}}


@pytest.fixture
def logs() -> _Logs:
    return _Logs()


def test_a_followed_log_goes_on_where_it_was(logs: _Logs) -> None:
    """What was read is not read again, also of lines of one instant. A pod that has ended is not asked again."""
    lines = [_line(1, "a"), _line(2, "b"), _line(2, "c"), _line(2, "d"), "the kubelet's words", _line(3, "e")]

    def grow(number: int) -> None:
        logs.logs = {0: lines[: 2 * number - 1]} if number > 1 else {0: []}
        logs.phases = {0: "Pending" if number == 1 else "Running" if number < 4 else "Succeeded"}

    logs.on_round = grow
    assert list(logs.read(rounds=6)) == ["a", "b", "c", "d", "the kubelet's words", "e"]
    assert [params.get("sinceTime") for _, params in logs.asked] == [
        None, "2026-03-01T00:00:02+00:00", "2026-03-01T00:00:02+00:00",
    ]  # fmt: skip


def test_tail_and_since_are_for_the_first_read(logs: _Logs) -> None:
    """The cluster cuts each log, and of all shards the last lines are shown. Later lines are shown whole."""
    logs.logs = {0: [_line(1, "a")], 1: [_line(1, "b")]}
    logs.on_round = lambda number: number == 2 and logs.logs[1].extend([_line(2, "c"), _line(2, "d")])  # type: ignore[union-attr]
    assert list(logs.read(Window(1, 0.5), rounds=2)) == ["shard 1: b", "shard 1: c", "shard 1: d"]
    assert logs.asked[:2] == [
        (shard, {"container": "runner", "sinceSeconds": "1", "tailLines": "1"}) for shard in (0, 1)
    ]


@pytest.mark.parametrize("rounds", [0, 3])
def test_a_node_that_is_gone_hides_no_other_log(logs: _Logs, caplog: pytest.LogCaptureFixture, *, rounds: int) -> None:
    """The shards that can be read are shown. The other one is named once meanwhile, and as an outage at the end."""
    logs.logs = {0: SILENCE, 1: [_line(1, "a")], 2: EngineUnavailableError("500: i/o timeout.", sent=True)}
    told = logs.read(rounds=rounds)
    assert next(told) == "shard 1: a"
    words = r"The log of shard 0 on node n0 cannot be read: no answer in time\. 1 more pod cannot be read either\."
    with pytest.raises(EngineUnavailableError, match=words):
        list(told)
    assert [message.partition(": ")[2] for message in caplog.messages] == [
        "The log of shard 0 on node n0 cannot be read: no answer in time.",
        "The log of shard 2 on node n2 cannot be read: 500: i/o timeout.",
    ]


def test_a_node_that_answers_again_hides_nothing(logs: _Logs) -> None:
    logs.logs = {0: SILENCE, 1: []}
    logs.on_round = lambda number: number == 2 and logs.logs.update({0: [_line(1, "a")]})
    assert list(logs.read(rounds=3)) == ["shard 0: a"]


def test_following_outlives_a_cluster_that_is_away_for_a_moment(logs: _Logs) -> None:
    """A cluster that stays away ends it, and so does one that goes away while a log is read."""

    def go_away(number: int) -> None:
        if 1 < number <= 3 or number > 4:
            raise AWAY

    logs.logs, logs.on_round = {0: [_line(1, "a")]}, go_away
    told = logs.read(rounds=99)
    assert next(told) == "a"
    with pytest.raises(EngineUnavailableError, match="cannot reach the cluster"):
        next(told)
    assert logs.rounds == 4 + MAX_FAILURES + 1
    logs.logs, logs.on_round = {0: AWAY}, lambda _number: None
    with pytest.raises(EngineUnavailableError, match="cannot reach the cluster"):
        list(logs.read(rounds=99))
