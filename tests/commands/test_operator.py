"""`doctor`, `config show`, `schema`, `completion`: what the operator asks."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mopsjobs import __version__
from mopsjobs.app.project_file import INSTEAD
from mopsjobs.cli.commands.schema import NAMES
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.azure.credentials import EMULATOR_KEY
from mopsjobs.utils.times import utc_now
from support.cli import REMOTE_URL, Cli, Remote, add, command, environment, foreign, key, put

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
    assert list(checks) == ["version", "config", "registry", "access", "retention", "cache", "records"]
    assert __version__ in str(checks["version"]["detail"])
    assert "(from environment MOPS_JOBS_REGISTRY)" in str(checks["registry"]["detail"])


def test_doctor_names_the_fix_for_a_first_run(cli: Cli) -> None:
    """Where nothing is there yet, it says what to type, and this is no failure."""
    checks = _checks(cli)
    assert checks["access"]["state"] == "warn"
    assert checks["access"]["fix"] == "check the path; if it is right: mops-jobs register JOB"
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
    [(0, "ok", "clock is "), (121, "warn", "clock is 2h "), (-121, "warn", "clock is 2h "), (8, "ok", "clock is ")],
)
def test_doctor_tells_how_far_the_clock_is_off(cli: Cli, azurite: Azurite, minutes: int, state: str, told: str) -> None:
    """Replies of Azure carry a time. Above what syncs forgive it is warned of, with a fix; a warning fails nothing."""
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
    """A directory that takes no files is no cache with nothing in it yet."""
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
    """A damaged cache is no reason to end: it is set aside, said so, and the other checks are made."""
    del cli.env["MOPS_JOBS_CACHE"]
    place = Path(cli.ok("config", "show", "--json").json["cache"]["value"])
    place.parent.mkdir(parents=True)
    place.write_bytes(b"garbage" * 1000)
    ran = cli("doctor")
    assert ran.code == 0
    assert "Set aside as" in ran.err
    assert "no file yet" in ran.out


# --- config ----------------------------------------------------------------------------------------------------------


def test_config_show_says_where_each_setting_came_from(cli: Cli) -> None:
    """Flag, environment, project file, user file, default: the first that speaks wins, and is named."""
    home = cli.cache.parent
    (home / ".mops-jobs.toml").write_text('registry = "sqlite:project.db"\nstale_after = "1h"\n')
    (home / ".config" / "mops-jobs").mkdir(parents=True)
    (home / ".config" / "mops-jobs" / "config.toml").write_text('stale_after = "2h"\ncolor = "never"\n')
    cli.env.pop("MOPS_JOBS_REGISTRY")
    shown = cli.ok("config", "show", "--json", "--cache", "here.db").json
    assert shown == {
        "registry": {"value": f"sqlite://{home}/project.db", "origin": f"file {home}/.mops-jobs.toml"},
        "cache": {"value": f"{home}/here.db", "origin": "flag --cache"},
        "color": {"value": "never", "origin": f"file {home}/.config/mops-jobs/config.toml"},
        "stale_after": {"value": "1h", "origin": f"file {home}/.mops-jobs.toml"},
    }
    table = cli.ok("config", "show", MOPS_JOBS_STALE_AFTER="3h").lines
    assert table[0].split() == ["SETTING", "VALUE", "FROM"]
    assert any(line.split() == ["stale_after", "3h", "environment", "MOPS_JOBS_STALE_AFTER"] for line in table)


EVERY = [
    ("list",), ("list", "-q"), ("status", "a"), ("summary",), ("query", "SELECT 1"), ("export",), ("events",),
    ("sync",), ("doctor",), ("config", "show"), ("metrics",), ("update", "a", "--label", "x=y"), ("schema",),
]  # fmt: skip


def test_each_command_names_the_project_file_that_it_obeys(cli: Cli) -> None:
    """A file of the study's directory may redirect the registry: each view says which one did, JSON included."""
    path = cli.cache.parent / ".mops-jobs.toml"
    path.write_text('registry = "sqlite:project.db"')
    for name in ("MOPS_JOBS_REGISTRY", "MOPS_JOBS_CACHE"):
        cli.env.pop(name)
    sentence = f"The registry is sqlite://{path.parent}/project.db, named by {path}"
    assert sentence in cli.ok("register", "a").err
    for argv in EVERY:
        assert sentence in cli.ok(*argv).err.splitlines(), argv
    for argv in (("list", "--json"), ("summary", "--json")):
        assert cli.ok(*argv).json["registry_from"] == f"file {path}"
    assert str(path) in cli.ok("doctor").out
    assert sentence not in cli.ok("list", "--registry", "sqlite:other.db").err
    assert cli.ok("sync", "-q").err == ""


def test_each_command_names_the_project_file_that_it_ignores(cli: Cli) -> None:
    """One line with path and reason, `-q` or not; the registry stays the one that it was."""
    path = cli.cache.parent / ".mops-jobs.toml"
    path.write_text('registry = "sqlite:project.db"\ncache = "~/.vim/plugin/x.vim"\n')
    path.chmod(0o666)
    cli.ok("register", "a")
    warning = f"warning: The project file {path} is ignored: every user may write to it. {INSTEAD}"
    for argv in (*EVERY, ("sync", "-q")):
        assert cli.ok(*argv).err.splitlines().count(warning) == 1, argv
    assert not (path.parent / "project.db").exists()


def test_with_nothing_set_the_registry_is_embedded(cli: Cli) -> None:
    """Nobody needs an account to try it: with no settings at all, the registry is a file in the data directory."""
    home = cli.env["HOME"]
    cli.env.clear()
    cli.env["HOME"] = home
    shown = cli.ok("config", "show", "--json").json
    assert shown["registry"] == {"value": f"sqlite://{home}/.local/share/mops-jobs/registry.db", "origin": "default"}
    assert shown["cache"]["value"].startswith(f"{home}/.cache/mops-jobs/")
    cli.ok("register", "first")
    assert cli.ids() == ["first"]


def test_each_registry_has_a_cache_of_its_own(cli: Cli) -> None:
    """Two registries never share a cache by default, not even two with names that look alike."""
    del cli.env["MOPS_JOBS_CACHE"]
    others = [REMOTE_URL.replace("/jobs", "/jobs-a"), REMOTE_URL.replace("/jobs", "/jobsa"), "azure://jobs"]
    urls = [REMOTE_URL, REMOTE_URL.replace("example", "examplea"), *others]
    paths = {cli.ok("config", "show", "--json", "--registry", url).json["cache"]["value"] for url in urls}
    assert len(paths) == len(urls)


# --- schema, completion ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_schema_prints_a_schema(cli: Cli, name: str) -> None:
    """Each is a complete JSON Schema, with nothing to be fetched from elsewhere."""
    schema = cli.ok("schema", name).json
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    text = json.dumps(schema)
    assert text.count('"$ref"') == text.count('"$ref": "#/$defs/')


def test_schema_is_that_of_list_by_default(cli: Cli) -> None:
    """Without a name, it is the schema of `list --json`."""
    assert cli.ok("schema").out == cli.ok("schema", "list").out


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_commands_and_flags(cli: Cli, shell: str) -> None:
    """The script of each shell completes the commands and the flags of each."""
    script = cli.ok("completion", shell).out
    for word in ("list", "status", "wait", "sync", "--refresh", "--fail-fast", "--exit-status"):
        assert word.removeprefix("--") in script


def test_the_bash_script_is_sound(cli: Cli) -> None:
    """Bash parses the script, and it completes `mops-jobs`."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("There is no bash.")
    script = cli.ok("completion", "bash").out + "\ncomplete -p mops-jobs\n"
    ran = subprocess.run([bash, "--norc"], input=script, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "mops-jobs" in ran.stdout


def _completed(cli: Cli, *words: str) -> list[str]:
    """What bash offers for the last of these words."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("There is no bash.")
    program = " ".join(shlex.quote(word) for word in command())
    line = f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; _shtab_mops_jobs"
    script = f"""{cli.ok("completion", "bash").out}
        mops-jobs() {{ {program} "$@"; }}
        command() {{ [ "$1" = mops-jobs ] && "$@"; }}
        {line}; printf '%s\\n' "${{COMPREPLY[@]}}" """
    ran = subprocess.run([bash, "--norc"], input=script, capture_output=True, text=True, env=environment(cli))
    assert (ran.returncode, ran.stderr) == (0, "")
    return sorted(ran.stdout.split())


def test_bash_completes_from_the_cache(cli: Cli, remote: Remote, tmp_path: Path) -> None:
    """Ids and owners are those of the cache as it lies, statuses those there are; nothing is sent to the registry."""
    for name, owner in (("night-1", "ada"), ("night-2", "alan"), ("day", f"$(touch {tmp_path}/ran)")):
        add(remote.jobs, name, owner=owner)
    cli.ok("sync")
    remote.store.down = True
    assert _completed(cli, "mops-jobs", "status", "ni") == ["night-1", "night-2"]
    assert _completed(cli, "mops-jobs", "wait", "day", "n") == ["night-1", "night-2"]
    assert _completed(cli, "mops-jobs", "logs", "") == ["day", "night-1", "night-2"]
    assert _completed(cli, "mops-jobs", "list", "--owner", "a") == ["ada", "alan"]
    assert _completed(cli, "mops-jobs", "list", "--status", "su") == ["submitting", "succeeded"]
    assert _completed(cli, "mops-jobs", "list", "--owner", "") == ["ada", "alan"], (
        "what a shell would expand is left out"
    )
    assert not (tmp_path / "ran").exists()


def test_without_a_cache_there_are_no_words_and_no_message(cli: Cli, remote: Remote) -> None:
    """Somebody who presses Tab reads no errors."""
    ran = cli.ok("completion", "--words", "jobs", "x")
    assert (ran.out, ran.err) == ("", "")
    assert cli("completion").code == 2
    assert cli("completion", "--words", "tasks", "").code == 2


@pytest.mark.parametrize(("shell", "words"), [("zsh", ["-n"]), ("tcsh", ["-f"])])
def test_other_shells_take_their_scripts(cli: Cli, tmp_path: Path, shell: str, words: list[str]) -> None:
    """The shell itself has nothing to say against its script."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"There is no {shell}.")
    script = tmp_path / "script"
    script.write_text(cli.ok("completion", shell).out)
    ran = subprocess.run([program, *words, str(script)], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
