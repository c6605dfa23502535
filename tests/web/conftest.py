"""Fixtures that several files of this folder use: a browser, and tabs of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, Page, expect

from support.browser import WINDOWS, open_chromium, open_tab
from support.cli import Cli, Remote, add
from support.runs import PATIENCE
from support.web import Web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.web import Server

expect.set_options(timeout=1000 * PATIENCE)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Yield Debian's Chromium."""
    with open_chromium() as browser:
        yield browser


@pytest.fixture
def has_failed(request: pytest.FixtureRequest) -> Callable[[], bool]:
    """Return what tells whether the test has failed: pytest throws no exception of a test into a fixture."""
    before = request.session.testsfailed
    return lambda: request.session.testsfailed > before


@pytest.fixture
def page(browser: Browser, server: Server, has_failed: Callable[[], bool]) -> Iterator[Page]:
    """Yield a tab at the page of jobs, of the module's own server. In the end, it did nothing forbidden."""
    with open_tab(browser, has_failed=has_failed) as page:
        page.goto(f"{server.url}/jobs")
        yield page


@pytest.fixture(params=WINDOWS, ids=lambda one: f"{one[0]}-{one[1]}")
def window(request: pytest.FixtureRequest, browser: Browser, has_failed: Callable[[], bool]) -> Iterator[Page]:
    """Yield a tab of one size in one colour scheme. In the end, it did nothing forbidden."""
    width, scheme = request.param
    with open_tab(browser, width, scheme, reduced_motion="reduce", has_failed=has_failed) as page:
        yield page


@pytest.fixture
def web(cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str]) -> Web:
    """Return an application that reads what its pages ask for when the test says so."""
    add(remote.jobs, "first")
    cli.ok("sync", "-q")
    return Web(cli, capsys, reads=True)
