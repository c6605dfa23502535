"""Private servers of S3's API: on free ports of this machine, gone afterwards. Each has one bucket.

moto keeps everything in memory. SeaweedFS is a server that people run for their data.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import sysconfig
from pathlib import Path

from bench.aws import aws_env, plain_client
from bench.machine import ROOT
from bench.servers import ServerProcess, free_port, free_ports

MOTO, SEAWEEDFS = "moto", "seaweedfs"
"""The servers."""

BUCKET = "job-registry"

STARTS = 3
"""Attempts to start a server, each with other ports: another program may take a port before the server does."""


class S3Server(ServerProcess):
    """A server with a bucket. It keeps what it holds in a directory, or in memory."""

    data: Path | None = None
    ports: tuple[int, ...] = ()

    @property
    def env(self) -> dict[str, str]:
        """Return the environment in which boto3 talks to it."""
        return aws_env("s3", self.port)

    def start(self) -> None:
        """Start it, and make the bucket. At the first write to a bucket, SeaweedFS makes its files, for seconds."""
        with contextlib.ExitStack() as on_error:
            on_error.callback(self.stop)
            if self.data is not None:
                self.data.mkdir(parents=True)
            super().start()
            with contextlib.closing(plain_client("s3", self.env)) as client:
                client.create_bucket(Bucket=BUCKET)
                client.put_object(Bucket=BUCKET, Key="first", Body=b"-")
                client.delete_object(Bucket=BUCKET, Key="first")
            on_error.pop_all()

    def stop(self) -> None:
        """Kill it, and remove what it holds. SeaweedFS leaves sockets with the numbers of its ports."""
        super().stop()
        if self.data is not None:
            shutil.rmtree(self.data, ignore_errors=True)
            for number in self.ports:
                for socket in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):
                    socket.unlink(missing_ok=True)


def make_server(directory: Path, name: str) -> S3Server:
    """Return a server that is not started yet. What it prints goes to a file in `directory`."""
    return _moto(directory) if name == MOTO else _seaweedfs(directory)


def start_server(directory: Path, name: str) -> S3Server:
    """Return a server that is started.

    Raises:
        RuntimeError: if it is not installed, or does not start.
    """
    for left in reversed(range(STARTS)):
        server = make_server(directory, name)
        try:
            server.start()
        except Exception:
            if not left:
                raise
        else:
            return server
    raise AssertionError


def _moto(directory: Path) -> S3Server:
    port = free_port()
    program = ROOT / "bench" / "moto_server.py"
    return S3Server(MOTO, [sys.executable, "-P", str(program), str(port)], directory, port=port, program=program)


def _seaweedfs(directory: Path) -> S3Server:
    program = Path(sysconfig.get_path("scripts")) / "weed"
    parts = ("master", "volume", "filer", "s3")
    drawn = free_ports(2 * len(parts))
    ports, grpc_ports = dict(zip(parts, drawn[::2], strict=True)), dict(zip(parts, drawn[1::2], strict=True))
    listening = [f"-{part}.port={ports[part]}" for part in parts]
    listening += [f"-{part}.port.grpc={grpc_ports[part]}" for part in parts]
    command = [
        *(str(program), "-logtostderr", "server", "-s3", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *listening,
        *(
            f"-dir={directory / SEAWEEDFS}",
            "-master.volumeSizeLimitMB=64",
            "-volume.max=50",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-metricsPort=0",
        ),
    ]
    env = {name: value for name, value in aws_env("s3", ports["s3"]).items() if "KEY" in name}
    server = S3Server(SEAWEEDFS, command, directory, port=ports["s3"], program=program, env=env)
    server.data, server.ports = directory / SEAWEEDFS, (*ports.values(), *grpc_ports.values())
    return server
