"""The page in a real browser: it loads without an error, filter and sort work, in light and dark, on a phone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DESKTOP, PHONE = (1280, 900), (390, 844)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Headless Chromium with its driver, both from the system."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if not (binary and driver):
        pytest.skip("no Chromium with chromedriver on this machine (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    chrome.set_page_load_timeout(60)
    yield chrome
    chrome.quit()


@pytest.fixture
def page(browser, report_dir: Path):
    """The page on a desktop, without a network; the test fails when the console has seen an error."""
    resize(browser, *DESKTOP)
    browser.execute_cdp_cmd("Network.enable", {})
    conditions = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", conditions)
    browser.get((report_dir / "report.html").as_uri())
    wait_until_ready(browser)
    yield browser
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


def wait_until_ready(browser) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 60).until(
        lambda chrome: chrome.execute_script("return document.documentElement.dataset.ready") == "true",
        f"the page did not get ready: {browser.get_log('browser')}",
    )


def resize(browser, width: int, height: int) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def shown(browser, column: int) -> list[str]:
    script = """return [...document.querySelectorAll("#runs tbody tr:not([hidden])")]
                .map(row => row.children[arguments[0]].textContent)"""
    return browser.execute_script(script, column)


def headings(browser) -> list[str]:
    return browser.execute_script(
        "return [...document.querySelectorAll('#runs thead th')].map(th => th.textContent.trim())"
    )


def click_heading(browser, title: str) -> None:
    script = """[...document.querySelectorAll("#runs th button")].find(b => b.textContent === arguments[0]).click()"""
    browser.execute_script(script, title)


def type_filter(browser, text: str) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.find_element("id", "filter").send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.DELETE, text)


def trace(browser, figure: str, name: str) -> dict:
    return browser.execute_script(
        "return document.getElementById(arguments[0]).data.find(trace => trace.name === arguments[1])", figure, name
    )


def background(browser) -> str:
    return browser.execute_script("return getComputedStyle(document.body).backgroundColor")


def test_figures_are_drawn(page) -> None:
    for name in ("frontier", "tasks", "stages-frame", "stages-question"):
        assert page.execute_script("return document.querySelectorAll('#' + arguments[0] + ' .main-svg').length", name)
    assert len(shown(page, 1)) == 13


def test_sort(page) -> None:
    for title in ("frame ms", "tokens per frame"):
        column = headings(page).index(title)
        click_heading(page, title)
        rising = [float(text) for text in shown(page, column)]
        assert rising == sorted(rising) and rising[0] < rising[-1]
        click_heading(page, title)
        assert [float(text) for text in shown(page, column)] == rising[::-1]
    click_heading(page, "cacher + pruner")
    labels = shown(page, 1)
    assert labels == sorted(labels)


def test_filter_leaves_matching_runs_and_the_baselines_of_the_picture(page) -> None:
    type_filter(page, "cacher.name=stc budget=64")
    assert shown(page, 1) == ["stc + stc"]
    assert "1 runs shown" in page.find_element("id", "count").text
    assert trace(page, "frontier", "none + stc")["visible"] == "legendonly"
    assert trace(page, "frontier", "stc + stc")["selectedpoints"] == [1]
    for always in ("none + random", "none + uniform", "uncompressed"):
        assert trace(page, "frontier", always).get("visible", True) is True
    assert trace(page, "stages-frame", "vision")["y"] == ["stc + stc, 64 tokens"]
    type_filter(page, "")
    assert len(shown(page, 1)) == 13


def test_another_cost_redraws_the_frontier(page) -> None:
    before = trace(page, "frontier", "stc + stc")["x"]
    page.execute_script("""const s = document.getElementById("cost"); s.value = "tokens";
                           s.dispatchEvent(new Event("change"))""")
    assert trace(page, "frontier", "stc + stc")["x"] == [16, 64, 128] != before


def test_differences_follow_the_chosen_baseline(page) -> None:
    script = """const s = document.getElementById("baseline"); s.selectedIndex = arguments[0];
                s.dispatchEvent(new Event("change"));
                return [...document.querySelectorAll("#paired tbody tr:not([hidden])")]
                       .map(row => row.children[1].textContent)"""
    assert set(page.execute_script(script, 0)) == {"none + none, 196 tokens"}
    assert set(page.execute_script(script, 1)) == {f"none + random, {n} tokens" for n in (16, 64, 128)}


def test_light_and_dark(page) -> None:
    for scheme, is_dark in (("light", False), ("dark", True)):
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme",
                                                                          "value": scheme}]})  # fmt: skip
        red = int(background(page).split("(")[1].split(",")[0])
        assert (red < 80) == is_dark
    page.find_element("id", "theme").click()
    assert int(background(page).split("(")[1].split(",")[0]) > 80


def test_phone(page) -> None:
    """Nothing but tables with a bar of their own is wider than the screen."""
    resize(page, *PHONE)
    page.refresh()
    wait_until_ready(page)
    assert page.execute_script("return document.documentElement.scrollWidth") <= PHONE[0]
    width = page.execute_script("return document.querySelector('#frontier .main-svg').getBoundingClientRect().width")
    assert 250 < width <= PHONE[0]
