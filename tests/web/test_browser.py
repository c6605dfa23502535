"""The pages of `serve` in a real browser, with nothing but this machine's loopback to reach."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from mopsjobs.events.writer import record_event
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.status import JobStatus
from mopsjobs.store import open_store
from mopsjobs.utils.times import json_time, utc_now
from support.browser import ROWS, check_layout, open_private_tab, shoot
from support.cli import Cli, Clock, add, foreign, key, put
from support.runs import until
from support.web import HOSTILE, HOSTILE_ID, Server, add_kinds, hostile_record, reserved_port, serving

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def server(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Yield a server over an embedded registry with jobs of several kinds. `cli` and the server have one clock.

    Its port is reserved, so that a test can start it again there.
    """
    monkeypatch.setattr(Clock, "now", lambda _clock: utc_now())
    jobs = JobRegistry(open_store(cli.env["MOPS_JOBS_REGISTRY"], {}))
    cli.ok("register", "night-1", "--owner", "ada", "--label", "exp=7", "-q")
    cli.ok("progress", "night-1", "1/10", "-q")
    add_kinds(jobs)
    with reserved_port() as port, serving(cli, "--sync-every", "1s", "--port", str(port)) as server:
        yield server.filled()


def _history(cli: Cli) -> None:
    """Store three weeks of jobs that have ended, as records that were there before the server was."""
    store = open_store(cli.env["MOPS_JOBS_REGISTRY"], {})
    ends = ("succeeded", "succeeded", "failed", "succeeded", "partial", "succeeded", "cancelled", "succeeded")
    for number in range(64):
        end = utc_now() - timedelta(hours=1 + 8 * number - number % 5 * 3)
        begin = end - timedelta(minutes=20 + number * 37 % 200)
        times = {"pending": begin - timedelta(minutes=1 + number * 7 % 40), "running": begin, ends[number % 8]: end}
        steps = [{"status": name, "at": json_time(at), "id": f"{number}-{name}"} for name, at in times.items()]
        name = f"{('seir', 'malaria', 'measles')[number % 3]}-{end:%m%d}-{number:02}"
        done = 40 if ends[number % 8] in ("succeeded", "partial") else number % 40
        fields = {
            "owner": ("ada", "grace", "emmy")[number % 3], "labels": {"exp": str(number % 4)}, "transitions": steps,
            "created_at": steps[0]["at"], "updated_at": steps[-1]["at"], "tasks_total": 40, "tasks_completed": done,
        }  # fmt: skip
        put(store, key(name), foreign(name, ends[number % 8], **fields))


def test_charts_show_weeks_and_lead_to_the_jobs(page: Page, cli: Cli) -> None:
    """A drawing for each question, what its colours mean beside it; from a status to the jobs that have it."""
    _history(cli)
    expect(page.locator("#jobs caption")).to_contain_text("70 jobs")
    page.get_by_role("navigation", name="Pages", exact=True).get_by_role("link", name="Charts").click()
    expect(page.get_by_role("heading", level=2)).to_have_count(10)
    expect(page.locator("main").get_by_role("group")).to_have_count(5)
    ended = page.get_by_role("region", name="Ended")
    expect(ended.locator(".keys")).to_contain_text("cancelled")
    assert ended.get_by_role("link").count() > 20
    shoot(page, "charts-ages", full_page=True)
    page.get_by_role("region", name="By owner", exact=True).get_by_role("link", name="grace").click()
    expect(page).to_have_url(re.compile("owner=grace"))
    page.get_by_role("navigation", name="These jobs").get_by_role("link", name="failed").click()
    expect(page.locator(ROWS).first).to_contain_text("grace")
    assert "status=failed&days=30&owner=grace" in page.url


COLOURS = """bars => Object.fromEntries(bars.map(bar => {
    const status = bar.closest("tr").querySelector("span.status"), parts = bar.querySelectorAll("rect");
    const fills = [...parts].map(part => getComputedStyle(part).fill);
    return [status.innerText.trim(), [getComputedStyle(status).color, ...fills]];
}))"""


def test_a_bar_has_the_colour_of_its_status(page: Page, cli: Cli, server: Server) -> None:
    """That of what is done. A job that left tasks undone has it grey, and each bar has the failed tasks in red."""
    jobs = JobRegistry(open_store(cli.env["MOPS_JOBS_REGISTRY"], {}))
    for status in JobStatus:
        add(jobs, f"bar-{status}", status, tasks_total=4)
    add(jobs, "bar-bad", "running", tasks_total=4, labels={"bad": "1"})
    jobs.update_progress("bar-bad", 1, tasks_failed=2)
    page.goto(f"{server.url}/jobs?name=bar-*&sort=name")
    expect(page.locator("#jobs .bar")).to_have_count(len(JobStatus) + 1)
    found = page.locator("#jobs .bar").evaluate_all(COLOURS)
    assert set(found) == set(JobStatus)
    done = {name: colours[2] for name, colours in found.items()}
    left = {name: found[name] for name in ("partial", "failed", "cancelled")}
    assert {done[name] for name in left} == {found["pending"][0]}, "grey"
    assert {name: done[name] for name in found if name not in left} == {
        name: colours[0] for name, colours in found.items() if name not in left
    }
    page.goto(f"{server.url}/jobs?label=bad")
    bar = page.locator("#jobs .bar")
    expect(bar).to_have_attribute("aria-label", "1 of 4 tasks done, 2 failed")
    assert bar.evaluate_all(COLOURS)["running"][3] == found["failed"][0]


def test_progress_moves_while_a_job_runs(page: Page, cli: Cli) -> None:
    """In the table and on the job's own page, without a reload; its events are added, and its end is told."""
    row = page.locator("tr[data-key=night-1]")
    expect(row).to_contain_text("1/10")
    page.evaluate("window.same = true")
    cli.ok("progress", "night-1", "4/10", "-q")
    expect(row).to_contain_text("4/10")
    expect(row.locator(".bar")).to_have_attribute("aria-label", "4 of 10 tasks done")
    cli.ok("register", "late", "-q")
    expect(page.locator("tr[data-key=late]")).to_be_visible()
    assert page.evaluate("window.same") is True
    row.get_by_role("link").click()
    expect(page.locator("#events li")).to_have_count(3)
    cli.ok("progress", "night-1", "7/10", "-q")
    expect(page.locator("#events li").last).to_contain_text("running 7/10 tasks")
    expect(page.locator("#state")).to_contain_text("7/10")
    expect(page.locator("#over-time path.line")).to_have_count(1)
    shoot(page, "job-live-progress", full_page=True)
    cli.ok("update", "night-1", "failed", "--error", "killed at 12 GiB", "-q")
    expect(page.locator("#state")).to_contain_text("killed at 12 GiB")
    expect(page.locator("#announcement")).to_contain_text("failed")


def test_the_title_counts_open_failures(page: Page, cli: Cli) -> None:
    """Also when one comes in while the page is open."""
    expect(page).to_have_title("(2 failed) Jobs · mops-jobs")
    cli.ok("update", "night-1", "failed", "--error-code", "OOM", "-q")
    expect(page).to_have_title("(3 failed) Jobs · mops-jobs")
    expect(page.locator("#panels")).to_contain_text("OOM 1")


def test_focus_stays_while_the_page_changes(page: Page, cli: Cli) -> None:
    """A link that has the focus keeps it when another row comes in above it."""
    link = page.get_by_role("link", name="night-1")
    link.focus()
    cli.ok("register", "above", "-q")
    expect(page.locator("tr[data-key=above]")).to_be_visible()
    expect(link).to_be_focused()


def test_markup_of_a_record_is_never_interpreted(page: Page, cli: Cli, server: Server) -> None:
    """A job whose every field holds markup and script, as it comes in live, and on its own page: all of it is text."""
    store = open_store(cli.env["MOPS_JOBS_REGISTRY"], {})
    put(store, key(HOSTILE_ID), hostile_record(HOSTILE_ID))
    page.goto(f"{server.url}/jobs?sort=-status")
    link = page.get_by_role("link", name="x<img")
    expect(link).to_be_visible()
    cli("update", "study-2", "failed", "--error", HOSTILE, "-q")
    for step in ("table", "job", "charts", "message"):
        if step == "job":
            link.click()
            expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE_ID)
            expect(page.locator("#state pre")).to_contain_text("<script>window.broken = 1</script>")
        elif step == "charts":
            page.goto(f"{server.url}/charts")
        elif step == "message":
            page.goto(f"{server.url}/jobs/study-2")
            expect(page.locator("#state pre")).to_contain_text("<img src=x onerror=alert(1)>")
        check_layout(page)


# --- a server that does not answer -----------------------------------------------------------------------------------


@pytest.fixture
def clocked_page(browser: Browser) -> Iterator[Page]:
    """Yield a tab whose clock the test can set forward. It may fail to reach its server, and do nothing else wrong."""
    with open_private_tab(browser, 1200, expected_errors="Failed to load resource") as page:
        page.clock.install()
        yield page


LOST = "#connection"


@pytest.mark.parametrize("path", ["/jobs", "/jobs/night-1", "/charts"])
def test_a_page_says_that_its_server_is_gone(clocked_page: Page, server: Server, path: str) -> None:
    """When it asks next, with the time since the last contact; the age of the data goes on, until it is stale."""
    clocked_page.goto(server.url + path)
    expect(clocked_page.locator(LOST)).to_be_hidden()
    expect(clocked_page.locator("#age")).to_contain_text("synced")
    server.stop()
    expect(clocked_page.locator(LOST)).to_contain_text("Connection lost. Last contact ")
    expect(clocked_page.locator("#announcement")).to_have_text("Connection lost")
    clocked_page.clock.fast_forward("06:00:00")
    expect(clocked_page.locator("#age")).to_have_text("synced 6h ago, stale")
    expect(clocked_page.locator("#fresh")).to_have_class("stale")
    for text in clocked_page.locator("time[title]").all_inner_texts():
        assert text == "6h ago"
    expect(clocked_page.locator(LOST)).to_contain_text("Last contact 6h ago; this page shows the state of then.")
    expect(clocked_page.locator(LOST)).to_be_in_viewport()


def test_each_age_in_the_header_is_counted(clocked_page: Page, server: Server) -> None:
    """That of the sync, and up to when writes by other programs are known, in the words of the server."""
    text = "synced just now, writes by other programs known up to 1h ago"

    def serve_two_ages(route: Route) -> None:
        if route.request.resource_type == "xhr":
            route.abort()
            return
        answer = route.fetch()
        head = f'<span id="age" data-synced="{text}" data-ages="[0.5, 3600.0]" data-stale-in="60">{text}</span>'
        route.fulfill(response=answer, body=re.sub(r'(?s)<span id="age".*?</span>', head, answer.text()))

    clocked_page.route("**/jobs", serve_two_ages)
    clocked_page.goto(f"{server.url}/jobs")
    expect(clocked_page.locator("#fresh")).not_to_have_class("stale")
    clocked_page.clock.fast_forward("02:00:00")
    expect(clocked_page.locator("#age")).to_have_text(
        "synced 2h ago, writes by other programs known up to 3h ago, stale"
    )


def test_a_page_recovers_when_its_server_is_back(clocked_page: Page, server: Server, cli: Cli) -> None:
    """Without a reload: the message goes, and what changed meanwhile is there."""
    clocked_page.goto(f"{server.url}/jobs")
    clocked_page.evaluate("window.same = true")
    expect(clocked_page.locator("#age")).to_contain_text("synced")
    server.stop()
    expect(clocked_page.locator(LOST)).to_be_visible()
    cli.ok("register", "meanwhile", "-q")
    with serving(cli, "--sync-every", "1s", "--port", str(server.port)) as again:
        again.filled()
        expect(clocked_page.locator("tr[data-key=meanwhile]")).to_be_visible()
        expect(clocked_page.locator(LOST)).to_be_hidden()
        assert clocked_page.evaluate("window.same") is True


def test_the_page_of_a_job_follows_it(clocked_page: Page, server: Server, cli: Cli) -> None:
    """With its state and its events."""
    clocked_page.goto(f"{server.url}/jobs/night-1")
    cli.ok("progress", "night-1", "7/10", "-q")
    expect(clocked_page.locator("#state")).to_contain_text("7/10")
    expect(clocked_page.locator("#events li").last).to_contain_text("running 7/10 tasks")
    expect(clocked_page.locator(LOST)).to_be_hidden()


def test_a_job_that_is_removed_leaves_no_page_behind(clocked_page: Page, cli: Cli, server: Server) -> None:
    """Its open page becomes the one that says that there is no such job."""
    clocked_page.goto(f"{server.url}/jobs/night-1")
    expect(clocked_page.locator("#state")).to_be_visible()
    open_store(cli.env["MOPS_JOBS_REGISTRY"], {}).delete(key("night-1"))
    expect(clocked_page.locator("main")).to_contain_text("Job night-1 not found")


# --- the live log ----------------------------------------------------------------------------------------------------


def test_new_events_do_not_move_a_reader(page: Page, cli: Cli, server: Server) -> None:
    """Above the end, the events stay where they are, and a button leads to the new ones. At the end they follow."""
    store = open_store(cli.env["MOPS_JOBS_REGISTRY"], {})
    for number in range(80):
        record_event(store, "night-1", "log", now=utc_now, text=f"line {number}")
    until(lambda: server.ask("/jobs/night-1").text.count(">line ") == 80, "the events")
    page.goto(f"{server.url}/jobs/night-1")
    events, newest = page.locator("#events"), page.get_by_role("button", name="Show new events")
    at_end = "one => one.scrollHeight - one.scrollTop - one.clientHeight <= 8"
    assert events.evaluate(at_end)
    events.evaluate("one => { one.scrollTop = 200 }")
    cli.ok("progress", "night-1", "5/10", "-q")
    expect(newest).to_be_visible()
    expect(events.locator("li").last).to_contain_text("line 79")
    assert events.evaluate("one => one.scrollTop") == 200
    newest.click()
    expect(events.locator("li").last).to_contain_text("running 5/10 tasks")
    expect(newest).to_be_hidden()
    assert events.evaluate(at_end)
    cli.ok("progress", "night-1", "6/10", "-q")
    expect(events.locator("li").last).to_contain_text("running 6/10 tasks")
    assert events.evaluate(at_end)
    expect(newest).to_be_hidden()
