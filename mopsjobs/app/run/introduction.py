"""What a first listing says of the default registry, which is embedded and empty.

It is for a user whose jobs are elsewhere: an empty list alone would look like a loss.
"""

from __future__ import annotations

import sqlite3

from mopsjobs.app.run.app import App
from mopsjobs.cache.sync_state import add_meta, known_jobs
from mopsjobs.errors import CacheError
from mopsjobs.utils.times import json_time

INTRODUCTION = (
    "This is the embedded registry of this machine, with 0 jobs. To use Azure, set AZURE_STORAGE_CONNECTION_STRING or"
    " AZURE_STORAGE_ACCOUNT; for another registry, use --registry URL or MOPS_JOBS_REGISTRY."
)


def introduce_default(app: App) -> list[str]:
    """Return, once per cache, how to name another registry than the default one.

    Return nothing if one was named, or if the default one still has the jobs that were pruned from the cache.
    """

    def is_first_look(connection: sqlite3.Connection) -> bool:
        return known_jobs(connection) == 0 and add_meta(connection, "introduced", json_time(app.now()))

    settings = app.settings
    if settings.registry.origin != "default" or not settings.is_local or app.out.quiet:
        return []
    try:
        is_first = app.cache.write(is_first_look)
    except CacheError:  # a cache that cannot be written is read nevertheless
        is_first = True
    return [INTRODUCTION] if is_first else []
