"""`list`: which jobs, in which order and form, how fresh, and sweeps as one row."""

from __future__ import annotations

import csv
import io
import json
import pathlib
import re

import pytest

from mopsjobs.registry.job_registry import JobRegistry
from support.cli import START, Cli, Remote, add, command, environment, foreign, key, sentences
from support.terminal import terminal


@pytest.fixture
def five(cli: Cli, jobs: JobRegistry) -> None:
    """Register five jobs, changed at different times; it is noon. The newest change is last."""
    cli.clock.advance(days=-10)
    add(jobs, "old-failed", "failed", owner="bob", labels={"exp": "7"}, namespace="ns-a", k8s_name="pod-of-bob")
    add(jobs, "old-running", "running", owner="ada", labels={"exp": "7", "gpu": ""}, namespace="ns-b")
    cli.clock.advance(days=9)
    add(jobs, "night-1", owner="ada", labels={"exp": "8"}, tasks_total=10)
    cli.clock.advance(hours=12)
    jobs.update_status("night-1", "running", tasks_completed=4)
    add(jobs, "night-2", "succeeded", owner="bob")
    cli.clock.advance(hours=11)
    add(jobs, "night-3", "cancelled", owner="ada", labels={"exp": "7"})
    cli.clock.advance(hours=1)
    assert cli.clock.now() == START


FILTERS = {
    "": "night-3 night-1 night-2 old-failed old-running",
    "--status running": "night-1 old-running",
    "--status active": "night-1 old-running",
    "--status done": "night-3 night-2 old-failed",
    "--status active,failed": "night-1 old-running old-failed",
    "--status partial": "",
    "--owner ada": "night-3 night-1 old-running",
    "--owner ada --status done": "night-3",
    "--owner bob,ada --status done": "night-3 night-2 old-failed",
    "--namespace ns-a,ns-b": "old-running old-failed",
    "--label exp=7": "night-3 old-running old-failed",
    "--label exp": "night-3 night-1 old-running old-failed",
    "--label gpu=": "old-running",
    "--label exp=7 --label gpu": "old-running",
    "--name night*": "night-3 night-2 night-1",
    "--name pod-of-*": "old-failed",
    "--match ^old|3$": "night-3 old-running old-failed",
    "--match of-bob": "old-failed",
    "--hours 2": "night-3 night-1 old-running",
    "--hours 0.5": "night-1 old-running",
    "--since 2h": "night-3 night-1 old-running",
    "--since 2026-03-01T11:00:00Z": "night-3 night-1 old-running",
    "--since 2026-03-01T13:00:00+02:00": "night-3 night-1 old-running",
    "--until 2d": "old-running old-failed",
    "--since 13h --until 12h": "night-2 night-1 old-running",
    "--hours 2 --status done --owner ada --label exp=7 --name n* --match 3": "night-3",
    "--sort name": "night-1 night-2 night-3 old-failed old-running",
    "--sort owner,-name": "old-running night-3 night-1 old-failed night-2",
    "--sort created": "old-failed old-running night-1 night-2 night-3",
    "--sort status,name": "old-failed night-1 old-running night-3 night-2",
    "--sort -progress,name": "night-1 night-2 night-3 old-failed old-running",
}


@pytest.mark.usefixtures("five")
def test_a_filter_chooses_jobs_and_a_sort_orders_them(cli: Cli) -> None:
    """Each condition alone, and some together."""
    wrong = {}
    for flags, ids in FILTERS.items():
        found, expected = cli.ids(*flags.split()), ids.split()
        if found != expected and (not flags or "--sort" in flags or sorted(found) != sorted(expected)):
            wrong[flags] = found
    assert wrong == {}


@pytest.mark.usefixtures("five")
@pytest.mark.parametrize("flags", ["--sort name", "--owner ada --sort -name", "--owner nobody"])
def test_all_forms_have_the_same_jobs_in_the_same_order(cli: Cli, flags: str) -> None:
    """Ids, JSON, JSON lines, TSV and table show the same jobs, and the total is their number."""
    words = flags.split()
    expected = cli.ids(*words)
    document = cli.ok("list", "--json", *words).json
    assert [job["job_id"] for job in document["jobs"]] == expected
    assert document["total"] == document["returned"] == len(expected)
    assert [json.loads(line)["job_id"] for line in cli.ok("list", "--jsonl", *words).lines] == expected
    assert [line.split("\t")[0] for line in cli.ok("list", "--tsv", *words).lines] == expected
    table = cli.ok("list", *words)
    assert [line.split()[0] for line in table.lines[1:]] == expected
    assert table.err.startswith(f"{len(expected)} job")


@pytest.mark.usefixtures("five")
@pytest.mark.parametrize("limit", [1, 3, 9])
def test_active_jobs_are_never_cut(cli: Cli, limit: int) -> None:
    """A limit cuts ended jobs only, and the true total is said beside what is shown, in the footer and in JSON."""
    document = cli.ok("list", "--json", "--limit", str(limit)).json
    shown = [job["job_id"] for job in document["jobs"]]
    assert {"night-1", "old-running"} <= set(shown)
    assert document["total"] == 5
    assert document["returned"] == len(shown)
    assert shown == [job for job in cli.ids("--limit", "0") if job in shown]
    err = cli.ok("list", "--limit", str(limit)).err
    cut = f"{len(shown)} of 5 jobs (--limit 0 shows all; active ones are never cut), live\n"
    assert err == ("5 jobs, live\n" if len(shown) == 5 else cut)


@pytest.mark.parametrize("form", ["--jsonl", "--tsv", "-q"])
def test_forms_for_machines_are_cut_only_on_request(cli: Cli, remote: Remote, form: str) -> None:
    """They cannot tell the total. The document can, and is cut like the table."""
    for number in range(60):
        add(remote.jobs, f"done-{number:02}", "succeeded")
    ran = cli.ok("list", form)
    assert (len(ran.lines), "--limit" in ran.err) == (60, False)
    assert len(cli.ok("list", form, "--limit", "5").lines) == 5
    document = cli.ok("list", "--json").json
    assert (document["total"], document["returned"]) == (60, 50)


@pytest.mark.parametrize("flags", [(), ("--status", "failed", "--limit", "0"), ("--hours", "1"), ("--label", "a=b")])
def test_an_empty_list_is_no_error(cli: Cli, flags: tuple[str, ...]) -> None:
    """No jobs: exit code 0, `"jobs": []`, and nothing at all on stdout in the other forms."""
    document = cli.ok("list", "--json", *flags).json
    assert (document["jobs"], document["total"], document["returned"]) == ([], 0, 0)
    for form in ((), ("-q",), ("--tsv",), ("--jsonl",)):
        assert cli.ok("list", *form, *flags).out == ""
    assert sentences(cli.ok("list", *flags).err)[0].startswith("0 jobs")


@pytest.mark.parametrize("argv", [("list",), ("sync",)])
def test_a_registry_that_was_named_and_is_not_there_is_told(
    cli: Cli, tmp_path: pathlib.Path, argv: tuple[str, ...]
) -> None:
    """A path with a typo looks like an empty registry; so a note on stderr says what is missing. It is not an error."""
    path = tmp_path / "x.db"
    note = f"There is no registry at {path} yet; the first job makes it.\n"
    assert cli.ok(*argv, "--registry", f"sqlite://{path}", MOPS_JOBS_CACHE="").err.count(note) == 1
    away = tmp_path / "no" / "dir" / "x.db"
    note = f"There is no registry at {away} yet, nor its directory; the first job makes both.\n"
    assert cli.ok(*argv, "--registry", f"sqlite://{away}", MOPS_JOBS_CACHE="").err.count(note) == 1
    cli.ok("register", "a", "--registry", f"sqlite://{away}", MOPS_JOBS_CACHE="")
    assert "no registry" not in cli.ok(*argv, "--registry", f"sqlite://{away}", MOPS_JOBS_CACHE="").err
    assert "no registry" not in cli.ok(*argv, MOPS_JOBS_REGISTRY="", MOPS_JOBS_CACHE="").err


def test_a_status_from_the_future_counts_as_active(cli: Cli, remote: Remote) -> None:
    """A status that this version does not know is shown as it is, in each group that has the active jobs."""
    remote.put(key("odd"), foreign("odd", "hibernating"))
    assert "hibernating" in cli.ok("list").out
    assert cli.ids("--status", "active") == ["odd"]
    assert cli.ids("--status", "active,failed") == ["odd"]
    assert cli.ids("--status", "active,done") == ["odd"]
    assert cli.ids("--status", "done") == []


@pytest.mark.usefixtures("five")
def test_fields_choose_what_each_form_shows(cli: Cli) -> None:
    """`--fields` gives these and no others, in this order; without names it lists what there is."""
    fields = ("--fields", "owner,job_id", "--owner", "bob", "--sort", "name")
    assert cli.ok("list", "--tsv", *fields).out == "bob\tnight-2\nbob\told-failed\n"
    assert cli.ok("list", "--json", *fields).json["jobs"][0] == {"owner": "bob", "job_id": "night-2"}
    assert cli.ok("list", *fields).lines[0].split() == ["owner", "job_id"]
    names = cli.ok("list", "--fields").lines
    assert {"job_id", "status", "duration_seconds"} <= set(names)
    assert names == list(cli.ok("list", "--json").json["jobs"][0])


def test_a_table_says_that_a_time_was_not_reported(cli: Cli, remote: Remote) -> None:
    """In JSON it is null, in TSV empty."""
    remote.put(key("theirs"), foreign("theirs", "running"))
    remote.jobs.update_status("theirs", "succeeded")
    fields = ("--fields", "job_id,started_at,queued_seconds,run_seconds")
    assert cli.ok("list", *fields).lines[1].split() == ["theirs", "n/a", "n/a", "n/a"]
    assert cli.ok("list", "--tsv", *fields).out == "theirs\t\t\t\n"
    assert cli.ok("list", "--json", *fields).json["jobs"] == [
        {"job_id": "theirs", "started_at": None, "queued_seconds": None, "run_seconds": None}
    ]


@pytest.mark.usefixtures("five")
def test_a_pipe_gets_times_in_rfc_3339(cli: Cli, jobs: JobRegistry) -> None:
    """In a pipe, times are in UTC, in whole seconds: no person reads fractions. JSON keeps them."""
    cli.clock.advance(seconds=0.25)
    add(jobs, "precise")
    (row,) = (line for line in cli.ok("list").lines if line.startswith("precise"))
    assert re.search(r" 2026-03-01T12:00:00Z +2026-03-01T12:00:00Z ", row)
    (job,) = cli.ok("list", "--json", "--name", "precise").json["jobs"]
    assert job["created_at"] == "2026-03-01T12:00:00.250000Z"


@pytest.mark.usefixtures("five")
def test_tabs_and_line_ends_in_a_value_cannot_break_tsv(cli: Cli, jobs: JobRegistry) -> None:
    """Each job is one line with the same number of values, whatever its texts hold."""
    add(jobs, "nasty", owner="a\tb\nc")
    (row,) = cli.ok("list", "--tsv", "--name", "nasty").lines
    assert row.split("\t")[:4] == ["nasty", "pending", "", "a b c"]


# --- how fresh -------------------------------------------------------------------------------------------------------


@pytest.fixture
def cached(cli: Cli, remote: Remote) -> Remote:
    """Return a remote registry with one job, synced; then an hour passes and the line is cut."""
    remote.put(key("a"), foreign("a"))
    cli.ok("sync")
    remote.put(key("b"), foreign("b"))
    cli.clock.advance(hours=1)
    remote.store.calls.clear()
    return remote


@pytest.mark.parametrize("flags", [(), ("--offline",), ("--max-age", "2h")])
def test_a_listing_sends_nothing_unless_asked(cli: Cli, cached: Remote, flags: tuple[str, ...]) -> None:
    """A cache that has been filled answers alone, says how old it is, and no request leaves the machine."""
    assert cli.ids(*flags) == ["a"]
    assert not cached.store.calls
    document = cli.ok("list", "--json", *flags).json
    assert (document["age_seconds"], document["synced_at"]) == (3600.0, "2026-03-01T12:00:00Z")
    assert document["stale"] is True
    assert cli.ok("list", "--json", MOPS_JOBS_STALE_AFTER="2h").json["stale"] is False
    assert cli.ok("list", *flags).err.rstrip().endswith("synced 1h ago, stale")


@pytest.mark.parametrize("flags", [("--refresh",), ("--max-age", "59m")])
def test_a_listing_syncs_when_asked(cli: Cli, cached: Remote, flags: tuple[str, ...]) -> None:
    """`--refresh`, and `--max-age` with data older than that, sync first."""
    document = cli.ok("list", "--json", *flags).json
    assert [job["job_id"] for job in document["jobs"]] == ["a", "b"]
    assert (document["age_seconds"], document["stale"]) == (0, False)
    assert cached.store.calls["scan"] == 1


def test_a_cache_never_filled_is_filled_by_the_first_listing(cli: Cli, remote: Remote) -> None:
    """The first listing on a machine syncs, without being asked; the second does not."""
    remote.put(key("a"), foreign("a"))
    assert cli.ids() == ["a"]
    assert cli.ids() == ["a"]
    assert remote.store.calls["scan"] == 1


@pytest.mark.parametrize("flags", [("--offline",), ()])
def test_a_cache_never_filled_cannot_be_listed_without_the_registry(
    cli: Cli, remote: Remote, flags: tuple[str, ...]
) -> None:
    """With `--offline`, or with the registry out of reach, there is nothing to show: exit code 5, one sentence."""
    remote.store.down = True
    ran = cli("list", "--json", *flags)
    assert (ran.code, ran.out, len(sentences(ran.err))) == (5, "", 1)
    assert bool(remote.store.calls) is (flags == ())


@pytest.mark.parametrize("flags", [("--refresh",), ("--max-age", "1m")])
def test_a_failed_refresh_shows_the_old_rows(cli: Cli, cached: Remote, flags: tuple[str, ...]) -> None:
    """With the registry out of reach, the old rows are shown with a warning, `stale` is true, and the exit code 5."""
    cached.store.down = True
    ran = cli.ends(5, "list", "--json", *flags)
    assert [job["job_id"] for job in ran.json["jobs"]] == ["a"]
    assert ran.json["stale"] is True
    assert ran.err == (
        "warning: Cannot reach the registry: connection refused."
        " Showing the cache, synced 1h ago, the last sync failed.\n"
    )
    assert cli.ok("list").err == "1 job, synced 1h ago, the last sync failed, stale\n"


def test_unreadable_records_are_told_of_beside_their_last_good_state(cli: Cli, cached: Remote) -> None:
    """Their rows are shown as last known, in every form, with one warning that counts them and names `doctor`."""
    cli.ok("sync")
    for number, (name, said) in enumerate((("a", "1 record"), ("b", "2 records")), 1):
        cached.put(key(name), "{")
        assert cli("sync", "-q").code == 7
        warning = f"warning: {said} cannot be read; the last good state is shown. See: mops-jobs doctor\n"
        for form in ((), ("-q",), ("--json",), ("--jsonl",), ("--tsv",), ("--refresh", "--json")):
            ran = cli.ok("list", *form)
            assert ran.err.startswith(warning), number
            assert "a" in ran.out
    assert cli.ok("list", "--json").json["total"] == 2
    cached.put(key("new"), "{")
    cli("sync", "-q")
    assert "3 records cannot be read; the last good state of 2 is shown." in cli.ok("list").err
    for name in "ab":
        cached.put(key(name), foreign(name))
    cli("sync", "-q")
    assert "warning: 1 record cannot be read; no earlier state is known. See" in cli.ok("list", "--json").err
    cached.put(key("new"), foreign("new"))
    cli.ok("sync")
    assert cli.ok("list", "--json").err == ""


def test_the_empty_default_registry_introduces_itself(cli: Cli) -> None:
    """A user whose jobs are in Azure has named no registry: an empty list alone would look like a loss."""
    del cli.env["MOPS_JOBS_REGISTRY"]
    for words in ("list --json", "list --jsonl", "list --tsv", "list -q", "-q list"):
        assert "This is" not in cli.ok(*words.split()).err
    first, note = cli.ok("list").err.splitlines()
    assert first == "0 jobs, live"
    assert note.startswith("This is the embedded registry of this machine, with 0 jobs. To use Azure, set AZURE_")


@pytest.fixture
def filled(cli: Cli, remote: Remote) -> Remote:
    """Return jobs with text of every kind in their fields."""
    add(remote.jobs, "a", "running", owner="=cmd|' /C calc'!A0", labels={"x": "1,2"}, tasks_total=4)
    remote.put(key("b"), foreign("b", "failed", error_message='line one\nline "two", @three', error_code="-1"))
    remote.put(key("c"), foreign("c", "succeeded", owner="\x1b[31m", metadata={"n": [1, None]}))
    cli.ok("sync", "-q")
    return remote


@pytest.mark.claim("CSV has no formulas")
@pytest.mark.usefixtures("filled")
def test_csv_has_every_field_and_no_formula(cli: Cli) -> None:
    """The fields of `list --fields`; nested ones as JSON. Texts that look like formulas with a quote in front."""
    found = {row["job_id"]: row for row in csv.DictReader(io.StringIO(cli.ok("list", "--csv", "--limit", "0").out))}
    assert list(found["a"]) == cli.ok("list", "--fields").lines
    assert found["a"]["owner"] == "'=cmd|' /C calc'!A0"
    assert json.loads(found["a"]["labels"]) == {"x": "1,2"}
    assert (found["a"]["tasks_total"], found["a"]["is_active"], found["a"]["progress"]) == ("4", "true", "0.0")
    assert found["b"]["error_message"] == 'line one\nline "two", @three'
    assert found["b"]["error_code"] == "'-1"
    assert json.loads(found["c"]["metadata"]) == {"n": [1, None]}
    assert found["c"]["results_path"] == ""


NIGHT = {"sweep": "night"}


@pytest.fixture
def night(cli: Cli, jobs: JobRegistry) -> None:
    """Register a sweep of four jobs in several states, changed at different times, and two jobs besides."""
    add(jobs, "n-1", "succeeded", owner="ada", labels=NIGHT, tasks_total=10, tasks_completed=10)
    cli.clock.advance(hours=2)
    add(jobs, "alone", "failed", owner="bob")
    add(jobs, "n-2", "failed", owner="ada", labels=NIGHT, tasks_total=10)
    cli.clock.advance(hours=2)
    add(jobs, "n-3", "running", owner="ada", labels=NIGHT, tasks_total=10)
    jobs.update_progress("n-3", tasks_completed=4)
    add(jobs, "n-4", owner="ada", labels=NIGHT)
    cli.clock.advance(hours=1)
    add(jobs, "last", "succeeded", owner="bob")


def rows(cli: Cli, *flags: str) -> list[list[str]]:
    """Return the cells of the table, those of each row in a list."""
    lines = cli.ok("list", *flags).lines
    starts = [lines[0].index(word) for word in lines[0].split()]
    return [
        [line[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)] for line in lines[1:]
    ]


@pytest.mark.usefixtures("night")
def test_a_sweep_is_one_row_with_the_counts_of_its_jobs(cli: Cli) -> None:
    """It stands where the first of its jobs does, has their tasks, and the time from the first to now."""
    found = rows(cli)
    assert [row[0] for row in found] == ["last", "sweep=night", "alone"]
    assert found[1][1:4] == ["1 failed, 1 running, 1 pending, 1 succeeded", "14/30", "ada"]
    assert found[1][4:] == ["2026-03-01T12:00:00Z", "2026-03-01T16:00:00Z", "5h"]
    said = cli.ok("list").err
    assert "6 jobs, " in said
    assert "To see the jobs of a sweep: mops-jobs list --label sweep=night" in said
    assert [row[0] for row in rows(cli, "--sort", "created")] == ["sweep=night", "alone", "last"]


@pytest.mark.usefixtures("night")
def test_programs_and_the_filter_for_a_sweep_see_single_jobs(cli: Cli) -> None:
    """Every form but the table has each job, as if there were no sweeps; so has the table of a sweep itself."""
    every = ["last", "n-3", "n-4", "alone", "n-2", "n-1"]
    assert cli.ids() == every
    document = cli.ok("list", "--json").json
    assert ([job["job_id"] for job in document["jobs"]], document["total"]) == (every, 6)
    for flags in (("--jsonl",), ("--tsv",), ("--csv",), ("--fields", "job_id,labels")):
        assert "n-2" in cli.ok("list", *flags).out
        assert "sweep=night" not in cli.ok("list", *flags).out
    for label in ("sweep=night", "sweep"):
        assert [row[0] for row in rows(cli, "--label", label)] == ["n-3", "n-4", "n-2", "n-1"]


@pytest.mark.usefixtures("night")
def test_filters_choose_jobs_of_a_sweep_and_the_row_says_of_how_many(cli: Cli) -> None:
    """A window or a status that cuts a sweep shows the part that passes. Active jobs pass a window, as anywhere."""
    assert rows(cli, "--status", "failed")[-1][:2] == ["sweep=night", "1 failed of 4 jobs"]
    assert [row[:2] for row in rows(cli, "--hours", "2", "--sort", "name")] == [
        ["last", "succeeded"], ["sweep=night", "1 running, 1 pending of 4 jobs"],
    ]  # fmt: skip
    cli.ok("label", "n-1", "archived=true")
    assert rows(cli)[1][1] == "1 failed, 1 running, 1 pending of 4 jobs"


@pytest.mark.usefixtures("night")
def test_a_limit_counts_rows_and_never_cuts_an_active_sweep(cli: Cli) -> None:
    """A sweep is one of the first rows. The footer counts jobs."""
    assert [row[0] for row in rows(cli, "--limit", "2")] == ["last", "sweep=night"]
    assert "5 of 6 jobs" in cli.ok("list", "--limit", "2").err
    assert [row[0] for row in rows(cli, "--limit", "1")] == ["last", "sweep=night"]
    assert [row[0] for row in rows(cli, "--limit", "1", "--sort", "name")] == ["alone", "sweep=night"]


def test_a_sweep_has_ended_when_its_jobs_have(cli: Cli, jobs: JobRegistry) -> None:
    """Its duration is then fixed. With several owners, it names none."""
    add(jobs, "a", "succeeded", owner="ada", labels=NIGHT)
    cli.clock.advance(minutes=5)
    add(jobs, "b", "partial", owner="bob", labels=NIGHT)
    cli.clock.advance(hours=5)
    (row,) = rows(cli)
    assert (row[1], row[3], row[6]) == ("1 partial, 1 succeeded", "several", "5m")


def test_a_sweep_of_one_job_is_that_job(cli: Cli, jobs: JobRegistry) -> None:
    """Its own row says more. With a second job, it is a sweep; a filter that passes one of them keeps the counts."""
    add(jobs, "a", "succeeded", owner="ada", labels=NIGHT)
    assert rows(cli)[0][:2] == ["a", "succeeded"]
    assert "To see the jobs of a sweep" not in cli.ok("list").err
    add(jobs, "b", "failed", owner="bob", labels=NIGHT)
    assert rows(cli, "--status", "failed")[0][:2] == ["sweep=night", "1 failed of 2 jobs"]


def test_a_resumed_job_counts_once(cli: Cli, jobs: JobRegistry) -> None:
    """As the job that took up its tasks, with those of both. A filter that passes one of them counts that."""
    add(jobs, "a", "partial", labels=NIGHT, tasks_total=10, tasks_completed=6)
    add(jobs, "b", "succeeded", labels=NIGHT, tasks_total=10, tasks_completed=10)
    add(jobs, "a.2", "running", labels=NIGHT, tasks_total=4, tasks_completed=1, parent_job_id="a")
    assert rows(cli)[0][:3] == ["sweep=night", "1 running, 1 succeeded", "17/20"]
    assert rows(cli, "--status", "partial")[0][:3] == ["sweep=night", "1 partial of 2 jobs", "6/10"]
    jobs.update_status("a.2", "cancelled")
    assert rows(cli)[0][:2] == ["sweep=night", "1 partial, 1 cancelled, 1 succeeded"]
    add(jobs, "c", "failed", labels={"sweep": "one"}, tasks_total=5)
    add(jobs, "c.2", "succeeded", labels={"sweep": "one"}, tasks_total=5, tasks_completed=5, parent_job_id="c")
    assert rows(cli, "--sort", "created")[1][:3] == ["sweep=one", "1 succeeded", "5/5"]
    assert "5 jobs, " in cli.ok("list").err


def test_rows_below_a_long_sweep_are_found(cli: Cli, jobs: JobRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing does not read all jobs of a sweep to come to the next row, and keeps the order."""
    monkeypatch.setattr("mopsjobs.cache.queries.sweeps.SKIPPED", 1)
    for number, name in enumerate("x-xxx-yy-zzz"):
        add(jobs, f"j-{number:02}", "succeeded", labels={} if name == "-" else {"sweep": name})
        cli.clock.advance(seconds=1)
    expected = ["sweep=z", "j-08", "sweep=y", "j-05", "sweep=x", "j-01"]
    assert [row[0] for row in rows(cli)] == expected
    assert [row[0] for row in rows(cli, "--limit", "5")] == expected[:5]


def test_a_thousand_jobs_are_one_row(cli: Cli, remote: Remote) -> None:
    """Also offline, and after a job has left the sweep."""
    for number in range(1000):
        remote.put(key(f"n-{number:04}"), foreign(f"n-{number:04}", "succeeded", labels=NIGHT, tasks_total=3))
    remote.put(key("other"), foreign("other", "running"))
    cli.ok("sync", "-q")
    ran = cli.ok("list", "--offline")
    assert sorted(line.split("  ")[0] for line in ran.lines[1:]) == ["other", "sweep=night"]
    assert "1,000 succeeded" in ran.out
    assert "1,001 jobs" in ran.err
    cli.ok("label", "n-0000", "sweep-")
    assert "999 succeeded" in cli.ok("list").out


def test_a_foreign_status_and_an_odd_name_are_shown_safely(cli: Cli, remote: Remote) -> None:
    """Another program may write any status, and any label."""
    name = "a b\x1b[31m'"
    remote.put(key("odd"), foreign("odd", "par\x1b[2Jked", labels={"sweep": name}))
    remote.put(key("even"), foreign("even", "succeeded", labels={"sweep": name, "x": "1"}))
    remote.put(key("none"), foreign("none", "succeeded", labels={"sweep": ""}))
    ran = cli.ok("list", "--refresh")
    assert "\x1b" not in ran.out + ran.err
    assert "ked, 1 succeeded" in ran.out
    assert "none" in ran.out


def test_watch_shows_the_same_rows(cli: Cli, jobs: JobRegistry, night: None) -> None:
    """On a terminal, and as the sweep changes. In a pipe, it has each job that changes, as before."""
    with terminal(command("watch", "--interval", "0.1s"), environment(cli, TERM="xterm"), columns=160) as screen:
        screen.until("sweep=night")
        screen.until("1 failed, 1 running, 1 pending, 1 succeeded")
        jobs.update_status("n-3", "succeeded")
        screen.until("1 failed, 1 pending, 2 succeeded")
        assert "n-1" not in screen.told
    cli.clock.on_sleep = lambda _count: (_ for _ in ()).throw(KeyboardInterrupt)
    assert {json.loads(line)["job_id"] for line in cli("watch", "--json").lines} == {"n-4"}
