"""What one client can do to `serve`: ask for what has no end, for too much at once, or hold its connections."""

from __future__ import annotations

import pytest

from support_cli import Cli, Remote, add
from test_web import Web


@pytest.fixture
def web(cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str]) -> Web:
    add(remote.jobs, "a" * 60)
    cli.ok("sync", "-q")
    return Web(cli, capsys)


# --- what is asked for -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api/v1/jobs", "/jobs"])
def test_regular_expressions_are_refused(web: Web, path: str) -> None:
    """`(a+)+$` would hold the interpreter, all other requests and SIGTERM: no expression is taken, a glob is."""
    answer = web.get(f"{path}?match=(a%2B)%2B%24")
    assert answer.status_code == 400
    assert "no regular expression" in answer.text
    assert "name=GLOB" in answer.text
    assert "match" not in web.get("/api/v1/jobs?colour=red").text
    assert "a" * 60 in web.ok(f"{path}?name={'*a' * 60}")


@pytest.mark.parametrize("path", ["/api/v1/jobs", "/jobs"])
def test_too_many_labels_are_a_bad_request(web: Web, path: str) -> None:
    """They are told as what they are, without a hint about the cache."""
    answer = web.get(f"{path}?{'&'.join(f'label=k%3D{number}' for number in range(2500))}")
    assert answer.status_code == 400
    assert "Too many labels" in answer.text
    assert "--cache" not in answer.text
    assert web.get(f"{path}?sort={'name,' * 2500}name").status_code == 200
