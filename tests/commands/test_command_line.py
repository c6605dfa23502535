"""The command line itself: what it refuses, where it prints, how it ends."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from mopsjobs import __version__
from mopsjobs.cli.commands import COMMANDS, GROUPS
from mopsjobs.registry.job_registry import JobRegistry
from support.cli import Cli, add, sentences

if TYPE_CHECKING:
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
    "status a//b": "invalid job id",
    "status a b": "unexpected argument: b",
    "status @newest": "@latest",
    "wait a//b": "invalid job id",
    "list extra": "unexpected argument: extra",
    "list --stat running": "unknown flag '--stat'. Did you mean '--status'?",
    "sync --ful": "unknown flag '--ful'. Did you mean '--full'?",
    "sync --unknown": "unknown flag '--unknown'.",
    "list --quiet": "unknown flag '--quiet' of list: expected in front of the command.",
    "--registry sqlite:///r.db tasks job --quiet": "unknown flag '--quiet' of tasks: expected in front of the command.",
    "--hours 1": "unknown flag '--hours' in front of the command.",
    "--hours 1 list": "unknown flag '--hours' in front of the command.",
    "--registry=sqlite:///r.db lis": "unknown command 'lis'. Did you mean 'list'?",
    "-qv lis": "unknown command 'lis'. Did you mean 'list'?",
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
    """Wrong usage ends with 2, nothing on stdout, and one sentence that names it. No secret is repeated."""
    ran = cli(*line.split(" "))
    assert (ran.code, ran.out) == (2, "")
    assert len(sentences(ran.err)) == 1, ran.err
    assert sentences(ran.err)[0].startswith("error: ")
    assert BAD_USAGE[line] in ran.err
    assert "SECRET" not in ran.err


def test_a_secret_in_the_url_of_a_registry_gets_a_hint(cli: Cli) -> None:
    """It says where a SAS token belongs. So does a URL from the environment."""
    url = "https://a.blob.core.windows.net/c?sv=SECRET"
    for ran in (cli("list", "--registry", url), cli("list", MOPS_JOBS_REGISTRY=url)):
        assert "hint: Put a SAS token into AZURE_STORAGE_SAS_TOKEN." in ran.err


@pytest.mark.parametrize("word", ["a/../b", "x\x1b[31my", ""])
@pytest.mark.parametrize("argv", [("status",), ("cancel",)])
def test_an_impossible_job_id_is_named_harmlessly(cli: Cli, argv: tuple[str, ...], word: str) -> None:
    """An id with an empty part or a control character is wrong usage, and shown so that it cannot move a cursor."""
    ran = cli(*argv, word)
    assert (ran.code, ran.out, len(sentences(ran.err))) == (2, "", 1), ran.err
    assert not set(ran.err) & set("\x1b\u202e")


@pytest.mark.parametrize(
    ("text", "named"),
    [("colour = 'never'", "'colour'"), ("\x00", "not valid TOML")],
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


@pytest.mark.parametrize("argv", [("list",), ("register", "a")])
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


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("argv", [("sync",), ("list",), ("status", "a"), ("cancel", "a")])
def test_no_network_exits_5(cli: Cli, argv: tuple[str, ...]) -> None:
    """A registry that cannot be reached: exit code 5, and one sentence that says where it should have been."""
    ran = cli(*argv, MOPS_JOBS_REGISTRY="http://127.0.0.1:1/devstoreaccount1/jobs")
    assert (ran.code, ran.out, len(sentences(ran.err))) == (5, "", 1)
    assert "127.0.0.1:1/devstoreaccount1/jobs" in ran.err


def test_the_help_names_every_command_and_exit_code(cli: Cli) -> None:
    """Without arguments, or with `--help`, all commands and all exit codes are told."""
    ran = cli.ok("--help")
    assert ran.out == cli.ok().out
    for word in (*COMMANDS, "0 done", "130 interrupted", "103 cancelled"):
        assert word in ran.out
    assert "None" not in ran.out


def test_the_help_groups_the_commands(cli: Cli) -> None:
    """As users look for them; a flat list of all is too long to read."""
    text = cli.ok("--help", COLUMNS="400").out.partition("commands:\n")[2].partition("exit codes:")[0]
    parts = re.findall(r"^  ([a-z ]+):\n((?:    .+\n)+)", text, re.MULTILINE)
    groups = {title: re.findall(r"^    (\w+) ", lines, re.MULTILINE) for title, lines in parts}
    assert groups == {title: [*names] for title, names in GROUPS.items()}


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


@pytest.mark.parametrize("argv", [("list", "--owner", "\udce9"), ("status", "\udce9"), ("list", "--match", "\udce9")])
def test_words_that_are_not_utf_8_are_no_surprise(cli: Cli, argv: tuple[str, ...]) -> None:
    """Bytes from the command line that are not text match nothing, or are refused; they are never unexpected."""
    ran = cli(*argv)
    assert ran.code in (0, 2, 3)
    assert "Unexpected" not in ran.err
