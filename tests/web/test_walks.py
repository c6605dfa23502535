"""Ways through the pages of `serve` in a real browser: by links, filters, keys and buttons. No job changes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, Page, expect

from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from support.browser import ROWS, open_private_tab
from support.cli import Cli, Clock, add
from support.web import Server, add_kinds, serving

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield a server that has synced an embedded registry with jobs of several kinds."""
    cli = Cli(tmp_path_factory.mktemp("home"), Clock(), None)  # type: ignore[arg-type]
    jobs = JobRegistry(open_store(cli.env["MOPS_JOBS_REGISTRY"], {}))
    add(jobs, "night-1", "running", owner="ada", labels={"exp": "7"}, tasks_total=10)
    jobs.update_progress("night-1", 1)
    add_kinds(jobs)
    with serving(cli, "--sync-every", "1h") as server:
        yield server.filled()


def test_the_keyboard_is_enough(page: Page) -> None:
    """Three keys lead to the first job, and one to each next; focus is seen."""
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the first job")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#first")).to_be_focused()
    page.keyboard.press("Tab")
    links = page.locator(ROWS).locator("th a")
    expect(links.first).to_be_focused()
    assert links.first.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
    page.keyboard.press("Tab")
    expect(links.nth(1)).to_be_focused()
    name = links.nth(1).inner_text()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(name)


def test_a_command_is_copied_by_a_button(page: Page, server: Server) -> None:
    """Where the browser lets no page write to the clipboard, the command is selected."""
    page.goto(f"{server.url}/jobs/night-1")
    copy = page.get_by_role("button", name="Copy mops-jobs", exact=False).first
    command = copy.evaluate("one => one.previousElementSibling.textContent")
    page.evaluate("() => { navigator.clipboard.writeText = async (text) => { window.copied = text; }; }")
    copy.click()
    expect(copy).to_have_text("Copied")
    assert page.evaluate("window.copied") == command
    page.evaluate("() => { navigator.clipboard.writeText = async () => { throw new Error('refused'); }; }")
    copy.click()
    expect(copy).to_have_text("Selected")
    assert page.evaluate("String(getSelection())").strip() == command


@pytest.fixture
def private_page(browser: Browser, server: Server) -> Iterator[Page]:
    """Yield a new tab at the page of jobs."""
    with open_private_tab(browser) as page:
        page.goto(f"{server.url}/jobs")
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


def test_filters_stay_through_searches_and_sorting(page: Page, server: Server) -> None:
    """All those of the URL; a search adds to them, and each of them can be removed by a click."""
    page.goto(f"{server.url}/jobs?stuck=true&label=exp%3D7&label=team&hours=12&name=night*")
    page.get_by_label("Search").fill("owner:ada status:failed")
    page.get_by_role("button", name="Search").click()
    page.get_by_text("View", exact=True).click()
    expect(page.get_by_label("Changed within")).to_have_value("12")
    page.get_by_text("View", exact=True).click()
    page.get_by_role("columnheader", name="Job").get_by_role("link").click()
    expect(page).to_have_url(re.compile("sort=name"))
    for part in (
        "stuck=true", "label=exp%3D7", "label=team", "hours=12", "name=night*", "owner=ada", "status=failed",
    ):  # fmt: skip
        assert part in page.url.replace("%2A", "*")
    page.get_by_role("link", name="Remove the filter name:night*").click()
    expect(page.get_by_role("navigation", name="Filters").get_by_role("link", name="Remove")).to_have_count(6)
    assert "name=night" not in page.url
    assert "stuck=true" in page.url


def test_a_button_remembers_whose_jobs_are_mine(page: Page, server: Server) -> None:
    """In this browser, and for this page. The address of the button's page alone changes nothing."""
    page.goto(f"{server.url}/jobs?owner=grace")
    page.get_by_role("link", name="Mine", exact=True).click()
    expect(page).not_to_have_url(re.compile("owner=grace"))
    page.goto(f"{server.url}/jobs?owner=grace")
    page.get_by_role("button", name="Remember grace as mine").click()
    expect(page.get_by_role("button", name="Remembered")).to_be_visible()
    page.goto(f"{server.url}/jobs?status=failed")
    page.get_by_role("link", name="Mine", exact=True).click()
    expect(page).to_have_url(re.compile("status=failed&owner=grace"))
