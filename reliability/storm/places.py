"""Registries as the processes of a storm reach them, and as the judge reaches them: with and without the bad line."""

from __future__ import annotations

import contextlib
import functools
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from bench import azurite, dynalite, s3, servers
from bench.aws import aws_env
from mopsjobs.store import open_store
from reliability.storm.proxy import Plan, Proxy, faulty


class Place(NamedTuple):
    """A registry as the processes reach it, and as the judge reaches it: on a line without faults."""

    url: str
    env: Mapping[str, str]
    """What opens it besides the URL."""
    calm_url: str
    calm_env: Mapping[str, str]


def embedded(directory: Path) -> Place:
    """Return a SQLite file that does not exist yet. There is no line to it that could break."""
    url = f"sqlite://{directory}/registry.db"
    return Place(url, {}, url, {})


@contextlib.contextmanager
def azure(directory: Path, plan: Plan, package: str = azurite.NEWEST) -> Iterator[tuple[Place, Proxy]]:
    """Yield a container that does not exist yet of a real Azurite, and the bad line to it."""
    with azurite.running(directory, package) as server, faulty(server.port, plan) as proxy:
        far = azurite.Azurite(proxy.port)
        container = azurite.new_container()
        yield Place(far.url(container), far.env, server.url(container), server.env), proxy


@contextlib.contextmanager
def dynamodb(directory: Path, plan: Plan) -> Iterator[tuple[Place, Proxy]]:
    """Yield a table that does not exist yet of a real dynalite, and the bad line to it."""
    with (
        servers.running(dynalite.make_server(directory)) as port,
        faulty(port, plan, "dynamodb") as proxy,
    ):
        url = f"dynamodb://storm-{uuid.uuid4().hex}"
        yield Place(url, aws_env("dynamodb", proxy.port), url, aws_env("dynamodb", port)), proxy


@contextlib.contextmanager
def in_s3(directory: Path, plan: Plan, name: str = s3.SEAWEEDFS) -> Iterator[tuple[Place, Proxy]]:
    """Yield an empty prefix in a bucket of a real SeaweedFS, or of moto, and the bad line to it.

    The server has been probed on a good line.
    """
    with (
        servers.running(s3.make_server(directory, name)) as port,
        faulty(port, Plan(0.0), "s3") as proxy,
    ):
        url = f"s3://{s3.BUCKET}/storm-{uuid.uuid4().hex}"
        env = aws_env("s3", proxy.port)
        with mock.patch.dict(os.environ, env), contextlib.closing(open_store(url)) as store:
            store.create_if_absent("first", b"-")  # probes the server: on a very bad line, no probe would succeed
            store.delete("first")
        proxy.follow(plan)
        yield Place(url, env, url, aws_env("s3", port)), proxy


FAR: dict[str, Callable[[Path, Plan], AbstractContextManager[tuple[Place, Proxy]]]] = {
    "Azure": azure,
    "older Azurite": functools.partial(azure, package=azurite.OLDER),
    "DynamoDB": dynamodb,
    "S3": in_s3,
    "S3 by moto": functools.partial(in_s3, name=s3.MOTO),
}
"""The backends across a network."""
