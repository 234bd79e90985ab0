"""JupyterLab in a real Chromium, for tests in this folder: `async def`, all on the session's one event loop.

    async def test_something(open_notebook):
        notebook = await open_notebook(["1 + 1"], theme="dark")     # cells; several may be open, each a page of its own
        await notebook.run_all()                                    # run_cell(n), add_and_run(source), restart_kernel()
        await expect(notebook.output(0)).to_contain_text("2")       # playwright.async_api.expect
        await notebook.screenshot("something")                      # build/browser/something.png

Server and browser live as long as the session; context, folder (so the store as well) and kernels as long as the test.
`notebook.page` is Playwright's page, `notebook.comms` what its kernel sent on comms (`updates()`, `during(seconds)`);
`watch.most_in_a_second(comms)`, `watch.usage(page)` and `notebook.contrast(locator)` measure. At its end each test
fails if a page had an error, wrote one to its console, or asked any other host than the server. A test that fails
leaves a picture of each page, `build/browser/failed-...`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, async_playwright, expect

from tests.browser.lab_server import HOST, LabServer
from tests.browser.notebook import PICTURES, Notebook
from tests.browser.watch import Watch

CURE = "no Chromium for the tests: apt-get install -y chromium, or name one in CHROMIUM"
ARGUMENTS = ["--disable-dev-shm-usage", f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {HOST}"]
FAILED = pytest.StashKey[bool]()

expect.set_options(timeout=15_000)

Open = Callable[..., Awaitable[Notebook]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Playwright's objects belong to the loop that they were made on."""
    for item in items:
        if item.path.parent == Path(__file__).parent and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.when == "call":
        item.stash[FAILED] = report.failed
    return report


@pytest.fixture(scope="session")
def lab_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabServer]:
    server = LabServer(tmp_path_factory.mktemp("lab"))
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    program = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert program is not None, CURE
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def context(
    chromium: Browser, lab_server: LabServer, request: pytest.FixtureRequest
) -> AsyncIterator[BrowserContext]:
    """Fresh, and watched."""
    context, watch = await chromium.new_context(viewport={"width": 1280, "height": 900}), Watch()
    watch.follow(context)
    context.set_default_timeout(30_000)
    try:
        yield context
        if request.node.stash.get(FAILED, False):
            for n, page in enumerate(context.pages):
                await page.screenshot(path=PICTURES / f"failed-{request.node.name}-{n}.png")
        await watch.check(context)
    finally:
        await context.close()
        lab_server.end_kernels()


@pytest.fixture
def open_notebook(context: BrowserContext, lab_server: LabServer) -> Open:
    """`await open_notebook(cells, theme="light") -> Notebook`, its kernel idle and nothing run yet."""
    folder = Path(tempfile.mkdtemp(dir=lab_server.notebooks))

    async def opened(cells: Sequence[str] = (), theme: str = "light") -> Notebook:
        page = await context.new_page()
        notebook = Notebook(page, lab_server)
        await notebook.open(folder / f"notebook{len(context.pages)}.ipynb", cells, theme)
        return notebook

    return opened
