"""How the page of jobs looks with 3,000 jobs: in six windows, light and dark, by what a person sees first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, Page, expect

from mopsjobs.utils.times import utc_now
from support.browser import ROWS, SIZES, check_layout, open_private_tab, open_tab, read_axe, shoot
from support.cli import Cli, Clock
from support.many_jobs import LONG_ID, RTL_LABEL, fill_cache
from support.web import Server, serving

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield a server over a cache with the jobs. It never syncs, since there is no registry behind them."""
    home = tmp_path_factory.mktemp("home")
    cli = Cli(home, Clock(), None)  # type: ignore[arg-type]
    cli.env["MOPS_JOBS_REGISTRY"] = "https://example.blob.core.windows.net/job-registry"
    fill_cache(str(cli.cache), cli.env["MOPS_JOBS_REGISTRY"], utc_now())
    with serving(cli, "--offline") as server:
        yield server.filled()


VIEWS = {
    "jobs": "/jobs",
    "jobs-failed": "/jobs?status=failed&owner=ada,grace&columns=error&columns=cpu&columns=created",
    "jobs-groups": "/jobs?group=study",
    "charts": "/charts",
    "failures-many": "/failures",
}


@pytest.mark.parametrize("name", VIEWS)
def test_pages_meet_the_rules_of_accessibility(window: Page, server: Server, name: str) -> None:
    """axe-core finds no violation, and no page is wider than its window."""
    window.goto(server.url + VIEWS[name])
    shoot(window, name)
    check_layout(window)
    assert read_axe(window) == []


WHOLE = """rows => rows.filter(row => {
    const box = row.getBoundingClientRect();
    return box.top >= 0 && box.bottom <= innerHeight;
}).length"""


def test_the_first_screen_has_many_jobs(window: Page, server: Server) -> None:
    """Twenty rows on a large screen, eight on a phone, below the three panels."""
    window.goto(f"{server.url}/jobs")
    least = {1440: 20, 1024: 12, 390: 8}[window.viewport_size["width"]]  # type: ignore[index]
    assert window.locator(ROWS).evaluate_all(WHOLE) >= least
    for name in ("Open failures", "Running", "Waiting"):
        expect(window.get_by_role("region", name=name)).to_be_in_viewport()


def test_filters_that_cannot_be_read_keep_the_form(window: Page, server: Server) -> None:
    """The page has what was typed, what is wrong with it, and every filter to remove; axe-core finds nothing."""
    window.route("**/jobs?*", lambda route: route.fulfill(response=(got := route.fetch()), body=got.text(), status=200))
    window.goto(f"{server.url}/jobs?owner=ada&q=ownr:grace")
    shoot(window, "jobs-refused")
    expect(window.get_by_role("alert")).to_contain_text("unknown filter 'ownr'")
    expect(window.get_by_role("alert")).to_contain_text("Did you mean 'owner'?")
    expect(window.get_by_label("Search")).to_have_value("ownr:grace")
    expect(window.get_by_role("link", name="Remove the filter owner:ada")).to_be_visible()
    assert read_axe(window) == []


def test_the_choice_of_a_view_opens_in_the_window(window: Page, server: Server) -> None:
    """It lies above the table and is not wider than the window; axe-core finds nothing."""
    window.goto(f"{server.url}/jobs")
    window.get_by_text("View", exact=True).click()
    shoot(window, "jobs-view")
    box = window.locator(".choices").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= window.viewport_size["width"]  # type: ignore[index]
    assert read_axe(window) == []


def test_a_page_at_four_hundred_percent_is_not_wider_than_its_window(browser: Browser, server: Server) -> None:
    """A window of 1280 pixels has 320 then. With forced colours, bars and icons are drawn in them."""
    with open_tab(browser, 320, forced_colors="active") as page:
        for path in VIEWS.values():
            page.goto(server.url + path)
            check_layout(page)
        page.goto(f"{server.url}/jobs")
        fills = page.locator("#jobs .bar rect").evaluate_all("all => all.map(one => getComputedStyle(one).fill)")
        assert set(fills) <= {"rgb(0, 0, 0)", "rgb(255, 255, 255)", "rgb(255, 255, 0)"}, "system colours only"


SMALL_TARGETS = """() => [...document.querySelectorAll("a, button, input, select, summary")].filter(one => {
    const box = one.getBoundingClientRect();
    return box.width > 1 && (box.width < 24 || box.height < 24);
}).map(one => one.outerHTML.slice(0, 100))"""


@pytest.mark.parametrize("path", ["/jobs", "/jobs?columns=compare", "/jobs?group=study", "/failures", "/api"])
def test_a_finger_hits_each_link_on_a_phone(browser: Browser, server: Server, path: str) -> None:
    """Each link and each control has 24 pixels in both directions (WCAG 2.2, 2.5.8)."""
    with open_tab(browser, 390) as page:
        page.goto(server.url + path)
        check_layout(page)
        assert page.evaluate(SMALL_TARGETS) == []


def test_a_page_is_printed_without_its_controls(browser: Browser, server: Server) -> None:
    """In the colours of paper, also where the screen is dark."""
    with open_private_tab(browser, 1024, color_scheme="dark") as page:
        page.goto(f"{server.url}/jobs")
        page.emulate_media(media="print", color_scheme="dark")
        expect(page.locator(ROWS).first).to_be_visible()
        for hidden in (page.get_by_role("search"), page.get_by_role("navigation"), page.get_by_role("button")):
            assert not [one for one in hidden.all() if one.is_visible()]
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 31, 36)"


def test_ticks_of_a_comparison_survive_a_search(browser: Browser, server: Server) -> None:
    """Those of jobs that the search leaves out stand beside the button; another look at the jobs forgets them."""
    with open_tab(browser) as page:
        page.goto(f"{server.url}/jobs?columns=compare")
        boxes = page.locator(ROWS).get_by_role("checkbox")
        chosen = [str(boxes.nth(place).get_attribute("value")) for place in (0, 1)]
        for place in (0, 1):
            boxes.nth(place).check()
        page.get_by_label("Search").fill(chosen[1])
        page.get_by_label("Search").press("Enter")
        expect(page.locator(ROWS)).to_have_count(1)
        expect(page.locator("#compare").get_by_label(chosen[0])).to_be_checked()
        expect(page.locator(ROWS).get_by_role("checkbox")).to_be_checked()
        page.get_by_role("button", name="Compare").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("Compar")
        for job_id in chosen:
            expect(page.locator("main")).to_contain_text(job_id)
        page.goto(f"{server.url}/jobs")
        page.goto(f"{server.url}/jobs?columns=compare")
        assert page.locator("input[name=job]:checked").count() == 0


def test_a_page_works_without_a_script(browser: Browser, server: Server) -> None:
    """Search, a filter, a chip, groups and columns are plain forms and links."""
    with open_tab(browser, java_script_enabled=False) as page:
        page.goto(f"{server.url}/jobs")
        page.get_by_label("Search").fill("owner:ada error:oom")
        page.get_by_label("Search").press("Enter")
        expect(page.get_by_role("link", name="Remove the filter owner:ada")).to_be_visible()
        for text in page.locator(ROWS).locator("td.error").all_inner_texts():
            assert "OOM" in text
        page.get_by_role("link", name="Remove the filter error:oom").click()
        page.get_by_text("View", exact=True).click()
        page.get_by_label("Group by").fill("label:site")
        page.get_by_role("button", name="Show").click()
        page.locator("#groups").get_by_role("link", name="basel").click()
        expect(page.get_by_role("link", name="Remove the filter label:site=basel")).to_be_visible()
        expect(page.get_by_role("button", name="Keys")).to_be_hidden()


def test_long_and_foreign_texts_do_not_break_the_layout(browser: Browser, server: Server) -> None:
    """An id of 200 characters and a label that is written from right to left stay in their cells."""
    with open_tab(browser, 390) as page:
        for width in (*SIZES, 960, 720):
            page.set_viewport_size({"width": width, "height": 844})
            page.goto(f"{server.url}/jobs?q={RTL_LABEL}")
            row = page.locator(ROWS)
            expect(row).to_have_count(1)
            expect(row.locator("th")).to_contain_text(LONG_ID)
            expect(row.locator("th")).to_have_attribute("dir", "auto")
            check_layout(page)
            height = row.bounding_box()["height"]  # type: ignore[index]
            assert height < 70
