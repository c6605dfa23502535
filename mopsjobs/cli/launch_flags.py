"""The flags of the commands that start a runner: shared by submit, resume and run."""

from __future__ import annotations

import argparse
from pathlib import Path

from mopsjobs.app.app import App
from mopsjobs.cli.flags import flag_of, positive_number
from mopsjobs.errors import UsageError
from mopsjobs.submission.launching import CLUSTER_OPTIONS, LaunchOptions
from mopsjobs.submission.submit import Code
from mopsjobs.utils.times import parse_duration

SCHEDULER_HELP = "the Dask scheduler (default: DASK_SCHEDULER_ADDRESS)"

_CLUSTER_HELP = {
    "image": ("IMAGE", "the image of the pods (default: MOPS_JOBS_IMAGE)"),
    "namespace": ("NAMESPACE", "the namespace of the job (default: that of the kubeconfig)"),
    "cpu": ("CORES", "cores per shard (default: 1)"),
    "memory": ("SIZE", "memory per shard, like 4Gi (default: that of the cluster)"),
    "secret": ("NAME", "a secret whose keys become the environment of the pods"),
    "service_account": ("NAME", "a service account, for workload identity"),
    "parallelism": ("N", "shards that run at the same time (default: all)"),
    "context": ("NAME", "a context of the kubeconfig (default: the current one)"),
}


def add_runner_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags that say how a runner works through its tasks."""
    parser.add_argument(
        "--workers", metavar="N", type=positive_number, help="worker processes per shard (default: one per core)"
    )
    parser.add_argument(
        "--python",
        metavar="PATH",
        help="the model's interpreter; with dask, its path on the workers (default: that of the active environment, or"
        " of the workers)",
    )
    parser.add_argument("--task-timeout", metavar="DURATION", help="time limit of one task (default: no limit)")


def add_cluster_options(parser: argparse._ArgumentGroup) -> None:
    """Declare the flags that only the kubernetes engine understands."""
    for option in CLUSTER_OPTIONS:
        metavar, text = _CLUSTER_HELP[option]
        parser.add_argument(flag_of(option), metavar=metavar, help=text)


def launch_options(args: argparse.Namespace) -> LaunchOptions:
    """Return what the flags of `submit` and `resume` say of the launch.

    Raises:
        UsageError: if the time limit is not valid.
    """
    return LaunchOptions(
        workers=args.workers,
        python=args.python,
        task_timeout=parse_task_timeout(args.task_timeout),
        shards=args.shards,
        scheduler=args.scheduler,
        cluster={name: getattr(args, name) for name in CLUSTER_OPTIONS if getattr(args, name) is not None},
    )


def parse_task_timeout(text: str | None) -> float | None:
    """Return the seconds of a `--task-timeout`.

    Raises:
        UsageError: if the text is not a duration, or is zero.
    """
    seconds = None if text is None else parse_duration(text)
    if seconds == 0:
        raise UsageError(
            f"invalid --task-timeout {text}: expected more than zero.", hint="For no limit, omit --task-timeout."
        )
    return seconds


def code_to_pack(args: argparse.Namespace, app: App) -> Code | None:
    """Return the current directory with `--auto`, without the registry and the cache; else None."""
    return Code(directory=Path.cwd(), leave_out=app.own_files()) if args.auto else None
