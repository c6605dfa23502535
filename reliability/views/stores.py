"""The stores over which sequences run: real servers, each started once, and a new registry for each sequence."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from bench import azurite, dynalite, s3, servers
from bench.aws import aws_env
from reliability.storm.proxy import Plan, faulty


class Place(NamedTuple):
    """A registry that does not exist yet, and what opens it besides its URL."""

    url: str
    env: Mapping[str, str]
    outage: Mapping[str, str] | None
    """What to set for a command that no server answers; None for a file."""


NewPlace = Callable[[Path], Place]


@contextlib.contextmanager
def embedded(directory: Path) -> Iterator[NewPlace]:
    """Yield what makes SQLite files."""
    yield lambda directory: Place(f"sqlite://{directory}/registry.db", {}, None)


@contextlib.contextmanager
def azure(directory: Path) -> Iterator[NewPlace]:
    """Yield what makes containers of an Azurite."""
    with azurite.running(directory, collects_garbage=False) as server:
        away = azurite.Azurite(servers.free_port())

        def new_place(directory: Path) -> Place:
            container = azurite.new_container()
            outage = {**away.env, "MOPS_JOBS_REGISTRY": away.url(container)}
            return Place(server.url(container), server.env, outage)

        yield new_place


@contextlib.contextmanager
def dynamodb(directory: Path) -> Iterator[NewPlace]:
    """Yield what makes tables of a dynalite.

    Killed commands hang up on the proxy in front of it: a request that breaks off ends dynalite.
    """
    with servers.running(dynalite.make_server(directory)) as port, faulty(port, Plan(0.0), "dynamodb") as proxy:
        env, outage = aws_env("dynamodb", proxy.port), aws_env("dynamodb", servers.free_port())
        with mock.patch.dict(os.environ, env):  # where boto3 looks
            yield lambda directory: Place(f"dynamodb://views-{uuid.uuid4().hex}", env, outage)


@contextlib.contextmanager
def in_s3(directory: Path, name: str = s3.SEAWEEDFS) -> Iterator[NewPlace]:
    """Yield what makes prefixes in a bucket of a SeaweedFS, or of moto."""
    with servers.running(s3.make_server(directory, name)) as port:
        env, outage = aws_env("s3", port), aws_env("s3", servers.free_port())
        with mock.patch.dict(os.environ, env):
            yield lambda directory: Place(f"s3://{s3.BUCKET}/views-{uuid.uuid4().hex}", env, outage)


STORES: dict[str, Callable[[Path], AbstractContextManager[NewPlace]]] = {
    "sqlite": embedded,
    "azure": azure,
    "dynamodb": dynamodb,
    "s3": in_s3,
    "moto": partial(in_s3, name=s3.MOTO),
}
