"""Registries of trials on real servers, each as commands reach it, by a bad line or not, and on a good line."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from bench.far import Server, running
from bench.servers import free_port
from mopsjobs.store import open_store
from reliability.storm.proxy import Plan, Proxy, faulty


class Place(NamedTuple):
    """A registry that does not exist yet."""

    url: str
    env: Mapping[str, str]
    """What opens it besides the URL."""
    calm_url: str
    calm_env: Mapping[str, str]
    """The same on a line without faults."""
    outage: Mapping[str, str] | None = None
    """What to set for a command that no server answers; None for a file."""


def embedded(directory: Path) -> Place:
    """Return a SQLite file. There is no line to it that could break."""
    url = f"sqlite://{directory}/registry.db"
    return Place(url, {}, url, {})


def _on(server: Server, port: int) -> Place:
    name, line, away = f"trial-{uuid.uuid4().hex}", server._replace(port=port), server._replace(port=free_port())
    outage = {**away.env, "MOPS_JOBS_REGISTRY": away.url(name)}
    return Place(line.url(name), line.env, server.url(name), server.env, outage)


@contextlib.contextmanager
def far(backend: str, directory: Path, plan: Plan) -> Iterator[tuple[Place, Proxy]]:
    """Yield a registry on a real server of `bench.far`, and the bad line to it.

    A server of S3 has been probed on a good line: on a very bad one, no probe would succeed.
    """
    with running(backend, directory) as server, faulty(server.port, Plan(0.0), server.service) as proxy:
        place = _on(server, proxy.port)
        if server.service == "s3":
            with mock.patch.dict(os.environ, place.env), contextlib.closing(open_store(place.url)) as store:
                store.create_if_absent("first", b"-")
                store.delete("first")
        proxy.follow(plan)
        yield place, proxy


STORES = {"sqlite": None, "azure": "Azure", "dynamodb": "DynamoDB", "s3": "S3", "moto": "S3 by moto"}
"""Stores by their names in options, and their servers in `bench.far`."""


@contextlib.contextmanager
def running_store(store: str, directory: Path) -> Iterator[Callable[[Path], Place]]:
    """Yield what makes registries in a store, on a good line.

    Killed commands hang up on a proxy in front of dynalite: a request that breaks off ends it.
    """
    name = STORES[store]
    if name is None:
        yield embedded
        return
    with running(name, directory) as server, contextlib.ExitStack() as stack:
        port = server.port
        if server.service == "dynamodb":
            port = stack.enter_context(faulty(port, Plan(0.0), server.service)).port
        # boto3 looks into the environment itself
        stack.enter_context(mock.patch.dict(os.environ, server._replace(port=port).env))
        yield lambda _directory: _on(server, port)
