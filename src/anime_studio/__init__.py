"""A chat line becomes an anime clip: Wan 2.1 over HTTP, on Modal or on a laptop."""

__version__ = "0.2.0"

try:
    from common import schemas as _contract  # noqa: F401
except ImportError as error:
    if not (error.name or "").startswith("common"):
        raise
    raise ImportError(
        f"another module named `common` hides the contract of anime-studio ({error}): rename that file or folder of "
        "yours, or start Python from another folder. anime_studio.client has the contract's types under its own name"
    ) from error
