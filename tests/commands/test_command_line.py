"""The command line itself: what it refuses, where it prints, how it ends."""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import mops_jobs
from mopsjobs import __version__
from mopsjobs.cli.commands import COMMANDS
from mopsjobs.registry.job_registry import JobRegistry
from support.cli import Cli, Remote, add, command, environment, foreign, key, sentences

if TYPE_CHECKING:
    from pathlib import Path

    from support.servers import Azurite

STATUSES = "pending, submitting, scheduled, running, validating, succeeded, partial, failed, cancelled"

BAD_USAGE = {
    "list --registry nonsense": "invalid registry URL 'nonsense'",
    "list --registry ftp://host/x": "invalid registry URL 'ftp://host/x'",
    "list --registry sqlite://relative.db": "three slashes",
    "list --registry azure://": "invalid container in the registry URL",
    "list --registry https://account.blob.core.windows.net": "invalid container in the registry URL",
    "list --registry https://a.blob.core.windows.net/c?sv=SECRET": "expected no query",
    "list --registry https://me:SECRET@a.blob.core.windows.net/c": "expected no user name or password",
    "sync --registry https://a.blob.core.windows.net/Bad_Name": "invalid container in the registry URL",
    "list --registry azure://job-registry/more": "expected azure://CONTAINER, and no more",
    "list --registry sqlite:///./x.db": "expected an absolute path",
    "list --registry sqlite:///a/../x.db": "expected an absolute path",
    "list --registry memory:x": "expected nothing after memory:",
    "list --status flying": f"invalid status 'flying': expected one of {STATUSES}, active, done.",
    "update job flying": f"invalid status 'flying': expected one of {STATUSES}.",
    "list --hours -1": "--hours",
    "list --hours soon": "invalid number of hours 'soon'",
    "list --hours nan": "invalid number of hours 'nan'",
    "list --hours 0": "invalid number of hours '0'",
    "list --since yesterday": "invalid time 'yesterday'",
    "list --until 2026-13-01": "invalid time '2026-13-01'",
    "list --max-age 5": "invalid duration '5'",
    "list --max-age 999999d": "expected at most a century",
    "wait job --timeout 1y": "invalid duration '1y'",
    "list --hours 1 --since 2h": "--hours and --since",
    "list --since 1h --until 2h": "expected --until after",
    "list --json --tsv": "not allowed with",
    "list --json -q": "not allowed with",
    "list -q --fields job_id": "contradict each other",
    "list --refresh --offline": "not allowed with",
    "list --max-age 5m --refresh": "not allowed with",
    "wait job --any --all": "not allowed with",
    "list --limit -1": "--limit",
    "list --limit many": "invalid limit 'many'",
    "list --sort color": "invalid sort column 'color'",
    "list --sort -": "invalid sort column ''",
    "list --fields nothing": "invalid field 'nothing'",
    "list --match [": "invalid regular expression '['",
    "list --match a{99999999999999999999}": "invalid regular expression",
    "list --label =x": "invalid label '=x'",
    "list --color pink": "invalid color mode 'pink'",
    "status a/b": "invalid job id",
    "status a b": "unexpected argument: b",
    "status @newest": "@latest",
    "wait a/b": "invalid job id",
    "list extra": "unexpected argument: extra",
    "list --stat running": "unknown flag '--stat'. Did you mean '--status'?",
    "sync --ful": "unknown flag '--ful'. Did you mean '--full'?",
    "sync --unknown": "unknown flag '--unknown'.",
    "status job --json=yes": "--json",
    "wait": "JOB",
    "flights": "flights",
    "flights list": "flights",
    "config hide": "hide",
    "schema nothing": "nothing",
    "completion ksh": "ksh",
    "progress job ten": "invalid progress 'ten'",
}


@pytest.mark.parametrize("line", BAD_USAGE)
def test_bad_usage_is_one_sentence(cli: Cli, line: str) -> None:
    """What makes no sense ends with 2, nothing on stdout, and one sentence that names it; no secret is repeated."""
    ran = cli(*line.split(" "))
    assert (ran.code, ran.out) == (2, "")
    assert len(sentences(ran.err)) == 1, ran.err
    assert sentences(ran.err)[0].startswith("error: ")
    assert BAD_USAGE[line] in ran.err
    assert "SECRET" not in ran.err


@pytest.mark.parametrize("word", ["a/b", "x\x1b[31my", "a\nb", "a\u202eb", "", ".."])
@pytest.mark.parametrize("argv", [("status",), ("wait",), ("cancel",), ("status", "--refresh")])
def test_an_impossible_job_id_is_named_harmlessly(cli: Cli, argv: tuple[str, ...], word: str) -> None:
    """An id with a slash or a control character is wrong usage, and shown so that it cannot move a cursor."""
    ran = cli(*argv, word)
    assert (ran.code, ran.out, len(sentences(ran.err))) == (2, "", 1), ran.err
    assert not set(ran.err) & set("\x1b\u202e")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("colour = 'never'", "'colour'"),
        ("color = 7", "color"),
        ("color = 'pink'", "'pink'"),
        ("color = ", "not valid TOML"),
        ("stale_after = 'soon'", "'soon'"),
        ("registry = 'nonsense'", "'nonsense'"),
        ("[registry]\nurl = 'memory:'", "registry"),
        ("\x00", "not valid TOML"),
    ],
)
def test_a_bad_configuration_file_is_named(cli: Cli, text: str, named: str) -> None:
    """A wrong key, type or value in a file: exit code 2 and one sentence that names the file."""
    path = cli.cache.parent / ".mops-jobs.toml"
    path.write_text(text)
    for name in ("MOPS_JOBS_REGISTRY", "MOPS_JOBS_CACHE"):
        cli.env.pop(name)
    ran = cli("list")
    assert (ran.code, ran.out, len(sentences(ran.err))) == (2, "", 1)
    assert named in ran.err
    assert str(path) in ran.err


@pytest.mark.parametrize("argv", [("list",), ("status", "a"), ("sync",), ("register", "a"), ("wait", "a")])
def test_no_credentials_say_what_was_tried(cli: Cli, argv: tuple[str, ...]) -> None:
    """A registry that nothing gives access to: exit code 4, and the sentence or its hint names the variables."""
    ran = cli(*argv, MOPS_JOBS_REGISTRY="azure://jobs")
    assert (ran.code, ran.out, len(sentences(ran.err))) == (4, "", 1)
    assert "AZURE_STORAGE_CONNECTION_STRING" in ran.err


@pytest.mark.parametrize("argv", [("sync",), ("list",), ("register", "a"), ("doctor",)])
def test_wrong_credentials_name_their_source(cli: Cli, azurite: Azurite, argv: tuple[str, ...]) -> None:
    """Credentials that are refused: exit code 4, and the sentence names their source, never their value."""
    wrong = "c2VjcmV0LXNlY3JldC1zZWNyZXQ="
    ran = cli(
        *argv,
        "-v",
        MOPS_JOBS_REGISTRY=f"{azurite.endpoint}/jobs",
        AZURE_STORAGE_ACCOUNT="devstoreaccount1",
        AZURE_STORAGE_KEY=wrong,
    )
    assert ran.code == 4
    assert "AZURE_STORAGE_KEY" in ran.out + ran.err
    assert wrong not in ran.out + ran.err


@pytest.mark.parametrize("argv", [("sync",), ("list",), ("status", "a"), ("cancel", "a")])
def test_no_network_exits_5(cli: Cli, argv: tuple[str, ...]) -> None:
    """A registry that cannot be reached: exit code 5, and one sentence that says where it should have been."""
    ran = cli(*argv, MOPS_JOBS_REGISTRY="http://127.0.0.1:1/devstoreaccount1/jobs")
    assert (ran.code, ran.out, len(sentences(ran.err))) == (5, "", 1)
    assert "127.0.0.1:1/devstoreaccount1/jobs" in ran.err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help(cli: Cli, name: str) -> None:
    """`-h` and `--help` print to stdout what the command does and each of its flags, and end with 0."""
    for flag in ("-h", "--help"):
        ran = cli.ok(name, flag)
        assert ran.out.startswith(f"usage: mops-jobs {name}")
        assert "--registry" in ran.out
        assert ran.err == ""


def test_the_help_names_every_command_and_exit_code(cli: Cli) -> None:
    """Without arguments, or with `--help`, all commands and all exit codes are told."""
    ran = cli.ok("--help")
    assert ran.out == cli.ok().out
    for word in (*COMMANDS, "0 done", "130 interrupted", "103 cancelled"):
        assert word in ran.out
    assert "None" not in ran.out


def test_the_version(cli: Cli) -> None:
    """`--version` prints name and version on stdout."""
    assert cli("--version") == (0, f"mops-jobs {__version__}\n", "")


def test_common_flags_stand_on_either_side(cli: Cli) -> None:
    """`--registry` and its like may stand before the command or after it."""
    other = f"sqlite://{cli.cache.parent}/other.db"
    cli.ok("--registry", other, "register", "there", "-q")
    cache = f"{cli.cache}.other"
    assert cli.ok("list", "-q", "--registry", other, "--cache", cache).lines == ["there"]
    assert cli.ok("--registry", other, "--cache", cache, "list", "-q").lines == ["there"]
    assert cli.ids() == []


@pytest.mark.parametrize("word", ["list", "sync", "status"])
def test_a_job_may_be_called_like_a_command(cli: Cli, jobs: JobRegistry, word: str) -> None:
    """A value that looks like a command is a value."""
    add(jobs, word, owner="list")
    assert cli.ok("status", word, "--json").json["job_id"] == word
    assert cli.ids("--owner", "list") == [word]


# --- what comes from records -----------------------------------------------------------------------------------------

EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\u202etxt\u2066\u200f\x00\x7f"


@pytest.fixture
def evil(cli: Cli, remote: Remote) -> None:
    """A registry whose records are full of escape sequences and marks that turn the writing direction."""
    names = ("k8s_name", "k8s_namespace", "k8s_uid", "owner", "engine", "error_code", "error_message", "results_path")
    texts = {name: f"{name}{EVIL}" for name in (*names, "parent_job_id")}
    more = {"labels": {f"k{EVIL}": f"v{EVIL}"}, "metadata": {EVIL: EVIL}, "last_validation_error": EVIL}
    steps = [{"status": f"odd{EVIL}", "at": "2026-03-01T10:00:00Z", "id": EVIL}]
    more |= {"missing_outputs": [EVIL], "transitions": steps, "tasks_total": 3}
    for name, status in (("failed", "failed"), ("running", "running"), ("odd", f"odd{EVIL}"[:60])):
        remote.put(key(name), foreign(name, status, **texts, **more))
    remote.put(key("bad-time"), foreign("bad-time", created_at=EVIL))
    remote.put(key("bad-id"), foreign(EVIL))
    remote.put(key("bad-json"), f"{{{EVIL}")
    assert cli("sync", "-q").code == 7


@pytest.mark.usefixtures("evil")
@pytest.mark.parametrize(
    "line",
    [
        "sync", "sync --json", "list", "list --json", "list --jsonl", "list --tsv", "list --offline -q",
        "list --fields job_id,owner,labels,metadata,error_message,transitions",
        "list --tsv --fields job_id,owner,labels,metadata,error_message,transitions", "status failed", "status running",
        "status odd", "status odd --json", "status bad-id --refresh", "wait failed odd --any",
        "wait odd --timeout 1s --json", "doctor", "doctor --json", "cancel odd", "update odd failed", "cancel running",
        "progress running 2", "update running failed --error x",
    ],
)  # fmt: skip
@pytest.mark.parametrize("color", ["never", "always"])
def test_no_escape_sequence_of_a_record_reaches_the_terminal(cli: Cli, line: str, color: str) -> None:
    """Whatever the records hold, neither stdout nor stderr has a control character that is not ours."""
    ran = cli(*line.split(), "--color", color)
    assert ran.out + ran.err
    text = ran.out + ran.err
    for code in ("0", "1", "2", *range(31, 37)):
        text = text.replace(f"\x1b[{code}m", "")
    allowed = set("\n\t")
    assert not [char for char in text if not char.isprintable() and char not in allowed], text


# --- colour ----------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


COLOURS = [
    ("a pipe", False, "auto", {}, False),
    ("a pipe, always", False, "always", {}, True),
    ("a pipe, forced", False, "auto", {"CLICOLOR_FORCE": "1"}, True),
    ("a pipe, forced but NO_COLOR", False, "auto", {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ("a terminal", True, "auto", {}, True),
    ("a terminal, never", True, "never", {}, False),
    ("a terminal, NO_COLOR", True, "auto", {"NO_COLOR": "1"}, False),
    ("a terminal, NO_COLOR empty", True, "auto", {"NO_COLOR": ""}, True),
    ("a terminal, NO_COLOR but always", True, "always", {"NO_COLOR": "1"}, True),
    ("a dumb terminal", True, "auto", {"TERM": "dumb"}, False),
]


@pytest.mark.parametrize(("case", "terminal", "flag", "env", "colored"), COLOURS, ids=[case[0] for case in COLOURS])
def test_colour_goes_where_it_is_wanted(
    cli: Cli,
    jobs: JobRegistry,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
    terminal: bool,
    flag: str,
    env: dict[str, str],
    colored: bool,
) -> None:
    """Colour only to a terminal, unless it is forced; `NO_COLOR` and `--color` are obeyed; the words say it all."""
    add(jobs, "a", "failed")
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    assert mops_jobs.main(["list", "--color", flag], env={**cli.env, **env}, now=cli.clock.now) == 0
    assert ("\x1b[31mfailed\x1b[0m" in stream.getvalue()) is colored
    assert "failed" in stream.getvalue()


def test_a_terminal_gets_relative_times_and_indented_json(
    cli: Cli, jobs: JobRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person reads how long ago something was, and JSON in lines; a pipe gets neither."""
    add(jobs, "a", "running")
    cli.clock.advance(minutes=3)
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    for argv in (["list", "--color", "never"], ["status", "a", "--color", "never"], ["list", "--json"]):
        mops_jobs.main(argv, env=cli.env, now=cli.clock.now)
    text = stream.getvalue()
    assert "3m ago" in text
    assert "running, since 3m ago (2026-03-01 12:00:00Z)" in text
    assert '\n  "schema_version": 1,\n' in text


# --- how it ends -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        *("list --json --limit 0", "list --tsv --limit 0", "list --limit 0", "completion bash", "export"),
        *("export --format csv", "--version", "--help", "list --help"),
    ],
)
def test_a_closed_pipe_ends_quietly(cli: Cli, jobs: JobRegistry, line: str) -> None:
    """When the reader has had enough, as `head` does, the command ends with 0 and without a word."""
    for number in range(300):
        add(jobs, f"job-{number:03}", metadata={"filler": "x" * 900})
    reader, writer = os.pipe()
    os.close(reader)  # the reader is gone before the first byte
    ran = subprocess.run(
        command(*line.split()), stdout=writer, stderr=subprocess.PIPE, env=environment(cli), text=True, check=False
    )
    os.close(writer)
    said = [line for line in ran.stderr.splitlines() if "jobs, live" not in line]
    assert (ran.returncode, said) == (0, [])


@pytest.mark.parametrize(
    ("line", "code"),
    [("status job --exit-status", 100), ("status job --exit-status --json", 100), ("wait job --json", 100)],
)
def test_a_closed_pipe_takes_no_exit_code_away(cli: Cli, jobs: JobRegistry, line: str, code: int) -> None:
    """`status JOB --exit-status | head -1` under `pipefail`: a job that failed has not succeeded."""
    add(jobs, "job", "failed")
    reader, writer = os.pipe()
    os.close(reader)
    ran = subprocess.run(
        command(*line.split()), stdout=writer, stderr=subprocess.PIPE, env=environment(cli), text=True, check=False
    )
    os.close(writer)
    assert (ran.returncode, "Broken" in ran.stderr) == (code, False)


@pytest.mark.parametrize(("line", "code"), [("status job --exit-status", 100), ("wait job", 100), ("wait nothing", 3)])
def test_nobody_who_hears_is_no_reason_to_end_otherwise(cli: Cli, jobs: JobRegistry, line: str, code: int) -> None:
    """Ctrl-C into `2>&1 | tee log` ends `tee` first."""
    add(jobs, "job", "failed")
    reader, writer = os.pipe()
    os.close(reader)
    ran = subprocess.run(
        command(*line.split()), stdout=subprocess.PIPE, stderr=writer, env=environment(cli), text=True, check=False
    )
    os.close(writer)
    assert ran.returncode == code


def test_a_directory_that_is_gone_stops_nobody(cli: Cli, jobs: JobRegistry, tmp_path: Path) -> None:
    """A job's script has removed its scratch directory, and reports the end."""
    add(jobs, "job", "running")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    words = ["sh", "-c", 'cd "$0" && rmdir "$0" && exec "$@"', str(scratch), *command("update", "job", "succeeded")]
    ran = subprocess.run(words, env=environment(cli), capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "job: succeeded\n")


@pytest.mark.parametrize("line", ["--version", "list --help"])
def test_help_that_cannot_be_written_is_told(cli: Cli, line: str) -> None:
    """As for any other output: one sentence and 1, where Python's own end would be a complaint and 120."""
    with open("/dev/full", "wb") as full:
        ran = subprocess.run(
            command(*line.split()), stdout=full, stderr=subprocess.PIPE, env=environment(cli), text=True, check=False
        )
    assert (ran.returncode, ran.stderr) == (1, "error: Cannot write: No space left on device.\n")


def test_an_interrupt_ends_with_130(cli: Cli, jobs: JobRegistry) -> None:
    """Ctrl-C while waiting ends at once with 130, without a traceback."""
    add(jobs, "a", "running")
    with subprocess.Popen(
        command("wait", "a"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(cli),
        text=True,
        # A shell that runs the tests in the background has its children ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no thread holds a lock of the signal module
    ) as waiting:
        assert waiting.stderr is not None
        assert waiting.stderr.readline() == "a: running\n"
        waiting.send_signal(signal.SIGINT)
        out, err = waiting.communicate(timeout=30)
    assert (waiting.returncode, out, err) == (130, "", "")


def test_the_unexpected_is_one_sentence_and_a_traceback_only_when_asked(
    cli: Cli, jobs: JobRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect of ours ends with 1 and one sentence with a hint; with `-v` it shows where it is."""

    def broken(*args: object, **more: object) -> None:
        raise ZeroDivisionError("by\nzero")

    add(jobs, "a")
    monkeypatch.setattr("mopsjobs.cache.queries.jobs.list_jobs", broken)
    ran = cli("list")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "error: Unexpected error: ZeroDivisionError: by zero\nhint: Add -v to see where.\n"
    with pytest.raises(ZeroDivisionError):
        cli("list", "-v")


@pytest.mark.slow
@pytest.mark.parametrize(
    "line", ["list", "list --json", "status a", "sync", "doctor", "help", "config show", "--version"]
)
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_stream_closed_before_the_start_is_no_surprise(cli: Cli, jobs: JobRegistry, line: str, closed: str) -> None:
    """With stdout or stderr closed, what would go there goes nowhere, and the command does its work."""
    add(jobs, "a")
    words = shlex.join(command(*line.split()))
    ran = subprocess.run(
        ["sh", "-c", f"{words} {closed}"], capture_output=True, env=environment(cli), text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "Unexpected" not in ran.stderr


def test_a_missing_library_is_told_with_how_to_install_it(cli: Cli) -> None:
    """Run from the sources without its libraries, the command says which one is missing and what to type."""
    python = [sys.executable, "-S", *command("sync", "--registry", "https://acct.blob.core.windows.net/c-1")[1:]]
    ran = subprocess.run(python, capture_output=True, env=environment(cli), text=True, check=False)
    assert (ran.returncode, ran.stdout, len(sentences(ran.stderr))) == (1, "", 1)
    assert " is not installed." in ran.stderr
    assert "python -m pip install" in ran.stderr


@pytest.mark.parametrize(
    "argv", [("list",), ("sync",), ("register", "a"), ("status", "a"), ("cancel", "a"), ("doctor",)]
)
def test_a_registry_that_is_a_directory_is_told_in_one_sentence(cli: Cli, argv: tuple[str, ...]) -> None:
    """It cannot be used, now or later: exit code 4, and a hint, and it stays empty."""
    place = cli.cache.parent / "directory"
    place.mkdir()
    ran = cli(*argv, "--registry", f"sqlite://{place}")
    assert ran.code == 4
    assert f"invalid registry {place}: expected a file, not a directory." in ran.out + ran.err
    assert "--registry sqlite:///path/registry.db" in ran.out + ran.err
    if argv != ("doctor",):
        assert (ran.out, len(sentences(ran.err))) == ("", 1)
    assert not list(place.iterdir())


def test_a_registry_that_cannot_be_made_is_a_matter_of_access(cli: Cli) -> None:
    """A path below a file: exit code 4, one sentence and a hint where else it might go."""
    (cli.cache.parent / "file").write_text("")
    ran = cli("register", "a", "--registry", f"sqlite://{cli.cache.parent}/file/registry.db")
    assert (ran.code, ran.out, len(sentences(ran.err))) == (4, "", 1)
    assert "Cannot create the registry" in ran.err
    assert "hint: Name another place: --registry" in ran.err


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_flag_points_to_the_help_of_its_command(cli: Cli, name: str) -> None:
    """The hint names the command's own help, which lists the flags that there are."""
    ran = cli(name, "--no-such-flag")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.splitlines()[-1] == f"hint: See: mops-jobs {name} --help"


QUIET = ["status a", "wait ended", "sync", "doctor", "config show", "schema", "completion bash", "update a running"]


@pytest.mark.parametrize("line", QUIET)
def test_quiet_is_known_to_every_command(cli: Cli, jobs: JobRegistry, line: str) -> None:
    """`-q` silences what was not asked for, and changes nothing of what was; in `list` it means ids."""
    add(jobs, "a", "running")
    add(jobs, "ended", "succeeded")
    asked = cli.ok(*line.split()).out
    for flag in ("-q", "--quiet"):
        ran = cli.ok(*line.split(), flag)
        assert ran.err == ""
        assert ran.out == ("" if line == "sync" else asked)
    assert sorted(cli.ok("list", "-q").lines) == ["a", "ended"]


@pytest.mark.parametrize("line", ["list --json", "status a --json", "sync --json", "doctor --json", "cancel a --json"])
def test_stdout_is_nothing_but_data(cli: Cli, remote: Remote, line: str) -> None:
    """With `--json`, all of stdout is one JSON document, even when there is something to warn of."""
    remote.put(key("a"), foreign("a"))
    remote.put(key("bad"), "{")
    cli("sync", "-q")
    assert cli.ok("list", "--json").json["total"] == 1
    remote.store.fail_next(1, "scan")
    ran = cli(*line.split(), *(["--refresh"] if line.startswith(("list", "status")) else []))
    if ran.code != 5:
        json.loads(ran.out)
    else:
        assert line.startswith(("sync", "doctor"))


@pytest.mark.parametrize("argv", [("list", "--owner", "\udce9"), ("status", "\udce9"), ("list", "--label", "a=\udce9"),
                                  ("list", "--name", "\udce9*"), ("list", "--match", "\udce9")])  # fmt: skip
def test_words_that_are_not_utf_8_are_no_surprise(cli: Cli, argv: tuple[str, ...]) -> None:
    """Bytes from the command line that are no text match nothing, or are refused; they are never unexpected."""
    ran = cli(*argv)
    assert ran.code in (0, 2, 3)
    assert "Unexpected" not in ran.err


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_stream_that_cannot_show_a_character_is_no_surprise(cli: Cli, jobs: JobRegistry, encoding: str) -> None:
    """Text beyond what the terminal's encoding knows is shown by an escape, and the rest as it is."""
    add(jobs, "a", "failed", owner="Zoë 你好")
    for argv in (("list",), ("status", "a"), ("list", "--json"), ("list", "--tsv")):
        ran = subprocess.run(
            command(*argv), capture_output=True, env=environment(cli, PYTHONIOENCODING=encoding), check=False
        )
        assert ran.returncode == 0, ran.stderr
        assert b"failed" in ran.stdout


ENDS = """
import atexit, sys, threading, time
import mops_jobs
atexit.register(print, "asked for at the end")
stop = threading.Event()
def late():
    stop.wait()
    print("a thread's last words")
threading.Thread(target=late, daemon=sys.argv[1] == "daemon").start()
threading.Timer(0, stop.set).start() if sys.argv[1] != "daemon" else None
mops_jobs._exit_fast(3)
"""


@pytest.mark.parametrize(("kind", "words"), [("daemon", ""), ("waited-for", "a thread's last words\n")])
def test_an_end_at_once_leaves_nothing_out(kind: str, words: str) -> None:
    """Threads that are to be waited for are, and what libraries want done at the end is done; output is all there."""
    env = {**os.environ, "PYTHONPATH": os.path.dirname(mops_jobs.__file__)}
    ran = subprocess.run([sys.executable, "-c", ENDS, kind], capture_output=True, text=True, env=env)
    assert (ran.returncode, ran.stdout) == (3, words + "asked for at the end\n")
