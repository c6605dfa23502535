"""Records of an attacker that name a cluster's objects, and a cluster whose answers mean harm.

The promises: whatever a record says, a command asks a cluster only for a Job of one namespace and its pods. It deletes
only the Job of the very record. Whatever the cluster answers, what is printed and what is written into the registry is
safe, and one bad job stops no other. What only a record chooses is not used: no
context, image, Secret, service account, engine or scheduler, and no Job without a mark.
"""

from __future__ import annotations

import contextlib
import json
import re
import urllib.parse
from collections.abc import Collection, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from reliability.hostile.readers import MANIFEST, RECORD
from reliability.hostile.registry import Command, check
from reliability.hostile.values import HALVES, TEXTS
from reliability.trial import Figure, Trial, hold
from support.replies import serving

LONG = "x" * 2**20
PLACES = ("--all", "x?watch=1", "a#b", "a%2fb", "a/b", "A", "x" * 300, "../../../../api/v1/namespaces/prod")
"""What a record may call its Job or its namespace, beside the texts that are hostile to others."""

STRANGE: tuple[object, ...] = (7, -1.5, True, None, [], {}, [[1]], {"x": {}}, "", "\x1b[31m", LONG, HALVES[0])
"""What may stand in an answer where something else belongs."""

_ASKED = re.compile(
    r"(GET|DELETE) /apis/batch/v1/namespaces/[a-z0-9-]+/jobs/[a-z0-9.-]+"
    r"|GET /api/v1/namespaces/[a-z0-9-]+/(pods(/[a-z0-9.-]+/log)?|events)",
    re.ASCII,
)
_CODES = (0, 1, 3, 4, 5, 6, 7)
"""The exit codes by the answers of a cluster: 1 is an unexpected answer, 4 a refusal, 5 an outage."""


class Answer(NamedTuple):
    """The answers of the cluster about a Job and its pods."""

    job: bytes
    pods: bytes = b'{"items": []}'
    log: bytes = b""
    code: int = 200


def _job(name: str, status: object, **parts: object) -> bytes:
    notes = {"mops-jobs/job-id": name}
    document = {"metadata": {"name": name, "annotations": notes}, "spec": {"template": {}}, "status": status, **parts}
    return json.dumps(document).encode()


def _pods(*statuses: object) -> bytes:
    pods = [
        {"metadata": {"name": f"pod-{number}", "namespace": "n"}, "spec": {"containers": []}, "status": status}
        for number, status in enumerate(statuses)
    ]
    return json.dumps({"items": pods}).encode()


def answers() -> Iterator[Answer]:
    """Yield each is about the job that is called `answer-` and its number."""
    number = 0

    def name() -> str:
        nonlocal number
        number += 1
        return f"answer-{number - 1}"

    for text in (*TEXTS, LONG):
        ended = {"type": "Failed", "status": "True", "reason": text, "message": text}
        waiting = {"state": {"waiting": {"reason": text, "message": text}}, "name": text}
        log = f"2026-03-01T12:00:00.000000000Z {text}\n{text}\n".encode()
        yield Answer(_job(name(), {"conditions": [ended]}), _pods({"phase": "Failed"}), log)
        living = [{"containerStatuses": [waiting]}, {"reason": "Evicted", "message": text}]
        yield Answer(_job(name(), {"active": 1, "ready": 0}), _pods(*living), log)
        refusal = {"kind": "Status", "status": "Failure", "message": text, "reason": text}
        yield Answer(json.dumps(refusal).encode(), code=403)
        name()
    for strange in STRANGE:
        yield Answer(_job(name(), strange), _pods(strange))
        yield Answer(_job(name(), {"conditions": strange, "active": strange}), _pods({"containerStatuses": strange}))
        yield Answer(_job(name(), {"conditions": [strange]}), _pods({"conditions": [strange]}))
        yield Answer(_job(name(), {"active": 1}, metadata=strange))
        yield Answer(json.dumps(strange).encode(), json.dumps(strange).encode())
        name()
    half = _job("x", {})
    for broken in (b"", b"\0", half[:-1], half * 2, b"\xff\xfe", b'{"a":' * 100_000, b"<html>", b"NaN", b"9" * 5000):
        yield Answer(broken, broken, broken)
        name()
        yield Answer(broken, code=403)
        name()


class Cluster:
    """Such a cluster, on a free port of this machine. `asked` is every request that came."""

    def __init__(self, known: Mapping[str, Answer]) -> None:
        self.asked: list[str] = []
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                parts = urllib.parse.urlsplit(self.path)
                cluster.asked.append(f"GET {parts.path}")
                words = urllib.parse.unquote(f"{parts.path} {parts.query}")
                named = re.search(r"answer-\d+|prize(?= |$|/)", words)
                answer = known.get(named[0]) if named else None
                if answer is None:
                    self._say(404, b'{"kind": "Status", "message": "\\u001b[41mno such thing"}')
                elif parts.path.endswith("/log"):
                    self._say(answer.code, answer.log)
                else:
                    self._say(answer.code, answer.pods if parts.path.endswith("/pods") else answer.job)

            def do_DELETE(self) -> None:
                cluster.asked.append(f"DELETE {urllib.parse.urlsplit(self.path).path}")
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self._say(200, b'{"kind": "Status", "status": "Success"}')

            def _say(self, code: int, body: bytes) -> None:
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Do nothing: the log has no reader."""

        with contextlib.ExitStack() as stack:
            self.url = (
                f"http://127.0.0.1:{stack.enter_context(serving(ThreadingHTTPServer(('127.0.0.1', 0), Handler)))}"
            )
            self.close = stack.pop_all().close


def _records(names: Collection[str], known: Collection[str]) -> Iterator[tuple[str, dict[str, object]]]:
    for number, text in enumerate(names):
        yield f"name-{number}", {"k8s_name": text, "k8s_namespace": "models"}
        yield f"namespace-{number}", {"k8s_name": "victim", "k8s_namespace": text}
        # The name of an object of another kind, which a path would lead to.
        yield f"path-{number}", {"k8s_name": "victim", "k8s_namespace": f"../../../apps/v1/deployments/{text}?x="}
    for name in known:
        yield name, {"k8s_name": name, "k8s_namespace": "models"}


def _kubeconfig(directory: Path, url: str, contexts: Collection[str], program: str) -> str:
    """Write a kubeconfig. In contexts of these names, the user signs in by that program."""
    how = {"apiVersion": "client.authentication.k8s.io/v1beta1", "command": program}
    document = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}]
        + [{"name": name, "context": {"cluster": "c", "user": "admin"}} for name in contexts],
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": "t"}}, {"name": "admin", "user": {"exec": how}}],
    }
    path = directory / "kubeconfig"
    path.write_text(json.dumps(document))
    return str(path)


def _choosing(texts: Collection[str]) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield records of jobs that run or have ended, which choose where and as what a command acts."""
    for number, text in enumerate(texts):
        there = {"engine": "kubernetes", "k8s_name": "prize", "k8s_namespace": "models"}
        yield f"context-{number}", {**there, "metadata": {"k8s_context": text}}
        notes = {f"k8s_{name}": text for name in ("context", "image", "secret", "service_account", "python")}
        yield f"ended-{number}", {**there, "status": "failed", "metadata": notes}
        yield f"dask-{number}", {"engine": "dask", "status": "failed", "metadata": {"dask_scheduler": text or "x"}}
        yield f"unmarked-{number}", {**there, "k8s_uid": "uid-of-prize", "metadata": {"trusted": [text]}}


def run(trial: Trial) -> list[Figure]:
    """Reconcile all of them, follow what some have printed, and resume and cancel each."""
    directory = trial.directory / "hostile-cluster"
    directory.mkdir()
    step = max(1, round(0.1 / trial.scale))
    known = {f"answer-{number}": answer for number, answer in list(enumerate(answers()))[::step]}
    # Of another program: it has no mark, and the uid that the record knows.
    prize = {"metadata": {"name": "prize", "uid": "uid-of-prize"}, "spec": {"template": {}}, "status": {"active": 1}}
    naming = dict(_records([*TEXTS[::step], *PLACES], known))
    known["prize"] = Answer(json.dumps(prize).encode(), log=b"2026-03-01T12:00:00Z a password\n")
    texts = [*filter(None, TEXTS[::step]), "prod"]
    choosing = dict(_choosing(texts))
    harm, program = directory / "harm", directory / "program"
    program.write_text(f"#!/bin/sh\ntouch '{harm}'\n")
    program.chmod(0o700)
    cluster = Cluster(known)
    with contextlib.closing(cluster):
        command = Command(directory, KUBECONFIG=_kubeconfig(directory, cluster.url, texts, str(program)))
        active = 0
        with contextlib.closing(SQLiteVersionedStore(directory / "registry.db")) as store:
            for job_id, fields in (naming | choosing).items():
                common = {"job_id": job_id, "status": "running", "engine": "kubernetes", "k8s_uid": None}
                record = {**RECORD, **common, **fields}
                active += record["status"] == "running"
                store.create_if_absent(f"jobs/{job_id}/state.json", json.dumps(record).encode())
                if job_id in choosing:
                    manifest = {**MANIFEST, "job_id": job_id, "engine": record["engine"]}
                    store.create_if_absent(f"jobs/{job_id}/manifest.json", json.dumps(manifest).encode())
        ran = command.run("reconcile")
        check("text", ran, "reconcile", codes=_CODES)
        hold(f"{active:,} jobs checked" in ran.err, "reconcile stopped half way")
        for terminal in (False, True):
            for flags in ((), ("--json",)):
                ran = command.run("reconcile", *flags, terminal=terminal)
                check("json" if flags else "text", ran, "reconcile", codes=_CODES)
        hold(not any(one.startswith("DELETE") for one in cluster.asked), "reconcile has deleted something")
        for job_id in naming:
            check("text", command.run("logs", job_id, terminal=True), f"logs {job_id}", codes=(*_CODES, 8))
            asked = len(cluster.asked)
            check("text", command.run("cancel", job_id, "--yes"), f"cancel {job_id}", codes=_CODES)
            own = f"DELETE /apis/batch/v1/namespaces/models/jobs/{naming[job_id]['k8s_name']}"
            for one in cluster.asked[asked:]:
                hold(not one.startswith("DELETE") or one == own, f"cancel {job_id} has sent {one}")
        asked = len(cluster.asked)
        for job_id in choosing:
            ran = command.run("logs", job_id)
            check("text", ran, f"logs {job_id}", codes=(*_CODES, 8))
            hold("a password" not in ran.out, f"logs {job_id} read what only the record names")
            image = ("--image", "i") if "context" in job_id else ()
            check("text", command.run("resume", job_id, *image), f"resume {job_id}", codes=(6,))
            check("text", command.run("cancel", job_id, "--yes"), f"cancel {job_id}", codes=(6, 7))
        for one in cluster.asked[asked:]:
            hold(one == "GET /apis/batch/v1/namespaces/models/jobs/prize", f"a record has chosen {one!r}")
        hold(len(cluster.asked) > asked, "no unmarked Job was looked at")
        hold(not harm.exists(), "a program ran that belongs to a context which only a record names")
        check("json", command.run("sync", "--json"), "sync --json")
        check("text", command.run("list", "--limit", "0", terminal=True), "list")
    for one in cluster.asked:
        hold(_ASKED.fullmatch(one) is not None, f"a record has led to {one!r}")
    hold(any(one.startswith("DELETE") for one in cluster.asked), "no Job was deleted at all")
    return [
        Figure("hostile cluster: records that name objects of it", len(naming)),
        Figure("hostile cluster: requests sent to it, each for a Job, its pods or events", len(cluster.asked)),
        Figure("hostile cluster: records that choose, of which nothing was used", len(choosing)),
    ]
