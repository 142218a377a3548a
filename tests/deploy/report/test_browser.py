"""The page in Chromium: charts drawn, controls answer, no error, no request, no sideways scrolling on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from report_evidence import CHROMIUM, made, page

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no Chromium at {CHROMIUM}: apt-get install chromium"),
    pytest.mark.skipif(find_spec("playwright") is None, reason="no playwright: pip install playwright"),
]


class Opened:
    """A page, what it asked for besides itself, and what it complained of."""

    def __init__(self, browser, path: Path, width: int) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.route("**/*", self._route)
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda e: self.complaints.append(str(e)))
        self.page.goto(path.as_uri())

    def _route(self, route) -> None:
        if route.request.url.startswith(("file:", "data:", "blob:")):
            route.continue_()
        else:
            self.requests.append(route.request.url)
            route.abort()

    def see(self, group: str, *options: str) -> None:
        """Choose, and look at each chart of what is shown then."""
        for i, option in enumerate(options):
            self.page.locator(f"#{group}-group select").nth(i).select_option(label=option)
        for chart in self.charts(group):
            chart.scroll_into_view_if_needed()
            chart.locator(".main-svg").first.wait_for()

    def charts(self, group: str) -> list:
        return self.page.locator(f"#{group}-group .choice:not([hidden]) .chart").all()


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = tmp_path_factory.mktemp("report") / "report.html"
    written.write_text(page(), encoding="utf-8")
    return written


@pytest.fixture(scope="module", params=[1400, 390], ids=["wide", "narrow"])
def opened(request: pytest.FixtureRequest, browser: object, path: Path) -> Opened:
    return Opened(browser, path, request.param)


GROUPS = ("accuracy", "components", "layers", "rates", "rasters", "errors", "cores")


@pytest.mark.parametrize("group", GROUPS)
def test_charts_are_drawn_inside_the_window(opened: Opened, group: str) -> None:
    opened.see(group)
    charts = opened.charts(group)
    assert charts
    width = opened.page.viewport_size["width"]
    for chart in charts:
        box = chart.locator(".main-svg").first.bounding_box()
        assert box["width"] > 250
        assert box["height"] > 100
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert chart.locator(".cartesianlayer .point, .cartesianlayer .hm image").count() > 0


def test_a_control_shows_what_it_names(opened: Opened) -> None:
    title = made()[0].rows[-1].title
    opened.see("gates", title)
    assert opened.page.locator("#gates-group .choice:visible").count() == 1
    assert title in opened.page.locator("#gates-group .choice:visible h3").inner_text()
    assert len(opened.charts("gates")) >= 3
    opened.see("accuracy", "Operation count at 45 nm CMOS, 0.9 V")
    shown = opened.page.locator("#accuracy-group .choice:visible figcaption").inner_text()
    assert "Operation count" in shown


def test_layers_answer_to_both_of_their_controls(opened: Opened) -> None:
    title = made()[0].rows[1].title
    opened.see("layers", "Operation count at 45 nm CMOS, 0.9 V", title)
    shown = opened.page.locator("#layers-group .choice:visible figcaption").first.inner_text()
    assert shown == f"{title} by layer, Operation count at 45 nm CMOS, 0.9 V"


def test_the_page_never_scrolls_sideways(opened: Opened) -> None:
    for group in GROUPS:
        opened.see(group)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= opened.page.viewport_size["width"]


def test_a_table_can_be_saved(opened: Opened) -> None:
    with opened.page.expect_download() as download:
        opened.page.locator("button.csv[data-table=comparison]").click()
    lines = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
    assert lines[0] == "," + ",".join(row.title for row in made()[0].rows)
    with opened.page.expect_download() as download:
        opened.page.locator("button[data-file='table.csv']").click()
    assert download.value.suggested_filename == "table.csv"


def test_on_paper_the_charts_of_the_page_stand_and_tables_are_open(browser: object, path: Path) -> None:
    printed = Opened(browser, path, 800)
    printed.page.emulate_media(media="print")
    printed.page.wait_for_function("document.querySelectorAll('#components-group .main-svg').length > 0")
    hidden = printed.page.locator(".choice:not([hidden]) details:not([open], .many)")
    assert hidden.count() == 0
    assert printed.page.locator("button.csv:visible").count() == 0
    assert printed.complaints == []


def test_nothing_was_asked_for_and_nothing_complained_of(opened: Opened) -> None:
    assert opened.requests == []
    assert opened.complaints == []


def test_what_the_page_forbids_itself_is_not_loaded(opened: Opened) -> None:
    tried = opened.page.evaluate("fetch('https://example.com/').then(() => 'loaded', () => 'refused')")
    assert tried == "refused"
    assert opened.requests == []
    opened.complaints.clear()
