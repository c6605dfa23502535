"""A private Azurite: on a free port of this machine, everything in memory, gone afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.machine import ROOT

ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # published
OPTIONS = ("--disableTelemetry", "--skipApiVersionCheck", "--inMemoryPersistence", "--silent")
START_SECONDS = 60


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
def running(directory: Path) -> Iterator[Azurite]:
    """An Azurite while the block runs. What it prints goes to a file in `directory`.

    Raises:
        RuntimeError: there is none, or it does not start.
    """
    script = _modules() / "azurite" / "dist" / "src" / "blob" / "main.js"
    if not script.is_file():
        raise RuntimeError("There is no Azurite: run ./build.sh test, which installs it into build/azurite.")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = int(server.getsockname()[1])
    log = directory / "azurite.out"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            ["node", str(script), "--blobHost", "127.0.0.1", "--blobPort", str(port), *OPTIONS],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            if not _answers(process, port):
                raise RuntimeError(f"Azurite did not start: {log.read_text(errors='replace')[-2000:]}")
            yield Azurite(port)
        finally:
            process.kill()  # it has nothing to save


def version() -> str:
    """Azurite's version."""
    try:
        return str(json.loads((_modules() / "azurite" / "package.json").read_text(encoding="utf-8"))["version"])
    except OSError:
        return "none"


def _modules() -> Path:
    return Path(os.environ.get("MOPS_TEST_AZURITE") or ROOT / "build" / "azurite" / "node_modules")


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    for _ in range(START_SECONDS * 10):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
            return False
    return False
