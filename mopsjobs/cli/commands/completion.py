"""`completion`: a script that makes a shell complete the command line, ids and owners from the cache included."""

from __future__ import annotations

import argparse

from mopsjobs.app.app import App
from mopsjobs.cli.flags import add_command
from mopsjobs.console.result import RawText, Result, Tsv
from mopsjobs.errors import MopsJobsError, UsageError
from mopsjobs.registry.status import GROUPS, JobStatus

TYPE_CHECKING = False

if TYPE_CHECKING:
    from mopsjobs.cli.commands import Commands


SHELLS = ("bash", "zsh", "tcsh", "fish")


WORDS = ("jobs", "owners")


EXAMPLES = """examples:
  mops-jobs completion bash > ~/.local/share/bash-completion/completions/mops-jobs
  mops-jobs completion zsh > ~/.zfunc/_mops-jobs
  mops-jobs completion fish > ~/.config/fish/completions/mops-jobs.fish
"""


PREAMBLE = {
    "bash": """
_mops_jobs_words() { command mops-jobs completion --words "$1" "$2" 2>/dev/null; }
_mops_jobs_complete_jobs() { _mops_jobs_words jobs "$1"; }
_mops_jobs_complete_owners() { _mops_jobs_words owners "$1"; }
""",
    "zsh": """
_mops_jobs_words() {
  local -a found
  found=(${(f)"$(command mops-jobs completion --words "$1" "$PREFIX" 2>/dev/null)"})
  compadd -a found
}
_mops_jobs_complete_jobs() { _mops_jobs_words jobs }
_mops_jobs_complete_owners() { _mops_jobs_words owners }
""",
    "tcsh": "",
    "fish": "",
}
"""What the scripts call for words of the cache: this command, which looks at the cache as it lies."""


def add_parser(name: str, commands: Commands, parents: list[argparse.ArgumentParser]) -> None:
    """Declare `completion`."""
    parser = add_command(
        commands,
        name,
        parents,
        help="print a completion script for a shell",
        description="Print a script that completes commands, flags and statuses in a shell, and from the local cache "
        "ids of jobs and owners.",
        epilog=EXAMPLES,
    )
    parser.add_argument("shell", nargs="?", choices=SHELLS, help="which shell")
    parser.add_argument("--words", nargs="+", metavar="WORD", help=argparse.SUPPRESS)  # for the scripts


def run(args: argparse.Namespace, app: App) -> Result:
    """Print the script, or the words that it asks for."""
    if args.words is not None:
        kind, *prefix = args.words  # tcsh cannot tell what is typed already, and gives none
        return _words(kind, "".join(prefix), app)
    if args.shell is None:
        raise UsageError(f"Name a shell: {', '.join(SHELLS)}.")
    import shtab

    parser = app.build_parser()
    commands = next(one for one in parser._actions if isinstance(one, argparse._SubParsersAction))  # noqa: SLF001
    for command in commands.choices.values():
        for action in command._actions:  # noqa: SLF001 - argparse has no public way to walk a parser
            _describe(action)
    script = shtab.complete(parser, shell=args.shell, preamble=PREAMBLE[args.shell])
    if args.shell == "zsh":  # for arguments that repeat, shtab writes what completes the first one alone
        script = script.replace('"(*)::', '"*:').replace('"(*):', '"*:')
    return Result(RawText(script))


def _words(kind: str, prefix: str, app: App) -> Result:
    """Words of the cache. Whatever is wrong, somebody who presses Tab gets no words, and no message."""
    from mopsjobs.cache.queries import completions

    find = {"jobs": completions.job_id_words, "owners": completions.owner_words}.get(kind)
    if find is None:
        raise UsageError(f"There are no words of the kind '{kind}': use {', '.join(WORDS)}.")
    try:
        found = app.cache.read_cached(lambda cache: find(cache, prefix))
    except MopsJobsError:
        found = None
    return Result(Tsv([(word,) for word in found or ()]))


def _describe(action: argparse.Action) -> None:
    """Tell shtab what completes an argument."""
    if action.nargs == 0:
        return
    if "--status" in action.option_strings:
        action.choices = [*map(str, JobStatus), *GROUPS]
    kind = "owners" if "--owner" in action.option_strings else "jobs" if action.metavar == "JOB" else None
    if kind is not None:
        function = f"_mops_jobs_complete_{kind}"
        action.complete = {  # type: ignore[attr-defined]
            "bash": function,
            "zsh": function,
            "tcsh": f"`mops-jobs completion --words {kind}`",
            "fish": f"(command mops-jobs completion --words {kind} (commandline -ct) 2>/dev/null)",
        }
