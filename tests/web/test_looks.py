"""How all pages look in Chromium, with 3,000 jobs, with studies, and with hostile names; and the shortest ways."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from mopsjobs.events.writer import record_event
from mopsjobs.ledger.attempt import AttemptError
from mopsjobs.registry.job_id import MAX_JOB_ID_LENGTH
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from mopsjobs.utils.times import json_time, record_time, utc_now
from support.browser import ROWS, check_layout, check_looks, open_private_tab, open_tab, read_axe, shoot, unfold
from support.cli import Cli, Clock, foreign, key, put
from support.existing import existing
from support.many_jobs import fill_cache
from support.study_jobs import LONG, NO_ROOM, RTL, TOO_LARGE, fail, run_compared, run_grid, run_hostile, run_study
from support.web import BIDI, HOSTILE, HOSTILE_ID, Server, hostile_fields, hostile_record, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mopsjobs.store.base import VersionedStore

STUDY = "n" * MAX_JOB_ID_LENGTH
"""A job of this program with hostile names, and the longest id that it gives."""

FOREIGN = HOSTILE_ID + LONG[len(HOSTILE_ID) :]
"""A job of another program, whose id has 500 characters, and markup."""

COMPARED = ["base", "faster", "wider"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield a server over a cache with 3,000 jobs. It never syncs, since there is no registry behind them."""
    cli = Cli(tmp_path_factory.mktemp("many"), Clock(), None)  # type: ignore[arg-type]
    cli.env["MOPS_JOBS_REGISTRY"] = "https://example.blob.core.windows.net/job-registry"
    fill_cache(cli.cache, cli.env["MOPS_JOBS_REGISTRY"], utc_now())
    with serving(cli, "--offline") as server:
        yield server.filled()


def _backdate(store: VersionedStore, job_id: str, *minutes: int) -> None:
    """Set the times of the record's transitions to these minutes ago."""
    record = json.loads(existing(store.get(key(job_id))).value)
    for step, ago in zip(record["transitions"], minutes, strict=True):
        step["at"] = json_time(utc_now() - timedelta(minutes=ago))
    record["created_at"], record["updated_at"] = (record["transitions"][place]["at"] for place in (0, -1))
    put(store, key(job_id), json.dumps(record))


def _run_studies(jobs: JobRegistry) -> None:
    """Run a study of 10,000 tasks, one that was resumed, one that still runs, and some that share errors."""
    run_grid(jobs, "grid", side=50, replicates=4, began=(utc_now() - timedelta(hours=3)).timestamp())
    _backdate(jobs.store, "grid", 190, 189, 188, 186, 13, 12)
    for number in range(60):
        record_event(jobs.store, "grid", "log", now=utc_now, text=f"Step {number} of the model", task=number % 9)
    sets = [{"dose": round(dose / 10, 1), "arm": arm} for dose in range(20) for arm in ("control", "treated")]
    for job_id, only in (("trial", None), ("trial.2", range(161, 200))):
        run_study(
            jobs, job_id, sets, lambda task, last=only: "failed" if last is None and task.number > 160 else "succeeded",
            lambda task: {"result.json/response": task.params["dose"] ** 0.5 * (1 + task.seed % 9 / 30)},
            only=only, status="partial" if only is None else "succeeded", n_replicates=5,
        )  # fmt: skip
    run_study(
        jobs, "live", [{"r0": 1 + number / 10} for number in range(30)],
        lambda task: None if task.number > 250 else "failed" if task.number % 12 > 9 else "succeeded",
        lambda task: {"result.json/peak": task.params["r0"] * 100 + task.seed % 40}, status="running", n_replicates=12,
    )  # fmt: skip
    now, owners = utc_now().timestamp(), ("ada", "grace", "emmy", RTL)
    for number in range(8):
        errors = dict.fromkeys(range(20 + number, 40), TOO_LARGE) | {7: NO_ROOM}
        fail(jobs, f"seir-{number}", errors, now - 15 * 3600 * (number + 1), owner=owners[number % 4])
    fail(jobs, "seir-1.2", {39: TOO_LARGE}, now - 7200, only=range(30, 40), owner="grace")
    odd = AttemptError("5a2b3c4d5e6f", HOSTILE, HOSTILE, HOSTILE + BIDI + LONG)
    fail(jobs, "odd", {30: odd, 31: odd}, now - 86400, owner=HOSTILE)


def _add_hostile(jobs: JobRegistry) -> None:
    """Add jobs of this program and of another one whose every field, parameter and output is hostile."""
    run_hostile(jobs, STUDY, utc_now)
    record, fields = json.loads(existing(jobs.store.get(key(STUDY))).value), hostile_fields()
    record |= fields | {
        "metadata": {**record["metadata"], **fields["metadata"]},
        "owner": HOSTILE + LONG,
        "labels": {HOSTILE: HOSTILE + BIDI + LONG, LONG: RTL, RTL: LONG},
        "error_message": RTL + HOSTILE + BIDI + LONG,
        "note": HOSTILE + BIDI + LONG,
        "usage": {"0": [60.0, 60.0, 60.0, 2**20]},
    }
    put(jobs.store, key(STUDY), json.dumps(record))
    for job_id in (FOREIGN, HOSTILE_ID, f"{RTL}-run", LONG):
        put(jobs.store, key(job_id), hostile_record(job_id))
    recently = dict.fromkeys(("created_at", "updated_at"), record_time(utc_now()))
    named = {"error_code": LONG, "error_message": RTL, "owner": RTL, **recently}
    put(jobs.store, key("failed"), foreign("failed", "failed", **named))


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield a server that syncs an embedded registry with studies, runs to compare, failures, and hostile names."""
    cli = Cli(tmp_path_factory.mktemp("studies"), Clock(), None)  # type: ignore[arg-type]
    jobs = JobRegistry(open_store(cli.env["MOPS_JOBS_REGISTRY"], {}))
    _run_studies(jobs)
    run_compared(jobs, tmp_path_factory.mktemp("code"))
    _add_hostile(jobs)
    with serving(cli, "--sync-every", "1s") as server:
        yield server.filled()


def _compare(ids: list[str]) -> str:
    return f"/compare?{urlencode([('job', one) for one in ids])}"


MANY = {
    "jobs": "/jobs",
    "jobs-failed": "/jobs?status=failed&owner=ada,grace",
    "charts": "/charts",
    "failures-many": "/failures",
}
"""Pages over 3,000 jobs."""

STUDIES = {
    "job": ("/jobs/grid", "#failures strong"),
    "job-family": ("/jobs/trial", "#family"),
    "job-live": ("/jobs/live", "#failures a"),
    "tasks": ("/jobs/grid/tasks?status=failed", "#listed tbody tr"),
    "task": ("/jobs/live/results?task=40", "#task h3"),
    "log": ("/jobs/grid/logs", ".log time"),
    "results": ("/jobs/grid/results", ".plot svg"),
    "results-family": ("/jobs/trial.2/results?x=arm", ".plot svg"),
    "compare": (_compare(COMPARED), "#plot svg"),
    "jobs-boxes": ("/jobs?compare=true&name=[bfw]*", "td.compare input"),
    "failures": ("/failures", "#errors tbody tr"),
    "failures-resumed": ("/failures?resumed=true&sort=last&limit=9&owner=ada,grace", "#errors tbody tr"),
    "failures-none": ("/failures?status=cancelled", "#none"),
}
"""Pages over studies, and what is there when all was read."""

HOSTILE_PAGES = {
    "jobs": "/jobs?q=x",
    "jobs-filtered": f"/jobs?q={quote(HOSTILE)}&owner={quote(HOSTILE + LONG)}&label={quote(RTL)}&name={LONG}",
    "jobs-refused": f"/jobs?q={quote('ownr:' + HOSTILE + LONG)}&sort={quote(HOSTILE)}",
    "job": f"/jobs/{STUDY}",
    "tasks": f"/jobs/{STUDY}/results?rows=tasks",
    "log": f"/jobs/{STUDY}/logs",
    "results": f"/jobs/{STUDY}/results",
    "foreign-job": f"/jobs/{quote(FOREIGN)}",
    "foreign-log": f"/jobs/{quote(FOREIGN)}/logs",
    "no-job": f"/jobs/{quote(HOSTILE_ID)}0",
    "failures": "/failures",
    "charts": "/charts",
    "compare": _compare([STUDY, HOSTILE_ID, f"{RTL}-run", LONG, "base"]),
}
"""Each page that shows what a record, a study, a ledger or a URL holds."""

UNREAD = re.compile("[Bb]eing read|not read yet")

NARROW = 390
"""The width of the narrowest window, in pixels."""

OVERFLOWS = "all => all.filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.textContent)"


@pytest.mark.parametrize("name", [*MANY, *STUDIES])
def test_pages_meet_the_rules_of_accessibility(window: Page, server: Server, studies: Server, name: str) -> None:
    """axe-core finds no violation, also in what is folded, and no page is wider than its window."""
    path, last = STUDIES.get(name, (MANY.get(name, ""), "main"))
    window.goto((server if name in MANY else studies).url + path)
    expect(window.locator(last).first).to_be_visible()
    if name in STUDIES:
        expect(window.locator("main")).not_to_contain_text(UNREAD)
    check_looks(window, name)


@pytest.mark.parametrize("name", HOSTILE_PAGES)
def test_hostile_names_and_values_are_text_that_fits(
    browser: Browser, studies: Server, pytestconfig: pytest.Config, name: str
) -> None:
    """No script runs, no element comes of them, each page is as wide as its window, and axe-core finds nothing.

    In CI, the window is the narrowest, where the least fits.
    """
    refused = {"jobs-refused": "400", "no-job": "404"}.get(name, "nothing")
    for width in (1440, NARROW) if pytestconfig.option.long else (NARROW,):
        with open_tab(browser, width, expected_errors=refused) as page:
            page.goto(studies.url + HOSTILE_PAGES[name])
            main = page.locator("main")
            expect(main).not_to_contain_text(UNREAD)
            expect(main).to_contain_text("<img src=x onerror=alert(1)>")
            shoot(page, f"hostile-{name}", full_page=True)
            unfold(page)
            check_layout(page)
            assert "\u202e" not in page.content()
            assert page.locator(".compare td, .compare th[scope=row]").evaluate_all(OVERFLOWS) == []
            if width == NARROW:  # its rules are about what is there, which is the same in each window
                assert read_axe(page) == []


WHOLE = """rows => rows.filter(row => {
    const box = row.getBoundingClientRect();
    return box.top >= 0 && box.bottom <= innerHeight;
}).length"""


def test_the_first_screen_has_many_jobs(window: Page, server: Server) -> None:
    """Twenty rows on a large screen, eight on a phone, below the three panels."""
    window.goto(f"{server.url}/jobs")
    width = window.viewport_size["width"]  # type: ignore[index]
    assert window.locator(ROWS).evaluate_all(WHOLE) >= {1440: 20, 1024: 12, 390: 8}[width]
    for name in ("Open failures", "Running", "Waiting"):
        expect(window.get_by_role("region", name=name)).to_be_in_viewport()


def _styles(page: Page, selector: str, name: str) -> set[str]:
    found: list[str] = page.locator(selector).evaluate_all(f"all => all.map(one => getComputedStyle(one).{name})")
    return set(found)


def test_pages_hold_at_four_hundred_percent_and_with_forced_colours(
    browser: Browser, server: Server, studies: Server
) -> None:
    """A window of 1280 pixels has 320 then. Nothing moves; drawings differ by colours or dashes."""
    with open_tab(browser, 320, forced_colors="active") as page:
        for path in MANY.values():
            page.goto(server.url + path)
            check_layout(page)
        page.set_viewport_size({"width": 360, "height": 800})
        for path, _ in STUDIES.values():
            page.goto(studies.url + path)
            expect(page.locator("main")).not_to_contain_text(UNREAD)
            check_layout(page)
            page.keyboard.press("Tab")
            assert page.evaluate("document.getAnimations().length") == 0
        page.goto(f"{server.url}/jobs")
        system = {"rgb(0, 0, 0)", "rgb(255, 255, 255)", "rgb(255, 255, 0)"}
        assert _styles(page, "#jobs .bar rect", "fill") <= system
        page.goto(f"{server.url}/charts")
        assert len(_styles(page, ".chart path.line", "strokeDasharray")) == 2
        page.goto(f"{studies.url}/jobs/grid/results")
        assert len(_styles(page, "#map .run", "stroke")) == 2
        page.goto(studies.url + _compare(COMPARED))
        assert len(_styles(page, "#plot .map path.line", "strokeDasharray")) == 3


SMALL_TARGETS = """() => [...document.querySelectorAll("a, button, input, select, summary")].filter(one => {
    const box = one.getBoundingClientRect();
    return box.width > 1 && (box.width < 24 || box.height < 24);
}).map(one => one.outerHTML.slice(0, 100))"""


def test_a_finger_hits_each_link_on_a_phone(browser: Browser, server: Server) -> None:
    """Each link and each control has 24 pixels in both directions (WCAG 2.2, 2.5.8)."""
    with open_tab(browser, 390) as page:
        for path in ("/jobs", "/jobs?compare=true", "/failures", "/api"):
            page.goto(server.url + path)
            check_layout(page)
            assert page.evaluate(SMALL_TARGETS) == [], path


def test_a_page_is_printed_without_its_controls(browser: Browser, server: Server) -> None:
    """In the colours of paper, also where the screen is dark."""
    with open_private_tab(browser, 1024, color_scheme="dark") as page:
        page.goto(f"{server.url}/jobs")
        page.emulate_media(media="print", color_scheme="dark")
        expect(page.locator(ROWS).first).to_be_visible()
        for hidden in (page.get_by_role("search"), page.get_by_role("navigation"), page.get_by_role("button")):
            assert not [one for one in hidden.all() if one.is_visible()]
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 31, 36)"


# --- without a script ------------------------------------------------------------------------------------------------


@pytest.fixture
def plain(browser: Browser, has_failed: Callable[[], bool]) -> Iterator[Page]:
    """Yield a tab without scripts: a page that waits for the registry loads itself again."""
    with open_tab(browser, java_script_enabled=False, has_failed=has_failed) as page:
        yield page


def test_jobs_and_charts_need_no_script(plain: Page, server: Server) -> None:
    """Search, a filter, a chip and the days of a chart are plain forms and links."""
    plain.goto(f"{server.url}/jobs")
    plain.get_by_label("Search").fill("owner:ada error:oom")
    plain.get_by_label("Search").press("Enter")
    expect(plain.get_by_role("link", name="Remove the filter owner:ada")).to_be_visible()
    for text in plain.locator(ROWS).locator("td.error").all_inner_texts():
        assert "OOM" in text
    plain.get_by_role("link", name="Remove the filter error:oom").click()
    expect(plain.get_by_role("button", name="Keys")).to_be_hidden()
    plain.goto(f"{server.url}/charts")
    plain.get_by_role("region", name="Queued and running").locator("a path").nth(20).click()
    expect(plain).to_have_url(re.compile("ended_since=.*&until="))
    expect(plain.locator("#jobs tbody tr").first).to_be_visible()


def test_a_comparison_and_failures_need_no_script(plain: Page, studies: Server) -> None:
    """Boxes, forms, links, filters and the order are plain HTML."""
    plain.goto(f"{studies.url}/jobs?compare=true&name=[bw]*")
    for job_id in ("base", "wider"):
        plain.get_by_role("checkbox", name=f"Compare {job_id}", exact=True).check()
    plain.get_by_role("button", name="Compare").click()
    expect(plain.locator("main")).not_to_contain_text("eing read")
    plain.get_by_role("textbox", name="and job").last.fill("faster")
    plain.get_by_role("button", name="Compare").click()
    expect(plain.get_by_role("region", name="Code and study of C")).to_contain_text("model.py")
    plain.get_by_role("combobox", name="Value").select_option("population")
    plain.get_by_role("button", name="Plot").click()
    expect(plain.get_by_role("img", name="Mean of population over beta for each job")).to_be_visible()
    plain.goto(f"{studies.url}/failures")
    expect(plain.locator("#found")).not_to_contain_text("not read yet")
    plain.get_by_text("Jobs that changed within a week").click()
    plain.get_by_label("Owner").fill("ada")
    plain.get_by_label("With resumed jobs").check()
    plain.get_by_role("button", name="Show").click()
    expect(plain.get_by_text("Jobs that changed within a week, of ada, with resumed ones")).to_be_visible()
    plain.get_by_role("columnheader", name="Last").get_by_role("link").click()
    expect(plain.get_by_role("columnheader", name="Last")).to_have_attribute("aria-sort", "descending")


# --- the shortest ways -----------------------------------------------------------------------------------------------


@pytest.fixture
def tab(browser: Browser, studies: Server, has_failed: Callable[[], bool]) -> Iterator[Page]:
    """Yield a tab at the page of jobs of the studies."""
    with open_tab(browser, has_failed=has_failed) as page:
        page.goto(f"{studies.url}/jobs")
        yield page


class Clicks:
    """A reader who counts the clicks."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.count = 0

    def __call__(self, link: Locator) -> None:
        expect(self.page.locator("main")).not_to_contain_text(UNREAD)
        link.click()
        self.count += 1


def test_three_clicks_lead_to_what_failed_and_where(tab: Page) -> None:
    """The page of the job has the conditions, that of its results the map, and a third click leads to the sets."""
    click = Clicks(tab)
    click(tab.get_by_role("link", name="grid", exact=True))
    expect(tab.locator("#failures strong")).to_have_text("all 1,156 have beta > 0.65 and gamma > 0.65; no other has")
    tab.set_viewport_size({"width": 1440, "height": 1240})
    click(tab.get_by_role("link", name="Results"))
    expect(tab.get_by_role("note")).to_contain_text(
        "1,156 of 10,000 tasks failed, all with beta > 0.65 and gamma > 0.65: this mean leaves them out."
    )
    shoot(tab, "results-failures")
    click(tab.get_by_role("link", name="Show them"))
    expect(tab.locator("#listed caption")).to_have_text("Parameter sets 1 to 50 of 289")
    expect(tab.locator("#listed tbody tr").first).to_contain_text("ValueError: beta is too large")
    assert click.count == 3


def test_three_clicks_lead_to_how_a_scalar_depends_on_a_parameter(tab: Page) -> None:
    """With the values of the study below the axis, and a band where tasks failed."""
    click = Clicks(tab)
    click(tab.get_by_role("link", name="live", exact=True))
    click(tab.get_by_role("link", name="Results"))
    expect(tab.get_by_role("group", name="peak over r0: 210 tasks")).to_be_visible()
    assert tab.locator(".failed-band").count() > 0
    assert click.count == 2


def test_three_clicks_lead_to_what_a_task_printed(tab: Page) -> None:
    """The row of its parameter set opens its output and its log; so does its dot."""
    click = Clicks(tab)
    click(tab.get_by_role("link", name="grid", exact=True))
    click(tab.get_by_role("link", name="Results"))
    click(tab.get_by_role("link", name="Set 1", exact=True))
    expect(tab.get_by_role("list", name="The last lines of task 0")).to_contain_text("Step 54 of the model")
    expect(tab.locator("#task")).to_be_in_viewport()
    assert click.count == 3
    dot = tab.locator("#results .plot a").first
    dot.locator("path").dispatch_event("click")
    expect(tab).to_have_url(re.compile(r"task=\d+#task$"))


def test_three_clicks_lead_to_the_best_set_and_its_output(tab: Page) -> None:
    """The lowest and the highest mean stand above the plot, with how sure that is."""
    click = Clicks(tab)
    click(tab.get_by_role("link", name="trial.2", exact=True))
    click(tab.get_by_role("link", name="Results"))
    expect(tab.locator("#results")).to_contain_text("Lowest response")
    click(tab.locator(".extremes a").last)
    expect(tab.locator("#task")).to_contain_text("dose = 1.9")
    assert click.count == 3
    tab.get_by_role("columnheader", name="Mean").get_by_role("link").click()
    expect(tab.get_by_role("columnheader", name="Mean")).to_have_attribute("aria-sort", "ascending")
    expect(tab.locator("#task")).to_contain_text("dose = 1.9")
    expect(tab.locator("#listed tbody tr").first).to_contain_text("0.0")


def test_ticks_of_a_comparison_survive_a_refresh_and_a_search(browser: Browser, server: Server) -> None:
    """Those of jobs that the search leaves out stand beside the button; another look at the jobs forgets them."""
    with open_tab(browser) as page:
        page.goto(f"{server.url}/jobs?compare=true")
        boxes = page.locator(ROWS).get_by_role("checkbox")
        chosen = [str(boxes.nth(place).get_attribute("value")) for place in (0, 1)]
        for place in (0, 1):
            boxes.nth(place).check()
        with page.expect_response(lambda response: "/jobs" in response.url):
            page.evaluate("window.dispatchEvent(new Event('online'))")
        expect(page.locator("td.compare input:checked")).to_have_count(2)
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
        page.goto(f"{server.url}/jobs?compare=true")
        assert page.locator("input[name=job]:checked").count() == 0


def _without_version(route: Route) -> None:
    """Ask for the whole page: a version that the page has would be answered with what has changed."""
    route.continue_(headers={name: value for name, value in route.request.headers.items() if name != "if-none-match"})


def test_what_was_unfolded_stays_unfolded(tab: Page, studies: Server) -> None:
    """A refresh of the page does not fold a table that its reader has opened."""
    tab.goto(f"{studies.url}/jobs/grid/results")
    expect(tab.locator("main")).not_to_contain_text(UNREAD)
    tab.get_by_text("Statistics as a table").click()
    table = tab.get_by_role("region", name="Statistics")
    expect(table).to_be_visible()
    tab.route("**/jobs/grid/results", _without_version)
    tab.evaluate("document.getElementById('results').dataset.old = 'yes'")
    tab.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(tab.locator("#results[data-old]")).to_have_count(0)
    expect(table).to_be_visible()
