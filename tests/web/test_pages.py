"""The pages and the API of `serve`: what they show, whom they answer, and that they show it as it is."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.cache.database import open_to_read
from mopsjobs.cache.queries import statistics
from mopsjobs.events.writer import record_event
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.utils.hosts import is_loopback
from mopsjobs.utils.times import utc_now
from mopsjobs.web.site import site as site_module
from mopsjobs.web.site.background import Syncer
from support.cli import REMOTE_URL, Cli, Clock, Remote, add, foreign, key, put_foreign, sentences
from support.runs import until
from support.web import HOSTILE, HOSTILE_ID, Server, Web, flat, hostile_record, serving

PAGES = ("/jobs", "/jobs/running-1", "/failures", "/charts")


@pytest.fixture
def web(cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str]) -> Web:
    """Return a few jobs of each kind, mirrored."""
    add(remote.jobs, "running-1", "running", owner="ada", labels={"exp": "7"}, tasks_total=4)
    remote.jobs.update_progress("running-1", 1)
    add(remote.jobs, "failed-1", "failed", owner="grace", labels={"exp": "8"}, metadata={"bundle": "sha256:0"})
    add(remote.jobs, "done-1", "running", owner="ada")
    remote.jobs.update_status("done-1", "succeeded")
    cli.clock.advance(hours=1)
    add(remote.jobs, "pending-1")
    cli.ok("sync", "-q")
    return Web(cli, capsys)


# --- the page of jobs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("", ["pending-1", "done-1", "failed-1", "running-1"]),
        ("?status=active", ["pending-1", "running-1"]),
        ("?label=exp%3D7", ["running-1"]),
        ("?q=1&status=running", ["running-1"]),
        ("?q=d_1", []),
        ("?sort=-name&owner=&label=&hours=", ["running-1", "pending-1", "failed-1", "done-1"]),
        ("?hours=0.5", ["pending-1", "running-1"]),
    ],
)
def test_the_url_says_which_jobs_are_shown(web: Web, query: str, ids: list[str]) -> None:
    """Filters, search and order are those of the query string; active jobs are in every window."""
    shown = web.ids(f"/jobs{query}")
    assert shown == ids if "sort" in query else sorted(shown) == sorted(ids)


def _links(text: str) -> list[str]:
    return [link.replace("&amp;", "&") for link in re.findall(r'href="(\?[^"]*)"', text)]


def test_counts_lead_to_as_many_jobs(web: Web) -> None:
    """The number of each status in a section, and that of each panel, is that of the jobs its link shows."""
    page = flat(web.ok("/jobs?owner=ada"))
    heads = re.findall(r'<tr class="head".*?</tr>', page)
    counts = [one for head in heads for one in re.findall(r'<a class="\w+" href="([^"]+)">(\d+) (\w+)</a>', head)]
    assert {name: int(count) for _, count, name in counts} == {"running": 1, "succeeded": 1}
    panels = re.findall(r'<p class="figure"> ?<a href="([^"]+)"><b>(\d+)</b> ([a-z ]+)</a>', flat(web.ok("/jobs")))
    assert [(name, count) for _, count, name in panels] == [("open failure", "1"), ("running", "1"), ("waiting", "1")]
    for link, count, _ in counts + panels:
        assert len(web.ids("/jobs" + link.replace("&amp;", "&"))) == int(count)


def test_pages_show_every_job_once(web: Web, cli: Cli, remote: Remote) -> None:
    """Following the pages in any order, and in a window, comes by every job once."""
    for number in range(120):
        remote.put(key(f"many-{number:03}"), foreign(f"many-{number:03}", "succeeded"))
    cli.ok("sync", "-q")
    for query in ("?", "?sort=-duration", "?hours=48", "?sort=name&q=many"):
        seen: list[str] = []
        for page in range(1, 6):
            seen += web.ids(f"/jobs{query}&page={page}")
        assert len(seen) == len(set(seen))
        assert sum(one.startswith("many") for one in seen) == 120


@pytest.mark.parametrize("number", [2, 9999])
def test_a_page_past_the_end_leads_to_the_last(web: Web, number: int) -> None:
    """It does not say that no job matches, and its link keeps the filters."""
    page = web.ok(f"/jobs?owner=ada&page={number}")
    assert ">2 jobs</caption>" in page
    assert f"Page {number} is past the end." in page
    assert "No job matches" not in page
    [link] = re.findall(r'<a href="([^"]+)">Go to the last page', page)
    assert sorted(web.ids("/jobs" + link.replace("&amp;", "&"))) == ["done-1", "running-1"]
    assert "No job matches" in web.ok(f"/jobs?owner=eve&page={number}")


def test_a_page_is_of_one_moment(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts and rows agree, whatever is written to the cache between their queries."""
    count = statistics.by_status

    def count_then_delete(connection: sqlite3.Connection, *args: Any) -> dict[str, int]:
        counts = count(connection, *args)
        with contextlib.closing(sqlite3.connect(web.app.cache.path, isolation_level=None)) as other:
            other.execute("DELETE FROM job WHERE job_id = 'failed-1'")
        return counts

    monkeypatch.setattr(statistics, "by_status", count_then_delete)
    assert len(web.ids("/jobs")) == 4
    assert len(web.ids("/jobs")) == 3


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/jobs?status=nope", "invalid status"),
        ("/jobs?page=0", "invalid page &#39;0&#39;: expected a whole number from 1 to"),
        ("/jobs?colour=red", "unknown parameter"),
        ("/charts?days=8", "invalid days"),
        ("/api/v1/jobs?limit=0", "invalid limit '0': expected a whole number from 1 to 1,000"),
        ("/api/v1/jobs?stuck=maybe", "true or false"),
        ("/api/v1/events?since=x", "invalid cursor"),
    ],
)
def test_what_makes_no_sense_is_told_in_a_sentence(web: Web, path: str, sentence: str) -> None:
    """A bad query is 400, with the words that the command has for it."""
    answer = web.get(path)
    assert answer.status_code == 400
    assert sentence in answer.text
    assert (answer.mimetype == "application/problem+json") == path.startswith("/api/")


@pytest.mark.parametrize("job_id", ["a.", "a..", "..."])
def test_an_id_that_ends_with_a_dot_has_a_page(
    cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str], job_id: str
) -> None:
    """Its page and its JSON are found by the address that the table of jobs links to."""
    remote.put(key(job_id), foreign(job_id))
    cli.ok("sync")
    web = Web(cli, capsys)
    assert f'href="/jobs/{job_id}"' in web.ok("/jobs")
    assert job_id in web.ok(f"/jobs/{job_id}")
    assert web.get(f"/api/v1/jobs/{job_id}").get_json()["job_id"] == job_id


def test_a_job_whose_id_reads_as_a_word_has_its_own_pages(web: Web, cli: Cli, remote: Remote) -> None:
    """A page is of the id in its address. The API takes words as commands do."""
    put_foreign(remote.store.inner, "@latest")
    cli.ok("sync")
    link = next(one for one in re.findall(r'href="(/jobs/[^"]*latest)"', web.get("/jobs").text))
    assert re.search("<h1[^>]*>@latest<", web.ok(link))
    assert web.get("/api/v1/jobs/@latest").get_json()["job_id"] != "@latest"
    assert web.get("/api/v1/jobs/.%2F%40latest").get_json()["job_id"] == "@latest"


@pytest.mark.parametrize("path", ["/jobs", "/compare", "/failures", "/charts", "/api"])
def test_a_slash_behind_a_page_leads_to_it(web: Web, path: str) -> None:
    """A job may have an id with slashes, so its page has none of these."""
    assert web.get(f"{path}/").status_code == web.get(path).status_code != 404


def test_an_unknown_job_is_404(web: Web) -> None:
    """Also a prefix, whose page links the ids that begin with it: they are other jobs."""
    assert web.get("/jobs/nope").status_code == 404
    (job_id, *_) = web.ids("/jobs")
    page = web.get(f"/jobs/{job_id[:-1]}")
    assert (page.status_code, f'<a href="/jobs/{job_id}">{job_id}</a>' in page.text) == (404, True)
    assert web.get("/api/v1/jobs/nope").get_json()["detail"] == "Job nope not found."
    assert web.get("/nope").status_code == 404


def test_an_unreadable_record_harms_no_other_view(web: Web, remote: Remote, cli: Cli) -> None:
    """Its own page and the API say what is wrong with it, as `status` does. The others go on, and count it."""
    before = web.ids("/jobs")
    remote.put(key("broken"), b"{")
    assert cli("sync").code == 7
    said = sentences(cli("status", "broken", "--offline").err)[0].removeprefix("error: ")
    assert said.startswith("jobs/broken/state.json: ")
    page, answer = web.get("/jobs/broken"), web.get("/api/v1/jobs/broken")
    assert (page.status_code, answer.status_code) == (502, 502)
    assert said in unescape(page.text)
    assert (answer.get_json()["title"], answer.get_json()["detail"]) == ("Unreadable Record", said)
    assert web.ids("/jobs") == before
    assert "1 record cannot be read; no earlier state is known</span>" in web.ok("/jobs")
    for path in ("/api/v1/jobs", f"/jobs/{before[0]}", "/charts", "/failures", "/metrics"):
        assert web.get(path).status_code == 200


def test_a_cache_that_was_never_filled_is_told(cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the first sync every page says so, with 503, and nothing is fetched for it."""
    web = Web(cli, capsys)
    for path in ("/jobs", "/charts", "/api/v1/jobs", "/metrics", "/healthz"):
        assert web.get(path).status_code == 503
    assert not remote.store.calls


def test_a_cache_that_cannot_be_used_is_no_health(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    """A supervisor gets the same document as ever, with why."""
    cli.cache.write_text("notes")
    answer = Web(cli, capsys).get("/healthz")
    assert (answer.status_code, answer.get_json()["ok"]) == (503, False)
    assert "not a cache of mops-jobs" in answer.get_json()["problem"]


def test_a_page_over_the_cache_of_another_registry_says_so(
    cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a page in the style of the others, with what to do. Programs get the same as JSON."""
    add(remote.jobs, "a", "running")
    cli.ok("sync", "-q")
    cli.env["MOPS_JOBS_REGISTRY"] = "azure://another"
    web = Web(cli, capsys)
    other, hint = web.app.settings.registry_id, "Leave out --cache"
    sentence = f"The cache {cli.cache} mirrors {REMOTE_URL}, not {other}."
    for path in ("/jobs", "/failures", "/charts", "/jobs/a"):
        answer = web.get(path)
        assert (answer.status_code, answer.mimetype) == (503, "text/html")
        assert answer.text.count(sentence) == 1
        assert '<link rel="stylesheet" href="/static/style.css">' in answer.text
        assert hint in answer.text
    answer = web.get("/api/v1/jobs")
    assert answer.status_code == 503
    assert sentence in answer.get_json()["detail"]


def test_a_page_is_made_once_for_each_state_of_the_cache(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many browsers ask, the cache is read once, until it changes."""
    made: list[int] = []
    read = web.site.read
    monkeypatch.setattr(web.site, "read", lambda view: (made.append(1), read(view))[1])
    for _ in range(5):
        assert web.client.get("/jobs").status_code == 200
    assert len(made) == 1
    web.ok("/jobs")
    assert len(made) == 2


def test_a_connection_serves_one_request_after_the_other(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache is opened once, and what is written later is read all the same."""
    opened: list[str] = []
    monkeypatch.setattr(
        site_module, "open_to_read", lambda path, registry: (opened.append(path), open_to_read(path, registry))[1]
    )
    for _ in range(3):
        assert "failed-1" in web.ids("/jobs")
    assert len(opened) == 1
    with contextlib.closing(sqlite3.connect(web.app.cache.path, isolation_level=None)) as other:
        other.execute("DELETE FROM job WHERE job_id = 'failed-1'")
    assert "failed-1" not in web.ids("/jobs")
    assert len(opened) == 1


def test_a_cache_that_was_replaced_is_read(web: Web) -> None:
    """A cache that was made anew is opened anew; one that a newer mops-jobs has changed is read no longer."""
    path = web.app.cache.path
    assert web.ids("/jobs")
    with contextlib.closing(sqlite3.connect(path)) as old, contextlib.closing(sqlite3.connect(path + ".new")) as new:
        old.backup(new)
    with contextlib.closing(sqlite3.connect(path + ".new", isolation_level=None)) as new:
        new.execute("DELETE FROM job WHERE job_id <> 'failed-1'")
    for suffix in ("-wal", "-shm"):
        Path(path + suffix).unlink(missing_ok=True)
    os.replace(path + ".new", path)
    assert web.ids("/jobs") == ["failed-1"]
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as newer:
        newer.execute("PRAGMA user_version = 1000")
    answer = web.get("/jobs")
    assert answer.status_code == 503
    assert "newer mops-jobs" in answer.text


# --- one job, and the charts -----------------------------------------------------------------------------------------


def test_a_job_shows_what_is_known_and_what_to_type(web: Web) -> None:
    """State, progress, history, and commands that can be typed as they are."""
    page = web.ok("/jobs/running-1")
    assert "1/4" in page
    assert 'aria-label="1 of 4 tasks done"' in page
    assert "mops-jobs logs -f running-1" in page
    assert re.search(
        r"running</span> since <time [^>]+>20[0-9-]+T[0-9:]+Z</time> \(<time [^>]+>[^<]+ago</time>\) </p>", flat(page)
    )
    assert "mops-jobs resume failed-1" in web.ok("/jobs/failed-1")


def test_a_job_shows_its_family_and_advises_on_the_newest_of_it(web: Web, cli: Cli, remote: Remote) -> None:
    """Parent and child lead to each other, with the sum over the study. No command resumes the parent again."""
    add(remote.jobs, "night", "running", tasks_total=14, metadata={"bundle": "sha256:0"})
    remote.jobs.update_progress("night", 9, tasks_failed=5)
    remote.jobs.update_status("night", "partial")
    add(remote.jobs, "night.2", "failed", tasks_total=5, metadata={"bundle": "sha256:0"}, parent_job_id="night")
    cli.ok("sync", "-q")
    for name in ("night", "night.2"):
        page = flat(web.ok(f"/jobs/{name}"))
        assert re.search(r"together 9/14 tasks, 64 %, in 2 jobs", page)
        strip = re.findall(
            r'<li class="(\w+)"( aria-current="true")?><a [^>]+>([^<]+)</a>.*?<b>(\d+)</b> of (\d+)', page
        )
        assert [one[:1] + one[2:] for one in strip] == [
            ("partial", "night", "9", "14"),
            ("failed", "night.2", "0", "5"),
        ]
        assert [one[2] for one in strip if one[1]] == [name]
        assert "mops-jobs resume night.2" in page
        assert "mops-jobs resume night<" not in page
    assert '<dt>Children</dt><dd dir="auto"><a href="/jobs/night.2">night.2</a></dd>' in web.ok("/jobs/night")
    assert '<dt>Parent</dt><dd dir="auto"><a href="/jobs/night">night</a></dd>' in web.ok("/jobs/night.2")
    assert web.ok("/api/v1/jobs/night") == cli.ok("status", "night", "--json").out


TRACE = 'Traceback (most recent call last):\n  File "model.py", line 3\nMemoryError'


def test_errors_keep_their_lines(cli: Cli, remote: Remote, capsys: Any) -> None:
    """That of the record and those of tasks, with their tracebacks; the control characters in them go all the same."""
    add(remote.jobs, "a", "running")
    remote.jobs.update_status("a", "failed", error_message=f"{TRACE}\x1b[31m <b>")
    error = {"type": "MemoryError", "message": "no room", "traceback": TRACE}
    record_event(remote.store.inner, "a", "task_failed", now=cli.clock.now, task=3, error=error)
    cli.ok("sync", "-q")
    page = Web(cli, capsys).ok("/jobs/a")
    lines = TRACE.replace('"', "&#34;")
    assert f'<pre dir="auto">{lines}[31m &lt;b&gt;</pre>' in page
    assert f">task 3: MemoryError: no room\n{lines}</span>" in page


def test_owner_and_labels_lead_to_their_jobs(web: Web) -> None:
    """From a job to the others of its owner, and to those with its label."""
    page = web.ok("/jobs/running-1")
    links = [link.replace("&amp;", "&") for link in re.findall(r'href="(/jobs\?[^"]+)"', page)]
    assert [web.ids(link) for link in links] == [["running-1", "done-1"], ["running-1"]]


def test_pills_of_the_charts_count_what_ended_in_the_window(web: Web, cli: Cli, remote: Remote) -> None:
    """A job that ended before the window is in none of its figures, and each pill leads to as many jobs as it says."""
    cli.clock.advance(hours=24 * 20)
    add(remote.jobs, "failed-2", "failed", owner="ada", labels={"exp": "7", "team": "epi"})
    cli.ok("sync", "-q")
    for query, expected in (("days=30", 2), ("days=7", 1), ("days=7&owner=ada&label=exp%3D7&label=team", 1)):
        page = flat(web.ok(f"/charts?{query}"))
        [nav] = re.findall(r'aria-label="These jobs by status">(.*?)</nav>', page)
        pills = {name: (link, int(count)) for link, name, count in re.findall(r'href="([^"]+)">.*?(\w+) <b>(\d+)', nav)}
        assert pills["failed"][1] == expected
        for link, count in pills.values():
            assert len(web.ids(link.replace("&amp;", "&"))) == count


def test_jobs_without_times_are_not_drawn_but_counted(web: Web, cli: Cli, remote: Remote) -> None:
    """A record without a history says that a job runs, not since when."""
    remote.put(key("theirs"), foreign("theirs", "running"))
    cli.ok("sync", "-q")
    page = web.ok("/charts")
    assert "2 running now" in page
    assert "Not drawn: 1 job whose first task started at an unknown time." in page


# --- whom it answers, and with what ----------------------------------------------------------------------------------


@pytest.mark.claim("The page answers under its own names only")
@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8765", "127.0.0.1:1", "[::1]:8765", "jobs.example.org"])
def test_it_answers_to_its_own_names(web: Web, host: str) -> None:
    """The loopback's, and those that were allowed; with any port, since a tunnel may have another one."""
    assert web.get("/jobs", Host=host).status_code == 200


@pytest.mark.claim("The page answers under its own names only")
@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "evil.example:8765", "localhost, evil.example", "user@localhost", "",
     "127.0.0.2", "10.0.0.1", "localhost.", "[::1", "0.0.0.0"],
)  # fmt: skip
def test_it_answers_to_no_other_name(web: Web, host: str) -> None:
    """A foreign Host is refused on every path, with a sentence that reveals nothing."""
    for path in ("/jobs", "/api/v1/jobs", "/static/live.js", "/nope"):
        answer = web.get(path, Host=host)
        assert answer.status_code == 421
        assert "running-1" not in answer.text
        assert web.app.settings.registry_id not in answer.text


@pytest.mark.claim("The page answers under its own names only")
@pytest.mark.parametrize("path", [*PAGES, "/", "/api/v1/jobs", "/metrics", "/healthz", "/static/style.css", "/nope"])
def test_every_answer_carries_the_headers(web: Web, path: str) -> None:
    """No script, style, frame or form but our own; no sniffing, no referrer."""
    with web.client.head(path) as answer:
        pass
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"]


@pytest.mark.claim("The page answers `GET` and `HEAD` only")
@pytest.mark.parametrize("path", ["/jobs", "/api/v1/jobs", "/nope"])
def test_it_only_answers_get_and_head(web: Web, path: str) -> None:
    """Everything else is 405, and says what is allowed."""
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"):
        answer = web.client.open(path, method=method)
        assert answer.status_code == 405
        assert answer.headers["Allow"] == "GET, HEAD"


class _Structure(HTMLParser):
    """The elements and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


@pytest.mark.claim("Markup stays text in pages")
def test_markup_of_a_record_stays_text(web: Web, cli: Cli, remote: Remote) -> None:
    """A job whose every field holds markup adds no element and no attribute, and turns no writing direction."""
    remote.put(key(HOSTILE_ID), hostile_record(HOSTILE_ID))
    cli.ok("sync", "-q")
    path = re.findall(r'href="(/jobs/x[^"]+)"', web.ok("/jobs"))[0]
    for page in (web.ok("/jobs"), web.ok(path), web.ok("/charts"), web.get("/jobs?q=" + HOSTILE).text):
        structure = _Structure(page)
        assert "img" not in structure.elements
        assert structure.elements.count("script") == page.count('<script src="/static/') > 0
        assert not [name for name, _ in structure.attributes if name.startswith("on") or name == "style"]
        assert not set(page) & set("\u202e\x1b\x07")
        assert "49" not in re.findall(r"<h1.*?>(.*?)</h1>", page)[0]
        for name, value in structure.attributes:
            if name in ("href", "src", "action"):
                assert value.startswith(("/", "?", "#"))


@pytest.mark.claim("The page listens on the loopback address")
def test_names_that_are_loopback() -> None:
    """Only these are served without a warning."""
    for name in ("localhost", "127.0.0.1", "127.8.0.1", "::1"):
        assert is_loopback(name)
    for name in ("", "0.0.0.0", "::", "10.0.0.1", "127.evil.example", "example.org"):
        assert not is_loopback(name)


# --- keeping fresh ---------------------------------------------------------------------------------------------------


def test_a_failed_sync_is_shown_and_ends_nothing(web: Web, remote: Remote) -> None:
    """The header of every page tells of it, with the old data below; the next sync that succeeds takes it away."""
    syncer = Syncer(web.app, web.changes, 60.0, lambda _seconds: None, lambda: None)
    web.site.syncer = syncer
    remote.store.down = True
    syncer.problem = syncer._sync()
    for path in PAGES:
        assert "Last sync failed: Cannot reach the registry" in web.ok(path)
    assert web.get("/healthz").get_json()["stale"] is True
    remote.store.down = False
    syncer.problem = syncer._sync()
    assert "failed: " not in web.ok("/jobs")


def test_a_sync_in_the_future_is_stale(web: Web, cli: Cli) -> None:
    """The clock was set back: the page says so, as the commands do."""
    cli.clock.advance(hours=-1)
    page = web.ok("/jobs")
    assert "synced at a time in the future (" in page
    assert 'class="stale"' in page


def test_health_tells_of_a_stale_cache_and_stays_well(web: Web, cli: Cli) -> None:
    """The document has its age and that it is stale; a supervisor that restarts the server would change nothing."""
    fresh = web.get("/healthz").get_json()
    assert (fresh["ok"], fresh["stale"]) == (True, False)
    cli.clock.advance(hours=5)
    answer = web.get("/healthz")
    stale = answer.get_json()
    assert (answer.status_code, stale["ok"], stale["stale"]) == (200, True, True)
    assert stale["age_seconds"] == fresh["age_seconds"] + 5 * 3600
    assert stale["synced_at"] == fresh["synced_at"]


def test_health_tells_of_a_stale_cache_of_an_embedded_registry(
    cli: Cli, jobs: JobRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server shows it as of its last sync: where that is long ago, the data is as stale as any other."""
    add(jobs, "a")
    cli.ok("list")
    web = Web(cli, capsys)
    assert web.get("/healthz").get_json()["stale"] is False
    cli.clock.advance(hours=5)
    answer = web.get("/healthz")
    assert (answer.status_code, answer.get_json()["ok"], answer.get_json()["stale"]) == (200, True, True)


@pytest.mark.claim("The page reads the cache and writes nothing")
def test_no_page_costs_a_request(web: Web, remote: Remote) -> None:
    """Looking at every page sends nothing to the registry."""
    before = dict(remote.store.calls)
    for path in (*PAGES, "/api/v1/jobs", "/api/v1/events", "/metrics", "/healthz"):
        web.ok(path)
    assert remote.store.calls == before


# --- the process -----------------------------------------------------------------------------------------------------


@pytest.fixture
def server(cli: Cli, jobs: JobRegistry, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Yield a server over an embedded registry with one job; the clock of `cli` goes as the server's does."""
    monkeypatch.setattr(Clock, "now", lambda _clock: utc_now())
    cli.ok("register", "first", "-q")
    with serving(cli, "--sync-every", "1s") as server:
        yield server.filled()


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield a server for the tests that leave it as it is."""
    cli = Cli(tmp_path_factory.mktemp("shared"), Clock(), None)  # type: ignore[arg-type]
    with serving(cli) as server:
        yield server.filled()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_cleanly(server: Server, number: int, code: int) -> None:
    """With a connection open, too; and it says nothing of it."""
    with contextlib.closing(server.connect()) as connection:
        connection.request("GET", "/jobs")
        connection.getresponse().read()
        ended, err = server.stop(number)
    assert ended == code
    assert err == "Stop with Ctrl-C.\n"


def test_a_cache_that_is_deleted_is_made_anew(server: Server, cli: Cli) -> None:
    """Deleting the cache under a running server costs a moment without data."""
    for path in (cli.cache, *cli.cache.parent.glob("cache.db-*")):
        path.unlink(missing_ok=True)
    cli.ok("register", "second", "-q")
    until(lambda: "second" in server.ask("/jobs").text, "the new cache")


@pytest.mark.claim("The page answers under its own names only")
def test_a_raw_request_under_a_foreign_name_is_refused(shared_server: Server) -> None:
    """Over the wire: a foreign Host, and a whole URL of another host as the target."""
    assert shared_server.ask("/jobs", Host="evil.example").status == 421
    with socket.create_connection(("127.0.0.1", shared_server.port)) as line:
        line.sendall(b"GET http://localhost/jobs HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        assert b" 421 " in line.recv(200)
    with socket.create_connection(("127.0.0.1", shared_server.port)) as line:
        line.sendall(b"GET /jobs HTTP/1.0\r\n\r\n")
        assert b" 421 " in line.recv(200)


def test_a_port_that_is_taken_is_told(shared_server: Server, cli: Cli) -> None:
    """One sentence and exit code 2."""
    said = cli.fails(2, "serve", "--port", str(shared_server.port))
    assert "Cannot listen on 127.0.0.1" in said
    assert "hint: Use --port 0 for any free port." in said


@pytest.mark.parametrize(
    "argv", [("--port", "65536"), ("--port", "x"), ("--sync-every", "soon"), ("--host", "no such host")]
)
def test_bad_flags_are_told(cli: Cli, argv: tuple[str, ...]) -> None:
    """One sentence and exit code 2."""
    assert cli.fails(2, "serve", *argv).startswith("error: ")


@pytest.mark.claim("The page listens on the loopback address")
def test_other_machines_are_answered_only_with_a_warning(cli: Cli) -> None:
    """Opening it to the network prints a warning that there is no sign-in."""
    with serving(cli, "--host", "0.0.0.0", "--allow-host", "jobs.example.org") as server:
        assert server.filled().ask("/jobs", Host="jobs.example.org").status == 200
        assert server.ask("/jobs", Host=f"0.0.0.0:{server.port}").status == 421
        _, err = server.stop()
    assert "no sign-in" in err


@pytest.mark.claim("The page reads the cache and writes nothing")
def test_it_writes_nothing_to_the_registry(server: Server, cli: Cli) -> None:
    """After every page was looked at, the registry has the versions it had."""
    path = cli.env["MOPS_JOBS_REGISTRY"].removeprefix("sqlite://")

    def versions() -> list[Any]:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            return [connection.execute(f"SELECT * FROM {name}").fetchall() for name in tables]

    before = versions()
    for page in ("/jobs", "/jobs/first", "/charts", "/api/v1/jobs", "/api/v1/events", "/healthz"):
        assert server.ask(page).status == 200
    assert versions() == before


def test_every_page_says_how_old_its_data_is(clock: Clock, web: Web) -> None:
    """The age of the data is in every header, and grows."""
    assert "synced just now" in web.ok("/jobs")
    clock.advance(minutes=20)
    for path in PAGES:
        assert "synced 20m ago, stale" in web.ok(path)


@pytest.mark.claim("Each view names the project file that named the registry")
def test_every_page_names_the_project_file_that_redirected_it(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside the registry, and in the JSON of the API; without such a file, nothing is said of one."""
    path = cli.cache.parent / ".mops-jobs.toml"
    path.write_text('registry = "sqlite:project.db"')
    assert str(path) not in Web(cli, capsys).get("/jobs").text
    cli.env.pop("MOPS_JOBS_REGISTRY")
    cli.ok("register", "running-1")
    web = Web(cli, capsys)
    web.app.cache.sync(wait=None)
    assert [page for page in PAGES if f"named by {path}" not in web.ok(page)] == []
    assert json.loads(web.ok("/api/v1/jobs"))["registry_from"] == f"file {path}"
