"""The page that compares jobs in Chromium: how it looks in six windows, and the ways to it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, Page, expect

from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from mopsjobs.utils.times import utc_now
from support.browser import check_layout, check_looks, open_tab, read_axe, shoot
from support.cli import Cli, Clock, key
from support.compared_jobs import run_compared
from support.study_jobs import LONG, RTL, run_hostile
from support.web import HOSTILE_ID, Server, hostile_record, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

IDS = ["base", "faster", "wider"]
HOSTILE_IDS = ["hostile", HOSTILE_ID, f"{RTL}-run", LONG, "base"]


def _path(ids: list[str], **more: str) -> str:
    return f"/compare?{urlencode([*(('job', one) for one in ids), *more.items()])}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield a server that has synced an embedded registry with runs of a study, and with jobs of hostile names."""
    cli = Cli(tmp_path_factory.mktemp("home"), Clock(), None)  # type: ignore[arg-type]
    jobs = JobRegistry(open_store(cli.env["MOPS_JOBS_REGISTRY"], {}))
    run_compared(jobs, tmp_path_factory.mktemp("code"))
    run_hostile(jobs, "hostile", utc_now)
    for job_id in HOSTILE_IDS[1:4]:
        jobs.store.create_if_absent(key(job_id), hostile_record(job_id).encode())
    with serving(cli, "--sync-every", "1h") as server:
        yield server.filled()


VIEWS = {
    "compare": (_path(IDS), "#plot svg"),
    "compare-all": (_path(IDS, show="all", y="population"), "#plot svg"),
    "compare-hostile": (_path(HOSTILE_IDS), "#results tr.differs"),
    "jobs-boxes": ("/jobs?columns=compare&columns=study&columns=progress&columns=done", "td.compare input"),
}
"""Pages, and what is there when all was read."""


@pytest.mark.parametrize("name", VIEWS)
def test_the_comparison_meets_the_rules_of_accessibility(window: Page, server: Server, name: str) -> None:
    """axe-core finds no violation, also in what is folded; no page is wider than its window."""
    path, last = VIEWS[name]
    window.goto(server.url + path)
    expect(window.locator(last).first).to_be_visible()
    expect(window.locator("main")).not_to_contain_text("eing read")
    check_looks(window, name)


def test_no_text_of_a_comparison_leaves_its_cell(window: Page, server: Server) -> None:
    """Also an id of 500 characters; a long one takes four lines of the head at most."""
    window.goto(server.url + _path(HOSTILE_IDS))
    expect(window.locator("#results tr.differs").first).to_be_visible()
    overflows = "all => all.filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.textContent)"
    assert window.locator(".compare td, .compare th[scope=row]").evaluate_all(overflows) == []
    heads = window.locator(".compare thead th").evaluate_all("all => all.map(one => one.offsetHeight)")
    assert max(heads) < 200


def test_a_refused_query_meets_the_rules_of_accessibility(window: Page, server: Server) -> None:
    """The form stays, with what was named."""
    window.route(
        "**/compare?*", lambda route: route.fulfill(response=(got := route.fetch()), body=got.text(), status=200)
    )
    window.goto(f"{server.url}/compare?job=base")
    shoot(window, "compare-refused")
    expect(window.get_by_role("alert")).to_contain_text("invalid number of jobs '1': expected 2 to 5.")
    expect(window.get_by_role("combobox", name="Job", exact=True)).to_have_value("base")
    check_layout(window)
    assert read_axe(window) == []


def test_boxes_on_the_page_of_jobs_lead_to_a_comparison(page: Page) -> None:
    """What is chosen stays chosen while the page refreshes itself."""
    page.get_by_role("link", name="Compare").click()
    for job_id in IDS:
        page.get_by_role("checkbox", name=f"Compare {job_id}", exact=True).check()
    with page.expect_response(lambda response: "/jobs" in response.url):
        page.evaluate("window.dispatchEvent(new Event('online'))")
    expect(page.locator("td.compare input:checked")).to_have_count(3)
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("row", name="differs: numpy")).to_contain_text("2.1.0")
    expect(page.get_by_role("row", name="differs: peak")).to_contain_text("+0.275 ± 0.048 in 10 shared sets")
    expect(page.get_by_role("img", name="Mean of peak over beta for each job")).to_be_visible()


def test_a_comparison_needs_no_script(browser: Browser, server: Server) -> None:
    """Boxes, form, links and plot are plain HTML; a page that waits for the registry loads itself again."""
    with open_tab(browser, 390, java_script_enabled=False) as page:
        page.goto(f"{server.url}/jobs")
        page.get_by_text("View", exact=True).click()
        page.get_by_role("checkbox", name="Compare").check()
        page.get_by_role("button", name="Show").click()
        for job_id in ("base", "wider"):
            page.get_by_role("checkbox", name=f"Compare {job_id}", exact=True).check()
        page.get_by_role("button", name="Compare").click()
        expect(page.get_by_role("img", name="Mean of peak over beta for each job")).to_be_visible()
        expect(page.locator("#code")).not_to_contain_text("model.py")
        page.get_by_role("link", name="Show all rows").click()
        expect(page.locator("#study")).to_contain_text("Sampling")
        expect(page.locator("main")).not_to_contain_text("eing read")  # a page that loads itself again loses a choice
        page.get_by_role("combobox", name="and job").last.fill("faster")
        page.get_by_role("button", name="Compare").click()
        expect(page.locator("#code")).to_contain_text("model.py")
        expect(page.locator("main")).not_to_contain_text("eing read")
        page.get_by_role("combobox", name="Value").select_option("population")
        page.get_by_role("button", name="Plot").click()
        expect(page.get_by_role("img", name="Mean of population over beta for each job")).to_be_visible()
        expect(page.get_by_role("link", name="Show only rows that differ")).to_be_visible()


def test_differences_are_marked_without_colours(browser: Browser, server: Server) -> None:
    """By a sign and by words; with forced colours, lines of a plot differ by their dashes."""
    with open_tab(browser, 1280, forced_colors="active") as page:
        page.goto(server.url + _path(IDS))
        expect(page.locator("#plot svg path.line").first).to_be_visible()
        row = page.locator("#environment tr.differs")
        expect(row).to_have_count(1)
        expect(row.locator("th")).to_have_text("≠differs: numpy")
        dashes = page.locator("#plot .map path.line").evaluate_all(
            "all => all.map(one => getComputedStyle(one).strokeDasharray)"
        )
        assert len(set(dashes)) == 3
