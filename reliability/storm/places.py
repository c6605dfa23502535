"""Registries as the processes of a storm reach them, and as the judge reaches them: with and without the bad line."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from bench.far import running
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
def far(backend: str, directory: Path, plan: Plan) -> Iterator[tuple[Place, Proxy]]:
    """Yield a registry that does not exist yet on a real server of `bench.far`, and the bad line to it.

    A server of S3 has been probed on a good line: on a very bad one, no probe would succeed.
    """
    with running(backend, directory) as server, faulty(server.port, Plan(0.0), server.service) as proxy:
        name, line = f"storm-{uuid.uuid4().hex}", server._replace(port=proxy.port)
        url, env = line.url(name), line.env
        if server.service == "s3":
            with mock.patch.dict(os.environ, env), contextlib.closing(open_store(url)) as store:
                store.create_if_absent("first", b"-")
                store.delete("first")
        proxy.follow(plan)
        yield Place(url, env, server.url(name), server.env), proxy
