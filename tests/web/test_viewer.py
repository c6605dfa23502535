"""A name from a header of a proxy: it sets what is mine, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mopsjobs.errors import UsageError
from mopsjobs.utils.times import utc_now
from mopsjobs.web.site.site import Site
from mopsjobs.web.site.viewer import MAX_NAME, Viewers
from support.cli import Cli, Clock, Remote, add
from support.web import HOSTILE, Web, make_client, serving

if TYPE_CHECKING:
    from flask.testing import FlaskClient

    from mopsjobs.registry.job_registry import JobRegistry

HEADER = "X-Forwarded-User"


@pytest.fixture
def web(cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str]) -> Web:
    for owner in ("ada", "grace"):
        add(remote.jobs, f"of-{owner}", "running", owner=owner)
    cli.ok("sync", "-q")
    return Web(cli, capsys)


def client_of(web: Web, viewers: Viewers) -> FlaskClient:
    return make_client(Site(web.app, web.changes, None, viewers))


@pytest.fixture
def client(web: Web) -> FlaskClient:
    """Return a client of a server that takes names from a header."""
    return client_of(web, Viewers(HEADER))


@pytest.mark.parametrize(
    ("sent", "query"),
    [("ada", "owner=ada"), (" grace ", "owner=grace"), ("émilie".encode().decode("latin-1"), "owner=%C3%A9milie"),
     ("a&status=failed", "owner=a%26status%3Dfailed"), (HOSTILE.replace(",", ""), None)],
)  # fmt: skip
def test_mine_leads_to_the_jobs_of_the_sender(client: FlaskClient, sent: str, query: str | None) -> None:
    """A redirect to a page of this server, whatever the name is; it has no markup of its own."""
    answer = client.get("/jobs?mine=true", headers={HEADER: sent})
    assert answer.status_code == 302
    assert answer.headers["Location"].startswith("/jobs?owner=")
    assert query is None or answer.headers["Location"] == f"/jobs?{query}"
    assert "<img" not in answer.text
    shown = client.get(answer.headers["Location"])
    assert shown.status_code == 200
    assert "<img" not in shown.text


def test_other_filters_stay(client: FlaskClient) -> None:
    """All but the owner, which the name takes the place of."""
    answer = client.get("/jobs?mine=true&status=failed&owner=grace&label=a&label=b", headers={HEADER: "ada"})
    assert answer.headers["Location"] == "/jobs?status=failed&label=a&label=b&owner=ada"


@pytest.mark.parametrize("sent", [None, "x" * (MAX_NAME + 1), "ada,grace", "a\x1b[31m", "\xff"])
def test_what_is_no_name_is_none(client: FlaskClient, sent: str | None) -> None:
    """Too long, with control characters, or of two headers that were joined: such a request leads nowhere."""
    answer = client.get("/jobs?mine=true", headers={} if sent is None else {HEADER: sent})
    assert answer.status_code == 400
    assert "Nothing says which jobs are yours." in answer.text


def test_a_name_changes_no_other_answer(client: FlaskClient) -> None:
    """Pages, API and methods are those of all clients."""
    for path in ("/jobs", "/jobs/of-ada", "/charts", "/api/v1/jobs", "/healthz"):
        texts = {client.get(path, headers=headers).text for headers in ({}, {HEADER: "ada"}, {HEADER: "root"})}
        assert len(texts) == 1, path
    assert client.post("/jobs", headers={HEADER: "root"}).status_code == 405


@pytest.mark.claim('`--trust-header` chooses whose jobs are "mine", and nothing else')
def test_only_the_chosen_header_counts(client: FlaskClient) -> None:
    """Neither one of its kind, nor one that WSGI would give the same name."""
    for name in ("X-Forwarded-Email", "Remote-User", "X_Forwarded_User2"):
        assert client.get("/jobs?mine=true", headers={name: "ada"}).status_code == 400


@pytest.mark.parametrize("name", ["", "a b", "a\n"])
def test_a_header_that_no_request_can_have_is_refused(name: str) -> None:
    """When the server starts, not at the first request."""
    with pytest.raises(UsageError, match="invalid header"):
        Viewers(name)


def test_the_flags_go_together(cli: Cli) -> None:
    """A header is only trusted from a proxy."""
    assert "--trust-header needs --behind-proxy" in cli.fails(2, "serve", "--port", "0", "--trust-header", HEADER)
    assert cli("serve", "--port", "0", "--behind-proxy", "--trust-header", "a b").code == 2


@pytest.mark.claim('`--trust-header` chooses whose jobs are "mine", and nothing else')
def test_a_served_header_sets_mine(cli: Cli, jobs: JobRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the wire. A header whose name has an underscore is not taken for it."""
    monkeypatch.setattr(Clock, "now", lambda _clock: utc_now())
    cli.ok("register", "first", "--owner", "ada", "-q")
    with serving(cli, "--behind-proxy", "--trust-header", HEADER, "--sync-every", "1s") as server:
        answer = server.filled().ask("/jobs?mine=true", **{HEADER: "ada"})
        assert (answer.status, answer.headers["Location"]) == (302, "/jobs?owner=ada")
        assert server.ask("/jobs?mine=true", X_Forwarded_User="ada").status == 400
    cli.env["USER"] = "grace"
    with serving(cli, "--sync-every", "1s") as server:
        assert server.filled().ask("/jobs?mine=true", **{HEADER: "ada"}).headers["Location"] == "/jobs?owner=grace"
    with serving(cli, "--behind-proxy") as server:
        assert server.filled().ask("/jobs?mine=true").status == 400
