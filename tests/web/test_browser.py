"""The pages of `serve` in real browsers: live changes, a server that is gone, ways by links and keys, and the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from mopsjobs.events.writer import record_event
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from mopsjobs.store.base import VersionedStore
from mopsjobs.utils.times import utc_now
from support.browser import ROWS, open_private_tab, open_tab, read_axe, shoot
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


def test_a_button_remembers_whose_jobs_are_mine(private_page: Page, still: Server) -> None:
    """In this browser: a server behind a proxy does not know who asks. Other filters stay."""
    private_page.goto(f"{still.url}/jobs?owner=grace")
    private_page.get_by_role("button", name="Remember grace as mine").click()
    expect(private_page.get_by_role("button", name="Remembered")).to_be_visible()
    private_page.goto(f"{still.url}/jobs?status=failed&page=2")
    private_page.get_by_role("link", name="Mine", exact=True).click()
    expect(private_page).to_have_url(f"{still.url}/jobs?status=failed&owner=grace")


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
