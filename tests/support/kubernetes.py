"""An API server of another project: kmock's emulator, over HTTP, in a thread of its own, and a kubeconfig for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kmock import KubernetesEmulator, Server

from support.runs import PATIENCE

JOBS = "batch/v1/jobs"
PODS = "v1/pods"
EVENTS = "v1/events"


class Api:
    """An API server in a thread of its own; `mock` is for its loop, which `do` runs things in."""

    def __init__(self, mock: KubernetesEmulator | None = None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._stack = contextlib.AsyncExitStack()
        self.mock = KubernetesEmulator() if mock is None else mock  # without requests, it is false
        self._server = Server(self.mock)
        self._run(self._enter())
        self.url = f"http://127.0.0.1:{self._server.port}"
        for resource in (JOBS, PODS, EVENTS):
            self.mock.resources[resource] = {"namespaced": True}

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    async def _enter(self) -> None:
        await self._stack.enter_async_context(self.mock)
        await self._stack.enter_async_context(self._server)

    def go_away(self) -> None:
        """Hang up, and answer no more."""
        self._run(self._stack.aclose())

    def close(self) -> None:
        self.go_away()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    def requests(self, method: str, path: str) -> list[Any]:
        return [one for one in self.mock if one.method.value.lower() == method and one.url.path == path]

    def put(self, resource: str, name: str, content: dict[str, Any]) -> None:
        """Make this the object of that name in namespace models."""
        self.mock.objects[resource, "models", name] = content

    def put_job(self, name: str = "seir-1", *, uid: str = "uid-1", job_id: str | None = "seir-1", **parts: Any) -> None:
        notes = {} if job_id is None else {"mops-jobs/job-id": job_id}
        metadata = {"name": name, "namespace": "models", "uid": uid, "annotations": notes}
        self.put(JOBS, name, {"metadata": metadata, "spec": {"template": {}, **parts.pop("spec", {})}, **parts})

    def put_pod(self, index: int, phase: str, *, shards: int = 1, age: int = 0, **status: Any) -> str:
        name = f"seir-1-{index}-{age}"
        metadata = {
            "name": name,
            "namespace": "models",
            "uid": f"uid-{name}",
            "creationTimestamp": f"2026-03-01T11:{59 - age:02}:00Z",
            "labels": {
                "batch.kubernetes.io/job-name": "seir-1",
                "batch.kubernetes.io/job-completion-index": str(index),
            },
            "annotations": {"mops-jobs/shards": str(shards)},
        }
        spec = {"containers": [{"name": "sidecar"}, {"name": "runner"}]}
        self.put(PODS, name, {"metadata": metadata, "spec": spec, "status": {"phase": phase, **status}})
        return name

    def answer(self, path: str, payload: Any, *, status: int = 200, method: str = "get") -> None:
        """Give this answer from now on instead of the emulator's."""
        self.mock[f"{method} {path}"] << status << payload

    def refuse(self, code: int, message: str, path: str = "/") -> None:
        """Answer as Kubernetes does when it refuses."""
        body = {"kind": "Status", "status": "Failure", "code": code, "message": message}
        self.mock[re.compile(f"^{re.escape(path)}.*")] << code << body


def kubeconfig(
    directory: Path,
    url: str,
    *,
    namespace: str = "from-kubeconfig",
    cluster: Mapping[str, str] | None = None,
    **user: Any,
) -> Path:
    path = directory / "kubeconfig"
    context = {"cluster": "c", "user": "u", "namespace": namespace}
    document = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": context}, {"name": "userless", "context": {"cluster": "c"}}],
        "clusters": [{"name": "c", "cluster": {"server": url, **(cluster or {})}}],
        "users": [{"name": "u", "user": {"token": "a-token", **user}}],
    }
    path.write_text(json.dumps(document))
    return path


def lines(*texts: str, start: int = 0) -> bytes:
    """Return lines as a pod's log has them, a second apart."""
    return b"".join(
        f"2026-03-01T12:00:{start + number:02}.000000000Z {text}\n".encode() for number, text in enumerate(texts)
    )


def log_path(pod: str) -> str:
    """Return where the log of a pod is asked for."""
    return f"/api/v1/namespaces/models/pods/{pod}/log"
