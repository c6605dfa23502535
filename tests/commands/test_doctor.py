"""`doctor`: each check, its state, and the fix that it names."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mopsjobs import __version__
from mopsjobs.events.writer import record_event
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.azure.credentials import EMULATOR_KEY
from mopsjobs.utils.times import utc_now
from support.cli import Cli, Remote, add, foreign, key, put

if TYPE_CHECKING:
    from support.servers import Azurite

SECRET = "c2VjcmV0LXNlY3JldC1zZWNyZXQ="


def _checks(cli: Cli, code: int = 0, **env: str) -> dict[str, dict[str, str | None]]:
    ran = cli("doctor", "--json", **env)
    assert ran.code == code, ran
    assert ran.err == ""
    return {check["name"]: check for check in ran.json["checks"]}


def test_doctor_is_content_on_a_sound_machine(cli: Cli, jobs: JobRegistry) -> None:
    """With a registry, a cache and sound records, every check is ok, and nothing needs a fix."""
    add(jobs, "a")
    cli.ok("sync")
    checks = _checks(cli)
    assert {check["state"] for check in checks.values()} == {"ok"}
    assert {check["fix"] for check in checks.values()} == {None}
    assert list(checks) == ["version", "config", "registry", "access", "retention", "store", "cache", "records"]
    assert __version__ in str(checks["version"]["detail"])
    assert "(from environment MOPS_JOBS_REGISTRY)" in str(checks["registry"]["detail"])


def test_doctor_names_the_fix_for_a_first_run(cli: Cli) -> None:
    """Where nothing is there yet, it says what to type, and this is not a failure."""
    checks = _checks(cli)
    assert checks["access"]["state"] == "warn"
    assert checks["access"]["fix"] == "check the path; if it is right: mops-jobs submit STUDY --auto"
    assert "registry.db yet; the first job creates it" in str(checks["access"]["detail"])
    assert "reachable" not in str(checks["access"]["detail"])
    assert (checks["cache"]["state"], checks["cache"]["fix"]) == ("ok", None)
    assert ": 0 jobs, " in str(checks["cache"]["detail"])
    assert checks["records"]["state"] == "ok"


def test_doctor_names_the_fix_for_a_first_run_over_a_network(cli: Cli, remote: Remote) -> None:
    """Nothing is synced behind the user's back: neither the cache nor the records can be judged yet."""
    remote.put(key("a"), foreign("a"))
    checks = _checks(cli)
    assert (checks["cache"]["state"], checks["cache"]["fix"]) == ("warn", "mops-jobs sync")
    assert checks["records"] == {
        "name": "records", "state": "warn", "detail": "not checked: never synced", "fix": "mops-jobs sync"
    }  # fmt: skip
    assert not cli.cache.exists()
    remote.store.down = True
    assert cli("sync").code == 5
    assert _checks(cli, 5)["records"]["state"] == "warn"


def test_doctor_looks_at_an_embedded_registry_as_it_is_now(cli: Cli, jobs: JobRegistry) -> None:
    """It is synced first, so that a record gone bad a moment ago is told; one job is `1 job`."""
    add(jobs, "a")
    cli.ok("list")
    assert ": 1 job, " in str(_checks(cli)["cache"]["detail"])
    put(jobs.store, key("a"), "{")
    ran = cli("doctor", "--json")
    assert ran.code == 7
    assert [problem["key"] for problem in ran.json["problems"]] == [key("a")]


def test_doctor_tells_how_much_there_is_and_what_can_go(cli: Cli, remote: Remote) -> None:
    """Jobs and bytes by the cache, and while the store has events so old, of how many jobs they can go."""
    for job_id in ("old", "at-work"):
        add(remote.jobs, job_id, "running")
        record_event(remote.store.inner, job_id, "log", now=cli.clock.now, text="a line")
    remote.jobs.finalize_job("old", "succeeded")
    cli.ok("sync", "-q")
    facts = "2 jobs, 0.0 MB of records, 2 chunks of events synced"
    assert _checks(cli)["store"]["detail"] == facts
    cli.clock.advance(days=40)
    prune = "mops-jobs prune --store --older-than 30d"
    old = f"{facts}; 1 ended more than 30 days ago"
    assert _checks(cli)["store"]["detail"] == f"{old}, so their events can go: {prune}"
    size = cli.ok("doctor", "--json").json["store"]
    assert (size["jobs"], size["jobs_ended"], size["jobs_pruned"], size["event_chunks"]) == (2, 1, 0, 2)
    assert size["record_bytes"] > 500
    assert size["oldest_event"] == "2026-03-01T12:00:00Z"
    cli.ok(*prune.split()[1:], "--yes")
    assert _checks(cli)["store"]["detail"] == old, "the events of an active job stay, and no command removes them"
    remote.jobs.finalize_job("at-work", "succeeded")
    cli.clock.advance(days=40)
    cli.ok(*prune.split()[1:], "--yes")
    cli.ok("prune", "--older-than", "60d", "--yes")
    left = "1 job, 0.0 MB of records, 2 chunks of events synced, and 1 job pruned from the cache"
    assert _checks(cli)["store"]["detail"] == f"{left}; 1 ended more than 30 days ago"


def test_doctor_does_not_take_a_registry_that_is_gone_for_a_new_one(cli: Cli, jobs: JobRegistry) -> None:
    """Where the cache has jobs of it, the file was there: a failure, and no advice to make another."""
    add(jobs, "a")
    cli.ok("list")
    Path(jobs.store.location).unlink()
    access = _checks(cli, 5)["access"]
    assert access["state"] == "fail"
    assert "it had 1 job" in str(access["detail"])
    assert str(access["fix"]).startswith("mount its disk")
    assert "mops-jobs sync" not in [check["fix"] for check in _checks(cli, 5).values()], "it would fail as well"


@pytest.mark.parametrize(
    ("minutes", "state", "told"),
    [(0, "ok", "clock is "), (121, "warn", "clock is 2h "), (-121, "warn", "clock is 2h "), (-8, "ok", "clock is ")],
)
def test_doctor_tells_how_far_the_clock_is_off(cli: Cli, azurite: Azurite, minutes: int, state: str, told: str) -> None:
    """Replies of Azure carry a time. What is neither forgiven nor corrected is warned of; a warning fails nothing.

    A clock that is ahead makes jobs look silent here. Writers correct one that is behind.
    """
    cli.env["AZURE_STORAGE_CONNECTION_STRING"] = azurite.connection_string
    cli.env["MOPS_JOBS_REGISTRY"] = f"{azurite.endpoint}/{azurite.new_container()}"
    # Half a minute more, so that the seconds which a run takes change no sign.
    cli.clock.moment = utc_now() + timedelta(minutes=minutes, seconds=30 if minutes > 0 else 0)
    clock = _checks(cli)["clock"]
    assert clock["state"] == state
    direction = "behind" if minutes < 0 else "ahead of" if minutes > 0 else ""
    assert str(clock["detail"]).startswith("this machine's " + told)
    assert direction in str(clock["detail"])
    assert (clock["fix"] is not None) == (state == "warn")


def test_a_refused_sign_in_tells_of_the_clock_too(cli: Cli, azurite: Azurite) -> None:
    """A clock that is off is one reason for it: Azure refuses signatures that are a quarter of an hour old."""
    wrong = azurite.connection_string.replace(azurite.key, "AAAA")
    cli.env["AZURE_STORAGE_CONNECTION_STRING"] = wrong
    cli.env["MOPS_JOBS_REGISTRY"] = f"{azurite.endpoint}/{azurite.new_container()}"
    cli.clock.moment = utc_now() + timedelta(hours=2)
    checks = _checks(cli, 4)
    assert (checks["access"]["state"], checks["clock"]["state"]) == ("fail", "warn")


def test_doctor_fails_on_a_cache_that_cannot_be_made(cli: Cli, remote: Remote, tmp_path: Path) -> None:
    """A directory that takes no files is not an empty cache."""
    (tmp_path / "file").touch()
    cache = _checks(cli, 1, MOPS_JOBS_CACHE=str(tmp_path / "file" / "cache.db"))["cache"]
    assert cache["state"] == "fail"
    assert "Cannot write the cache" in str(cache["detail"])


def test_doctor_tells_an_outage_and_the_last_error(cli: Cli, remote: Remote) -> None:
    """A registry out of reach fails with exit code 5; the cache is still told, with what the last sync met."""
    remote.put(key("a"), foreign("a"))
    cli.ok("sync")
    remote.store.down = True
    assert cli("sync").code == 5
    checks = _checks(cli, 5)
    assert checks["access"]["state"] == "fail"
    assert checks["access"]["fix"]
    assert "the last sync failed: Cannot reach the registry" in str(checks["cache"]["detail"])
    assert checks["cache"]["fix"] == "restore the access to the registry first"


def test_doctor_tells_bad_records_by_key_and_reason(cli: Cli, remote: Remote) -> None:
    """Unreadable records fail with exit code 7 and are listed; what is only odd is a warning."""
    remote.put(key("bad"), "{")
    remote.put("jobs/x/notes.txt", "")
    assert cli("sync").code == 7
    ran = cli("doctor")
    assert ran.code == 7
    assert "1 unreadable, 1 with a warning" in ran.out
    assert f"{key('bad')}: not JSON" in ran.out
    remote.store.delete(key("bad"))
    cli.ok("sync")
    assert _checks(cli)["records"]["state"] == "warn"


def test_doctor_shows_chunks_of_events_that_cannot_be_read(cli: Cli, remote: Remote) -> None:
    """They are told once by a sync; `doctor` keeps them in sight."""
    bad = "events/20260301T12/job/x-000000.ndjson"
    remote.put(bad, b"x\n")
    assert cli("sync").code == 7
    assert f"{bad}: line 1: not JSON" in cli.ok("doctor").out
    assert [one["kind"] for one in cli.ok("doctor", "--json").json["problems"]] == ["unreadable_events"]


def test_doctor_lists_no_more_bad_records_than_a_screen_holds(cli: Cli, remote: Remote) -> None:
    """Twenty are shown, the rest counted; `--json` has all."""
    for number in range(30):
        remote.put(key(f"bad-{number:02}"), "{")
    cli("sync", "-q")
    assert cli("doctor").out.count("not JSON") == 20
    assert "and 10 more: mops-jobs doctor --json" in cli("doctor").out
    assert len(cli("doctor", "--json").json["problems"]) == 30


@pytest.mark.usefixtures("quick_retries")
def test_doctor_tells_the_source_of_the_credentials(cli: Cli) -> None:
    """Which credential was used is said by its source, never by its value."""
    ran = cli(
        "doctor",
        MOPS_JOBS_REGISTRY="http://127.0.0.1:1/devstoreaccount1/jobs",
        AZURE_STORAGE_ACCOUNT="devstoreaccount1",
        AZURE_STORAGE_KEY=SECRET,
    )
    assert ran.code == 5
    assert SECRET not in ran.out + ran.err
    assert EMULATOR_KEY not in ran.out + ran.err


def test_doctor_sets_a_damaged_cache_aside(cli: Cli, remote: Remote) -> None:
    """A damaged cache does not end it: it is set aside, named, and the other checks are made."""
    del cli.env["MOPS_JOBS_CACHE"]
    place = Path(cli.ok("config", "show", "--json").json["cache"]["value"])
    place.parent.mkdir(parents=True)
    place.write_bytes(b"garbage" * 1000)
    ran = cli("doctor")
    assert ran.code == 0
    assert "Set aside as" in ran.err
    assert "no file yet" in ran.out
