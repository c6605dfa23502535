"""A private Azurite: on a free port of this machine, everything in memory, gone afterwards."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench import node, servers

NEWEST, OLDER = "azurite", "azurite-older"
"""The packages: the newest version, and an older one."""

ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # published
ARGUMENTS = (
    *("--blobHost", "127.0.0.1", "--blobPort", "{port}"),
    *("--skipApiVersionCheck", "--inMemoryPersistence"),
)
_NEWEST_ARGUMENTS = ("--disableTelemetry",)
"""The older version sends none."""


class Azurite:
    """A running Azurite, at its own port or at that of a proxy to it."""

    def __init__(self, port: int, account: str = ACCOUNT, key: str = ACCOUNT_KEY) -> None:
        self.port = port
        self.account, self.key = account, key
        self.endpoint = f"http://127.0.0.1:{port}/{account}"
        settings = f"AccountName={account};AccountKey={key};BlobEndpoint={self.endpoint}"
        self.connection_string = f"DefaultEndpointsProtocol=http;{settings};"

    @property
    def env(self) -> dict[str, str]:
        """Return the environment that opens it."""
        return {"AZURE_STORAGE_CONNECTION_STRING": self.connection_string}

    def url(self, container: str) -> str:
        """Return a container's URL, as mops-jobs takes it."""
        return f"{self.endpoint}/{container}"

    def sas_url(self, container: str, permission: str = "rl") -> str:
        """Return a container's URL with a token, as rclone takes it. By default it permits reading and listing."""
        from azure.storage.blob import generate_container_sas

        expiry = datetime.now(UTC) + timedelta(days=1)
        token = generate_container_sas(self.account, container, self.key, permission=permission, expiry=expiry)
        return f"{self.url(container)}?{token}"


def new_container() -> str:
    """Return a new container name. The container is not made."""
    return f"bench-{uuid.uuid4().hex}"


def make_server(
    directory: Path,
    account: str = ACCOUNT,
    key: str = ACCOUNT_KEY,
    *,
    package: str = NEWEST,
    collects_garbage: bool = True,
    logs_requests: bool = False,
    certificate: Path | None = None,
) -> node.NodeServer:
    """Return a server that is not started yet. What it prints goes to a file in `directory`.

    Args:
        directory: where it runs.
        account: the name of its only account.
        key: the key of that account.
        package: which version.
        collects_garbage: whether it looks each ten minutes for content that no blob has any more. After some 100,000
            writes it does not answer for minutes then, and no setting switches that off.
        logs_requests: whether it prints a line per request.
        certificate: a certificate with its key, for HTTPS and sign-in by tokens.
    """
    preload = None
    if not collects_garbage:
        preload = directory / "no-garbage-collection.js"
        constants = json.dumps(str(node.package_directory(package) / "dist/src/blob/utils/constants.js"))
        preload.write_text(f"require({constants}).DEFAULT_GC_INTERVAL_MS = {2**31 - 1};\n", encoding="utf-8")
    env = {"AZURITE_ACCOUNTS": f"{account}:{key}"}
    quiet = () if logs_requests else ("--silent",)
    tokens = ("--oauth", "basic", "--cert", str(certificate), "--key", str(certificate)) if certificate else ()
    arguments = (*ARGUMENTS, *quiet, *tokens, *(_NEWEST_ARGUMENTS if package == NEWEST else ()))
    return node.NodeServer(package, "dist/src/blob/main.js", directory, arguments, env=env, preload=preload)


@contextlib.contextmanager
def running(directory: Path, package: str = NEWEST, *, collects_garbage: bool = True) -> Iterator[Azurite]:
    """Run an Azurite during the block.

    Raises:
        RuntimeError: if it is not installed, or does not start.
    """
    with servers.running(make_server(directory, package=package, collects_garbage=collects_garbage)) as port:
        yield Azurite(port)


def version(package: str = NEWEST) -> str:
    """Return the version of an Azurite."""
    return node.version(package)
