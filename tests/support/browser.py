"""Debian's Chromium, what a page must not do in it, and axe-core's opinion of a page."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import axe_playwright_python
import pytest
from playwright.sync_api import Browser, Dialog, Page, Route, sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

_AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8")


@contextlib.contextmanager
def open_chromium() -> Iterator[Browser]:
    """Yield Debian's Chromium, which resolves no name and has no other way out either."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.fail("There is no chromium: run ./build.sh test, which installs it.")
    with sync_playwright() as playwright:
        flags = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


class Watched:
    """The forbidden things that a page has done."""

    def __init__(self, page: Page) -> None:
        self.foreign: list[str] = []
        self.dialogs: list[str] = []
        self.errors: list[str] = []
        page.route("**/*", self._route)
        page.on("dialog", self._dialog)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)

    def _route(self, route: Route) -> None:
        if route.request.url.startswith("http://127.0.0.1:"):
            route.continue_()
            return
        self.foreign.append(route.request.url)
        route.abort()

    def _dialog(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def check(self, expected_errors: str = "nothing") -> None:
        errors = [error for error in self.errors if expected_errors not in error]
        assert (self.foreign, self.dialogs, errors) == ([], [], [])


def read_axe(page: Page) -> list[str]:
    """Return each rule of axe-core that the page breaks, with the first elements that break it."""
    page.evaluate(_AXE)
    found: dict[str, Any] = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']}: {one['help']}: {[node['html'][:200] for node in one['nodes'][:3]]}"
        for one in found["violations"]
    ]
