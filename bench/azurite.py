"""A private Azurite: on a free port of this machine, everything in memory, gone afterwards."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench import node

ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # published
OPTIONS = (
    *("--blobHost", "127.0.0.1", "--blobPort", "{port}"),
    *("--disableTelemetry", "--skipApiVersionCheck", "--inMemoryPersistence", "--silent"),
)


class Azurite:
    """A running Azurite, at its own port or at that of a proxy to it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
        settings = f"AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};BlobEndpoint={self.endpoint}"
        self.connection_string = f"DefaultEndpointsProtocol=http;{settings};"

    @property
    def env(self) -> dict[str, str]:
        """The environment that opens it."""
        return {"AZURE_STORAGE_CONNECTION_STRING": self.connection_string}

    def url(self, container: str) -> str:
        """A container's URL, as mops-jobs takes it."""
        return f"{self.endpoint}/{container}"

    def sas_url(self, container: str, permission: str = "rl") -> str:
        """A container's URL with a token, as rclone takes it: to read and list, unless `permission` says otherwise."""
        from azure.storage.blob import generate_container_sas

        expiry = datetime.now(UTC) + timedelta(days=1)
        token = generate_container_sas(ACCOUNT, container, ACCOUNT_KEY, permission=permission, expiry=expiry)
        return f"{self.url(container)}?{token}"


def new_container() -> str:
    """The name of a container that nobody has used. It is not made."""
    return f"bench-{uuid.uuid4().hex}"


@contextlib.contextmanager
def running(directory: Path, *, collects_garbage: bool = True) -> Iterator[Azurite]:
    """An Azurite while the block runs. What it prints goes to a file in `directory`.

    Args:
        directory: where it runs.
        collects_garbage: whether it looks each ten minutes for content that no blob has any more. After some 100,000
            writes it answers nobody for minutes then, and no setting switches that off.

    Raises:
        RuntimeError: there is none, or it does not start.
    """
    preload = None
    if not collects_garbage:
        preload = directory / "no-garbage-collection.js"
        constants = json.dumps(str(node.package("azurite") / "dist/src/blob/utils/constants.js"))
        preload.write_text(f"require({constants}).DEFAULT_GC_INTERVAL_MS = {2**31 - 1};\n", encoding="utf-8")
    with node.running("azurite", "dist/src/blob/main.js", directory, OPTIONS, preload=preload) as port:
        yield Azurite(port)


def version() -> str:
    """Azurite's version."""
    return node.version("azurite")
