"""Write the OpenAPI document: `python -m anime_studio.web.openapi docs/openapi.json`.

The document is checked in, so that a review shows every change of the contract.
"""

from __future__ import annotations

import json
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from anime_studio.core.studio import Studio
from anime_studio.settings import WebOptions
from anime_studio.web.app import create_app


def document() -> str:
    """Return the document as it is checked in."""

    def never_opened() -> AbstractAsyncContextManager[Studio]:
        raise AssertionError("the document needs no studio")

    app = create_app(never_opened, WebOptions(recipe="demo"))
    return json.dumps(app.openapi(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1] if len(sys.argv) > 1 else "docs/openapi.json").write_text(document(), encoding="utf-8")
