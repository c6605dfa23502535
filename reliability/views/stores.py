"""The stores over which sequences run: real servers, each started once, and a new registry for each sequence."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from bench import servers
from bench.far import running
from reliability.storm.proxy import Plan, faulty


class Place(NamedTuple):
    """A registry that does not exist yet, and what opens it besides its URL."""

    url: str
    env: Mapping[str, str]
    outage: Mapping[str, str] | None
    """What to set for a command that no server answers; None for a file."""


NewPlace = Callable[[Path], Place]


STORES = {"sqlite": None, "azure": "Azure", "dynamodb": "DynamoDB", "s3": "S3", "moto": "S3 by moto"}
"""The stores, and their servers in `bench.far`."""


@contextlib.contextmanager
def running_store(store: str, directory: Path) -> Iterator[NewPlace]:
    """Yield what makes registries in a store.

    Killed commands hang up on a proxy in front of dynalite: a request that breaks off ends it.
    """
    name = STORES[store]
    if name is None:
        yield lambda directory: Place(f"sqlite://{directory}/registry.db", {}, None)
        return
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(running(name, directory))
        away = server._replace(port=servers.free_port())
        if server.service == "dynamodb":
            proxy = stack.enter_context(faulty(server.port, Plan(0.0), server.service))
            server = server._replace(port=proxy.port)
        stack.enter_context(mock.patch.dict(os.environ, server.env))  # where boto3 looks

        def new_place(_directory: Path) -> Place:
            name = f"views-{uuid.uuid4().hex}"
            return Place(server.url(name), server.env, {**away.env, "MOPS_JOBS_REGISTRY": away.url(name)})

        yield new_place
