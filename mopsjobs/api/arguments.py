"""The arguments of a Python program as the requests that commands make of their flags."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import index
from typing import TYPE_CHECKING, Any, TypedDict

from mopsjobs.app.run.freshness import FreshnessPolicy
from mopsjobs.app.run.job_arguments import CHOICES, FILTERS, NUMBER, REPEATED, SWITCH
from mopsjobs.errors import UsageError
from mopsjobs.registry.status import SWEEP
from mopsjobs.utils.text import invalid_choice
from mopsjobs.utils.times import parse_duration

if TYPE_CHECKING:
    from mopsjobs.app.run.app import App
    from mopsjobs.cache.queries.tasks import TaskQuery
    from mopsjobs.submission.launch_options import LaunchOptions

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
    python: str | os.PathLike[str]
    task_timeout: Duration
    attempt_timeout: Duration
    checkpoint_every: Duration
    grace: Duration
    allow_old_checkpoints: bool
    task_memory: Size
    retries: int
    retry_on: Choices
    first: int
    max_failures: int | str
    max_cpu_hours: float | str
    notify: Sequence[str]
    scheduler: str
    shards: int
    image: str
    namespace: str
    cpu: str
    memory: str
    gpus: int
    secret: str
    service_account: str
    parallelism: int
    backoff_limit: int
    ttl: Duration
    queue: str
    priority_class: str
    node_selector: Mapping[str, str] | str
    toleration: Choices
    pod_patch: str | os.PathLike[str]
    context: str
    partition: str
    account: str
    qos: str
    time: str
    gres: str
    constraint: str
    setup: Sequence[str]
    requeue: bool
    file_drop: bool
    signal: int
    sbatch_arg: Sequence[str]


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
        UsageError: if a name is unknown, if a value is malformed, or if there is no usable rule of a name.
    """
    from mopsjobs.submission.launch_options import all_options  # here: it imports the registry

    check_names(options, RunnerOptions, method)
    for option in all_options():
        option.check(options.get(option.name))
    return app.launch_options(options, may_grow=may_grow)


def labels_to_set(labels: Mapping[str, object] | None, sweep: str | None = None) -> dict[str, str]:
    """Return labels of a job, as texts; with that of its sweep, if it has one.

    Raises:
        UsageError: if they are not given by their keys, or if the sweep has no name.
    """
    check_texts(sweep=sweep)
    require(sweep != "", "sweep", sweep, "a name")
    if labels is not None and not isinstance(labels, Mapping):
        raise UsageError(f"invalid labels {labels!r}: expected a dict, like {{'exp': 7}}.")
    return {**{key: str(value) for key, value in (labels or {}).items()}, **({SWEEP: sweep} if sweep else {})}


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
    from mopsjobs.cache.queries.tasks import read_task_query

    conditions = _texts(param, "param")
    check_texts(sort=sort)
    return read_task_query(choices_text(status), conditions, sort)


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
