"""Which registries the nodes of a cluster can share."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from mopsjobs.errors import UsageError
from mopsjobs.submission import shared_registry
from mopsjobs.submission.shared_registry import check_on_node, url_for_nodes, warning_on_login_node


@pytest.fixture
def _on_nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_registry, "network_file_system", lambda path: "nfs4")


@pytest.mark.usefixtures("_on_nfs")
def test_a_registry_across_a_network_stays_as_it_is() -> None:
    url = "https://example.blob.core.windows.net/jobs"
    assert url_for_nodes(url) == url
    assert warning_on_login_node(url) is None
    check_on_node(url)


def test_nodes_get_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard begins in another directory than the one it was submitted from."""
    monkeypatch.chdir(tmp_path)
    assert url_for_nodes("sqlite:registry.db") == f"sqlite://{tmp_path}/registry.db"


@pytest.mark.usefixtures("_on_nfs")
def test_a_file_on_a_network_file_system_is_refused_with_its_type(tmp_path: Path) -> None:
    """By submit, and by a node that mounts it so; the hint names two ways that work."""
    url = f"sqlite://{tmp_path}/registry.db"
    (tmp_path / "registry.db").touch()
    for check in (url_for_nodes, check_on_node):
        with pytest.raises(UsageError, match=r"registry\.db is on a network file system \(nfs4\)") as raised:
            check(url)
        assert "--registry azure://" in str(raised.value.hint)
        assert "which commands on the login node deliver: --file-drop" in str(raised.value.hint)


@pytest.mark.usefixtures("_on_nfs")
def test_the_file_that_several_login_nodes_would_open_is_warned_of(tmp_path: Path) -> None:
    """The registry is accepted, since only the login node opens it."""
    warning = str(warning_on_login_node(f"sqlite://{tmp_path}/registry.db"))
    assert warning.startswith(f"The registry {tmp_path}/registry.db is on a network file system (nfs4), where machines")
    assert f"Run all commands on {socket.gethostname()} alone" in warning


def test_a_file_on_a_local_disk_is_not_warned_of(tmp_path: Path) -> None:
    assert warning_on_login_node(f"sqlite://{tmp_path}/registry.db") is None


def test_a_node_without_the_file_begins_no_empty_registry(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/registry.db"
    with pytest.raises(UsageError, match=r"has no registry .*: the file is on another machine, or gone"):
        check_on_node(url)
    assert os.listdir(tmp_path) == []
    (tmp_path / "registry.db").touch()
    check_on_node(url)
