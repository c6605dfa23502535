"""How old the data of a view is, and how old it may be."""

from __future__ import annotations

from mopsjobs.utils.times import human_age


class Freshness:
    """The age of the data that a view shows."""

    __slots__ = ("age_seconds", "is_ahead", "is_local", "problem", "stale", "sync_failed", "synced_at")

    def __init__(
        self,
        *,
        synced_at: str | None,
        age_seconds: float | None,
        is_ahead: bool,
        stale: bool,
        is_local: bool,
        problem: str | None,
        sync_failed: bool,
    ) -> None:
        self.synced_at = synced_at
        """When the last complete sync began, RFC 3339; None if there was none."""
        self.age_seconds = age_seconds
        """Never below 0."""
        self.is_ahead = is_ahead
        """Whether that sync began in the future: the clock was set back, and the age is unknown."""
        self.stale = stale
        """Whether the data is older than it should be: the last sync failed, or was long ago."""
        self.is_local = is_local
        """Whether the registry is on this machine and was read for this view."""
        self.problem = problem
        """Why the sync for this view failed; None if it did not."""
        self.sync_failed = sync_failed
        """Whether the last sync failed, be it for this view or an earlier one."""

    def describe(self) -> str:
        """Return the age in words."""
        if self.is_local:
            return "live"
        failed = ", the last sync failed" if self.sync_failed else ""
        if self.is_ahead:
            return f"synced at a time in the future ({self.synced_at}){failed}"
        return f"synced {human_age(self.age_seconds or 0.0)}{failed}"


class FreshnessPolicy:
    """The required freshness of the data of a view."""

    __slots__ = ("max_age", "offline", "refresh")

    def __init__(self, *, refresh: bool = False, max_age: float | None = None, offline: bool = False) -> None:
        self.refresh = refresh
        """Sync first, in any case."""
        self.max_age = max_age
        """Sync first if the data is older than this, in seconds."""
        self.offline = offline
        """Send nothing over the network, whatever is missing."""
