"""The flags of the commands that start a runner: shared by submit, resume and run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mopsjobs.app.run.app import App
from mopsjobs.app.run.notify_rules import check_rules
from mopsjobs.cli.flags import OTHER_FLAGS, first_count, flag_of, positive_number
from mopsjobs.engines.base import PATCH
from mopsjobs.engines.kubernetes.options import OPTIONS
from mopsjobs.errors import OptionError, UsageError
from mopsjobs.ledger.retry_policy import parse_retries
from mopsjobs.registry.failure_limit import parse_failure_limit
from mopsjobs.submission.launching import LaunchOptions, cluster_options, find_factors
from mopsjobs.submission.submit import Code
from mopsjobs.utils.sizes import parse_size
from mopsjobs.utils.times import parse_duration

AS_BEFORE = "the job's own"
"""The default of each launch flag of `resume`, which repeats the launch of a job."""

_CLUSTER_HELP = {
    "image": ("IMAGE", "the image of the pods", "MOPS_JOBS_IMAGE"),
    "namespace": ("NAMESPACE", "the namespace of the job", "that of the kubeconfig"),
    "cpu": ("CORES", "cores per shard", "1"),
    "memory": ("SIZE", "memory per shard, like 4Gi", "that of the cluster"),
    "gpus": ("N", "NVIDIA GPUs per shard; others by --pod-patch", "none"),
    "secret": ("NAME", "a secret whose keys become the environment of the pods", "none"),
    "service_account": ("NAME", "a service account, for workload identity", "that of the namespace"),
    "parallelism": ("N", "largest number of shards that run at the same time", "all"),
    "backoff_limit": ("N", "how often to start the pod of a shard again after it failed", "3"),
    "ttl": ("DURATION", "how long the cluster keeps the ended job", "24h"),
    "queue": ("NAME", "the queue of Kueue that starts the job when there is room", "start at once"),
    "priority_class": ("NAME", "the priority class of the pods", "that of the cluster"),
    "node_selector": ("KEY=VALUE", "a label that nodes need; repeat for more", "any node"),
    "toleration": (
        "KEY[=VALUE][:EFFECT]",
        "a taint of nodes that the pods tolerate, like sku=gpu:NoSchedule; repeat for more",
        "none",
    ),
    PATCH: ("FILE", "a strategic merge patch of the pods, YAML or JSON", "none"),
    "context": ("NAME", "a context of the kubeconfig", "the current one"),
}
"""The metavar, the help and the default of each of the options of the engine."""

_REPEATED = ("node_selector", "toleration")
"""The options whose flags may be given several times."""


def add_runner_flags(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Declare the flags that say how a runner works through its tasks.

    Args:
        parser: the parser of the command.
        default: the default of each, if the command repeats the launch of a job. Limits may then be factors.
    """
    or_factor = "" if default is None else "|xN"
    times = "" if default is None else "; x2 for twice that of the job"
    parser.add_argument(
        "--workers",
        metavar="N",
        type=positive_number,
        help=f"worker processes per shard, at most (default: {default or 'one per core'})",
    )
    environment = "that of the active environment, or of the workers"
    parser.add_argument(
        "--python",
        metavar="PATH",
        help=f"the model's interpreter; with dask, its path on the workers (default: {default or environment})",
    )
    parser.add_argument(
        "--task-timeout",
        *(() if default is None else (OTHER_FLAGS["task_timeout"],)),
        metavar=f"DURATION{or_factor}",
        help=f"time limit of one task{times} (default: {default or 'no limit'})",
    )
    parser.add_argument(
        "--task-memory",
        metavar=f"SIZE{or_factor}",
        help=f"memory limit of one task and all processes that it starts, like 2GiB{times}"
        f" (default: {default or 'no limit'})",
    )
    _add_failure_flags(parser, default)


def _add_failure_flags(parser: argparse.ArgumentParser, default: str | None) -> None:
    """Declare the flags that say what follows when tasks fail."""
    parser.add_argument(
        "--retries",
        metavar="N",
        help=f"how often to try a task again after the causes of --retry-on (default: {default or '1'})",
    )
    parser.add_argument(
        "--retry-on",
        metavar="CAUSES",
        help="causes of another attempt, separated by commas: oom, with twice the memory; timeout; died; error:TYPE, of"
        f" the model's exception of that type, after a pause (default: {default or 'died'})",
    )
    parser.add_argument(
        "--first",
        metavar="N",
        type=first_count,
        help="tasks to run before the others; if none of them succeeds, the job ends; 0 for none (default:"
        f" {default or '1 on a cluster with more than 100 tasks, else 0'})",
    )
    parser.add_argument(
        "--max-failures",
        metavar="N|P%",
        help="end the job when more tasks than this have failed: a number, or a share of the tasks (default:"
        f" {default or 'no limit'})",
    )


def add_notify_flag(parser: argparse.ArgumentParser, default: str = "none") -> None:
    """Declare the flag that names rules of notifications; `default` is its default."""
    parser.add_argument(
        "--notify",
        metavar="NAME",
        action="append",
        default=[],
        help=f"tell of this job by the rule [notify.NAME] of your configuration; repeat for more (default: {default})",
    )


def add_scheduler_flag(parser: argparse._ActionsContainer, default: str | None = None) -> None:
    """Declare the flag that only the dask engine understands."""
    parser.add_argument(
        "--scheduler", metavar="URL", help=f"the Dask scheduler (default: {default or 'DASK_SCHEDULER_ADDRESS'})"
    )


def add_shards_flag(parser: argparse._ArgumentGroup, default: str = "1") -> None:
    """Declare the flag that both engines of clusters understand; `default` is its default."""
    parser.add_argument(
        "--shards",
        metavar="N",
        type=positive_number,
        help=f"number of parts, each a pod or a task of Slurm (default: {default})",
    )


def add_cluster_options(parser: argparse._ArgumentGroup, default: str | None = None) -> None:
    """Declare the flags that only the kubernetes engine understands; `default` is the default of each."""
    for option in OPTIONS:
        metavar, text, usual = _CLUSTER_HELP[option]
        if option == "memory" and default is not None:
            metavar, text = (
                f"{metavar}|xN",
                f"{text}, or x2 for twice that of the job; elsewhere than on a cluster, per task",
            )
        parser.add_argument(
            flag_of(option),
            metavar=metavar,
            action="append" if option in _REPEATED else "store",
            help=f"{text} (default: {usual if option == PATCH else default or usual})",  # a record has no patch
        )


def launch_options(args: argparse.Namespace, app: App, *, may_grow: bool = False) -> LaunchOptions:
    """Return what the flags of `submit` and `resume` say of the launch.

    Args:
        args: the flags.
        app: the run, whose configuration has the rules of notifications.
        may_grow: whether limits may be factors of those of an earlier launch.

    Raises:
        UsageError: if a limit is not valid, or if there is no usable rule of a name.
    """
    check_rules(app.settings.rules, args.notify, app.env)
    factors = find_factors(vars(args)) if may_grow else {}
    values: dict[str, Any] = {name: None if name in factors else value for name, value in vars(args).items()}
    return LaunchOptions(
        workers=args.workers,
        python=args.python,
        task_timeout=parse_task_timeout(values["task_timeout"]),
        task_memory=parse_task_memory(values["task_memory"], may_grow=may_grow),
        retries=None if args.retries is None else parse_retries(args.retries),
        retry_on=args.retry_on,
        first=args.first,
        max_failures=parse_max_failures(args.max_failures),
        shards=args.shards,
        scheduler=args.scheduler,
        cluster=cluster_options(values),
        factors=factors,
        notify=tuple(args.notify) or None,
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


def parse_task_memory(text: str | None, *, may_grow: bool = False) -> int | None:
    """Return the bytes of a `--task-memory`.

    Args:
        text: the size.
        may_grow: whether a factor could stand in its place, which an error then says.

    Raises:
        OptionError: if the text is not a size.
    """
    size = None if text is None else parse_size(text)
    if text is not None and size is None:
        expected = "a size like 2GiB, or a factor like x2" if may_grow else "a size like 512MiB or 2GiB"
        raise OptionError(f"invalid task_memory '{text}': expected {expected}.", "task_memory")
    return size


def parse_max_failures(text: str | None) -> str | None:
    """Return the limit of a `--max-failures`, as it was given.

    Raises:
        OptionError: if it is not valid.
    """
    return None if text is None else parse_failure_limit(text).text


def code_to_pack(args: argparse.Namespace, app: App) -> Code | None:
    """Return the current directory with `--auto`, without the registry and the cache; else None."""
    return Code(directory=Path.cwd(), leave_out=app.own_files()) if args.auto else None
