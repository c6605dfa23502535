"""Debian's Chromium and Firefox, tabs of them, what a page must not do in them, and axe-core's opinion of a page.

With MOPS_TEST_SCREENSHOTS set to a directory, tests leave pictures of pages there.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import axe_playwright_python
import pytest
from playwright.sync_api import Browser, Dialog, Error, Page, Route, sync_playwright

from support.runs import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import ViewportSize

SIZES = {1440: 900, 1024: 768, 390: 844}
"""Widths and heights of the windows in which each page is looked at."""

SCHEMES = ("light", "dark")

WINDOWS = (
    [(width, scheme) for width in SIZES for scheme in SCHEMES]
    if "MOPS_TEST_SCREENSHOTS" in os.environ
    else [(1440, "light"), (390, "dark")]
)
"""Windows in which each page is looked at: all for pictures, else the widest and the narrowest, one in each scheme. A
page in six windows costs six times as much, and widths and colours do not depend on each other."""

ROWS = "#jobs tbody tr:has(th[scope=row])"
"""The jobs in the table of jobs."""

MIN_PAUSE = "const MIN_PAUSE = 4000;"
"""In live.js: the milliseconds between two refreshes of a page, by which it spares the server."""

_ROUTED = re.compile(r"^(?!http://127\.0\.0\.1:)|/static/live\.js$")
"""The requests of a page that do not simply go to the server."""

_RELAY = Path(__file__).with_name("firefox.py")
_AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8")


def _find(*names: str) -> str:
    """Return the path of a program of one of these names."""
    found = [path for name in names if (path := shutil.which(name)) is not None]
    if not found:
        pytest.fail(f"There is no {names[0]}: run ./build.sh test, which installs it.")
    return found[0]


@contextlib.contextmanager
def _open(kind: str, **options: Any) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = getattr(playwright, kind).launch(timeout=1000 * PATIENCE, **options)
        yield browser
        _IDLE.pop(browser, None)
        browser.close()


def open_chromium() -> contextlib.AbstractContextManager[Browser]:
    """Open Debian's Chromium, which resolves no name and has no other way out either."""
    flags = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--no-sandbox", "--disable-gpu"]
    return _open("chromium", executable_path=_find("chromium", "chromium-browser"), args=flags)


def open_firefox(home: Path) -> contextlib.AbstractContextManager[Browser]:
    """Open Debian's Firefox, which resolves no name. It always has light colours; see `support/firefox.py`."""
    start = home / "firefox"
    start.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{_RELAY}" "{_find("firefox-esr", "firefox")}" "$@"\n')
    start.chmod(0o755)
    preferences = {"network.dns.disabled": True, "services.settings.server": "data:,"}
    env = {**os.environ, "HOME": str(home)}
    return _open("firefox", channel="moz-firefox", executable_path=start, env=env, firefox_user_prefs=preferences)


class Watched:
    """The forbidden things that a page has done."""

    def __init__(self, page: Page) -> None:
        self.forget()
        page.context.route(_ROUTED, self._route)
        page.on("dialog", self._dialog)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)

    def forget(self) -> None:
        """Begin anew, for the next test that uses the tab."""
        self.foreign: list[str] = []
        self.dialogs: list[str] = []
        self.errors: list[str] = []

    def _route(self, route: Route) -> None:
        if route.request.url.startswith("http://127.0.0.1:"):
            self._hurry(route)
        else:
            self.foreign.append(route.request.url)
            route.abort()

    def _hurry(self, route: Route) -> None:
        """Pass the script on with a shorter pause, so that no test waits four seconds for each change of a page."""
        with contextlib.suppress(Error):  # the tab was closed meanwhile
            response = route.fetch()
            script = response.text()
            if MIN_PAUSE not in script:
                self.errors.append(f"live.js has no '{MIN_PAUSE}'")
            route.fulfill(response=response, body=script.replace(MIN_PAUSE, "const MIN_PAUSE = 100;"))

    def _dialog(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def check(self, expected_errors: str = "nothing") -> None:
        errors = [error for error in self.errors if expected_errors not in error]
        assert (self.foreign, self.dialogs, errors) == ([], [], [])


_IDLE: dict[Browser, dict[bool, list[tuple[Page, Watched]]]] = {}
"""Tabs that tests have used, and whether they run scripts. Opening one takes longer than most tests do in it."""


@contextlib.contextmanager
def open_tab(
    browser: Browser,
    width: int = 1440,
    scheme: Literal["light", "dark"] = "light",
    *,
    expected_errors: str = "nothing",
    java_script_enabled: bool = True,
    reduced_motion: Literal["reduce", "no-preference"] = "no-preference",
    forced_colors: Literal["active", "none"] = "none",
    has_failed: Callable[[], bool] = lambda: False,
) -> Iterator[Page]:
    """Yield a tab, perhaps one that an earlier test has used. The routes, cookies and storage of that test are gone.

    In the end, the tab contacted no other host, opened no dialog and had no error. After a failure, it is closed.

    Args:
        browser: the browser.
        width: the width of the window; one of `SIZES` has its height too.
        scheme: the colours that the system prefers.
        expected_errors: a part of the errors that do not count.
        java_script_enabled: whether scripts of pages run.
        reduced_motion: whether the system asks for less motion.
        forced_colors: whether the colours of the system replace those of pages.
        has_failed: tells whether the test has failed. A fixture, unlike a `with` of the test, gets no exception then.
    """
    idle = _IDLE.setdefault(browser, {}).setdefault(java_script_enabled, [])
    page, watched = idle.pop() if idle else _new_tab(browser, java_script_enabled=java_script_enabled)
    with contextlib.ExitStack() as stack:
        stack.callback(page.context.close)
        page.set_viewport_size(_size(width))
        page.emulate_media(color_scheme=scheme, reduced_motion=reduced_motion, forced_colors=forced_colors)
        watched.forget()
        yield page
        watched.check(expected_errors)
        if not has_failed() and _is_cleared(page):
            idle.append((page, watched))
            stack.pop_all()


def _is_cleared(page: Page) -> bool:
    """Remove what a test has left in a tab. Return whether that was possible."""
    with contextlib.suppress(Error):  # the tab shows no page of the server, or is on its way to another one
        page.evaluate("localStorage.clear(); sessionStorage.clear()")
        page.goto("about:blank")  # ends its requests
        page.unroute_all(behavior="ignoreErrors")
        page.context.clear_cookies()
        page.mouse.move(0, 0)
        return True
    return False


@contextlib.contextmanager
def open_private_tab(
    browser: Browser, width: int = 1440, *, expected_errors: str = "nothing", **options: Any
) -> Iterator[Page]:
    """Yield a new tab, for a test that leaves more behind than routes, cookies and storage, such as a clock.

    Args:
        browser: the browser.
        width: the width of the window.
        expected_errors: a part of the errors that do not count.
        options: more options of a context of Playwright.
    """
    page, watched = _new_tab(browser, viewport=_size(width), **options)
    with contextlib.closing(page.context):
        yield page
        watched.check(expected_errors)


def _new_tab(browser: Browser, **options: Any) -> tuple[Page, Watched]:
    context = browser.new_context(service_workers="block", **options)
    context.set_default_timeout(1000 * PATIENCE)
    page = context.new_page()
    return page, Watched(page)


def _size(width: int) -> ViewportSize:
    return {"width": width, "height": SIZES.get(width, 800)}


def shoot(page: Page, name: str, *, full_page: bool = False) -> None:
    """Make a picture of the page, if pictures are asked for; its name has the window's width and the scheme."""
    directory = os.environ.get("MOPS_TEST_SCREENSHOTS")
    if directory is None:
        return
    size = page.viewport_size
    assert size is not None
    scheme = "dark" if page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") else "light"
    # A path of the machine that makes the picture is not shown.
    page.evaluate("document.querySelector('.registry').textContent = 'azure://job-registry'")
    page.screenshot(
        path=str(Path(directory, f"{name}-{size['width']}-{scheme}.png")), full_page=full_page, caret="initial"
    )


def check_layout(page: Page) -> None:
    """Check that the page is not wider than its window, and that no text of a record became an element or ran."""
    page.wait_for_load_state()  # a page that a click opened may have its text, and its style sheet not yet
    width, room = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert width <= room, page.url
    assert page.locator("main img, main script, main iframe, main [onerror], main [style]").count() == 0
    assert page.evaluate("window.broken") is None


def unfold(page: Page) -> None:
    """Open all that is folded."""
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")


def check_looks(page: Page, name: str) -> None:
    """Check layout and accessibility of a page, as it is and with all unfolded. Its picture is of the page as it is.

    What is folded is the same in each window, so that axe-core looks at it in one. It reads the colours of all below.
    """
    check_layout(page)
    shoot(page, name, full_page=True)
    is_widest = (page.viewport_size or {"width": 0})["width"] == max(SIZES)
    found = read_axe(page, but_for="color-contrast") if is_widest else []
    unfold(page)
    check_layout(page)
    found += read_axe(page)
    assert found == [], found


def read_axe(page: Page, but_for: str = "") -> list[str]:
    """Return each rule of axe-core that the page breaks, with the first elements that break it.

    Args:
        page: the page.
        but_for: a rule that is left out.
    """
    page.wait_for_load_state()
    if not page.evaluate("'axe' in window"):
        page.evaluate(_AXE)
    rules = {but_for: {"enabled": False}} if but_for else {}
    found: dict[str, Any] = page.evaluate("rules => axe.run(document, {resultTypes: ['violations'], rules})", rules)
    return [
        f"{one['id']}: {one['help']}: {[node['html'][:200] for node in one['nodes'][:3]]}"
        for one in found["violations"]
    ]
