"""The same walk through the pages in Chromium and in Firefox."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from mopsjobs.utils.times import utc_now
from support.browser import ROWS, check_layout, open_chromium, open_firefox, open_tab
from support.cli import Cli, Clock, key, put
from support.study_jobs import run_grid
from support.web import HOSTILE_ID, Server, hostile_record, serving


@pytest.fixture(scope="module")
def either_browser(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Yield each of Debian's browsers."""
    with (
        open_chromium() if request.param == "chromium" else open_firefox(tmp_path_factory.mktemp("firefox")) as browser
    ):
        assert browser.browser_type.name == request.param
        yield browser


@pytest.fixture
def server(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Yield a server over an embedded registry with a job that runs, one with failures, and one of hostile names."""
    monkeypatch.setattr(Clock, "now", lambda _clock: utc_now())
    store = open_store(cli.env["MOPS_JOBS_REGISTRY"], {})
    run_grid(JobRegistry(store))
    put(store, key(HOSTILE_ID), hostile_record(HOSTILE_ID))
    cli.ok("register", "night-1", "--owner", "ada", "-q")
    cli.ok("progress", "night-1", "1/10", "-q")
    with serving(cli, "--sync-every", "1s") as server:
        yield server.filled()


@pytest.mark.parametrize(
    ("either_browser", "width"),
    [pytest.param("chromium", 1440, marks=pytest.mark.long), ("firefox", 390)],
    indirect=["either_browser"],
)
def test_either_browser_shows_the_pages(either_browser: Browser, server: Server, cli: Cli, width: int) -> None:
    """Without an error: a live change, a search, a job, its plot, its map and its sets, on a desk or a phone."""
    with open_tab(either_browser, width) as page:
        page.goto(server.url)
        expect(page.locator(ROWS)).to_have_count(3)
        check_layout(page)
        page.evaluate("window.same = true")
        cli.ok("progress", "night-1", "4/10", "-q")
        expect(page.locator("tr[data-key=night-1]")).to_contain_text("4/10")
        assert page.evaluate("window.same") is True
        page.get_by_label("Search").fill("status:partial gri")
        page.get_by_role("button", name="Search").click()
        expect(page.locator(ROWS)).to_have_count(1)
        page.get_by_role("link", name="grid", exact=True).click()
        expect(page.locator("#failures strong")).to_have_text("all 18 have beta > 0.6 and gamma > 0.6; no other has")
        check_layout(page)
        page.get_by_role("link", name="Results").click()
        expect(page.get_by_role("group", name="attack_rate over beta")).to_be_visible()
        check_layout(page)
        page.get_by_role("link", name="Show them").click()
        expect(page.locator("#listed caption")).to_have_text("Parameter sets 1 to 9 of 9")
        check_layout(page)
        page.goto(f"{server.url}/charts")
        expect(page.get_by_role("heading", level=2).first).to_be_visible()
        check_layout(page)
