"""Old and new: what each release has written down (by tests/golden/write.py) is read by this version."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from golden.write import READERS
from mopsjobs import __version__
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from mopsjobs.utils.times import parse_time
from support.cli import REMOTE_URL, Cli, key, put, sentences

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
RELEASES = sorted(path.name for path in GOLDEN.iterdir() if (path / "registry.db").is_file())
VOLATILE = {"generated_at", "synced_at", "age_seconds", "stale", "registry", "cursor"}
INVENTED = {"at", "started_at", "queued_seconds", "run_seconds"}
"""What 0.1.0 made up for steps that nothing had reported; null since."""
WHILE_ACTIVE = {"duration_seconds", "queued_seconds", "run_seconds"}
OF_CACHE = ("list", "status-done", "status-cancelled", "status-foreign", "events")


def documents(text: str) -> list[Any]:
    """Return one JSON document, or one a line."""
    try:
        return [json.loads(text)]
    except ValueError:
        return [json.loads(line) for line in text.splitlines()]


def missing(old: Any, new: Any, path: str = "$") -> list[str]:
    """Return where `new` does not say what `old` said. Fields that came later are welcome."""
    if isinstance(old, dict) and isinstance(new, dict):
        volatile = VOLATILE | (WHILE_ACTIVE if old.get("is_active") else set())
        return [
            difference
            for name, value in old.items()
            if name not in volatile and not (name in INVENTED and new.get(name, ...) is None)
            for difference in (missing(value, new[name], f"{path}.{name}") if name in new else [f"{path}.{name}"])
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            found
            for number, pair in enumerate(zip(old, new, strict=True))
            for found in missing(*pair, f"{path}[{number}]")
        ]
    return [] if old == new else [f"{path}: {old!r} is now {new!r}"]


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest, cli: Cli) -> Path:
    """Return what a release wrote: its registry and cache where the command looks, its answers in the directory."""
    golden = GOLDEN / request.param
    home = cli.cache.parent
    shutil.copy(golden / "registry.db", home)
    shutil.copy(golden / "cache.db", home)
    written = parse_time(json.loads((golden / "list.json").read_text())["generated_at"])
    assert written is not None
    cli.clock.moment = written
    return golden


def test_there_is_what_the_last_release_wrote() -> None:
    assert __version__ in RELEASES


@pytest.mark.parametrize("answer", READERS)
def test_a_registry_of_an_older_release_is_told_as_that_release_told_it(cli: Cli, release: Path, answer: str) -> None:
    """Records, events, manifests and outputs alike: nothing it said is missing or different now."""
    cli.cache.unlink()
    old, new = (release / f"{answer}.json").read_text(), cli.ok(*READERS[answer]).out
    assert missing(documents(old), documents(new)) == []


@pytest.mark.parametrize("answer", OF_CACHE)
def test_a_cache_of_an_older_release_is_told_as_that_release_told_it(cli: Cli, release: Path, answer: str) -> None:
    """Alone. Its registry is named anew, as one across a network: an embedded one would be read again at once."""
    with closing(sqlite3.connect(cli.cache)) as connection, connection:
        connection.execute("UPDATE meta SET value = ? WHERE name = 'registry'", (REMOTE_URL,))
    ran = cli.ok(*READERS[answer], "--offline", MOPS_JOBS_REGISTRY=REMOTE_URL)
    old, new = (release / f"{answer}.json").read_text(), ran.out
    assert missing(documents(old), documents(new)) == []


def test_a_job_of_an_older_release_goes_on(cli: Cli, release: Path) -> None:
    """Its record is changed as if it were of today, and what another program keeps in it stays."""
    cli.ok("update", "foreign-1", "succeeded", "-q")
    told = json.loads((release / "status-foreign.json").read_text())
    with closing(SQLiteVersionedStore(cli.cache.parent / "registry.db")) as store:
        found = store.get(key("foreign-1"))
    assert found is not None
    record = json.loads(found.value)
    assert (record["status"], record["theirs"]) == ("succeeded", {"kept": [1, 2.5, None, "\u00fc"]})
    assert {name: record[name] for name in ("job_id", "metadata", "tasks_total")} == {
        name: told[name] for name in ("job_id", "metadata", "tasks_total")
    }


def test_the_difference_of_two_answers_is_found() -> None:
    """The comparison itself: a field gone, a value changed, a job lost; not what came later or tells the time."""
    old = {"jobs": [{"a": 1, "is_active": True, "duration_seconds": 3}], "age_seconds": 1}
    assert missing(old, {"jobs": [{"a": 1, "is_active": True, "duration_seconds": 9, "b": 2}]}) == []
    assert missing(old, {"jobs": [{"a": 2, "is_active": True}]}) == ["$.jobs[0].a: 1 is now 2"]
    assert missing(old, {"jobs": []}) == [f"$.jobs: {old['jobs']!r} is now []"]
    assert missing({"a": {"b": 1}}, {"a": {}}) == ["$.a.b"]


# --- the other way round: what a later version has written ---------------------------------------------------------

NEWER = {
    "job_id": "newer-1",
    "status": "running",
    "created_at": "2026-03-01T10:00:00.000000Z",
    "updated_at": "2026-03-01T11:00:00.000000Z",
    "record_version": 9,
    "tasks_paused": 3,
    "placement": {"zones": ["a", {"b": [1.5, None, True]}], "big": 12345678901234567890},
    "transitions": [{"status": "running", "at": "2026-03-01T10:00:00Z", "id": "t1", "by": {"host": "n-1"}}],
    "tasks_total": 10,
    "tasks_completed": 1,
}
WRITES = {
    "update, fields": ("update", "newer-1", "--label", "a=b"),
    "update, status": ("update", "newer-1", "validating"),
    "progress": ("progress", "newer-1", "5/10"),
    "cancel": ("cancel", "newer-1", "--yes"),
}


def stored(cli: Cli, job_id: str) -> dict[str, Any]:
    with closing(SQLiteVersionedStore(cli.cache.parent / "registry.db")) as store:
        found = store.get(key(job_id))
    assert found is not None
    document = json.loads(found.value)
    assert isinstance(document, dict)
    return document


def write_newer(cli: Cli, **fields: object) -> dict[str, object]:
    record = {**NEWER, **fields}
    with closing(SQLiteVersionedStore(cli.cache.parent / "registry.db")) as store:
        put(store, key("newer-1"), json.dumps(record))
    return record


@pytest.mark.parametrize("command", WRITES)
def test_no_command_harms_what_a_later_version_keeps_in_a_record(cli: Cli, command: str) -> None:
    """Fields, and parts of transitions, that this version does not know are there afterwards as they were before."""
    before = write_newer(cli)
    cli.ok(*WRITES[command], "-q")
    after = stored(cli, "newer-1")
    for name in ("record_version", "tasks_paused", "placement"):
        assert after[name] == before[name]
    assert after["transitions"][:1] == before["transitions"]


@pytest.mark.parametrize("command", WRITES)
def test_a_status_of_a_later_version_is_shown_and_never_overwritten(cli: Cli, command: str) -> None:
    before = write_newer(cli, status="hibernating")
    assert cli.ok("status", "newer-1", "--json").json["status"] == "hibernating"
    ran = cli(*WRITES[command], "-q")
    assert (ran.code, len(sentences(ran.err))) == (6, 1), ran
    assert stored(cli, "newer-1") == before


def test_events_of_a_later_version_are_shown(cli: Cli) -> None:
    """A kind of event and fields that this version does not know."""
    write_newer(cli)
    event = {
        "at": "2026-03-01T11:00:00Z",
        "job_id": "newer-1",
        "kind": "hibernated",
        "source": "s",
        "seq": 1,
        "of": [1],
    }
    with closing(SQLiteVersionedStore(cli.cache.parent / "registry.db")) as store:
        put(store, "events/20260301T12/newer-1/s-000001.ndjson", json.dumps(event) + "\n")
    (shown,) = cli.ok("events", "newer-1", "--json").objects
    assert {**shown, **event} == shown


def test_the_cache_of_a_later_version_is_refused_in_one_sentence(cli: Cli, release: Path) -> None:
    with closing(sqlite3.connect(cli.cache)) as connection:
        connection.execute("PRAGMA user_version = 99")
    assert "newer mops-jobs" in cli.fails(1, "list", "--offline")
