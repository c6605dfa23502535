"""The options of a launch: the tables of what a user can ask for, and the values that it was given.

Flags, the arguments of Python programs and their documents follow from the tables.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Mapping
from numbers import Real
from operator import index
from typing import Any

from mopsjobs.engines.kubernetes.options import OPTIONS as KUBERNETES_OPTIONS
from mopsjobs.engines.launch_option import LaunchOption, option_text
from mopsjobs.engines.slurm.options import JOINS
from mopsjobs.engines.slurm.options import OPTIONS as SLURM_OPTIONS
from mopsjobs.errors import OptionError
from mopsjobs.ledger.retry_policy import parse_retries, retry_policy
from mopsjobs.registry.failure_limit import parse_failure_limit
from mopsjobs.utils.sizes import format_size, parse_factor, parse_size
from mopsjobs.utils.text import MAX_NUMBER, parse_positive_number, read_whole_number
from mopsjobs.utils.times import parse_duration

MAX_RECORDED_NUMBER = 10**9 - 1

MIN_TASK_MEMORY = 16 * 2**20
"""Bytes. An interpreter alone has about as much."""


def parse_first_count(text: str) -> int:
    """Read how many tasks run before the others, 0 for none.

    Raises:
        UsageError: if it is not a whole number from 0 to 100,000.
    """
    return read_whole_number(text, 0, MAX_NUMBER, "number", f"a whole number from 0 to {MAX_NUMBER:,}, 0 for none")


_DOUBLED = "; x2 for twice that of the job"

RUNNER_OPTIONS = (
    LaunchOption(
        "workers", "count", "N", "worker processes per shard, at most", "one per core", read=parse_positive_number,
    ),
    LaunchOption(
        "python", "file", "PATH", "the model's interpreter; with dask, its path on the workers",
        "that of the active environment, or of the workers",
    ),
    LaunchOption("task_timeout", "duration", "DURATION", "time limit of one task", "no limit", growth=_DOUBLED),
    LaunchOption(
        "task_memory", "size", "SIZE", "memory limit of one task and all processes that it starts, like 2GiB",
        "no limit", growth=_DOUBLED,
    ),
    LaunchOption("retries", "count", "N", "how often to try a task again after the causes of --retry-on", "1"),
    LaunchOption(
        "retry_on", "choices", "CAUSES",
        "causes of another attempt, separated by commas: oom (with twice the memory), timeout, died, and error:TYPE for"
        " the model's exceptions (after a pause)", "died",
    ),
    LaunchOption(
        "first", "count", "N", "tasks to run before the others, 0 for none; if none of them succeeds, the job ends",
        "1 on a cluster with more than 100 tasks, else 0", read=parse_first_count,
    ),
    LaunchOption(
        "max_failures", "text", "N|P%",
        "end the job when more tasks than this have failed: a number, or a share of the tasks", "no limit",
    ),
)  # fmt: skip
"""The options that every engine has."""

NOTIFY = LaunchOption(
    "notify", "texts", "NAME", "tell of this job by the rule [notify.NAME] of your configuration", "none"
)

SHARDS = LaunchOption(
    "shards", "count", "N", "number of parts, each a pod or a task of Slurm", "1", read=parse_positive_number
)

ENGINE_OPTIONS: Mapping[str, tuple[LaunchOption, ...]] = {
    "kubernetes": KUBERNETES_OPTIONS,
    "slurm": SLURM_OPTIONS,
    "dask": (LaunchOption("scheduler", "text", "URL", "the Dask scheduler", "DASK_SCHEDULER_ADDRESS"),),
}
"""The options that only one engine has, or some."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LaunchOptions:
    """The options of a runner. None: as the record of an earlier launch says, else the default of the engine."""

    workers: int | None = None
    """Worker processes per shard."""
    python: str | None = None
    """The model's interpreter: a path, or a name to look up on the PATH. With dask, a path on the workers."""
    task_timeout: float | None = None
    """Seconds that one task may take."""
    task_memory: int | None = None
    """Bytes of memory that one task may have."""
    retries: int | None = None
    """Attempts at a task after the first one, at most."""
    retry_on: str | None = None
    """The causes of further attempts; see `ledger.retry_policy.parse_causes`."""
    first: int | None = None
    """Tasks that run before the others; 0 for none."""
    max_failures: str | None = None
    """The limit of failed tasks: a number, or a share like `10%`."""
    shards: int | None = None
    """Parts of the job, each a pod of its own, or a task of a job array. For kubernetes and slurm only."""
    scheduler: str | None = None
    """The address of a scheduler. For dask only."""
    notify: tuple[str, ...] | None = None
    """Rules of notifications for the job, which stay on this machine."""
    cluster: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Some of the options of one engine. The patch of the pods is the path of its file."""
    factors: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Of a resumed job: factors by which limits of the earlier launch grow; see `find_factors`."""

    def __post_init__(self) -> None:
        """Check the values, before anything is looked up.

        Raises:
            OptionError: if no runner can work with one of them.
        """
        _check_limits(self)
        retry_policy(self.retries, self.retry_on)


def all_options() -> list[LaunchOption]:
    """Return all options of a launch. Two engines may have options of one name."""
    return [*RUNNER_OPTIONS, NOTIFY, SHARDS, *itertools.chain.from_iterable(ENGINE_OPTIONS.values())]


def read_options(values: Mapping[str, Any], *, may_grow: bool = False) -> LaunchOptions:
    """Return the options of a launch for the values of flags or of arguments.

    Args:
        values: the values, of their types or as texts, by the names of options. None stands for no value.
        may_grow: whether limits may be factors, like `x2`, of those of an earlier launch.

    Raises:
        OptionError: if a value is invalid.
    """
    factors = find_factors(values) if may_grow else {}
    given = {name: value for name, value in values.items() if value is not None and name not in factors}
    counts = {name: index(given[name]) for name in ("workers", "first", "shards") if name in given}
    retries, notify = given.get("retries"), given.get("notify")
    return LaunchOptions(
        **counts,
        python=None if "python" not in given else os.fspath(given["python"]),
        task_timeout=parse_task_timeout(given.get("task_timeout")),
        task_memory=parse_task_memory(given.get("task_memory"), may_grow=may_grow),
        retries=parse_retries(retries) if isinstance(retries, str) else None if retries is None else index(retries),
        retry_on=None if "retry_on" not in given else option_text(given["retry_on"]),
        max_failures=None if "max_failures" not in given else parse_failure_limit(str(given["max_failures"])).text,
        scheduler=option_text(given.get("scheduler")),
        cluster=cluster_options(given),
        factors=factors,
        notify=None if notify is None else (notify,) if isinstance(notify, str) else tuple(notify),
    )


def cluster_options(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the options of an engine among flags or arguments, as texts.

    Raises:
        OptionError: if a line of the setup is not valid.
    """
    texts = {}
    for option in (*ENGINE_OPTIONS["kubernetes"], *ENGINE_OPTIONS["slurm"]):
        value = values.get(option.name)
        if option.kind == "duration" and isinstance(value, Real):
            value = f"{value}s"
        texts[option.name] = option_text(value, JOINS.get(option.name, ",".join))
    return {name: text for name, text in texts.items() if text is not None}


def find_factors(options: Mapping[str, object]) -> dict[str, float]:
    """Return the factors, by which limits of an earlier launch grow, among the options that take one."""
    growing = [option.name for option in all_options() if option.growth]
    texts = {name: text for name in growing if isinstance(text := options.get(name), str)}
    return {name: factor for name, text in texts.items() if (factor := parse_factor(text)) is not None}


def parse_task_timeout(value: str | float | None) -> float | None:
    """Return the seconds of a time limit of a task.

    Raises:
        UsageError: if it is not a duration.
        OptionError: if it is zero, or negative.
    """
    seconds = parse_duration(value) if isinstance(value, str) else value
    if seconds is not None and seconds <= 0:
        hint = "For no limit, leave it out."
        raise OptionError(f"invalid task_timeout '{value}': expected more than zero.", "task_timeout", hint=hint)
    return seconds


def parse_task_memory(value: str | int | None, *, may_grow: bool = False) -> int | None:
    """Return the bytes of a memory limit of a task.

    Args:
        value: the size.
        may_grow: whether a factor could stand in its place, which an error then says.

    Raises:
        OptionError: if it is a text, and not a size.
    """
    size = parse_size(value) if isinstance(value, str) else value
    if value is not None and size is None:
        expected = "a size like 2GiB, or a factor like x2" if may_grow else "a size like 512MiB or 2GiB"
        raise OptionError(f"invalid task_memory '{value}': expected {expected}.", "task_memory")
    return size


def _check_limits(options: LaunchOptions) -> None:
    """Refuse numbers and limits that no runner can work with.

    Raises:
        OptionError: if there is one.
    """
    for name, count in (("workers", options.workers), ("shards", options.shards)):
        if count is not None and count < 1:
            raise OptionError(f"invalid {name} '{count}': expected 1 or more.", name)
    if options.task_memory is not None and options.task_memory < MIN_TASK_MEMORY:
        text = format_size(options.task_memory)
        raise OptionError(
            f"invalid task_memory '{text}': expected at least {format_size(MIN_TASK_MEMORY)}.", "task_memory"
        )
    if options.task_timeout is not None and options.task_timeout <= 0:
        raise OptionError(f"invalid task_timeout '{options.task_timeout:g}': expected more than zero.", "task_timeout")
    if options.first is not None and not 0 <= options.first <= MAX_RECORDED_NUMBER:
        raise OptionError(f"invalid first '{options.first}': expected a number of tasks, 0 for none.", "first")
    if options.max_failures is not None:
        parse_failure_limit(options.max_failures)
