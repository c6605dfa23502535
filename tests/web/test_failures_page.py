"""The page of failures: the errors of all jobs, what it counts, where it leads, and what it has read."""

from __future__ import annotations

import html
import re

import pytest

from mopsjobs.web.pages import failures_page
from mopsjobs.web.queries.query_params import FailuresPageQuery
from mopsjobs.web.site import job_reads
from support.cli import START, Cli, Remote, add, foreign, key
from support.ledgers import Ledger, attempt
from support.study_jobs import NO_ROOM, TOO_LARGE, fail
from support.web import Web, flat, text_of

DAY_AGO = START.timestamp() - 86400
LARGE = dict.fromkeys(range(30, 40), TOO_LARGE)


@pytest.fixture
def web(cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str]) -> Web:
    """Return an application over two jobs with one error. It reads what its pages ask for when the test says so."""
    fail(remote.jobs, "night-1", LARGE, DAY_AGO, owner="ada", labels={"exp": "7"})
    fail(remote.jobs, "night-2", {7: NO_ROOM, 38: TOO_LARGE}, DAY_AGO + 3600, owner="grace", status="running", ended=39)
    add(remote.jobs, "fine", "succeeded")
    cli.ok("sync", "-q")
    return Web(cli, capsys, reads=True)


def _page(web: Web, query: str = "") -> str:
    """Return the page when all that it asks for was read."""
    return web.complete(f"/failures{query}")


def _rows(page: str) -> dict[str, str]:
    """Return the rows of the errors by their keys, in their order."""
    return dict(re.findall(r'<tr data-key="([^"/]+)">(.*?)</tr>', page, re.DOTALL))


def _links(row: str, path: str) -> list[str]:
    """Return the addresses in a row that begin so."""
    return [link for link in map(html.unescape, re.findall(r'href="([^"]+)"', row)) if link.startswith(path)]


# --- what it shows ---------------------------------------------------------------------------------------------------


def test_an_error_of_several_jobs_is_one_row(web: Web) -> None:
    """With its tasks and jobs, who owns them, and where and when it was seen."""
    page = _page(web)
    assert "12 tasks of 2 jobs failed, for 2 reasons; the last" in text_of(page)
    rows = _rows(page)
    assert list(rows) == [TOO_LARGE.key, NO_ROOM.key], "the one with the most tasks is first"
    words = text_of(rows[TOO_LARGE.key])
    assert words.startswith("ValueError in model.py:21 : beta is too large all 10 have n > 29; no other has in night-1")
    assert "10 tasks of night-1 and 1 more job 1 task of night-2" in words
    assert words.endswith("11 2 ada grace 23h ago 22h ago")
    assert '<time datetime="2026-02-28T12:30:02Z" title="2026-02-28T12:30:02Z">23h ago</time>' in rows[TOO_LARGE.key]
    alone = text_of(rows[NO_ROOM.key])
    assert alone.endswith("1 task of night-2 1 1 grace 22h ago 22h ago")


def test_it_shows_what_the_command_shows(web: Web, cli: Cli) -> None:
    """The same groups of the same jobs, as `failures` merges them."""
    rows = _rows(_page(web))
    groups = cli.ok("failures", "--hours", "168", "--limit", "0", "--json", "--offline").json["groups"]
    assert [group["key"] for group in groups] == list(rows)
    for group in groups:
        assert f">{group['message']}</bdi>" in rows[group["key"]]


def test_what_a_resume_left_to_a_later_one_stays(web: Web, cli: Cli, remote: Remote) -> None:
    """In the page, the command and the API, without the tasks that the resume ran; `is:open` has the job too.

    A later resume takes all.
    """

    def counts(query: str = "", *flags: str) -> set[tuple[int, int]]:
        page = re.search(r"(\d+) tasks? of (\d+) jobs? failed", text_of(_page(web, query)))
        assert page is not None
        found = [cli.ok("failures", "--limit", "0", "--json", *flags).json, web.get(f"/api/v1/failures{query}").json]
        return {(int(page[1]), int(page[2])), *((one["failed"], len(one["jobs"])) for one in found)}

    fail(remote.jobs, "night-1.2", {39: NO_ROOM}, DAY_AGO, only=[38, 39], parent_job_id="night-1", status="running")
    remote.jobs.update_fields("night-1.2", metadata={"n_deferred_tasks": 8})
    remote.jobs.update_status("night-1.2", "partial")
    cli.ok("sync", "-q")
    assert counts() == {(11, 3)}
    assert counts("?resumed=true", "--resumed") == {(13, 3)}
    assert "night-1" in web.ids("/jobs?open=true")
    fail(remote.jobs, "night-1.3", {}, DAY_AGO, only=range(30, 40), parent_job_id="night-1.2", status="succeeded")
    cli.ok("sync", "-q")
    assert counts() == {(2, 1)}
    assert counts("?resumed=true", "--resumed") == {(13, 3)}


def test_rows_can_be_sorted(web: Web) -> None:
    """By tasks, jobs, and by when an error was seen first or last."""
    _page(web)
    for sort, first in (("tasks", TOO_LARGE), ("jobs", TOO_LARGE), ("first", NO_ROOM), ("last", TOO_LARGE)):
        page = web.ok(f"/failures?sort={sort}")
        assert next(iter(_rows(page))) == first.key, sort
        assert re.search(rf'class="{sort}" aria-sort="descending"', page)
    assert "invalid sort &#39;size&#39;: expected one of tasks, jobs" in web.get("/failures?sort=size").text


def test_more_errors_than_fit_are_on_pages(web: Web, remote: Remote, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links lead from page to page; one past the end leads back."""
    monkeypatch.setattr(failures_page, "PAGE_SIZE", 1)
    first = _page(web, "?owner=ada,grace")
    [after] = re.findall(r'<a href="([^"]+)" rel="next">', first)
    second = web.ok("/failures" + html.unescape(after))
    assert [*_rows(first), *_rows(second)] == [TOO_LARGE.key, NO_ROOM.key]
    past = web.ok("/failures?page=9")
    assert 'Page 9 is past the end. <a href="?page=2">Go to the last page (2)</a>' in flat(past)
    assert web.get("/failures?page=2").status_code == 200


# --- where it leads --------------------------------------------------------------------------------------------------


def test_a_row_leads_to_its_tasks_and_its_jobs(web: Web) -> None:
    """The tasks are those with the error. The page of jobs finds jobs by the errors of their tasks, too."""
    rows = _rows(_page(web))
    [tasks] = _links(rows[TOO_LARGE.key], "/jobs/night-1/results")
    assert re.findall(r'<tr data-key="(\d+)"', web.ok(tasks)) == [str(number) for number in range(30, 40)]
    [jobs] = _links(rows[TOO_LARGE.key], "/jobs?")
    assert jobs == "/jobs?hours=168&error=ValueError+in+model.py%3A21"
    assert {"night-1", "night-2"} <= set(web.ids(jobs))
    [jobs] = _links(rows[NO_ROOM.key], "/jobs?")
    assert {"night-1", "night-2"} & set(web.ids(jobs)) == {"night-2"}
    assert set(web.ids("/jobs?error=no+room%3A")) == set()
    [owner] = _links(rows[NO_ROOM.key], "?")
    assert owner == "?owner=grace"


# --- which jobs it looks at ------------------------------------------------------------------------------------------


def test_a_resume_takes_its_failures_out(web: Web, remote: Remote, cli: Cli) -> None:
    """Unless it was cancelled, or they are asked for. What fails again in the child counts."""
    fail(remote.jobs, "night-1.2", {39: TOO_LARGE}, DAY_AGO + 7200, only=range(30, 40))
    cli.ok("sync", "-q")
    page = _page(web, "?owner=ada")
    assert "No failures Of 1 job" in text_of(page)
    page = _page(web)
    assert "3 tasks of 2 jobs failed" in text_of(page)
    assert "night-1.2" in _rows(page)[TOO_LARGE.key]
    assert "without resumed ones" in page
    page = _page(web, "?resumed=true")
    assert "13 tasks of 3 jobs failed" in text_of(page)
    assert "with resumed ones" in page


def test_older_jobs_beyond_the_limit_are_told(web: Web) -> None:
    """With a link that reads more."""
    page = _page(web, "?limit=1")
    assert "1 job with failures changed before these and is left out. Read more of them" in text_of(page)
    assert 'href="?limit=20000"' in page
    assert "left out" not in _page(web)


def test_the_empty_state_says_what_was_looked_at(web: Web, remote: Remote, cli: Cli) -> None:
    """How many jobs, since when, and whether something is not known yet."""
    _page(web)
    text = text_of(web.ok("/failures?status=succeeded"))
    assert "No failures Of 1 job that changed within a week or is active, none has a failed task or an error" in text
    assert "No job that passes the filters changed since 3d or is active." in web.ok("/failures?since=3d&owner=leslie")
    fail(remote.jobs, "new", {3: NO_ROOM}, DAY_AGO, owner="emmy", status="cancelled")
    cli.ok("sync", "-q")
    text = text_of(web.ok("/failures?owner=emmy"))
    assert "The failures of 1 job are not read yet. They are being read from the registry." in text
    assert "No failure is known Of 1 job" in text


# --- errors of records -----------------------------------------------------------------------------------------------


def test_jobs_without_known_failed_tasks_count_by_their_error(web: Web, remote: Remote, cli: Cli) -> None:
    """The error of the record, without its numbers. Jobs without an error are named."""
    for number, error in enumerate(("39 of 200 tasks left no output", "7 of 200 tasks left no output")):
        record = foreign(f"theirs-{number}", "failed", error_code="INCOMPLETE", error_message=error, owner="emmy")
        remote.put(key(f"theirs-{number}"), record)
    remote.put(key("silent"), foreign("silent", "failed", owner="emmy"))
    remote.put(key("plain"), foreign("plain", "failed", error_message="it broke", owner="donald"))
    cli.ok("sync", "-q")
    page = _page(web, "?owner=emmy")
    assert "2 jobs failed, for 1 reason" in text_of(page)
    assert "1 job has failures without a known error: silent" in text_of(page)
    [row] = _rows(page).values()
    assert ", for example: <bdi>39 of 200 tasks left no output</bdi>" in row
    [jobs] = _links(row, "/jobs?")
    assert {"theirs-0", "theirs-1"} <= set(web.ids(jobs))
    assert "/tasks" not in row
    assert text_of(row).split("emmy")[0].endswith("n/a 2 ")
    [row] = _rows(_page(web, "?owner=donald")).values()
    [jobs] = _links(row, "/jobs?")
    assert {"plain"} <= set(web.ids(jobs))
    assert "12 tasks of 2 jobs failed, and 3 jobs without known failed tasks, for 4 reasons" in text_of(_page(web))


def test_a_job_that_goes_on_keeps_its_row_while_it_is_read(web: Web, remote: Remote, cli: Cli) -> None:
    """More failures are read when the cache knows of them; the page shows the last ones until then."""
    _page(web)
    Ledger(remote.store.inner, "night-2", run="cd")(attempt(39, "failed", error=TOO_LARGE, started_at=DAY_AGO + 9000))
    cli.ok("tasks", "night-2")
    page = web.ok("/failures?owner=grace")
    assert "2 tasks of 1 job failed" in text_of(page)
    assert "not read yet" not in page
    cli.clock.advance(seconds=30)
    assert "3 tasks of 1 job failed" in text_of(_page(web, "?owner=grace"))


# --- what is read ----------------------------------------------------------------------------------------------------


def test_no_page_load_asks_the_registry(web: Web, remote: Remote) -> None:
    """The syncer reads what a page asked for, each job once; then the page is whole."""
    before = dict(remote.store.calls)
    page = web.ok("/failures")
    assert "The failures of 2 jobs are not read yet. They are being read from the registry." in page
    assert '<noscript><meta http-equiv="refresh" content="3"></noscript>' in page
    assert remote.store.calls == before
    assert web.read_asked() == 2
    before = dict(remote.store.calls)
    page = web.ok("/failures")
    assert "not read yet" not in page
    assert "http-equiv" not in page
    assert remote.store.calls == before
    assert web.read_asked() == 0


def test_an_outage_is_told(web: Web, remote: Remote, cli: Cli) -> None:
    """With its cause, and the failures that are known by the records; also while they are tried again."""
    web.ok("/failures")
    remote.store.down = True
    assert web.read_asked() == 2
    for _ in range(2):
        assert "The failures of 2 jobs are not read yet. Cannot reach the registry" in web.ok("/failures")
        cli.clock.advance(seconds=job_reads.PAUSE_AFTER_PROBLEM_SECONDS)


def test_jobs_of_other_programs_are_asked_for_once(web: Web, remote: Remote, cli: Cli) -> None:
    """A record that names a bundle may have no manifest. That is told, and asked again when the record has changed."""
    _page(web)
    for number in range(3):
        metadata = {"bundle": "sha256:00"}
        remote.put(key(f"theirs-{number}"), foreign(f"theirs-{number}", "failed", metadata=metadata))
    cli.ok("sync", "-q")
    assert "The failures of 3 jobs are not read yet." in web.ok("/failures")
    assert web.read_asked() == 3
    before = dict(remote.store.calls)
    for _ in range(2):
        assert "3 jobs were not submitted by mops-jobs." in web.ok("/failures")
        assert "not read yet" not in web.ok("/failures")
        assert "not submit" in web.ok("/jobs/theirs-0")
        cli.clock.advance(seconds=job_reads.PAUSE_AFTER_PROBLEM_SECONDS)
        assert web.read_asked() == 0
    assert remote.store.calls == before
    later = foreign("theirs-1", "failed", metadata={"bundle": "sha256:00"}, updated_at="2026-03-01T10:05:00")
    remote.put(key("theirs-1"), later)
    cli.ok("sync", "-q")
    page = web.ok("/failures")
    assert "The failures of 1 job are not read yet." in page
    assert "2 jobs were not submitted by mops-jobs." in page
    assert web.read_asked() == 1


def test_an_offline_server_names_the_command_for_these_jobs(web: Web, cli: Cli) -> None:
    """It has the filters of the page, and does what the page lacks."""
    web.site.reads = None
    page = html.unescape(web.ok("/failures?owner=ada&label=exp%3D7&label=exp"))
    command = "mops-jobs failures --hours 168 --label exp=7 --label exp --owner ada --limit 0"
    assert f"The failures of 1 job are not read yet. Run: {command}" in page
    cli.ok(*command.split()[1:])
    assert "not read yet" not in web.ok("/failures?owner=ada&label=exp%3D7&label=exp")


def test_the_command_has_each_filter_once() -> None:
    """Switches have no value, and an hour is a number."""
    query = FailuresPageQuery([("stuck", "true"), ("hours", "2"), ("resumed", "true"), ("name", "a b*")], START)
    assert failures_page._command(query) == "mops-jobs failures --hours 2 --name 'a b*' --stuck --resumed --limit 0"


def test_the_page_counts_what_the_command_counts(web: Web, remote: Remote, cli: Cli) -> None:
    """Also jobs that were only reported: by their errors, without one, and by failed tasks for unknown reasons."""
    add(remote.jobs, "silent", "failed")
    for name, failed in (("theirs-1", 2), ("theirs-2", 3)):
        add(remote.jobs, name, "running", error_code="E", error_message="it broke")
        remote.jobs.update_progress(name, tasks_failed=failed)
        remote.jobs.update_status(name, "failed")
    cli.ok("sync", "-q")
    document = cli.ok("failures", "--json").json
    assert (document["failed"], document["failed_without_reason"]) == (12, 5)
    assert document["jobs_without_error"] == ["silent"]
    assert web.get("/api/v1/failures").get_json() == document
    text, counts = text_of(_page(web)), "2 jobs without known failed tasks"
    assert f"12 tasks of 2 jobs failed, and {counts}, for 3 reasons; the last just now" in text
    assert f"12 of 80 tasks of 2 jobs and {counts} failed, for 3 reasons." in cli.ok("failures").out
    assert "1 job has failures without a known error: silent" in text
    for said in (text, cli.ok("failures").out):
        assert ". 5 more failed, for reasons that are not known" in said
    assert len(_rows(_page(web))) == len(document["groups"])
