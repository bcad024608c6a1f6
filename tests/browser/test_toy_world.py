"""The studio page of the recipe `demo` says what its world holds, and which words it does not know."""

from pathlib import Path

import playwright.sync_api as playwright

from anime_studio.core.recipes import DEMO
from support.chromium import NewPage
from support.server_rig import ServerRig


def test_a_toy_says_that_it_is_one_and_names_the_words_it_does_not_know(
    tmp_path: Path, new_page: NewPage
) -> None:
    rig = ServerRig(tmp_path, recipe=DEMO)
    with rig.serve() as http, rig.worker():
        page = new_page(str(http.base_url))
        page.goto("/")
        playwright.expect(page.locator("#world")).to_contain_text("A toy world")
        page.fill("#prompt", "a dragon & a cat on a <roof>")
        page.press("#prompt", "Control+Enter")
        page.wait_for_selector("#frame[data-view=clip]")
        notes = page.locator("#notes li")
        playwright.expect(notes).to_have_text(
            "demo does not know: dragon, roof. It makes the rest of the prompt."
        )
        page.fill("#prompt", DEMO_PROMPT)
        page.press("#prompt", "Control+Enter")
        playwright.expect(page.locator("#recipe")).to_contain_text(DEMO_PROMPT)
        assert page.is_hidden("#notes")


DEMO_PROMPT = "a girl with long pink hair on a beach at sunset"
