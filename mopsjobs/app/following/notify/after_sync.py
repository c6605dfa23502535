"""Tell of the jobs of the cache after a sync by the rules of the user: for `sync` from cron, and for `serve`."""

from __future__ import annotations

from collections.abc import Callable

from mopsjobs.app.run.app import App


def tell_after_sync(app: App) -> list[str]:
    """Tell of the jobs of the cache, and return what the user should know; nothing without rules."""
    if not app.settings.rules:
        return []
    from mopsjobs.app.following.notify.cached import CacheNotifier  # here: most users have no rules

    return CacheNotifier(app).tell()


def teller_of_syncs(app: App) -> Callable[[], None] | None:
    """Return what a server calls after each sync, which waits for nothing; None without rules."""
    if not app.settings.rules:
        return None
    from mopsjobs.app.following.notify.cached import CacheNotifier  # here: most users have no rules

    notifier = CacheNotifier(app)

    def tell() -> None:
        for problem in notifier.tell(seconds=0):
            app.out.warn(problem)

    return tell
