"""`completion`: print a script that makes a shell complete the command line, with ids and owners from the cache."""

from __future__ import annotations

import argparse
import contextlib

from mopsjobs.app.run.app import App
from mopsjobs.cache.queries.jobs import completion_words
from mopsjobs.cache.queries.task_filters import STATUSES
from mopsjobs.cli.parser import build_parser
from mopsjobs.console.result import RawText, Result, Tsv
from mopsjobs.errors import MopsJobsError, UsageError
from mopsjobs.events.format import KINDS
from mopsjobs.registry.status import GROUPS, JobStatus
from mopsjobs.utils.text import invalid_choice

HELP = "print a completion script for a shell"

DESCRIPTION = "Print a script that completes commands, flags, statuses, and the job ids and owners in the local cache."

EXAMPLES = (
    "mops-jobs completion bash > ~/.local/share/bash-completion/completions/mops-jobs",
    "mops-jobs completion zsh > ~/.zfunc/_mops-jobs",
    "mops-jobs completion fish > ~/.config/fish/completions/mops-jobs.fish",
)

SHELLS = ("bash", "zsh", "tcsh", "fish")

WORDS = ("jobs", "names", "active", "owners")
"""Ids, ids and `@latest`, those of jobs that have not ended, owners."""

_BASH = """
_mops_jobs_words() { command mops-jobs completion --words "$1" "$2" 2>/dev/null; }
"""

_ZSH = """
_mops_jobs_words() {
  local -a found
  found=(${(f)"$(command mops-jobs completion --words "$1" "$PREFIX" 2>/dev/null)"})
  compadd -a found
}
"""

PREAMBLE = {
    "bash": _BASH + "".join(f'_mops_jobs_complete_{kind}() {{ _mops_jobs_words {kind} "$1"; }}\n' for kind in WORDS),
    "zsh": _ZSH + "".join(f"_mops_jobs_complete_{kind}() {{ _mops_jobs_words {kind} }}\n" for kind in WORDS),
}
"""The functions by which the scripts read words from the cache: they call this command, which never syncs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("shell", metavar="SHELL", nargs="?", choices=SHELLS, help=f"one of {', '.join(SHELLS)}")
    parser.add_argument("--words", nargs="+", metavar="WORD", help=argparse.SUPPRESS)  # for the scripts


def run(args: argparse.Namespace, app: App) -> Result:
    """Print the script, or the words that a script asks for."""
    if args.words is not None:
        kind, *prefix = args.words  # tcsh does not pass what is typed already
        return _words(kind, "".join(prefix), app)
    if args.shell is None:
        raise UsageError(f"missing shell: expected one of {', '.join(SHELLS)}.")
    import shtab

    parser = build_parser()
    commands = next(one for one in parser._actions if isinstance(one, argparse._SubParsersAction))  # noqa: SLF001
    for name, command in commands.choices.items():
        for action in command._actions:  # noqa: SLF001 - argparse has no public way to walk a parser
            _describe(name, action)
    script = shtab.complete(parser, shell=args.shell, preamble=PREAMBLE.get(args.shell, ""))
    if args.shell == "zsh":  # shtab completes only the first of arguments that repeat
        script = script.replace('"(*)::', '"*:').replace('"(*):', '"*:')
    return Result(RawText(script))


def _words(kind: str, prefix: str, app: App) -> Result:
    """Return words from the cache. If the cache cannot be read, there are none, and no message disturbs the prompt."""
    if kind not in WORDS:
        raise UsageError(invalid_choice("kind of words", kind, WORDS))
    found = None
    with contextlib.suppress(MopsJobsError):
        found = app.cache.read_cached(lambda cache: completion_words(cache, kind, prefix))
    return Result(Tsv([(word,) for word in found or ()]))


def _describe(command: str, action: argparse.Action) -> None:
    """Tell shtab what completes an argument of a command."""
    if action.nargs == 0:
        return
    if "--status" in action.option_strings:
        action.choices = STATUSES if command == "tasks" else [*map(str, JobStatus), *GROUPS]
    if "--kind" in action.option_strings:
        action.choices = KINDS
    kind = "owners" if "--owner" in action.option_strings else None
    if action.metavar == "JOB":
        kind = "active" if command == "wait" else "names" if "@latest" in (action.help or "") else "jobs"
    if kind is not None:
        action.complete = {  # type: ignore[attr-defined]
            **dict.fromkeys(("bash", "zsh"), f"_mops_jobs_complete_{kind}"),
            "tcsh": f"`mops-jobs completion --words {kind}`",
            "fish": f"(command mops-jobs completion --words {kind} (commandline -ct) 2>/dev/null)",
        }
