"""Words of ModelOps' command line that mops-jobs does not have: what they mean here, or what to type instead.

A command line is looked up here only after its parser has refused it, so these words cost a valid one nothing.
"""

from __future__ import annotations

import itertools
import re
import shlex

from mopsjobs.errors import UsageError

_GROUP = "jobs"
"""The group of ModelOps' commands on jobs: `mops jobs list`."""

_RENAMED = {"sync": "reconcile"}
"""Commands of that group which have another name here."""

_NO_TARGETS = "mops-jobs does not evaluate targets. Use mops jobs submit, or run the simulations with --without-targets"
_CACHE_ONLY = "sync updates the local cache. To ask the cluster, use mops-jobs reconcile"
_OWN_CODE = "resume runs the code of the job. To run that of the current directory, use --auto"

WORDS: dict[tuple[str, str], tuple[str, ...] | str] = {
    # command, word: the words that mean the same here, or the error that names what to use
    ("list", "--no-sync"): (),  # no list asks a cluster
    ("submit", "-b"): ("--bundle",),
    ("submit", "--no-auto"): (),  # the default
    **{("submit", flag): _NO_TARGETS for flag in ("-t", "--target", "--target-set")},
    ("submit", "--project-root"): "submit packs the current directory. Change to the project first",
    **{("sync", flag): _CACHE_ONLY for flag in ("--dry-run", "--validate", "--no-validate")},
    ("reconcile", "--dry-run"): "reconcile has no dry run. It prints each change, as JSON with --json",
    ("reconcile", "--validate"): (),
    ("reconcile", "--no-validate"): "reconcile has no --no-validate. It ends no job as succeeded without its outputs",
    ("validate", "--force"): (),  # outputs are always compared anew
    **{("resume", flag): _OWN_CODE for flag in ("-b", "--bundle")},
    ("resume", "--dry-run"): "resume has no dry run. To see its tasks, use mops-jobs tasks JOB --status failed,missing",
    **{("status", flag): "status shows a job once. To follow it, use mops-jobs wait JOB" for flag in ("-w", "--watch")},
    **{
        ("", group): f"'{group}' is a command of ModelOps. Use mops {group}"
        for group in ("adaptive", "cleanup", "cluster", "dev", "infra", "job", "registry", "storage", "workspace")
    },
    ("", "bundle"): "'bundle' is a command of ModelOps. Use mops bundle; submit --auto packs code without it",
    ("", "init"): "'init' is a command of ModelOps. Use mops init; submit --auto needs no project",
}

_FLAGS_WITH_VALUE = ("--registry", "-e", "--env", "--cache", "--color")
"""Flags that may stand in front of a command."""


def translate(words: list[str]) -> list[str] | None:
    """Return a refused command line in the words of mops-jobs; None if it has no words of ModelOps.

    Raises:
        UsageError: if a word means nothing here. The message says what to use.
    """
    place = _place_of_command(words)
    before, command, rest = words[:place], "".join(words[place : place + 1]), words[place + 1 :]
    if command == _GROUP:
        command, *rest = rest or ["list"]
        if command == "submit":
            line = shlex.join(["mops-jobs", "submit", *rest])
            raise UsageError(f"mops jobs submit runs in the cluster. Use {line} with --auto, and --engine kubernetes.")
        return [*before, _RENAMED.get(command, command), *rest]
    if command == "results" and rest[:1] == ["download"] and rest[1:]:
        return [*before, command, *_download(rest[1:])]
    _meaning("", command)
    here = [word for given in rest for word in _meaning(command, given)]
    here = [_hours(*pair) for pair in itertools.pairwise([*here, ""])]
    return None if here == rest else [*before, command, *here]


def _place_of_command(words: list[str]) -> int:
    place = 0
    while place < len(words) and words[place].startswith("-"):
        place += 2 if words[place] in _FLAGS_WITH_VALUE else 1
    return place


def _meaning(command: str, word: str) -> list[str]:
    """Return the words that a word means here.

    Raises:
        UsageError: if it means nothing here.
    """
    name, equals, value = word.partition("=")
    meaning = WORDS.get((command, name), (name,))
    if isinstance(meaning, str):
        raise UsageError(f"{meaning}.")
    return [f"{here}{equals}{value}" for here in meaning]


def _hours(word: str, following: str) -> str:
    """Return `-h 48`, `-h48` and `-h=48` as `--hours`, by a word and the one that follows it."""
    hours = re.fullmatch(r"-h=?(\d+)", word)
    if hours is not None:
        return f"--hours={hours[1]}"
    return "--hours" if word == "-h" and following.isdecimal() else word


def _download(words: list[str]) -> list[str]:
    """Return the words for `results download JOB`, which writes to `results/JOB` by default."""
    job, *rest = words
    if rest[:1] in (["-o"], ["--output"]):
        return [job, "--download", *rest[1:]]
    return [job, "--download", f"results/{job}", *rest]
