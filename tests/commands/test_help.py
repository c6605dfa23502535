"""The help of each command, the nearest word for a mistyped one, and the schemas of the output."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

import mops_jobs
from mopsjobs.cli.commands import COMMANDS, load
from mopsjobs.cli.commands.care.schema import NAMES
from mopsjobs.cli.parser import EXAMPLES
from mopsjobs.utils.text import did_you_mean
from support.cli import Cli


def _commands(example: str) -> list[list[str]]:
    """Return the arguments of each call of mops-jobs in a shell command."""
    tokens = shlex.shlex(example, posix=True, punctuation_chars=True)
    tokens.whitespace_split = True
    calls: list[list[str]] = [[]]
    for token in tokens:
        if set(token) <= set("();<>|&"):
            calls.append([])
        else:
            calls[-1].append(token)
    return [call[1:] for call in calls if call[:1] == ["mops-jobs"]]


def test_examples_parse() -> None:
    """A command has two or three examples. Each calls it, and its arguments parse."""
    for name in COMMANDS:
        examples = load(name).EXAMPLES
        assert 2 <= len(examples) <= 3, name
        for example in examples:
            calls = _commands(example)
            assert name in {call[0] for call in calls}, example
            for call in calls:
                assert mops_jobs._parse(mops_jobs._join_sort_values(call)).command == call[0], example


def test_the_commands_of_the_demonstration_parse() -> None:
    """A flag that leaves, leaves it too."""
    lines = (Path(__file__).parents[2] / "examples/demo.sh").read_text(encoding="utf-8").splitlines()
    calls = [
        call for line in lines if line.startswith("mops-jobs ") for call in _commands(line.replace("$engine", "local"))
    ]
    assert len(calls) > 20
    for call in calls:
        assert mops_jobs._parse(mops_jobs._join_sort_values(call)).command == call[0], call


def test_the_help_of_the_program_ends_with_examples_too(cli: Cli) -> None:
    """They parse as well."""
    text = cli.ok("--help", COLUMNS="400").out
    assert text.endswith("".join(f"\n  {line}" for line in EXAMPLES) + "\n")
    for example in EXAMPLES:
        for call in _commands(example):
            assert mops_jobs._parse(mops_jobs._join_sort_values(call)).command == call[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_one_form(cli: Cli, name: str) -> None:
    """One line of usage, a sentence of what the command does, flags, and the examples at the end.

    `-h`, `--help` and `help COMMAND` print the same, and an unknown flag points there.
    """
    module = load(name)
    ran = cli.ok(name, "--help", COLUMNS="400")
    usage, empty, description = cli.ok(name, "--help").lines[:3]
    assert re.fullmatch(rf"usage: mops-jobs {name} (\S+ )*\[flags\]", usage)
    assert empty == ran.err == ""
    assert module.DESCRIPTION.startswith(description)
    assert re.match("[A-Z][a-z]+ .*[.]$", module.DESCRIPTION)
    assert re.match("[a-z]+ .*[^.]$", module.HELP)
    assert "--registry" in ran.out
    assert ran.out.endswith("".join(f"\n  {line}" for line in ("", *module.EXAMPLES))[4:] + "\n")
    assert not re.search(r"\(?default (?!:)\w", ran.out), ran.out
    assert "examples:\n" in ran.out
    assert cli.ok(name, "-h") == cli.ok("help", name) == cli.ok("-v", "help", name) == cli.ok(name, "--help")
    assert cli.fails(2, name, "--no-such-flag").splitlines()[-1] == f"hint: See: mops-jobs {name} --help"


def test_help_alone_lists_the_commands(cli: Cli) -> None:
    """`help` prints what `--help` prints, also if the configuration is broken."""
    assert cli.ok("help", MOPS_JOBS_REGISTRY="nonsense") == cli.ok("--help")
    assert cli.ok("help", "list", MOPS_JOBS_REGISTRY="nonsense") == cli.ok("list", "--help")


def test_a_word_that_shares_only_letters_gets_no_suggestion() -> None:
    """Two letters of three are near in a word that begins as typed."""
    assert did_you_mean("foo", ["timeout", "oom", "died"]) == ""
    assert did_you_mean("omo", ["timeout", "oom", "died"]) == " Did you mean 'oom'?"


@pytest.mark.parametrize("name", NAMES)
def test_schema_prints_a_schema(cli: Cli, name: str) -> None:
    """Each is a complete JSON Schema, with nothing to be fetched from elsewhere."""
    schema = cli.ok("schema", name).json
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    text = json.dumps(schema)
    assert text.count('"$ref"') == text.count('"$ref": "#/$defs/')
