"""The page for tests: the application in this process, and a real `mops-jobs serve` on a free port of this machine."""

from __future__ import annotations

import contextlib
import html
import http.client
import json
import re
import signal
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from flask import Flask
from jinja2 import BytecodeCache

from mopsjobs.utils.user_dirs import user_name
from mopsjobs.web.server.pages import make_app
from mopsjobs.web.server.security import own_names
from mopsjobs.web.site.background import ChangeSignal
from mopsjobs.web.site.site import Site
from support.cli import Cli, add, command, environment, foreign
from support.runs import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import CodeType

    from flask.testing import FlaskClient
    from jinja2.bccache import Bucket
    from werkzeug.test import TestResponse

    from mopsjobs.registry.job_registry import JobRegistry

HOSTILE = "<img src=x onerror=alert(1)><script>window.broken = 1</script>\"'>{{ 7 * 7 }}"
"""What a page must show as it is."""

BIDI = "\u202egnp.exe\u0007\x1b[31m"
"""What must not reach a page: it turns the writing direction, rings, changes colours."""


HOSTILE_ID = "x<img src=x onerror=alert(1)>'\"{{7*7}}"


def hostile_fields() -> dict[str, Any]:
    """Return fields of a record that all hold markup."""
    names = (
        "k8s_name", "k8s_namespace", "k8s_uid", "owner", "engine", "error_message", "error_code", "results_path",
        "last_validation_error", "parent_job_id",
    )  # fmt: skip
    texts = dict.fromkeys(names, HOSTILE + BIDI)
    lists = {f"{name}_outputs": [HOSTILE + BIDI] for name in ("expected", "verified", "missing")}
    labels = {HOSTILE: HOSTILE + BIDI}
    entry = {"at": "2026-03-01T10:00:00Z", "by": HOSTILE + BIDI, "id": HOSTILE}
    metadata = {
        "suspect": {"reason": HOSTILE, "since": HOSTILE},
        "note": HOSTILE + BIDI,
        "note_history": [{"text": HOSTILE, **entry}],
        "label_history": [{"labels": labels, **entry}],
        HOSTILE: HOSTILE,
    }
    return {**texts, **lists, "metadata": metadata, "labels": labels}


def hostile_record(job_id: str) -> str:
    """Return a record whose every field holds markup."""
    steps = [{"status": "<b>x</b>", "at": "2026-03-01T10:00:00Z", "id": HOSTILE}]
    return foreign(job_id, "<script>alert(1)</script>", **hostile_fields(), transitions=steps, tasks_total=2)


def add_kinds(jobs: JobRegistry) -> None:
    """Register `study-0` to `study-4` of grace: one that succeeded, failed, runs, is partial, and was cancelled."""
    ends = (("succeeded", 20), ("failed", 3), ("running", 12), ("partial", 17), ("cancelled", 5))
    for number, (status, done) in enumerate(ends):
        add(jobs, f"study-{number}", "running", owner="grace", tasks_total=20)
        jobs.update_progress(f"study-{number}", done)
        if status != "running":
            jobs.update_status(f"study-{number}", status)


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Server:
    """A running server."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url.rstrip("/")
        self.port = int(self.url.rpartition(":")[2])

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Return one request; `Host` among the headers takes the place of the right one."""
        with contextlib.closing(self.connect()) as connection:
            connection.putrequest(method, path, skip_host="Host" in headers)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read().decode())

    def filled(self) -> Server:
        """Return the server, when its cache has been synced for the first time."""
        until(lambda: self.ask("/healthz").status == 200, "the first sync", self.process)
        return self

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """End it by a signal: its exit code, and what it has said."""
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, err


@contextlib.contextmanager
def serving(cli: Cli, *argv: str) -> Iterator[Server]:
    """Yield `mops-jobs serve --port 0` with these flags, for the time of the block."""
    with subprocess.Popen(
        command("serve", "--port", "0", *argv),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(cli),
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url, process.communicate()[1]
            yield Server(process, url)
        finally:
            if process.poll() is None:
                process.kill()


class CompiledTemplates(BytecodeCache):
    """The templates of all applications of this process: to compile them costs more than most tests of a page."""

    def __init__(self) -> None:
        self._compiled: dict[tuple[str, str], CodeType | None] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        bucket.code = self._compiled.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._compiled[bucket.key, bucket.checksum] = bucket.code


COMPILED_TEMPLATES = CompiledTemplates()


def make_client(site: Site, names: Iterable[str] = ()) -> FlaskClient:
    """Return a client of an application of its own, which answers to these names too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Flask, "jinja_options", {"bytecode_cache": COMPILED_TEMPLATES})
        return make_app(site, own_names("127.0.0.1", names)).test_client()


def text_of(markup: str) -> str:
    """Return the words of a part of a page."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())


def flat(markup: str) -> str:
    """Return markup in one line, without blanks between tags."""
    return re.sub(r"\s*(?<=>)\s*(?=<)", "", re.sub(r"\s+", " ", markup))


class Web:
    """The application, in this process, over the cache of `cli`."""

    def __init__(self, cli: Cli, capsys: pytest.CaptureFixture[str], *, reads: bool = False) -> None:
        """Make the application; with `reads`, one that reads what its pages ask for when `read_asked` says so."""
        self.app = cli.app()
        self.changes = ChangeSignal()
        self.site = Site(self.app, self.changes, user=user_name(self.app.env))
        if reads:
            self.site.reads = self.site.make_reads()
        cli.at_end.callback(self.site.readers.close)
        self.client = make_client(self.site, ["jobs.example.org"])

    def get(self, path: str, **headers: str) -> TestResponse:
        self.changes.add()  # whatever the test has changed meanwhile
        return self.client.get(path, headers=headers)

    def ok(self, path: str) -> str:
        answer = self.get(path)
        assert answer.status_code == 200, answer.text
        return answer.text

    def complete(self, path: str) -> str:
        """Return a page when all was read that it asks for."""
        self.ok(path)
        self.read_asked()
        return self.ok(path)

    def read_asked(self) -> int:
        """Read what pages have asked for, as the syncer does. Return how many reads that were."""
        assert self.site.reads is not None
        count = 0
        while self.site.reads.run_next(0):
            count += 1
        return count

    def ids(self, path: str) -> list[str]:
        """Return the jobs in the table, in their order."""
        return re.findall(r'<tr data-key="([^"]+)"', self.ok(path))
