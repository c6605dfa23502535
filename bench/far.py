"""Servers of the stores across a network, on ports of this machine: one description for `bench` and `reliability`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench import azurite, node, s3, servers
from bench.aws import aws_env

SERVERS = {
    "Azure": ("azure", partial(azurite.make_server, collects_garbage=False)),
    "older Azurite": ("azure", partial(azurite.make_server, package=azurite.OLDER, collects_garbage=False)),
    "DynamoDB": ("dynamodb", node.make_dynalite),
    "S3": ("s3", partial(s3.make_server, name=s3.SEAWEEDFS)),
    "S3 by moto": ("s3", partial(s3.make_server, name=s3.MOTO)),
}
"""The service of each, and what makes it."""


class Server(NamedTuple):
    """A running server, at its own port or at that of a proxy to it."""

    service: str
    port: int

    @property
    def env(self) -> dict[str, str]:
        """Return the environment that opens it."""
        return azurite.Azurite(self.port).env if self.service == "azure" else aws_env(self.service, self.port)

    def url(self, name: str) -> str:
        """Return the URL of the registry of a name, which need not exist."""
        if self.service == "azure":
            return azurite.Azurite(self.port).url(name)
        return f"s3://{s3.BUCKET}/{name}" if self.service == "s3" else f"dynamodb://{name}"


@contextlib.contextmanager
def running(name: str, directory: Path) -> Iterator[Server]:
    """Run a server during the block.

    Raises:
        RuntimeError: if it is not installed, or does not start.
    """
    service, make = SERVERS[name]
    with servers.running(make(directory)) as port:
        yield Server(service, port)
