"""The arguments of a Python program as the requests that commands make of their flags."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, Any, TypedDict

from mopsjobs.app.run.freshness import FreshnessPolicy
from mopsjobs.app.run.job_arguments import CHOICES, FILTERS, NUMBER, REPEATED, SWITCH
from mopsjobs.errors import UsageError
from mopsjobs.utils.text import invalid_choice
from mopsjobs.utils.times import parse_duration

if TYPE_CHECKING:
    from mopsjobs.app.run.app import App
    from mopsjobs.cache.queries.tasks import TaskQuery
    from mopsjobs.submission.launching import LaunchOptions

Duration = str | float
"""A text like `2h`, or seconds."""

Size = str | int
"""A text like `2GiB`, or bytes."""

Choices = str | Iterable[str]
"""A text of one value, or of several separated by commas; or several texts."""

Labels = Mapping[str, object] | Iterable[str] | str
"""Labels to filter by: `{"exp": 7}`, or texts like `exp=7`, or `exp` for any value."""


class Freshness(TypedDict, total=False):
    """The required freshness of a view. One of them is enough."""

    refresh: bool
    """Read the registry first."""
    max_age: Duration
    """Read the whole registry first if it was last read longer ago than this."""
    offline: bool
    """Never use the network."""


class RunnerOptions(TypedDict, total=False):
    """The options of a runner: the flags of `submit` and `resume`, with their defaults."""

    workers: int
    """Worker processes per shard, at most."""
    python: str
    """The model's interpreter."""
    task_timeout: Duration
    """The time limit of one task."""
    task_memory: Size
    """The memory limit of one task, with all processes that it starts."""
    retries: int
    """How often a task is tried again after a cause in `retry_on`."""
    retry_on: Choices
    """Causes of another attempt: `oom`, `timeout`, `died`, and `error:TYPE` for exceptions of the model."""
    first: int
    """Tasks to run before the others; if none of them succeeds, the job ends."""
    max_failures: int | str
    """The limit of failed tasks: a number, or a share like `10%`."""
    notify: Sequence[str]
    """Rules of the user's configuration that tell of the job, by name."""
    scheduler: str
    """The address of a Dask scheduler. For dask only."""
    shards: int
    """Parts of the job, each a pod or a task of a job array. For kubernetes and slurm, as all that follow."""
    image: str
    """The image of the pods. For kubernetes."""
    namespace: str
    """The namespace of the Job."""
    cpu: str
    """The processors of each shard, like `4`."""
    memory: str
    """The memory of each shard, like `8Gi`."""
    gpus: int
    """The GPUs of each pod."""
    secret: str
    """The Secret with the credentials of the registry."""
    service_account: str
    """The service account of the pods."""
    parallelism: int
    """Shards that run at the same time."""
    backoff_limit: int
    """How often the pod of a shard is started again after it failed."""
    ttl: Duration
    """How long the cluster keeps the ended Job."""
    queue: str
    """The queue of Kueue that starts the Job."""
    priority_class: str
    """The priority class of the pods."""
    node_selector: Mapping[str, str] | str
    """The labels that nodes need: `{"pool": "gpu"}`, or a text like `pool=gpu`."""
    toleration: Choices
    """Taints of nodes that the pods tolerate, like `sku=gpu:NoSchedule`."""
    pod_patch: str | os.PathLike[str]
    """The file of a patch of the pods, which no record keeps."""
    context: str
    """The context of the kubeconfig."""
    partition: str
    """The partition. For slurm, as all that follow."""
    account: str
    """The account that is charged."""
    qos: str
    """The quality of service."""
    time: str
    """The time limit of a shard, like `2h`, or as sbatch has it."""
    gres: str
    """Generic resources of each shard, like `gpu:1`."""
    constraint: str
    """Features that the nodes need."""
    setup: Sequence[str]
    """Lines that the shell of each shard runs first, like `module load gcc`."""
    requeue: bool
    """Whether a shard goes on by itself after its time limit, a preemption or the loss of its node."""
    file_drop: bool
    """Whether shards report by files on the shared file system, since their nodes do not reach the registry."""
    signal: int
    """Seconds ahead of the time limit at which a shard stops."""
    sbatch_arg: Sequence[str]
    """Further long flags of sbatch, like `--nice=100`."""


def seconds_of(duration: Duration | None) -> float | None:
    """Return the seconds of a duration; None stays.

    Raises:
        UsageError: if it is malformed or negative.
    """
    if isinstance(duration, str):
        return parse_duration(duration)
    if duration is not None and not duration >= 0:
        raise UsageError(f"invalid duration {duration!r}: expected seconds, or a text like 2h.")
    return duration


def require(is_valid: bool, name: str, value: object, expected: str) -> None:  # noqa: FBT001 - the only question
    """Refuse an argument of another type, which a type checker would find.

    Raises:
        UsageError: if it is not valid.
    """
    if not is_valid:
        raise UsageError(f"invalid {name} {value!r}: expected {expected}.")


def check_limit(limit: Any) -> int:
    """Return the number of rows that a method returns, at most; 0 for all.

    Raises:
        UsageError: if it is not a count.
    """
    require(isinstance(limit, int) and limit >= 0, "limit", limit, "a whole number, or 0 for all")
    return int(limit)


def check_texts(**arguments: object) -> None:
    """Refuse arguments, by their names, that are neither a text nor None.

    Raises:
        UsageError: if there is one.
    """
    for name, value in arguments.items():
        require(value is None or isinstance(value, str), name, value, "a text")


def policy_of(freshness: Freshness, method: Callable[..., object]) -> FreshnessPolicy:
    """Return the policy for these arguments of a method.

    Raises:
        UsageError: if a name is unknown, or if two contradict each other.
    """
    check_names(freshness, Freshness, method)
    if sum(value not in (None, False) for value in freshness.values()) > 1:
        raise UsageError("refresh, max_age and offline contradict each other: use one of them.")
    return FreshnessPolicy(
        refresh=freshness.get("refresh", False),
        max_age=seconds_of(freshness.get("max_age")),
        offline=freshness.get("offline", False),
    )


def bytes_of(size: Size | None) -> int | None:
    """Return the bytes of a size; None stays.

    Raises:
        UsageError: if it is malformed.
    """
    from mopsjobs.utils.sizes import parse_size  # here: few calls have one

    number = parse_size(size) if isinstance(size, str) else size
    if size is not None and not (type(number) is int and number > 0):
        raise UsageError(f"invalid task_memory {size!r}: expected a text like 2GiB, or bytes.")
    return number


def launch_options(
    options: RunnerOptions, method: Callable[..., object], app: App, *, may_grow: bool = False
) -> LaunchOptions:
    """Return the options of a launch, which are arguments of a method.

    Args:
        options: the arguments.
        method: the method.
        app: the run, whose configuration has the rules of notifications.
        may_grow: whether limits may be factors, like `x2`, of those of an earlier launch.

    Raises:
        UsageError: if a name is unknown, if a limit is malformed, or if there is no usable rule of a name.
    """
    from mopsjobs.app.run.notify_rules import check_rules
    from mopsjobs.submission.launching import (
        LaunchOptions,
        cluster_options,
        find_factors,  # here: it imports the registry
    )

    check_names(options, RunnerOptions, method)
    factors = find_factors(options) if may_grow else {}
    values: dict[str, Any] = {name: one for name, one in options.items() if one is not None and name not in factors}
    if isinstance(values.get("ttl"), (int, float)):
        values["ttl"] = f"{values['ttl']}s"
    notify = options.get("notify")
    names = None if notify is None else (notify,) if isinstance(notify, str) else tuple(notify)
    check_rules(app.settings.rules, names or (), app.env)
    return LaunchOptions(
        workers=values.get("workers"),
        python=values.get("python"),
        task_timeout=seconds_of(values.get("task_timeout")),
        task_memory=bytes_of(values.get("task_memory")),
        retries=values.get("retries"),
        retry_on=choices_text(values.get("retry_on")),
        first=values.get("first"),
        max_failures=None if "max_failures" not in values else str(values["max_failures"]),
        shards=values.get("shards"),
        scheduler=values.get("scheduler"),
        cluster=cluster_options(values),
        factors=factors,
        notify=names,
    )


def labels_to_set(labels: Mapping[str, object] | None) -> dict[str, str]:
    """Return labels of a job, as texts.

    Raises:
        UsageError: if they are not given by their keys.
    """
    if labels is not None and not isinstance(labels, Mapping):
        raise UsageError(f"invalid labels {labels!r}: expected a dict, like {{'exp': 7}}.")
    return {key: str(value) for key, value in (labels or {}).items()}


def filter_values(arguments: Mapping[str, object]) -> dict[str, object]:
    """Return arguments that filter jobs as `job_filter` takes them.

    Raises:
        UsageError: if one has another type than its filter.
    """
    return {name: _filter_value(name, FILTERS[name].kind, value) for name, value in arguments.items()}


def _filter_value(name: str, kind: str, value: Any) -> object:
    if kind == REPEATED:
        return label_texts(value)
    if kind == CHOICES:
        return choices_text(value)
    if kind == SWITCH:
        require(isinstance(value, bool), name, value, "True or False")
    elif kind == NUMBER:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        require(value is None or is_number, name, value, "a number")
    else:
        check_texts(**{name: value})
    return value


def label_texts(labels: Labels | None) -> list[str]:
    """Return labels to filter by, as texts.

    Raises:
        UsageError: if they are neither labels nor texts.
    """
    if labels is None:
        return []
    if isinstance(labels, Mapping):
        return [f"{key}={value}" for key, value in labels.items()]
    return _texts(labels, "label")


def choices_text(choices: Choices | None) -> str | None:
    """Return choices as the text that a flag takes; None stays.

    Raises:
        UsageError: if they are neither a text nor a list of texts.
    """
    if choices is None or isinstance(choices, str):
        return choices
    return ",".join(_texts(choices, "choice"))


def _texts(given: Any, name: str) -> list[str]:
    texts = [given] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    require(all(isinstance(text, str) for text in texts), name, given, "a text, or a list of texts")
    return texts


def task_query(status: Choices | None, param: Choices, sort: str | None) -> TaskQuery:
    """Return the query for these arguments of `Job.tasks`.

    Raises:
        UsageError: if one is malformed.
    """
    from mopsjobs.cache.queries.task_filters import (
        Order,
        check_count,
        parse_condition,
        parse_order,
        parse_task_statuses,
    )
    from mopsjobs.cache.queries.tasks import TaskQuery

    conditions = tuple(parse_condition(text) for text in _texts(param, "param"))
    check_texts(sort=sort)
    check_count(conditions)
    order = Order() if sort is None else parse_order(sort)
    statuses = choices_text(status)
    return TaskQuery(None if statuses is None else parse_task_statuses(statuses), conditions, order)


def task_set(task: int | Iterable[int] | None) -> frozenset[int] | None:
    """Return the numbers of one task or of several; None stays.

    Raises:
        UsageError: if one is not a whole number. The digits of a text are not numbers of tasks.
    """
    if task is None:
        return None
    numbers = frozenset(task) if isinstance(task, Iterable) else frozenset([task])
    try:
        return frozenset(map(index, numbers))
    except TypeError:
        raise UsageError(f"invalid task {task!r}: expected the number of a task, or several.") from None


def check_names(arguments: Mapping[str, object], known: type, method: Callable[..., object]) -> None:
    """Refuse names of arguments that are unknown, which a type checker would find.

    Args:
        arguments: the arguments that no parameter of the method has taken.
        known: the type with the names that it also takes.
        method: the method. The error names its parameters too, among which the nearest name may be.

    Raises:
        UsageError: if there is one.
    """
    for name in arguments:
        if name not in known.__annotations__:
            from inspect import signature  # here: it takes milliseconds to import

            own = [one.name for one in signature(method).parameters.values() if one.kind != one.VAR_KEYWORD]
            raise UsageError(invalid_choice("argument", name, [*own[1:], *known.__annotations__]))
