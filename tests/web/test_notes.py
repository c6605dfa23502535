"""Notes, labels and archived jobs on the pages."""

from __future__ import annotations

import pytest

from support.cli import Cli, Remote, add
from support.web import HOSTILE, Web


@pytest.fixture
def web(cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str]) -> Web:
    """Return an application over two failed jobs, one of them archived, and one that runs."""
    for job_id, status in (("old", "failed"), ("new", "failed"), ("busy", "running")):
        add(remote.jobs, job_id, status, owner="ada")
    remote.jobs.change_labels("old", {"archived": "true"})
    cli.ok("sync", "-q")
    return Web(cli, capsys)


def _ids(web: Web, path: str) -> list[str]:
    return [one for one in web.ids(path) if "/" not in one]


def test_the_page_of_a_job_has_its_notes_and_changes_of_labels(web: Web, cli: Cli, remote: Remote) -> None:
    """Oldest first, with author and time, escaped. A note of a program without a history is there without them."""
    cli.clock.advance(hours=1)
    remote.jobs.with_user("ada").add_note("new", HOSTILE)
    cli.clock.advance(hours=1)
    remote.jobs.with_user(HOSTILE).change_labels("new", {"paper": "fig2"})
    remote.jobs.change_labels("new", remove=["paper"])
    cli.ok("sync", "-q")
    page = web.ok("/jobs/new")
    section = page.partition('<section id="notes"')[2].partition("</section>")[0]
    assert section.count("<dd ") == 3
    assert "<img src" not in section
    assert section.index("&lt;img") < section.index("paper=fig2") < section.index("without paper")
    assert "<bdi>ada</bdi>" in section
    assert "Notes and labels</h2>" not in web.ok("/jobs/busy")


def test_an_archived_job_is_neither_in_the_table_nor_in_the_counts(web: Web) -> None:
    """A line says how many are left out and leads to them. Other filters stay. The API is as `list --json`."""
    page = web.ok("/jobs?owner=ada")
    assert sorted(_ids(web, "/jobs?owner=ada")) == ["busy", "new"]
    assert '<a href="?owner=ada&amp;label=archived%3Dtrue">1 archived job</a> not shown.' in page
    assert "<b>1</b> open failure<" in page
    assert _ids(web, "/jobs?owner=ada&label=archived%3Dtrue") == ["old"]
    assert "archived job" not in web.ok("/jobs?label=archived")
    assert "archived job" not in web.ok("/jobs?status=running")
    answer = web.get("/api/v1/jobs").get_json()
    assert (sorted(job["job_id"] for job in answer["jobs"]), answer["total"]) == (["busy", "new"], 2)
    (job,) = web.get("/api/v1/jobs?label=archived").get_json()["jobs"]
    assert job["job_id"] == "old"
