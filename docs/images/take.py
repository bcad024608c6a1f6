"""Take the README's screenshots from a running studio: `python docs/images/take.py [URL]`.

Needs Debian's chromium and the dev extra. Draws a handful of clips, so give it a minute or two.
"""

import io
import secrets
import shutil
import sys
from pathlib import Path

import httpx
from PIL import Image
from playwright.sync_api import Page, sync_playwright

FOLDER = Path(__file__).parent
PROMPTS = (
    ("snowy mountains by a lake at night under the stars, nobody", 0),
    ("a black kitten walks along a city street in the rain", 0),
    ("a boy with black hair and a green jacket waving in front of a red torii gate, sunny day", 0),
    (
        "a girl with long pink hair in a white dress walking along the beach at sunset, cherry petals falling",
        3,
    ),
    ("a girl with pink twintails waving on a beach at sunset, cherry petals falling", 1),
)
PATIENCE_MS = 300_000
COLOURS = 240
"""A palette keeps each picture well under 300 kB."""


def main(url: str) -> None:
    """Write studio.png and overlay.png beside this file."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1360, "height": 960})
        page.set_default_timeout(PATIENCE_MS)
        take_studio(page, url)
        page.set_viewport_size({"width": 1280, "height": 720})
        take_overlay(page, url)
        browser.close()


def take_studio(page: Page, url: str) -> None:
    """Draw the clips on the page, then picture it with the last one playing."""
    page.goto(url)
    page.wait_for_selector(".chip")
    page.click("summary")
    for number, (prompt, seed) in enumerate(PROMPTS, start=1):
        page.fill("#prompt", prompt)
        page.fill("#seed", str(seed))
        page.click("#submit")
        page.wait_for_selector(f".history-item[data-state=succeeded] >> nth={number - 1}")
        print(f"{number} of {len(PROMPTS)}: {prompt}", flush=True)  # noqa: T201
    page.wait_for_function("() => video.currentTime > 0.2")
    page.evaluate(
        """() => {
          document.querySelector("details").open = false;
          document.activeElement.blur();
          scrollTo(0, 0);
          video.controls = false;
          video.currentTime = 2.5;
        }"""
    )
    page.wait_for_timeout(700)
    save(page, "studio.png", full_page=True)


def take_overlay(page: Page, url: str) -> None:
    """Send one clip to a channel and picture the overlay as it plays."""
    channel = f"show-{secrets.token_hex(16)}"
    prompt, seed = PROMPTS[-1]
    request = {"prompt": prompt, "seed": seed, "channel": channel, "requested_by": "mia"}
    httpx.post(f"{url}/generate", json=request, timeout=300).raise_for_status()
    request |= {"prompt": PROMPTS[1][0], "requested_by": "kenji"}
    httpx.post(f"{url}/generate", json=request, headers={"Prefer": "respond-async"}).raise_for_status()
    page.goto(f"{url}/overlay?channel={channel}&caption=who,prompt&loop=1")
    page.wait_for_selector(".layer.shown")
    page.wait_for_function("() => document.getElementById('next-stage').textContent.startsWith('Drawing')")
    page.wait_for_timeout(1500)
    save(page, "overlay.png")


def save(page: Page, name: str, *, full_page: bool = False) -> None:
    """Write a picture of the page, small."""
    picture = Image.open(io.BytesIO(page.screenshot(full_page=full_page))).convert("RGB")
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(FOLDER / name, optimize=True)
    print(f"{name}: {(FOLDER / name).stat().st_size / 1000:.0f} kB")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/") if len(sys.argv) > 1 else "http://127.0.0.1:8017")
