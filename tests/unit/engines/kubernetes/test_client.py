"""A cluster's certificate is verified as kubectl does it: by the authority that the kubeconfig names."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.engines.kubernetes.client import open_cluster
from mopsjobs.errors import EngineAccessError, EngineError
from support.certificates import signed_by_old_authority


class NoObjects(BaseHTTPRequestHandler):
    """Answers that there is no such object."""

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b'{"kind": "Status", "apiVersion": "v1", "message": "no such object", "code": 404}')

    def log_message(self, *_args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Yield the address of an HTTPS server, and its authority, which has no key usage and no key identifiers."""
    certificate, authority = signed_by_old_authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with ThreadingHTTPServer(("127.0.0.1", 0), NoObjects) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"https://localhost:{server.server_port}", authority
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def strict_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each version of Python make contexts as Python 3.13 does."""
    make = ssl.create_default_context

    def make_strict(*args: Any, **named: Any) -> ssl.SSLContext:
        context = make(*args, **named)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", make_strict)


def _env(directory: Path, url: str, **cluster: str) -> dict[str, str]:
    path = directory / "kubeconfig"
    document = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": url, **cluster}}],
        "users": [{"name": "u", "user": {"token": "a-token"}}],
    }
    path.write_text(json.dumps(document))
    return {"KUBECONFIG": str(path), "HOME": str(directory)}


def test_an_authority_without_a_key_usage_is_accepted(server: tuple[str, Path], tmp_path: Path) -> None:
    """EKS has such ones, and kubectl connects. Python 3.13 refuses them by default."""
    url, authority = server
    with open_cluster(_env(tmp_path, url, **{"certificate-authority": str(authority)})) as cluster:
        assert cluster.job("models", "seir-1") is None


def test_a_name_that_the_certificate_lacks_is_refused(server: tuple[str, Path], tmp_path: Path) -> None:
    """All else is verified. An invalid certificate does not count as an outage."""
    url, authority = server
    env = _env(tmp_path, url.replace("localhost", "127.0.0.1"), **{"certificate-authority": str(authority)})
    with open_cluster(env) as cluster, pytest.raises(EngineAccessError, match=r"cannot be verified: .*mismatch"):
        cluster.job("models", "seir-1")


def test_an_error_of_this_program_is_not_that_of_the_cluster(server: tuple[str, Path], tmp_path: Path) -> None:
    """Before the server has sent a response. What it sends later may have any shape, and the error has its cause."""
    url, authority = server
    env = _env(tmp_path, url, **{"certificate-authority": str(authority)})
    with pytest.raises(KeyError, match="ours"), open_cluster(env):
        raise KeyError("ours")

    def read_reply() -> None:
        with open_cluster(env) as cluster:
            cluster.job("models", "seir-1")
            raise KeyError("of a reply")

    with pytest.raises(EngineError, match="unexpected response") as raised:
        read_reply()
    assert isinstance(raised.value.__cause__, KeyError)


def test_an_unknown_authority_is_no_outage(server: tuple[str, Path], tmp_path: Path) -> None:
    """Exit code 4: to try again does not help."""
    url, _ = server
    with open_cluster(_env(tmp_path, url)) as cluster, pytest.raises(EngineAccessError) as raised:
        cluster.job("models", "seir-1")
    assert raised.value.exit_code == 4
    assert "certificate of the cluster at https://localhost" in str(raised.value)
