"""A real browser: the system's Chromium, driven by playwright."""

import shutil
from collections.abc import AsyncIterator, Generator

import pluggy
import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, Response, async_playwright

FLAGS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
]


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine")
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=program, headless=True, args=FLAGS)
        yield running
        await running.close()


class Watched:
    """A page whose complaints are kept: `errors` (scripts, console, CSP), `dialogs`, `failed` answers."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        self.dialogs: list[str] = []
        self.failed: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._console)
        page.on("response", self._response)
        page.on("dialog", self._dialog)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def _response(self, answer: Response) -> None:
        if answer.status >= 400:
            self.failed.append(f"{answer.status} {answer.url}")

    async def _dialog(self, dialog: object) -> None:
        self.dialogs.append("dialog")
        await dialog.dismiss()  # type: ignore[attr-defined]

    def clean(self) -> None:
        assert not self.dialogs
        assert not self.errors
        assert not self.failed


@pytest.fixture
async def watched(browser: Browser) -> AsyncIterator[Watched]:
    context = await browser.new_context(viewport={"width": 1100, "height": 800})
    page = await context.new_page()
    page.set_default_timeout(20_000)
    yield Watched(page)
    await context.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, "pluggy.Result[pytest.TestReport]", None]:
    """A failed test tells what its page had to say."""
    report = (yield).get_result()
    watched = item.funcargs.get("watched") if isinstance(item, pytest.Function) else None
    if report.failed and isinstance(watched, Watched):
        said = [watched.page.url, *watched.dialogs, *watched.failed, *watched.errors]
        report.sections.append(("Page", "\n".join(said)))
