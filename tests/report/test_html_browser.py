"""The page in a real browser: nothing is asked for outside, nothing overflows."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.screenshot import main
from fl_privacy_audit.report.html import render_html
from fl_privacy_audit.report.summary import summarise
from tests.support.report_builders import SWEEP, write_sweep

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium (extra `test`)")
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

pytestmark = pytest.mark.slow
EVIL = "<script>alert(1)</script>" + "x" * 90


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[WebDriver]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.add_argument("--headless=new")
    options.add_argument("--disable-dev-shm-usage")
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium refuses to run as root with it
    service = webdriver.ChromeService(driver)
    found = webdriver.Chrome(options=options, service=service)
    yield found
    found.quit()
    service.stop()


def asked(browser: WebDriver) -> set[str]:
    """Every address the page asked for since the last call."""
    found = set()
    for entry in browser.get_log("performance"):  # type: ignore[attr-defined]
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            found.add(message["params"]["request"]["url"])
    return found


def test_it_opens_at_every_width(browser: WebDriver, tmp_path: Path) -> None:
    first, *rest = SWEEP
    settings = (replace(first, pictures=True), replace(rest[8], name=EVIL), *rest[9:])
    report = tmp_path / "report.html"
    report.write_text(render_html(summarise(write_sweep(tmp_path, settings))), encoding="utf-8")
    asked(browser)
    for width, mobile in ((1280, False), (1920, False), (390, True)):
        screen = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": mobile}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        browser.get(report.as_uri())
        assert browser.get_log("browser") == []  # type: ignore[attr-defined]
        outside = {url for url in asked(browser) if not url.startswith("data:")}
        assert outside == {report.as_uri()}
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert EVIL in browser.find_element(By.TAG_NAME, "main").text
        squeezed = (
            "return [...document.querySelectorAll('p, li, caption, tbody td, tbody th, figcaption')]"
            ".filter(e => e.clientWidth < 60 && e.clientHeight > 200).map(e => e.textContent)"
        )
        assert browser.execute_script(squeezed) == []
        sizes = "return [...document.images].every(i => i.complete && i.naturalWidth > 0)"
        assert browser.execute_script(sizes)
        drawn = "return [...document.querySelectorAll('svg')].map(s => s.clientWidth)"
        widths = browser.execute_script(drawn)
        assert len(widths) == 8 and min(widths) > 300
        letters = (
            "return Math.min(...[...document.querySelectorAll('svg text')]"
            ".map(t => t.getBoundingClientRect().height))"
        )
        assert browser.execute_script(letters) >= 9
    axe = pytest.importorskip("axe_core_python.selenium", reason="needs axe (extra `test`)").Axe()
    for width in (1280, 390):
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**screen, "width": width})
        broken = axe.run(browser)["violations"]
        assert [(each["id"], len(each["nodes"])) for each in broken] == []


def test_a_picture_for_the_readme(
    browser: WebDriver, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, picture = tmp_path / "report.html", tmp_path / "images" / "report.png"
    settings = (replace(SWEEP[0], pictures=True), SWEEP[8])
    report.write_text(render_html(summarise(write_sweep(tmp_path, settings))), encoding="utf-8")
    assert main([str(report), str(picture)]) == 0
    with Image.open(picture) as image:
        both = image.size
        assert image.mode == "P" and both[0] == 1280
    assert main([str(report), str(picture), "--views", "server"]) == 0
    with Image.open(picture) as image:
        assert 600 < image.height < both[1] - 200
    assert main([str(report), str(picture), "--sections", "nothing"]) == 2
    assert "has no section nothing; it has verdicts, reading" in capsys.readouterr().err
