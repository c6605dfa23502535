"""Read the options of a launch on Slurm, which are texts, and turn them into flags of sbatch."""

from __future__ import annotations

import contextlib
import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping

from mopsjobs.engines.base import Launch, shard_memory
from mopsjobs.engines.launch_option import LaunchOption, check_names, checked, whole_number
from mopsjobs.engines.model_env import is_secret
from mopsjobs.errors import OptionError, UsageError
from mopsjobs.utils.sizes import parse_size
from mopsjobs.utils.text import parse_whole_number
from mopsjobs.utils.times import parse_duration

_DOUBLED = ", or x2 for twice that of the job"

OPTIONS = (
    LaunchOption("partition", "text", "NAME", "the partition", "that of the cluster"),
    LaunchOption("account", "text", "NAME", "the account that is charged", "that of the user"),
    LaunchOption("qos", "text", "NAME", "the quality of service", "that of the account"),
    LaunchOption(
        "time", "text", "LIMIT", "time limit of a shard, as 2h or as sbatch has it", "that of the partition",
        growth=_DOUBLED,
    ),
    LaunchOption("cpu", "text", "N", "cores per shard", "--workers, else 1", flag_help=", as --cpu"),
    LaunchOption(
        "memory", "text", "SIZE", "memory per shard", "that of the cluster", flag_help=", as --memory", growth=_DOUBLED,
    ),
    LaunchOption("gres", "text", "LIST", "generic resources per shard, like gpu:1", "none"),
    LaunchOption("constraint", "text", "LIST", "features that the nodes need", "none"),
    LaunchOption("parallelism", "count", "N", "shards at the same time", "all", flag_help=", as --parallelism"),
    LaunchOption("signal", "text", "SECONDS", "seconds ahead of the time limit at which a shard stops", "60"),
    LaunchOption(
        "setup", "texts", "LINE", "a line that the shell of each shard runs first, like 'module load gcc'",
        "MOPS_JOBS_SETUP",
    ),
    LaunchOption(
        "requeue", "switch", "",
        "let a shard go on by itself after its time limit, a preemption or the loss of its node", "no",
    ),
    LaunchOption(
        "file_drop", "switch", "",
        "for nodes without access to the registry: shards report by files, and commands here deliver them", "no",
    ),
    LaunchOption(
        "sbatch_arg", "texts", "FLAG", "a further long flag of sbatch, like --nice=100", "none",
        flag_help=", written --sbatch-arg=--nice=100",
    ),
)  # fmt: skip
"""The options of this engine, `Launch.options`. `setup` is a line of the shell; `sbatch_arg` is words as in a shell."""

SETUP_VARIABLE = "MOPS_JOBS_SETUP"
"""The line that sets up the environment of each shard, if no option names one."""

MAX_SHARDS = 1_000_000
"""Of a job array. Slurm's own limit, MaxArraySize, is 1,001 by default."""

MAX_CPUS = 100_000

MAX_SIGNAL_SECONDS = 65_535
"""What sbatch accepts."""

DEFAULT_SIGNAL_SECONDS = 60
"""A runner has stored its last outputs and reported within 20 seconds."""

LOOK_SECONDS = 30
"""Slurm looks at time limits this often. A shard with less time before its signal would be told to stop at once."""

SHORT_LEAD = 5
"""Of a time limit that is too short for the default signal, the signal comes this part ahead."""

OWN_FLAGS = (
    "array", "batch", "chdir", "clusters", "cpus-per-task", "error", "help", "input", "job-name", "mem",
    "no-requeue", "nodes", "ntasks", "open-mode", "output", "parsable", "quiet", "requeue", "signal", "test-only",
    "time", "uid", "usage", "verbose", "version", "wait", "wrap",
)  # fmt: skip
"""Flags of sbatch that this engine sets, or that would change what it prints or does."""

START_FLAGS = ("begin", "deadline", "dependency", "hold")
"""Flags of sbatch that say when a job may begin. They are about one launch, so no later one repeats them."""

_FLAG = re.compile(r"--([a-z][a-z0-9-]+)(=.*)?", re.ASCII)

_ASSIGNED = re.compile(r"(?<![A-Za-z0-9_])([A-Za-z_][A-Za-z0-9_]*)\+?=(?!\"?(?:\$[A-Za-z_({]|`))", re.ASCII)
"""A variable that a line of the shell sets to more than what an expansion gives, such as `$(cat FILE)`."""

NAMED = ("partition", "account", "qos")

_NAMES = re.compile(r"[^\s,]+(,[^\s,]+)*")

_MEGABYTES = {"": 1, "m": 1, "g": 1024, "t": 1024**2}

_MEMORY = re.compile(r"(\d{1,12})([kmgt]?)b?", re.ASCII | re.IGNORECASE)

_TIME = re.compile(r"(?:(\d{1,5})-)?(\d{1,9})(?::(\d{1,2}))?(?::(\d{1,2}))?", re.ASCII)
"""A time limit of sbatch: `MIN`, `MIN:S`, `H:MIN:S`, `DAYS-H`, `DAYS-H:MIN` or `DAYS-H:MIN:S`."""


def join_setup(lines: Iterable[str]) -> str:
    """Return the lines of a setup as one line of the shell. They run one after the other, until one fails.

    Raises:
        OptionError: if a line is empty or has control characters.
    """
    lines = list(lines)
    for line in lines:
        if not line.strip() or not line.isprintable():
            raise OptionError(f"invalid setup {line!r}: expected a line of the shell, like 'module load gcc'.", "setup")
    return " && ".join(lines)


JOINS: Mapping[str, Callable[[Iterable[str]], str]] = {"setup": join_setup, "sbatch_arg": shlex.join}
"""Make one text of several values, for the options that may be given several times."""


def megabytes(text: str) -> int | None:
    """Return the MiB of a memory in the notation of sbatch (`4G`, `4000`) or of mops-jobs (`4GiB`); None if invalid."""
    words = _MEMORY.fullmatch(text)
    if words is None:
        size = parse_size(text)
        return None if size is None else math.ceil(size / 2**20)
    unit = words[2].lower()
    return math.ceil(int(words[1]) / 1024) if unit == "k" else int(words[1]) * _MEGABYTES[unit]


def minutes(text: str) -> int | None:
    """Return the minutes, rounded up, of a time in the notation of sbatch (`1-12:00:00`) or of mops-jobs (`36h`).

    Returns:
        None if the text is neither, or is zero.
    """
    if words := _TIME.fullmatch(text):
        days, first, second, third = (int(word or 0) for word in words.groups())
        if words[1] is None and words[4] is None:
            return math.ceil(first + second / 60) or None
        return math.ceil(1440 * days + 60 * first + second + third / 60) or None
    return math.ceil(_seconds(text) / 60) or None


def _seconds(text: str) -> float:
    """Return the seconds of a duration of mops-jobs; 0 if it is none."""
    with contextlib.suppress(UsageError):
        return parse_duration(text)
    return 0.0


def sbatch_flags(launch: Launch) -> list[str]:
    """Return the flags of sbatch for the options of a launch.

    Raises:
        UsageError: if an option is unknown or invalid.
    """
    options = launch.options
    check_names(options, OPTIONS, "slurm")
    if not 1 <= launch.shards <= MAX_SHARDS:
        raise OptionError(f"invalid shards '{launch.shards}': expected 1 to {MAX_SHARDS:,}.", "shards")
    _refuse_secrets(options)
    at_once = whole_number(options, "parallelism", 0, 1, MAX_SHARDS)
    flags = [f"--array=0-{launch.shards - 1}" + (f"%{at_once}" if at_once else ""), "--nodes=1", "--ntasks=1"]
    flags += [f"--cpus-per-task={cpus(launch)}", *_memory_flag(launch), *_time_flag(options)]
    texts = {name: checked(options, name, _NAMES.fullmatch, "a name of the cluster") for name in NAMED}
    texts |= {name: checked(options, name, bool, "a value as sbatch has it") for name in ("constraint", "gres")}
    flags += [f"--{name}={text}" for name, text in texts.items() if text is not None]
    flags.append("--requeue" if wants_requeue(options) else "--no-requeue")
    # The shell of the script gets it, not SIGTERM: a job that is cancelled gets that, and must not be requeued.
    flags.append(f"--signal=B:USR1@{signal_seconds(options, launch.grace)}")
    return [*flags, *_further_flags(options)]


def _refuse_secrets(options: Mapping[str, str]) -> None:
    """Refuse secrets in options, which the record, the script and command lines would show.

    Raises:
        OptionError: if an option gives a secret variable a value. The message is without the value.
    """
    for option in ("setup", "sbatch_arg"):
        for name in _ASSIGNED.findall(options.get(option, "")):
            if is_secret(name):
                raise OptionError(
                    f"invalid {option}: the record of the job would show the value of {name}.",
                    option,
                    hint=f"Read it from a file: --setup 'export {name}=$(cat FILE)'",
                )


def cpus(launch: Launch) -> int:
    """Return the processors of a shard: as asked for, else one per worker.

    Raises:
        OptionError: if the option is not a number.
    """
    return whole_number(launch.options, "cpu", launch.workers or 1, 1, MAX_CPUS)


def workers(launch: Launch) -> int:
    """Return the worker processes of a shard. A node may show a process more processors than Slurm has granted it."""
    return launch.workers or cpus(launch)


def wants_requeue(options: Mapping[str, str]) -> bool:
    """Return whether shards go on by themselves after their time limit, a preemption or the loss of their node.

    Raises:
        OptionError: if the option is neither yes nor no.
    """
    return _is_yes(options, "requeue")


def wants_file_drop(options: Mapping[str, str]) -> bool:
    """Return whether shards report by files, as their nodes do not reach the registry.

    Raises:
        OptionError: if the option is neither yes nor no.
    """
    return _is_yes(options, "file_drop")


def _is_yes(options: Mapping[str, str], name: str) -> bool:
    return checked(options, name, ("yes", "no").__contains__, "yes or no") == "yes"


def signal_seconds(options: Mapping[str, str], grace: float | None) -> int:
    """Return how many seconds ahead of the time limit a runner stops.

    Args:
        options: the options of the launch.
        grace: seconds that tasks with checkpoints may take to save; None: the default, which fits.

    Raises:
        OptionError: if the option is not a number of seconds, or a duration, or if it leaves a shard no time.
    """
    text, limit = options.get("signal"), 60 * (minutes(options.get("time", "")) or 0)
    if text is None:
        is_short = 0 < limit <= DEFAULT_SIGNAL_SECONDS + LOOK_SECONDS
        return limit // SHORT_LEAD if is_short else DEFAULT_SIGNAL_SECONDS + math.ceil(grace or 0)
    seconds = parse_whole_number(text, 1, MAX_SIGNAL_SECONDS) or math.ceil(_seconds(text))
    if not 1 <= seconds <= MAX_SIGNAL_SECONDS:
        expected = f"seconds from 1 to {MAX_SIGNAL_SECONDS:,}, or a duration like 2m"
        raise OptionError(f"invalid signal '{text}': expected {expected}.", "signal")
    if 0 < limit <= seconds + LOOK_SECONDS:
        expected = f"fewer than {limit - LOOK_SECONDS} s"
        raise OptionError(f"invalid signal '{text}' for a time limit of {limit} s: expected {expected}.", "signal")
    return seconds


def _memory_flag(launch: Launch) -> list[str]:
    expected = "a size like 4G, or 0 for all of a node"
    text = checked(launch.options, "memory", lambda text: megabytes(text) is not None, expected)
    size = shard_memory(launch, workers(launch)) if text is None else megabytes(text)
    return [] if size is None else [f"--mem={size}M" if size else "--mem=0"]


def _time_flag(options: Mapping[str, str]) -> list[str]:
    text = checked(options, "time", minutes, "a limit like 2h, 90 (minutes) or 1-12:00:00")
    return [] if text is None else [f"--time={minutes(text)}"]


def split_start_flags(sbatch_arg: str) -> tuple[str, list[str]]:
    """Return the further flags of an earlier launch: those that a later one repeats, and those of `START_FLAGS`."""
    try:
        words = shlex.split(sbatch_arg)
    except ValueError:
        return sbatch_arg, []  # which the launch refuses
    start = [
        word
        for word in words
        if word.isprintable() and (flag := _FLAG.fullmatch(word)) and _named_flag(flag[1], START_FLAGS)
    ]
    return shlex.join(word for word in words if word not in start), start


def _named_flag(beginning: str, flags: Iterable[str]) -> str | None:
    """Return the first of some flags that a word stands for: sbatch takes any beginning of a flag for the flag."""
    return next((flag for flag in flags if flag.startswith(beginning)), None)


def _further_flags(options: Mapping[str, str]) -> Iterable[str]:
    """Return the flags that the user hands to sbatch as they are.

    Raises:
        OptionError: if one is not a long flag in one word, or is one of `OWN_FLAGS`.
    """
    text = options.get("sbatch_arg", "")
    try:
        words = shlex.split(text)
    except ValueError:
        words = [text]
    for word in words:
        flag = _FLAG.fullmatch(word) if word.isprintable() else None
        if flag is None:
            raise OptionError(
                f"invalid sbatch_arg {word!r}: expected a long flag in one word, like --nice=100.", "sbatch_arg"
            )
        if (taken := _named_flag(flag[1], OWN_FLAGS)) is not None:
            raise OptionError(f"invalid sbatch_arg '{word}': mops-jobs sets --{taken} of sbatch itself.", "sbatch_arg")
    return words
