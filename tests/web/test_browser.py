"""The pages of `serve` in real browsers: live changes, a server that is gone, ways by links and keys, and the log."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from mopsjobs.events.writer import record_event
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.status import JobStatus
from mopsjobs.store import open_store
from mopsjobs.store.base import VersionedStore
from mopsjobs.utils.times import utc_now
from support.browser import (
    ROWS,
    open_private_tab,
    open_tab,
    read_axe,
    shoot,
)
from support.cli import Cli, Clock, add, key
from support.runs import until
from support.study_jobs import run_study
from support.web import Server, add_kinds, serving


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


# --- ways through the pages -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield a server that has synced an embedded registry with jobs of several kinds."""
    cli = Cli(tmp_path_factory.mktemp("home"), Clock(), None)  # type: ignore[arg-type]
    jobs = JobRegistry(open_store(cli.env["MOPS_JOBS_REGISTRY"], {}))
    add(jobs, "night-1", "running", owner="ada", labels={"exp": "7"}, tasks_total=10)
    jobs.update_progress("night-1", 1)
    add_kinds(jobs)
    with serving(cli, "--sync-every", "1h") as server:
        yield server.filled()


def test_the_keyboard_is_enough(tab: Page) -> None:
    """Three keys lead to the first job, and one to each next; focus is seen."""
    tab.keyboard.press("Tab")
    expect(tab.get_by_role("link", name="Skip to the first job")).to_be_focused()
    tab.keyboard.press("Enter")
    expect(tab.locator("#first")).to_be_focused()
    tab.keyboard.press("Tab")
    links = tab.locator(ROWS).locator("th a")
    expect(links.first).to_be_focused()
    assert links.first.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
    tab.keyboard.press("Tab")
    expect(links.nth(1)).to_be_focused()
    name = links.nth(1).inner_text()
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("heading", level=1)).to_have_text(name)


def test_a_command_is_copied_by_a_button(tab: Page, still: Server) -> None:
    """Where the browser lets no page write to the clipboard, the command is selected."""
    tab.goto(f"{still.url}/jobs/night-1")
    copy = tab.get_by_role("button", name="Copy mops-jobs", exact=False).first
    command = copy.evaluate("one => one.previousElementSibling.textContent")
    tab.evaluate("() => { navigator.clipboard.writeText = async (text) => { window.copied = text; }; }")
    copy.click()
    expect(copy).to_have_text("Copied")
    assert tab.evaluate("window.copied") == command
    tab.evaluate("() => { navigator.clipboard.writeText = async () => { throw new Error('refused'); }; }")
    copy.click()
    expect(copy).to_have_text("Selected")
    assert tab.evaluate("String(getSelection())").strip() == command


@pytest.fixture
def tab(browser: Browser, still: Server, has_failed: Callable[[], bool]) -> Iterator[Page]:
    """Yield a tab at the page of jobs of the server that does not sync."""
    with open_tab(browser, has_failed=has_failed) as page:
        page.goto(f"{still.url}/jobs")
        yield page


@pytest.fixture
def private_page(browser: Browser, still: Server) -> Iterator[Page]:
    """Yield a new tab at the page of jobs."""
    with open_private_tab(browser) as page:
        page.goto(f"{still.url}/jobs")
        yield page


def test_letters_lead_to_search_and_jobs(private_page: Page) -> None:
    """`/` to the search, `j` and `k` to the next and the previous job, `?` to their list, which can switch them off."""
    page = private_page
    links = page.locator(ROWS).locator("th a")
    for letter, place in (("j", 0), ("j", 1), ("j", 2), ("k", 1)):
        page.keyboard.press(letter)
        expect(links.nth(place)).to_be_focused()
    page.keyboard.press("/")
    expect(page.get_by_label("Search")).to_be_focused()
    page.keyboard.type("j?/")
    expect(page.get_by_label("Search")).to_have_value("j?/")
    links.first.focus()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.get_by_label("Use these keys").uncheck()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Keys")).to_be_hidden()
    links.first.focus()
    page.keyboard.press("j")
    expect(links.first).to_be_focused()


def test_filters_stay_through_searches_and_sorting(tab: Page, still: Server) -> None:
    """All those of the URL; a search adds to them, and each of them can be removed by a click."""
    tab.goto(f"{still.url}/jobs?stuck=true&label=exp%3D7&label=team&hours=12&name=night*")
    tab.get_by_label("Search").fill("owner:ada status:failed")
    tab.get_by_role("button", name="Search").click()
    tab.get_by_text("View", exact=True).click()
    expect(tab.get_by_label("Changed within")).to_have_value("12")
    tab.get_by_text("View", exact=True).click()
    tab.get_by_role("columnheader", name="Job").get_by_role("link").click()
    expect(tab).to_have_url(re.compile("sort=name"))
    for part in (
        "stuck=true", "label=exp%3D7", "label=team", "hours=12", "name=night*", "owner=ada", "status=failed",
    ):  # fmt: skip
        assert part in tab.url.replace("%2A", "*")
    tab.get_by_role("link", name="Remove the filter name:night*").click()
    expect(tab.get_by_role("navigation", name="Filters").get_by_role("link", name="Remove")).to_have_count(6)
    assert "name=night" not in tab.url
    assert "stuck=true" in tab.url


# --- the live log -----------------------------------------------------------------------------------------------------


AT_END = "one => one.scrollHeight - one.scrollTop - one.clientHeight <= 8"


def _write(store: VersionedStore, *numbers: int) -> None:
    """Write lines of task 3."""
    for number in numbers:
        record_event(store, "night", "log", now=utc_now, text=f"line {number}", task=3)


def test_the_log_follows_a_job_and_pauses_for_a_reader(
    browser: Browser, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a filter too. A button leads to the new lines, and an older page stays as it is."""
    monkeypatch.setattr(Clock, "now", lambda _clock: utc_now())
    store = open_store(cli.env["MOPS_JOBS_REGISTRY"], {})
    run_study(JobRegistry(store), "night", [{"x": 1}] * 5, lambda _task: None, status="running")
    _write(store, *range(250))
    with serving(cli, "--sync-every", "1s") as server, open_tab(browser, 1200) as page:
        until(lambda: server.ask("/jobs/night/logs.txt?task=3").text.count("line ") == 250, "the lines")
        page.goto(f"{server.url}/jobs/night/logs?task=3")
        lines, newest = page.locator("ol.log"), page.get_by_role("button", name="Show new lines")
        expect(lines.locator("li").last).to_contain_text("line 249")
        assert lines.evaluate(AT_END)
        _write(store, 250)
        expect(lines.locator("li").last).to_contain_text("line 250")
        assert lines.evaluate(AT_END)
        lines.evaluate("one => { one.scrollTop = 200 }")
        older = page.get_by_role("link", name="Older lines").get_attribute("href")
        _write(store, 251)
        expect(newest).to_be_visible()
        expect(lines.locator("li").last).to_contain_text("line 250")
        assert lines.evaluate("one => one.scrollTop") == 200
        assert page.get_by_role("link", name="Older lines").get_attribute("href") == older
        assert read_axe(page) == []
        newest.click()
        expect(lines.locator("li").last).to_contain_text("line 251")
        assert lines.evaluate(AT_END)
        expect(newest).to_be_hidden()
        page.get_by_role("link", name="Older lines").click()
        expect(page.get_by_role("link", name="Newest lines")).to_be_visible()
        expect(lines.locator("li")).to_have_count(52)  # each line is a chunk, and those of one sync have no order
        line = lines.locator("li").nth(17)
        text = line.inner_text()
        line.get_by_role("link", name="Link to this line").click()
        expect(page.locator("li:target")).to_have_text(text, use_inner_text=True)
        page.reload()
        expect(page.locator("li:target")).to_have_text(text, use_inner_text=True)
