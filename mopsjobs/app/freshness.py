"""How old what a view shows is, and how old it may be."""

from __future__ import annotations

from mopsjobs.utils.times import human_age


class Freshness:
    """How old what a view shows is."""

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
        """When the last complete sync began, RFC 3339; None when there was none."""
        self.age_seconds = age_seconds
        """Never below 0."""
        self.is_ahead = is_ahead
        """Whether that sync began at a time that is still to come: the clock was set back, so nobody knows the age."""
        self.stale = stale
        """Whether the data is older than it should be: a sync failed, or has not run for long."""
        self.is_local = is_local
        self.problem = problem
        """Why a sync that this view wanted has failed."""
        self.sync_failed = sync_failed
        """Whether the last sync failed, this view's or an earlier one."""

    def said(self) -> str:
        """The age for people."""
        if self.is_local:
            return "read fresh"
        failed = ", the last sync failed" if self.sync_failed else ""
        if self.is_ahead:
            return f"synced at a time still to come ({self.synced_at}){failed}"
        return f"synced {human_age(self.age_seconds or 0.0)}{failed}"


class FreshnessPolicy:
    """How fresh a view has to be."""

    __slots__ = ("max_age", "offline", "refresh")

    def __init__(self, *, refresh: bool = False, max_age: float | None = None, offline: bool = False) -> None:
        self.refresh = refresh
        """Sync first, in any case."""
        self.max_age = max_age
        """Sync first if the data is older than so many seconds."""
        self.offline = offline
        """Send nothing over the network, whatever is missing."""
