"""What an open page gets: what has changed, the true age of it, and a notification where it was asked for."""

from __future__ import annotations

import contextlib
import json
import re
import signal
from collections.abc import Iterator
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Browser, Page, Response, expect

from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from mopsjobs.utils.times import parse_time, utc_now
from support.browser import open_private_tab
from support.cli import Cli, Clock, Remote, add, foreign, key, put
from support.runs import until
from support.web import HOSTILE, HOSTILE_ID, Server, Web, hostile_record, serving

NOTIFICATIONS = """
window.asked = 0;
window.sent = [];
window.Notification = class {
    static requestPermission() { window.asked += 1; return Promise.resolve(window.answer || "granted"); }
    constructor(title, options) { window.sent.push([title, options.tag]); }
};
"""

CONTENT = """() => {
    const copy = document.querySelector("main").cloneNode(true);
    for (const time of copy.querySelectorAll("time")) time.textContent = "";
    for (const time of copy.querySelectorAll("time[title]")) time.title = "";
    const parts = [...copy.querySelectorAll("[data-live]")].map((part) => part.outerHTML).join("");
    const text = parts.replace(/\\s+/g, " ").replace(/> </g, "><");
    return text.replace(/\\b\\d+[smhd]( \\d+[smhd])?\\b/g, "").replace(/ (x|width)="[^"]*"/g, "");
}"""
"""The parts of a page that it refreshes, without what its script shows in its own way, and without durations."""

SHORT_TIMEOUT = """
const native = Object.getOwnPropertyDescriptor(XMLHttpRequest.prototype, "timeout");
Object.defineProperty(XMLHttpRequest.prototype, "timeout", {set(value) { native.set.call(this, value / 10); }});
"""
"""Lets a refresh wait two seconds for its answer, so that a test of a silent server is short."""


@pytest.fixture
def server(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Yield a server over an embedded registry with forty jobs. `cli` and the server have one clock."""
    monkeypatch.setattr(Clock, "now", lambda _clock: utc_now())
    jobs = JobRegistry(open_store(cli.env["MOPS_JOBS_REGISTRY"], {}))
    for number in range(40):
        add(jobs, f"night-{number:02}", "running" if number % 3 else "pending", owner="ada", tasks_total=20)
    with serving(cli, "--sync-every", "1s") as server:
        yield server.filled()


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """Yield a tab that has opened nothing yet."""
    with open_private_tab(browser, 1200, expected_errors="Failed to load resource") as page:
        page.add_init_script(NOTIFICATIONS)
        yield page


def refreshes(page: Page) -> list[Response]:
    """Return the list to which the answers to the script of this page are added."""
    found: list[Response] = []
    page.on("response", lambda one: found.append(one) if one.request.resource_type == "xhr" else None)
    return found


def test_a_change_brings_the_page_and_no_change_nothing(page: Page, server: Server, cli: Cli) -> None:
    """The page comes compressed. Without a change, an answer has no body, and the age of the data in its header."""
    answers = refreshes(page)
    page.goto(f"{server.url}/jobs?sort=name")
    cli.ok("progress", "night-02", "7/20", "-q")
    expect(page.locator("tr[data-key=night-02]")).to_contain_text("7/20")
    assert [one for one in answers if one.status == 200][-1].headers["content-encoding"] == "gzip"
    with page.expect_response(lambda one: one.status == 304) as unchanged:  # each sync is a change of the cache
        pass
    assert json.loads(unchanged.value.headers["data-age"])["stale"] is False
    expect(page.locator("tr[data-key=night-02]")).to_contain_text("7/20")


def test_the_tab_of_a_job_tells_its_state(page: Page, server: Server, cli: Cli) -> None:
    """By its title and its icon, also after a change."""
    page.goto(f"{server.url}/jobs/night-04")
    expect(page).to_have_title("running 0/20 · night-04 · mops-jobs")
    expect(page.locator("#icon")).to_have_attribute("href", "/static/icon-active.svg")
    cli.ok("update", "night-04", "failed", "--error", "no room", "-q")
    expect(page).to_have_title("failed 0/20 · night-04 · mops-jobs")
    expect(page.locator("#icon")).to_have_attribute("href", "/static/icon-failed.svg")
    for name in ("", "-active", "-succeeded", "-partial", "-failed"):
        assert server.ask(f"/static/icon{name}.svg").status == 200


def test_headline_times_are_local(browser: Browser, server: Server) -> None:
    """In words of the reader's own zone; the time in UTC is in the title, and without a script in the text."""
    with open_private_tab(browser, timezone_id="America/New_York", locale="en-GB") as page:
        page.goto(f"{server.url}/jobs/night-04")
        moment = page.locator("#state time[data-local]")
        expect(moment).not_to_contain_text("Z")
        utc = str(moment.get_attribute("datetime"))
        expect(moment).to_have_attribute("title", utc)
        local = parse_time(utc).astimezone(ZoneInfo("America/New_York"))
        expect(moment).to_have_text(f"{local.day} {local:%b %Y, %H:%M}")


def test_seven_tabs_follow(browser: Browser, server: Server, cli: Cli) -> None:
    """A browser has six connections for all tabs of a site, and no tab keeps one."""
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(contextlib.closing(browser.new_context()))
        tabs = [context.new_page() for _ in range(7)]
        for tab in tabs:
            tab.goto(f"{server.url}/jobs?sort=name")
        cli.ok("progress", "night-02", "7/20", "-q")
        for tab in tabs:
            expect(tab.locator("tr[data-key=night-02]")).to_contain_text("7/20")


@pytest.mark.parametrize("path", ["/jobs", "/jobs?sort=name", "/jobs/night-04"])
def test_a_page_that_follows_is_as_one_that_is_opened(page: Page, server: Server, cli: Cli, path: str) -> None:
    """After jobs came, went on, ended, moved and went away, in the same order and with the same text."""
    page.goto(server.url + path)
    page.evaluate("window.same = true")
    store = open_store(cli.env["MOPS_JOBS_REGISTRY"], {})
    for step, done in enumerate((3, 9, 14)):
        put(store, key(HOSTILE_ID), hostile_record(HOSTILE_ID))
        put(store, key(f"another-{step}"), foreign(f"another-{step}", "failed", error_message=HOSTILE))
        store.delete(key(f"night-{30 + step}"))
        for name in ("night-01", "night-04", f"night-{20 + step}"):
            cli.ok("progress", name, f"{done}/20", "-q")
        cli.ok("update", f"night-{10 + step}", "failed", "--error", "no room", "-q")
        where = page.locator("tr[data-key=night-04]" if path.startswith("/jobs?") else "main")
        expect(where).to_contain_text(f"{done}/20")
    cli.ok("sync", "-q")
    end = utc_now().timestamp()
    until(lambda: page.evaluate(CONTENT) == _open_after(page, end), "the page to be as one that is opened")
    assert page.evaluate("window.same") is True
    assert page.evaluate("window.broken") is None
    assert page.locator("main img, main script").count() == 0


def _open_after(page: Page, moment: float) -> str:
    """Return the content of the same page in another tab, which the server has rendered after this moment."""
    other = page.context.new_page()

    def is_later() -> bool:
        other.goto(page.url)
        return float(other.locator("#fresh").get_attribute("data-now") or 0) > moment

    until(is_later, "a page with all changes")
    content = str(other.evaluate(CONTENT))
    other.close()
    return content


def test_a_lost_page_becomes_current(page: Page, server: Server) -> None:
    """It says why it is not current, and asks again until it is."""
    page.goto(f"{server.url}/jobs?sort=name")
    lost = page.locator("#connection")
    page.route("**/jobs?sort=name", lambda route: route.fulfill(status=500, content_type="text/html"))
    expect(lost).to_contain_text("The server answers with an error, 500")
    page.unroute("**/jobs?sort=name")
    expect(lost).to_be_hidden()


def test_a_server_that_stands_still_is_noticed(page: Page, server: Server) -> None:
    """Its connection stays open, but no answer comes. When it goes on, so does the page."""
    page.add_init_script(SHORT_TIMEOUT)
    page.goto(f"{server.url}/jobs")
    lost = page.locator("#connection")
    server.process.send_signal(signal.SIGSTOP)
    try:
        expect(lost).to_contain_text("Connection lost")
    finally:
        server.process.send_signal(signal.SIGCONT)
    expect(lost).to_be_hidden()


def test_the_end_of_a_watched_job_is_notified(page: Page, server: Server, cli: Cli) -> None:
    """The browser asks for permission on the click, and not before; a hidden tab hears of the end too."""
    page.goto(f"{server.url}/jobs/night-04")
    button = page.get_by_role("button", name="Notify me when this job ends")
    expect(button).to_be_visible()
    assert page.evaluate("window.asked") == 0
    button.click()
    expect(page.get_by_role("button", name="You will be notified")).to_have_attribute("aria-pressed", "true")
    assert page.evaluate("window.asked") == 1
    page.evaluate("Object.defineProperty(document, 'hidden', {value: true})")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    cli.ok("update", "night-04", "failed", "--error", HOSTILE, "-q")
    until(lambda: page.evaluate("window.sent.length") == 1, "the notification")
    [[title, tag]] = page.evaluate("window.sent")
    assert re.fullmatch(r"night-04: \W*failed", title)
    assert tag == "mops-jobs night-04"
    expect(page.locator("button.notify")).to_have_count(0)


# --- the server's part ------------------------------------------------------------------------------------------------


@pytest.fixture
def web(cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str]) -> Web:
    for number in range(5):
        add(remote.jobs, f"night-{number}", "running", tasks_total=20)
    cli.ok("sync", "-q")
    return Web(cli, capsys)


def _read(text: str, name: str) -> str:
    match = re.search(f' data-{name}="([^"]*)"', text)
    assert match is not None
    return match[1]


def test_a_page_that_was_kept_tells_its_true_age(web: Web, clock: Clock) -> None:
    """It has the time of the answer too, to which its ages are counted."""
    first = web.client.get("/jobs").text
    clock.advance(seconds=1.5)
    second = web.client.get("/jobs").text
    assert _read(first, "now") == _read(first, "sent") == _read(second, "now")
    assert float(_read(second, "sent")) == float(_read(second, "now")) + 1.5


def test_another_version_gets_the_page(web: Web) -> None:
    """A version of another server, of long ago, or of another page; and none at all."""
    whole = web.ok("/jobs")
    for token in ("0123456789abcdef", "", '"', "*", _read(web.ok("/charts"), "version")):
        answer = web.get("/jobs", **{"If-None-Match": f'"{token}"'})
        assert answer.status_code == 200
        assert answer.text.count("<tr data-key") == whole.count("<tr data-key") == 5


def test_the_version_of_a_page_is_told_if_it_is_current(web: Web, remote: Remote, cli: Cli) -> None:
    """304 without a body, also when only time has passed; its header has the age as of now. Then the page."""
    token = _read(web.ok("/jobs?sort=name"), "version")
    headers = {"If-None-Match": f'"{token}"'}
    cli.clock.advance(seconds=30)
    answer = web.get("/jobs?sort=name", **headers)
    assert (answer.status_code, answer.data) == (304, b"")
    assert json.loads(answer.headers["Data-Age"])["ages"] == [30.0]
    remote.jobs.update_progress("night-3", 5)
    cli.ok("sync", "-q")
    answer = web.get("/jobs?sort=name", **headers)
    assert (answer.status_code, answer.text.count("5/20")) == (200, 1)


@pytest.mark.parametrize(
    "path", ["/jobs/night-1", "/jobs/night-1/logs", "/jobs/night-1/results", "/charts", "/failures"]
)
def test_each_page_tells_that_nothing_has_changed(web: Web, path: str) -> None:
    """So an open tab costs little."""
    token = _read(web.ok(path), "version")
    assert web.get(path, **{"If-None-Match": f'"{token}"'}).status_code == 304


@pytest.mark.parametrize(
    ("sent", "is_packed"), [("gzip", True), ("br, gzip;q=0.5", True), ("gzip;q=0", False), ("", False)]
)
@pytest.mark.parametrize("path", ["/jobs", "/api/v1/jobs", "/metrics", "/static/live.js"])
def test_text_is_compressed_for_who_takes_it(web: Web, path: str, sent: str, is_packed: bool) -> None:
    """And says so."""
    with web.client.get(path, headers={"Accept-Encoding": sent}) as answer:
        assert answer.headers.get("Content-Encoding") == ("gzip" if is_packed else None)
        assert "Accept-Encoding" in answer.headers["Vary"]
        assert int(answer.headers["Content-Length"]) == len(answer.data)
