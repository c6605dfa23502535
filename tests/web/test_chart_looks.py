"""The page of charts in Chromium: with 3,000 jobs and with hostile names, by mouse, keyboard and without a script."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, Page, expect

from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from mopsjobs.utils.times import utc_now
from support.browser import check_layout, open_tab, read_axe, shoot
from support.cli import Cli, Clock, add, foreign, key, put
from support.many_jobs import fill_cache
from support.web import BIDI, HOSTILE, HOSTILE_ID, Server, serving

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield a server over a cache with 3,000 jobs. It never syncs, since there is no registry behind them."""
    cli = Cli(tmp_path_factory.mktemp("home"), Clock(), None)  # type: ignore[arg-type]
    cli.env["MOPS_JOBS_REGISTRY"] = "https://example.blob.core.windows.net/job-registry"
    fill_cache(str(cli.cache), cli.env["MOPS_JOBS_REGISTRY"], utc_now())
    with serving(cli, "--offline") as server:
        yield server.filled()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield a server over jobs whose owners, labels and ids hold markup, are long, or turn the writing direction."""
    cli = Cli(tmp_path_factory.mktemp("hostile"), Clock(), None)  # type: ignore[arg-type]
    store = open_store(cli.env["MOPS_JOBS_REGISTRY"], {})
    jobs = JobRegistry(store)
    for number, name in enumerate(("o" * 500, "\u05de\u05dc\u05e8\u05d9\u05d4 " * 30, HOSTILE + BIDI)):
        add(jobs, f"job-{number}", ("running", "failed", "pending")[number], owner=name, labels={"l": name})
        job_id = (HOSTILE_ID, "x" * 500, "\u05de\u05dc" * 100)[number]
        put(store, key(job_id), foreign(job_id, "running", owner=name, labels={"l" * 500: name}))
    with serving(cli, "--sync-every", "1s") as server:
        yield server.filled()


@pytest.mark.parametrize("names", ["many", "hostile"])
def test_charts_meet_the_rules_of_accessibility(window: Page, server: Server, hostile: Server, names: str) -> None:
    """axe-core finds no violation, nothing is interpreted, and the page is not wider than its window."""
    window.goto(f"{(server if names == 'many' else hostile).url}/charts")
    shoot(window, f"charts-{names}", full_page=True)
    check_layout(window)
    assert read_axe(window) == []


def test_a_day_leads_to_its_jobs_without_a_script(browser: Browser, server: Server) -> None:
    """A click lists the jobs that ended on it."""
    with open_tab(browser, java_script_enabled=False) as page:
        page.goto(f"{server.url}/charts")
        page.get_by_role("region", name="Ended").locator("a path").nth(20).click()
        expect(page).to_have_url(re.compile("ended_since=.*&ended_until="))
        expect(page.locator("#jobs tbody tr").first).to_be_visible()


def test_the_keyboard_passes_a_chart_in_two_steps(browser: Browser, server: Server) -> None:
    """Each chart begins with a link to what follows it; a day with the focus is outlined."""
    with open_tab(browser) as page:
        page.goto(f"{server.url}/charts")
        skip = page.locator("#charts .skip").first
        page.locator("#charts .pill").last.focus()
        page.keyboard.press("Tab")
        expect(skip).to_be_focused()
        expect(skip).to_be_in_viewport()
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        stroke = "getComputedStyle(document.activeElement.querySelector('path')).stroke"
        focused, plain = (
            page.evaluate(stroke),
            page.locator(".chart svg a path").last.evaluate("one => getComputedStyle(one).stroke"),
        )
        assert focused != plain
        skip.focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Peak:").first).to_be_focused()


def test_charts_are_seen_with_forced_colours(browser: Browser, server: Server) -> None:
    """Columns keep the colours of their statuses, texts take those of the system, and axe-core finds nothing."""
    with open_tab(browser, 390, forced_colors="active") as page:
        page.goto(f"{server.url}/charts")
        shoot(page, "charts-forced", full_page=True)
        fills = page.locator(".chart path.fill").evaluate_all("all => all.map(one => getComputedStyle(one).fill)")
        assert len(set(fills)) >= 3
        canvas = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert canvas not in fills
        assert read_axe(page) == []
