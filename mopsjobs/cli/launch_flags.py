"""The flags of the commands that start a runner: shared by submit, resume and run."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from mopsjobs.app.run.app import App
from mopsjobs.cli.flags import OTHER_FLAGS, flag_of
from mopsjobs.engines.launch_option import REPEATED, LaunchOption
from mopsjobs.submission.launch_options import ENGINE_OPTIONS, NOTIFY, RUNNER_OPTIONS, SHARDS
from mopsjobs.submission.submit import Code

AS_BEFORE = "the job's own"
"""The default of each launch flag of `resume`, which repeats the launch of a job."""


def add_launch_flags(parser: argparse.ArgumentParser, groups: str, default: str | None = None) -> None:
    """Declare the flags of all options of a launch.

    Args:
        parser: the parser of the command.
        groups: the beginning of the titles of the groups of flags that only some engines understand.
        default: the default of each, if the command repeats the launch of a job. Limits may then be factors.
    """
    add_options(parser, [NOTIFY, *RUNNER_OPTIONS], default)
    add_options(parser.add_argument_group(f"{groups} kubernetes or slurm"), [SHARDS], default)
    for engine, options in ENGINE_OPTIONS.items():
        add_options(parser.add_argument_group(f"{groups} {engine}"), options, default, has_own_names=engine == "slurm")


def add_options(
    parser: argparse._ActionsContainer,
    options: Iterable[LaunchOption],
    default: str | None = None,
    *,
    has_own_names: bool = False,
) -> None:
    """Declare the flags of options of a launch.

    Args:
        parser: takes the flags.
        options: the options.
        default: the default of each, if the command repeats the launch of a job.
        has_own_names: whether other names stand in place of those that options of another engine have.
    """
    for option in options:
        flags, other = [flag_of(option.name)], OTHER_FLAGS.get(option.name)
        if other is not None and has_own_names:
            flags = [other]
        elif other is not None and option in RUNNER_OPTIONS and default is not None:
            flags.append(other)
        growth = option.growth if default is not None else ""
        usual = default if default is not None and option.is_repeatable else option.default
        again = "; repeat for more" if option.kind in REPEATED else ""
        text = f"{option.help}{option.flag_help}{growth}{again} (default: {usual})"
        if option.kind == "switch":
            parser.add_argument(*flags, dest=option.name, action=argparse.BooleanOptionalAction, help=text)
            continue
        parser.add_argument(
            *flags,
            dest=option.name,
            metavar=f"{option.metavar}|xN" if growth else option.metavar,
            action="append" if option.kind in REPEATED else "store",
            help=text,
        )


def code_to_pack(args: argparse.Namespace, app: App) -> Code | None:
    """Return the current directory with `--auto`, without the registry and the cache; else None."""
    return Code(directory=Path.cwd(), leave_out=app.own_files()) if args.auto else None
