"""Notebooks in JupyterLab in a real browser: they run, the dashboard moves, its buttons work, the console is silent."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rxcompact.observers import Snapshot
from rxcompact.render.snapshot import snapshot_numbers

try:
    import jupyterlab  # noqa: F401
    import nbformat
    from playwright.sync_api import Browser, Page, expect, sync_playwright

    import rxcompact.notebook
except ImportError:
    if "CI" in os.environ:
        raise
    pytest.skip("needs jupyterlab and playwright", allow_module_level=True)

CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    if "CI" in os.environ:
        raise FileNotFoundError("chromium")
    pytest.skip("needs chromium", allow_module_level=True)

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900), pytest.mark.filterwarnings("default")]
FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PICTURES = os.environ.get("RXCOMPACT_PICTURES")
"""A folder for screenshots, to be looked at."""
SECOND = 1000  # of playwright's
SHUT_DOWN = "Canceled future for create_subshell_request"
"""What JupyterLab logs of a kernel shut down before it answered; it may come when the next notebook is open already."""
ACTIONS = ("start", "stop", "restart")
expect.set_options(timeout=60 * SECOND)

SETUP = """\
import asyncio, itertools
from pipelines import simple_pipeline
from rxcompact import Orchestrator
from rxcompact.errors import TransientError
from rxcompact.notebook import dashboard, watch

async def source():
    for number in itertools.count():
        yield {"id": number % 40, "secret": "hunter2"}
        if number % 20 == 19:
            await asyncio.sleep(0.02)

async def lookup(event):
    if event["id"] == 13:
        raise ValueError("<script>alert(1)</script>")
    if number_of_calls.__next__() % 7 == 3:
        raise TransientError
    return event

number_of_calls = itertools.count()
pipeline = simple_pipeline(source=source(), key_mapper="id", timespan=0.5, enricher=lookup,
                    sink=lambda batch: None, max_age=20, batch_timespan=0.1)
orchestrator = Orchestrator(pipeline)
"""


class Lab:
    """A JupyterLab and a browser that looks at it."""

    def __init__(self, url: str, root: Path, page: Page) -> None:
        self.root = root
        self._page = page
        self._complaints: list[str] = []
        page.on("console", lambda line: self._complaints.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: self._complaints.append(str(error)))
        page.goto(f"{url}/lab?reset")
        page.wait_for_function("window.jupyterapp?.restored !== undefined")
        page.evaluate("jupyterapp.restored")

    @contextmanager
    def open(self, path: Path) -> Generator[Page]:
        """Yield the page with a notebook whose kernel is ready; at the end its console must not have complained."""
        self._complaints.clear()
        self._page.evaluate(
            """async (path) => {
                const panel = await jupyterapp.commands.execute("docmanager:open", { path, factory: "Notebook" });
                await panel.revealed;
                await panel.sessionContext.ready;
                await panel.sessionContext.session.kernel.info;
                jupyterapp.shell.activateById(panel.id);
                while (jupyterapp.shell.currentWidget !== panel) await new Promise(requestAnimationFrame);
            }""",
            str(path.relative_to(self.root)),
        )
        try:
            yield self._page
            assert not [line for line in self._complaints if SHUT_DOWN not in line]
        finally:
            self._page.evaluate(
                """async () => {
                    const panel = jupyterapp.shell.currentWidget;
                    await panel.sessionContext.shutdown();
                    panel.dispose();
                }"""
            )

    @staticmethod
    def run_all(page: Page) -> list[dict[str, Any]]:
        """Run all cells; return them."""
        page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
        model: dict[str, Any] = page.evaluate("jupyterapp.shell.currentWidget.content.model.toJSON()")
        return [cell for cell in model["cells"] if cell["cell_type"] == "code"]

    @staticmethod
    def picture(page: Page, name: str) -> None:
        if PICTURES:
            page.screenshot(path=Path(PICTURES) / f"{name}.png")


def started(server: subprocess.Popen[bytes], runtime: Path) -> str:
    """Return where a server listens."""
    end = time.monotonic() + 300
    while time.monotonic() < end and server.poll() is None:
        for found in runtime.glob("jpserver-*.json"):
            try:
                url: str = json.loads(found.read_text())["url"]
                with urllib.request.urlopen(url + "api", timeout=5):
                    return url.rstrip("/")
            except (OSError, ValueError):
                pass  # it is being written, or not listened to yet
        time.sleep(0.1)
    raise TimeoutError("jupyter lab did not start")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def lab(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    root = tmp_path_factory.mktemp("lab")
    own = tmp_path_factory.mktemp("jupyter")
    settings = own / "config" / "labconfig"
    settings.mkdir(parents=True)
    # it would ask the network for news
    disabled = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    (settings / "page_config.json").write_text(json.dumps(disabled))
    places = {f"JUPYTER_{name.upper()}_DIR": str(own / name) for name in ("config", "data", "runtime")}
    places["PYTHONPATH"] = os.pathsep.join(sys.path)  # the kernel finds what the test does
    options = [
        "ServerApp.port=0",
        "ServerApp.open_browser=False",
        "IdentityProvider.token=",
        "ServerApp.allow_root=True",
    ]
    options += [f"ServerApp.root_dir={root}", "LabApp.expose_app_in_browser=True", "ServerApp.ip=127.0.0.1"]
    command = [sys.executable, "-m", "jupyterlab", *(f"--{option}" for option in options)]
    with (own / "log").open("wb") as log:
        server = subprocess.Popen(
            command, env=os.environ | places | {"IPYTHONDIR": str(own)}, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        url = started(server, own / "runtime")
        yield Lab(url, root, browser.new_page(viewport={"width": 1280, "height": 1400}))
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture
def notebook(lab: Lab) -> Callable[..., Path]:
    def write(name: str, *sources: str) -> Path:
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
        book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(book, lab.root / name)
        return lab.root / name

    return write


PAGE = """\
const listeners = new Set();
window.sent = [];
window.model = {
    look: "",
    view: VIEW,
    get: (name) => model[name],
    on: (_, listener) => listeners.add(listener),
    off: (_, listener) => listeners.delete(listener),
    send: (content) => sent.push(content),
    set: (view) => { model.view = { ...model.view, ...view }; for (const each of listeners) each(); },
};
render({ model, el: document.body });
"""


@pytest.fixture
def dashboard_page(browser: Browser) -> Iterator[Page]:
    """The page's side of a dashboard alone; its `model` is the test's."""
    page = browser.new_page()
    script = (Path(rxcompact.notebook.__file__).parent / "dashboard.js").read_text()
    view = snapshot_numbers(Snapshot()) | {"actions": [], "notice": "", "live": True, "top": []}
    page_script = PAGE.replace("VIEW", json.dumps(view))
    page.add_script_tag(content=script.replace("export default { render };", page_script), type="module")
    page.wait_for_function("window.sent?.length")
    yield page
    page.close()


def test_memory_of_a_dashboard_is_flat(dashboard_page: Page) -> None:
    session = dashboard_page.context.new_cdp_session(dashboard_page)

    def after(updates: int) -> Counter[str]:
        """Show so many pictures, each another; return what the page holds then: bytes, documents, nodes."""
        dashboard_page.evaluate(
            """async (updates) => {
                const some = () => Math.round(1000 * Math.random());
                for (let each = 0; each < updates; each++) {
                    model.set({
                        title: `${each}`,
                        rates: Array.from({ length: 60 }, (_, at) => [at, at + 1, some(), some()]),
                        ages: model.view.ages.map(([label]) => [label, some()]),
                        causes: [["expired", "enrich", "too old", some(), ["a", "b"]]],
                        top: Array.from({ length: 10 }, (_, at) => [`key ${at}`, some()]),
                    });
                    await new Promise(requestAnimationFrame);
                }
            }""",
            updates,
        )
        session.send("HeapProfiler.collectGarbage")
        heap = session.send("Runtime.getHeapUsage")["usedSize"]
        return Counter(session.send("Memory.getDOMCounters")) + Counter(bytes=int(heap))

    first, last = after(100), after(2300)
    for name in ("bytes", "documents", "nodes", "jsEventListeners"):
        assert last[name] <= 1.2 * first[name], (name, first, last)


def test_a_dashboard_shows_when_the_kernel_does_not_answer(dashboard_page: Page) -> None:
    notice = dashboard_page.locator(".rxcompact-notice")
    expect(notice).to_contain_text("no news for 5 s: the kernel is busy, or was restarted")
    dashboard_page.evaluate("model.set({ live: false, actions: ['start'] })")
    expect(notice).to_have_text("")
    dashboard_page.wait_for_timeout(6.5 * SECOND)
    expect(notice).to_have_text("")  # nothing is expected of a run that has ended
    dashboard_page.locator(".rxcompact-button").filter(has_text=re.compile("^start$")).click()
    assert dashboard_page.evaluate("sent.at(-1).action") == "start"
    expect(notice).to_contain_text("no news for 5 s")


def evaluated(page: Page, code: str) -> str:
    """The kernel's value of an expression."""
    answer: str = page.evaluate(
        """async (code) => {
            const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel;
            const reply = await kernel.requestExecute({ code: "", user_expressions: { it: code } }).done;
            return reply.content.user_expressions.it.data["text/plain"];
        }""",
        code,
    )
    return answer


def await_value(page: Page, code: str, value: str) -> None:
    """Wait until an expression has a value in the kernel."""
    for _ in range(100):
        if (found := evaluated(page, code)) == value:
            return
        page.wait_for_timeout(0.2 * SECOND)
    raise AssertionError(found)


def test_the_dashboard_moves_and_its_buttons_work(lab: Lab, notebook: Callable[..., Path]) -> None:
    with lab.open(notebook("live.ipynb", SETUP, "dashboard(orchestrator)")) as page:
        lab.run_all(page)
        picture, buttons = page.locator(".rxcompact-picture"), page.locator(".rxcompact-button")
        start, stop, restart = (buttons.filter(has_text=re.compile(f"^{name}$")) for name in ACTIONS)
        expect(picture).to_have_attribute("aria-label", re.compile("^idle, 0 s"))
        expect(stop).to_be_disabled()
        start.click()
        expect(picture).to_have_attribute("aria-label", re.compile("^running, [1-9]"))
        page.evaluate(
            """() => {
                window.changes = 0;
                const drawn = document.querySelector(".rxcompact-picture");
                const watcher = new MutationObserver((found) => { window.changes += found.length; });
                watcher.observe(drawn.shadowRoot.lastChild, { childList: true });
            }"""
        )
        began = time.monotonic()
        page.wait_for_function("window.changes >= 8")
        assert page.evaluate("window.changes") <= 4 * (time.monotonic() - began) + 2
        assert picture.locator("svg").get_attribute("width") == "960"
        letters = page.locator(".rxcompact-letters")
        letters.locator("summary", has_text="failed at enrich").click()
        expect(letters).to_contain_text("the last: 13")
        expect(letters).to_contain_text("Most frequent keys of the last minute")
        hint = picture.locator("title", has_text=re.compile("^enrich: .* last error (ValueError|TransientError)"))
        expect(hint).to_have_count(1)
        expect(picture.locator("title", has_text=re.compile(r"^\d+\.\d/s, \d+ s ago$")).first).to_be_attached()
        assert "hunter2" not in page.locator(".rxcompact-dashboard").inner_text()
        lab.picture(page, "dashboard-light")
        restart.click()
        expect(picture).to_have_attribute("aria-label", re.compile("^running, .*, 1 restart;"))
        page.evaluate("jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Dark' })")
        page.wait_for_timeout(SECOND)
        lab.picture(page, "dashboard-dark")
        page.evaluate("jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Light' })")
        stop.click()
        expect(picture).to_have_attribute("aria-label", re.compile("^stopped, "))
        expect(start).to_be_enabled()
        expect(stop).to_be_disabled()
        lab.picture(page, "dashboard-stopped")


def test_the_dashboard_works_while_a_cell_runs(lab: Lab, notebook: Callable[..., Path]) -> None:
    running = "await orchestrator.start()\nawait orchestrator.wait();"
    with lab.open(notebook("busy.ipynb", SETUP, "dashboard(orchestrator)", running)) as page:
        page.evaluate("void jupyterapp.commands.execute('notebook:run-all-cells')")
        picture = page.locator(".rxcompact-picture")
        expect(picture).to_have_attribute("aria-label", re.compile("^running, [1-9]"))
        page.locator(".rxcompact-button").filter(has_text="stop").click()
        expect(picture).to_have_attribute("aria-label", re.compile("^stopped"))


def test_it_rests_while_nobody_looks_and_the_cell_may_run_again(lab: Lab, notebook: Callable[..., Path]) -> None:
    path = notebook("again.ipynb", SETUP, "await orchestrator.start()", *["dashboard(orchestrator)"] * 2)
    count = "len(orchestrator.states.observers), len(dashboard(orchestrator)._shown)"
    with lab.open(path) as page:
        lab.run_all(page)
        page.evaluate("jupyterapp.commands.execute('notebook:run-cell')")
        expect(page.locator(".rxcompact-picture")).to_have_count(2)
        page.locator(".rxcompact-bar").last.scroll_into_view_if_needed()
        await_value(page, count, "(2, 2)")
        page.evaluate("jupyterapp.shell.currentWidget.content.node.style.display = 'none'")
        await_value(page, count, "(2, 0)")
        await_value(page, "dashboard(orchestrator)._timer", "None")


def test_watch_moves_while_its_cell_runs_and_stays_in_the_saved_notebook(
    lab: Lab, notebook: Callable[..., Path]
) -> None:
    watching = "await orchestrator.start()\nawait watch(orchestrator, seconds=2)\nawait orchestrator.stop();"
    path = notebook("watch.ipynb", SETUP, watching, "orchestrator")
    with lab.open(path) as page:
        cells = lab.run_all(page)
        outputs = [output for output in cells[1]["outputs"] if output.get("name") != "stderr"]  # has what is logged
        assert [output["output_type"] for output in outputs] == ["display_data"]
        assert "running, 2" in outputs[0]["data"]["text/plain"]
        assert "stopped" in cells[2]["outputs"][0]["data"]["text/plain"]
        page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    book = nbformat.read(path, as_version=4)
    book.cells[0].source += "# someone else's, who is not trusted"
    nbformat.write(book, path)
    with lab.open(path) as page:
        assert (
            page.evaluate("[...jupyterapp.shell.currentWidget.content.model.cells].some(each => each.trusted)") is False
        )
        expect(page.locator("img[src^='data:image/svg']")).to_have_count(2)
        widths = "[...document.querySelectorAll('img[src^=\"data:\"]')].map(each => each.naturalWidth)"
        assert page.evaluate(widths) == [960, 960]
        lab.picture(page, "watch-untrusted")


RECORDED = """\
from rxcompact import operators as rxo
from rxcompact.observers import record
from rxcompact.testing import START, replay

history = [{"ts": START + second, "id": "abcab"[second % 5]} for second in range(30)]
recording = record(replay(history, rxo.compact(10, key_mapper="id"), time_mapper="ts"))
recording.chart()
"""


def test_a_circle_of_a_chart_shows_its_key_and_dims_the_others(lab: Lab, notebook: Callable[..., Path]) -> None:
    with lab.open(notebook("touch.ipynb", RECORDED)) as page:
        lab.run_all(page)
        canvas = page.locator(".jp-RenderedVegaCommon5 canvas").first
        expect(canvas).to_be_visible()
        page.wait_for_timeout(SECOND)
        before = canvas.screenshot()
        box = canvas.bounding_box()
        assert box is not None
        for x in range(int(box["width"])):  # to the first circle of the first lane
            page.mouse.move(box["x"] + x, box["y"] + 45)
            if page.locator("#vg-tooltip-element.visible").filter(has_text="first of").count():
                break
        expect(page.locator("#vg-tooltip-element")).to_contain_text("key:")
        lab.picture(page, "chart-hover")
        assert canvas.screenshot() != before


EXPLORED = """\
from rxcompact.notebook import explore
from rxcompact.testing import START

history = [{"ts": START + second / 10, "id": second // 7 % 40} for second in range(3000)]
explore(history, time_mapper="ts", key_mappers="id", timespans=[1, 10, 60], progress=False)
"""


def test_sliders_redraw_without_the_kernel_and_a_click_gives_the_pipeline(
    lab: Lab, notebook: Callable[..., Path]
) -> None:
    with lab.open(notebook("explore.ipynb", EXPLORED)) as page:
        lab.run_all(page)
        canvas = page.locator(".jp-RenderedVegaCommon5 canvas").first
        expect(canvas).to_be_visible()
        page.evaluate("jupyterapp.shell.currentWidget.sessionContext.shutdown()")  # what follows is the page's alone
        page.wait_for_timeout(SECOND)
        before = canvas.screenshot()
        page.locator("input[name=window]").fill("2")
        page.wait_for_timeout(SECOND)
        assert canvas.screenshot() != before
        box, text = canvas.bounding_box(), page.locator("input[type=text][aria-label^='the pipeline']")
        assert box is not None
        for x, y in itertools.product(range(50, 450, 6), range(40, 330, 6)):
            page.mouse.click(box["x"] + x, box["y"] + y)
            if text.input_value():
                break
        assert re.match(
            r"Pipeline\(source, rxo.compact\(\d+, key_mapper='id', time_mapper='ts'\), ", text.input_value()
        )
        lab.picture(page, "explore")
        page.evaluate("jupyterapp.shell.currentWidget.sessionContext.startKernel()")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_in_the_browser(path: Path, lab: Lab) -> None:
    copy = lab.root / path.name
    shutil.copy(path, copy)
    with lab.open(copy) as page:
        cells = lab.run_all(page)
        assert all(cell["execution_count"] for cell in cells)
        assert not [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
        lab.picture(page, path.stem)
