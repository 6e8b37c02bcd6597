"""A real browser, driven by keys alone."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fl_privacy_audit.lab.people import Store
from tests.lab.conftest import MakeCorpus
from tests.support.annotate_server import start
from tests.support.people_page import locked

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium (extra `test`)")
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.expected_conditions import title_is
from selenium.webdriver.support.wait import WebDriverWait

PATIENCE = 60
pytestmark = pytest.mark.slow


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[WebDriver]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.add_argument("--headless=new")
    options.add_argument("--window-size=1280,900")
    options.add_argument("--disable-dev-shm-usage")
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium refuses to run as root with it
    service = webdriver.ChromeService(driver)
    found = webdriver.Chrome(options=options, service=service)
    yield found
    found.quit()
    service.stop()


def join(browser: WebDriver, url: str, name: str) -> None:
    browser.get(url)
    # On a busy machine the page is there before the field has the focus, and keys would be lost.
    WebDriverWait(browser, PATIENCE).until(lambda b: b.switch_to.active_element.tag_name == "input")
    browser.switch_to.active_element.send_keys(name + Keys.ENTER)
    wait_for(browser, "1 of ")


def wait_for(browser: WebDriver, title: str) -> None:
    if title.endswith("of "):
        WebDriverWait(browser, PATIENCE).until(lambda b: b.title.startswith(title))
    else:
        WebDriverWait(browser, PATIENCE).until(title_is(title))
    loaded = "return document.readyState === 'complete'"
    WebDriverWait(browser, PATIENCE).until(lambda b: b.execute_script(loaded))


def press(browser: WebDriver, keys: str) -> None:
    browser.switch_to.active_element.send_keys(keys)


def test_keys_alone_from_the_name_to_the_end(browser: WebDriver, make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(1)
    store = Store(corpus.directory / "annotations.sqlite")
    server = start(corpus.directory, "--repeat", "0", "--beside")
    try:
        join(browser, server.url, "Ann")
        image = browser.find_element(By.TAG_NAME, "img")
        assert (image.size["width"], image.size["height"]) == (448, 448)
        assert image.value_of_css_property("image-rendering") == "pixelated"
        assert browser.execute_script("return arguments[0].naturalWidth", image) == 8
        press(browser, "9")  # no such class: nothing happens
        press(browser, "2")
        wait_for(browser, "2 of 3")
        press(browser, Keys.SPACE)
        wait_for(browser, "3 of 3")
        press(browser, Keys.BACKSPACE)
        wait_for(browser, "2 of 3")
        press(browser, "1")
        wait_for(browser, "3 of 3")
        # The server dies while the answer is on its way; it arrives when the server is back.
        server.kill()
        press(browser, "4")
        banner = browser.find_element(By.ID, "banner")
        WebDriverWait(browser, PATIENCE).until(lambda _: banner.is_displayed())
        assert "Your answer is kept in this window" in banner.text
        server = start(corpus.directory, port=server.port)
        wait_for(browser, "1 of 3")
        assert "Can you recognise the original" in browser.find_element(By.TAG_NAME, "h1").text
        sizes = [image.size["width"] for image in browser.find_elements(By.TAG_NAME, "img")]
        assert len(sizes) == 2 and sizes[0] == sizes[1] > 300
        for key, title in (("y", "2 of 3"), ("n", "3 of 3"), ("y", "Judging pictures")):
            press(browser, key)
            wait_for(browser, title)
        assert "Thank you, Ann!" in browser.find_element(By.TAG_NAME, "h1").text
    finally:
        server.kill()
    # Classes are shown in alphabetical order, which is theirs.
    assert [task.value for task in store.tasks(store.annotators()[0])] == [1, 0, 3, 1, 0, 1]
    log = store.log()
    assert [row["kind"] for row in log[:4]] == ["answer", "answer", "undo", "answer"]
    assert all(row["milliseconds"] > 0 for row in log if row["kind"] == "answer")


def test_many_classes_are_typed(browser: WebDriver, make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(1, classes=40)
    store = Store(corpus.directory / "annotations.sqlite")
    server = start(corpus.directory, "--repeat", "0")
    try:
        join(browser, server.url, "Ann")
        press(browser, "mow")  # the second word of "lawn mower"
        status = browser.find_element(By.ID, "matches")
        assert status.text == "Enter: lawn mower"
        press(browser, " x")  # a space in a name is a space
        assert status.text == "No class fits."
        press(browser, Keys.BACKSPACE * 2 + Keys.ENTER)
        wait_for(browser, "2 of 3")
        press(browser, "class 3" + Keys.ARROW_DOWN + Keys.ENTER)
        wait_for(browser, "3 of 3")
        press(browser, Keys.SPACE)
        wait_for(browser, "Judging pictures")
    finally:
        server.kill()
    # "class 3" fits class 30 to 39 too; the arrow takes the second.
    names = corpus.classes["tiny"]
    second = sorted(name for name in names if name.startswith("class 3"))[1]
    values = [task.value for task in store.tasks(store.annotators()[0])]
    assert values == [2, names.index(second), -1]


def test_an_answer_is_kept_while_the_file_is_locked(
    browser: WebDriver, make_corpus: MakeCorpus
) -> None:
    corpus = make_corpus(1)
    store = Store(corpus.directory / "annotations.sqlite")
    server = start(corpus.directory, "--repeat", "0")
    try:
        join(browser, server.url, "Ann")
        with locked(store.path):
            press(browser, "2")
            banner = browser.find_element(By.ID, "banner")
            WebDriverWait(browser, PATIENCE).until(lambda _: banner.is_displayed())
            assert "another program may have locked it. Your answer is kept" in banner.text
            chosen = browser.find_element(By.CSS_SELECTOR, "button.chosen")
            assert chosen.text.startswith("2")
            press(browser, "3")  # one answer is on its way; no other is taken
            assert browser.title == "1 of 3" and store.log() == []
        wait_for(browser, "2 of 3")
    finally:
        server.kill()
    assert [row["value"] for row in store.log()] == [1]


def test_it_fits_a_phone(browser: WebDriver, make_corpus: MakeCorpus) -> None:
    corpus = make_corpus(1, classes=40)
    server = start(corpus.directory)
    try:
        join(browser, server.url, "Ann")
        phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        wide = "return document.documentElement.scrollWidth"
        assert browser.execute_script(wide) <= 390
        cannot = browser.find_element(By.CSS_SELECTOR, "button.cannot")
        assert cannot.rect["y"] + cannot.rect["height"] <= 844  # in sight without scrolling
        assert cannot.rect["height"] >= 44
    finally:
        server.kill()
