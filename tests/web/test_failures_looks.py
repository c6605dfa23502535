"""The page of failures in Chromium: how it looks in six windows, and how it leads to the tasks that failed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, Page, expect

from mopsjobs.ledger.attempt import AttemptError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from mopsjobs.utils.times import record_time, utc_now
from support.browser import check_looks, open_tab, read_axe, shoot
from support.cli import Cli, Clock, foreign, key, put
from support.failed_jobs import fail
from support.study_jobs import LONG, NO_ROOM, RTL, TOO_LARGE
from support.web import BIDI, HOSTILE, Server, hostile_record, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG_ID = "malaria-" + "n" * 492
LATE = AttemptError("4a2b3c4d5e6f", "TimeoutError", "water.py:9", "no answer within 30 s")


def _fill(jobs: JobRegistry) -> None:
    """Run jobs that share errors, one that was resumed, one that still runs, and some of hostile names."""
    now, owners = utc_now().timestamp(), ("ada", "grace", "emmy", RTL)
    for number in range(8):
        errors = dict.fromkeys(range(20 + number, 40), TOO_LARGE) | {7: NO_ROOM}
        fail(jobs, f"seir-{number}", errors, now - 15 * 3600 * (number + 1), owner=owners[number % 4])
    fail(jobs, "seir-1.2", {39: TOO_LARGE}, now - 7200, only=range(30, 40), owner="grace")
    fail(jobs, "night", {3: LATE}, now - 3600, owner="ada", status="running")
    fail(jobs, LONG_ID[:128], {5: LATE}, now - 40 * 3600, owner=LONG)
    odd = AttemptError("5a2b3c4d5e6f", HOSTILE, HOSTILE, HOSTILE + BIDI + LONG)
    fail(jobs, "odd", {30: odd, 31: odd}, now - 86400, owner=HOSTILE)
    recently = {"created_at": record_time(utc_now()), "updated_at": record_time(utc_now())}
    named = {"error_code": LONG, "error_message": RTL, "owner": RTL, **recently}
    put(jobs.store, key(LONG_ID), foreign(LONG_ID, "failed", **named))
    hostile = json.loads(hostile_record("record")) | {"status": "failed", **recently}
    put(jobs.store, key("record"), json.dumps(hostile))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """Return the command in a home with an embedded registry of the jobs."""
    cli = Cli(tmp_path_factory.mktemp("home"), Clock(), None)  # type: ignore[arg-type]
    _fill(JobRegistry(open_store(cli.env["MOPS_JOBS_REGISTRY"], {})))
    return cli


@pytest.fixture(scope="module")
def server(registry: Cli) -> Iterator[Server]:
    """Yield a server that syncs it."""
    with serving(registry, "--sync-every", "1s") as server:
        yield server.filled()


VIEWS = {"failures": "/failures", "failures-resumed": "/failures?resumed=true&sort=last&limit=9&owner=ada,grace"}


@pytest.mark.parametrize("name", VIEWS)
def test_failures_meet_the_rules_of_accessibility(window: Page, server: Server, name: str) -> None:
    """axe-core finds no violation, also in what is folded; nothing hostile is interpreted or breaks the layout."""
    window.goto(server.url + VIEWS[name])
    expect(window.locator("#found")).not_to_contain_text("not read yet")
    expect(window.locator("#errors tbody tr").first).to_be_visible()
    check_looks(window, name)
    shoot(window, f"{name}-open", full_page=True)


def test_no_failures_meet_the_rules_of_accessibility(window: Page, server: Server) -> None:
    """The page says what it has looked at."""
    window.goto(f"{server.url}/failures?status=cancelled")
    expect(window.get_by_role("region", name="No failures")).to_contain_text("No job that passes")
    shoot(window, "failures-none")
    assert read_axe(window) == []


def test_two_clicks_lead_to_the_tasks_of_the_largest_error(page: Page) -> None:
    """The page names the parameters beside them. Its jobs are another click away."""
    page.get_by_role("link", name="Failures", exact=True).click()
    expect(page.locator("#found")).not_to_contain_text("not read yet")
    row = page.locator("#errors tbody tr").first
    expect(row).to_contain_text("ValueError in model.py:21: beta is too large")
    expect(row.locator("strong")).to_have_text("all 20 have n > 19; no other has")
    row.get_by_role("link", name="20 tasks").click()
    expect(page.locator("caption")).to_have_text("Tasks 1 to 20")
    page.go_back()
    row.locator("td.jobs a").click()
    expect(page.get_by_role("link", name="Remove the filter error:")).to_be_visible()
    expect(page.locator("#jobs").get_by_role("link", name="seir-0", exact=True)).to_be_visible()


def test_a_new_failure_comes_into_the_open_page(page: Page, server: Server, registry: Cli) -> None:
    """What was unfolded stays so, and the page is not loaded again."""
    page.goto(f"{server.url}/failures?owner=emmy,late")
    expect(page.locator("#found")).not_to_contain_text("not read yet")
    more = page.locator("#errors tbody tr").first.locator("details")
    more.locator("summary").click()
    page.evaluate("window.isTheSame = true")
    jobs = JobRegistry(open_store(registry.env["MOPS_JOBS_REGISTRY"], {}))
    fail(jobs, "late", {9: LATE}, utc_now().timestamp() - 600, owner="late")
    expect(page.locator(f'#errors tr[data-key="{LATE.key}"]')).to_contain_text("1 task of late")
    assert page.evaluate("window.isTheSame")
    expect(more).to_have_attribute("open", "")


def test_the_page_works_without_a_script(browser: Browser, server: Server) -> None:
    """It loads itself again until all is read; filters and the order are forms and links."""
    with open_tab(browser, java_script_enabled=False) as page:
        page.goto(f"{server.url}/failures")
        expect(page.locator("#found")).not_to_contain_text("not read yet")
        page.get_by_text("Jobs that changed within a week").click()
        page.get_by_label("Owner").fill("ada")
        page.get_by_label("With resumed jobs").check()
        page.get_by_role("button", name="Show").click()
        expect(page.get_by_text("Jobs that changed within a week, of ada, with resumed ones")).to_be_visible()
        page.get_by_role("columnheader", name="Last").get_by_role("link").click()
        expect(page.get_by_role("columnheader", name="Last")).to_have_attribute("aria-sort", "descending")
        expect(page.locator("#errors tbody tr").first).to_contain_text("TimeoutError")
