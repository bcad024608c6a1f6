"""Pure ASGI middleware around every route, one file each."""
