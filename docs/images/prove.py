"""Picture a report of `anime-studio prove` on Modal: `python docs/images/prove.py FOLDER`.

The sample in docs/deploy.md is the one that the tests write: run `pytest tests/on_modal/test_prove_on_modal.py -k whole
--basetemp SOMEWHERE`; FOLDER is the `prove` below it. Needs Debian's chromium and the dev extra.
"""

import io
import re
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

FILE = Path(__file__).with_suffix(".png")
COLOURS = 128
"""A palette keeps the picture below 300 kB."""


def main(folder: Path) -> None:
    """Write prove.png beside this file."""
    page_html = (folder / "report.html").read_text(encoding="utf-8")
    page_html = re.sub(r"kernel [^;]+;", "kernel …;", page_html)  # of the machine that ran the tests
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 900, "height": 800})
        page.set_content(page_html)
        picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
        browser.close()
    picture.quantize(COLOURS).save(FILE, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
