"""What one client can do to `serve`: ask for what has no end, for too much at once, or hold its connections."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from waitress import wasyncore

import support.web as support_web
from mopsjobs.utils.times import utc_now
from mopsjobs.web.api import api
from mopsjobs.web.server import http_connections
from mopsjobs.web.server.http_connections import PageServer
from mopsjobs.web.server.server import LANES, lane_of
from support.cli import Cli, Clock, Remote, add, copied_program
from support.runs import PATIENCE, until
from support.study_jobs import run_grid
from support.web import Web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mopsjobs.registry.job_registry import JobRegistry


@pytest.fixture
def web(cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str]) -> Web:
    add(remote.jobs, "a" * 60)
    cli.ok("sync", "-q")
    return Web(cli, capsys)


# --- what is asked for -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api/v1/jobs", "/jobs"])
def test_regular_expressions_are_refused(web: Web, path: str) -> None:
    """`(a+)+$` would hold the interpreter, all other requests and SIGTERM: no expression is taken, a glob is."""
    answer = web.get(f"{path}?match=(a%2B)%2B%24")
    assert answer.status_code == 400
    assert "do not support the regular expressions" in answer.text
    assert "name=GLOB" in answer.text
    assert "match" not in web.get("/api/v1/jobs?colour=red").text
    assert "a" * 60 in web.ok(f"{path}?name={'*a' * 60}")


@pytest.mark.parametrize("path", ["/api/v1/jobs", "/jobs"])
def test_too_many_labels_are_a_bad_request(web: Web, path: str) -> None:
    """They are told as what they are, without a hint about the cache."""
    answer = web.get(f"{path}?{'&'.join(f'label=k%3D{number}' for number in range(2500))}")
    assert answer.status_code == 400
    assert "too many labels" in answer.text
    assert "--cache" not in answer.text
    assert web.get(f"{path}?sort={'name,' * 2500}name").status_code == 200


# --- how much is answered --------------------------------------------------------------------------------------------


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


def test_a_job_larger_than_an_answer_is_answered(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone: else its readers would never come past it."""
    monkeypatch.setattr(api, "MAX_ANSWER_BYTES", 1)
    answer = web.get("/api/v1/jobs")
    assert answer.get_json()["returned"] == 1
    assert "Link" not in answer.headers
    assert web.get("/api/v1/jobs?skip=7").get_json()["jobs"] == []


# --- connections -----------------------------------------------------------------------------------------------------


LONG = 600.0
"""Seconds that no connection of a test lasts, also on a slow machine."""


class Line:
    """A server in this process, over an application that the test makes, and what it answers on raw connections."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        app: Callable[..., Any],
        *,
        behind_proxy: bool = False,
        by_rounds: bool = False,
    ) -> None:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.port: int = listening.getsockname()[1]
        self.held = 0
        """Requests that a thread has taken and that wait for the test."""
        self._stack = stack
        lanes = {"pages": 2, "api": 1, "health": 1}
        self.server = PageServer(
            app, listening, lanes, lane_of,
            behind_proxy=behind_proxy, channel_request_lookahead=1, asyncore_use_poll=True,
        )  # fmt: skip
        if not by_rounds:
            threading.Thread(target=self.server.run, daemon=True).start()

    def round(self) -> None:
        """Handle the events of one round, of a server that does nothing between two rounds."""
        wasyncore.loop(timeout=1, use_poll=True, map=self.server._map, count=1)

    def open(self, data: bytes = b"") -> socket.socket:
        """Return a new connection, on which this was sent."""
        line = self._stack.enter_context(socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE))
        line.sendall(data)
        return line

    def get(self, path: str) -> bytes:
        """Return what is answered to one request, the head included, until the connection ends."""
        return read(self.open(request(path)))


def request(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *headers, "Connection: close", "", ""]).encode()


def read(line: socket.socket) -> bytes:
    found = b""
    with contextlib.suppress(ConnectionError):
        while part := line.recv(1 << 16):
            found += part
    return found


def has_ended(line: socket.socket) -> bool:
    line.setblocking(False)
    try:
        return line.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Yield what ends the requests that are held; set when the test ends, too."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def line(release: threading.Event, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """Yield a server whose pages say their path, and wait where that ends with `/held`."""

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        if environ["PATH_INFO"].endswith("/held"):
            found.held += 1
            release.wait()
        start("200 OK", [])
        return [environ["PATH_INFO"].encode()]

    monkeypatch.setattr(http_connections, "MAX_PER_PEER", 5)
    monkeypatch.setattr(http_connections, "MAX_QUEUED", 3)
    monkeypatch.setattr(http_connections, "REQUEST_SECONDS", LONG)
    monkeypatch.setattr(http_connections, "IDLE_SECONDS", LONG)
    with contextlib.ExitStack() as stack:
        found = Line(stack, app)
        yield found
        release.set()
        found.server.end()


def test_the_oldest_half_open_connections_go(line: Line) -> None:
    """The number of connections of one address is bounded; the next is answered, and so is the one after."""
    half_open = [line.open(b"GET / HTTP/1.1\r\nHost:") for _ in range(60)]
    assert line.get("/jobs").endswith(b"/jobs")
    until(lambda: sum(not has_ended(one) for one in half_open) <= 5, "the end of the others")
    assert line.get("/jobs").endswith(b"/jobs")


def test_a_new_connection_is_not_closed_for_an_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if it came while an old one was closed, and got the number of its descriptor."""
    monkeypatch.setattr(http_connections, "MAX_PER_PEER", 1)
    with contextlib.ExitStack() as stack:
        line = Line(stack, lambda _, __: [], by_rounds=True)
        stack.callback(wasyncore.close_all, line.server._map)
        stack.callback(line.server.end)
        old = [line.open(), line.open()]
        while len(line.server.active_channels) < len(old):
            line.round()
        new = line.open(b"GET / HTTP/1.1\r\nHost:")
        for _ in range(5):
            line.round()
        until(lambda: all(map(has_ended, old)), "the end of the old ones")
        assert not has_ended(new)


def test_the_first_byte_makes_a_connection_no_younger(line: Line) -> None:
    """Else one that came later, and has not been heard yet, would be closed for it as the oldest."""
    client = line.open()
    until(lambda: line.server.active_channels, "the connection")
    (channel,) = line.server.active_channels.values()
    accepted = channel.since
    client.sendall(b"GET / HTT")
    until(lambda: channel.request is not None, "the first byte")
    assert channel.since == accepted


def test_a_proxy_may_have_many_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its address is that of all clients: only the limit of all connections holds."""
    monkeypatch.setattr(http_connections, "MAX_PER_PEER", 5)
    monkeypatch.setattr(http_connections, "MAX_CONNECTIONS", 30)
    monkeypatch.setattr(http_connections, "REQUEST_SECONDS", LONG)
    with contextlib.ExitStack() as stack:
        found = Line(stack, lambda _environ, start: (start("200 OK", []), [b"answered"])[1], behind_proxy=True)
        half_open = [found.open(b"GET / HTTP/1.1\r\nHost:") for _ in range(20)]
        assert found.get("/jobs").endswith(b"answered")
        assert not any(map(has_ended, half_open))
        half_open += [found.open(b"GET / HTTP/1.1\r\nHost:") for _ in range(40)]
        assert found.get("/jobs").endswith(b"answered")
        until(lambda: sum(not has_ended(one) for one in half_open) <= 30, "the end of the oldest")
        found.server.end()


def test_a_request_that_never_ends_is_ended(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then does not keep a connection open: what counts is when the request began."""
    silent, slow = line.open(), line.open(b"GET / HT")
    for _ in range(3):
        slow.sendall(b"T")
    assert line.get("/jobs").endswith(b"/jobs")
    assert not has_ended(slow)
    monkeypatch.setattr(http_connections, "REQUEST_SECONDS", 0.0)
    until(lambda: has_ended(silent) and has_ended(slow), "the end of both")


def test_a_connection_may_lie_idle_for_longer(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two requests a browser takes its time; its second one begins anew."""
    kept = line.open(request("/jobs").replace(b"Connection: close\r\n", b""))
    assert kept.recv(1 << 16)
    silent = line.open()
    monkeypatch.setattr(http_connections, "REQUEST_SECONDS", 0.0)
    until(lambda: has_ended(silent), "the end of a connection without a request")
    assert not has_ended(kept)
    kept.setblocking(True)
    monkeypatch.setattr(http_connections, "REQUEST_SECONDS", LONG)
    kept.sendall(request("/again"))
    assert read(kept).endswith(b"/again")


def test_a_request_that_is_served_is_never_ended(
    line: Line, release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many connections come meanwhile, and however long it takes."""
    served = line.open(request("/jobs/held"))
    until(lambda: line.held, "the request")
    silent = line.open()
    monkeypatch.setattr(http_connections, "REQUEST_SECONDS", 0.0)
    monkeypatch.setattr(http_connections, "IDLE_SECONDS", 0.0)
    until(lambda: has_ended(silent), "the end of a connection without a request")
    monkeypatch.setattr(http_connections, "REQUEST_SECONDS", LONG)
    monkeypatch.setattr(http_connections, "IDLE_SECONDS", LONG)
    others = [line.open() for _ in range(20)]
    until(lambda: sum(map(has_ended, others)) == 15, "the end of all but five")
    release.set()
    assert read(served).endswith(b"/jobs/held")


def test_what_waits_in_one_lane_stops_no_other(line: Line) -> None:
    """With every thread of the API taken, and its queue full, pages and health answer; more of the API is refused."""
    queue = line.server._lanes["api"].queue
    line.open(request("/api/held"))
    until(lambda: line.held, "a thread that is taken")
    for _ in range(3):
        line.open(request("/api/held"))
    until(lambda: len(queue) == 3, "a queue that is full")
    assert b" 503 " in line.get("/api/v1/jobs")
    assert line.get("/jobs").endswith(b"/jobs")
    assert line.get("/healthz").endswith(b"/healthz")


def test_each_kind_of_request_has_its_threads() -> None:
    """A lane for health alone, one for the API, and one for all else."""
    assert [lane_of(path) for path in ("/healthz", "/metrics", "/jobs", "/api/v1/jobs", "")] == [
        "health", "pages", "pages", "api", "pages",
    ]  # fmt: skip
    assert min(LANES.values()) >= 2


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_request_of_two_lengths_is_refused(line: Line, version: str) -> None:
    """Content-Length with Transfer-Encoding: a proxy could see another end of it, and so another next request."""
    head = f"GET /jobs HTTP/{version}\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = read(line.open(head.encode() + b"0\r\n\r\n" + request("/hidden")))
    assert answer.startswith(f"HTTP/{version} 400 ".encode())
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
