"""How old the data of a view is, and how old it may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from mopsjobs.errors import EXIT_UNREACHABLE, MopsJobsError, StoreAccessError, StoreUnavailableError, UnusableStoreError
from mopsjobs.utils.times import human_age, parse_time

LEAST_UNKNOWN = 60.0
"""Seconds without a complete sync before views say that active jobs are unknown."""

QUERY_VERSION = 1
"""The `schema_version` of `query --json`, and of the API's attempts."""


class Freshness:
    """The age of the data that a view shows."""

    def __init__(
        self, meta: Mapping[str, str], now: datetime, *, stale_after: float, is_local: bool, problem: str | None
    ) -> None:
        """Find the age of a cache that was synced.

        Args:
            meta: what the cache notes about itself.
            now: the time, in UTC.
            stale_after: seconds after which data is stale.
            is_local: whether the registry is on this machine.
            problem: why the sync for this view failed; None if it did not.
        """
        self.synced_at = meta["synced_at"]
        """When the last complete sync began, RFC 3339."""
        self.foreign_writes_known_to = meta.get("full_synced_at")
        """When the last full scan began, RFC 3339: a delta sync does not see what other programs write."""
        age = (now - parse_time(self.synced_at)).total_seconds()
        self.sync_age_seconds = round(max(age, 0.0), 3)
        """How long ago the last sync began. Never below 0, as the other ages."""
        scan_age = 0.0
        if self.foreign_writes_known_to is not None:
            scan_age = (now - parse_time(self.foreign_writes_known_to)).total_seconds()
        self.age_seconds = round(max(self.sync_age_seconds, scan_age), 3)
        """How old the data is at most, be it written by mops-jobs or by another program."""
        is_delta = self.age_seconds > self.sync_age_seconds
        self.foreign_age_seconds = self.age_seconds if is_delta and meta.get("foreign_records") != "no" else None
        """How long ago the last full scan began, if other programs may write and a delta followed; else None."""
        self.is_ahead = age < 0
        """Whether the last sync began in the future: the clock was set back, and the age is unknown."""
        self.is_local = is_local and problem is None
        """Whether the registry is on this machine and was read for this view."""
        self.problem = problem
        """Why the sync for this view failed; None if it did not."""
        self.sync_failed = problem is not None or bool(meta.get("last_error"))
        """Whether the last sync failed, be it for this view or an earlier one."""
        is_late = self.is_ahead or (self.foreign_age_seconds or self.sync_age_seconds) > stale_after
        self.stale = self.sync_failed or (is_late and not is_local)
        """Whether the data is older than it should be: the last sync failed, or was long ago."""
        is_unread = self.sync_failed or self.is_ahead or (self.sync_age_seconds > stale_after and not is_local)
        self.unknown_since = human_age(age).removesuffix(" ago") if is_unread and age >= LEAST_UNKNOWN else None
        """How long ago the active jobs were last known, in words: nothing tells what they did since; None if recent."""
        self.exit_code = 0
        """The exit code of a view: not 0 if flags asked for a refresh, and it failed."""

    def note_failed_refresh(self, error: MopsJobsError) -> None:
        """Set the exit code of a view whose flags asked for a refresh, which failed with `error`."""
        is_lasting = isinstance(error, (StoreAccessError, UnusableStoreError))
        self.exit_code = error.exit_code if is_lasting else EXIT_UNREACHABLE

    def to_json(self) -> dict[str, object]:
        """Return the age as JSON documents have it."""
        names = ("synced_at", "age_seconds", "stale", "foreign_writes_known_to")
        return {name: getattr(self, name) for name in names}

    def describe(self) -> str:
        """Return the age in words."""
        return "live" if self.is_local else self.describe_sync()

    def describe_with_staleness(self) -> str:
        """Return the age in words, and whether the data is stale."""
        return f"{self.describe()}{', stale' if self.stale else ''}"

    def warnings(self, doing: str = "Showing") -> list[str]:
        """Return the warning of a view whose sync failed; none if it did not.

        Args:
            doing: what the view does with the cache, like `Counting`.
        """
        return [] if self.problem is None else [f"{self.problem} {doing} the cache, {self.describe()}."]

    def describe_sync(self) -> str:
        """Return the age of the last sync in words, also for a registry on this machine."""
        failed = ", the last sync failed" if self.sync_failed else ""
        if self.is_ahead:
            return f"synced at a time in the future ({self.synced_at}){failed}"
        synced = f"synced {human_age(self.sync_age_seconds)}{failed}"
        if self.foreign_age_seconds is None:
            return synced
        return f"{synced}, writes by other programs known up to {human_age(self.foreign_age_seconds)}"


class FreshnessPolicy:
    """The required freshness of the data of a view."""

    def __init__(
        self, *, refresh: bool = False, max_age: float | None = None, sync: bool = False, offline: bool = False
    ) -> None:
        self.refresh = refresh
        """Scan the whole registry first, in any case: a delta sync misses writes of other programs."""
        self.max_age = max_age
        """Scan the whole registry first if the last scan is older than this, in seconds."""
        self.sync = sync
        """Sync first; a delta is enough."""
        self.offline = offline
        """Send nothing over the network, whatever is missing."""

    @property
    def needs_scan(self) -> bool:
        """Return whether a delta sync is not enough for this view."""
        return self.refresh or self.max_age is not None


def never_synced_error(hint: str) -> StoreUnavailableError:
    """Return the error of a view over a cache that was never filled."""
    return StoreUnavailableError("The registry has never been synced to this machine.", hint=hint)


def query_document(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    freshness: Freshness,
    *,
    is_cut: bool,
    results: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """Return the JSON document of rows of a view.

    Args:
        columns: the names of the columns, all different.
        rows: the values of each row, as JSON types.
        freshness: the age of the cache.
        is_cut: whether there are more rows.
        results: which tasks the views of results have; None without these views.
    """
    return {
        "schema_version": QUERY_VERSION,
        **freshness.to_json(),
        "results": results,
        **rows_document(columns, rows, is_cut=is_cut),
    }


def rows_document(columns: Sequence[str], rows: Sequence[Sequence[object]], *, is_cut: bool) -> dict[str, object]:
    """Return the members of a JSON document that has rows of a query."""
    from mopsjobs.utils.table_files import json_row  # here: a listing has no rows of a query

    return {
        "columns": columns,
        "returned": len(rows),
        "truncated": is_cut,
        "rows": [json_row(columns, row) for row in rows],
    }
