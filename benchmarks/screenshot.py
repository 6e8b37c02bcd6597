"""The picture of a report for the README: its header, verdicts, and leakage against accuracy.

Run from the root of the repository, after a sweep and its report:

    python -m benchmarks.screenshot DIR/report.html docs/report.png

It needs Chromium and its driver, and selenium (extra ``test``). Whole sections are shown or left
out; nothing of what is shown is changed. The colours are reduced to 256.
"""

import argparse
import base64
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

WIDTH = 1280
MOST_BYTES = 400_000
SECTIONS = ("verdicts", "tradeoff")
VIEWS = ("server", "release")
_ONLY = """
const [shown, views] = arguments;
for (const section of document.querySelectorAll('main > section'))
  section.hidden = !shown.includes(section.getAttribute('aria-labelledby'));
for (const part of document.querySelectorAll('[data-view]'))
  part.hidden = !views.includes(part.dataset.view);
for (const other of document.querySelectorAll('.warn, header a'))
  other.hidden = !(other.matches('.warn') && shown.includes('pictures'));
document.body.style.paddingBottom = '1rem';
return Math.ceil(document.body.getBoundingClientRect().height);
"""


def screenshot(
    report: Path, *, width: int, sections: Sequence[str], views: Sequence[str]
) -> Image.Image:
    """The header and some sections of a report as Chromium draws them.

    `width` is the page's, in pixels; `sections` are ids of headings: ``verdicts``, ``tradeoff``.

    Raises:
        RuntimeError: There is no browser, or a section is not in the report.
    """
    from selenium import webdriver

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        raise RuntimeError("there is no Chromium: apt-get install chromium chromium-driver")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        flags = ["--headless=new", "--hide-scrollbars", "--disable-dev-shm-usage"]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")  # Chromium refuses to run as root with it
        for flag in (*flags, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        service = webdriver.ChromeService(driver)
        with webdriver.Chrome(options=options, service=service) as browser:
            screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
            browser.get(report.absolute().as_uri())
            ids = [e.get_attribute("id") for e in browser.find_elements("css selector", "h2[id]")]
            missing = [name for name in sections if name not in ids]
            if missing:
                raise RuntimeError(
                    f"{report} has no section {', '.join(missing)}; it has {', '.join(map(str, ids))}"
                )
            height = browser.execute_script(_ONLY, list(sections), list(views))
            clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
            shot = browser.execute_cdp_cmd(
                "Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip}
            )
    return Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the picture; 1 if it is larger than a README should load, 2 if there is none."""
    parser = argparse.ArgumentParser(description="A picture of a report, for the README.")
    add = parser.add_argument
    add("report", type=Path, help="HTML file")
    add("out", type=Path, help="PNG file to write")
    add("--width", type=int, default=WIDTH, help=f"{WIDTH} unless told")
    add("--sections", nargs="+", default=SECTIONS, help="ids; verdicts tradeoff unless told")
    add("--views", nargs="+", choices=VIEWS, default=VIEWS, help="both")
    chosen = parser.parse_args(arguments)
    try:
        image = screenshot(
            chosen.report, width=chosen.width, sections=chosen.sections, views=chosen.views
        )
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    image.quantize(256, dither=Image.Dither.NONE).save(chosen.out, optimize=True)
    size = chosen.out.stat().st_size
    print(f"{chosen.out}: {image.width} x {image.height}, {size / 1000:.0f} kB")
    if size > MOST_BYTES:
        kilobytes = f"{MOST_BYTES / 1000:.0f} kB"
        print(f"that is more than {kilobytes}: try a smaller --width or fewer --sections")
    return int(size > MOST_BYTES)


if __name__ == "__main__":
    sys.exit(main())
