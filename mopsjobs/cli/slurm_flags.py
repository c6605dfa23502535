"""The flags that only the slurm engine understands, and Slurm's names for those that it shares with kubernetes."""

from __future__ import annotations

import argparse

from mopsjobs.cli.flags import OTHER_FLAGS, flag_of

_HELP = {
    "partition": ("NAME", "the partition", "that of the cluster"),
    "account": ("NAME", "the account that is charged", "that of the user"),
    "qos": ("NAME", "the quality of service", "that of the account"),
    "time": ("LIMIT", "time limit of a shard, as 2h or as sbatch has it", "that of the partition"),
    "cpu": ("N", "cores per shard, as --cpu", "--workers, else 1"),
    "memory": ("SIZE", "memory per shard, as --memory", "that of the cluster"),
    "gres": ("LIST", "generic resources per shard, like gpu:1", "none"),
    "constraint": ("LIST", "features that the nodes need", "none"),
    "parallelism": ("N", "shards at the same time, as --parallelism", "all"),
    "signal": ("SECONDS", "seconds ahead of the time limit at which a shard stops", "60"),
}
"""The metavar, the help and the default of each option that takes one text."""


def add_slurm_options(parser: argparse._ArgumentGroup, default: str | None = None) -> None:
    """Declare the flags; `default` is the default of each."""
    for option, (metavar, text, usual) in _HELP.items():
        grows = default is not None and option in ("time", "memory")
        parser.add_argument(
            OTHER_FLAGS.get(option, flag_of(option)),
            dest=option,
            metavar=f"{metavar}|xN" if grows else metavar,
            help=f"{text}{', or x2 for twice that of the job' if grows else ''} (default: {default or usual})",
        )
    parser.add_argument(
        "--setup",
        metavar="LINE",
        action="append",
        help="a line that the shell of each shard runs first, like 'module load gcc'; repeat for more (default:"
        f" {default or 'MOPS_JOBS_SETUP'})",
    )
    parser.add_argument(
        "--requeue",
        action=argparse.BooleanOptionalAction,
        help="let a shard go on by itself after its time limit, a preemption or the loss of its node (default:"
        f" {default or 'no'})",
    )
    parser.add_argument(
        "--file-drop",
        action=argparse.BooleanOptionalAction,
        help="for nodes without access to the registry: shards report by files, and commands here deliver them"
        f" (default: {default or 'no'})",
    )
    parser.add_argument(
        "--sbatch-arg",
        metavar="FLAG",
        action="append",
        help="a further long flag of sbatch, as --sbatch-arg=--nice=100; repeat for more (default:"
        f" {default or 'none'})",
    )
