"""The options of a launch: the tables of what a user can ask for, and the values that it was given.

Flags, the arguments of Python programs and their documents follow from the tables.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from operator import index
from typing import Any

from mopsjobs.engines.base import SECONDS, TaskOptions
from mopsjobs.engines.kubernetes.options import OPTIONS as KUBERNETES_OPTIONS
from mopsjobs.engines.launch_option import LaunchOption, option_text
from mopsjobs.engines.slurm.options import JOINS
from mopsjobs.engines.slurm.options import OPTIONS as SLURM_OPTIONS
from mopsjobs.errors import OptionError, UsageError, shorten
from mopsjobs.ledger.retry_policy import MAX_RETRIES, parse_causes
from mopsjobs.registry.cpu_budget import parse_cpu_hours
from mopsjobs.registry.failure_limit import parse_failure_limit
from mopsjobs.utils.sizes import format_size, parse_factor, parse_size
from mopsjobs.utils.text import parse_whole_number
from mopsjobs.utils.times import parse_duration

MAX_NUMBER = 10**9 - 1
"""Workers, shards or first tasks, at most."""

MIN_TASK_MEMORY = 16 * 2**20
"""Bytes. An interpreter alone has about as much."""


_DOUBLED = "; x2 for twice that of the job"

RUNNER_OPTIONS = (
    LaunchOption("workers", "count", "N", "worker processes per shard, at most", "one per core"),
    LaunchOption(
        "python", "file", "PATH", "the model's interpreter; with dask, its path on the workers",
        "that of the active environment, or of the workers",
    ),
    LaunchOption(
        "task_timeout", "duration", "DURATION", "time limit of one task, with what it worked before a checkpoint",
        "no limit", growth=_DOUBLED,
    ),
    LaunchOption("attempt_timeout", "duration", "DURATION", "time limit of one attempt at a task", "no limit"),
    LaunchOption("checkpoint_every", "duration", "DURATION", "time between two checkpoints of a task", "10m"),
    LaunchOption(
        "grace", "duration", "DURATION", "time that tasks with checkpoints may take to save when the job is stopped",
        "20s",
    ),
    LaunchOption(
        "allow_old_checkpoints", "switch", "", "go on from checkpoints of other code or packages",
        "such tasks begin again", is_repeatable=False,
    ),
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
        "1 on a cluster with more than 100 tasks, else 0",
    ),
    LaunchOption(
        "max_failures", "text", "N|P%",
        "end the job when more tasks than this have failed: a number, or a share of the tasks", "no limit",
    ),
    LaunchOption(
        "max_cpu_hours", "text", "N",
        "begin no more tasks when those of the job have used N hours of processor time (with file drops, each shard has"
        " an equal part)", "no limit",
    ),
)  # fmt: skip
"""The options that every engine has."""

RECORDED = (
    "workers", *SECONDS, "task_memory", "retries", "retry_on", "first", "max_failures", "max_cpu_hours", "shards",
)  # fmt: skip
"""The options that the record of a launch keeps for the next one, besides the interpreter."""

NOTIFY = LaunchOption(
    "notify", "texts", "NAME", "tell of this job by the rule [notify.NAME] of your configuration", "none"
)

SHARDS = LaunchOption("shards", "count", "N", "number of parts, each a pod or a task of Slurm", "1")

ENGINE_OPTIONS: Mapping[str, tuple[LaunchOption, ...]] = {
    "kubernetes": KUBERNETES_OPTIONS,
    "slurm": SLURM_OPTIONS,
    "dask": (LaunchOption("scheduler", "text", "URL", "the Dask scheduler", "DASK_SCHEDULER_ADDRESS"),),
}
"""The options that only one engine has, or some."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LaunchOptions(TaskOptions):
    """The options of a launch. None: as the record of an earlier launch says, else the default of the engine.

    Values may be given as texts; see `READERS`.
    """

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
        """Read the values, which may be texts of flags or of a record, before anything is looked up.

        Raises:
            UsageError: if no runner can work with one of them. An `OptionError` names it.
        """
        for name, read in READERS.items():
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, read(value))


def _count(name: str, least: int, most: int, expected: str) -> Callable[[Any], int]:
    """Return the reader of an option that is a whole number."""

    def read(value: Any) -> int:
        number = parse_whole_number(value, least, most) if isinstance(value, str) else index(value)
        if number is None or not least <= number <= most:
            raise OptionError(f"invalid {name} '{shorten(str(value), 100)}': expected {expected}.", name)
        return number

    return read


def _seconds(name: str, hint: str | None = None) -> Callable[[Any], float]:
    """Return the reader of an option that is a duration above zero."""

    def read(value: Any) -> float:
        seconds: float = parse_duration(value) if isinstance(value, str) else value
        if seconds <= 0:
            shown = value if isinstance(value, str) else f"{value:g}"
            raise OptionError(f"invalid {name} '{shown}': expected more than zero.", name, hint=hint)
        return seconds

    return read


def _read_memory(value: str | int) -> int:
    size = parse_size(value) if isinstance(value, str) else value
    if size is None:
        expected = "a size like 2GiB, on resume also a factor like x2"
        raise OptionError(f"invalid task_memory '{value}': expected {expected}.", "task_memory")
    if size < MIN_TASK_MEMORY:
        problem = f"invalid task_memory '{format_size(size)}': expected at least {format_size(MIN_TASK_MEMORY)}."
        raise OptionError(problem, "task_memory")
    return size


def _read_causes(value: str | Iterable[str]) -> str:
    text = value if isinstance(value, str) else ",".join(value)
    parse_causes(text)
    return text


NO_LIMIT = "For no limit, leave it out."

READERS: Mapping[str, Callable[[Any], Any]] = {
    "workers": _count("workers", 1, MAX_NUMBER, "1 or more"),
    "python": os.fspath,
    "task_timeout": _seconds("task_timeout", NO_LIMIT),
    "attempt_timeout": _seconds("attempt_timeout", NO_LIMIT),
    "checkpoint_every": _seconds("checkpoint_every"),
    "grace": _seconds("grace"),
    "allow_old_checkpoints": bool,
    "task_memory": _read_memory,
    "retries": _count("retries", 0, MAX_RETRIES, f"a whole number from 0 to {MAX_RETRIES}"),
    "retry_on": _read_causes,
    "first": _count("first", 0, MAX_NUMBER, "a number of tasks, 0 for none"),
    "max_failures": lambda value: parse_failure_limit(str(value)).text,
    "max_cpu_hours": parse_cpu_hours,
    "shards": _count("shards", 1, MAX_NUMBER, "1 or more"),
    "scheduler": str,
    "notify": lambda value: (value,) if isinstance(value, str) else tuple(value),
}
"""What makes the values of `LaunchOptions` of texts, and of the types that a Python program may give."""


def with_recorded(options: LaunchOptions, recorded: Mapping[str, str]) -> LaunchOptions:
    """Return options in which the record of an earlier launch stands for what is None, but for the interpreter.

    What no runner can work with counts as not recorded.
    """
    values = {}
    for name in RECORDED:
        if getattr(options, name) is None and recorded.get(name):
            with contextlib.suppress(UsageError):
                values[name] = READERS[name](recorded[name] + ("s" if name in SECONDS else ""))
    return dataclasses.replace(options, **values)


def all_options() -> list[LaunchOption]:
    """Return all options of a launch. Two engines may have options of one name."""
    return [*RUNNER_OPTIONS, NOTIFY, SHARDS, *itertools.chain.from_iterable(ENGINE_OPTIONS.values())]


def read_options(values: Mapping[str, Any], *, may_grow: bool = False) -> LaunchOptions:
    """Return the options of a launch for the values of flags or of arguments.

    Args:
        values: the values, of their types or as texts, by the names of options. None stands for no value.
        may_grow: whether limits may be factors, like `x2`, of those of an earlier launch.

    Raises:
        UsageError: if a value is invalid.
    """
    factors = find_factors(values) if may_grow else {}
    given = {name: value for name, value in values.items() if name not in factors}
    own = {name: given.get(name) for name in READERS}
    return LaunchOptions(**own, cluster=cluster_options(given), factors=factors)


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
