"""The newest page of a job's log in Chromium: it follows its job, and pauses for a reader above its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, expect

from mopsjobs.events.writer import record_event
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from mopsjobs.utils.times import utc_now
from support.browser import open_tab, read_axe
from support.cli import Cli, Clock
from support.runs import until
from support.study_jobs import run_study
from support.web import serving

if TYPE_CHECKING:
    from mopsjobs.store.base import VersionedStore

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
