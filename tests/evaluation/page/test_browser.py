"""The page in a real browser (make test-browser)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Read by every run of the tests, also one that leaves these out.
pytest.importorskip("selenium", reason="pip install 'bksdm[dev]' brings selenium")
pytest.importorskip("axe_core_python", reason="pip install 'bksdm[dev]' brings axe-core-python")

from axe_core_python.selenium import Axe
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.evaluation.page.chromium import chromium, missing, requests, set_screen
from tests.evaluation.page.test_routing import mixture_page

pytestmark = pytest.mark.browser

DESKTOP, PHONE = 1280, 360
TABLE = "[aria-label='Numbers under coco30k_bksdm'] table"
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """One browser for all tests of this module."""
    reason = missing()
    if reason:
        pytest.fail(reason)  # asked for, so never skipped
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def address(html: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the page of everything."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html, encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def browser(driver: webdriver.Chrome, address: str) -> webdriver.Chrome:
    """With the page freshly loaded, on a desktop."""
    set_screen(driver, width=DESKTOP)
    driver.get(address)
    return driver


def column(browser: webdriver.Chrome, number: int) -> list[str]:
    """The sort values of a column of the first table, top to bottom."""
    script = (
        "return [...document.querySelector(arguments[0]).tBodies[0].rows]"
        ".map(row => row.cells[arguments[1]].dataset.value)"
    )
    values: list[str] = browser.execute_script(script, TABLE, number)
    return values


def heads(browser: webdriver.Chrome) -> list[WebElement]:
    """Heads of the first table."""
    return browser.find_element(By.CSS_SELECTOR, TABLE).find_elements(By.CSS_SELECTOR, "thead th")


def test_it_renders_without_errors_and_asks_for_nothing(
    driver: webdriver.Chrome, address: str
) -> None:
    driver.get("about:blank")
    requests(driver)
    driver.get_log("browser")
    driver.get(address)
    assert driver.get_log("browser") == []
    asked = [url for url in requests(driver) if not url.startswith("data:")]
    assert asked == [address]
    assert driver.find_element(By.TAG_NAME, "h1").is_displayed()


def test_the_policy_stops_what_would_leave_the_page(browser: webdriver.Chrome) -> None:
    script = """
        const done = arguments[0], image = new Image();
        image.onload = () => done("loaded"); image.onerror = () => done("stopped");
        image.src = "https://127.0.0.1:9/x.png"; document.body.append(image);
    """
    assert browser.execute_async_script(script) == "stopped"
    assert "Content Security Policy" in browser.get_log("browser")[0]["message"]


def test_every_picture_loads(browser: webdriver.Chrome) -> None:
    widths = browser.execute_script("return [...document.images].map(each => each.naturalWidth)")
    assert len(widths) > 48
    assert min(widths) > 0


def test_every_drawing_has_a_size_and_a_name(browser: webdriver.Chrome) -> None:
    drawings = browser.find_elements(By.CSS_SELECTOR, "svg")
    assert len(drawings) > 10
    for drawing in drawings:
        assert min(drawing.rect["width"], drawing.rect["height"]) > 100
        assert drawing.aria_role in ("img", "image")
        assert drawing.accessible_name


def test_texts_of_plots_are_in_the_page_s_font(browser: webdriver.Chrome) -> None:
    script = "return getComputedStyle(document.querySelector(arguments[0])).fontFamily"
    assert browser.execute_script(script, "svg.plot text") == browser.execute_script(script, "body")


def test_a_click_sorts_best_first_then_the_other_way(browser: webdriver.Chrome) -> None:
    head = heads(browser)[1]  # a score of which higher is better
    button = head.find_element(By.TAG_NAME, "button")
    button.click()
    assert head.get_attribute("aria-sort") == "descending"
    values = [float(value) for value in column(browser, 1)]
    assert values == sorted(values, reverse=True)
    button.click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert [float(value) for value in column(browser, 1)] == sorted(values)
    other = heads(browser)[0]
    other.find_element(By.TAG_NAME, "button").click()
    assert head.get_attribute("aria-sort") is None
    assert column(browser, 0)[0] == "BK-SDM-Base"


def test_rows_without_a_number_stay_last(browser: webdriver.Chrome) -> None:
    number = next(i for i, head in enumerate(heads(browser)) if "as published" in head.text)
    button = heads(browser)[number].find_element(By.TAG_NAME, "button")
    for _ in range(2):
        button.click()
        values = column(browser, number)
        assert values[-4:] == [""] * 4  # the v2 models
        assert "" not in values[:-4]


@pytest.mark.parametrize("key", [Keys.ENTER, Keys.SPACE])
def test_the_keyboard_sorts_too(browser: webdriver.Chrome, key: str) -> None:
    head = heads(browser)[2]  # FID
    button = head.find_element(By.TAG_NAME, "button")
    browser.execute_script("arguments[0].focus({focusVisible: true})", button)
    outline = button.value_of_css_property("outline-style")
    button.send_keys(key)
    assert outline == "solid"
    assert head.get_attribute("aria-sort") == "ascending"
    values = [float(value) for value in column(browser, 2)]
    assert values == sorted(values)


@pytest.mark.parametrize("width", [PHONE, 768, DESKTOP])
def test_nothing_overflows_the_page(browser: webdriver.Chrome, width: int) -> None:
    set_screen(browser, width=width)
    browser.execute_script("document.querySelectorAll('details').forEach(each => each.open = true)")
    script = "return [document.documentElement.scrollWidth, window.innerWidth]"
    wide, window = browser.execute_script(script)
    assert window == width
    assert wide <= width  # less where a scroll bar takes room


def test_on_a_phone_tables_scroll_in_their_own_box(browser: webdriver.Chrome) -> None:
    set_screen(browser, width=PHONE)
    box = browser.find_element(By.CSS_SELECTOR, TABLE.removesuffix(" table"))
    inner, outer = (int(str(box.get_property(name))) for name in ("scrollWidth", "clientWidth"))
    assert inner > outer
    assert box.get_attribute("tabindex") == "0"
    assert "more" in str(box.get_attribute("class"))
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('svg text')].filter(each => each.textContent.trim())"
        ".map(each => each.getBoundingClientRect().height)"
    )
    assert min(sizes) >= 8.5  # px, of what is read


def found(results: dict[str, Any]) -> list[str]:
    """What axe has against the page."""
    return [
        f"{violation['id']} ({violation['impact']}): {node['html'][:120]}"
        for violation in results["violations"]
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_axe_finds_no_fault(browser: webdriver.Chrome, width: int, dark: bool) -> None:
    set_screen(browser, width=width, dark=dark)
    browser.execute_script("document.querySelectorAll('details').forEach(each => each.open = true)")
    results = Axe().run(browser, options=RULES)
    assert found(results) == []
    passed = {rule["id"] for rule in results["passes"]}
    assert {"color-contrast", "image-alt", "svg-img-alt", "scrollable-region-focusable"} <= passed


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_a_page_with_routers_has_no_fault_and_does_not_overflow(
    driver: webdriver.Chrome, tmp_path: Path, width: int, dark: bool
) -> None:
    path = tmp_path / "routed.html"
    path.write_text(mixture_page(), encoding="utf-8")
    set_screen(driver, width=width, dark=dark)
    driver.get(path.as_uri())
    driver.execute_script("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    drawing = driver.find_element(By.CSS_SELECTOR, "svg.heat")
    assert drawing.accessible_name.startswith("What each expert keeps expert 0 keeps")
    assert found(Axe().run(driver, options=RULES)) == []


def test_axe_would_find_a_fault(browser: webdriver.Chrome) -> None:
    browser.execute_script(
        "document.images[0].removeAttribute('alt');"
        "document.querySelector('h1').style.color = '#ddd'"
    )
    ids = {violation["id"] for violation in Axe().run(browser, options=RULES)["violations"]}
    assert {"image-alt", "color-contrast"} <= ids


def test_the_dark_page_is_dark_and_its_plots_can_be_read(browser: webdriver.Chrome) -> None:
    colours = []
    for dark in (False, True):
        set_screen(browser, width=DESKTOP, dark=dark)
        script = "return getComputedStyle(document.querySelector('svg.plot text')).fill"
        ground = browser.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")
        colours.append((ground, browser.execute_script(script)))
    assert colours[0][0] != colours[1][0]
    assert colours[0][1] != colours[1][1]
    assert "rgb(0, 0, 0)" not in colours[1]


def test_the_folded_parts_open_without_a_mouse(browser: webdriver.Chrome) -> None:
    part = browser.find_element(By.CSS_SELECTOR, "#repeat ~ details")
    part.find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
    assert part.get_attribute("open") is not None
    assert "weights (sha256)" in part.text


def test_links_lead_to_their_sections(browser: webdriver.Chrome) -> None:
    for link in browser.find_elements(By.CSS_SELECTOR, "nav a"):
        target = str(link.get_attribute("href")).rpartition("#")[2]
        assert browser.find_element(By.ID, target).tag_name == "h2"


def test_a_hostile_page_runs_nothing(
    driver: webdriver.Chrome, hostile: str, tmp_path: Path
) -> None:
    path = tmp_path / "hostile.html"
    path.write_text(hostile, encoding="utf-8")
    driver.get_log("browser")
    driver.get(path.as_uri())
    assert driver.get_log("browser") == []
    assert driver.execute_script("return window.bad") is None
    assert driver.execute_script("return document.documentElement.scrollWidth") <= DESKTOP
