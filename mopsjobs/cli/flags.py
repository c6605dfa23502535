"""The flags that several commands share, and the types of their values."""

from __future__ import annotations

import argparse

from mopsjobs.app.run.freshness import FreshnessPolicy
from mopsjobs.app.run.job_arguments import (
    CHOICES,
    COMMANDS,
    DEFAULT_LIMIT,
    REPEATED,
    SWITCH,
    filters_on,
    job_filter,
    parse_limit,
    parse_tail,
)
from mopsjobs.cache.queries import filters
from mopsjobs.errors import LATEST, OptionError, UsageError, read_job_name
from mopsjobs.registry.status import SWEEP
from mopsjobs.utils.text import parse_positive_number
from mopsjobs.utils.times import parse_duration

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from typing import TypeVar

    T = TypeVar("T")


MIN_INTERVAL = 0.1
"""Seconds. A registry may bill each request."""

JOB_HELP = "id of the job (literally after ./), a prefix that fits one job or one family, or @latest"

FULL_ID_HELP = "full id of the job (literally after ./)"

OTHER_FLAGS = {"cpu": "--cpus", "memory": "--mem", "parallelism": "--array-limit", "task_timeout": "--timeout"}
"""Second names of flags, by the fields that they set: Slurm's names, and a shorter one of `resume`."""


FORMS = {
    "json": "print one JSON document",
    "jsonl": "print one JSON object per line",
    "tsv": "print tab-separated values without a header",
}


def add_job_names(
    parser: argparse.ArgumentParser, name: str = "job", nargs: str | None = None, help_text: str = JOB_HELP
) -> None:
    """Declare an argument for a job that is only read, or for several: see `add_full_ids`."""
    parser.add_argument(name, metavar="JOB", nargs=nargs, type=read_job_name, help=help_text)


def add_full_ids(
    parser: argparse.ArgumentParser, name: str = "job", nargs: str | None = None, help_text: str = FULL_ID_HELP
) -> None:
    """Declare an argument for the full id of a job that may change, or of several.

    Args:
        parser: the parser of the command.
        name: the name of the argument.
        nargs: how many ids, as argparse has it; one by default.
        help_text: the help of the argument.
    """
    parser.add_argument(name, metavar="JOB", nargs=nargs, type=full_id_type(parser), help=help_text)


def full_id_type(parser: argparse.ArgumentParser) -> Callable[[str], str]:
    """Return the type of an argument for a full id, which refuses `@latest`."""
    command = parser.prog.rpartition(" ")[2]

    def full_id(text: str) -> str:
        name = read_job_name(text)
        if name is LATEST:
            raise argparse.ArgumentError(None, f"{command} needs the full id; @latest is not accepted.")
        return str(name)

    return full_id


def flag_of(field: str) -> str:
    """Return the flag that sets a field of a request."""
    return "--" + field.replace("_", "-")


def with_flags(error: OptionError, words: Sequence[str]) -> UsageError:
    """Return the error with flags in place of the fields, as the words of the command line name them."""
    message = error.message
    for field in error.fields:
        names = (flag_of(field), OTHER_FLAGS.get(field))
        typed = [name for word in words if (name := word.partition("=")[0]) in names]
        message = message.replace(field, typed[-1] if typed else flag_of(field), 1)
    return UsageError(message, hint=error.hint)


def argument_type(read: Callable[[str], T]) -> Callable[[str], T]:
    """Return a function that reads text as the type of an argument: argparse then names the flag in an error."""

    def read_argument(text: str) -> T:
        try:
            return read(text)
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read_argument


positive_number = argument_type(parse_positive_number)
row_limit = argument_type(parse_limit)
tail_count = argument_type(parse_tail)


def add_filter_flags(parser: argparse.ArgumentParser, *, with_since: bool = True) -> None:
    """Declare the flags that select jobs.

    Args:
        parser: the parser of the command.
        with_since: whether --since is one of them. Otherwise, the command declares it.
    """
    which = parser.add_argument_group("filters")
    for name, argument in filters_on(COMMANDS).items():
        flags = (*(() if argument.short is None else (argument.short,)), flag_of(name))
        text = f"select {argument.help}"
        if name == "since" and not with_since:
            continue
        if argument.kind == SWITCH:
            which.add_argument(*flags, action="store_true", help=text)
        elif argument.kind == REPEATED:
            again = f"{text}; repeat for more"
            which.add_argument(*flags, metavar=argument.metavar, action="append", default=[], help=again)
        else:
            metavar = f"{argument.metavar}[,{argument.metavar}]" if argument.kind == CHOICES else argument.metavar
            which.add_argument(*flags, metavar=metavar, type=argument_type(argument.read), help=text)


def has_filters(args: argparse.Namespace, *, with_since: bool = True) -> bool:
    """Return whether one of those flags is set; `with_since` as in `add_filter_flags`."""
    declared = filters_on(COMMANDS).items()
    return any(one.is_set(getattr(args, name)) for name, one in declared if with_since or name != "since")


def check_jobs_or_filters(args: argparse.Namespace, *, with_since: bool = True) -> None:
    """Refuse jobs together with flags that select jobs.

    Raises:
        UsageError: if there are both.
    """
    if args.job and (has_filters(args, with_since=with_since) or args.limit is not None):
        raise UsageError("A JOB contradicts filters and --limit, which select jobs.")


def filter_of(args: argparse.Namespace, now: datetime) -> filters.Filter:
    """Return the filter that those flags describe.

    Raises:
        UsageError: if a value is malformed, or two flags contradict each other.
    """
    return job_filter(now, **{name: getattr(args, name) for name in filters_on(COMMANDS)})


def add_order_flags(group: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:
    """Declare the flags for the order of jobs, and for their number."""
    text = f"sort by {', '.join(filters.SORTS)}; - in front for descending (default: {filters.DEFAULT_SORT})"
    group.add_argument("--sort", metavar="COLUMN[,COLUMN]", default=filters.DEFAULT_SORT, help=text)
    add_limit_flag(group, "show the first N jobs and all active ones, 0 for all", "all with --jsonl, --tsv and -q")


def add_limit_flag(group: argparse._ActionsContainer, help_text: str, otherwise: str | None = None) -> None:
    """Declare the flag for the number of rows; `otherwise` says when the default is another one."""
    usual = f"{DEFAULT_LIMIT}; {otherwise}" if otherwise else DEFAULT_LIMIT
    group.add_argument("-n", "--limit", metavar="N", type=row_limit, help=f"{help_text} (default: {usual})")


def limit_of(args: argparse.Namespace, default: int = DEFAULT_LIMIT) -> int:
    """Return how many rows to print, 0 for all. Forms that cannot tell the total are cut only by `--limit`."""
    if args.limit is not None:
        return int(args.limit)
    return default if args.form in (None, "json") else 0


def add_form_flags(
    group: argparse._ActionsContainer, others: Mapping[str, str], forms: Sequence[str] = tuple(FORMS)
) -> None:
    """Declare the flags for the form of a list, as `args.form`. They exclude each other.

    Args:
        group: takes the flags.
        others: forms besides, and their help.
        forms: those of `FORMS` that there are.
    """
    form = group.add_mutually_exclusive_group()
    for name, help_text in ({name: FORMS[name] for name in forms} | dict(others)).items():
        flags = ("-q", "--ids") if name == "ids" else (f"--{name}",)
        form.add_argument(*flags, action="store_const", dest="form", const=name, help=help_text)


def add_freshness_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags that say how fresh a view has to be. They exclude each other."""
    group = parser.add_argument_group("freshness").add_mutually_exclusive_group()
    refresh = "read the whole registry first; if that fails, exit with 5"
    group.add_argument("--refresh", action="store_true", help=refresh)
    max_age = "as --refresh, if the whole registry was last read longer ago than this, like 5m"
    group.add_argument("--max-age", metavar="DURATION", help=max_age)
    group.add_argument("--offline", action="store_true", help="never use the network")


def freshness_policy(args: argparse.Namespace) -> FreshnessPolicy:
    """Return what those flags say.

    Raises:
        UsageError: if `--max-age` is not a duration.
    """
    max_age = None if args.max_age is None else parse_duration(args.max_age)
    return FreshnessPolicy(refresh=args.refresh, max_age=max_age, offline=args.offline)


def parse_interval(text: str) -> float:
    """Return the seconds between two polls that `--interval` asks for.

    Raises:
        UsageError: if the text is not a duration, or is too short.
    """
    seconds = parse_duration(text)
    if seconds < MIN_INTERVAL:
        raise UsageError(f"invalid --interval '{text}': expected {MIN_INTERVAL:g}s or more.")
    return seconds


def parse_label_changes(texts: list[str]) -> tuple[dict[str, str], list[str]]:
    """Read labels to set, from `key=value` texts, and the keys of labels to remove, from `key-` texts.

    Raises:
        UsageError: if a text is neither, or if a key has two values, or one that is to be removed too.
    """
    labels = parse_labels([text for text in texts if "=" in text])
    removals = [text for text in texts if "=" not in text]
    for text in removals:
        label = text.removesuffix("-")
        if label in ("", text):
            raise UsageError(f"invalid label '{text}': expected key=value, or key- to remove it.")
        if label in labels:
            other = f"{label}={labels[label]}"
            raise UsageError(f"invalid label '{text}': expected one change per key; '{other}' is given too.")
    return labels, [text.removesuffix("-") for text in removals]


def parse_labels(texts: list[str]) -> dict[str, str]:
    """Read the labels to set, from `key=value` texts.

    Raises:
        UsageError: if a text has no `=`, or no key, or if a key has two values.
    """
    labels: dict[str, str] = {}
    for text in texts:
        label, equals, value = text.partition("=")
        if not equals or not label:
            raise UsageError(f"invalid label '{text}': expected key=value.")
        if labels.setdefault(label, value) != value:
            other = f"{label}={labels[label]}"
            raise UsageError(f"invalid label '{text}': expected one value per key; '{other}' is given too.")
    return labels


def add_label_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags for the labels of a new job."""
    parser.add_argument(
        "--label", metavar="KEY=VALUE", action="append", default=[], help="add a label; repeat for more"
    )
    parser.add_argument(
        "--sweep",
        metavar="NAME",
        help=f"put the job into a sweep, whose jobs are one row of list and page: the label {SWEEP}=NAME",
    )


def labels_of(args: argparse.Namespace) -> dict[str, str]:
    """Return the labels that those flags give.

    Raises:
        UsageError: if a label is malformed or has two values, or if the sweep has no name.
    """
    if args.sweep == "":
        raise UsageError("invalid sweep '': expected a name.")
    return parse_labels([*args.label, *([] if args.sweep is None else [f"{SWEEP}={args.sweep}"])])


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Declare the flag for choices of records that the user trusts."""
    text = "use this value, though only a record names it, like context:prod; repeat for more (default: ask)"
    parser.add_argument("--trust", metavar="KIND:VALUE", action="append", default=[], help=text)
