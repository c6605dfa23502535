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

AS_BEFORE = "the job's own"
"""The default of each launch flag of `resume`, which repeats the launch of a job."""

_CLUSTER_HELP = {
    "image": ("IMAGE", "the image of the pods", "MOPS_JOBS_IMAGE"),
    "namespace": ("NAMESPACE", "the namespace of the job", "that of the kubeconfig"),
    "cpu": ("CORES", "cores per shard", "1"),
    "memory": ("SIZE", "memory per shard, like 4Gi", "that of the cluster"),
    "secret": ("NAME", "a secret whose keys become the environment of the pods", "none"),
    "service_account": ("NAME", "a service account, for workload identity", "that of the namespace"),
    "parallelism": ("N", "largest number of shards that run at the same time", "all"),
    "context": ("NAME", "a context of the kubeconfig", "the current one"),
}
"""The metavar, the help and the default of each of `CLUSTER_OPTIONS`."""


def add_runner_flags(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Declare the flags that say how a runner works through its tasks; `default` is the default of each."""
    parser.add_argument(
        "--workers",
        metavar="N",
        type=positive_number,
        help=f"worker processes per shard (default: {default or 'one per core'})",
    )
    environment = "that of the active environment, or of the workers"
    parser.add_argument(
        "--python",
        metavar="PATH",
        help=f"the model's interpreter; with dask, its path on the workers (default: {default or environment})",
    )
    parser.add_argument(
        "--task-timeout", metavar="DURATION", help=f"time limit of one task (default: {default or 'no limit'})"
    )


def add_scheduler_flag(parser: argparse._ActionsContainer, default: str | None = None) -> None:
    """Declare the flag that only the dask engine understands."""
    parser.add_argument(
        "--scheduler", metavar="URL", help=f"the Dask scheduler (default: {default or 'DASK_SCHEDULER_ADDRESS'})"
    )


def add_cluster_options(parser: argparse._ArgumentGroup, default: str | None = None) -> None:
    """Declare the flags that only the kubernetes engine understands; `default` is the default of each."""
    for option in CLUSTER_OPTIONS:
        metavar, text, usual = _CLUSTER_HELP[option]
        parser.add_argument(flag_of(option), metavar=metavar, help=f"{text} (default: {default or usual})")


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
            f"invalid --task-timeout '{text}': expected more than zero.", hint="For no limit, omit --task-timeout."
        )
    return seconds


def code_to_pack(args: argparse.Namespace, app: App) -> Code | None:
    """Return the current directory with `--auto`, without the registry and the cache; else None."""
    return Code(directory=Path.cwd(), leave_out=app.own_files()) if args.auto else None
