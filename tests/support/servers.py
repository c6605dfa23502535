"""The servers of the tests, and a place for one store of each backend. The fixtures are in conftest.py."""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import bench.azurite
import bench.node
import bench.s3
from bench.aws import aws_env, plain_client
from bench.azurite import ACCOUNT, ACCOUNT_KEY
from mopsjobs.store import open_store
from mopsjobs.store.directory import DirectoryVersionedStore
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.store.s3.store import S3VersionedStore
from support.docs import ROOT
from support.runs import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from azure.storage.blob import ContainerClient

    from mopsjobs.store.base import VersionedStore


PATIENT = f"""
from mopsjobs.store import network
network.BUDGET_SECONDS = {PATIENCE}
"""
"""Begins a program that talks to a server of the tests: on a busy machine, it answers some requests after seconds."""

PATIENT_COMMAND = f"""
import sys
sys.path[0] = {str(ROOT)!r}  # not the working directory
{PATIENT}
from mops_jobs import entry
entry()
"""
"""The command as such a program."""


class Azurite(bench.azurite.Azurite):
    """A server of Azure Blob Storage's API, with the account that is published or with another."""

    def __init__(
        self, directory: Path, account: str = ACCOUNT, key: str = ACCOUNT_KEY, package: str = bench.azurite.NEWEST
    ) -> None:
        server = bench.azurite.make_server(directory, account, key, package=package, collects_garbage=False)
        super().__init__(server.port, account, key)
        self.start, self.stop = server.start, server.stop

    def new_container(self) -> str:
        """Return a new container name. The container is not made."""
        return f"test-{uuid.uuid4().hex}"

    def client(self, container: str) -> ContainerClient:
        """Return a client of the plain SDK, to look behind the store. Close it."""
        from azure.storage.blob import ContainerClient

        return ContainerClient.from_connection_string(self.connection_string, container)


class Dynalite:
    """A server of DynamoDB's API. It is started at once."""

    def __init__(self, directory: Path) -> None:
        server = bench.node.make_dynalite(directory)
        server.start()
        self.stop = server.stop
        self.env = aws_env("dynamodb", server.port)
        """The environment in which boto3 talks to it."""

    def new_table(self) -> str:
        """Return the URL of a new table. The table is not made."""
        return f"dynamodb://test-{uuid.uuid4().hex}"

    def client(self) -> Any:
        """Return a client of the plain SDK, to look behind the store. Close it."""
        return plain_client("dynamodb", self.env)


class S3:
    """A server of S3's API with one bucket, in which each store has a prefix. It is started at once."""

    def __init__(self, directory: Path, name: str) -> None:
        server = bench.s3.start_server(directory, name)
        self.name = name
        self.stop = server.stop
        self.env = server.env
        """The environment in which boto3 talks to it."""

    def new_prefix(self) -> str:
        """Return the URL of a new prefix. It has no objects."""
        return f"s3://{bench.s3.BUCKET}/test-{uuid.uuid4().hex}"

    def client(self) -> Any:
        """Return a client of the plain SDK, to look behind the store. Close it."""
        return plain_client("s3", self.env)


class Place(NamedTuple):
    """An environment for programs, and what removes its registry."""

    env: dict[str, str]
    remove_registry: Callable[[], object]


class Backend:
    """A place for one store: `open()` gives one client after another to the same, at first missing, data."""

    def __init__(
        self,
        name: str,
        url: str,
        exists: Callable[[], bool],
        *,
        open_client: Callable[[], VersionedStore] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.url = url
        self.exists = exists
        self.env = dict(env or {})
        """The variables that another process needs to find the place."""
        self._open_client = open_client or (lambda: open_store(url, {}))
        self._opened: list[VersionedStore] = []

    def open(self) -> VersionedStore:
        store = self._open_client()
        self._opened.append(store)
        return store

    def close(self) -> None:
        for store in self._opened:
            store.close()


def memory_backend() -> Backend:
    store = InMemoryVersionedStore()
    return Backend("memory", "memory:", lambda: True, open_client=lambda: store)


def sqlite_backend(path: Path) -> Backend:
    return Backend("sqlite", f"sqlite://{path}", path.exists)


def directory_backend(path: Path) -> Backend:
    return Backend("directory", "", path.exists, open_client=lambda: DirectoryVersionedStore(path))


def azure_backend(server: Azurite) -> Backend:
    name = server.new_container()

    def exists() -> bool:
        with server.client(name) as client:
            return client.exists()

    return Backend("azure", server.url(name), exists)


def dynamodb_backend(server: Dynalite) -> Backend:
    url = server.new_table()

    def exists() -> bool:
        with contextlib.closing(server.client()) as client:
            return url.removeprefix("dynamodb://") in client.list_tables()["TableNames"]

    return Backend("dynamodb", url, exists, env=server.env)


def s3_backend(server: S3) -> Backend:
    url = server.new_prefix()
    bucket, _, prefix = url.removeprefix("s3://").partition("/")

    def exists() -> bool:
        with contextlib.closing(server.client()) as client:
            return bool(client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/")["KeyCount"])

    # Without the probe of `open_store`, which leaves a note in the store.
    return Backend(
        f"s3-{server.name}", url, exists, open_client=lambda: S3VersionedStore(bucket, prefix), env=server.env
    )
