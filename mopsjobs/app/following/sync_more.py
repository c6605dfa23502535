"""What a sync does after the jobs: mirror events and ledgers, and describe all of it as JSON."""

from __future__ import annotations

from mopsjobs.app.run.app import App
from mopsjobs.cache.queries.ledgers import ALL_PROBLEMS as ALL_LEDGER_PROBLEMS
from mopsjobs.cache.sync.chunks import ChunkReport
from mopsjobs.cache.sync.records import SyncReport
from mopsjobs.errors import StoreError, command_line

SCHEMA_VERSION = 1
"""The `schema_version` of `sync --json`."""

SHOWN_PROBLEMS = 10

ALL_EVENT_PROBLEMS = "query 'SELECT * FROM event_problems'"


def mirror_events_and_ledgers(app: App, *, full: bool) -> tuple[ChunkReport | None, ChunkReport | None, list[str]]:
    """Mirror events and ledgers, after the jobs, which matter more. Return their reports, and warnings."""
    events = ledgers = None
    try:
        events = app.cache.sync_events(full=full)
        ledgers = app.cache.sync_ledgers(full=full)
    except StoreError as error:
        what = "events" if events is None else "ledgers"
        return events, None, [f"{error} All jobs are mirrored, but not all {what}."]
    return events, ledgers, [
        *problem_texts(events.problems, ALL_EVENT_PROBLEMS),
        *problem_texts(ledgers.problems, ALL_LEDGER_PROBLEMS),
    ]  # fmt: skip


def sync_json(report: SyncReport, events: ChunkReport | None, ledgers: ChunkReport | None) -> dict[str, object]:
    """Return what a sync did, as scripts get it."""
    names = ("seen", "added", "changed", "unchanged", "removed", "fetched")
    return {
        "schema_version": SCHEMA_VERSION,
        "already_running": False,
        "mode": "full" if report.is_full else "delta",
        "synced_at": report.synced_at,
        "seconds": round(report.seconds, 3),
        **{name: getattr(report, name) for name in names},
        "problems": [{name: getattr(one, name) for name in ("key", "kind", "reason")} for one in report.problems],
        "events_added": None if events is None else events.entries,
        "attempts_added": None if ledgers is None else ledgers.entries,
    }


def problem_texts(problems: list[tuple[str, str]], all_of_them: str) -> list[str]:
    """Return the first problems, each a key and a reason, and how many more there are."""
    texts = [f"{key}: {reason}" for key, reason in problems[:SHOWN_PROBLEMS]]
    if len(problems) > SHOWN_PROBLEMS:
        texts.append(f"and {len(problems) - SHOWN_PROBLEMS} more; all of them: {command_line(all_of_them)}")
    return texts
