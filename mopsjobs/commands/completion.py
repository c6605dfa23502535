"""`completion`: a script that makes a shell complete the command line."""

from __future__ import annotations

import argparse

from mopsjobs.commands.arguments import add_command
from mopsjobs.context import Context
from mopsjobs.output import Result, Verbatim

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mopsjobs.commands import Commands

SHELLS = ("bash", "zsh", "tcsh")

EXAMPLES = """examples:
  mops-jobs completion bash > ~/.local/share/bash-completion/completions/mops-jobs
  mops-jobs completion zsh > ~/.zfunc/_mops-jobs
"""


def add_parser(name: str, commands: Commands, parents: list[argparse.ArgumentParser]) -> None:
    """Declare `completion`."""
    parser = add_command(
        commands,
        name,
        parents,
        help="print a completion script for a shell",
        description="Print a script that completes commands and flags in a shell.",
        epilog=EXAMPLES,
    )
    parser.add_argument("shell", choices=SHELLS, help="which shell")


def run(args: argparse.Namespace, context: Context) -> Result:
    """Print the script."""
    import shtab

    return Result(Verbatim(shtab.complete(context.build_parser(), shell=args.shell)))
