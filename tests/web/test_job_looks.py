"""The pages of a job in Chromium: how they look in six windows, and how a scientist finds the way through them."""

from __future__ import annotations

import json
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from mopsjobs.events.writer import record_event
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from mopsjobs.studies.manifest import NAMES_NAME
from mopsjobs.studies.outputs import reduction_key
from mopsjobs.utils.times import json_time, utc_now
from support.browser import check_layout, check_looks, open_tab, shoot
from support.cli import Cli, Clock, key, put
from support.many_jobs import ManyJobs
from support.study_jobs import run_grid, run_study
from support.web import Server, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mopsjobs.store.base import VersionedStore


def _backdate(store: VersionedStore, job_id: str, *minutes: int) -> None:
    """Set the times of the record's transitions to these minutes ago."""
    found = store.get(key(job_id))
    assert found is not None
    record = json.loads(found.value)
    for step, ago in zip(record["transitions"], minutes, strict=True):
        step["at"] = json_time(utc_now() - timedelta(minutes=ago))
    record["created_at"], record["updated_at"] = (record["transitions"][place]["at"] for place in (0, -1))
    put(store, key(job_id), json.dumps(record))


def _fill(jobs: JobRegistry) -> None:
    """Run a study of 10,000 tasks, one that was resumed, and one that still runs, among 300 jobs."""
    for state in islice(ManyJobs(utc_now()).states(), 300):
        jobs.store.create_if_absent(key(state.job_id), state.to_json())
    run_grid(jobs, "grid", side=50, replicates=4, began=(utc_now() - timedelta(hours=3)).timestamp())
    _backdate(jobs.store, "grid", 190, 189, 188, 186, 13, 12)
    for number in range(60):
        record_event(jobs.store, "grid", "log", now=utc_now, text=f"Step {number} of the model", task=number % 9)
    sets = [{"dose": round(dose / 10, 1), "arm": arm} for dose in range(20) for arm in ("control", "treated")]
    for job_id, only in (("trial", None), ("trial.2", range(161, 200))):
        run_study(
            jobs, job_id, sets, lambda task, last=only: "failed" if last is None and task.number > 160 else "succeeded",
            lambda task: {"result.json/response": task.params["dose"] ** 0.5 * (1 + task.seed % 9 / 30)},
            only=only, status="partial" if only is None else "succeeded", n_replicates=5, reduce="model:summarise",
        )  # fmt: skip
    for name, value in (("doses.csv", b"dose,response\n0.1,0.3\n0.2,0.5\n"), ("best.json", b"{}"), (NAMES_NAME, b"[]")):
        jobs.store.create_if_absent(reduction_key("trial.2", None, 200, name), value)
    run_study(
        jobs, "live", [{"r0": 1 + number / 10} for number in range(30)],
        lambda task: None if task.number > 250 else "failed" if task.number % 12 > 9 else "succeeded",
        lambda task: {"result.json/peak": task.params["r0"] * 100 + task.seed % 40}, status="running", n_replicates=12,
    )  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield a server that syncs an embedded registry with the jobs."""
    cli = Cli(tmp_path_factory.mktemp("home"), Clock(), None)  # type: ignore[arg-type]
    _fill(JobRegistry(open_store(cli.env["MOPS_JOBS_REGISTRY"], {})))
    with serving(cli, "--sync-every", "1s") as server:
        yield server.filled()


VIEWS = {
    "job": ("/jobs/grid", "#map svg"),
    "job-family": ("/jobs/trial", "#map svg"),
    "job-live": ("/jobs/live", "#map svg"),
    "tasks": ("/jobs/grid/tasks?status=failed", "tbody tr"),
    "log": ("/jobs/grid/logs", ".log time"),
    "results": ("/jobs/grid/results", ".plot svg"),
    "results-family": ("/jobs/trial.2/results?x=arm", "#reduced-title"),
}
"""Pages, and what is there when all was read."""


@pytest.mark.parametrize("name", VIEWS)
def test_pages_of_a_job_meet_the_rules_of_accessibility(window: Page, server: Server, name: str) -> None:
    """axe-core finds no violation, also in what is folded; no page is wider than its window."""
    path, last = VIEWS[name]
    window.goto(server.url + path)
    expect(window.locator(last).first).to_be_visible()
    expect(window.locator("main")).not_to_contain_text("Being read")
    check_looks(window, name)


def test_pages_of_a_job_hold_at_four_hundred_percent(browser: Browser, server: Server) -> None:
    """A window of 1440 pixels has 360 then. With forced colours, failed tasks keep theirs. Nothing moves."""
    with open_tab(browser, 360, forced_colors="active") as page:
        for path, last in VIEWS.values():
            page.goto(server.url + path)
            expect(page.locator(last).first).to_be_visible()
            check_layout(page)
            page.keyboard.press("Tab")
            assert page.evaluate("document.getAnimations().length") == 0
        page.goto(f"{server.url}/jobs/grid")
        strokes = page.locator("#map .run").evaluate_all("all => all.map(one => getComputedStyle(one).stroke)")
        assert len(set(strokes)) == 2


def test_three_clicks_lead_to_the_parameters_that_fail(page: Page) -> None:
    """One, in fact: the page of the job names them. Two more lead to the tasks of a region, and to the log of one."""
    page.get_by_role("link", name="grid", exact=True).click()
    expect(page.locator("#failures strong")).to_have_text("all 1,156 have beta > 0.65 and gamma > 0.65; no other has")
    page.set_viewport_size({"width": 1440, "height": 1240})
    shoot(page, "job-failures")
    region = "1,156 of 1,156 tasks failed: beta > 0.65, gamma > 0.65"
    page.locator("#map svg").get_by_role("link", name=region).click()
    expect(page.locator("caption")).to_have_text("Tasks 1 to 50 of 1,156")
    page.get_by_role("link", name="6732").click()
    expect(page.get_by_role("textbox", name="Task")).to_have_value("6732")


def test_two_clicks_lead_to_a_plot(page: Page) -> None:
    """To the job, and to its results: the first scalar over the first parameter, without a choice to make."""
    page.get_by_role("link", name="grid", exact=True).click()
    page.get_by_role("link", name="Results").click()
    expect(page.get_by_role("img", name="attack_rate over beta: 8844 tasks")).to_be_visible()


def test_the_walk_needs_no_script(browser: Browser, server: Server) -> None:
    """A page that waits for the registry loads itself again; forms and links do the rest."""
    with open_tab(browser, java_script_enabled=False) as page:
        page.goto(f"{server.url}/jobs/trial/results")
        expect(page.get_by_role("img", name="response over dose")).to_be_visible()
        expect(page.locator("main")).not_to_contain_text("Being read")  # a page that loads itself again loses a choice
        page.get_by_role("combobox", name="over").select_option("arm")
        page.get_by_role("button", name="Plot").click()
        expect(page.get_by_role("img", name="response over arm")).to_be_visible()
        with page.expect_download() as download:
            page.get_by_role("link", name="Download as a table").click()
        assert download.value.suggested_filename == "trial.csv"
        page.goto(f"{server.url}/jobs/grid/logs")
        page.get_by_role("searchbox", name="Search").fill("step 7 of")
        page.get_by_role("textbox", name="Task").fill("7")
        page.get_by_role("button", name="Search").click()
        expect(page.locator(".log li")).to_have_count(1)
        page.goto(f"{server.url}/jobs/grid")
        expect(page.locator("main")).not_to_contain_text("Being read")
        page.get_by_label("Across").select_option("gamma")
        page.get_by_label("Up").select_option("beta")
        page.get_by_role("button", name="Draw").click()
        expect(page.get_by_role("group", name="Tasks by gamma and beta")).to_be_visible()


def test_regions_are_reached_by_the_keyboard(page: Page, server: Server) -> None:
    """Each is a link with words, and is outlined when it has the focus."""
    page.goto(f"{server.url}/jobs/grid")
    region = page.locator("#map svg a")
    expect(region).to_have_count(1)
    page.get_by_role("button", name="Draw").focus()
    page.keyboard.press("Tab")
    expect(region).to_be_focused()
    assert region.locator("rect").evaluate("one => getComputedStyle(one).stroke") != "rgba(0, 0, 0, 0)"
    page.keyboard.press("Enter")
    expect(page.locator("caption")).to_have_text("Tasks 1 to 50 of 1,156")


def _without_version(route: Route) -> None:
    """Ask for the whole page: a version that the page has would be answered with what has changed."""
    route.continue_(headers={name: value for name, value in route.request.headers.items() if name != "if-none-match"})


def test_what_was_unfolded_stays_unfolded(page: Page, server: Server) -> None:
    """A refresh of the page does not fold a table that its reader has opened."""
    page.goto(f"{server.url}/jobs/grid")
    page.get_by_text("Counts as a table").click()
    table = page.get_by_role("region", name="Failed tasks of all, by beta")
    expect(table).to_be_visible()
    page.route("**/jobs/grid", _without_version)
    page.evaluate("document.getElementById('map').dataset.old = 'yes'")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("#map[data-old]")).to_have_count(0)
    expect(table).to_be_visible()
