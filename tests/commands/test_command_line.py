"""The command line itself: what it refuses, what it prints and where, how it ends, and the words of ModelOps."""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mops_jobs
from mopsjobs import __version__
from mopsjobs.cli.commands import COMMANDS, GROUPS
from mopsjobs.registry.job_registry import JobRegistry
from support.cli import Cli, Remote, add, command, environment, foreign, key, sentences
from support.desk import Desk
from support.docs import ROOT
from support.runs import PATIENCE, sets_of, tree
from support.servers import Azurite
from support.terminal import TerminalStream

STATUSES = "pending, submitting, scheduled, running, validating, succeeded, partial, failed, cancelled"
BAD_USAGE = {
    "list --registry https://a.blob.core.windows.net/c?sv=SECRET": "expected no query",
    "list --status flying": f"invalid status 'flying': expected one of {STATUSES}, active, done.",
    "list --hours 0": "invalid number of hours '0'",
    "list --max-age 5": "invalid duration '5'",
    "wait job --timeout 1y": "invalid duration '1y'",
    "list --hours 1 --since 2h": "--hours and --since",
    "list -q --fields job_id": "contradict each other",
    "list --limit -1": "--limit",
    "list --match [": "invalid regular expression '['",
    "list --label =x": "invalid label '=x'",
    "list --color pink": "invalid color mode 'pink'",
    "status a b": "unexpected argument: b",
    "wait a//b": "invalid job id",
    "list --stat running": "unknown flag '--stat'. Did you mean '--status'?",
    "list --quiet": "unknown flag '--quiet' of list: expected in front of the command.",
    "--hours 1": "unknown flag '--hours' in front of the command.",
    "--registry=sqlite:///r.db lis": "unknown command 'lis'. Did you mean 'list'?",
    "wait": "JOB",
    "update job": "Nothing to update.",
    "progress job ten": "invalid progress 'ten'",
    "help sbmit": "unknown command 'sbmit'. Did you mean 'submit'?",
    "list --format zzz": "unknown flag '--format'.\n",
    "list --status faild": "cancelled, active, done. Did you mean 'failed'?",
    "completion bsh": "invalid shell 'bsh': expected one of bash, zsh, tcsh, fish. Did you mean 'bash'?",
}


@pytest.mark.parametrize("line", BAD_USAGE)
def test_bad_usage_is_one_sentence(cli: Cli, line: str) -> None:
    """Wrong usage ends with 2, nothing on stdout, and one sentence that names it. A mistyped word gets the nearest one.

    No secret is repeated.
    """
    said = cli.fails(2, *line.split(" "))
    assert sentences(said)[0].startswith("error: ")
    assert BAD_USAGE[line] in said
    assert "SECRET" not in said


def test_a_secret_in_the_url_of_a_registry_gets_a_hint(cli: Cli) -> None:
    """It says where a SAS token belongs. So does a URL from the environment."""
    url = "https://a.blob.core.windows.net/c?sv=SECRET"
    for ran in (cli("list", "--registry", url), cli("list", MOPS_JOBS_REGISTRY=url)):
        assert "hint: Put a SAS token into AZURE_STORAGE_SAS_TOKEN." in ran.err


def test_a_secret_behind_a_mistyped_flag_is_not_printed(cli: Cli) -> None:
    """The message has the flag alone, not its value."""
    ran = cli("list", "--regsitry=https://a.blob.core.windows.net/c?sig=SECRET")
    assert "unknown flag '--regsitry'." in ran.err
    assert "SECRET" not in ran.err


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


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("argv", [("sync",), ("list",), ("status", "a"), ("cancel", "a"), ("progress", "a", "1")])
def test_no_network_exits_5(cli: Cli, argv: tuple[str, ...]) -> None:
    """A registry that cannot be reached: exit code 5, and one sentence that says where it should have been."""
    said = cli.fails(5, *argv, MOPS_JOBS_REGISTRY="http://127.0.0.1:1/devstoreaccount1/jobs")
    assert "127.0.0.1:1/devstoreaccount1/jobs" in said


def test_the_help_names_every_command_and_exit_code(cli: Cli) -> None:
    """Without arguments, or with `--help`, all commands in their groups and all exit codes are told."""
    ran = cli.ok("--help")
    assert ran.out == cli.ok().out
    for word in (*COMMANDS, *(f"  {group}:\n" for group in GROUPS), "0 done", "130 interrupted", "103 cancelled"):
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


def test_suggested_commands_repeat_the_registry(cli: Cli) -> None:
    """Without `--registry`, the next command would ask another registry, and call the job unknown."""
    url = f"sqlite://{cli.cache.parent}/my other.db"
    flag = f"--registry '{url}'"
    cli.ok("register", "there", "--registry", url)
    assert f"Next: mops-jobs wait {flag} there" in cli.ok("status", "there", "--registry", url).err
    assert cli("status", "nowhere", "--registry", url).err.endswith(f"run: mops-jobs list {flag}\n")
    assert cli("update", "nowhere", "running", "--registry", url).err.endswith(f"run: mops-jobs list {flag}\n")
    assert "Next: mops-jobs wait there" in cli.ok("status", "there", MOPS_JOBS_REGISTRY=url).err


@pytest.mark.parametrize("word", ["list", "sync", "status"])
def test_a_job_may_be_called_like_a_command(cli: Cli, jobs: JobRegistry, word: str) -> None:
    """A value that looks like a command is a value."""
    add(jobs, word, owner="list")
    assert cli.ok("status", word, "--json").json["job_id"] == word
    assert cli.ids("--owner", "list") == [word]


@pytest.mark.parametrize("argv", [("list",), ("register", "a"), ("doctor",)])
def test_a_registry_that_is_a_directory_is_told_in_one_sentence(cli: Cli, argv: tuple[str, ...]) -> None:
    """It cannot be used, now or later: exit code 4, and a hint, and it stays empty."""
    place = cli.cache.parent / "directory"
    place.mkdir()
    ran = cli.ends(4, *argv, "--registry", f"sqlite://{place}")
    assert f"invalid registry {place}: expected a file, not a directory." in ran.out + ran.err
    assert "--registry sqlite:///path/registry.db" in ran.out + ran.err
    if argv != ("doctor",):
        assert (ran.out, len(sentences(ran.err))) == ("", 1)
    assert not list(place.iterdir())


def _ran(cli: Cli, line: str, **streams: int) -> subprocess.CompletedProcess[str]:
    """Run a command whose other stream is read."""
    whole = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.run(command(*line.split()), **whole, env=environment(cli), text=True, check=False)  # type: ignore[call-overload,no-any-return]


@pytest.fixture
def closed() -> Iterator[int]:
    """Yield a pipe whose reader is gone before the first byte."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize(
    ("stream", "line", "code"),
    [
        ("stdout", "status job --exit-status", 100),
        ("stdout", "wait job --json", 100),
        ("stderr", "status job --exit-status", 100),
        ("stderr", "wait nothing", 3),
    ],
)
def test_a_closed_pipe_takes_no_exit_code_away(
    cli: Cli, jobs: JobRegistry, closed: int, stream: str, line: str, code: int
) -> None:
    """`status JOB --exit-status | head -1` under `pipefail`; and Ctrl-C into `2>&1 | tee log` ends `tee` first."""
    add(jobs, "job", "failed")
    ran = _ran(cli, line, **{stream: closed})
    assert (ran.returncode, "Broken" in f"{ran.stderr}") == (code, False)


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
        ran = _ran(cli, line, stdout=full.fileno())
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
        out, err = waiting.communicate(timeout=PATIENCE)
    assert (waiting.returncode, out, err) == (130, "", "")


def test_the_unexpected_is_one_sentence_and_a_traceback_only_when_asked(
    cli: Cli, jobs: JobRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect of mops-jobs ends with 1 and one sentence with a hint; with `-v` it shows where it is."""

    def broken(*args: object, **more: object) -> None:
        raise ZeroDivisionError("by\nzero")

    add(jobs, "a")
    monkeypatch.setattr("mopsjobs.cache.queries.jobs.list_jobs", broken)
    assert cli.fails(1, "list") == "error: Unexpected error: ZeroDivisionError: by zero\nhint: Add -v to see where.\n"
    with pytest.raises(ZeroDivisionError):
        cli("list", "-v")


@pytest.mark.slow
@pytest.mark.parametrize("line", ["list --json", "sync"])
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


# --- what comes from records -----------------------------------------------------------------------------------------

EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\u202etxt\u2066\u200f\x00\x7f"


@pytest.fixture
def evil(cli: Cli, remote: Remote) -> None:
    """Fill a registry with records that are full of escape sequences and marks that turn the writing direction."""
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


LINES = [
    "sync", "sync --json", "list", "list --json", "list --jsonl", "list --tsv", "list --offline -q",
    "list --fields job_id,owner,labels,metadata,error_message,transitions",
    "list --tsv --fields job_id,owner,labels,metadata,error_message,transitions", "status failed", "status running",
    "status odd", "status odd --json", "status bad-id --refresh", "wait failed odd --any",
    "wait odd --timeout 1s --json", "doctor", "doctor --json", "cancel odd", "update odd failed", "cancel running",
    "progress running 2", "update running failed --error x",
]  # fmt: skip


@pytest.mark.usefixtures("evil")
@pytest.mark.parametrize("color", ["never", "always"])
def test_no_escape_sequence_of_a_record_reaches_the_terminal(cli: Cli, color: str) -> None:
    """Whatever the records hold, neither stdout nor stderr has a control character that mops-jobs did not write."""
    for line in LINES:
        ran = cli(*line.split(), "--color", color)
        text = ran.out + ran.err
        assert text
        for code in ("0", "1", "2", *range(31, 37)):
            text = text.replace(f"\x1b[{code}m", "")
        assert not [char for char in text if not char.isprintable() and char not in "\n\t"], text


@pytest.mark.parametrize("word", ["a/../b", "x\x1b[31my", ""])
@pytest.mark.parametrize("argv", [("status",), ("cancel",)])
def test_an_impossible_job_id_is_named_harmlessly(cli: Cli, argv: tuple[str, ...], word: str) -> None:
    """An id with an empty part or a control character is wrong usage, and shown so that it cannot move a cursor."""
    assert not set(cli.fails(2, *argv, word)) & set("\x1b\u202e")


# --- colour ----------------------------------------------------------------------------------------------------------


COLOURS = [
    ("a pipe", False, "auto", {}, False),
    ("a pipe, always", False, "always", {}, True),
    ("a pipe, forced but NO_COLOR", False, "auto", {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ("a terminal", True, "auto", {}, True),
    ("a terminal, NO_COLOR", True, "auto", {"NO_COLOR": "1"}, False),
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
    """Colour only to a terminal, unless it is forced. `NO_COLOR` and `--color` are obeyed; the words say it all."""
    add(jobs, "a", "failed")
    stream = TerminalStream() if terminal else io.StringIO()
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
    stream = TerminalStream()
    monkeypatch.setattr(sys, "stdout", stream)
    for argv in (["list", "--color", "never"], ["status", "a", "--color", "never"], ["list", "--json"]):
        mops_jobs.main(argv, env=cli.env, now=cli.clock.now)
    text = stream.getvalue()
    assert "3m ago" in text
    assert "running, since 3m ago (2026-03-01 12:00:00Z)" in text
    assert '\n  "schema_version": 1,\n' in text


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
    """With `--json`, all of stdout is one JSON document, also after an outage; only sync may have none to print."""
    remote.put(key("a"), foreign("a"))
    remote.put(key("bad"), "{")
    cli("sync", "-q")
    assert cli.ok("list", "--json").json["total"] == 1
    remote.store.fail_next(1, "scan")
    ran = cli(*line.split(), *(["--refresh"] if line.startswith(("list", "status")) else []))
    if ran.out or not line.startswith("sync"):
        json.loads(ran.out)


@pytest.mark.parametrize(
    ("line", "same"),
    [
        ("list -h 48", "list --hours 48"),
        ("jobs list -h 48", "list --hours 48"),
        ("list --no-sync", "list"),
        ("--registry memory: jobs status a;b", "--registry memory: status a;b"),
        ("jobs sync", "reconcile"),
        ("submit study.json -b sha256:1", "submit study.json --bundle sha256:1"),
        ("validate JOB --force", "validate JOB"),
        ("results download JOB", "results JOB --download results/JOB"),
        ("jobs reconcile --validate JOB", "reconcile JOB"),
    ],
)
def test_what_means_the_same_is_taken(cli: Cli, line: str, same: str) -> None:
    """Both lines do the same, in words and exit code. `list -h 48` printed the help and succeeded."""
    here, there = cli(*same.split()), cli(*line.split())
    assert (there.code, there.out, there.err.replace("results download", "results")) == (here.code, here.out, here.err)
    assert "unknown flag" not in there.err


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("submit s.json -t cases", "mops-jobs does not evaluate targets. Use mops jobs submit, or run the simulations"),
        ("submit s.json --project-root ..", "submit packs the current directory. Change to the project first."),
        ("sync --dry-run", "sync updates the local cache. To ask the cluster, use mops-jobs reconcile."),
        ("jobs sync --no-validate", "reconcile has no --no-validate."),
        ("resume JOB --bundle sha256:1", "resume runs the code of the job. To run that of the current directory, use"),
        ("status JOB --watch", "status shows a job once. To follow it, use mops-jobs wait JOB."),
        (
            "jobs submit a;b",
            "mops jobs submit runs in the cluster. Use mops-jobs submit 'a;b' with --auto, and --engine",
        ),
        ("bundle push", "'bundle' is a command of ModelOps. Use mops bundle;"),
        ("infra up", "'infra' is a command of ModelOps. Use mops infra."),
    ],
)
def test_what_means_something_else_names_what_to_use(cli: Cli, line: str, answer: str) -> None:
    """In one sentence, where argparse knows only that the word is unknown."""
    assert sentences(cli.fails(2, *line.split()))[0].startswith(f"error: {answer}")


def test_a_flag_that_only_mops_jobs_lacks_is_still_unknown(cli: Cli) -> None:
    """The words of ModelOps are looked up by their command."""
    assert sentences(cli("list", "--force").err) == ["error: unknown flag '--force'."]
    assert "unknown command 'lisst'" in cli("jobs", "lisst").err


@pytest.mark.parametrize("line", ["list -h", "-h", "list --help -h", "status -h"])
def test_h_alone_is_help(cli: Cli, line: str) -> None:
    assert "usage: mops-jobs" in cli.ok(*line.split()).out


@pytest.mark.parametrize("command", ["resume", "validate"])
def test_what_can_be_done_with_a_job_of_modelops(cli: Cli, jobs: JobRegistry, command: str) -> None:
    """It has no manifest of mops-jobs, and its tasks lie elsewhere."""
    add(jobs, "job-1a2b", "running", k8s_name="job-1a2b")
    ran = cli(command, "job-1a2b")
    assert (ran.code, sentences(ran.err)) == (6, ["error: Job job-1a2b has no manifest: mops-jobs did not submit it."])
    assert "If ModelOps did, use mops jobs validate or mops jobs resume." in ran.err
    assert "If it is active, end it with mops-jobs update job-1a2b STATUS." in ran.err


def test_the_storage_of_an_environment_is_used(desk: Desk, azurite: Azurite, tmp_path: Path) -> None:
    """A job runs and is listed there. The key in the file is printed nowhere, and names of outputs may have spaces."""
    settings = json.dumps({"environment": "dev", "storage": {"connection_string": azurite.connection_string}})
    tree(Path(desk.env["HOME"]), {".modelops/bundle-env/dev.yaml": settings})
    (desk.home / "model.py").write_text("def simulate(params, seed): return {'daily cases.csv': b'day', 'n': b'1'}\n")
    study = desk.write(sets_of(2), outputs=["daily cases.csv"])
    ran = [desk.ok("submit", study, "--auto", "--job-id", "in-dev", "--wait", "-e", "dev")]
    ran.append(desk.ok("list", "-e", "dev", "--json"))
    listed = json.loads(ran[1].out)
    assert [job["job_id"] for job in listed["jobs"]] == ["in-dev"]
    assert listed["registry"].endswith("/job-registry")
    assert listed["registry_from"] == "flag --env dev"
    ran.append(desk.ok("status", "in-dev", "-e", "dev"))
    assert "Next: mops-jobs results -e dev in-dev --download DIR" in ran[-1].err
    ran.append(desk.ok("results", "in-dev", "--download", str(tmp_path / "out"), "--env", "dev"))
    assert [path.read_text() for path in (tmp_path / "out").glob("*/*/daily cases.csv")] == ["day", "day"]
    ran.append(desk.ok("config", "show", "-e", "dev", "-v"))
    assert list(desk.jobs.list_jobs()) == []
    assert not any(azurite.key in text for one in ran for text in (one.out, one.err))


def test_the_first_process_of_a_container_can_be_stopped_while_it_loads() -> None:
    """The kernel drops SIGTERM for a first process without a handler. It has one before it imports its modules."""
    program = """
import os, signal, sys
os.getpid = lambda: 1
sys.meta_path.insert(0, type("Stop", (), {"find_spec": staticmethod(
    lambda name, *_: signal.raise_signal(signal.SIGTERM) if name.startswith("mopsjobs") else None)}))
import mops_jobs
"""
    ran = subprocess.run([sys.executable, "-c", program], timeout=PATIENCE, check=False)
    assert ran.returncode == 128 + signal.SIGTERM


def test_a_stop_while_python_starts_is_kept_for_the_file(tmp_path: Path) -> None:
    """The image of a pod blocks SIGTERM before Python starts. The file gets it in its first lines."""
    python = tmp_path / "python3"
    said = "signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, []), sys.argv[1:]"
    python.write_text(f"#!{sys.executable}\nimport signal, sys\nprint({said})\n")
    python.chmod(0o755)
    script, path = ROOT / "examples" / "kubernetes" / "mops-jobs", f"{tmp_path}:{os.environ['PATH']}"
    started = subprocess.run(
        [script, "run", "a b"], env={"PATH": path}, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert started.stdout.strip() == "True ['/usr/local/lib/mops-jobs.pyz', 'run', 'a b']"
    program = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
os.kill(os.getpid(), signal.SIGTERM)
os.getpid = lambda: 1
exec(open(sys.argv[1]).read(), {"__name__": "bootstrap"})
"""
    bootstrap = [sys.executable, "-c", program, ROOT / "onefile" / "bootstrap.py"]
    assert subprocess.run(bootstrap, timeout=PATIENCE, check=False).returncode == 128 + signal.SIGTERM
