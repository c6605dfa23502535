"""What one client can do to `serve`: ask for what has no end, for too much at once, or hold its connections."""

from __future__ import annotations

import contextlib
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import support.web as support_web
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.utils.times import utc_now
from mopsjobs.web.api import api
from mopsjobs.web.server import server
from support.cli import Cli, Clock, Remote, add, copied_program
from support.runs import PATIENCE, until
from support.study_jobs import run_grid
from support.web import Web


@pytest.fixture
def web(cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str]) -> Web:
    add(remote.jobs, "a" * 60)
    cli.ok("sync", "-q")
    return Web(cli, capsys)


# --- what is asked for -----------------------------------------------------------------------------------------------


@pytest.mark.claim("Regular expressions are refused")
@pytest.mark.parametrize("path", ["/api/v1/jobs", "/jobs"])
def test_regular_expressions_are_refused(web: Web, path: str) -> None:
    """`(a+)+$` would hold the interpreter, all other requests and SIGTERM: no expression is taken, a glob is."""
    answer = web.get(f"{path}?match=(a%2B)%2B%24")
    assert answer.status_code == 400
    assert "do not support the regular expressions" in answer.text
    assert "name=GLOB" in answer.text
    assert "match" not in web.get("/api/v1/jobs?colour=red").text
    assert "a" * 60 in web.ok(f"{path}?name={'*a' * 60}")


@pytest.mark.claim("A filter that SQLite would refuse is refused")
@pytest.mark.parametrize("path", ["/api/v1/jobs", "/jobs"])
def test_too_many_labels_are_a_bad_request(web: Web, path: str) -> None:
    """They are told as what they are, without a hint about the cache."""
    answer = web.get(f"{path}?{'&'.join(f'label=k%3D{number}' for number in range(2500))}")
    assert answer.status_code == 400
    assert "too many labels" in answer.text
    assert "--cache" not in answer.text
    assert web.get(f"{path}?sort={'name,' * 2500}name").status_code == 200


# --- how much is answered --------------------------------------------------------------------------------------------


@pytest.mark.claim("An answer of the API has at most 4 MB of jobs")
def test_an_answer_of_the_api_ends_after_its_bytes(
    web: Web, cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tells the true total, and a Link leads to the rest: following it shows each job once, in the same order."""
    for number in range(10):
        add(remote.jobs, f"job-{number}", "failed", error_message="x" * 1000)
    cli.ok("sync", "-q")
    whole = web.get("/api/v1/jobs?sort=name&name=job-*").get_json()
    monkeypatch.setattr(api, "MAX_ANSWER_BYTES", 5000)
    path, seen = "/api/v1/jobs?sort=name&name=job-*", []
    while path:
        answer = web.get(path)
        document = answer.get_json()
        assert document["total"] == 10
        assert document["returned"] == len(document["jobs"]) < 5
        seen += document["jobs"]
        path = answer.headers.get("Link", "").removeprefix("<").partition(">")[0]
    assert seen == whole["jobs"]


@pytest.mark.claim("An answer of the API has at most 4 MB of jobs")
def test_a_job_larger_than_an_answer_is_answered(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone: else its readers would never come past it."""
    monkeypatch.setattr(api, "MAX_ANSWER_BYTES", 1)
    answer = web.get("/api/v1/jobs")
    assert answer.get_json()["returned"] == 1
    assert "Link" not in answer.headers
    assert web.get("/api/v1/jobs?skip=7").get_json()["jobs"] == []


# --- connections -----------------------------------------------------------------------------------------------------


class Line:
    """A server in this process, over an application that the test makes, and what it answers on raw connections."""

    def __init__(self, stack: contextlib.ExitStack, app: Callable[..., Any]) -> None:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.port: int = listening.getsockname()[1]
        self.held = 0
        """Requests that a thread has taken and that wait for the test."""
        self.long = 0
        """Requests that a thread answers at length."""
        self._stack = stack
        self.server = server.make_server(app, listening)
        threading.Thread(target=self.server.run, daemon=True).start()

    def open(self, data: bytes = b"") -> socket.socket:
        """Return a new connection, on which this was sent."""
        line = self._stack.enter_context(socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE))
        line.sendall(data)
        return line

    def get(self, path: str) -> bytes:
        """Return what is answered to one request, the head included, until the connection ends."""
        return read(self.open(request(path)))


def request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()


def read(line: socket.socket) -> bytes:
    answer = b""
    with contextlib.suppress(ConnectionError):
        while part := line.recv(1 << 16):
            answer += part
    return answer


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Yield what ends the requests that are held; set when the test ends, too."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def line(release: threading.Event) -> Iterator[Line]:
    """Yield a server whose pages say their path, and wait where that ends with `/held`. `/long` has no end soon."""

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        if environ["PATH_INFO"].endswith("/held"):
            made.held += 1
            release.wait()
        start("200 OK", [])
        if environ["PATH_INFO"] == "/long":
            made.long += 1
            return [bytes(made.server.adj.outbuf_high_watermark), b"more"]
        return [environ["PATH_INFO"].encode()]

    with contextlib.ExitStack() as stack:
        made = Line(stack, app)
        yield made
        release.set()
        made.server.task_dispatcher.shutdown()
        made.server.close()


@pytest.mark.claim("A connection that is silent for 60 s is closed")
def test_silent_connections_are_closed_and_served_ones_stay(line: Line, release: threading.Event) -> None:
    """Also half of a request is closed; a request that is being answered may take any time."""
    served = line.open(request("/jobs/held"))
    until(lambda: line.held, "the request")
    silent, half = line.open(), line.open(b"GET / HTTP/1.1\r\nHost:")
    settings = line.server.adj
    assert settings.channel_timeout == 6 * settings.cleanup_interval == server.IDLE_SECONDS
    settings.channel_timeout = settings.cleanup_interval = line.server.next_channel_cleanup = 0
    assert read(silent) == read(half) == b""
    release.set()
    assert read(served).endswith(b"/jobs/held")


@pytest.mark.claim("A connection that is silent for 60 s is closed")
@pytest.mark.skipif(sys.platform != "linux", reason="the system ends no such connection")
def test_clients_that_stop_reading_free_their_threads(line: Line) -> None:
    """Each asks for more than is kept for it. With one per thread, no other client would get an answer."""
    assert line.server.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1000 * server.IDLE_SECONDS
    line.server.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000)
    stuck = [line.open(request("/long")) for _ in range(server.THREADS)]
    until(lambda: line.long == len(stuck), "the requests")
    assert line.get("/jobs").endswith(b"/jobs")
    until(lambda: not line.server.active_channels, "the end of these connections")


@pytest.mark.claim("At most 400 connections are open")
def test_connections_above_the_limit_wait_for_others_to_end(line: Line) -> None:
    line.server.adj.connection_limit = 5  # of which the server has two
    silent = [line.open() for _ in range(5)]
    until(lambda: len(line.server.active_channels) == 3, "the connections within the limit")
    waiting = line.open(request("/jobs"))
    for connection in silent:
        connection.close()
    assert read(waiting).endswith(b"/jobs")


@pytest.mark.claim("A request with a body is refused")
@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("more", ["", "Transfer-Encoding: chunked\r\n"])
def test_a_request_with_a_body_is_refused(line: Line, version: str, more: str) -> None:
    """With two lengths, a proxy could see another end of it than the server, and so another next request."""
    head = f"GET /jobs HTTP/{version}\r\nHost: localhost\r\nContent-Length: 4\r\n{more}\r\n"
    answer = read(line.open(head.encode() + b"0\r\n\r\n" + request("/hidden")))
    assert answer.startswith(f"HTTP/{version} 413 ".encode())
    assert b"hidden" not in answer


# --- files that go away ----------------------------------------------------------------------------------------------


def test_a_server_outlives_its_files(
    cli: Cli, jobs: JobRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program is unpacked below ~/.cache, as its cache is: with both cleared, pages go on, and new jobs appear."""
    program = tmp_path / "program"
    words = copied_program(program)
    monkeypatch.setattr(support_web, "command", lambda *argv: [*words, *argv])
    monkeypatch.setattr(Clock, "now", lambda _clock: utc_now())
    cli.ok("register", "first", "-q")
    run_grid(jobs)
    with support_web.serving(cli, "--sync-every", "1s") as server:
        server.filled()
        shutil.rmtree(program)
        for suffix in ("-shm", "", "-wal"):  # in this order, the server can read what it opens meanwhile
            Path(f"{cli.cache}{suffix}").unlink(missing_ok=True)
        cli.ok("register", "second", "-q")
        until(lambda: "second" in server.ask("/jobs").text, "the new cache")
        for path in ("/jobs/first", "/charts", "/api/v1/jobs", "/api/v1/openapi.json", "/metrics", "/healthz"):
            assert server.ask(path).status == 200
        until(lambda: "all 18 have beta" in server.ask("/jobs/grid").text, "the failures of a job")
        until(lambda: "attack_rate over beta" in server.ask("/jobs/grid/results").text, "its results")
        for name in ("style.css", "job.css", "live.js", "icon.svg"):
            assert server.ask(f"/static/{name}").status == 200
        assert "Job nope not found" in server.ask("/jobs/nope").text
        assert server.stop() == (0, "Stop with Ctrl-C.\n")
