"""How the page of jobs looks with 3,000 jobs: in six windows, light and dark, by what a person sees first.

With MOPS_TEST_SCREENSHOTS set to a directory, a picture of each is made there.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, Page, expect

from mopsjobs.utils.times import utc_now
from support.browser import Watched, open_chromium, read_axe
from support.cli import Cli, Clock
from support.many_jobs import fill_cache
from support.web import Server, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

expect.set_options(timeout=20_000)

SIZES = {1440: 900, 1024: 768, 390: 844}
SCHEMES = ("light", "dark")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Yield Debian's Chromium."""
    with open_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield a server over a cache with the jobs. It never syncs, since there is no registry behind them."""
    home = tmp_path_factory.mktemp("home")
    cli = Cli(home, Clock(), None)  # type: ignore[arg-type]
    cli.env["MOPS_JOBS_REGISTRY"] = "https://example.blob.core.windows.net/job-registry"
    fill_cache(str(cli.cache), cli.env["MOPS_JOBS_REGISTRY"], utc_now())
    with serving(cli, "--offline") as server:
        yield server.filled()


@pytest.fixture(params=[(width, scheme) for width in SIZES for scheme in SCHEMES], ids=lambda one: f"{one[0]}-{one[1]}")
def window(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Page]:
    """Yield a tab of one size in one colour scheme. In the end, it did nothing forbidden."""
    width, scheme = request.param
    size = {"width": width, "height": SIZES[width]}
    context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce", service_workers="block")
    page = context.new_page()
    watched = Watched(page)
    yield page
    watched.check()
    context.close()


def _shoot(page: Page, name: str) -> None:
    if directory := os.environ.get("MOPS_TEST_SCREENSHOTS"):
        size = page.viewport_size
        assert size is not None
        scheme = "dark" if page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") else "light"
        page.screenshot(path=str(Path(directory, f"{name}-{size['width']}-{scheme}.png")))


VIEWS = {"jobs": "/jobs", "jobs-failed": "/jobs?status=failed", "charts": "/charts"}


@pytest.mark.parametrize("name", VIEWS)
def test_pages_meet_the_rules_of_accessibility(window: Page, server: Server, name: str) -> None:
    """axe-core finds no violation, and no page is wider than its window."""
    window.goto(server.url + VIEWS[name])
    _shoot(window, name)
    assert window.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert read_axe(window) == []
