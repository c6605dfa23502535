"""Refuse an embedded registry that several machines cannot share: SQLite would damage it without a word.

See docs/decisions/0082-registries-that-nodes-share.md.
"""

from __future__ import annotations

import os
import socket

from mopsjobs.errors import UsageError
from mopsjobs.store.urls import sqlite_path
from mopsjobs.utils.file_systems import network_file_system

_HINT = (
    "Let the shards report by files, which commands on the login node deliver: --file-drop. Or name a registry that the"
    " nodes reach over the network: --registry azure://container."
)


def url_for_nodes(url: str) -> str:
    """Return the URL of a registry as the nodes of a cluster open it: an embedded one by its absolute path.

    Raises:
        UsageError: if it is on a network file system.
    """
    if not url.startswith("sqlite:"):
        return url
    path = sqlite_path(url)
    kind = network_file_system(path)
    if kind is not None:
        raise UsageError(
            f"The registry {path} is on a network file system ({kind}), where the nodes of a cluster cannot share a"
            " SQLite file: they would overwrite each other's records.",
            hint=_HINT,
        )
    return f"sqlite://{path}"


def warning_on_login_node(url: str) -> str | None:
    """Return a warning if the registry of a job with a drop of files is on a network file system; None for any other.

    No node opens it. But commands on several login nodes would.
    """
    if not url.startswith("sqlite:"):
        return None
    path = sqlite_path(url)
    kind = network_file_system(path)
    if kind is None:
        return None
    return (
        f"The registry {path} is on a network file system ({kind}), where machines cannot share a SQLite file. Run all"
        f" commands on {socket.gethostname()} alone, or name a registry on a local disk of it:"
        " --registry sqlite:///PATH/registry.db"
    )


def check_on_node(url: str) -> None:
    """Check on a node that it shares the registry of its job.

    Raises:
        UsageError: if it is on a network file system, or if this node has no file of it.
    """
    if url.startswith("sqlite:") and not os.path.exists(path := sqlite_path(url_for_nodes(url))):
        raise UsageError(
            f"The node {socket.gethostname()} has no registry {path}: the file is on another machine, or gone.",
            hint=_HINT,
        )
