"""The JSON document of rows of a view: that of `query --json`, and of the API's attempts."""

from __future__ import annotations

from collections.abc import Sequence

from mopsjobs.app.run.freshness import Freshness

SCHEMA_VERSION = 1


def query_document(
    columns: Sequence[str], rows: Sequence[Sequence[object]], freshness: Freshness, *, is_cut: bool
) -> dict[str, object]:
    """Return the document.

    Args:
        columns: the names of the columns, all different.
        rows: the values of each row, as JSON types.
        freshness: the age of the cache.
        is_cut: whether there are more rows.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "synced_at": freshness.synced_at,
        "age_seconds": freshness.age_seconds,
        "stale": freshness.stale,
        "foreign_writes_known_to": freshness.foreign_writes_known_to,
        "columns": columns,
        "returned": len(rows),
        "truncated": is_cut,
        "rows": [dict(zip(columns, row, strict=True)) for row in rows],
    }
