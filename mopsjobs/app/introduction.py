"""What a first listing says of the default registry, which is embedded and empty.

It is for a user whose jobs are elsewhere: an empty list alone would look like a loss.
"""

from __future__ import annotations

from mopsjobs.app.app import App
from mopsjobs.cache.sync_state import add_meta
from mopsjobs.errors import CacheError
from mopsjobs.utils.times import json_time

INTRODUCTION = (
    "This is the embedded registry of this machine, with 0 jobs. To use Azure, set AZURE_STORAGE_CONNECTION_STRING or"
    " AZURE_STORAGE_ACCOUNT; for another registry, use --registry URL or MOPS_JOBS_REGISTRY."
)


def introduce_default(app: App) -> list[str]:
    """Return, once per cache, how to name another registry than the default one; nothing if one was named."""
    settings = app.settings
    if settings.registry.origin != "default" or not settings.is_local or app.out.quiet:
        return []
    try:
        is_first = app.cache.write(lambda connection: add_meta(connection, "introduced", json_time(app.now())))
    except CacheError:  # a cache that cannot be written is read nevertheless
        is_first = True
    return [INTRODUCTION] if is_first else []
