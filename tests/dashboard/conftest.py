"""Chromium without a window, for the tests that look at the page."""

import pytest

from tests.chromium import FLAGS, program


@pytest.fixture(scope="session")
def browser():
    if program() is None:
        pytest.skip("no Chromium on PATH, and CLIPWISE_CHROMIUM does not name one")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=program(), args=FLAGS)
        yield started
        started.close()


class Seen:
    """What a page did besides being shown."""

    def __init__(self):
        self.errors, self.requests, self.dialogs = [], [], []

    def follow(self, page):
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.errors.append(str(error.stack or error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))

    def _said(self, message):
        # Of the test itself, which reads what a canvas shows.
        if "willReadFrequently" not in message.text:
            self.errors.append(f"{message.type}: {message.text}")


@pytest.fixture
def look(browser):
    """look(url, **context) opens a page; at the end: no error, no dialog, no request to anywhere else."""
    opened = []

    def open_(url, **context):
        context = {"viewport": {"width": 1300, "height": 900}, "color_scheme": "light"} | context
        tab = browser.new_context(**context).new_page()
        tab.set_default_timeout(20_000)
        tab.seen = Seen()
        tab.seen.follow(tab)
        tab.origin = url.split("#")[0].split("?")[0]
        tab.goto(url)
        opened.append(tab)
        return tab

    yield open_
    for tab in opened:
        seen, origin = tab.seen, tab.origin
        tab.context.close()
        assert seen.errors == []
        assert seen.dialogs == []
        assert seen.requests
        assert all(url.startswith((origin, "data:")) for url in seen.requests)
