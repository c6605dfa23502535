"""The page of jobs: its panels and sections, the search box, and what it says of invalid filters."""

from __future__ import annotations

import html
import re
from html import unescape
from typing import Any

import pytest

from support.cli import Cli, Remote, add, foreign, key
from support.web import Web, text_of

MODEL = {"model": "seir.model:run", "scenario": "baseline", "bundle": "sha256:0"}


@pytest.fixture
def web(cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str]) -> Web:
    """Return jobs that run, wait and have ended, of which one was resumed."""
    jobs = remote.jobs
    forecast = {"0": [cli.clock.now().timestamp() + 600, cli.clock.now().timestamp() + 1200, 2]}
    for name, fields in {
        "soon": {"forecast": forecast},
        "open-end": {},
        "stuck": {"metadata": {"suspect": {"reason": "pod is gone"}}},
    }.items():
        put(remote, name, "running", owner="ada", tasks_total=10, tasks_completed=4, tasks_failed=1, **fields)
    put(remote, "waits", "pending", owner="grace", labels={"exp": "7"})
    put(remote, "broke", "failed", owner="ada", error_code="OOM", error_message="exit code 137\nmore", metadata=MODEL)
    put(remote, "broke.2", "succeeded", owner="ada", parent_job_id="broke", metadata=MODEL)
    put(remote, "lost", "failed", owner="grace", error_code="LOST", metadata=MODEL, labels={"exp": "8"})
    add(jobs, "half", "partial", owner="grace", tasks_total=10)
    cli.ok("sync", "-q")
    return Web(cli, capsys)


def put(remote: Remote, job_id: str, status: str, **fields: Any) -> None:
    """Write a record with any fields."""
    remote.put(key(job_id), foreign(job_id, status, **fields))


def shown(web: Web, query: str) -> list[str]:
    """Return the ids on the page, in their order."""
    return [one for one in web.ids(f"/jobs{query}") if "/" not in one]


def test_running_comes_first_then_waiting_then_ended(web: Web) -> None:
    """Of the running ones, suspects are first, and then those that end first; those that cannot tell are last."""
    found = shown(web, "")
    assert found[:4] == ["stuck", "soon", "open-end", "waits"]
    assert set(found[4:]) == {"broke", "broke.2", "lost", "half"}
    assert shown(web, "?sort=name") == sorted(found)


def test_a_failure_that_was_resumed_is_not_open(web: Web) -> None:
    """It is left out of the panel and of `is:open`, and its row leads to the job that continues it."""
    page = web.ok("/jobs")
    assert re.search(r"<b>2</b> open failures", page)
    assert "<title>(2 failed) Jobs" in page
    assert sorted(shown(web, "?open=true")) == ["half", "lost"]
    assert re.search(r'resumed: <a href="/jobs/broke.2" title="broke.2">succeeded</a>', page)


def panel_of(web: Web, query: str, name: str = "Open failures") -> str:
    """Return a panel of the page."""
    panel = re.search(rf'<section[^>]* aria-label="{name}"[^>]*>.*?</section>', web.ok(f"/jobs{query}"), re.DOTALL)
    assert panel is not None
    return panel[0]


@pytest.mark.parametrize("window", ["until", "since", "ended_since"])
def test_open_failures_are_of_the_window_of_the_page(web: Web, window: str) -> None:
    """Without a window, they are of a week, as on their page. The link leads to as many jobs as the panel counts."""
    for query, is_recent in ((f"?{window}=2026-03-01T00:00:00Z", False), ("", True)):
        panel = panel_of(web, query)
        assert ("in 7 days" in panel) == is_recent
        found = re.search(r'href="(?:/jobs)?([^"]*)"><b>(\d+)</b>', panel)
        assert found is not None
        assert len(shown(web, html.unescape(found[1]))) == int(found[2])
    assert "changed within a week" in web.ok("/failures")


@pytest.mark.parametrize("query", ["?stuck=true", "?status=succeeded", "?open=true"])
def test_panels_do_not_follow_the_filters_of_each_other(web: Web, query: str) -> None:
    """They say the same as without such a filter."""
    assert panel_of(web, query) == panel_of(web, "")
    assert panel_of(web, query, "Running").replace("?", "") == panel_of(web, "", "Running").replace("?", "")


def test_panels_say_that_they_count_a_part(web: Web) -> None:
    """A search without a hit does not say that nothing failed."""
    panel = panel_of(web, "?q=nothing-has-this")
    assert text_of(panel) == "0 open failures in 7 days in this view None is in this view."
    assert 'class="panel"' in panel
    assert "0 running in this view" in text_of(panel_of(web, "?q=nothing-has-this", "Running"))
    assert "in this view" not in panel_of(web, "")


def test_the_errors_of_a_panel_add_up(web: Web, cli: Cli, remote: Remote) -> None:
    """Jobs with rare codes, or without one, are the other ones."""
    for number, code in enumerate([*("A", "B", "C", "D", "E") * 2, None]):
        put(remote, f"more-{number}", "failed", error_code=code)
    cli.ok("sync", "-q")
    assert text_of(panel_of(web, "")) == "13 open failures in 7 days A 2 B 2 C 2 D 2 other 5"


def test_the_running_panel_tells_when_all_is_done(web: Web) -> None:
    """The next end, the last one, how many cannot tell, and how many may be stuck."""
    page = web.ok("/jobs")
    panel = re.search(r'aria-label="Running">.*?</section>', page, re.DOTALL)
    assert panel is not None
    text = " ".join(re.sub(r"<[^>]+>", "", panel[0]).split())
    assert "3 running" in text
    assert "1 may be stuck" in text
    assert "Next done in 20m" in text
    assert "2 cannot tell" in text


def test_the_next_end_is_told_in_two_units(web: Web, cli: Cli, remote: Remote) -> None:
    """107 minutes are not an hour."""
    end = cli.clock.now().timestamp() + 6420
    put(remote, "soon", "running", tasks_total=10, forecast={"0": [end - 60, end, 2]})
    cli.ok("sync", "-q")
    assert "Next done in 1h 47m (13:47 UTC)" in text_of(panel_of(web, "", "Running"))


def test_a_row_says_why_a_job_failed(web: Web) -> None:
    """The code and the first line of the message, or how many tasks failed."""
    page = web.ok("/jobs")
    assert ">OOM: exit code 137<" in page
    assert "more" not in re.findall(r'<td class="error".*?</td>', page)[0]
    assert ">1 task failed<" in page
    assert "pod is gone" in page
    assert "seir.model:run/baseline" in page


def test_bad_filters_keep_the_form(web: Web) -> None:
    """The page is refused with what is wrong, and each filter to remove. It shows no jobs."""
    answer = web.get("/jobs?status=nope&owner=ada")
    page = unescape(answer.text)
    assert answer.status_code == 400
    assert "invalid status 'nope'" in page
    assert 'role="search"' in page
    assert "<tr" not in page
    assert 'aria-label="Remove the filter owner:ada"' in page


def test_mine_is_the_user_of_the_server(web: Web) -> None:
    """Behind a proxy, it is not known who asks: a button lets the browser remember an owner."""
    assert f'id="mine" href="?status=failed&amp;owner={web.site.user}">Mine</a>' in web.ok("/jobs?status=failed")
    web.site.user = None
    assert 'id="mine" hidden>Mine</a>' in web.ok("/jobs")
    assert 'data-owner="grace"' in web.ok("/jobs?owner=grace")
    assert "data-owner" not in web.ok("/jobs?owner=ada,grace")


def test_sections_before_the_last_one_are_short(web: Web, cli: Cli, remote: Remote) -> None:
    """A link leads to all of them; alone they have pages."""
    for number in range(40):
        put(remote, f"run-{number:02}", "running")
    cli.ok("sync", "-q")
    page = web.ok("/jobs")
    assert len([one for one in shown(web, "") if one.startswith("run-")]) + 3 <= 11
    [link] = re.findall(r'href="([^"]+)">35 more running</a>', page)
    assert len(shown(web, link.replace("&amp;", "&"))) == 25
    assert "Page 1 of 2" in web.ok("/jobs" + link.replace("&amp;", "&"))


def test_an_empty_registry_says_what_to_type(cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    """Three commands; with a filter, that nothing matches."""
    remote.put("jobs/.keep", b"")
    cli("sync", "-q")
    assert Web(cli, capsys).ok("/jobs").count("<dd><code>mops-jobs ") == 3
    assert "No job matches" in Web(cli, capsys).ok("/jobs?owner=ada")


@pytest.fixture
def swept(web: Web, cli: Cli, remote: Remote) -> Web:
    """Return the same jobs, with 30 of a sweep that runs, and three of one that has ended."""
    for number in range(30):
        status = "running" if number == 7 else "pending" if number == 8 else "failed" if number == 9 else "succeeded"
        put(remote, f"n-{number:02}", status, owner="ada", labels={"sweep": "night"}, tasks_total=2, metadata=MODEL)
    for number in range(3):
        put(remote, f"o-{number}", "succeeded", owner="ada", labels={"sweep": "a&b"})
    cli.ok("sync", "-q")
    return web


def sweeps_of(web: Web, query: str) -> list[tuple[str, str, str, str]]:
    """Return the sweeps on the page: section, name, counts, and the address of their jobs."""
    found = []
    for phase, body in re.findall(r'<tbody data-key="(\w*)">(.*?)</tbody>', web.ok(f"/jobs{query}"), re.DOTALL):
        row = r'data-key="/sweep/([^"]*)".*?<a href="([^"]*)" title="([^"]*)"'
        found += [(phase, name, counts, unescape(to)) for name, to, counts in re.findall(row, body, re.DOTALL)]
    return found


def test_a_sweep_is_one_row_that_leads_to_its_jobs(swept: Web, cli: Cli) -> None:
    """In the section of what runs, waits or has ended of it, the first that applies. Other views agree with it."""
    rows = sweeps_of(swept, "")
    assert [row[:3] for row in rows] == [
        ("running", "night", "1 failed, 1 running, 1 pending, 27 succeeded"), ("ended", "a&amp;b", "3 succeeded"),
    ]  # fmt: skip
    assert [len(shown(swept, row[3])) for row in rows] == [27, 3]  # 25 ended ones per page
    assert rows[0][2] in cli.ok("list", "--offline").out
    assert len(shown(swept, "")) == 8
    page = swept.ok("/jobs")
    assert "Running 4" in page  # jobs, as the counts beside it
    assert "Page 1 of 2" not in page


def test_filters_and_orders_hold_for_sweeps(swept: Web) -> None:
    """Each row leads to as many jobs as it counts; with the label in the filter, there are only jobs."""
    [(_, _, counts, to)] = sweeps_of(swept, "?status=failed")
    assert (counts, shown(swept, to)) == ("1 failed of 30 jobs", ["n-09"])
    assert [row[0] for row in sweeps_of(swept, "?sort=name")] == ["", ""]
    assert sweeps_of(swept, "?label=sweep") == []
    assert len(shown(swept, "?label=sweep%3Dnight&page=2")) == 3
    boxes = re.findall(r'type="checkbox" form="compare" name="job" value="([^"]*)"', swept.ok("/jobs?compare=true"))
    assert "open-end" in boxes
    assert "None" not in boxes


def test_pages_count_rows_of_sweeps(swept: Web, cli: Cli, remote: Remote) -> None:
    """40 sweeps and four jobs have two pages, though they are 84 jobs. An active sweep is on none of the ended ones."""
    for number in range(80):
        put(remote, f"s-{number:02}", "succeeded", labels={"sweep": f"s{number // 2}"})
    cli.ok("sync", "-q")
    query = "?status=done"
    first, second = sweeps_of(swept, query), sweeps_of(swept, f"{query}&page=2")
    assert len({row[1] for row in first + second}) == len(first) + len(second) == 42
    assert "Page 1 of 2" in swept.ok(f"/jobs{query}")
    everything = [*sweeps_of(swept, ""), *sweeps_of(swept, "?page=2")]
    assert sorted(row[1] for row in everything) == sorted({row[1] for row in everything})
    assert len(everything) == 42


@pytest.mark.parametrize(
    "query",
    [
        "open=true", "stuck=true", "hours=1", "until=1h", "days=7", "q=night", "error=OOM", "status=failed,running",
        "q=n-&sort=-updated", "ended_since=2026-02-01T00:00:00Z", "study=seir.model:run/baseline",
    ],
)  # fmt: skip
def test_each_filter_holds_for_sweeps(swept: Web, query: str) -> None:
    """A row leads to as many jobs as it counts, by any filter."""
    for _, _, counts, to in sweeps_of(swept, f"?{query}"):
        jobs = sum(int(count) for count in re.findall(r"(\d+) (?!jobs)[a-z]+", counts.partition(" of ")[0]))
        assert len(shown(swept, to)) == min(jobs, 25 if "sort" in query else 27), (counts, to)  # of the first page
