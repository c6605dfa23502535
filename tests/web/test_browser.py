"""The pages of `serve` in a real browser, with nothing but this machine's loopback to reach."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.status import JobStatus
from mopsjobs.store import open_store
from mopsjobs.utils.times import utc_now
from support.browser import open_private_tab, shoot
from support.cli import Cli, Clock, add, key
from support.web import Server, add_kinds, serving

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def server(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Yield a server over an embedded registry with jobs of several kinds. `cli` and the server have one clock."""
    monkeypatch.setattr(Clock, "now", lambda _clock: utc_now())
    jobs = JobRegistry(open_store(cli.env["MOPS_JOBS_REGISTRY"], {}))
    cli.ok("register", "night-1", "--owner", "ada", "--label", "exp=7", "-q")
    cli.ok("progress", "night-1", "1/10", "-q")
    add_kinds(jobs)
    with serving(cli, "--sync-every", "1s") as server:
        yield server.filled()


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


def test_focus_stays_while_the_page_changes(page: Page, cli: Cli) -> None:
    """A link that has the focus keeps it when another row comes in above it."""
    link = page.get_by_role("link", name="night-1")
    link.focus()
    cli.ok("register", "above", "-q")
    expect(page.locator("tr[data-key=above]")).to_be_visible()
    expect(link).to_be_focused()


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


def test_a_job_that_is_removed_leaves_no_page_behind(clocked_page: Page, cli: Cli, server: Server) -> None:
    """Its open page becomes the one that says that there is no such job."""
    clocked_page.goto(f"{server.url}/jobs/night-1")
    expect(clocked_page.locator("#state")).to_be_visible()
    open_store(cli.env["MOPS_JOBS_REGISTRY"], {}).delete(key("night-1"))
    expect(clocked_page.locator("main")).to_contain_text("Job night-1 not found")


# --- the live log ----------------------------------------------------------------------------------------------------
