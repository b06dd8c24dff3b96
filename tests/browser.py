"""Pages in a headless Chromium, for tests of what a reader of our pages sees and does."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

Scheme = Literal["light", "dark"]
OpenPage = Callable[[int, int, Scheme], "Page"]
"""Width and height of the window in pixels, colour scheme -> an empty page."""

_INSTALLED = ("chromium", "chromium-browser", "google-chrome")
_LOCAL = ("127.0.0.1", "localhost")


# Playwright keeps an event loop running in this thread; no longer than a module's tests need it.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium: Playwright's own or the system's; skipped where there is neither."""
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with driver.sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
        path = own if own.is_file() else next(filter(None, map(shutil.which, _INSTALLED)), None)
        if path is None:
            pytest.skip("no Chromium here; install one with: playwright install chromium")
        # Containers run tests as root, for whom Chromium's sandbox does not start.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def browser_page(browser: Browser) -> Iterator[OpenPage]:
    """Opens pages; fails the test if one of them raised an error or asked for anything outside."""
    problems: list[str] = []
    contexts = []

    def local_only(route: Route) -> None:
        parts = urlsplit(route.request.url)
        if parts.scheme in ("http", "https") and parts.hostname not in _LOCAL:
            problems.append(f"asked for {route.request.url}")
            route.abort()
        else:
            route.continue_()

    def open_page(width: int, height: int, scheme: Scheme) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, accept_downloads=True
        )
        contexts.append(context)
        context.route("**/*", local_only)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []
